package packet

import (
	"encoding/binary"
	"strconv"
)

// The property identifiers (MQTT 5.0 table 2-4).
const (
	payloadFormat                 byte = 0x01
	messageExpiry                 byte = 0x02
	contentType                   byte = 0x03
	responseTopic                 byte = 0x08
	correlationData               byte = 0x09
	subscriptionID                byte = 0x0B
	sessionExpiry                 byte = 0x11
	assignedClientID              byte = 0x12
	serverKeepAlive               byte = 0x13
	authenticationMethod          byte = 0x15
	authenticationData            byte = 0x16
	requestProblemInformation     byte = 0x17
	willDelay                     byte = 0x18
	requestResponseInformation    byte = 0x19
	responseInformation           byte = 0x1A
	serverReference               byte = 0x1C
	reasonString                  byte = 0x1F
	receiveMaximum                byte = 0x21
	topicAliasMaximum             byte = 0x22
	topicAlias                    byte = 0x23
	maximumQoS                    byte = 0x24
	retainAvailable               byte = 0x25
	userProperty                  byte = 0x26
	maximumPacketSize             byte = 0x27
	wildcardSubscriptionAvailable byte = 0x28
	subscriptionIDAvailable       byte = 0x29
	sharedSubscriptionAvailable   byte = 0x2A
)

// kind is the data type of a property's value.
type kind byte

const (
	unknown kind = iota
	flag         // one byte, 0 or 1: so are all properties of type Byte
	two          // two byte integer
	four         // four byte integer
	varint       // variable byte integer
	text         // UTF-8 encoded string
	data         // binary data
	pair         // UTF-8 string pair
)

// The places in which a property may stand are a set of bits, one per packet type; the will has the bit of type 0.
const (
	inWill       uint16 = 1
	inConnect    uint16 = 1 << CONNECT
	inConnack    uint16 = 1 << CONNACK
	inPublish    uint16 = 1 << PUBLISH
	inSubscribe  uint16 = 1 << SUBSCRIBE
	inDisconnect uint16 = 1 << DISCONNECT
	inAuth       uint16 = 1 << AUTH
	inMessage           = inPublish | inWill
	inAnswers           = inConnack | 1<<PUBACK | 1<<PUBREC | 1<<PUBREL | 1<<PUBCOMP | 1<<SUBACK | 1<<UNSUBACK | inDisconnect | inAuth
	everywhere          = inAnswers | inMessage | inConnect | inSubscribe | 1<<UNSUBSCRIBE
)

// property is one row of table 2-4, with the rules of the chapters that describe it.
type property struct {
	kind    kind
	in      uint16 // where it may stand
	repeats uint16 // where it may stand more than once
	nonzero bool   // 0 is not a value
	name    string
}

// properties is indexed by identifier. Constant.
var properties = [...]property{
	payloadFormat:                 {flag, inMessage, 0, false, "payload format indicator"},
	messageExpiry:                 {four, inMessage, 0, false, "message expiry interval"},
	contentType:                   {text, inMessage, 0, false, "content type"},
	responseTopic:                 {text, inMessage, 0, false, "response topic"},
	correlationData:               {data, inMessage, 0, false, "correlation data"},
	subscriptionID:                {varint, inPublish | inSubscribe, inPublish, true, "subscription identifier"},
	sessionExpiry:                 {four, inConnect | inConnack | inDisconnect, 0, false, "session expiry interval"},
	assignedClientID:              {text, inConnack, 0, false, "assigned client identifier"},
	serverKeepAlive:               {two, inConnack, 0, false, "server keep alive"},
	authenticationMethod:          {text, inConnect | inConnack | inAuth, 0, false, "authentication method"},
	authenticationData:            {data, inConnect | inConnack | inAuth, 0, false, "authentication data"},
	requestProblemInformation:     {flag, inConnect, 0, false, "request problem information"},
	willDelay:                     {four, inWill, 0, false, "will delay interval"},
	requestResponseInformation:    {flag, inConnect, 0, false, "request response information"},
	responseInformation:           {text, inConnack, 0, false, "response information"},
	serverReference:               {text, inConnack | inDisconnect, 0, false, "server reference"},
	reasonString:                  {text, inAnswers, 0, false, "reason string"},
	receiveMaximum:                {two, inConnect | inConnack, 0, true, "receive maximum"},
	topicAliasMaximum:             {two, inConnect | inConnack, 0, false, "topic alias maximum"},
	topicAlias:                    {two, inPublish, 0, true, "topic alias"},
	maximumQoS:                    {flag, inConnack, 0, false, "maximum QoS"},
	retainAvailable:               {flag, inConnack, 0, false, "retain available"},
	userProperty:                  {pair, everywhere, everywhere, false, "user property"},
	maximumPacketSize:             {four, inConnect | inConnack, 0, true, "maximum packet size"},
	wildcardSubscriptionAvailable: {flag, inConnack, 0, false, "wildcard subscription available"},
	subscriptionIDAvailable:       {flag, inConnack, 0, false, "subscription identifier available"},
	sharedSubscriptionAvailable:   {flag, inConnack, 0, false, "shared subscription available"},
}

// walk is where a [cursor] stands within the properties of a packet.
type walk struct {
	after []byte // the body behind the properties
	in    uint16 // one bit: where we are
	seen  uint64 // identifiers so far, one bit each

	id     byte   // of the property it stands on
	number uint32 // value of an integer
	bytes  []byte // value of a string or of binary data, or the name of a pair
	second []byte // value of a pair
}

// properties enters the properties: it reads their length and hides from c what follows them, until next has
// returned false. in is one bit.
func (c *cursor) properties(in uint16) {
	length := c.varint()
	if int(length) > len(c.b) {
		c.fail(ReasonMalformedPacket, "", "property length beyond the end of the packet")
		length = 0
	}
	c.walk = walk{in: in, after: c.b[length:]}
	c.b = c.b[:length:length]
}

// next steps to the next property that keeps the rules. After the last it leaves the properties and returns false;
// false is also what the first that breaks a rule gives.
func (c *cursor) next() bool {
	if len(c.b) == 0 {
		if c.err == nil {
			c.b = c.walk.after
		}
		return false
	}
	id := c.varint()
	if c.err != nil {
		return false
	}
	if id >= uint32(len(properties)) || properties[id].kind == unknown {
		c.fail(ReasonMalformedPacket, "", "unknown property "+strconv.Itoa(int(id)))
		return false
	}
	p := &properties[id]
	if p.in&c.walk.in == 0 {
		c.fail(ReasonMalformedPacket, "", p.name+" in a packet that cannot have it")
	}
	if c.walk.seen&(1<<id) != 0 && p.repeats&c.walk.in == 0 {
		c.fail(ReasonProtocolError, "", p.name+" more than once")
	}
	c.walk.id = byte(id)
	c.walk.seen |= 1 << id
	c.value(p)
	return c.err == nil
}

// value takes the value of the property that next stands on and judges its range.
func (c *cursor) value(p *property) {
	w := &c.walk
	switch p.kind {
	case flag:
		w.number = uint32(c.byte())
		if w.number > 1 {
			c.fail(ReasonProtocolError, "", p.name+" other than 0 and 1")
		}
	case two:
		w.number = uint32(c.uint16())
	case four:
		w.number = c.uint32()
	case varint:
		w.number = c.varint()
	case text:
		w.bytes = c.text()
	case data:
		w.bytes = c.binary()
	case pair:
		w.bytes = c.text() // [MQTT-1.5.7-1]
		w.second = c.text()
	}
	if p.nonzero && w.number == 0 && c.err == nil {
		if w.id == topicAlias {
			c.fail(ReasonTopicAliasInvalid, "MQTT-3.3.2-8", "topic alias 0")
		}
		c.fail(ReasonProtocolError, "", p.name+" 0")
	}
}

// user returns the user property that next stands on.
func (w *walk) user() UserProperty { return UserProperty{Name: w.bytes, Value: w.second} }

// answer reads the properties of a packet that has none but a reason string and user properties.
func (c *cursor) answer(in uint16, reason *[]byte, user *[]UserProperty) {
	c.properties(in)
	for c.next() {
		switch c.walk.id {
		case reasonString:
			*reason = c.walk.bytes
		case userProperty:
			*user = append(*user, c.walk.user())
		}
	}
}

// The functions that append one property; what they append, next accepts.

func appendFlag(dst []byte, id, value byte) []byte { return append(dst, id, value) }

func appendTwo(dst []byte, id byte, value uint16) []byte {
	return append(dst, id, byte(value>>8), byte(value))
}

func appendFour(dst []byte, id byte, value uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, id), value)
}

// appendBytes appends a string or binary data, unless it is nil: absent.
func appendBytes(dst []byte, id byte, value []byte) []byte {
	if value == nil {
		return dst
	}
	return appendData(append(dst, id), value)
}

func appendUsers(dst []byte, list []UserProperty) []byte {
	for _, u := range list {
		dst = appendData(append(dst, userProperty), u.Name)
		dst = appendData(dst, u.Value)
	}
	return dst
}

// appendAnswer appends the property length and what answer reads.
func appendAnswer(dst, reason []byte, users []UserProperty) []byte {
	at := len(dst)
	dst = appendBytes(append(dst, 0), reasonString, reason)
	return prefixLength(appendUsers(dst, users), at)
}

// appendData appends a length of two bytes and b; that b fits is the caller's promise.
func appendData(dst, b []byte) []byte {
	if len(b) > MaxString {
		panic("BUG: packet: a field of " + strconv.Itoa(len(b)) + " bytes")
	}
	return append(append(dst, byte(len(b)>>8), byte(len(b))), b...)
}

// prefixLength writes the length of dst[at+1:] as a variable byte integer at dst[at], a byte that was left free for
// it, moving what follows if it takes more than that.
func prefixLength(dst []byte, at int) []byte {
	length := len(dst) - at - 1
	if length < 0x80 {
		dst[at] = byte(length)
		return dst
	}
	more := varintSize(length) - 1
	dst = append(dst, 0, 0, 0)[:len(dst)+more]
	copy(dst[at+1+more:], dst[at+1:])
	appendVarint(dst[:at], length)
	return dst
}

// appendVarint appends x, which is at most MaxRemaining.
func appendVarint(dst []byte, x int) []byte {
	for x >= 0x80 {
		dst = append(dst, byte(x)|0x80)
		x >>= 7
	}
	return append(dst, byte(x))
}

// varintSize returns the number of bytes that appendVarint appends.
func varintSize(x int) int {
	switch {
	case x < 1<<7:
		return 1
	case x < 1<<14:
		return 2
	case x < 1<<21:
		return 3
	case x <= MaxRemaining:
		return 4
	}
	panic("BUG: packet: a length of " + strconv.Itoa(x))
}
