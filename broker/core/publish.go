package core

import (
	"bytes"
	"errors"

	"forebay/broker/packet"
)

// publication is one message on its way in. There is one way in for all of them: devices, wills, and what the process
// itself publishes.
type publication struct {
	p      *packet.Publish // the topic resolved; whose SubscriptionIDs and TopicAlias are not looked at
	frame  packet.Frame    // as it was received, if it can be copied to subscribers; else zero
	v      packet.Version  // of frame
	from   string          // client identifier of the publisher, for no local
	origin string          // attachment that does not get it
	route  *route          // if known
	hash   uint32          // of the topic, for aliases; 0: not known yet
	chosen []*target       // the members of shared subscriptions that get it

	inbound []byte   // key of the row of its QoS 2 packet identifier, if that is to be durable
	changes []Change // of a publisher inside the process, in the same record
}

// onPublish takes a message from a client.
func (conn *Conn) onPublish(f packet.Frame) error {
	c := conn.core
	p := &c.in
	if err := p.Decode(f, conn.version); err != nil {
		return err
	}
	c.stats.Received++
	c.stats.ReceivedPayload += uint64(len(p.Payload))
	if len(p.SubscriptionIDs) > 0 {
		return &packet.Error{Reason: packet.ReasonProtocolError, Statement: "MQTT-3.3.4-6", Detail: "PUBLISH from a client with a subscription identifier"}
	}
	pub := &c.pub
	// Field by field: to make a whole one and copy it takes an eighth of all the time of a message. look sets the route,
	// and no client's message has an origin or changes.
	pub.p, pub.frame, pub.v, pub.from = p, f, conn.version, conn.clientID
	pub.hash, pub.chosen, pub.inbound = 0, nil, nil
	if !shortest(f) {
		pub.frame = packet.Frame{}
	}
	if p.TopicAlias != 0 {
		if err := conn.resolveAlias(p); err != nil {
			return err
		}
		pub.frame = packet.Frame{} // an alias is valid on its own connection only [MQTT-3.3.2-7]
	}
	verdict := conn.look(pub)
	if p.QoS == 0 {
		if verdict != packet.ReasonSuccess {
			c.stats.Refused++
			return nil
		}
		_, err := c.publish(pub)
		if err != nil {
			c.stats.Refused++ // nobody expects an answer
		}
		return nil
	}
	if p.QoS == 2 { // identifiers of QoS 1 are new every time [MQTT-4.3.2-5]
		if _, known := conn.session.inbound[p.PacketID]; known {
			// Not again: the client repeats what it has no PUBREC for [MQTT-4.3.3-10]. The record of the first one is
			// durable: this PUBREC leaves after its own, or in a connection whose CONNACK has waited for a later record.
			conn.answer(ack{kind: packet.PUBREC, id: p.PacketID})
			return nil
		}
	}
	if conn.unacked++; conn.version == packet.V5 && conn.unacked > int32(c.cfg.ReceiveMaximum) {
		return &packet.Error{Reason: packet.ReasonReceiveMaximumExceeded, Statement: "MQTT-3.3.4-7", Detail: "more unacknowledged messages than the receive maximum"}
	}
	conn.take(pub, verdict) // [MQTT-3.3.4-1]
	return nil
}

// shortest reports that the remaining length has no more bytes than it needs. Before 5.0 it may have more, but what
// is strange is not handed on.
func shortest(f packet.Frame) bool {
	n := len(f.Body)
	head := len(f.Whole) - n
	return head == 2 || n >= 1<<(7*(head-2))
}

// take publishes a message with QoS 1 or 2 and answers it: with success once it is durable where it must be
// [MQTT-4.3.2-4] [MQTT-4.3.3-8] (D1).
func (conn *Conn) take(pub *publication, verdict packet.Reason) {
	c, p, s := conn.core, pub.p, conn.session
	kind := packet.PUBACK
	if p.QoS == 2 {
		kind = packet.PUBREC
		if s.queue != nil && verdict == packet.ReasonSuccess {
			pub.inbound = inboundKey(s.clientID, p.PacketID) // D2
		}
	}
	id, qos := p.PacketID, p.QoS
	if verdict != packet.ReasonSuccess {
		c.stats.Refused++
		if conn.version == packet.V5 {
			conn.answer(ack{kind: kind, id: id, reason: verdict})
			return
		}
		// Before 5.0 a message that is not authorised gets its acknowledgement [MQTT-3.3.5-2] or the connection is closed.
		if qos == 2 {
			s.receive(id)
		}
		conn.answer(ack{kind: kind, id: id})
		return
	}
	seq, err := c.publish(pub)
	if err != nil {
		c.stats.Refused++
		if conn.version == packet.V5 {
			conn.answer(ack{kind: kind, id: id, reason: reasonOf(err)}) // [MQTT-4.3.3-9]
			return
		}
		conn.refuse(reasonOf(err)) // D5: never acknowledged, and nothing else says no
		return
	}
	if qos == 2 {
		s.receive(id)
	}
	a := ack{seq: seq, kind: kind, id: id}
	if pub.route.empty() {
		a.reason = packet.ReasonNoMatchingSubscribers
	}
	conn.answer(a)
}

// receive remembers a QoS 2 packet identifier until PUBREL.
func (s *session) receive(id uint16) {
	if s.inbound == nil {
		s.inbound = map[uint16]struct{}{}
	}
	s.inbound[id] = struct{}{}
}

// onPubrel ends a QoS 2 exchange with the client, whatever has become of the message [MQTT-4.3.3-13]. Once PUBCOMP has left the identifier may be used for another
// message, so a durable one must be off the disk first: after a crash we would take that message for a repetition.
func (conn *Conn) onPubrel(a *packet.Ack) {
	c, s := conn.core, conn.session
	reply := ack{kind: packet.PUBCOMP, id: a.PacketID} // [MQTT-4.3.3-11]
	if _, known := s.inbound[a.PacketID]; !known {
		// Released before, and the removal is durable: the same holds as for a repeated PUBLISH.
		reply.reason = packet.ReasonPacketIdentifierNotFound
		conn.answer(reply)
		return
	}
	if s.queue != nil {
		seq, err := c.append(&Record{Time: c.wall, Changes: []Change{{TableInbound, inboundKey(s.clientID, a.PacketID), nil}}})
		if err != nil {
			conn.refuse(reasonOf(err)) // the client repeats PUBREL when it is back
			return
		}
		reply.seq = seq
	}
	delete(s.inbound, a.PacketID) // [MQTT-4.3.3-12]
	conn.answer(reply)
}

// resolveAlias puts the topic of an alias into p, or learns the alias [MQTT-3.3.2-12].
func (conn *Conn) resolveAlias(p *packet.Publish) error {
	limit := int(conn.core.cfg.TopicAliasMaximum)
	if int(p.TopicAlias) > limit {
		return &packet.Error{Reason: packet.ReasonTopicAliasInvalid, Statement: "MQTT-3.3.2-9", Detail: "topic alias above the maximum"}
	}
	i := int(p.TopicAlias) - 1
	if len(p.Topic) > 0 {
		if conn.aliases == nil {
			conn.aliases = &aliases{}
		}
		if conn.aliases.theirs == nil {
			conn.aliases.theirs = make([][]byte, limit)
		}
		theirs := conn.aliases.theirs
		theirs[i] = append(theirs[i][:0], p.Topic...)
		return nil
	}
	if conn.aliases == nil || conn.aliases.theirs == nil || len(conn.aliases.theirs[i]) == 0 {
		return &packet.Error{Reason: packet.ReasonProtocolError, Detail: "topic alias that was not set"}
	}
	p.Topic = conn.aliases.theirs[i]
	return nil
}

// look finds the route of a message and decides whether its topic is allowed. Both are remembered with the topic: most
// clients publish to the one they have just published to.
func (conn *Conn) look(pub *publication) packet.Reason {
	c, topic := conn.core, pub.p.Topic
	if conn.latest == nil {
		conn.latest = &latest{}
	}
	last := conn.latest
	if last.route != nil && last.route.generation == c.router.generation && bytes.Equal(last.topic, topic) {
		pub.route = last.route
		return last.verdict
	}
	last.topic = append(last.topic[:0], topic...)
	last.verdict = c.checkTopic(topic)
	if last.verdict == packet.ReasonSuccess {
		if a := c.cfg.Authorizer; a != nil && !a.MayPublish(conn.clientID, conn.username, topic) {
			last.verdict = packet.ReasonNotAuthorized
		}
	}
	last.route = nil
	if last.verdict == packet.ReasonSuccess {
		last.route = c.router.find(topic)
	}
	pub.route = last.route
	return last.verdict
}

// checkTopic refuses topics that clients may not publish to: those that begin with $ are the server's (4.7.2), and
// those beyond the limits.
func (c *Core) checkTopic(topic []byte) packet.Reason {
	if len(topic) == 0 || topic[0] == '$' || len(topic) > c.cfg.TopicSize || 1+bytes.Count(topic, []byte{'/'}) > c.cfg.TopicLevels {
		return packet.ReasonTopicNameInvalid
	}
	return packet.ReasonSuccess
}

// errRetainedFull is the refusal of a message that should be retained.
var errRetainedFull = errors.New("core: no room for another retained message")

// reasonOf is what a client is told of an error of the log.
func reasonOf(err error) packet.Reason {
	if errors.Is(err, ErrFull) || errors.Is(err, errRetainedFull) {
		return packet.ReasonQuotaExceeded
	}
	return packet.ReasonImplementationSpecificError
}

// publish is the only way in, one message after the other [MQTT-4.6.0-5] [MQTT-4.6.0-6]. Whatever must be durable is appended as one record before anybody gets the message, so
// that a refusal is one for all. seq is what the acknowledgement waits for; 0: nothing.
func (c *Core) publish(pub *publication) (seq uint64, err error) {
	p := pub.p
	if pub.route == nil {
		pub.route = c.router.find(p.Topic)
	}
	if len(pub.route.shared) > 0 {
		c.choose(pub)
	}
	p.Dup = false // [MQTT-3.3.1-3]
	c.encodedOf = nil
	// Most messages are QoS 0 and for live clients only: they make no record.
	if p.QoS > 0 || p.Retain || len(pub.route.attached) > 0 || len(pub.changes) > 0 {
		if seq, err = c.store(pub); err != nil {
			return 0, err
		}
	}
	c.deliver(pub)
	return seq, nil
}

// store appends the record of a publication, if it needs one, and keeps it if it is to be retained.
func (c *Core) store(pub *publication) (seq uint64, err error) {
	r := &c.record
	*r = Record{Time: c.wall, Deliveries: r.Deliveries[:0], Changes: r.Changes[:0]}
	c.addDeliveries(r, pub)
	keep, saved, err := c.addRetained(r, pub)
	if err != nil {
		return 0, err
	}
	if pub.inbound != nil {
		r.Changes = append(r.Changes, Change{TableInbound, pub.inbound, []byte{rowVersion}})
	}
	r.Changes = append(r.Changes, pub.changes...)
	if len(r.Deliveries) > 0 {
		r.Message = c.encode(pub)
	}
	if len(r.Deliveries) > 0 || len(r.Changes) > 0 {
		seq, err = c.append(r)
		if err != nil && (pub.p.QoS > 0 || len(pub.changes) > 0) {
			return 0, err
		}
		if err != nil {
			c.stats.DroppedFull++ // no acknowledgement promises it
		}
	}
	if keep {
		c.keep(pub, saved)
	}
	return seq, nil
}

// addDeliveries lists the durable consumers [MQTT-4.5.0-1].
func (c *Core) addDeliveries(r *Record, pub *publication) {
	p := pub.p
	if p.QoS > 0 {
		for i := range pub.route.queued {
			if t := pub.route.queued[i].of(pub); !t.nothing {
				r.add(t, p)
			}
		}
		for _, t := range pub.chosen {
			if t.session.queue != nil {
				r.add(t, p)
			}
		}
	}
	for i := range pub.route.attached {
		t := &pub.route.attached[i]
		qos := t.effective(p.QoS)
		if qos == 0 || t.attachment.Name == pub.origin {
			continue
		}
		d := Delivery{Consumer: t.queue, Options: qos, Hold: qos == 2}
		if p.Retain {
			d.Options |= OptionRetain
		}
		r.Deliveries = append(r.Deliveries, d)
	}
}

// add lists a session with a queue.
func (r *Record) add(t *target, p *packet.Publish) {
	qos := min(p.QoS, t.qos) // [MQTT-3.8.4-8] [MQTT-4.8.2-3]
	if qos == 0 {
		return
	}
	d := Delivery{Consumer: t.session.queue.ID(), Options: qos, Hold: qos == 2}
	if p.Retain && t.retainAsPublished {
		d.Options |= OptionRetain // [MQTT-3.3.1-13]
	}
	if len(t.ids) > 0 {
		d.Extra = appendIDs(nil, t.ids)
	}
	r.Deliveries = append(r.Deliveries, d)
}

// addRetained decides whether the message is to be retained [MQTT-3.3.1-5] [MQTT-3.3.1-8], and makes its row part of
// the record if an acknowledgement promises it.
func (c *Core) addRetained(r *Record, pub *publication) (keep, saved bool, err error) {
	p := pub.p
	if !p.Retain {
		return false, false, nil
	}
	if len(p.Payload) > 0 && !c.mayRetain(p.Topic, len(p.Topic)+len(c.encode(pub))) {
		if p.QoS > 0 {
			return false, false, errRetainedFull
		}
		c.stats.DroppedRetained++
		return false, false, nil
	}
	if p.QoS == 0 || volatile(p.Topic) {
		return true, false, nil
	}
	change := Change{Table: TableRetained, Key: p.Topic}
	if len(p.Payload) > 0 {
		change = retainedRow(&retained{topic: string(p.Topic), publisher: pub.from, time: c.wall, qos: p.QoS, body: c.encode(pub)})
	}
	r.Changes = append(r.Changes, change)
	return true, true, nil
}

// of returns what the target's session gets of this message.
func (t *target) of(pub *publication) *target {
	if t.own != nil && t.session.clientID == pub.from {
		return t.own
	}
	return t
}

// effective returns the QoS in which an attachment gets a message.
func (t *attachedTarget) effective(qos byte) byte { return min(max(qos, t.lift), t.qos) }

// Publish publishes a message from inside the process. Nothing of p is kept but Done. It may have any topic name
// that is valid, those of $SYS included.
func (c *Core) Publish(p *Inject) {
	seq, err := c.inject(p)
	switch {
	case p.Done == nil:
	case err != nil || seq <= c.durable:
		p.Done(err)
	case c.failed != nil:
		p.Done(c.failed)
	default:
		c.dones = append(c.dones, done{seq, p.Done})
	}
}

func (c *Core) inject(p *Inject) (uint64, error) {
	if err := packet.CheckTopicName(p.Topic); err != nil {
		return 0, err
	}
	if p.QoS > 2 || len(p.Topic) > c.cfg.TopicSize || !encodable(&p.Publish) {
		return 0, &packet.Error{Reason: packet.ReasonImplementationSpecificError, Detail: "message that no client could have sent"}
	}
	c.injected = p.Publish
	seq, err := c.publish(&publication{p: &c.injected, origin: p.Origin, changes: p.Changes})
	c.injected = packet.Publish{}
	return seq, err
}

// encodable reports that a message from inside the process can be encoded, and that what comes out can be read.
func encodable(p *packet.Publish) bool {
	size := len(p.Payload) + len(p.ContentType) + len(p.ResponseTopic) + len(p.Correlation)
	long := len(p.ContentType) > packet.MaxString || len(p.ResponseTopic) > packet.MaxString || len(p.Correlation) > packet.MaxString
	for _, u := range p.UserProperties {
		size += len(u.Name) + len(u.Value)
		long = long || len(u.Name) > packet.MaxString || len(u.Value) > packet.MaxString
	}
	if long || size > largestPacket {
		return false
	}
	if p.ContentType == nil && p.ResponseTopic == nil && len(p.UserProperties) == 0 && p.PayloadFormat <= 1 {
		return true // nothing else has a form that could be wrong
	}
	probe := *p
	probe.Payload, probe.TopicAlias, probe.SubscriptionIDs = nil, 0, nil
	probe.QoS, probe.PacketID, probe.Dup = 0, 0, false
	return decodeMessage(&packet.Publish{}, probe.Append(nil, packet.V5)) == nil
}
