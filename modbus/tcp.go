package modbus

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"time"
)

// The MBAP header (MODBUS Messaging on TCP/IP V1.0b §3.1.3), all big endian:
//
//	0      2      4      6    7          8
//	+------+------+------+----+----------+------
//	| tid  |  0   | len  |unit| function | data
//	+------+------+------+----+----------+------
//
// len counts the bytes from unit on.
const (
	mbapSize     = 7
	tcpFrameSize = 260 // the longest
)

// silentLimit is how many requests in a row may find no frame at all on a
// connection before it is taken for dead and replaced.
const silentLimit = 2

// tcpTransport carries Modbus TCP frames, over TCP, TLS or UDP. It gives each
// request its transaction identifier and pairs answers with requests by that,
// unit and function; every other frame (late, doubled, unsolicited) is skipped.
// Its methods must not be called concurrently.
type tcpTransport struct {
	lifeline

	// Constant after newTCPTransport.
	timeout   time.Duration
	datagrams bool // each frame comes by itself, and may be lost by itself

	// Owned by the caller of Send.
	last   uint16 // transaction identifier
	unread []byte // received and not yet consumed, a part of buf
	buf    [2 * tcpFrameSize]byte
	source stream // where unread comes from
	silent int    // requests in a row without a frame
	missed missed // requests that found no answer
}

// missed holds the transaction identifiers of the last requests that found no
// answer; what comes for one of them is late.
type missed struct {
	ids  [16]uint16
	next int
}

func (m *missed) add(id uint16) {
	m.ids[m.next%len(m.ids)] = id
	m.next++
}

// take reports whether id was missed, and forgets it.
func (m *missed) take(id uint16) bool {
	for i := range min(m.next, len(m.ids)) {
		if m.ids[i] == id && id != 0 {
			m.ids[i] = 0
			return true
		}
	}
	return false
}

// newTCPTransport returns a transport over what open opens. timeout limits each
// answer.
func newTCPTransport(open func(context.Context) (stream, error), timeout time.Duration) *tcpTransport {
	return &tcpTransport{lifeline: lifeline{open: open}, timeout: timeout}
}

// dialer returns a function that connects to address, which has a port, within
// timeout. network is tcp or udp.
func dialer(network, address string, timeout time.Duration) func(context.Context) (stream, error) {
	return func(ctx context.Context) (stream, error) {
		d := net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}
		return d.DialContext(ctx, network, address)
	}
}

// number gives an encoded request the next transaction identifier, which is
// never 0.
func (t *tcpTransport) number(request []byte) {
	t.last++
	if t.last == 0 {
		t.last = 1
	}
	binary.BigEndian.PutUint16(request, t.last)
}

// Send writes one request frame, whose transaction identifier it sets, and
// returns the answer that belongs to it, valid until the next Send. connect must
// have succeeded before. After ErrTimeout the connection may be used further: what comes late is
// recognised. After any other error it is closed.
func (t *tcpTransport) Send(request []byte) ([]byte, error) {
	s, err := t.connected()
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(t.timeout)
	if err := t.write(s, request, deadline); err != nil {
		return nil, err
	}
	if err := s.SetReadDeadline(deadline); err != nil {
		return nil, t.lost(err)
	}
	return t.await(s, request, deadline)
}

// connected returns the open connection; what was received through another is
// forgotten.
func (t *tcpTransport) connected() (stream, error) {
	s := t.stream()
	if s == nil {
		return nil, fmt.Errorf("modbus: %w", errLost)
	}
	if s != t.source {
		t.source, t.unread, t.silent = s, nil, 0
	}
	return s, nil
}

// write numbers a request and sends it.
func (t *tcpTransport) write(s stream, request []byte, deadline time.Time) error {
	t.number(request)
	if err := s.SetWriteDeadline(deadline); err != nil {
		return t.lost(err)
	}
	if _, err := s.Write(request); err != nil {
		return t.lost(err)
	}
	return nil
}

// await reads frames until the one that answers request.
func (t *tcpTransport) await(s stream, request []byte, deadline time.Time) ([]byte, error) {
	for skipped := 0; ; skipped++ {
		frame, err := t.next(s)
		switch {
		case err != nil:
			return nil, err
		case frame == nil:
			return nil, t.timedOut(request, skipped)
		case answersTCP(request, frame):
			return frame, nil
		}
		t.skip(frame)
		// A peer that floods us with frames must not outlast the deadline.
		if time.Now().After(deadline) {
			return nil, t.timedOut(request, skipped+1)
		}
	}
}

// next returns the next frame, nil when none has come by the read deadline.
func (t *tcpTransport) next(s stream) ([]byte, error) {
	for {
		frame, rest, err := splitTCP(t.unread)
		if err != nil {
			t.tally.stray++
			if !t.datagrams {
				return nil, t.lost(err)
			}
		}
		t.unread = rest
		if frame != nil {
			t.silent = 0
			return frame, nil
		}
		if err := t.receive(s); isTimeout(err) {
			return nil, nil
		} else if err != nil {
			return nil, t.lost(err)
		}
	}
}

// skip counts a frame that is not the answer.
func (t *tcpTransport) skip(frame []byte) {
	if t.missed.take(binary.BigEndian.Uint16(frame)) {
		t.tally.late++
	} else {
		t.tally.stray++
	}
}

// receive appends what the connection has to unread. Of a datagram that was cut
// off no rest comes.
func (t *tcpTransport) receive(s stream) error {
	if t.datagrams {
		if len(t.unread) > 0 {
			t.tally.stray++
		}
		t.unread = nil
	}
	n := copy(t.buf[:], t.unread)
	m, err := s.Read(t.buf[n:])
	t.unread = t.buf[:n+m]
	if m > 0 {
		return nil // an error that came with bytes comes again
	}
	return err
}

// timedOut says that no answer came and gives a connection up that has been
// silent too often.
func (t *tcpTransport) timedOut(request []byte, skipped int) error {
	t.missed.add(binary.BigEndian.Uint16(request))
	if skipped > 0 {
		return fmt.Errorf("modbus: %w: %v (%d frames were not the answer)", ErrTimeout, t.timeout, skipped)
	}
	t.silent++
	if t.silent >= silentLimit {
		t.drop()
	}
	return fmt.Errorf("modbus: %w: %v", ErrTimeout, t.timeout)
}

// splitTCP takes the first frame off buf; frame is nil while it is incomplete.
// An error means that this is not Modbus TCP or that its framing is lost.
func splitTCP(buf []byte) (frame, rest []byte, err error) {
	if len(buf) < mbapSize {
		return nil, buf, nil
	}
	if id := binary.BigEndian.Uint16(buf[2:]); id != 0 {
		return nil, nil, fmt.Errorf("not Modbus TCP: protocol identifier %d", id)
	}
	// At least unit and function, at most what fits the longest frame.
	length := int(binary.BigEndian.Uint16(buf[4:]))
	if length < 2 || length > tcpFrameSize-mbapSize+1 {
		return nil, nil, fmt.Errorf("not Modbus TCP: a frame of length %d", length)
	}
	end := mbapSize - 1 + length
	if len(buf) < end {
		return nil, buf, nil
	}
	return buf[:end:end], buf[end:], nil
}

// answersTCP reports whether frame is the answer, or the exception, to request.
func answersTCP(request, frame []byte) bool {
	if frame[0] != request[0] || frame[1] != request[1] || frame[6] != request[6] {
		return false
	}
	function := request[mbapSize]
	switch frame[mbapSize] {
	case function:
		return true
	case function | 0x80: // Modbus §7: nothing else is an exception
		return len(frame) == mbapSize+2
	}
	return false
}
