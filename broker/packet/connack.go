package packet

// Connack is the CONNACK packet.
type Connack struct {
	SessionPresent bool   // never set in 3.1
	Reason         Reason // before 5.0 translated, see [Reason.ReturnCode]
	Properties     ConnackProperties
}

// ConnackProperties are the properties of CONNACK. The zero value of each is what the standard assumes when it is absent.
type ConnackProperties struct {
	HasSessionExpiry       bool // absent: as CONNECT asked
	SessionExpiry          uint32
	ReceiveMaximum         uint16 // 0: absent, which means 65,535
	HasMaximumQoS          bool   // absent: QoS 2
	MaximumQoS             byte   // 0 or 1
	NoRetain               bool   // Retain Available was sent as 0
	MaximumPacketSize      uint32 // bytes; 0: absent, no limit
	AssignedClientID       []byte // nil: absent
	TopicAliasMaximum      uint16
	ReasonString           []byte // nil: absent
	NoWildcardSubscription bool   // Wildcard Subscription Available was sent as 0
	NoSubscriptionID       bool   // Subscription Identifiers Available was sent as 0
	NoSharedSubscription   bool   // Shared Subscription Available was sent as 0
	HasServerKeepAlive     bool   // absent: as CONNECT asked
	ServerKeepAlive        uint16 // seconds; 0: none
	ResponseInformation    []byte // nil: absent
	ServerReference        []byte // nil: absent
	AuthenticationMethod   []byte // nil: absent
	AuthenticationData     []byte // nil: absent
	UserProperties         []UserProperty
}

// Decode reads a CONNACK; the rules of [Publish.Decode] about memory hold. The refusal of 5.0 by a server that only
// knows 3.1.1, which can but answer in its own form, is understood in 5.0 too.
func (p *Connack) Decode(f Frame, v Version) error {
	*p = Connack{Properties: ConnackProperties{UserProperties: p.Properties.UserProperties[:0]}}
	c := cursor{b: f.Body, v: v}
	flags := c.byte()
	if v == V31 {
		flags = 0 // the byte has no meaning yet
	}
	if flags > 1 {
		c.fail(ReasonMalformedPacket, byVersion(v, "MQTT-3.2.2-1", ""), "CONNACK with reserved flags set")
	}
	p.SessionPresent = flags&0x01 != 0
	if v == V5 && len(c.b) == 1 && c.b[0] == ConnackUnacceptableProtocolVersion { // 3.1.1 [MQTT-3.1.2-2]
		p.Reason = ReasonUnsupportedProtocolVersion
		c.b = nil
	} else if v == V5 {
		p.Reason = c.reason(CONNACK)
		p.Properties.decode(&c)
	} else {
		reason, known := reasonOfReturnCode(c.byte())
		if !known {
			c.fail(ReasonProtocolError, "", "CONNACK with a reserved return code")
		}
		p.Reason = reason
	}
	if p.SessionPresent && p.Reason != ReasonSuccess {
		c.fail(ReasonProtocolError, byVersion(v, "MQTT-3.2.2-6", "MQTT-3.2.2-4"), "session present in a refusal")
	}
	return c.end()
}

// Append appends the packet as version v has it; what v lacks is left out.
func (p *Connack) Append(dst []byte, v Version) []byte {
	present := byte(0)
	if p.SessionPresent && p.Reason == ReasonSuccess && v != V31 { // [MQTT-3.2.2-6]
		present = 1
	}
	if v != V5 {
		return append(dst, byte(CONNACK)<<4, 2, present, p.Reason.ReturnCode())
	}
	at := len(dst) + 1
	dst = append(dst, byte(CONNACK)<<4, 0, present, byte(p.Reason))
	return prefixLength(p.Properties.append(dst), at)
}

// decode reads the properties of CONNACK.
func (p *ConnackProperties) decode(c *cursor) {
	c.properties(inConnack)
	for c.next() {
		switch c.walk.id {
		case sessionExpiry:
			p.HasSessionExpiry, p.SessionExpiry = true, c.walk.number
		case receiveMaximum:
			p.ReceiveMaximum = uint16(c.walk.number)
		case maximumQoS:
			p.HasMaximumQoS, p.MaximumQoS = true, byte(c.walk.number)
		case retainAvailable:
			p.NoRetain = c.walk.number == 0
		case maximumPacketSize:
			p.MaximumPacketSize = c.walk.number
		case assignedClientID:
			p.AssignedClientID = c.walk.bytes
		case topicAliasMaximum:
			p.TopicAliasMaximum = uint16(c.walk.number)
		case reasonString:
			p.ReasonString = c.walk.bytes
		case wildcardSubscriptionAvailable:
			p.NoWildcardSubscription = c.walk.number == 0
		case subscriptionIDAvailable:
			p.NoSubscriptionID = c.walk.number == 0
		case sharedSubscriptionAvailable:
			p.NoSharedSubscription = c.walk.number == 0
		case serverKeepAlive:
			p.HasServerKeepAlive, p.ServerKeepAlive = true, uint16(c.walk.number)
		case responseInformation:
			p.ResponseInformation = c.walk.bytes
		case serverReference:
			p.ServerReference = c.walk.bytes
		case authenticationMethod:
			p.AuthenticationMethod = c.walk.bytes
		case authenticationData:
			p.AuthenticationData = c.walk.bytes
		case userProperty:
			p.UserProperties = append(p.UserProperties, c.walk.user())
		}
	}
}

// append appends the properties with their length.
func (p *ConnackProperties) append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, 0)
	if p.HasSessionExpiry {
		dst = appendFour(dst, sessionExpiry, p.SessionExpiry)
	}
	dst = appendBytes(dst, assignedClientID, p.AssignedClientID)
	if p.HasServerKeepAlive {
		dst = appendTwo(dst, serverKeepAlive, p.ServerKeepAlive)
	}
	dst = appendBytes(dst, authenticationMethod, p.AuthenticationMethod)
	dst = appendBytes(dst, authenticationData, p.AuthenticationData)
	dst = appendBytes(dst, responseInformation, p.ResponseInformation)
	dst = appendBytes(dst, serverReference, p.ServerReference)
	dst = appendBytes(dst, reasonString, p.ReasonString)
	if p.ReceiveMaximum != 0 {
		dst = appendTwo(dst, receiveMaximum, p.ReceiveMaximum)
	}
	if p.TopicAliasMaximum != 0 {
		dst = appendTwo(dst, topicAliasMaximum, p.TopicAliasMaximum)
	}
	if p.HasMaximumQoS {
		dst = appendFlag(dst, maximumQoS, p.MaximumQoS)
	}
	if p.NoRetain {
		dst = appendFlag(dst, retainAvailable, 0)
	}
	dst = appendUsers(dst, p.UserProperties)
	if p.MaximumPacketSize != 0 {
		dst = appendFour(dst, maximumPacketSize, p.MaximumPacketSize)
	}
	if p.NoWildcardSubscription {
		dst = appendFlag(dst, wildcardSubscriptionAvailable, 0)
	}
	if p.NoSubscriptionID {
		dst = appendFlag(dst, subscriptionIDAvailable, 0)
	}
	if p.NoSharedSubscription {
		dst = appendFlag(dst, sharedSubscriptionAvailable, 0)
	}
	return prefixLength(dst, at)
}
