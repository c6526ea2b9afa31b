package broker

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"forebay/broker/core"
	"forebay/broker/packet"
)

// loop is the one goroutine that owns the core, the listeners and the sockets. In every round it takes what is ready
// and what has come in from other goroutines, gives it to the core, and writes every connection that has something
// to say once.
type loop struct {
	// Constant after newLoop.
	core           *core.Core
	durable        *durableLog
	inbox          *inbox
	events         *events
	poll           *poller
	logger         *slog.Logger
	listeners      []*listener
	maxConnections int
	packetSize     int
	connectTimeout time.Duration
	flush          func(*core.Conn) // l.flushConn, made once

	// Owned by the loop.
	now            time.Time // of this round
	sockets        []*socket // by descriptor
	feeds          map[*feed]struct{}
	feeders        sync.WaitGroup // the goroutines of feeds, and of settle
	open           int            // sockets and feeds
	taken          uint64         // the same, since the start
	generation     int32
	closing        []*stream          // with a closeBy, some of them gone since
	swept          time.Time          // when sweep last ran
	sweptTaken     uint64             // taken at that time
	settledTaken   uint64             // taken when memory was last given back, see settle
	full           int                // connections refused since the limit was reached
	refused        uint64             // connections refused, of all or of a listener there were too many
	addresses      map[netip.Addr]int // connections of each address, on listeners that limit them
	refusedAddress uint64
	keptBytes      int  // of all streams
	mail           mail // the batch being worked on
	inject         core.Inject
	waiting        map[*injection]struct{} // injections whose Done has not been called
	draining       bool
	drainUntil     time.Time
	panics         int    // recovered ones
	bytesIn        uint64 // of MQTT
	bytesOut       uint64
	read           [readSize]byte // shared by all sockets
}

const (
	// readSize is what one read takes at most. Measured: 16 KiB costs 1.5 times as much for QoS 0, 4 KiB 3.6 times.
	readSize = 64 << 10
	// pulse is how long the loop sleeps at most: the precision of every deadline of the core.
	pulse = 500 * time.Millisecond
	// manyTaken is how many connections are worth a collection of garbage.
	manyTaken = 500
	// drainTime bounds the end: what is not acknowledged by then was not promised.
	drainTime = 3 * time.Second
)

// newLoop makes a loop around a core that has been restored. The listeners and the poller are its own from now on.
func newLoop(c *core.Core, e *events, s *Server) *loop {
	l := &loop{
		core: c, durable: s.durable, inbox: &s.inbox, poll: s.poll, logger: s.lines, listeners: s.listeners,
		maxConnections: s.cfg.Limits.Connections, packetSize: int(s.cfg.Limits.PacketSize), connectTimeout: s.cfg.Limits.ConnectTimeout,
		events: e, feeds: map[*feed]struct{}{}, addresses: map[netip.Addr]int{}, waiting: map[*injection]struct{}{},
	}
	l.flush = l.flushConn
	return l
}

// run goes round until stop has come and all connections are closed. Only a bug or a failing epoll end it earlier;
// the sockets are then closed as they are.
func (l *loop) run() (err error) {
	defer l.end()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("broker: the loop failed: %v\n%s", p, debug.Stack())
		}
	}()
	for _, li := range l.listeners {
		if err := l.poll.add(li.fd, 0, unix.EPOLLIN); err != nil {
			return fmt.Errorf("broker: listen on %s: %w", li.config.Address, err)
		}
		for len(l.sockets) <= li.fd {
			l.sockets = append(l.sockets, nil)
		}
	}
	for !l.drained() {
		if err := l.round(); err != nil {
			return err
		}
	}
	return nil
}

// round is one turn. The order is that of the core's contract: the clock, then what came, then the output.
func (l *loop) round() error {
	ready, err := l.poll.wait(0)
	if err == nil && len(ready) == 0 && !l.core.Busy() && l.inbox.sleep() {
		ready, err = l.poll.wait(pulse)
	}
	if err != nil {
		return err
	}
	l.now = time.Now()
	l.core.Tick(l.now)
	l.takeMail()
	for i := range ready {
		l.onEvent(&ready[i])
	}
	l.core.Flush(l.flush)
	if l.now.Sub(l.swept) >= pulse {
		l.sweep()
	}
	return nil
}

// onEvent finds out whom an event is for.
func (l *loop) onEvent(e *unix.EpollEvent) {
	fd := int(e.Fd)
	if fd == l.poll.event {
		l.poll.woken()
		return
	}
	if s := l.sockets[fd]; s != nil {
		if s.generation == e.Pad { // else the event was for an earlier socket of that number
			l.onSocket(s, e.Events)
		}
		return
	}
	for _, li := range l.listeners {
		if li.fd == fd {
			l.accept(li)
		}
	}
}

// flushConn is called by the core for every connection with something new.
func (l *loop) flushConn(conn *core.Conn) {
	s := streamOf(conn)
	s.carrier.flush(l)
	if s.held && s.conn != nil && !s.conn.Paused() {
		l.receive(s, s.kept)
		s.carrier.letRead()
	}
}

// takeMail works through what other goroutines have posted.
func (l *loop) takeMail() {
	l.inbox.take(&l.mail)
	m := &l.mail
	if m.empty() {
		return
	}
	if m.safe != 0 {
		l.core.Durable(uint64(m.safe))
	}
	if m.failed != nil {
		l.logger.Error("broker: the store has failed: messages that need it are not acknowledged any more", "err", m.failed)
		l.core.LogFailed(m.failed)
	}
	for _, id := range m.queues {
		l.durable.taken(id)
		l.core.QueueReady(id)
	}
	for _, a := range m.logins {
		l.onLogin(a)
	}
	for _, fn := range m.calls {
		fn()
	}
	for i := range m.feeds {
		l.onFeed(m.feeds[i])
	}
	for i := range m.messages {
		if l.core.RoundFull() {
			l.inbox.giveBack(m.messages[i:])
			break
		}
		l.publish(m.messages[i])
		if l.core.FlushDue() {
			l.core.Flush(l.flush)
		}
	}
	stop := m.stop
	m.reset()
	if stop && !l.draining {
		l.drain()
	}
}

// onLogin takes the answer about a password.
func (l *loop) onLogin(a loginAnswer) {
	switch a.reason {
	case packet.ReasonBadUserNameOrPassword:
		l.events.failed++
	case packet.ReasonConnectionRateExceeded:
		l.events.delayed++
	}
	s := a.stream
	if s.conn == nil {
		return // it is gone already
	}
	if a.hash != nil && !a.hash.equal(l.events.logins.users.Load().users[s.conn.Username()]) {
		a.reason = packet.ReasonBadUserNameOrPassword // of a file that has been replaced meanwhile
	}
	s.hash = a.hash
	l.core.LoginResult(s.conn, a.reason == packet.ReasonSuccess, a.reason)
}

// publish gives a message from inside the process to the core.
func (l *loop) publish(i injection) {
	m := i.message
	l.inject = core.Inject{Origin: m.Origin}
	l.inject.Publish = packet.Publish{Topic: []byte(m.Topic), Payload: m.Payload, QoS: m.QoS, Retain: m.Retain, PublishProperties: m.Properties}
	for _, v := range m.Changes {
		l.inject.Changes = append(l.inject.Changes, core.Change{Table: core.Table(v.Table), Key: v.Key, Value: v.Value})
	}
	if i.done != nil {
		key := &i
		l.waiting[key] = struct{}{}
		l.inject.Done = func(err error) {
			delete(l.waiting, key)
			i.done(err)
		}
	}
	l.core.Publish(&l.inject)
	l.inject = core.Inject{}
}

func (l *loop) stats() Stats {
	return Stats{
		Stats: l.core.Stats(), Clients: l.events.clients, MaxClients: l.events.maxClients,
		Admitted: l.events.admitted, Accepted: l.taken, Sockets: l.open, Panics: l.panics, BytesReceived: l.bytesIn, BytesSent: l.bytesOut,
		RefusedFull: l.refused, RefusedAddress: l.refusedAddress, LoginsFailed: l.events.failed, LoginsDelayed: l.events.delayed,
	}
}

// drain begins the end.
func (l *loop) drain() {
	l.draining = true
	l.drainUntil = l.now.Add(drainTime)
	l.closeListeners()
	for f := range l.feeds {
		if !f.joined {
			f.close(l, closedByUs) // nobody has been told anything yet
		}
	}
	for _, s := range l.sockets {
		if s != nil && s.proxied {
			l.closeSocket(s, closedByUs)
		}
	}
	l.core.Drain(packet.ReasonServerShuttingDown)
}

// drained reports that the loop may end.
func (l *loop) drained() bool {
	return l.draining && (l.open == 0 || l.now.After(l.drainUntil))
}

// sweep looks after the deadlines that are the loop's own.
func (l *loop) sweep() {
	l.swept = l.now
	l.settle()
	left := l.closing[:0]
	for _, s := range l.closing {
		if s.closeBy.IsZero() {
			continue
		}
		if !s.gone && l.now.After(s.closeBy) {
			s.carrier.close(l, closedByUs)
		}
		if !s.gone {
			left = append(left, s)
		}
	}
	clear(l.closing[len(left):])
	l.closing = left
	for _, li := range l.listeners {
		if !li.pausedUntil.IsZero() && l.now.After(li.pausedUntil) {
			li.pausedUntil = time.Time{}
			l.watchListener(li, unix.EPOLLIN)
		}
	}
	if l.full > 0 && l.open < l.maxConnections {
		l.logger.Info("broker: connections are accepted again", "refused", l.full)
		l.full = 0
	}
}

// settle gives memory back to the system when many connections have come and no more do: logins and handshakes leave
// about as much behind as the connections take, and the runtime would hold it for minutes.
func (l *loop) settle() {
	coming := l.taken != l.sweptTaken
	l.sweptTaken = l.taken
	if coming || l.taken-l.settledTaken < manyTaken {
		return
	}
	l.settledTaken = l.taken
	l.feeders.Go(debug.FreeOSMemory)
}

// refusedFull counts a connection beyond the limit; the first of an episode is logged.
func (l *loop) refusedFull(li *listener) {
	l.full++
	l.refused++
	if l.full == 1 {
		l.logger.Warn("broker: limit of connections reached, new ones are closed", "limit", l.maxConnections, "listener", li.config.Address)
	}
}

func (l *loop) closeListeners() {
	for _, li := range l.listeners {
		closeFD(li.fd)
	}
	l.listeners = nil
}

// end closes what is left. Nobody can reach the loop afterwards.
func (l *loop) end() {
	l.closeListeners()
	for _, s := range l.sockets {
		if s != nil {
			closeFD(s.fd)
		}
	}
	l.inbox.close()
	l.closeFeeds()
	for {
		var rest mail
		if l.inbox.take(&rest); len(rest.messages) == 0 {
			break
		}
		for _, i := range rest.messages {
			if i.done != nil {
				i.done(ErrClosed)
			}
		}
	}
	for i := range l.waiting {
		i.done(ErrClosed)
	}
	l.poll.close()
}
