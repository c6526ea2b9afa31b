package packet

import "strconv"

// Version is the protocol level of a connection, as CONNECT carries it without the bridge bit.
// The zero Version means that CONNECT has not been seen.
type Version byte

// The protocol levels of the three versions spoken here.
const (
	V31  Version = 3
	V311 Version = 4
	V5   Version = 5
)

// String returns the number by which the standard is known, such as "3.1.1".
func (v Version) String() string {
	switch v {
	case V31:
		return "3.1"
	case V311:
		return "3.1.1"
	case V5:
		return "5.0"
	}
	return "protocol level " + strconv.Itoa(int(v))
}

// Type is the control packet type, the upper half of the first byte.
type Type byte

// The control packet types (MQTT 5.0 table 2-1). Zero is reserved and never returned by [Next].
const (
	CONNECT     Type = 1
	CONNACK     Type = 2
	PUBLISH     Type = 3
	PUBACK      Type = 4
	PUBREC      Type = 5
	PUBREL      Type = 6
	PUBCOMP     Type = 7
	SUBSCRIBE   Type = 8
	SUBACK      Type = 9
	UNSUBSCRIBE Type = 10
	UNSUBACK    Type = 11
	PINGREQ     Type = 12
	PINGRESP    Type = 13
	DISCONNECT  Type = 14
	AUTH        Type = 15
)

// String returns the name of the type as the standard writes it.
func (t Type) String() string {
	names := [...]string{
		"reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP",
		"SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
	}
	if int(t) < len(names) {
		return names[t]
	}
	return "packet type " + strconv.Itoa(int(t))
}

// Limits of the encoding.
const (
	// MaxString is the largest length in bytes of a string or of binary data.
	MaxString = 65535
	// MaxRemaining is the largest remaining length, and the largest variable byte integer.
	MaxRemaining = 268435455
	// MaxPacket is the largest control packet, its fixed header included.
	MaxPacket = 1 + 4 + MaxRemaining
)

// Error says which rule of the standard a peer broke. Every error of this package is an *Error.
type Error struct {
	// Reason is what a 5.0 peer is told in CONNACK or DISCONNECT.
	Reason Reason
	// Statement is the number of the normative statement, such as "MQTT-3.3.1-4"; numbers that differ are those
	// of the version spoken, 3.1 using those of 3.1.1. Empty where the standard has the rule but no number for it.
	Statement string
	// Detail is what was wrong, in words. It holds nothing that the peer sent, so it may be logged.
	Detail string
}

// Error returns "packet: reason: detail [statement]".
func (e *Error) Error() string {
	text := "packet: " + e.Reason.String() + ": " + e.Detail
	if e.Statement != "" {
		text += " [" + e.Statement + "]"
	}
	return text
}

// UserProperty is one name and value pair; both alias the packet and either may be empty.
type UserProperty struct{ Name, Value []byte }
