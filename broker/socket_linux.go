package broker

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"forebay/broker/core"
)

// socket is a plain connection over TCP or a Unix socket. All fields are owned by the loop.
type socket struct {
	stream
	fd         int
	generation int32  // tells this socket from an earlier one with the same descriptor
	events     uint32 // what epoll is asked for
	proxied    bool   // the header of the PROXY protocol has not come yet
}

func (s *socket) flush(l *loop)             { l.flushSocket(s) }
func (s *socket) close(l *loop, why string) { l.closeSocket(s, why) }
func (s *socket) letRead()                  {} // epoll tells again of what is there

// listener is one bound address. All fields but the constant ones are owned by the loop.
type listener struct {
	// Constant after listen, limits after New.
	config ListenerConfig
	limits ListenerLimits
	door   core.Door // config and limits as the core knows them
	addr   net.Addr
	fd     int
	file   *socketFile // nil: not a Unix socket

	tls         *secure   // nil: plain. Replaced by Server.Reload
	pausedUntil time.Time // it rests: resources are short, or connections come too fast; zero: it goes on
	open        int       // connections
	allowed     time.Time // see accepted
}

const (
	// keepIdle is how long a connection is silent before the kernel asks whether its peer still lives, in seconds.
	// It finds the dead peers that asked for no keep alive.
	keepIdle = 120
	// keepInterval is how long it waits between its questions, and keepCount how many it asks: 3 minutes in all.
	keepInterval = 15
	keepCount    = 4
	// pacedRead is what one read takes at most of a client whose rate is limited: what comes too early is kept.
	pacedRead = 8 << 10
	// acceptsPerRound bounds the new connections of a round, so that those that exist are not kept waiting.
	acceptsPerRound = 64
	// acceptPause is how long a listener rests when descriptors or memory have run out.
	acceptPause = time.Second
)

// affordable lowers the limit of connections to what the process may open, and leaves descriptors for the rest of it:
// a store that cannot open its next file has failed for good.
func affordable(connections int, logger *slog.Logger) int {
	const others = 64 // the store, listeners, bridges, Modbus
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur >= uint64(connections)+others {
		return connections
	}
	most := max(int(limit.Cur)-others, 1)
	logger.Warn("broker: limits.connections is lowered, the process may not open more files",
		"files", limit.Cur, "connections", most, "configured", connections)
	return most
}

// listen binds one address.
func listen(cfg ListenerConfig) (*listener, error) {
	door, err := cfg.TLS.load()
	if err != nil {
		return nil, fmt.Errorf("broker: listen on %s: %w", cfg.Address, err)
	}
	var file *socketFile
	var l net.Listener
	if path, ok := cfg.unixPath(); ok {
		l, file, err = listenUnix(path)
	} else {
		l, err = net.Listen("tcp", cfg.Address) // [MQTT-4.2-1]
	}
	if err != nil {
		return nil, fmt.Errorf("broker: listen on %s: %w", cfg.Address, bindCause(err))
	}
	// The descriptor is duplicated and Go's listener closed: the loop is to be the only one that watches it.
	defer func() { _ = l.Close() }() // the duplicate has the socket
	li := &listener{config: cfg, addr: l.Addr(), tls: door, file: file}
	if li.fd, err = duplicate(l.(syscall.Conn)); err == nil && file == nil {
		err = setOptions(li.fd)
	}
	if err != nil {
		li.release()
		return nil, fmt.Errorf("broker: listen on %s: %w", cfg.Address, err)
	}
	return li, nil
}

// duplicate returns a descriptor of its own for the socket of l; -1 with an error.
func duplicate(l syscall.Conn) (fd int, err error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return -1, err
	}
	var dupErr error
	if err := raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return -1, err
	}
	return fd, dupErr
}

// setOptions sets those of a TCP listener. Accepted sockets inherit them on Linux, which saves a system call for each of
// them.
func setOptions(fd int) error {
	for _, o := range [][3]int{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepIdle},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepInterval},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepCount},
	} {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			return fmt.Errorf("set option: %w", err)
		}
	}
	return nil
}

// release gives back what listen has taken, when the loop does not run.
func (li *listener) release() {
	if li.fd >= 0 {
		closeFD(li.fd)
	}
	li.file.remove()
}

// bindCause strips what the caller says itself: "listen tcp 127.0.0.1:1883: bind: address already in use".
func bindCause(err error) error {
	if op, ok := err.(*net.OpError); ok {
		return op.Err
	}
	return err
}

// closeFD closes a socket. There is nothing to do about an error: Linux has released the descriptor in any case, and
// what was written is the kernel's.
func closeFD(fd int) { _ = unix.Close(fd) }

// peerOf returns the peer's address and port; that of a Unix socket has none and is not valid.
func peerOf(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// accept takes new connections.
func (l *loop) accept(li *listener) {
	for range acceptsPerRound {
		if !l.mayAccept(li) {
			return
		}
		fd, sa, err := unix.Accept4(li.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
		case unix.EAGAIN:
			return
		case unix.EINTR, unix.ECONNABORTED, unix.EPROTO, unix.ENETDOWN, unix.ENOPROTOOPT, unix.EHOSTDOWN,
			unix.ENONET, unix.EHOSTUNREACH, unix.EOPNOTSUPP, unix.ENETUNREACH:
			continue // accept(2): errors of the new connection, not of the listener
		default:
			l.pauseListener(li, err)
			return
		}
		l.accepted(li)
		if l.open >= l.maxConnections {
			closeFD(fd)
			l.refusedFull(li)
			continue
		}
		if limit := li.limits.Connections; limit > 0 && li.open >= limit {
			closeFD(fd)
			l.refused++
			l.events.refused(li.info(peerOf(sa)), errListenerFull)
			continue
		}
		l.taken++
		adopt := l.adopt
		if li.feeds() {
			adopt = l.adoptFeed
		}
		if err := adopt(fd, peerOf(sa), li); err != nil {
			l.pauseListener(li, err)
			return
		}
	}
}

// feeds reports whether its connections are feeds.
func (li *listener) feeds() bool { return li.tls != nil || li.config.Transport == TransportWebSocket }

// info is what the core is told of a connection.
func (li *listener) info(peer netip.AddrPort) core.ConnInfo {
	remote := "unix"
	if peer.IsValid() {
		remote = peer.String()
	}
	return core.ConnInfo{Remote: remote, Door: &li.door}
}

// adopt makes a connection of an accepted socket, and closes it when that fails.
func (l *loop) adopt(fd int, peer netip.AddrPort, li *listener) error {
	l.generation++
	s := &socket{fd: fd, generation: l.generation, events: unix.EPOLLIN}
	if err := l.poll.add(fd, s.generation, s.events); err != nil {
		closeFD(fd)
		return err
	}
	for len(l.sockets) <= fd {
		l.sockets = append(l.sockets, nil)
	}
	l.sockets[fd] = s
	l.opened(&s.stream, li, peer)
	s.carrier = s
	if li.config.ProxyProtocol {
		s.proxied = true
		l.closeAfter(&s.stream, l.connectTimeout)
		return nil
	}
	if !l.countAddress(&s.stream) {
		l.closeSocket(s, "")
		return nil
	}
	l.join(&s.stream, s, li.info(peer))
	return nil
}

// pauseListener rests a listener that cannot accept: level-triggered, it would make the loop spin.
func (l *loop) pauseListener(li *listener, err error) {
	l.logger.Error("broker: accepting connections failed, trying again", "listener", li.config.Address, "pause", acceptPause, "err", err)
	l.restListener(li, acceptPause)
}

// restListener lets a listener accept nothing for a while; sweep ends it.
func (l *loop) restListener(li *listener, pause time.Duration) {
	li.pausedUntil = l.now.Add(pause)
	l.watchListener(li, 0)
}

func (l *loop) watchListener(li *listener, events uint32) {
	if err := l.poll.modify(li.fd, 0, events); err != nil {
		l.logger.Error("broker: watching a listener failed", "listener", li.config.Address, "err", err)
	}
}

// onSocket serves what epoll has said of a connection.
func (l *loop) onSocket(s *socket, events uint32) {
	if events&unix.EPOLLOUT != 0 {
		l.flushSocket(s)
		if l.sockets[s.fd] != s {
			return
		}
	}
	if events&unix.EPOLLIN != 0 {
		if s.conn != nil && s.conn.Paused() {
			// Only now, and not when the pause began: most are over before anything arrives.
			l.watch(s, s.events&^unix.EPOLLIN)
			return
		}
		l.readSocket(s)
		return
	}
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		l.closeSocket(s, "connection broken")
	}
}

// readSocket reads once: a connection with more to say has its turn in the next round, after the others.
func (l *loop) readSocket(s *socket) {
	buf, front := l.roomBehind(&s.stream)
	if buf == nil {
		l.closeSocket(s, "too much memory is taken by unfinished packets")
		return
	}
	if s.conn != nil && s.conn.Paced() {
		buf = buf[:min(len(buf), front+pacedRead)]
	}
	n, err := unix.Read(s.fd, buf[front:])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
	case err != nil:
		l.closeSocket(s, err.Error())
	case n == 0:
		l.closeSocket(s, closedByClient)
	case s.proxied:
		l.readHeader(s, buf[:front+n])
	case s.conn == nil: // thrown away
	default:
		l.bytesIn += uint64(n)
		l.receive(&s.stream, buf[:front+n])
	}
}

// flushSocket writes what is pending, and closes when that was the last.
func (l *loop) flushSocket(s *socket) {
	if s.conn == nil {
		return
	}
	if !l.writeSocket(s) {
		return
	}
	want := s.events &^ unix.EPOLLOUT
	closing := s.conn.Closing()
	if closing {
		l.closeSoon(&s.stream)
	}
	if len(s.conn.Pending()) > 0 {
		want |= unix.EPOLLOUT
	} else if closing {
		l.shutdown(s)
		return
	}
	if !s.conn.Paused() {
		want |= unix.EPOLLIN
	}
	if want != s.events {
		l.watch(s, want)
	}
}

// writeSocket writes until nothing is pending or the socket is full. It reports false when the socket is gone.
func (l *loop) writeSocket(s *socket) bool {
	for {
		pending := s.conn.Pending()
		if len(pending) == 0 {
			return true
		}
		size := 0
		for _, b := range pending {
			size += len(b)
		}
		var n int
		var err error
		if len(pending) == 1 {
			n, err = unix.Write(s.fd, pending[0])
		} else {
			n, err = unix.Writev(s.fd, pending)
		}
		if n > 0 {
			l.bytesOut += uint64(n)
			s.conn.Wrote(n)
		}
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN || err == nil && n < size:
			return true
		case err != nil:
			l.closeSocket(s, err.Error())
			return false
		}
	}
}

// shutdown ends our side of a connection whose output has all left.
func (l *loop) shutdown(s *socket) {
	l.lost(&s.stream, closedByUs)
	if err := unix.Shutdown(s.fd, unix.SHUT_WR); err != nil {
		l.closeSocket(s, "") // the peer was faster
		return
	}
	l.watch(s, unix.EPOLLIN)
}

// watch changes what epoll is asked for.
func (l *loop) watch(s *socket, events uint32) {
	s.events = events
	if err := l.poll.modify(s.fd, s.generation, events); err != nil {
		l.closeSocket(s, err.Error())
	}
}

// closeSocket closes at once. It may be called again.
func (l *loop) closeSocket(s *socket, why string) {
	if l.sockets[s.fd] != s {
		return
	}
	l.lost(&s.stream, why)
	l.release(&s.stream)
	s.gone = true
	l.sockets[s.fd] = nil
	l.closed(&s.stream)
	closeFD(s.fd) // epoll forgets it with that
}
