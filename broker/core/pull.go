package core

import "forebay/broker/packet"

// wantPull makes the next Flush fetch what waits for a session.
func (c *Core) wantPull(s *session) {
	if !s.pulling {
		s.pulling = true
		c.pulls = append(c.pulls, s)
	}
}

// QueueReady says that Next of the queue with that ID may return an entry again.
func (c *Core) QueueReady(queue uint32) {
	if s := c.queues[queue]; s != nil && s.conn != nil {
		c.wantPull(s)
	}
}

// pull sends what waits, as long as the client and its output have room. Whatever ends the lack of room pulls again:
// an acknowledgement, Wrote, QueueReady.
func (s *session) pull(c *Core) {
	if s.conn == nil || !s.conn.established || s.conn.ending {
		return
	}
	if s.queue != nil {
		for s.pullQueue() {
		}
	} else {
		s.pullBacklog(c)
	}
	s.sendRetained(c)
}

// pullBacklog sends from the queue in memory.
func (s *session) pullBacklog(c *Core) {
	for s.backlog.len() > 0 {
		if s.conn.out.size >= chunkSize {
			s.blocked = true
			return
		}
		m := &s.backlog.waiting[s.backlog.head]
		cost := m.cost()
		if !s.sendNext(c, m) {
			return
		}
		c.work++
		s.backlog.pop()
		c.memoryWaiting -= cost
	}
}

// pullQueue sends the next entry of the queue in the log; false: there is none, or no room.
func (s *session) pullQueue() bool {
	conn := s.conn
	if conn.out.size >= chunkSize || conn.overBound() {
		s.blocked = true
		s.keepsUp(false)
		return false
	}
	if s.flights.count >= int(conn.inflight) {
		s.keepsUp(false)
		return false // [MQTT-3.3.4-9] [MQTT-4.9.0-2]
	}
	e, ok := s.nextEntry()
	if !ok {
		s.keepsUp(!s.prompt.isLate())
		return false
	}
	qos := e.Options & OptionQoS
	// What was sent before, or may have been before a restart, is a repetition [MQTT-3.3.1-1]. One with QoS 1 that
	// has not been sent in this run may expire. With QoS 2 it may not: if the client has its identifier, it would
	// take a later message for the repetition.
	var state sending
	if e.N <= s.sent {
		state = repeated
		if qos == 2 || e.N <= s.transmitted {
			state |= begun
		}
	}
	c := conn.core
	c.work++
	m := stored{body: e.Message, time: e.Time, options: e.Options, access: s.authorised(c, &e)}
	if len(e.Extra) > 0 && conn.version == packet.V5 {
		c.ids = decodeIDs(c.ids[:0], e.Extra)
		m.ids = c.ids
	}
	if !s.flights.add(e.N, awaiting(qos)) {
		s.keepsUp(false)
		held := e
		s.held = &held
		return false // too far from one that is not acknowledged: its acknowledgement goes on
	}
	err := conn.sendStored(&m, identifier(e.N), state)
	if err != nil {
		s.flights.land(e.N)
		s.queue.Drop(err.Error(), e.N)
	} else {
		s.sent = max(s.sent, e.N)
		s.transmitted = max(s.transmitted, e.N)
		if qos == 1 {
			s.sending(c, e.N)
		}
	}
	return true
}

// nextEntry takes an entry that was held back, or the next one of the queue.
func (s *session) nextEntry() (Entry, bool) {
	if s.held == nil {
		return s.queue.Next()
	}
	e := *s.held
	s.held = nil
	return e, true
}

// keepsUp tells the queue, once for each change, whether the client has been sent all there is and is prompt: then its
// acknowledgements may come sooner than the disk.
func (s *session) keepsUp(yes bool) {
	if s.queue != nil && s.live != yes {
		s.live = yes
		s.queue.SetLive(yes)
	}
}

// resume begins a connection of a session with a queue: what the client has received and not completed is released
// again, everything else that it has not acknowledged is sent again, in order, with the same identifiers
// [MQTT-4.4.0-1] [MQTT-4.6.0-1]. It happens here and nowhere else. That PUBREC was received is durable in every case:
// CONNACK, which has just left, has waited for a later record.
func (s *session) resume() {
	s.flights.reset()
	s.prompt.forget()
	s.held = nil
	s.queue.Rewind()
	for _, n := range s.queue.Released() {
		if !s.flights.add(n, awaitComp) {
			panic("BUG: core: the queue has more in flight than there are identifiers")
		}
		s.conn.answer(ack{kind: packet.PUBREL, id: identifier(n)}) // [MQTT-4.3.3-6]
	}
}

// onPuback ends a QoS 1 message to the client; a failure too [MQTT-4.4.0-2].
func (conn *Conn) onPuback(a *packet.Ack) error {
	s := conn.session
	n, state := s.flights.find(a.PacketID)
	switch state {
	case awaitAck:
		s.landed(conn.core, n)
	case awaitRec, awaitComp:
		return errWrongAck
	}
	return nil // unknown: it answers what an earlier connection sent
}

// onPubrec moves a QoS 2 message to its second half. PUBREL follows when it is durable that the client has the
// message (D2) [MQTT-4.3.3-4].
func (conn *Conn) onPubrec(a *packet.Ack) error {
	s := conn.session
	n, state := s.flights.find(a.PacketID)
	reply := ack{kind: packet.PUBREL, id: a.PacketID}
	switch {
	case state == awaitAck:
		return errWrongAck
	case state == landed:
		if a.Reason >= 0x80 {
			return nil
		}
		reply.reason = packet.ReasonPacketIdentifierNotFound
	case a.Reason >= 0x80:
		s.landed(conn.core, n) // [MQTT-4.4.0-2]
		return nil
	case state == awaitRec:
		s.flights.set(n, awaitComp)
		if s.queue != nil {
			reply.seq = s.queue.Received(n)
		}
	}
	conn.answer(reply)
	return nil
}

// onPubcomp ends a QoS 2 message to the client.
func (conn *Conn) onPubcomp(a *packet.Ack) error {
	s := conn.session
	n, state := s.flights.find(a.PacketID)
	switch state {
	case awaitComp:
		s.landed(conn.core, n)
	case awaitAck, awaitRec:
		return errWrongAck
	}
	return nil
}

// landed takes a message to the client out of flight: its identifier is free.
func (s *session) landed(c *Core, n uint64) {
	s.flights.land(n)
	if s.queue != nil {
		s.prompt.onLanded(c, n)
		s.queue.Ack(n)
	}
	c.wantPull(s)
}

var errWrongAck = &packet.Error{
	Reason: packet.ReasonProtocolError, Statement: "MQTT-4.3.2-4", Detail: "an acknowledgement that does not fit the QoS of its message",
}
