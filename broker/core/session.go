package core

import (
	"time"

	"forebay/broker/packet"
)

// session is what the broker knows about a client beyond its connection. A session whose expiry is 0 lives in memory
// and ends with its connection; the others are rows of the state tables and a queue in the log.
type session struct {
	clientID string
	username string

	conn   *Conn         // nil while the client is away
	queue  Queue         // nil: in memory. Constant
	expiry uint32        // seconds beyond the connection
	left   time.Duration // when the connection ended
	quiet  time.Duration // the keep alive's deadline, for wills after a restart

	will      *will
	willDue   time.Duration // when the will is published; counts while conn is nil and will is not
	stateSeq  uint64        // the record that made the present state durable
	accessSeq uint64        // records up to it were routed for another user

	subscriptions subscriptions
	retained      []retainedJob // retained messages to be sent for new subscriptions

	inbound map[uint16]struct{} // packet identifiers of QoS 2 messages from the client that it has not released

	// Messages to the client.
	flights     window
	sent        uint64 // numbers up to it may have been sent before
	transmitted uint64 // numbers up to it that are not acknowledged were sent in this run
	next        uint64 // in memory: the next number
	held        *Entry // taken from the queue and not sent yet
	backlog     *backlog
	prompt      *promptness // nil: nobody waits for acknowledgements
	blocked     bool        // output was full; Wrote goes on
	live        bool        // what the queue has been told, see keepsUp
	pulling     bool        // in Core.pulls

	resumes bool // the session was there before the connection
	rowKept bool // there is a row in TableSessions

	mark int // where the route under construction has this session, if it has
}

const tooManySessions = "too many sessions"

// enter finds or makes the session of a client that has been let in. why says what prevented it.
func (c *Core) enter(conn *Conn, p *packet.Connect, expiry uint32) (s *session, present bool, why string) {
	if old := c.sessions[conn.clientID]; old != nil && old.conn != nil {
		// [MQTT-3.1.4-3]. A session that ends with its connection is gone after this.
		old.conn.close(packet.ReasonSessionTakenOver, "session taken over")
	}
	s = c.sessions[conn.clientID] // [MQTT-3.1.3-2]
	if s != nil && s.queue == nil {
		// Only the will of a session that a restart has ended: its client is back in time.
		s.will = nil
		c.remove(s)
		s = nil
	}
	if s != nil && p.CleanStart {
		c.remove(s) // [MQTT-3.1.2-4] [MQTT-3.1.4-4]
		s = nil
	}
	present = s != nil // [MQTT-3.1.2-5]
	if s == nil {
		// [MQTT-3.1.2-6]
		if s, why = c.newSession(conn.clientID, expiry > 0); s == nil {
			return nil, false, why
		}
	}
	s.will = nil // [MQTT-3.1.3-9]
	s.setUser(c, conn.username)
	s.expiry = expiry
	s.quiet = conn.quiet
	if p.HasWill {
		s.will = newWill(p) // [MQTT-3.1.2-7]
	}
	if s.queue == nil && s.will == nil {
		return s, present, ""
	}
	seq, err := c.append(&Record{Time: c.wall, Changes: []Change{c.sessionRow(s, true)}})
	if err != nil && s.queue != nil {
		if !present {
			c.remove(s)
		}
		return nil, false, "the store does not take the session: " + err.Error()
	}
	// A session in memory has a row for its will only, and nobody waits for that.
	s.rowKept = err == nil
	if s.queue != nil {
		s.stateSeq = max(s.stateSeq, seq)
	}
	return s, present, ""
}

// newSession makes a session, with a queue in the log if it is durable.
func (c *Core) newSession(clientID string, durable bool) (s *session, why string) {
	if len(c.sessions) >= c.cfg.Sessions {
		return nil, tooManySessions
	}
	s = &session{clientID: clientID}
	if durable {
		if c.failed != nil {
			return nil, "the store has failed"
		}
		queue, seq, err := c.log.OpenQueue(queueName(clientID))
		if err != nil {
			return nil, "the store does not take the session: " + err.Error()
		}
		s.queue, s.stateSeq = queue, seq
		c.queues[queue.ID()] = s
	}
	c.sessions[clientID] = s
	return s, ""
}

// queueName is the name of a session's consumer in the log.
func queueName(clientID string) string { return queuePrefix + clientID }

const queuePrefix = "session/"

// leave is called when the connection of a session has ended: the session ends too, or waits for the client.
func (c *Core) leave(s *session) {
	s.conn = nil
	s.left = c.clock
	s.blocked = false
	s.keepsUp(false) // before anything else: somebody may wait for its acknowledgements
	if c.draining {
		return // as it stands in the log, the next start finds it
	}
	if s.expiry == 0 {
		c.remove(s)
		return
	}
	if s.will != nil {
		// [MQTT-3.1.2-8]
		s.willDue = c.clock + time.Duration(s.will.delay)*time.Second
		c.due(s.willDue)
		if s.will.delay == 0 {
			c.publishWill(s)
		}
	}
	c.due(s.end())
	c.saveAway(s)
}

// end returns when the session expires if its client does not come back [MQTT-3.1.2-23].
func (s *session) end() time.Duration {
	if s.expiry == neverExpires {
		return never
	}
	return s.left + time.Duration(s.expiry)*time.Second
}

// remove ends a session: its will is published now if it has not been, its subscriptions, messages and rows go. Retained
// messages are no part of it, 3.1.1 [MQTT-3.1.2-7].
func (c *Core) remove(s *session) {
	if c.sessions[s.clientID] != s {
		return
	}
	delete(c.sessions, s.clientID)
	if s.will != nil {
		c.publishWill(s)
	}
	changes := make([]Change, 0, 1)
	for sub := range s.subscriptions.all() {
		c.router.forget(sub)
		if s.queue != nil {
			changes = append(changes, Change{TableSubscriptions, rowKey(s.clientID, sub.filter), nil})
		}
	}
	s.subscriptions = subscriptions{}
	if s.backlog != nil {
		c.memoryWaiting -= s.backlog.bytes
		s.backlog = nil
	}
	s.retained = nil
	if s.queue == nil && !s.rowKept {
		return
	}
	changes = append(changes, Change{TableSessions, []byte(s.clientID), nil})
	if s.queue != nil {
		delete(c.queues, s.queue.ID())
		for id := range s.inbound {
			changes = append(changes, Change{TableInbound, inboundKey(s.clientID, id), nil})
		}
		// The queue first: a crash in between leaves a session without messages, not messages without a session.
		if _, err := c.log.RemoveQueue(queueName(s.clientID)); err != nil {
			c.stats.StateLost++
		}
	}
	if _, err := c.append(&Record{Time: c.wall, Changes: changes}); err != nil {
		c.stats.StateLost++
	}
}

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// due makes sure that Tick looks at the sessions at t.
func (c *Core) due(t time.Duration) { c.nextDue = min(c.nextDue, t) }

// expire publishes the wills and ends the sessions whose time has come, as many as the round has room for.
func (c *Core) expire() {
	c.expireOn = false
	if c.clock < c.nextDue {
		return
	}
	c.nextDue = never
	for _, s := range c.sessions {
		if c.RoundFull() {
			c.expireOn = true
			c.due(c.clock)
			return
		}
		if s.conn != nil {
			continue // [MQTT-4.1.0-1]
		}
		if s.end() <= c.clock {
			c.remove(s) // [MQTT-4.1.0-2]
			c.work += endCost
			continue
		}
		if s.will != nil && s.willDue <= c.clock {
			c.publishWill(s)
			c.saveAway(s)
			c.work += endCost
		}
		c.due(s.end())
		if s.will != nil {
			c.due(s.willDue)
		}
	}
}

// saveAway writes the row of a session whose client is away. Nobody waits for it: if it does not become durable,
// expiry counts from the next start.
func (c *Core) saveAway(s *session) {
	if _, err := c.append(&Record{Time: c.wall, Changes: []Change{c.sessionRow(s, false)}}); err != nil {
		c.stats.StateLost++
	}
}
