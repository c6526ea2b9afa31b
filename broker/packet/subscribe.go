package packet

// Subscription is one entry of SUBSCRIBE.
type Subscription struct {
	Filter                     []byte // with its $share/group/ prefix, if any
	QoS                        byte   // 0, 1 or 2
	NoLocal, RetainAsPublished bool   // 5.0
	RetainHandling             byte   // 5.0: 0, 1 or 2
}

// Subscribe is the SUBSCRIBE packet.
type Subscribe struct {
	PacketID       uint16
	SubscriptionID uint32 // 5.0; 0: none
	UserProperties []UserProperty
	Subscriptions  []Subscription // at least one
}

// Decode reads a SUBSCRIBE; the rules of [Publish.Decode] about memory hold. Every filter has then passed
// [CheckTopicFilter] and, in 5.0, [SplitShared].
func (p *Subscribe) Decode(f Frame, v Version) error {
	*p = Subscribe{UserProperties: p.UserProperties[:0], Subscriptions: p.Subscriptions[:0]}
	c := cursor{b: f.Body, v: v}
	p.PacketID = c.packetID("MQTT-2.2.1-3", "MQTT-2.3.1-1")
	if v == V5 {
		c.properties(inSubscribe)
		for c.next() {
			switch c.walk.id {
			case subscriptionID:
				p.SubscriptionID = c.walk.number
			case userProperty:
				p.UserProperties = append(p.UserProperties, c.walk.user())
			}
		}
	}
	if len(c.b) == 0 {
		c.fail(ReasonProtocolError, byVersion(v, "MQTT-3.8.3-2", "MQTT-3.8.3-3"), "SUBSCRIBE without a topic filter")
	}
	for len(c.b) > 0 {
		filter, shared := c.filter()
		p.Subscriptions = append(p.Subscriptions, c.subscription(filter, shared))
	}
	return c.end()
}

// Append appends the packet as version v has it; what v lacks is left out.
func (p *Subscribe) Append(dst []byte, v Version) []byte {
	at := len(dst) + 1
	dst = append(dst, byte(SUBSCRIBE)<<4|0x02, 0, byte(p.PacketID>>8), byte(p.PacketID)) // [MQTT-3.8.1-1]
	if v == V5 {
		properties := len(dst)
		dst = append(dst, 0)
		if p.SubscriptionID != 0 {
			dst = appendVarint(append(dst, subscriptionID), int(p.SubscriptionID))
		}
		dst = prefixLength(appendUsers(dst, p.UserProperties), properties)
	}
	for i := range p.Subscriptions {
		s := &p.Subscriptions[i]
		dst = append(appendData(dst, s.Filter), s.options(v))
	}
	return prefixLength(dst, at)
}

// Suback is the SUBACK packet: one reason per subscription, in order.
type Suback struct {
	PacketID       uint16
	Reasons        []Reason // before 5.0 every failure is sent as 0x80
	ReasonString   []byte   // nil: absent
	UserProperties []UserProperty
}

// Decode reads a SUBACK; the rules of [Publish.Decode] about memory hold.
func (p *Suback) Decode(f Frame, v Version) error {
	*p = Suback{Reasons: p.Reasons[:0], UserProperties: p.UserProperties[:0]}
	c := cursor{b: f.Body, v: v}
	p.PacketID = c.packetID("MQTT-2.2.1-6", "MQTT-2.3.1-7")
	if v == V5 {
		c.answer(1<<SUBACK, &p.ReasonString, &p.UserProperties)
	}
	if len(c.b) == 0 {
		c.fail(ReasonProtocolError, byVersion(v, "MQTT-3.8.4-6", ""), "SUBACK without a reason code")
	}
	for len(c.b) > 0 {
		r := c.reason(SUBACK)
		if v != V5 && r > ReasonGrantedQoS2 && r != ReasonUnspecifiedError {
			c.fail(ReasonProtocolError, "MQTT-3.9.3-2", "SUBACK with a return code it cannot have")
		}
		p.Reasons = append(p.Reasons, r)
	}
	return c.end()
}

// Append appends the packet as version v has it; what v lacks is left out.
func (p *Suback) Append(dst []byte, v Version) []byte {
	at := len(dst) + 1
	dst = append(dst, byte(SUBACK)<<4, 0, byte(p.PacketID>>8), byte(p.PacketID))
	if v == V5 {
		dst = appendAnswer(dst, p.ReasonString, p.UserProperties)
	}
	for _, r := range p.Reasons {
		if v != V5 && r >= ReasonUnspecifiedError {
			r = ReasonUnspecifiedError
		}
		dst = append(dst, byte(r))
	}
	return prefixLength(dst, at)
}

// Unsubscribe is the UNSUBSCRIBE packet.
type Unsubscribe struct {
	PacketID       uint16
	UserProperties []UserProperty
	Filters        [][]byte // at least one
}

// Decode reads an UNSUBSCRIBE; the rules of [Publish.Decode] about memory hold. Every filter has then passed
// [CheckTopicFilter] and, in 5.0, [SplitShared].
func (p *Unsubscribe) Decode(f Frame, v Version) error {
	*p = Unsubscribe{UserProperties: p.UserProperties[:0], Filters: p.Filters[:0]}
	c := cursor{b: f.Body, v: v}
	p.PacketID = c.packetID("MQTT-2.2.1-3", "MQTT-2.3.1-1")
	if v == V5 {
		c.properties(1 << UNSUBSCRIBE)
		for c.next() {
			p.UserProperties = append(p.UserProperties, c.walk.user())
		}
	}
	if len(c.b) == 0 {
		c.fail(ReasonProtocolError, "MQTT-3.10.3-2", "UNSUBSCRIBE without a topic filter")
	}
	for len(c.b) > 0 {
		filter, _ := c.filter()
		p.Filters = append(p.Filters, filter)
	}
	return c.end()
}

// Append appends the packet as version v has it; what v lacks is left out.
func (p *Unsubscribe) Append(dst []byte, v Version) []byte {
	at := len(dst) + 1
	dst = append(dst, byte(UNSUBSCRIBE)<<4|0x02, 0, byte(p.PacketID>>8), byte(p.PacketID)) // [MQTT-3.10.1-1]
	if v == V5 {
		dst = appendAnswer(dst, nil, p.UserProperties)
	}
	for _, filter := range p.Filters {
		dst = appendData(dst, filter)
	}
	return prefixLength(dst, at)
}

// Unsuback is the UNSUBACK packet: in 5.0 one reason per filter, in order.
type Unsuback struct {
	PacketID       uint16
	Reasons        []Reason // empty before 5.0
	ReasonString   []byte   // nil: absent
	UserProperties []UserProperty
}

// Decode reads an UNSUBACK; the rules of [Publish.Decode] about memory hold.
func (p *Unsuback) Decode(f Frame, v Version) error {
	*p = Unsuback{Reasons: p.Reasons[:0], UserProperties: p.UserProperties[:0]}
	c := cursor{b: f.Body, v: v}
	p.PacketID = c.packetID("MQTT-2.2.1-6", "MQTT-2.3.1-7")
	if v != V5 {
		return c.end()
	}
	c.answer(1<<UNSUBACK, &p.ReasonString, &p.UserProperties)
	if len(c.b) == 0 {
		c.fail(ReasonProtocolError, "", "UNSUBACK without a reason code")
	}
	for len(c.b) > 0 {
		p.Reasons = append(p.Reasons, c.reason(UNSUBACK))
	}
	return c.end()
}

// Append appends the packet as version v has it; what v lacks is left out.
func (p *Unsuback) Append(dst []byte, v Version) []byte {
	at := len(dst) + 1
	dst = append(dst, byte(UNSUBACK)<<4, 0, byte(p.PacketID>>8), byte(p.PacketID))
	if v == V5 {
		dst = appendAnswer(dst, p.ReasonString, p.UserProperties)
		for _, r := range p.Reasons {
			dst = append(dst, byte(r))
		}
	}
	return prefixLength(dst, at)
}

// filter reads a topic filter [MQTT-3.8.3-1] [MQTT-3.10.3-1]; shared says that it is one of a shared subscription.
func (c *cursor) filter() (filter []byte, shared bool) {
	filter = c.binary()
	if c.err != nil {
		return nil, false
	}
	c.failWith(checkTopicFilter(filter, c.v))
	if c.v != V5 { // before 5.0 $share is a level like any other
		return filter, false
	}
	group, rest, shared := cutShared(filter)
	if shared {
		c.failWith(checkShared(group, rest))
	}
	return filter, shared
}

// subscription reads the options that follow filter.
func (c *cursor) subscription(filter []byte, shared bool) Subscription {
	options := c.byte()
	s := Subscription{Filter: filter, QoS: options & 0x03}
	if c.v != V5 {
		if options > 2 { // 3.1.1 [MQTT-3-8.3-4]
			c.fail(ReasonMalformedPacket, "MQTT-3-8.3-4", "reserved bits or QoS 3 in a requested QoS")
		}
		return s
	}
	s.NoLocal = options&0x04 != 0
	s.RetainAsPublished = options&0x08 != 0
	s.RetainHandling = options >> 4 & 0x03
	switch {
	case options&0xC0 != 0:
		c.fail(ReasonMalformedPacket, "MQTT-3.8.3-5", "reserved bits in the subscription options")
	case s.QoS == 3:
		c.fail(ReasonProtocolError, "", "maximum QoS 3 in the subscription options")
	case s.RetainHandling == 3:
		c.fail(ReasonProtocolError, "", "retain handling 3 in the subscription options")
	case s.NoLocal && shared:
		c.fail(ReasonProtocolError, "MQTT-3.8.3-4", "no local on a shared subscription")
	}
	return s
}

// options is the byte that follows the filter.
func (s *Subscription) options(v Version) byte {
	if v != V5 {
		return s.QoS
	}
	options := s.QoS | s.RetainHandling<<4
	if s.NoLocal {
		options |= 0x04
	}
	if s.RetainAsPublished {
		options |= 0x08
	}
	return options
}
