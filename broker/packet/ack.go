package packet

// Ack is one of PUBACK, PUBREC, PUBREL and PUBCOMP.
type Ack struct {
	Type           Type
	PacketID       uint16
	Reason         Reason // before 5.0 always success, and not sent
	ReasonString   []byte // nil: absent
	UserProperties []UserProperty
}

// Decode reads any of the four and sets Type; the rules of [Publish.Decode] about memory hold.
func (p *Ack) Decode(f Frame, v Version) error {
	*p = Ack{Type: f.Type(), UserProperties: p.UserProperties[:0]}
	c := cursor{b: f.Body, v: v}
	p.PacketID = c.packetID("MQTT-2.2.1-5", "MQTT-2.3.1-6")
	if v == V5 && len(c.b) > 0 {
		p.Reason = c.reason(p.Type)
		if len(c.b) > 0 {
			c.answer(1<<p.Type, &p.ReasonString, &p.UserProperties)
		}
	}
	return c.end()
}

// Append appends the packet as version v has it, in its shortest form.
func (p *Ack) Append(dst []byte, v Version) []byte {
	first := byte(p.Type) << 4
	if p.Type == PUBREL {
		first |= 0x02 // [MQTT-3.6.1-1]
	}
	at := len(dst) + 1
	dst = append(dst, first, 2, byte(p.PacketID>>8), byte(p.PacketID))
	if v != V5 || p.Reason == ReasonSuccess && p.ReasonString == nil && len(p.UserProperties) == 0 {
		return dst
	}
	dst = append(dst, byte(p.Reason), 0)
	properties := len(dst) - 1
	dst = appendBytes(dst, reasonString, p.ReasonString)
	dst = appendUsers(dst, p.UserProperties)
	return finishShort(dst, at, properties)
}

// Disconnect is the DISCONNECT packet; before 5.0 it is empty and only clients send it.
type Disconnect struct {
	Reason           Reason
	HasSessionExpiry bool // absent: as CONNECT said
	SessionExpiry    uint32
	ReasonString     []byte // nil: absent
	ServerReference  []byte // nil: absent
	UserProperties   []UserProperty
}

// Decode reads a DISCONNECT; the rules of [Publish.Decode] about memory hold.
func (p *Disconnect) Decode(f Frame, v Version) error {
	*p = Disconnect{UserProperties: p.UserProperties[:0]}
	c := cursor{b: f.Body, v: v}
	if v != V5 || len(c.b) == 0 {
		return c.end()
	}
	p.Reason = c.reason(DISCONNECT)
	if len(c.b) == 0 {
		return c.end()
	}
	c.properties(inDisconnect)
	for c.next() {
		switch c.walk.id {
		case sessionExpiry:
			p.HasSessionExpiry, p.SessionExpiry = true, c.walk.number
		case reasonString:
			p.ReasonString = c.walk.bytes
		case serverReference:
			p.ServerReference = c.walk.bytes
		case userProperty:
			p.UserProperties = append(p.UserProperties, c.walk.user())
		}
	}
	return c.end()
}

// Append appends the packet as version v has it, in its shortest form.
func (p *Disconnect) Append(dst []byte, v Version) []byte {
	at := len(dst) + 1
	dst = append(dst, byte(DISCONNECT)<<4, 0)
	if v != V5 {
		return dst
	}
	dst = append(dst, byte(p.Reason), 0)
	properties := len(dst) - 1
	if p.HasSessionExpiry {
		dst = appendFour(dst, sessionExpiry, p.SessionExpiry)
	}
	dst = appendBytes(dst, serverReference, p.ServerReference)
	dst = appendBytes(dst, reasonString, p.ReasonString)
	dst = appendUsers(dst, p.UserProperties)
	if p.Reason == ReasonNormalDisconnection && len(dst) == properties+1 {
		return dst[:at+1]
	}
	return finishShort(dst, at, properties)
}

// Auth is the AUTH packet of 5.0.
type Auth struct {
	Reason               Reason // success, continue authentication or re-authenticate
	AuthenticationMethod []byte // nil: absent, which only the empty form of success may be
	AuthenticationData   []byte // nil: absent
	ReasonString         []byte // nil: absent
	UserProperties       []UserProperty
}

// Decode reads an AUTH; the rules of [Publish.Decode] about memory hold.
func (p *Auth) Decode(f Frame, v Version) error {
	*p = Auth{UserProperties: p.UserProperties[:0]}
	c := cursor{b: f.Body, v: v}
	if len(c.b) == 0 {
		return nil
	}
	p.Reason = c.reason(AUTH)
	c.properties(inAuth)
	for c.next() {
		switch c.walk.id {
		case authenticationMethod:
			p.AuthenticationMethod = c.walk.bytes
		case authenticationData:
			p.AuthenticationData = c.walk.bytes
		case reasonString:
			p.ReasonString = c.walk.bytes
		case userProperty:
			p.UserProperties = append(p.UserProperties, c.walk.user())
		}
	}
	if p.AuthenticationMethod == nil {
		c.fail(ReasonProtocolError, "", "AUTH without an authentication method")
	}
	return c.end()
}

// Append appends the packet; v must be [V5].
func (p *Auth) Append(dst []byte, v Version) []byte {
	if v != V5 {
		panic("BUG: packet: AUTH in MQTT " + v.String())
	}
	at := len(dst) + 1
	dst = append(dst, byte(AUTH)<<4, 0, byte(p.Reason), 0)
	properties := len(dst) - 1
	dst = appendBytes(dst, authenticationMethod, p.AuthenticationMethod)
	dst = appendBytes(dst, authenticationData, p.AuthenticationData)
	dst = appendBytes(dst, reasonString, p.ReasonString)
	dst = appendUsers(dst, p.UserProperties)
	if p.Reason == ReasonSuccess && len(dst) == properties+1 {
		return dst[:at+1]
	}
	return prefixLength(prefixLength(dst, properties), at)
}

// AppendPingreq appends a PINGREQ.
func AppendPingreq(dst []byte) []byte { return append(dst, byte(PINGREQ)<<4, 0) }

// AppendPingresp appends a PINGRESP.
func AppendPingresp(dst []byte) []byte { return append(dst, byte(PINGRESP)<<4, 0) }

// finishShort fills in the two lengths of a packet, of which the one of no properties is left out.
func finishShort(dst []byte, at, properties int) []byte {
	if len(dst) == properties+1 {
		dst = dst[:properties]
	} else {
		dst = prefixLength(dst, properties)
	}
	return prefixLength(dst, at)
}
