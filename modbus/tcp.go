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

// tcpTransport carries Modbus TCP frames. It pairs answers with requests by
// transaction identifier, unit and function; every other frame (late, doubled,
// unsolicited) is skipped. Send must not be called concurrently.
type tcpTransport struct {
	lifeline

	// Constant after newTCPTransport.
	timeout time.Duration

	// Owned by the caller of Send.
	unread []byte // received and not yet consumed, a part of buf
	buf    [2 * tcpFrameSize]byte
	source stream // where unread comes from
	silent int    // requests in a row without a frame
}

// newTCPTransport returns a transport to address, which has a port. timeout
// limits connecting and each answer.
func newTCPTransport(address string, timeout time.Duration) *tcpTransport {
	return &tcpTransport{lifeline: lifeline{open: dialer(address, timeout)}, timeout: timeout}
}

// dialer returns a function that connects to address within timeout.
func dialer(address string, timeout time.Duration) func(context.Context) (stream, error) {
	return func(ctx context.Context) (stream, error) {
		d := net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}
		return d.DialContext(ctx, "tcp", address)
	}
}

// Send writes one request frame and returns the answer that belongs to it; the
// answer is valid until the next Send. connect must have succeeded before.
// After ErrTimeout the connection may be used further: what comes late is
// recognised. After any other error it is closed.
func (t *tcpTransport) Send(request []byte) ([]byte, error) {
	s := t.stream()
	if s == nil {
		return nil, fmt.Errorf("modbus: %w", errLost)
	}
	if s != t.source {
		t.source, t.unread, t.silent = s, nil, 0
	}
	deadline := time.Now().Add(t.timeout)
	if err := s.SetWriteDeadline(deadline); err != nil {
		return nil, t.lost(err)
	}
	if _, err := s.Write(request); err != nil {
		return nil, t.lost(err)
	}
	if err := s.SetReadDeadline(deadline); err != nil {
		return nil, t.lost(err)
	}
	return t.await(s, request, deadline)
}

// await reads frames until the one that answers request.
func (t *tcpTransport) await(s stream, request []byte, deadline time.Time) ([]byte, error) {
	skipped := 0
	for {
		frame, rest, err := splitTCP(t.unread)
		if err != nil {
			return nil, t.lost(err)
		}
		t.unread = rest
		switch {
		case frame == nil:
			if err := t.receive(s); isTimeout(err) {
				return nil, t.timedOut(skipped)
			} else if err != nil {
				return nil, t.lost(err)
			}
		case answersTCP(request, frame):
			t.silent = 0
			return frame, nil
		default:
			t.silent = 0
			skipped++
			// A peer that floods us with frames must not outlast the deadline.
			if time.Now().After(deadline) {
				return nil, t.timedOut(skipped)
			}
		}
	}
}

// receive appends what the connection has to unread.
func (t *tcpTransport) receive(s stream) error {
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
func (t *tcpTransport) timedOut(skipped int) error {
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
