package bridge

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"forebay/broker/packet"
)

const (
	// maxInbound is the largest packet taken from an upstream, and told to it in 5.0.
	maxInbound = 16 << 20
	// inboundWindow is how many QoS 1 and 2 messages the upstream may have unacknowledged: told in 5.0, and
	// enforced by not reading on.
	inboundWindow = 100
	// oldWindow is our receive maximum towards a peer of 3.1.1, which cannot say.
	oldWindow = 100
	// smallBuffer is what reading begins with; a buffer that has grown beyond largeBuffer is not kept.
	smallBuffer = 16 << 10
	largeBuffer = 256 << 10
)

// patience bounds the waiting for an upstream. Two of them are configured, the others have shown to be right.
type patience struct {
	connect time.Duration // Config.ConnectTimeout
	write   time.Duration // for the system to take one batch of output
	ack     time.Duration // Config.AckTimeout
	ping    time.Duration // for PINGRESP
	stable  time.Duration // a connection that lasted this long resets the backoff
	status  time.Duration // between two looks at the numbers, for status and log
	goodbye time.Duration // for the last acknowledgements and DISCONNECT when stopping
	watch   time.Duration // between two looks at the credentials' files
	retry   time.Duration // after a second connection that came to nothing
}

func defaultPatience() patience {
	return patience{write: 20 * time.Second, ping: 10 * time.Second, stable: 30 * time.Second, status: 10 * time.Second,
		goodbye: time.Second, watch: 5 * time.Second, retry: time.Minute}
}

// peer is what CONNACK says about the upstream, or its version implies.
type peer struct {
	version        packet.Version
	sessionPresent bool
	window         int // messages in flight
	maxPacket      int // bytes
	aliases        int // topic aliases that it takes
	maxQoS         byte
	retain         bool
	wildcards      bool // in subscriptions
	shared         bool // subscriptions
	keepAlive      time.Duration
}

// refusedError is a CONNACK that says no.
type refusedError struct {
	reason    packet.Reason
	text      string // the upstream's own words, printable; may be empty
	reference string // the server reference, printable; may be empty
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("bridge: connect: refused: %s (0x%02x)", e.reason, byte(e.reason))
}

// fileError is a file named in the configuration that cannot be used.
type fileError struct {
	key string // of the configuration
	err error
}

func (e *fileError) Error() string { return "bridge: " + e.key + ": " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

// errSilentClose: the upstream closed the connection instead of answering CONNECT.
var errSilentClose = errors.New("bridge: connect: closed without CONNACK")

// conn is one connection to the upstream after its CONNACK. Its owner calls everything; a reader and a writer
// goroutine serve it until close.
type conn struct {
	// Constant after handshake.
	net     net.Conn
	address address
	peer    peer

	// Constant after introduce.
	at       int       // of Config.Addresses
	identity *identity // that was shown
	dialect  dialect

	// in lends the owner bytes that were read; it handles the whole packets at their front and answers in taken
	// with the number of bytes that those were. The reader does not touch the bytes in between.
	in    chan []byte
	taken chan int
	// out gives a batch to the writer, which returns the buffer in written.
	out     chan []byte
	written chan []byte
	// broken gets the first error of the reader and that of the writer.
	broken chan error

	stop chan struct{} // closed by close
	wg   sync.WaitGroup
}

// connect opens a connection and introduces us with hello. The error is for explain.
func (b *Bridge) connect(ctx context.Context, p approach, hello *packet.Connect) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, b.patience.connect)
	defer cancel()
	nc, err := b.open(ctx, p.address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	c, err := b.handshake(ctx, nc, p, hello)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		nc.Close() // the connection failed before it was used: nothing to learn from its end
		if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return c, nil
}

// open connects to a, straight or through the proxy.
func (b *Bridge) open(ctx context.Context, a address) (net.Conn, error) {
	if b.proxy != nil {
		return b.proxy.dial(ctx, b.dial, a.dial)
	}
	return b.dial(ctx, "tcp", a.dial)
}

// handshake secures nc, opens the WebSocket if the address asks for one, sends hello, and waits for CONNACK.
func (b *Bridge) handshake(ctx context.Context, nc net.Conn, p approach, hello *packet.Connect) (*conn, error) {
	a := p.address
	if a.tls {
		cfg := p.identity.tls.Clone()
		cfg.ServerName = cmp.Or(b.cfg.TLS.ServerName, a.host)
		secure := tls.Client(nc, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		nc = secure
	}
	if a.web {
		web, err := openWeb(ctx, nc, a)
		if err != nil {
			return nil, err
		}
		nc = web
	}
	if _, err := nc.Write(hello.Append(nil)); err != nil {
		return nil, err
	}
	buf, n := make([]byte, smallBuffer), 0
	for {
		f, size, err := packet.Next(buf[:n], packet.V5, uint32(len(buf)))
		if err != nil {
			return nil, cmp.Or(httpAnswer(buf[:n]), err)
		}
		if size > 0 {
			said, err := acquaint(f, hello)
			if err != nil {
				return nil, err
			}
			return newConn(nc, a, said, buf[size:n], b.patience.write), nil
		}
		got, err := nc.Read(buf[n:])
		n += got
		if got == 0 && err != nil {
			if n == 0 && errors.Is(err, io.EOF) {
				return nil, errSilentClose
			}
			return nil, err
		}
	}
}

// acquaint reads the answer to hello.
func acquaint(f packet.Frame, hello *packet.Connect) (peer, error) {
	if f.Type() != packet.CONNACK {
		return peer{}, fmt.Errorf("bridge: connect: the answer is %s, not CONNACK: is this an MQTT broker?", f.Type())
	}
	// A server that does not know 5.0 answers in the form of 3.1.1, which is two bytes [3.1.1: MQTT-3.1.2-2].
	v := hello.Version
	if len(f.Body) == 2 {
		v = packet.V311
	}
	var ack packet.Connack
	if err := ack.Decode(f, v); err != nil {
		return peer{}, err
	}
	if ack.Reason != packet.ReasonSuccess {
		return peer{}, &refusedError{ack.Reason, printable(ack.Properties.ReasonString), printable(ack.Properties.ServerReference)}
	}
	if v != hello.Version {
		return peer{}, &refusedError{reason: packet.ReasonUnsupportedProtocolVersion}
	}
	p := peer{version: v, sessionPresent: ack.SessionPresent, window: oldWindow, maxPacket: packet.MaxPacket,
		maxQoS: 2, retain: true, wildcards: true, shared: true, keepAlive: time.Duration(hello.KeepAlive) * time.Second}
	if v != packet.V5 {
		return p, nil
	}
	q := &ack.Properties
	p.window = maxWindow
	if q.ReceiveMaximum != 0 {
		p.window = min(p.window, int(q.ReceiveMaximum)) // [MQTT-3.3.4-7]
	}
	if q.MaximumPacketSize != 0 {
		p.maxPacket = int(min(q.MaximumPacketSize, packet.MaxPacket))
	}
	if q.HasMaximumQoS {
		p.maxQoS = q.MaximumQoS
	}
	p.retain, p.wildcards, p.shared = !q.NoRetain, !q.NoWildcardSubscription, !q.NoSharedSubscription
	p.aliases = int(q.TopicAliasMaximum)
	if q.HasServerKeepAlive && q.ServerKeepAlive != 0 {
		// [MQTT-3.1.2-21]; a server that turns keep alive off still gets our probes, which are for us.
		p.keepAlive = time.Duration(q.ServerKeepAlive) * time.Second
	}
	return p, nil
}

// printable makes a peer's words safe for a log line.
func printable(b []byte) string {
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, string(b[:min(len(b), 200)]))
	return strings.ToValidUTF8(strings.TrimSpace(s), "?")
}

// newConn starts the goroutines. first is what was read behind CONNACK.
func newConn(nc net.Conn, a address, p peer, first []byte, writeTimeout time.Duration) *conn {
	c := &conn{net: nc, address: a, peer: p, in: make(chan []byte), taken: make(chan int), out: make(chan []byte),
		written: make(chan []byte, 1), broken: make(chan error, 2), stop: make(chan struct{})}
	buf := make([]byte, max(smallBuffer, len(first)))
	n := copy(buf, first)
	c.wg.Go(func() { c.broken <- c.readLoop(buf, n) })
	c.wg.Go(func() {
		if err := c.writeLoop(writeTimeout); err != nil {
			c.broken <- err
		}
	})
	return c
}

// close ends the connection and waits for its goroutines. The owner must not use it afterwards.
func (c *conn) close() {
	close(c.stop)
	c.net.Close() // whether the end of a connection goes well changes nothing
	c.wg.Wait()
}

var errStopped = errors.New("bridge: connection closed by us")

// readLoop lends what it reads to the owner. buf[:n] has been read already. It returns why it ended.
func (c *conn) readLoop(buf []byte, n int) error {
	for {
		if n > 0 {
			select {
			case c.in <- buf[:n]:
			case <-c.stop:
				return errStopped
			}
			select {
			case used := <-c.taken:
				n = copy(buf, buf[used:n])
			case <-c.stop:
				return errStopped
			}
		}
		switch {
		case n == len(buf):
			// The owner has found the packet's length to be acceptable, or it would have ended the connection.
			grown := make([]byte, min(2*len(buf), maxInbound+smallBuffer))
			copy(grown, buf)
			buf = grown
		case n == 0 && len(buf) > largeBuffer:
			buf = make([]byte, smallBuffer)
		}
		got, err := c.net.Read(buf[n:])
		n += got
		if err != nil && got == 0 {
			return err
		}
	}
}

// writeLoop writes the batches it is given, one system call each.
func (c *conn) writeLoop(timeout time.Duration) error {
	for {
		var batch []byte
		select {
		case batch = <-c.out:
		case <-c.stop:
			return nil
		}
		if err := c.net.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		if _, err := c.net.Write(batch); err != nil {
			return err
		}
		select {
		case c.written <- batch[:0]:
		case <-c.stop:
			return nil
		}
	}
}
