package broker

import (
	"fmt"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/xdg-go/scram"

	"forebay/broker/core"
	"forebay/broker/packet"
)

// stream is one connection as the loop sees it, whatever carries its bytes. All fields are owned by the loop.
type stream struct {
	conn     *core.Conn // nil once the core has been told that it is lost
	carrier  carrier
	listener *listener      // through which it came
	peer     netip.AddrPort // not valid on a Unix socket
	hash     *passwordHash  // that the client's password fitted; nil: it logged in without

	// kept are the bytes that the core has left: the beginning of a packet, or, when held, whole packets of a
	// connection that is paused. An idle connection keeps nothing.
	kept    []byte
	held    bool
	counted bool // for its address, see countAddress
	gone    bool // closed for good

	// closeBy is set when the header of the PROXY protocol is awaited, which may take until then, and when the core has
	// done with the connection: its last output may leave until then. When it has,
	// our side is shut down and what still arrives is thrown away until the peer has closed too: closing at once
	// would send a reset, which can overtake what was written last.
	closeBy time.Time

	scram *scram.ServerConversation // an authentication under way
}

// carrier moves the bytes of a stream. Its methods are called in the loop, flush not when the stream is gone.
type carrier interface {
	// flush takes what is pending as far as there is room, and closes in order when that was the last.
	flush(l *loop)
	// letRead is called when what was kept has been taken.
	letRead()
	// close ends it at once.
	close(l *loop, why string)
}

const (
	// keptInFront is the longest beginning of a packet that is copied to the front of the shared buffer. Longer ones
	// are read to where they are kept.
	keptInFront = 8 << 10
	// maxKept bounds the unfinished packets of all connections together, in bytes.
	maxKept = 64 << 20
	// closeTime bounds how long an orderly close takes.
	closeTime = time.Second
	// closedByUs is why a connection ended that the core has ended; it knows better itself.
	closedByUs = "closed by the broker"
	// closedByClient is why a connection ended whose peer closed it.
	closedByClient = "closed by the client"
)

// join makes a connection of the core for a carrier that has just been opened.
func (l *loop) join(s *stream, c carrier, info core.ConnInfo) {
	s.carrier = c
	s.conn = l.core.Accept(info)
	s.conn.Data = s
}

// closeSoon sets the time at which a connection that the core has ended is closed without further waiting.
func (l *loop) closeSoon(s *stream) {
	if s.closeBy.IsZero() {
		l.closeAfter(s, closeTime)
	}
}

// closeAfter closes a connection at a time, unless closeBy is set to zero before.
func (l *loop) closeAfter(s *stream, wait time.Duration) {
	s.closeBy = l.now.Add(wait)
	l.closing = append(l.closing, s)
}

// roomBehind returns the buffer to read into and the number of bytes at its front that were kept from before; nil
// when the memory for unfinished packets is used up.
func (l *loop) roomBehind(s *stream) (buf []byte, front int) {
	n := len(s.kept)
	if n <= keptInFront {
		return l.read[:], copy(l.read[:], s.kept)
	}
	if cap(s.kept)-n < readSize/2 {
		// Doubling keeps the memory below twice what has really arrived; a length that was only announced costs
		// nothing.
		bigger := make([]byte, n, min(2*cap(s.kept), l.packetSize)+readSize)
		copy(bigger, s.kept)
		l.keptBytes += cap(bigger) - cap(s.kept)
		s.kept = bigger
	}
	if l.keptBytes > maxKept {
		return nil, 0
	}
	return s.kept[:cap(s.kept)], n
}

// receive gives b to the core and keeps what it leaves. b may be s.kept with more behind it.
func (l *loop) receive(s *stream, b []byte) {
	n, ok := l.receiveSafely(s, b)
	if !ok || s.conn == nil {
		return
	}
	if n == 0 && len(s.kept) > 0 && &b[0] == &s.kept[0] {
		s.kept = b // it stands there already
	} else {
		l.keep(s, b[n:])
	}
	s.held = len(s.kept) > 0 && s.conn.Paused()
	if l.core.FlushDue() {
		l.core.Flush(l.flush)
	}
}

// keep stores what the core has left. rest may alias s.kept.
func (l *loop) keep(s *stream, rest []byte) {
	switch {
	case len(rest) == 0:
		l.release(s)
	case len(rest) <= cap(s.kept) && (cap(s.kept) <= keptInFront || len(rest) > cap(s.kept)/4):
		s.kept = s.kept[:copy(s.kept[:cap(s.kept)], rest)]
	default:
		own := append([]byte(nil), rest...)
		l.keptBytes += cap(own) - cap(s.kept)
		s.kept = own
	}
}

func (l *loop) release(s *stream) {
	l.keptBytes -= cap(s.kept)
	s.kept, s.held = nil, false
}

// receiveSafely keeps a bug that one client's packet has met from ending the service for all: that client is closed,
// and the packet logged. It is told from the panics that begin with BUG: those say that what the core rests on is
// broken already; going on could break promises unseen, so the server stops, and a new start reads what is durable.
// A half done packet of the closed client is in no danger of being acknowledged.
func (l *loop) receiveSafely(s *stream, b []byte) (n int, ok bool) {
	conn := s.conn
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if text, isText := p.(string); isText && strings.HasPrefix(text, "BUG: ") {
			panic(p)
		}
		l.panics++
		l.logger.Error("broker: a packet met a bug, its connection is closed: please report this",
			"clientID", conn.ClientID(), "remote", conn.Info().Remote, "bytes", firstBytes(b), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		l.abort(s, "internal error")
		n, ok = 0, false
	}()
	return l.core.Receive(conn, b), true
}

// firstBytes writes the beginning of a packet for a log line; not of those that hold a password.
func firstBytes(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if t := packet.Type(b[0] >> 4); t == packet.CONNECT || t == packet.AUTH {
		return t.String()
	}
	return fmt.Sprintf("% x", b[:min(len(b), 64)])
}

// abort closes a connection at once.
func (l *loop) abort(s *stream, why string) {
	if s.conn != nil {
		s.carrier.close(l, why)
	}
}

// streamOf returns the stream of a connection that is not lost.
func streamOf(conn *core.Conn) *stream { return conn.Data.(*stream) }

// lost tells the core, once, that a connection is gone.
func (l *loop) lost(s *stream, why string) {
	if s.conn == nil {
		return
	}
	conn := s.conn
	s.conn = nil
	l.release(s)
	conn.Data = nil
	l.core.Lost(conn, why)
}
