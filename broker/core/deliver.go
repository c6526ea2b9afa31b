package core

import (
	"encoding/binary"
	"errors"

	"forebay/broker/packet"
)

// form is a publication as it goes to many: encoded once for each "has an identifier" of 3.x, and of 5.0 for each use
// of aliases.
type form struct {
	whole       []byte // valid if Core.formed says so
	idOffset    int    // 0: no identifier
	aliasOffset int    // 0: no alias
	buffer      []byte
}

// formOf returns the form for a version and QoS. It is what the publisher sent, if that fits, and is valid until the
// next publication.
func (c *Core) formOf(pub *publication, v packet.Version, qos byte, do aliasing) *form {
	i := 0
	if v == packet.V5 {
		i = 2 + 2*int(do)
	}
	if qos > 0 {
		i++
	}
	fm := &c.forms[i]
	if c.formed&(1<<i) != 0 {
		return fm
	}
	c.formed |= 1 << i
	p := pub.p
	fm.aliasOffset = 0
	// 3.1 and 3.1.1 have the same PUBLISH.
	if do == aliasNone && pub.frame.Whole != nil && (pub.v == packet.V5) == (v == packet.V5) && (p.QoS > 0) == (qos > 0) {
		fm.whole, fm.idOffset = pub.frame.Whole, 0
		if qos > 0 {
			fm.idOffset = packet.PublishIDOffset(pub.frame)
		}
		return fm
	}
	was := *p
	p.QoS, p.PacketID = min(qos, 1), uint16(min(qos, 1))
	p.TopicAlias, p.SubscriptionIDs = 0, nil
	if do != aliasNone {
		p.TopicAlias = 1
	}
	if do == aliasUse {
		p.Topic = nil
	}
	fm.buffer = p.Append(fm.buffer[:0], v)
	if do != aliasNone {
		fm.aliasOffset = packet.PublishAliasOffset(p, len(fm.buffer))
	}
	*p = was
	fm.whole, fm.idOffset = fm.buffer, 0
	if qos > 0 {
		fm.idOffset = packet.PublishIDOffset(wholeFrame(fm.whole, v))
	}
	return fm
}

// wholeFrame is the frame of a packet we have encoded ourselves.
func wholeFrame(b []byte, v packet.Version) packet.Frame {
	f, n, err := packet.Next(b, v, 0)
	if err != nil || n != len(b) {
		panic("BUG: core: an encoded packet cannot be read")
	}
	return f
}

// encode returns the publication as it stands in a Record. It is encoded once and valid until the next publication.
func (c *Core) encode(pub *publication) []byte {
	if c.encodedOf == pub {
		return c.encoded
	}
	p := pub.p
	was := *p
	p.QoS, p.PacketID = max(1, p.QoS), 1
	p.TopicAlias, p.SubscriptionIDs = 0, nil
	c.encoded = p.Append(bounded(c.encoded)[:0], packet.V5)
	*p = was
	c.encodedOf = pub
	return c.encoded
}

// stored is a message that waits: in a Record's form, with what one session gets of it.
type stored struct {
	body    []byte // as Record.Message
	time    int64  // arrival, Unix ms
	options byte
	access  uint32 // Core.accessChanges when it was known that the client may have it; 0: it is not known
	ids     []uint32
}

// backlog is the queue of a session in memory: a ring that is empty most of the time.
type backlog struct {
	waiting []stored
	head    int
	bytes   int
}

// len may be asked of a nil backlog.
func (b *backlog) len() int {
	if b == nil {
		return 0
	}
	return len(b.waiting) - b.head
}

// cost is what one message counts against the bounds; several sessions share one body, and each counts it.
func (m *stored) cost() int { return len(m.body) + 64 }

func (b *backlog) push(m stored) {
	if b.head > 0 && len(b.waiting) == cap(b.waiting) {
		n := copy(b.waiting, b.waiting[b.head:])
		clear(b.waiting[n:])
		b.waiting, b.head = b.waiting[:n], 0
	}
	b.waiting = append(b.waiting, m)
	b.bytes += m.cost()
}

func (b *backlog) pop() stored {
	m := b.waiting[b.head]
	b.waiting[b.head] = stored{}
	b.bytes -= m.cost()
	if b.head++; b.head == len(b.waiting) {
		*b = backlog{}
	}
	return m
}

// deliver gives a publication to everybody who gets it now, and wakes those whose queue has got it.
func (c *Core) deliver(pub *publication) {
	if pub.route.empty() {
		return
	}
	c.formed, c.shared = 0, nil
	c.work += pub.route.size()
	for i := range pub.route.memory {
		if t := pub.route.memory[i].of(pub); !t.nothing {
			c.deliverTo(t, pub, min(pub.p.QoS, t.qos)) // [MQTT-3.8.4-8]
		}
	}
	for i := range pub.route.queued {
		if t := pub.route.queued[i].of(pub); !t.nothing {
			c.deliverQueued(t, pub)
		}
	}
	for _, t := range pub.chosen {
		if t.session.queue != nil {
			c.deliverQueued(t, pub)
		} else {
			c.deliverTo(t, pub, min(pub.p.QoS, t.qos)) // [MQTT-4.8.2-3]
		}
	}
	for i := range pub.route.attached {
		t := &pub.route.attached[i]
		if t.effective(pub.p.QoS) == 0 && t.attachment.Name != pub.origin && t.attachment.Live != nil {
			t.attachment.Live(pub.p)
		}
	}
}

// deliverQueued gives a publication to a session with a queue: with QoS 1 and 2 it stands there already.
func (c *Core) deliverQueued(t *target, pub *publication) {
	switch {
	case t.session.conn == nil:
	case min(pub.p.QoS, t.qos) == 0:
		c.deliverTo(t, pub, 0)
	default:
		c.wantPull(t.session)
	}
}

// deliverTo sends a publication to a connected session, with QoS 1 and 2 to one in memory only.
func (c *Core) deliverTo(t *target, pub *publication, qos byte) {
	conn := t.session.conn
	if conn == nil || !conn.established || conn.ending {
		return
	}
	retain := pub.p.Retain && t.retainAsPublished // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
	if len(t.ids) > 0 && conn.version == packet.V5 {
		c.deliverWithIDs(t, pub, options(qos, retain))
		return
	}
	if qos == 0 {
		if conn.overBound() {
			c.stats.DroppedSlow++
			return
		}
		conn.sendForm(pub, conn.wayOf(pub, 0), firstByte(0, retain), 0)
		return
	}
	s := t.session
	if s.backlog.len() > 0 || s.flights.count >= int(conn.inflight) || conn.overBound() {
		c.queueInMemory(s, c.share(pub, options(qos, retain), t.ids))
		return
	}
	w := conn.wayOf(pub, qos)
	if uint64(len(w.form.whole)) > uint64(conn.maxPacket) {
		c.stats.DroppedTooLarge++ // [MQTT-3.1.2-25]
		return
	}
	if !s.flights.add(s.next, awaiting(qos)) {
		c.queueInMemory(s, c.share(pub, options(qos, retain), t.ids))
		return
	}
	conn.sendForm(pub, w, firstByte(qos, retain), identifier(s.next))
	s.next++
}

// deliverWithIDs is deliverTo for a message that carries the session's own subscription identifiers [MQTT-3.3.4-3].
func (c *Core) deliverWithIDs(t *target, pub *publication, options byte) {
	if options&OptionQoS > 0 {
		c.sendInMemory(t.session, c.share(pub, options, t.ids))
		return
	}
	conn, p := t.session.conn, pub.p
	if conn.overBound() {
		c.stats.DroppedSlow++
		return
	}
	was := *p
	p.QoS, p.PacketID, p.Retain = 0, 0, options&OptionRetain != 0
	p.TopicAlias, p.SubscriptionIDs = 0, t.ids
	_ = conn.sendFitting(p) // what is too large has been counted
	*p = was
}

func options(qos byte, retain bool) byte {
	if retain {
		return qos | OptionRetain
	}
	return qos
}

// awaiting is the state of a message that is sent with QoS 1 or 2.
func awaiting(qos byte) flight {
	if qos == 2 {
		return awaitRec
	}
	return awaitAck
}

// firstByte is that of a PUBLISH that is no repetition [MQTT-3.3.1-2] [MQTT-4.3.1-1] [MQTT-4.3.2-2] [MQTT-4.3.3-2].
func firstByte(qos byte, retain bool) byte {
	first := byte(packet.PUBLISH)<<4 | qos<<1
	if retain {
		first |= 1
	}
	return first
}

// share returns a publication as something that can wait. All sessions share one copy.
func (c *Core) share(pub *publication, options byte, ids []uint32) stored {
	if c.shared == nil {
		c.shared = append([]byte(nil), c.encode(pub)...)
	}
	return stored{body: c.shared, time: c.wall, options: options, access: c.accessChanges, ids: ids}
}

// sendInMemory sends a message with QoS 1 or 2 to a session in memory, or queues it.
func (c *Core) sendInMemory(s *session, m stored) {
	if s.backlog.len() > 0 || !s.sendNext(c, &m) {
		c.queueInMemory(s, m)
	}
}

// sendNext sends m with the session's next number. It returns false if m has to wait.
func (s *session) sendNext(c *Core, m *stored) bool {
	conn := s.conn
	if s.flights.count >= int(conn.inflight) {
		return false // [MQTT-3.3.4-9]; an acknowledgement goes on, other packets do not wait [MQTT-3.3.4-10] [MQTT-4.9.0-3]
	}
	if conn.overBound() {
		s.blocked = true
		return false
	}
	if !s.flights.add(s.next, awaiting(m.options&OptionQoS)) {
		return false
	}
	if conn.sendStored(m, identifier(s.next), 0) != nil {
		s.flights.land(s.next)
	}
	s.next++
	return true
}

// queueInMemory keeps a message for a connected session that has no room. It ends a session that asks for too much.
func (c *Core) queueInMemory(s *session, m stored) {
	cost := m.cost()
	if s.conn.overBound() {
		s.blocked = true
	}
	if s.backlog == nil {
		s.backlog = &backlog{}
	}
	if s.backlog.len() >= c.cfg.QueueMessages || s.backlog.bytes+cost > c.cfg.QueueBytes || c.memory()+cost > c.cfg.MemoryBytes {
		c.condemn(s.conn, packet.ReasonQuotaExceeded)
		return
	}
	s.backlog.push(m)
	c.memoryWaiting += cost
}

// memory is what output and the queues in memory take, in bytes.
func (c *Core) memory() int { return c.pool.used + c.memoryWaiting }

// condemn ends a connection at the next Flush: not at once, because it happens while routes are walked.
func (c *Core) condemn(conn *Conn, reason packet.Reason) {
	if conn.ending {
		return
	}
	conn.ending = true
	c.condemned = append(c.condemned, condemned{conn, reason})
}

type condemned struct {
	conn   *Conn
	reason packet.Reason
}

// sending says what is known of earlier transmissions of a message.
type sending byte

const (
	repeated sending = 1 << iota // it was sent, or may have been
	begun                        // so it must not expire
)

// The reasons why a stored message is not sent; the text is the cause under which a queue counts it.
var (
	errExpired  = errors.New("expired")
	errTooLarge = errors.New("too-large")
	errDenied   = errors.New("denied")
)

// sendStored decodes a stored message and sends it as this connection and its session get it: version, QoS, retain
// flag, subscription identifiers, what is left of its expiry [MQTT-3.3.2-6]. A message whose transmission has begun does
// not expire any more [MQTT-4.3.3-7].
func (conn *Conn) sendStored(m *stored, id uint16, state sending) error {
	c := conn.core
	p := &c.storedOut
	if err := decodeMessage(p, m.body); err != nil {
		panic("BUG: core: a stored message cannot be read: " + err.Error())
	}
	// One with QoS 2 that the client may have in part has to be finished.
	if !conn.maySend(m, p.Topic) && (m.options&OptionQoS < 2 || state&begun == 0) {
		c.stats.DroppedDenied++
		return errDenied
	}
	if p.HasExpiry {
		p.Expiry = remaining(p.Expiry, m.time, c.wall)
		if p.Expiry == 0 && state&begun == 0 {
			c.stats.DroppedExpired++
			return errExpired // [MQTT-3.3.2-5]
		}
		p.Expiry = max(p.Expiry, 1)
	}
	p.QoS, p.PacketID, p.Dup = m.options&OptionQoS, id, state&repeated != 0 // [MQTT-3.3.1-1]
	p.Retain = m.options&OptionRetain != 0
	p.SubscriptionIDs = m.ids
	err := conn.sendFitting(p)
	p.SubscriptionIDs = nil
	return err
}

// sendFitting encodes a message for this client and no other, with an alias if that saves bytes.
func (conn *Conn) sendFitting(p *packet.Publish) error {
	topic := p.Topic
	size, do := conn.useAlias(p)
	if uint64(size) > uint64(conn.maxPacket) {
		conn.core.stats.DroppedTooLarge++
		return errTooLarge // [MQTT-3.1.2-25]
	}
	if do == aliasSet {
		conn.aliases.ours.set(topic, p.TopicAlias)
	}
	conn.writePublish(p, size)
	conn.core.stats.Sent++
	conn.core.stats.SentPayload += uint64(len(p.Payload))
	return nil
}

// remaining is what is left of an expiry in seconds: 0 means that the message has expired.
func remaining(expiry uint32, arrived, now int64) uint32 {
	waited := max(0, now-arrived) / 1000
	return uint32(max(0, int64(expiry)-waited))
}

// decodeMessage decodes an encoded 5.0 PUBLISH into p, which aliases it.
func decodeMessage(p *packet.Publish, body []byte) error {
	f, n, err := packet.Next(body, packet.V5, 0)
	if err != nil {
		return err
	}
	if n == 0 || n != len(body) || f.Type() != packet.PUBLISH {
		return errRow
	}
	return p.Decode(f, packet.V5)
}

// appendIDs encodes subscription identifiers as they stand in Delivery.Extra.
func appendIDs(b []byte, ids []uint32) []byte {
	for _, id := range ids {
		b = binary.AppendUvarint(b, uint64(id))
	}
	return b
}

// decodeIDs is its inverse; what cannot be read ends the list.
func decodeIDs(ids []uint32, extra []byte) []uint32 {
	for len(extra) > 0 {
		id, n := binary.Uvarint(extra)
		if n <= 0 || id == 0 || id > packet.MaxRemaining {
			break
		}
		ids = append(ids, uint32(id))
		extra = extra[n:]
	}
	return ids
}
