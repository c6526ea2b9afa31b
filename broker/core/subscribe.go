package core

import (
	"bytes"

	"forebay/broker/packet"
)

// onSubscribe makes subscriptions: all of a packet become durable in one record, then they count, and SUBACK follows
// once they are on disk (D3) [MQTT-3.8.4-1].
func (conn *Conn) onSubscribe(f packet.Frame) error {
	c := conn.core
	p := &c.subscribe
	if err := p.Decode(f, conn.version); err != nil {
		return err
	}
	s := conn.session
	reasons := make([]packet.Reason, len(p.Subscriptions)) // one for each, in order [MQTT-3.8.4-6] [MQTT-3.9.3-1]
	made := make([]*subscription, len(p.Subscriptions))
	var record Record
	fresh := 0
	for i := range p.Subscriptions { // as if each had come by itself [MQTT-3.8.4-5]
		want := &p.Subscriptions[i]
		add := 0
		if s.subscriptions.find(want.Filter) == nil {
			add = 1
		}
		if reasons[i] = conn.checkSubscription(want, fresh+add); reasons[i] != packet.ReasonSuccess {
			continue
		}
		fresh += add
		reasons[i] = packet.Reason(want.QoS) // [MQTT-3.8.4-7]
		made[i] = &subscription{
			filter: string(want.Filter), qos: want.QoS, id: p.SubscriptionID,
			// What 5.0 says with options, a bridge of 3.x has said with its version.
			noLocal: want.NoLocal || conn.bridge, retainAsPublished: want.RetainAsPublished || conn.bridge,
			retainHandling: want.RetainHandling,
		}
		if s.queue != nil {
			record.Changes = append(record.Changes, subscriptionRow(s.clientID, made[i]))
		}
	}
	seq, err := conn.changeSubscriptions(&record)
	if err != nil {
		for i := range made {
			if made[i] != nil {
				made[i], reasons[i] = nil, reasonOf(err)
			}
		}
	}
	for _, sub := range made {
		if sub != nil {
			s.subscribe(c, sub)
		}
	}
	// What the first slice of retained messages puts into the queue is durable before SUBACK too.
	seq = max(seq, s.fetchRetained(c))
	suback := packet.Suback{PacketID: p.PacketID, Reasons: reasons} // [MQTT-3.8.4-2]
	plain := suback.Append(nil, conn.version)
	suback.ReasonString = conn.why(reasons)
	conn.answerFitting(ack{seq: seq, kind: packet.SUBACK, body: suback.Append(nil, conn.version)}, plain)
	c.wantPull(s)
	return nil
}

// checkSubscription decides about one filter; fresh is the number of new ones in this packet up to it.
func (conn *Conn) checkSubscription(want *packet.Subscription, fresh int) packet.Reason {
	c := conn.core
	// A malformed one of 5.0 has ended the connection (4.13.1); older clients know nothing of shared subscriptions, but
	// may use them.
	_, _, _, err := packet.SplitShared(want.Filter)
	switch a := c.cfg.Authorizer; {
	case err != nil:
		return packet.ReasonTopicFilterInvalid
	case len(want.Filter) > c.cfg.TopicSize || 1+bytes.Count(want.Filter, []byte{'/'}) > c.cfg.TopicLevels:
		return packet.ReasonTopicFilterInvalid
	case conn.session.subscriptions.len()+fresh > c.cfg.Subscriptions:
		return packet.ReasonQuotaExceeded
	case a != nil && a.MaySubscribe(conn.clientID, conn.username, want.Filter) == AccessNone:
		return packet.ReasonNotAuthorized
	}
	return packet.ReasonSuccess
}

// changeSubscriptions appends the changes of a session with a queue.
func (conn *Conn) changeSubscriptions(r *Record) (uint64, error) {
	if len(r.Changes) == 0 {
		return 0, nil
	}
	r.Time = conn.core.wall
	return conn.core.append(r)
}

// subscribe puts a subscription in force, in the place of an earlier one with the same filter [MQTT-3.8.4-3].
func (s *session) subscribe(c *Core, sub *subscription) {
	old := s.subscriptions.find([]byte(sub.filter))
	if old != nil {
		c.router.remove(old)
		s.stopRetained(old)
	}
	c.router.add(s, sub)
	switch {
	case sub.share != nil: // retained messages are for those who ask for all of a topic (3.3.1.3, 4.8.2)
	case sub.retainHandling == 2: // [MQTT-3.3.1-11]
	case sub.retainHandling == 1 && old != nil: // [MQTT-3.3.1-10]
	default:
		s.retained = append(s.retained, retainedJob{sub: sub, queueing: s.queue != nil && sub.qos > 0}) // [MQTT-3.3.1-9] [MQTT-3.8.4-4]
	}
}

// onUnsubscribe ends subscriptions. What is under way to the client goes on [MQTT-3.10.4-3].
func (conn *Conn) onUnsubscribe(f packet.Frame) error {
	c := conn.core
	p := &c.unsubscribe
	if err := p.Decode(f, conn.version); err != nil {
		return err
	}
	s := conn.session
	var record Record
	for _, filter := range p.Filters {
		if s.queue != nil && s.subscriptions.find(filter) != nil {
			record.Changes = append(record.Changes, Change{TableSubscriptions, rowKey(s.clientID, string(filter)), nil})
		}
	}
	seq, err := conn.changeSubscriptions(&record)
	if err != nil && conn.version != packet.V5 {
		conn.refuse(reasonOf(err)) // UNSUBACK has no way to say so
		return nil
	}
	unsuback := packet.Unsuback{PacketID: p.PacketID} // [MQTT-3.10.4-4] [MQTT-3.10.4-5]
	for _, filter := range p.Filters {                // as if each had come by itself [MQTT-3.10.4-6]
		reason := packet.ReasonNoSubscriptionExisted
		// Filters are compared byte by byte [MQTT-3.10.4-1].
		if sub := s.subscriptions.find(filter); sub != nil && err != nil {
			reason = packet.ReasonImplementationSpecificError // of quotas UNSUBACK knows nothing
		} else if sub != nil {
			c.router.remove(sub) // [MQTT-3.10.4-2]
			s.stopRetained(sub)
			reason = packet.ReasonSuccess
		}
		unsuback.Reasons = append(unsuback.Reasons, reason) // [MQTT-3.11.3-1]
	}
	if conn.version != packet.V5 {
		unsuback.Reasons = nil
	}
	plain := unsuback.Append(nil, conn.version)
	unsuback.ReasonString = conn.why(unsuback.Reasons)
	conn.answerFitting(ack{seq: seq, kind: packet.UNSUBACK, body: unsuback.Append(nil, conn.version)}, plain)
	return nil
}
