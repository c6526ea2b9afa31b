package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"forebay/broker/core"
)

// feed is a connection over TLS, WebSocket or both: a goroutine reads it and hands batches to the loop, another, while
// there is something, writes what the loop gives it. Both directions are bounded: the reader waits until the loop has
// taken its batch, the loop stops giving when the writer has a full buffer. An idle connection has one goroutine, with
// little on its stack, and a small buffer.
type feed struct {
	stream // owned by the loop

	// Constant after newFeed.
	raw     net.Conn
	tls     *secure         // nil: plain. What the listener had then
	config  *ListenerConfig // of its listener
	timeout time.Duration   // of the handshakes together
	inbox   *inbox
	resume  chan struct{} // of capacity 1: the loop has taken the batch
	ended   chan struct{} // closed by the loop when the feed is gone

	// Constant once the handshake is over.
	wire             wire
	info             core.ConnInfo
	peerCertificates []*x509.Certificate
	client           netip.AddrPort // from the header of the PROXY protocol; else not valid

	// Owned by the loop.
	joined bool // the handshake is over
	owed   bool // the reader waits, because its connection is paused

	mu      sync.Mutex
	out     []byte // guarded by mu: to be written
	full    bool   // guarded by mu: the loop has more, and is to be told when out was taken
	finish  bool   // guarded by mu: end our side when out is written
	writing bool   // guarded by mu: there is a writer
}

// wire is what carries the bytes of a feed. Read is called by its reader, the others by its writer.
type wire interface {
	io.ReadWriter
	// endWriting tells the peer that nothing more comes. It need not arrive: the loop closes the connection soon after.
	endWriting()
}

// feedNote is what a feed's goroutines tell the loop.
type feedNote struct {
	feed  *feed
	kind  feedKind
	batch []byte // feedRead: the reader's until it is resumed
	err   error  // feedEnd: why
}

type feedKind byte

const (
	feedOpen feedKind = iota // the handshake is over
	feedRead                 // a batch has come
	feedRoom                 // the writer has taken all it had
	feedEnd                  // the connection is broken, or was closed by the peer
)

const (
	// feedBatch is the size of a reader's buffer while much comes, in bytes. A TLS record is twice as long at most.
	feedBatch = 8 << 10
	// feedSip is its size while little comes, which is to say that many times in a row less than it.
	feedSip  = 512
	manySips = 16
	// feedBuffer is what the writer is given ahead, in bytes.
	feedBuffer = 64 << 10
)

// newFeed makes a feed of an accepted socket, which is its own from now on, also when it fails.
func newFeed(fd int, li *listener, peer netip.AddrPort, in *inbox) (*feed, error) {
	info := li.info(peer)
	file := os.NewFile(uintptr(fd), info.Remote)
	raw, err := net.FileConn(file)
	if err := errors.Join(err, file.Close()); err != nil { // FileConn has duplicated it
		return nil, err
	}
	return &feed{
		raw: raw, tls: li.tls, config: &li.config, info: info, inbox: in,
		resume: make(chan struct{}, 1), ended: make(chan struct{}),
	}, nil
}

// begin does the handshake and lets a goroutine of running read. It is not its own: the handshake has made its stack
// large.
func (f *feed) begin(running *sync.WaitGroup) {
	if err := f.open(); err != nil {
		f.inbox.postFeed(feedNote{feed: f, kind: feedEnd, err: err})
		return
	}
	f.inbox.postFeed(feedNote{feed: f, kind: feedOpen})
	running.Go(func() {
		err := f.readAll()
		f.inbox.postFeed(feedNote{feed: f, kind: feedEnd, err: err})
	})
}

// open does the handshakes. One deadline for all of it: a peer that sends a byte now and then gets no more time.
func (f *feed) open() error {
	if err := f.raw.SetDeadline(time.Now().Add(f.timeout)); err != nil {
		return err
	}
	if f.config.ProxyProtocol {
		client, err := readProxy(f.raw)
		if err != nil {
			return err
		}
		if client.IsValid() {
			f.client, f.info.Remote = client, client.String()
		}
	}
	carried := f.raw
	if f.tls != nil {
		encrypted := tls.Server(f.raw, f.tls.config)
		if err := encrypted.Handshake(); err != nil {
			return err
		}
		f.wire, carried = &tlsWire{encrypted, f.raw}, encrypted
		if f.peerCertificates = encrypted.ConnectionState().PeerCertificates; len(f.peerCertificates) > 0 {
			f.info.User = f.tls.from.userOf(f.peerCertificates[0])
		}
	}
	if f.config.Transport == TransportWebSocket {
		web, err := openWeb(carried, f.config)
		if err != nil {
			return err
		}
		f.wire = web
	}
	return f.raw.SetDeadline(time.Time{})
}

// tlsWire carries MQTT in TLS records.
type tlsWire struct {
	*tls.Conn
	raw net.Conn
}

func (w *tlsWire) endWriting() {
	// Neither need arrive, see wire.
	_ = w.CloseWrite()
	if half, ok := w.raw.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

func (f *feed) readAll() error {
	buf := make([]byte, feedSip)
	for sips := 0; ; sips++ {
		n, err := f.wire.Read(buf)
		if n > 0 {
			f.inbox.postFeed(feedNote{feed: f, kind: feedRead, batch: buf[:n]})
			select {
			case <-f.resume:
			case <-f.ended:
				return net.ErrClosed
			}
		}
		if err != nil {
			return err
		}
		if n >= feedSip {
			sips = 0
			if len(buf) == feedSip {
				buf = make([]byte, feedBatch)
			}
		} else if sips == manySips && len(buf) == feedBatch {
			buf = make([]byte, feedSip)
		}
	}
}

// writeAll writes what the loop has given until there is nothing more, or the connection is broken, which its reader
// sees as well.
func (f *feed) writeAll() {
	for {
		f.mu.Lock()
		b, full, finish := f.out, f.full, f.finish
		f.out, f.full = nil, false // an idle connection keeps nothing
		f.writing = len(b) > 0
		f.mu.Unlock()
		if full {
			f.inbox.postFeed(feedNote{feed: f, kind: feedRoom})
		}
		if len(b) > 0 {
			if _, err := f.wire.Write(b); err != nil {
				return // as one that writes for ever: nobody takes its place
			}
			continue
		}
		if finish {
			f.wire.endWriting()
		}
		return
	}
}

// write makes sure that there is a writer.
func (f *feed) write(l *loop) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.writing {
		f.writing = true
		l.feeders.Go(f.writeAll)
	}
}

// flush gives the writer what is pending, as far as it has room.
func (f *feed) flush(l *loop) {
	if f.conn == nil {
		return
	}
	f.mu.Lock()
	given := 0
	for _, b := range f.conn.Pending() {
		n := min(len(b), feedBuffer-len(f.out))
		f.out = append(f.out, b[:n]...)
		given += n
		if n < len(b) {
			f.full = true
			break
		}
	}
	f.mu.Unlock()
	if given > 0 {
		l.bytesOut += uint64(given)
		f.conn.Wrote(given)
		f.write(l)
	}
	if f.conn.Closing() {
		l.closeSoon(&f.stream)
		if len(f.conn.Pending()) == 0 {
			l.lost(&f.stream, closedByUs)
			f.mu.Lock()
			f.finish = true
			f.mu.Unlock()
			f.write(l)
		}
	}
	f.letRead()
}

// letRead lets the reader go on, unless its connection is paused, or has to take first what was kept in a pause.
func (f *feed) letRead() {
	if f.owed && (f.conn == nil || !f.conn.Paused() && !f.held) {
		f.owed = false
		f.resume <- struct{}{} // never blocks: one batch, one token
	}
}

// close ends it at once. Its goroutines see that by themselves.
func (f *feed) close(l *loop, why string) {
	if f.gone {
		return
	}
	l.lost(&f.stream, why)
	f.gone = true
	l.closed(&f.stream)
	delete(l.feeds, f)
	close(f.ended)
	l.feeders.Go(f.closeRaw)
}

// closeRaw closes the connection below. It waits until a Read or Write under way has noticed, so the loop leaves it to
// others.
func (f *feed) closeRaw() {
	_ = f.raw.Close() // what was written is the kernel's, and nothing else can fail
}

// adoptFeed makes a feed of an accepted socket. The core hears of it when the handshakes are over.
func (l *loop) adoptFeed(fd int, peer netip.AddrPort, li *listener) error {
	f, err := newFeed(fd, li, peer, l.inbox)
	if err != nil {
		return err
	}
	f.timeout = l.connectTimeout
	l.opened(&f.stream, li, peer)
	l.feeds[f] = struct{}{}
	if !li.config.ProxyProtocol && !l.countAddress(&f.stream) {
		f.close(l, "")
		return nil
	}
	l.feeders.Go(func() { f.begin(&l.feeders) })
	return nil
}

// onFeed works through one note of a feed.
func (l *loop) onFeed(n feedNote) {
	f := n.feed
	if f.gone {
		return
	}
	switch n.kind {
	case feedOpen:
		f.joined = true
		if err := f.lateCertificate(); err != nil {
			l.events.handshakeFailed(f.info, err)
			f.close(l, closedByUs)
			return
		}
		if f.client.IsValid() {
			f.peer = f.client
		}
		if f.config.ProxyProtocol && !l.countAddress(&f.stream) {
			f.close(l, "")
			return
		}
		l.join(&f.stream, f, f.info)
	case feedRead:
		f.owed = true
		l.bytesIn += uint64(len(n.batch))
		if f.conn != nil { // else it is thrown away
			buf, front := l.roomBehind(&f.stream)
			if buf == nil {
				f.close(l, "too much memory is taken by unfinished packets")
				return
			}
			l.receive(&f.stream, buf[:front+copy(buf[front:], n.batch)])
		}
		f.letRead()
	case feedRoom:
		f.flush(l)
	case feedEnd:
		if !f.joined {
			l.events.handshakeFailed(f.info, n.err)
		}
		why := closedByClient
		if n.err != nil && !errors.Is(n.err, io.EOF) {
			why = n.err.Error()
		}
		f.close(l, why)
	}
}

// closeFeeds ends all feeds and waits for their goroutines.
func (l *loop) closeFeeds() {
	for f := range l.feeds {
		close(f.ended)
		f.closeRaw()
	}
	l.feeders.Wait()
}
