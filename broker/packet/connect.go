package packet

// Connect is the CONNECT packet. The slices alias the body it was decoded from.
type Connect struct {
	Version    Version // 3, 4 or 5; after Reason 0x84 the level as it was sent
	Bridge     bool    // 3.1 and 3.1.1: the level was sent with 0x80 added, as bridges do
	CleanStart bool    // 3.1 and 3.1.1: clean session
	KeepAlive  uint16  // seconds; 0: none
	ClientID   []byte  // may be empty: what then is the server's policy

	HasUsername, HasPassword bool
	Username, Password       []byte

	HasWill bool
	Will    WillMessage

	Properties ConnectProperties // all zero before 5.0
}

// WillMessage is the message to publish when the connection ends without a DISCONNECT. Of the PublishProperties it
// never has an alias or subscription identifiers; all of them are zero before 5.0.
type WillMessage struct {
	Topic, Payload []byte
	QoS            byte
	Retain         bool
	WillDelay      uint32 // seconds; 5.0
	PublishProperties
}

// ConnectProperties are the properties of CONNECT. The zero value of each is what the standard assumes when it is absent.
type ConnectProperties struct {
	SessionExpiry              uint32 // seconds; 0: ends with the connection; 0xFFFFFFFF: never
	ReceiveMaximum             uint16 // 0: absent, which means 65,535
	MaximumPacketSize          uint32 // bytes; 0: absent, no limit
	TopicAliasMaximum          uint16
	RequestResponseInformation bool
	SuppressProblemInformation bool   // Request Problem Information was sent as 0
	AuthenticationMethod       []byte // nil: absent
	AuthenticationData         []byte // nil: absent
	UserProperties             []UserProperty
}

// Decode reads the body of a CONNECT and finds the version. It overwrites every field, reuses the capacity of the
// slices of properties, and aliases body. Client identifiers are not judged beyond UTF-8: which are acceptable is
// the server's policy. The error is an *Error; for a level nobody speaks its Reason is
// [ReasonUnsupportedProtocolVersion] and p.Version is the level as sent.
func (p *Connect) Decode(body []byte) error {
	*p = Connect{
		Will:       WillMessage{PublishProperties: p.Will.PublishProperties},
		Properties: ConnectProperties{UserProperties: p.Properties.UserProperties[:0]},
	}
	p.Will.PublishProperties.reset()
	c := cursor{b: body}
	p.decodeVersion(&c)
	c.v = p.Version
	flags := c.byte()
	if p.Version == V31 {
		flags = tidyFlags(flags)
	}
	c.failWith(checkConnectFlags(flags, p.Version))
	p.CleanStart = flags&cleanFlag != 0
	p.HasWill = flags&willFlag != 0
	p.HasPassword = flags&passwordFlag != 0
	p.HasUsername = flags&usernameFlag != 0
	p.KeepAlive = c.uint16()
	if p.Version == V5 {
		p.Properties.decode(&c)
	}
	if len(c.b) == 0 {
		c.fail(ReasonMalformedPacket, "MQTT-3.1.3-3", "CONNECT without a client identifier")
	}
	p.ClientID = c.text() // [MQTT-3.1.3-4]; what follows has this order [MQTT-3.1.3-1]
	if p.HasWill {
		p.Will.QoS = flags >> 3 & 0x03
		p.Will.Retain = flags&willRetainFlag != 0
		p.Will.decode(&c)
	}
	p.decodeCredentials(&c)
	return c.end()
}

// Append appends the packet in the form of p.Version.
func (p *Connect) Append(dst []byte) []byte {
	at := len(dst) + 1
	dst = append(dst, byte(CONNECT)<<4, 0)
	if p.Version == V31 {
		dst = appendData(dst, []byte("MQIsdp"))
	} else {
		dst = appendData(dst, []byte("MQTT"))
	}
	level := byte(p.Version)
	if p.Bridge && p.Version != V5 {
		level |= bridgeBit
	}
	dst = append(dst, level, p.flags(), byte(p.KeepAlive>>8), byte(p.KeepAlive))
	if p.Version == V5 {
		dst = p.Properties.append(dst)
	}
	dst = appendData(dst, p.ClientID)
	if p.HasWill {
		if p.Version == V5 {
			properties := len(dst)
			dst = append(dst, 0)
			if p.Will.WillDelay != 0 {
				dst = appendFour(dst, willDelay, p.Will.WillDelay)
			}
			dst = prefixLength(p.Will.PublishProperties.append(dst), properties)
		}
		dst = appendData(appendData(dst, p.Will.Topic), p.Will.Payload)
	}
	if p.HasUsername {
		dst = appendData(dst, p.Username)
	}
	if p.HasPassword {
		dst = appendData(dst, p.Password)
	}
	return prefixLength(dst, at)
}

// The bits of the connect flags; the will's QoS is bits 3 and 4.
const (
	reservedFlag   = 0x01
	cleanFlag      = 0x02
	willFlag       = 0x04
	willQoS        = 0x18
	willRetainFlag = 0x20
	passwordFlag   = 0x40
	usernameFlag   = 0x80
)

// bridgeBit is added to the protocol level of 3.1 and 3.1.1 by bridges, a custom older than 5.0's no local.
const bridgeBit = 0x80

// decodeVersion reads protocol name and level.
func (p *Connect) decodeVersion(c *cursor) {
	name := c.binary()
	level := c.byte()
	if c.err != nil {
		return
	}
	plain := level &^ bridgeBit
	switch string(name) {
	case "MQTT":
		if level == byte(V5) || plain == byte(V311) {
			p.Version, p.Bridge = Version(plain), level != plain
			return
		}
	case "MQIsdp":
		if plain == byte(V31) {
			p.Version, p.Bridge = V31, level != plain
			return
		}
	default:
		c.fail(ReasonUnsupportedProtocolVersion, "MQTT-3.1.2-1", "a protocol name that is not MQTT's")
		return
	}
	p.Version = Version(level)
	c.fail(ReasonUnsupportedProtocolVersion, "MQTT-3.1.2-2", "an unsupported protocol level")
}

// tidyFlags clears the bits that 3.1 left without meaning, so that the later rules about them do not bite.
func tidyFlags(flags byte) byte {
	flags &^= reservedFlag
	if flags&willFlag == 0 {
		flags &^= willQoS | willRetainFlag
	}
	return flags
}

func checkConnectFlags(flags byte, v Version) *Error {
	switch {
	case flags&reservedFlag != 0:
		return &Error{ReasonMalformedPacket, "MQTT-3.1.2-3", "the reserved connect flag is set"}
	case flags&willFlag == 0 && flags&willQoS != 0:
		return &Error{ReasonMalformedPacket, byVersion(v, "MQTT-3.1.2-11", "MQTT-3.1.2-13"), "will QoS without a will"}
	case flags&willFlag == 0 && flags&willRetainFlag != 0:
		return &Error{ReasonMalformedPacket, byVersion(v, "MQTT-3.1.2-13", "MQTT-3.1.2-15"), "will retain without a will"}
	case flags&willQoS == willQoS:
		return &Error{ReasonMalformedPacket, byVersion(v, "MQTT-3.1.2-12", "MQTT-3.1.2-14"), "will QoS 3"}
	case v != V5 && flags&passwordFlag != 0 && flags&usernameFlag == 0: // 3.1.1 [MQTT-3.1.2-22]
		return &Error{ReasonMalformedPacket, "MQTT-3.1.2-22", "a password without a user name"}
	}
	return nil
}

// flags is the inverse of what Decode does with the connect flags.
func (p *Connect) flags() byte {
	var flags byte
	if p.CleanStart {
		flags |= cleanFlag
	}
	if p.HasWill {
		flags |= willFlag | p.Will.QoS<<3
		if p.Will.Retain {
			flags |= willRetainFlag
		}
	}
	if p.HasPassword {
		flags |= passwordFlag
	}
	if p.HasUsername {
		flags |= usernameFlag
	}
	return flags
}

// decode reads will properties, topic and payload.
func (w *WillMessage) decode(c *cursor) {
	if len(c.b) == 0 {
		c.fail(ReasonMalformedPacket, "MQTT-3.1.2-9", "the will flag without a will")
		return
	}
	if c.v == V5 {
		c.properties(inWill)
		for c.next() {
			if c.walk.id == willDelay {
				w.WillDelay = c.walk.number
			} else {
				w.take(c)
			}
		}
	}
	w.Topic = c.binary()
	if c.err == nil {
		// [MQTT-3.1.3-11]
		c.failWith(checkTopicName(w.Topic, c.v, byVersion(c.v, "MQTT-4.7.0-1", "MQTT-4.7.1-1")))
	}
	w.Payload = c.binary()
}

// decodeCredentials reads what the two flags announce, and says which flag lied.
func (p *Connect) decodeCredentials(c *cursor) {
	if p.Version == V31 && len(c.b) == 0 {
		// 3.1: the remaining length takes precedence over the flags.
		p.HasUsername, p.HasPassword = false, false
	}
	if p.HasUsername {
		if len(c.b) == 0 {
			c.fail(ReasonMalformedPacket, byVersion(p.Version, "MQTT-3.1.2-17", "MQTT-3.1.2-19"), "the user name flag without a user name")
		}
		p.Username = c.text() // [MQTT-3.1.3-12]
	}
	if p.Version == V31 && len(c.b) == 0 {
		p.HasPassword = false
	}
	if p.HasPassword {
		if len(c.b) == 0 {
			c.fail(ReasonMalformedPacket, byVersion(p.Version, "MQTT-3.1.2-19", "MQTT-3.1.2-21"), "the password flag without a password")
		}
		p.Password = c.binary()
	}
	switch {
	case len(c.b) == 0:
	case !p.HasUsername:
		c.fail(ReasonMalformedPacket, byVersion(p.Version, "MQTT-3.1.2-16", "MQTT-3.1.2-18"), "a user name without its flag")
	case !p.HasPassword:
		c.fail(ReasonMalformedPacket, byVersion(p.Version, "MQTT-3.1.2-18", "MQTT-3.1.2-20"), "a password without its flag")
	}
}

// decode reads the properties of CONNECT.
func (p *ConnectProperties) decode(c *cursor) {
	c.properties(inConnect)
	for c.next() {
		switch c.walk.id {
		case sessionExpiry:
			p.SessionExpiry = c.walk.number
		case receiveMaximum:
			p.ReceiveMaximum = uint16(c.walk.number)
		case maximumPacketSize:
			p.MaximumPacketSize = c.walk.number
		case topicAliasMaximum:
			p.TopicAliasMaximum = uint16(c.walk.number)
		case requestResponseInformation:
			p.RequestResponseInformation = c.walk.number == 1
		case requestProblemInformation:
			p.SuppressProblemInformation = c.walk.number == 0
		case authenticationMethod:
			p.AuthenticationMethod = c.walk.bytes
		case authenticationData:
			p.AuthenticationData = c.walk.bytes
		case userProperty:
			p.UserProperties = append(p.UserProperties, c.walk.user())
		}
	}
	if p.AuthenticationData != nil && p.AuthenticationMethod == nil {
		c.fail(ReasonProtocolError, "", "authentication data without an authentication method")
	}
}

// append appends the properties with their length.
func (p *ConnectProperties) append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, 0)
	if p.SessionExpiry != 0 {
		dst = appendFour(dst, sessionExpiry, p.SessionExpiry)
	}
	dst = appendBytes(dst, authenticationMethod, p.AuthenticationMethod)
	dst = appendBytes(dst, authenticationData, p.AuthenticationData)
	if p.SuppressProblemInformation {
		dst = appendFlag(dst, requestProblemInformation, 0)
	}
	if p.RequestResponseInformation {
		dst = appendFlag(dst, requestResponseInformation, 1)
	}
	if p.ReceiveMaximum != 0 {
		dst = appendTwo(dst, receiveMaximum, p.ReceiveMaximum)
	}
	if p.TopicAliasMaximum != 0 {
		dst = appendTwo(dst, topicAliasMaximum, p.TopicAliasMaximum)
	}
	dst = appendUsers(dst, p.UserProperties)
	if p.MaximumPacketSize != 0 {
		dst = appendFour(dst, maximumPacketSize, p.MaximumPacketSize)
	}
	return prefixLength(dst, at)
}
