package modbus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stream is an open connection or serial port.
type stream interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// errLost means that an open connection or port failed. It is closed; whether
// the request arrived is unknown.
var errLost = errors.New("connection lost")

// lifeline holds the one open stream of a transport, so that stop can close it
// under a read that blocks in another goroutine.
type lifeline struct {
	// Constant after construction.
	open func(context.Context) (stream, error)
	wrap func(stream) stream // what is put over it; nil: nothing

	mu      sync.Mutex
	current stream // guarded by mu; nil when closed
	stopped bool   // guarded by mu; nothing is opened any more

	// Owned by the caller of connect.
	fleeting bool  // a peer has closed a connection that was still wanted
	peer     *peer // of the stream; nil when nothing is known of it
	tally    tally
}

// tally counts what arrived and was no answer.
type tally struct {
	late  uint64 // answers to earlier requests
	stray uint64 // frames that answer nothing that was asked
	crc   uint64 // frames that were damaged
}

// minus returns what has come since an earlier tally.
func (t tally) minus(before tally) tally {
	return tally{t.late - before.late, t.stray - before.stray, t.crc - before.crc}
}

// heard returns the tally since the transport was made.
func (l *lifeline) heard() tally { return l.tally }

// connect makes sure that there is a stream whose peer has not hung up; fresh
// reports whether it is a new one. The error wraps ErrDown.
//
// A request that must not be repeated asks for a safe one: where a peer is known
// to close connections it may be closing this one just now, and the request
// would be lost in it; so it gets a new one.
func (l *lifeline) connect(ctx context.Context, safe bool) (fresh bool, err error) {
	if s := l.stream(); s != nil {
		gone := l.peer.hungUp()
		l.fleeting = l.fleeting || gone
		if !gone && !(safe && l.fleeting) {
			return false, nil
		}
	}
	l.drop()
	s, err := l.open(ctx)
	if err != nil {
		return false, fmt.Errorf("modbus: %w: %w", ErrDown, err)
	}
	l.peer = newPeer(s)
	if l.wrap != nil {
		s = l.wrap(s)
	}
	l.mu.Lock()
	stopped := l.stopped
	if !stopped {
		l.current = s
	}
	l.mu.Unlock()
	if stopped {
		return false, errors.Join(fmt.Errorf("modbus: %w: stopped", ErrDown), s.Close())
	}
	return true, nil
}

// stream returns the open stream or nil.
func (l *lifeline) stream() stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// drop closes the stream, if there is one; connect opens another.
func (l *lifeline) drop() {
	l.mu.Lock()
	s := l.current
	l.current = nil
	l.mu.Unlock()
	if s != nil {
		// Nothing buffered is worth keeping and there is no one to tell: the
		// error that led here is already on its way to the caller.
		_ = s.Close()
	}
}

// stop closes the stream for good. It may be called from any goroutine.
func (l *lifeline) stop() {
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	l.drop()
}

// lost closes the stream after cause and says so.
func (l *lifeline) lost(cause error) error {
	l.fleeting = true
	l.drop()
	return fmt.Errorf("modbus: %w: %w", errLost, cause)
}

// isTimeout tells a deadline that passed from a connection that failed.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// peer looks, without waiting, whether the peer of a TCP connection has
// closed it: devices that close after each answer or after seconds of silence
// are common, and a request into such a connection is lost. Of other streams it
// knows nothing.
//
// The alert that announces the end of a TLS connection hides that end here; then
// the request finds out.
type peer struct {
	// Constant after newPeer.
	raw  syscall.RawConn
	look func(fd uintptr)

	// Owned by the caller of hungUp.
	closed bool
	poll   [1]unix.PollFd
}

// newPeer returns the peer of s, nil when nothing can be known of it.
func newPeer(s stream) *peer {
	if secure, ok := s.(*tls.Conn); ok {
		s = secure.NetConn()
	}
	conn, ok := s.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil // the connection is closed: the request finds out
	}
	p := &peer{raw: raw}
	p.look = func(fd uintptr) {
		p.poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLRDHUP}
		n, err := unix.Poll(p.poll[:], 0)
		p.closed = err == nil && n > 0 // nothing but an end or an error was asked for
	}
	return p
}

// hungUp reports whether the peer has closed the connection.
func (p *peer) hungUp() bool {
	return p != nil && (p.raw.Control(p.look) != nil || p.closed)
}
