package packet

import (
	"encoding/binary"
	"unicode/utf8"
)

// Frame is one whole control packet as it stood on the wire. The slices alias the input of [Next].
type Frame struct {
	First byte   // byte 1: type and flags
	Body  []byte // what follows the remaining length
	Whole []byte // all of it
}

// Type returns the control packet type.
func (f Frame) Type() Type { return Type(f.First >> 4) }

// Next takes one packet off the front of b. n is the number of bytes it took; n == 0 and err == nil mean that b
// ends before the packet does: read more. v is the version of the connection, 0 before CONNECT, when nothing but
// CONNECT is accepted. max is the largest whole packet accepted, in bytes (0: [MaxPacket]).
//
// Next checks what can be seen from the fixed header, as soon as it can be seen: the type, its flags, the form of
// the remaining length, and max before the body has arrived. The error is an *Error; nothing behind it can be read.
// Next does not allocate unless it fails.
func Next(b []byte, v Version, max uint32) (f Frame, n int, err error) {
	if len(b) == 0 {
		return Frame{}, 0, nil
	}
	if v == 0 || !goodPublish(b[0]) { // the usual first byte saves a call
		if fault := checkFirst(b[0], v); fault != nil {
			return Frame{}, 0, fault
		}
	}
	length, size, fault := remainingLength(b)
	if fault != nil {
		return Frame{}, 0, fault
	}
	if size == 0 {
		return Frame{}, 0, nil
	}
	head := 1 + size
	total := head + int(length)
	if max != 0 && uint32(total) > max {
		return Frame{}, 0, &Error{ReasonPacketTooLarge, "", "larger than the maximum packet size"}
	}
	if t := Type(b[0] >> 4); length != 0 && (t == PINGREQ || t == PINGRESP) {
		return Frame{}, 0, &Error{ReasonMalformedPacket, "", t.String() + " with a body"}
	}
	if len(b) < total {
		return Frame{}, 0, nil
	}
	f = Frame{First: b[0], Body: b[head:total:total], Whole: b[:total:total]}
	if size > varintSize(int(length)) && (v == V5 || v == 0 && levelOf(f.Body) == byte(V5)) {
		return Frame{}, 0, &Error{ReasonMalformedPacket, "MQTT-1.5.5-1", "remaining length with more bytes than it needs"}
	}
	return f, total, nil
}

// goodPublish reports whether first begins a PUBLISH with a QoS that exists, and DUP only above QoS 0.
func goodPublish(first byte) bool {
	return Type(first>>4) == PUBLISH && first&0x06 != 0x06 && first&0x0E != 0x08
}

// checkFirst judges the first byte of a packet.
func checkFirst(first byte, v Version) *Error {
	t := Type(first >> 4)
	if v == 0 && t != CONNECT {
		return &Error{ReasonProtocolError, "MQTT-3.1.0-1", "the first packet is not CONNECT"}
	}
	switch t {
	case PUBLISH:
		if first&0x06 == 0x06 {
			return &Error{ReasonMalformedPacket, "MQTT-3.3.1-4", "PUBLISH with QoS 3"}
		}
		if !goodPublish(first) {
			return &Error{ReasonMalformedPacket, "MQTT-3.3.1-2", "DUP set in a PUBLISH with QoS 0"}
		}
		return nil
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		// 3.1 sets DUP when it repeats one of these; the later versions do not repeat them on a connection.
		if first&0x0F == 0x02 || v == V31 && first&0x0F == 0x0A {
			return nil
		}
	case 0:
		return &Error{ReasonMalformedPacket, "", "reserved packet type 0"}
	case AUTH:
		if v != V5 {
			return &Error{ReasonMalformedPacket, "", "AUTH before MQTT 5.0"}
		}
		fallthrough
	default:
		if first&0x0F == 0 {
			return nil
		}
	}
	statement := byVersion(v, "MQTT-2.1.3-1", "MQTT-2.2.2-1")
	switch t {
	case PUBREL:
		statement = "MQTT-3.6.1-1"
	case SUBSCRIBE:
		statement = "MQTT-3.8.1-1"
	case UNSUBSCRIBE:
		statement = "MQTT-3.10.1-1"
	case DISCONNECT:
		statement = "MQTT-3.14.1-1"
	case AUTH:
		statement = "MQTT-3.15.1-1"
	}
	return &Error{ReasonMalformedPacket, statement, t.String() + " with reserved flags set"}
}

// remainingLength reads the remaining length behind the first byte. size is the number of bytes it takes, 0 when
// b ends before it does.
func remainingLength(b []byte) (length uint32, size int, fault *Error) {
	for i := 1; i < len(b); i++ {
		length |= uint32(b[i]&0x7F) << (7 * (i - 1))
		if b[i] < 0x80 {
			return length, i, nil
		}
		if i == 4 {
			return 0, 0, &Error{ReasonMalformedPacket, "", "remaining length of more than four bytes"}
		}
	}
	return 0, 0, nil
}

// levelOf returns the protocol level in the body of a CONNECT, 0 if the body ends before it.
func levelOf(body []byte) byte {
	if len(body) < 2 {
		return 0
	}
	if at := 2 + int(binary.BigEndian.Uint16(body)); at < len(body) {
		return body[at]
	}
	return 0
}

// byVersion returns the number that a rule has in the version spoken; 3.1 has no numbers and borrows those of 3.1.1.
func byVersion(v Version, v5, v311 string) string {
	if v == V5 {
		return v5
	}
	return v311
}

// cursor reads a body from front to back. The first failure stays in err and empties b, so that every later read
// returns the zero value and every loop over b ends: a decoder asks once, at its end.
type cursor struct {
	b    []byte
	v    Version
	err  *Error
	walk walk // used while b is the properties
}

// fail records the first failure.
func (c *cursor) fail(reason Reason, statement, detail string) {
	c.failWith(&Error{reason, statement, detail})
}

// failWith records err, which may be nil, as the first failure.
func (c *cursor) failWith(err *Error) {
	if err != nil && c.err == nil {
		c.err = err
		c.b = nil
	}
}

// short records that the body ends too early.
func (c *cursor) short() { c.fail(ReasonMalformedPacket, "", "the packet ends within a field") }

// end returns the failure of the whole decode; bytes left over are one.
func (c *cursor) end() error {
	if c.err == nil && len(c.b) > 0 {
		c.fail(ReasonMalformedPacket, "", "bytes left over at the end")
	}
	if c.err != nil {
		return c.err
	}
	return nil
}

func (c *cursor) byte() byte {
	if len(c.b) < 1 {
		c.short()
		return 0
	}
	x := c.b[0]
	c.b = c.b[1:]
	return x
}

func (c *cursor) uint16() uint16 {
	if len(c.b) < 2 {
		c.short()
		return 0
	}
	x := binary.BigEndian.Uint16(c.b)
	c.b = c.b[2:]
	return x
}

func (c *cursor) uint32() uint32 {
	if len(c.b) < 4 {
		c.short()
		return 0
	}
	x := binary.BigEndian.Uint32(c.b)
	c.b = c.b[4:]
	return x
}

// varint reads a variable byte integer; only 5.0 has them in a body.
func (c *cursor) varint() uint32 {
	var x uint32
	for i := 0; i < len(c.b); i++ {
		x |= uint32(c.b[i]&0x7F) << (7 * i)
		if c.b[i] < 0x80 {
			if i > 0 && c.b[i] == 0 {
				c.fail(ReasonMalformedPacket, "MQTT-1.5.5-1", "variable byte integer with more bytes than it needs")
				return 0
			}
			c.b = c.b[i+1:]
			return x
		}
		if i == 3 {
			c.fail(ReasonMalformedPacket, "", "variable byte integer of more than four bytes")
			return 0
		}
	}
	c.short()
	return 0
}

// binary reads binary data, which is never nil unless the read fails.
func (c *cursor) binary() []byte {
	if len(c.b) >= 2 {
		if n := 2 + int(binary.BigEndian.Uint16(c.b)); n <= len(c.b) {
			x := c.b[2:n:n]
			c.b = c.b[n:]
			return x
		}
	}
	c.short()
	return nil
}

// text reads a UTF-8 encoded string.
func (c *cursor) text() []byte {
	x := c.binary()
	c.failWith(checkText(x, c.v))
	return x
}

// packetID reads a packet identifier, which is never 0; statement is that of the packet at hand in 5.0 and 3.1.1.
func (c *cursor) packetID(v5, v311 string) uint16 {
	id := c.uint16()
	if id == 0 {
		c.fail(ReasonProtocolError, byVersion(c.v, v5, v311), "packet identifier 0")
	}
	return id
}

// checkText judges the character data of a string, of topics as well [MQTT-4.7.3-2]. Control and non-characters are let through, as the standard
// allows; U+FEFF is a character like any other [MQTT-1.5.4-3].
func checkText(b []byte, v Version) *Error {
	if plain(b) {
		return nil
	}
	if !utf8.Valid(b) {
		return &Error{ReasonMalformedPacket, byVersion(v, "MQTT-1.5.4-1", "MQTT-1.5.3-1"), "a string is not UTF-8"}
	}
	for _, x := range b {
		if x == 0 {
			return &Error{ReasonMalformedPacket, byVersion(v, "MQTT-1.5.4-2", "MQTT-1.5.3-2"), "a string holds U+0000"}
		}
	}
	return nil
}

// Eight bytes at a time: lows has the lowest bit of every byte set, highs the highest.
const (
	lows  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plain reports whether every byte is from 0x01 to 0x7F: nearly all text is, and needs no closer look.
func plain(b []byte) bool {
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		// x-lows borrows into the top bit of a byte that is 0; a top bit set in x is refused as it is.
		if (x|(x-lows))&highs != 0 {
			return false
		}
		b = b[8:]
	}
	for _, x := range b {
		if x-1 >= 0x7F {
			return false
		}
	}
	return true
}
