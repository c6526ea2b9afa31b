package packet

import "testing"

var ackCases = []wireCase{
	{name: "PUBACK", version: V311, wire: "40 02 0007", packet: &Ack{Type: PUBACK, PacketID: 7}},
	{name: "PUBREC", version: V31, wire: "50 02 0007", packet: &Ack{Type: PUBREC, PacketID: 7}},
	{name: "PUBREL", version: V311, wire: "62 02 ffff", packet: &Ack{Type: PUBREL, PacketID: 65535}},
	{name: "PUBCOMP", version: V311, wire: "70 02 0007", packet: &Ack{Type: PUBCOMP, PacketID: 7}},
	{name: "PUBACK of two bytes", version: V5, wire: "40 02 0007", packet: &Ack{Type: PUBACK, PacketID: 7}},
	{name: "PUBREL of two bytes", version: V5, wire: "62 02 0007", packet: &Ack{Type: PUBREL, PacketID: 7}},
	{name: "PUBACK of three bytes", version: V5, wire: "40 03 0007 97",
		packet: &Ack{Type: PUBACK, PacketID: 7, Reason: ReasonQuotaExceeded}},
	{name: "PUBACK of three bytes, success", version: V5, wire: "40 03 0007 00",
		packet: &Ack{Type: PUBACK, PacketID: 7}, oneWay: true},
	{name: "PUBACK of four bytes", version: V5, wire: "40 04 0007 10 00",
		packet: &Ack{Type: PUBACK, PacketID: 7, Reason: ReasonNoMatchingSubscribers}, oneWay: true},
	{name: "PUBREC with properties", version: V5, wire: "50 11 0007 80 0d 1f 0003'why' 26 0001'k' 0001'v'",
		packet: &Ack{Type: PUBREC, PacketID: 7, Reason: ReasonUnspecifiedError, ReasonString: []byte("why"),
			UserProperties: []UserProperty{{[]byte("k"), []byte("v")}}}},
	{name: "PUBREL success with properties", version: V5, wire: "62 07 0007 00 03 1f 0000",
		packet: &Ack{Type: PUBREL, PacketID: 7, ReasonString: []byte{}}},
	{name: "PUBCOMP not found", version: V5, wire: "70 03 0007 92",
		packet: &Ack{Type: PUBCOMP, PacketID: 7, Reason: ReasonPacketIdentifierNotFound}},

	{name: "MQTT-3.4.2-1 PUBACK with granted QoS 1", version: V5, wire: "40 03 0007 01", err: "0x82 MQTT-3.4.2-1"},
	{name: "MQTT-3.5.2-1 PUBREC with not found", version: V5, wire: "50 03 0007 92", err: "0x82 MQTT-3.5.2-1"},
	{name: "MQTT-3.6.2-1 PUBREL with unspecified error", version: V5, wire: "62 03 0007 80", err: "0x82 MQTT-3.6.2-1"},
	{name: "MQTT-3.7.2-1 PUBCOMP with no subscribers", version: V5, wire: "70 03 0007 10", err: "0x82 MQTT-3.7.2-1"},
	{name: "MQTT-2.2.1-5 packet identifier 0", version: V5, wire: "40 02 0000", err: "0x82 MQTT-2.2.1-5"},
	{name: "MQTT-2.3.1-6 packet identifier 0 (3.1.1)", version: V311, wire: "62 02 0000", err: "0x82 MQTT-2.3.1-6"},
	{name: "empty", version: V5, wire: "40 00", err: "0x81"},
	{name: "one byte", version: V311, wire: "40 01 00", err: "0x81"},
	{name: "three bytes (3.1.1)", version: V311, wire: "40 03 0007 00", err: "0x81"},
	{name: "bytes behind the properties", version: V5, wire: "40 05 0007 00 00 00", err: "0x81"},
	{name: "reason string twice", version: V5, wire: "40 0a 0007 00 06 1f 0000 1f 0000", err: "0x82"},
	{name: "reason string not UTF-8", version: V5, wire: "40 08 0007 00 04 1f 0001 ff", err: "0x81 MQTT-1.5.4-1"},
	{name: "property of another packet", version: V5, wire: "40 07 0007 00 03 03 0000", err: "0x81"},
	{name: "property length without properties", version: V5, wire: "40 04 0007 00 02", err: "0x81"},
}

func TestAck(t *testing.T) { runWireCases(t, ackCases) }

var disconnectCases = []wireCase{
	{name: "3.1", version: V31, wire: "e000", packet: &Disconnect{}},
	{name: "3.1.1", version: V311, wire: "e000", packet: &Disconnect{}},
	{name: "of no bytes", version: V5, wire: "e000", packet: &Disconnect{}},
	{name: "of one byte", version: V5, wire: "e0 01 8e", packet: &Disconnect{Reason: ReasonSessionTakenOver}},
	{name: "of one byte, normal", version: V5, wire: "e0 01 00", packet: &Disconnect{}, oneWay: true},
	{name: "of two bytes", version: V5, wire: "e0 02 04 00", packet: &Disconnect{Reason: ReasonDisconnectWithWill}, oneWay: true},
	{name: "normal with session expiry 0", version: V5, wire: "e0 07 00 05 11 00000000",
		packet: &Disconnect{HasSessionExpiry: true}},
	{name: "every property", version: V5, wire: "e0 17 9d 15 11 0000003c 1c 0003'b:1' 1f 0002'go' 26 0000 0000",
		packet: &Disconnect{Reason: ReasonServerMoved, HasSessionExpiry: true, SessionExpiry: 60, ServerReference: []byte("b:1"),
			ReasonString: []byte("go"), UserProperties: []UserProperty{{[]byte{}, []byte{}}}}},

	{name: "with a body (3.1.1)", version: V311, wire: "e0 01 00", err: "0x81"},
	{name: "MQTT-3.14.2-1 bad user name", version: V5, wire: "e0 01 86", err: "0x82 MQTT-3.14.2-1"},
	{name: "MQTT-3.14.2-1 packet identifier in use", version: V5, wire: "e0 01 91", err: "0x82 MQTT-3.14.2-1"},
	{name: "MQTT-3.14.2-1 no such reason", version: V5, wire: "e0 01 a3", err: "0x82 MQTT-3.14.2-1"},
	{name: "MQTT-3.14.2-1 granted QoS 1", version: V5, wire: "e0 01 01", err: "0x82 MQTT-3.14.2-1"},
	{name: "session expiry twice", version: V5, wire: "e0 0c 00 0a 11 00000000 11 00000000", err: "0x82"},
	{name: "server reference twice", version: V5, wire: "e0 08 9d 06 1c 0000 1c 0000", err: "0x82"},
	{name: "reason string twice", version: V5, wire: "e0 08 9d 06 1f 0000 1f 0000", err: "0x82"},
	{name: "receive maximum in DISCONNECT", version: V5, wire: "e0 05 00 03 21 0001", err: "0x81"},
	{name: "bytes behind the properties", version: V5, wire: "e0 03 00 00 00", err: "0x81"},
}

func TestDisconnect(t *testing.T) { runWireCases(t, disconnectCases) }

var authCases = []wireCase{
	{name: "of no bytes", version: V5, wire: "f000", packet: &Auth{}},
	{name: "continue", version: V5, wire: "f0 0d 18 0b 15 0003'abc' 16 0002'xy'",
		packet: &Auth{Reason: ReasonContinueAuthentication, AuthenticationMethod: []byte("abc"), AuthenticationData: []byte("xy")}},
	{name: "every property", version: V5, wire: "f0 13 19 11 15 0001'm' 16 0000 1f 0001'r' 26 0000 0001'v'",
		packet: &Auth{Reason: ReasonReauthenticate, AuthenticationMethod: []byte("m"), AuthenticationData: []byte{},
			ReasonString: []byte("r"), UserProperties: []UserProperty{{[]byte{}, []byte("v")}}}},

	{name: "MQTT-3.15.2-1 not authorized", version: V5, wire: "f0 06 87 04 15 0001'm'", err: "0x82 MQTT-3.15.2-1"},
	{name: "without a method", version: V5, wire: "f0 02 18 00", err: "0x82"},
	{name: "only a reason", version: V5, wire: "f0 01 18", err: "0x81"},
	{name: "method twice", version: V5, wire: "f0 08 18 06 15 0000 15 0000", err: "0x82"},
	{name: "data twice", version: V5, wire: "f0 0b 18 09 15 0000 16 0000 16 0000", err: "0x82"},
	{name: "method not UTF-8", version: V5, wire: "f0 06 18 04 15 0001 ff", err: "0x81 MQTT-1.5.4-1"},
	{name: "server reference in AUTH", version: V5, wire: "f0 08 18 06 15 0000 1c 0000", err: "0x81"},
}

func TestAuth(t *testing.T) { runWireCases(t, authCases) }

// TestReasons holds every reason against table 2-6: the packets that may carry it, by the first letters of their names.
func TestReasons(t *testing.T) {
	table := map[Reason][]Type{
		0x00: {CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, UNSUBACK, AUTH, DISCONNECT, SUBACK},
		0x01: {SUBACK}, 0x02: {SUBACK}, 0x04: {DISCONNECT}, 0x10: {PUBACK, PUBREC}, 0x11: {UNSUBACK},
		0x18: {AUTH}, 0x19: {AUTH},
		0x80: {CONNACK, PUBACK, PUBREC, SUBACK, UNSUBACK, DISCONNECT},
		0x81: {CONNACK, DISCONNECT},
		0x82: {CONNACK, DISCONNECT},
		0x83: {CONNACK, PUBACK, PUBREC, SUBACK, UNSUBACK, DISCONNECT},
		0x84: {CONNACK}, 0x85: {CONNACK}, 0x86: {CONNACK},
		0x87: {CONNACK, PUBACK, PUBREC, SUBACK, UNSUBACK, DISCONNECT},
		0x88: {CONNACK}, 0x89: {CONNACK, DISCONNECT}, 0x8A: {CONNACK}, 0x8B: {DISCONNECT}, 0x8C: {CONNACK, DISCONNECT},
		0x8D: {DISCONNECT}, 0x8E: {DISCONNECT}, 0x8F: {SUBACK, UNSUBACK, DISCONNECT},
		0x90: {CONNACK, PUBACK, PUBREC, DISCONNECT}, 0x91: {PUBACK, PUBREC, SUBACK, UNSUBACK}, 0x92: {PUBREL, PUBCOMP},
		0x93: {DISCONNECT}, 0x94: {DISCONNECT}, 0x95: {CONNACK, DISCONNECT}, 0x96: {DISCONNECT},
		0x97: {CONNACK, PUBACK, PUBREC, SUBACK, DISCONNECT}, 0x98: {DISCONNECT},
		0x99: {CONNACK, PUBACK, PUBREC, DISCONNECT}, 0x9A: {CONNACK, DISCONNECT}, 0x9B: {CONNACK, DISCONNECT},
		0x9C: {CONNACK, DISCONNECT}, 0x9D: {CONNACK, DISCONNECT}, 0x9E: {SUBACK, DISCONNECT}, 0x9F: {CONNACK, DISCONNECT},
		0xA0: {DISCONNECT}, 0xA1: {SUBACK, DISCONNECT}, 0xA2: {SUBACK, DISCONNECT},
	}
	for r := range 256 {
		allowed := map[Type]bool{}
		for _, packet := range table[Reason(r)] {
			allowed[packet] = true
		}
		for packet := CONNECT; packet <= AUTH; packet++ {
			if got := Reason(r).validIn(packet); got != allowed[packet] {
				t.Errorf("%v (0x%02x) in %v: %v", Reason(r), r, packet, got)
			}
		}
	}
}
