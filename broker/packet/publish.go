package packet

import (
	"encoding/binary"
	"slices"
)

// Publish is the PUBLISH packet. The slices alias the frame it was decoded from.
type Publish struct {
	Dup, Retain bool
	QoS         byte   // 0, 1 or 2
	PacketID    uint16 // 0 for QoS 0
	Topic       []byte // empty with an alias in 5.0
	Payload     []byte
	PublishProperties
}

// PublishProperties are the properties of an application message; all zero before 5.0.
type PublishProperties struct {
	HasPayloadFormat bool
	PayloadFormat    byte // 0: bytes; 1: UTF-8, which is not checked here
	HasExpiry        bool
	Expiry           uint32 // seconds
	TopicAlias       uint16 // 0: none
	ContentType      []byte // nil: absent
	ResponseTopic    []byte // nil: absent
	HasCorrelation   bool   // Correlation may be empty and yet present
	Correlation      []byte
	SubscriptionIDs  []uint32       // 1 to 268,435,455 each, in order
	UserProperties   []UserProperty // in order
}

// Decode reads a PUBLISH that [Next] has returned. Like every Decode it overwrites every field, reuses the capacity
// of p's lists, aliases f, and allocates nothing once those have grown; they stay below some twenty times the size
// of the packet. The error is an *Error; p is then not to be used.
func (p *Publish) Decode(f Frame, v Version) error {
	p.Dup = f.First&0x08 != 0
	p.QoS = f.First >> 1 & 0x03
	p.Retain = f.First&0x01 != 0
	p.PacketID = 0
	p.PublishProperties.reset()
	c := cursor{b: f.Body, v: v}
	p.Topic = c.binary() // [MQTT-3.3.2-1]
	if p.QoS > 0 {
		p.PacketID = c.packetID("MQTT-2.2.1-3", "MQTT-2.3.1-1")
	}
	if v == V5 {
		if len(c.b) > 0 && c.b[0] == 0 { // most have no properties
			c.b = c.b[1:]
		} else {
			p.PublishProperties.decode(&c)
		}
	}
	if len(p.Topic) == 0 && v == V5 {
		if p.TopicAlias == 0 {
			c.fail(ReasonProtocolError, "", "neither a topic name nor a topic alias")
		}
	} else if len(p.Topic) == 0 || !plainName(p.Topic) {
		c.failWith(checkTopicName(p.Topic, v, "MQTT-3.3.2-2"))
	}
	p.Payload = c.b
	c.b = nil
	return c.end()
}

// Append appends the packet as version v has it; before 5.0 the properties are left out. Like every Append it does
// not check what the caller put in: text must have passed the rules of topics and UTF-8, a string or binary data
// beyond [MaxString] or a packet beyond [MaxPacket] is the caller's bug and panics.
func (p *Publish) Append(dst []byte, v Version) []byte {
	remaining, properties := p.sizes(v)
	dst = slices.Grow(dst, 1+varintSize(remaining)+remaining)
	first := byte(PUBLISH)<<4 | p.QoS<<1
	if p.Dup && p.QoS > 0 { // [MQTT-3.3.1-2]
		first |= 0x08
	}
	if p.Retain {
		first |= 0x01
	}
	dst = appendVarint(append(dst, first), remaining)
	dst = appendData(dst, p.Topic)
	if p.QoS > 0 { // [MQTT-2.2.1-2]
		dst = append(dst, byte(p.PacketID>>8), byte(p.PacketID))
	}
	if v == V5 {
		dst = appendVarint(dst, properties) // [MQTT-2.2.2-1]
		if properties > 0 {
			dst = p.PublishProperties.append(dst)
		}
	}
	return append(dst, p.Payload...)
}

// PublishSize returns the exact number of bytes that [Publish.Append] would append, without encoding.
func PublishSize(p *Publish, v Version) int {
	remaining, _ := p.sizes(v)
	return 1 + varintSize(remaining) + remaining
}

// PublishIDOffset returns the index into f.Whole of the packet identifier of a PUBLISH with QoS 1 or 2 that
// has been decoded without error.
func PublishIDOffset(f Frame) int {
	return len(f.Whole) - len(f.Body) + 2 + int(binary.BigEndian.Uint16(f.Body))
}

// PublishAliasOffset returns the index of the topic alias, which is not 0, in the size bytes that [Publish.Append] has
// appended for 5.0.
func PublishAliasOffset(p *Publish, size int) int {
	behind := len(p.Payload)
	for _, u := range p.UserProperties {
		behind += 5 + len(u.Name) + len(u.Value)
	}
	return size - behind - 2 // the alias stands before the user properties
}

// sizes returns the remaining length and, for 5.0, the property length.
func (p *Publish) sizes(v Version) (remaining, properties int) {
	remaining = 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > 0 {
		remaining += 2
	}
	if v == V5 {
		properties = p.PublishProperties.size()
		remaining += varintSize(properties) + properties
	}
	return remaining, properties
}

// reset makes every property absent and keeps the capacity of the lists.
func (p *PublishProperties) reset() {
	*p = PublishProperties{SubscriptionIDs: p.SubscriptionIDs[:0], UserProperties: p.UserProperties[:0]}
}

// decode reads the properties of a PUBLISH.
func (p *PublishProperties) decode(c *cursor) {
	c.properties(inPublish)
	for c.next() {
		p.take(c)
	}
}

// take sets the property that next stands on.
func (p *PublishProperties) take(c *cursor) {
	switch c.walk.id {
	case payloadFormat:
		p.HasPayloadFormat, p.PayloadFormat = true, byte(c.walk.number)
	case messageExpiry:
		p.HasExpiry, p.Expiry = true, c.walk.number
	case topicAlias:
		p.TopicAlias = uint16(c.walk.number)
	case contentType:
		p.ContentType = c.walk.bytes // [MQTT-3.3.2-19]
	case responseTopic:
		p.ResponseTopic = c.walk.bytes // [MQTT-3.3.2-13]
		c.failWith(checkTopicName(c.walk.bytes, V5, "MQTT-3.3.2-14"))
	case correlationData:
		p.HasCorrelation, p.Correlation = true, c.walk.bytes
	case subscriptionID:
		p.SubscriptionIDs = append(p.SubscriptionIDs, c.walk.number)
	case userProperty:
		p.UserProperties = append(p.UserProperties, c.walk.user())
	}
}

// append appends the properties without their length; size knows how many bytes that is.
func (p *PublishProperties) append(dst []byte) []byte {
	if p.HasPayloadFormat {
		dst = appendFlag(dst, payloadFormat, p.PayloadFormat) // [MQTT-3.3.2-4]
	}
	if p.HasExpiry {
		dst = appendFour(dst, messageExpiry, p.Expiry)
	}
	dst = appendBytes(dst, contentType, p.ContentType)     // [MQTT-3.3.2-20]
	dst = appendBytes(dst, responseTopic, p.ResponseTopic) // [MQTT-3.3.2-15]
	if p.HasCorrelation {
		dst = appendData(append(dst, correlationData), p.Correlation) // [MQTT-3.3.2-16]
	}
	for _, id := range p.SubscriptionIDs {
		dst = appendVarint(append(dst, subscriptionID), int(id))
	}
	if p.TopicAlias != 0 {
		dst = appendTwo(dst, topicAlias, p.TopicAlias)
	}
	return appendUsers(dst, p.UserProperties) // in order [MQTT-3.3.2-17] [MQTT-3.3.2-18]
}

func (p *PublishProperties) size() int {
	n := 0
	if p.HasPayloadFormat {
		n += 2
	}
	if p.HasExpiry {
		n += 5
	}
	if p.ContentType != nil {
		n += 3 + len(p.ContentType)
	}
	if p.ResponseTopic != nil {
		n += 3 + len(p.ResponseTopic)
	}
	if p.HasCorrelation {
		n += 3 + len(p.Correlation)
	}
	for _, id := range p.SubscriptionIDs {
		n += 1 + varintSize(int(id))
	}
	if p.TopicAlias != 0 {
		n += 3
	}
	for _, u := range p.UserProperties {
		n += 5 + len(u.Name) + len(u.Value)
	}
	return n
}
