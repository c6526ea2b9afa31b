package packet

import (
	"strings"
	"testing"
)

// longID is as long as 3.1 allows client identifiers to be.
const longID = "abcdefghijklmnopqrstuvw"

var connectCases = []wireCase{
	{name: "3.1", wire: "10 25 0006'MQIsdp' 03 02 003c 0017'" + longID + "'",
		packet: &Connect{Version: V31, CleanStart: true, KeepAlive: 60, ClientID: []byte(longID)}},
	{name: "3.1.1", wire: "10 0e 0004'MQTT' 04 00 ffff 0002'c1'",
		packet: &Connect{Version: V311, KeepAlive: 65535, ClientID: []byte("c1")}},
	{name: "5.0", wire: "10 0f 0004'MQTT' 05 02 000a 00 0002'c1'",
		packet: &Connect{Version: V5, CleanStart: true, KeepAlive: 10, ClientID: []byte("c1")}},
	{name: "bridge 3.1", wire: "10 10 0006'MQIsdp' 83 00 0000 0002'c1'",
		packet: &Connect{Version: V31, Bridge: true, ClientID: []byte("c1")}},
	{name: "bridge 3.1.1", wire: "10 0e 0004'MQTT' 84 00 0000 0002'c1'",
		packet: &Connect{Version: V311, Bridge: true, ClientID: []byte("c1")}},
	{name: "empty client identifier (3.1.1)", wire: "10 0c 0004'MQTT' 04 02 0000 0000",
		packet: &Connect{Version: V311, CleanStart: true, ClientID: []byte{}}},
	{name: "MQTT-3.1.3-1 will, user name and password (3.1.1)",
		wire: "10 1b 0004'MQTT' 04 ec 0000 0001'c' 0001't' 0002'hi' 0001'u' 0002 00ff",
		packet: &Connect{Version: V311, ClientID: []byte("c"), HasUsername: true, Username: []byte("u"), HasPassword: true,
			Password: []byte{0, 255}, HasWill: true,
			Will: WillMessage{Topic: []byte("t"), Payload: []byte("hi"), QoS: 1, Retain: true}}},
	{name: "empty will, user name and password", wire: "10 15 0004'MQTT' 04 c4 0000 0000 0001't' 0000 0000 0000",
		packet: &Connect{Version: V311, ClientID: []byte{}, HasUsername: true, Username: []byte{}, HasPassword: true,
			Password: []byte{}, HasWill: true, Will: WillMessage{Topic: []byte("t"), Payload: []byte{}}}},
	{name: "password without a user name", wire: "10 10 0004'MQTT' 05 40 0000 00 0000 0001'p'",
		packet: &Connect{Version: V5, ClientID: []byte{}, HasPassword: true, Password: []byte("p")}},
	{name: "every property", wire: "10 33 0004'MQTT' 05 02 0000 24" +
		"11 0000003c 15 0001'm' 16 0002 0001 17 00 19 01 21 0014 22 000a 26 0001'k' 0001'v' 27 00010000" +
		"0002'c1'",
		packet: &Connect{Version: V5, CleanStart: true, ClientID: []byte("c1"), Properties: ConnectProperties{
			SessionExpiry: 60, AuthenticationMethod: []byte("m"), AuthenticationData: []byte{0, 1},
			SuppressProblemInformation: true, RequestResponseInformation: true, ReceiveMaximum: 20, TopicAliasMaximum: 10,
			UserProperties: []UserProperty{{[]byte("k"), []byte("v")}}, MaximumPacketSize: 65536,
		}}},
	{name: "what is assumed anyway", wire: "10 16 0004'MQTT' 05 02 0000 09 11 00000000 17 01 19 00 0000",
		packet: &Connect{Version: V5, CleanStart: true, ClientID: []byte{}}, oneWay: true},
	{name: "every will property", wire: "10 3a 0004'MQTT' 05 16 0000 00 0001'c' 24" +
		"18 00000005 01 01 02 00000e10 03 0001'x' 08 0001'r' 09 0001 00 26 0000 0001'v' 26 0001'k' 0000" +
		"0001't' 0002'hi'",
		packet: &Connect{Version: V5, CleanStart: true, ClientID: []byte("c"), HasWill: true,
			Will: WillMessage{Topic: []byte("t"), Payload: []byte("hi"), QoS: 2, WillDelay: 5, PublishProperties: PublishProperties{
				HasPayloadFormat: true, PayloadFormat: 1, HasExpiry: true, Expiry: 3600, ContentType: []byte("x"),
				ResponseTopic: []byte("r"), HasCorrelation: true, Correlation: []byte{0},
				UserProperties: []UserProperty{{[]byte{}, []byte("v")}, {[]byte("k"), []byte{}}},
			}}}},

	{name: "MQTT-3.1.2-1 other protocol", wire: "10 0c 0004'HTTP' 04 02 0000 0000", err: "0x84 MQTT-3.1.2-1"},
	{name: "MQTT-3.1.2-1 lower case", wire: "10 0c 0004'mqtt' 04 02 0000 0000", err: "0x84 MQTT-3.1.2-1"},
	{name: "MQTT-3.1.2-1 empty name", wire: "10 08 0000 04 02 0000 0000", err: "0x84 MQTT-3.1.2-1"},
	{name: "MQTT-3.1.2-2 level 6", wire: "10 0c 0004'MQTT' 06 02 0000 0000", err: "0x84 MQTT-3.1.2-2"},
	{name: "MQTT-3.1.2-2 level 0", wire: "10 0c 0004'MQTT' 00 02 0000 0000", err: "0x84 MQTT-3.1.2-2"},
	{name: "MQTT-3.1.2-2 level 3 of MQTT", wire: "10 0c 0004'MQTT' 03 02 0000 0000", err: "0x84 MQTT-3.1.2-2"},
	{name: "MQTT-3.1.2-2 level 4 of MQIsdp", wire: "10 0e 0006'MQIsdp' 04 02 0000 0000", err: "0x84 MQTT-3.1.2-2"},
	{name: "MQTT-3.1.2-2 bridge 5.0", wire: "10 0d 0004'MQTT' 85 02 0000 00 0000", err: "0x84 MQTT-3.1.2-2"},
	{name: "MQTT-3.1.2-3 reserved flag", wire: "10 0d 0004'MQTT' 05 03 0000 00 0000", err: "0x81 MQTT-3.1.2-3"},
	{name: "MQTT-3.1.2-3 reserved flag (3.1.1)", wire: "10 0c 0004'MQTT' 04 01 0000 0000", err: "0x81 MQTT-3.1.2-3"},
	{name: "MQTT-3.1.2-11 will QoS without will", wire: "10 0d 0004'MQTT' 05 08 0000 00 0000", err: "0x81 MQTT-3.1.2-11"},
	{name: "MQTT-3.1.2-13 will QoS without will (3.1.1)", wire: "10 0c 0004'MQTT' 04 10 0000 0000", err: "0x81 MQTT-3.1.2-13"},
	{name: "MQTT-3.1.2-13 will retain without will", wire: "10 0d 0004'MQTT' 05 20 0000 00 0000", err: "0x81 MQTT-3.1.2-13"},
	{name: "MQTT-3.1.2-15 will retain without will (3.1.1)", wire: "10 0c 0004'MQTT' 04 20 0000 0000", err: "0x81 MQTT-3.1.2-15"},
	{name: "MQTT-3.1.2-12 will QoS 3", wire: "10 0d 0004'MQTT' 05 1c 0000 00 0000", err: "0x81 MQTT-3.1.2-12"},
	{name: "MQTT-3.1.2-14 will QoS 3 (3.1.1)", wire: "10 0c 0004'MQTT' 04 1c 0000 0000", err: "0x81 MQTT-3.1.2-14"},
	{name: "MQTT-3.1.2-9 no will", wire: "10 0d 0004'MQTT' 05 04 0000 00 0000", err: "0x81 MQTT-3.1.2-9"},
	{name: "MQTT-3.1.2-9 no will (3.1.1)", wire: "10 0c 0004'MQTT' 04 04 0000 0000", err: "0x81 MQTT-3.1.2-9"},
	{name: "MQTT-3.1.2-9 no will payload", wire: "10 0f 0004'MQTT' 04 04 0000 0000 0001't'", err: "0x81"},
	{name: "MQTT-3.1.2-16 user name without its flag", wire: "10 10 0004'MQTT' 05 02 0000 00 0000 0001'u'", err: "0x81 MQTT-3.1.2-16"},
	{name: "MQTT-3.1.2-18 user name without its flag (3.1.1)", wire: "10 0f 0004'MQTT' 04 02 0000 0000 0001'u'", err: "0x81 MQTT-3.1.2-18"},
	{name: "MQTT-3.1.2-17 no user name", wire: "10 0d 0004'MQTT' 05 82 0000 00 0000", err: "0x81 MQTT-3.1.2-17"},
	{name: "MQTT-3.1.2-19 no user name (3.1.1)", wire: "10 0c 0004'MQTT' 04 82 0000 0000", err: "0x81 MQTT-3.1.2-19"},
	{name: "MQTT-3.1.2-18 password without its flag", wire: "10 11 0004'MQTT' 05 82 0000 00 0000 0000 0000", err: "0x81 MQTT-3.1.2-18"},
	{name: "MQTT-3.1.2-20 password without its flag (3.1.1)", wire: "10 10 0004'MQTT' 04 82 0000 0000 0000 0000", err: "0x81 MQTT-3.1.2-20"},
	{name: "MQTT-3.1.2-19 no password", wire: "10 0f 0004'MQTT' 05 c2 0000 00 0000 0000", err: "0x81 MQTT-3.1.2-19"},
	{name: "MQTT-3.1.2-21 no password (3.1.1)", wire: "10 0e 0004'MQTT' 04 c2 0000 0000 0000", err: "0x81 MQTT-3.1.2-21"},
	{name: "MQTT-3.1.2-22 password without a user name (3.1.1)", wire: "10 0f 0004'MQTT' 04 42 0000 0000 0001'p'", err: "0x81 MQTT-3.1.2-22"},
	{name: "bytes left over", wire: "10 11 0004'MQTT' 04 c2 0000 0000 0000 0000 00", err: "0x81"},
	{name: "MQTT-3.1.3-3 no client identifier", wire: "10 0b 0004'MQTT' 05 02 0000 00", err: "0x81 MQTT-3.1.3-3"},
	{name: "MQTT-3.1.3-3 no client identifier (3.1.1)", wire: "10 0a 0004'MQTT' 04 02 0000", err: "0x81 MQTT-3.1.3-3"},
	{name: "MQTT-3.1.3-4 client identifier not UTF-8", wire: "10 0e 0004'MQTT' 05 02 0000 00 0001 ff", err: "0x81 MQTT-1.5.4-1"},
	{name: "MQTT-3.1.3-11 will topic not UTF-8", wire: "10 13 0004'MQTT' 05 06 0000 00 0000 00 0001 ff 0000", err: "0x81 MQTT-1.5.4-1"},
	{name: "MQTT-3.1.3-10 will topic not UTF-8 (3.1.1)", wire: "10 11 0004'MQTT' 04 06 0000 0000 0001 ff 0000", err: "0x81 MQTT-1.5.3-1"},
	{name: "MQTT-3.1.3-12 user name not UTF-8", wire: "10 10 0004'MQTT' 05 82 0000 00 0000 0001 ff", err: "0x81 MQTT-1.5.4-1"},
	{name: "MQTT-3.1.3-11 user name not UTF-8 (3.1.1)", wire: "10 0f 0004'MQTT' 04 82 0000 0000 0001 ff", err: "0x81 MQTT-1.5.3-1"},
	{name: "MQTT-4.7.3-1 empty will topic", wire: "10 10 0004'MQTT' 04 06 0000 0000 0000 0000", err: "0x81 MQTT-4.7.3-1"},
	{name: "MQTT-4.7.0-1 wildcard in the will topic", wire: "10 13 0004'MQTT' 05 06 0000 00 0000 00 0001'#' 0000", err: "0x81 MQTT-4.7.0-1"},
	{name: "MQTT-4.7.1-1 wildcard in the will topic (3.1.1)", wire: "10 11 0004'MQTT' 04 06 0000 0000 0001'+' 0000", err: "0x81 MQTT-4.7.1-1"},
	{name: "empty", wire: "1000", err: "0x81"},
	{name: "ends behind the name", wire: "10 06 0004'MQTT'", err: "0x81"},
	{name: "ends behind the flags", wire: "10 08 0004'MQTT' 04 02", err: "0x81"},
	{name: "name longer than the packet", wire: "10 06 0005'MQTT'", err: "0x81"},

	{name: "receive maximum 0", wire: "10 10 0004'MQTT' 05 02 0000 03 21 0000 0000", err: "0x82"},
	{name: "receive maximum twice", wire: "10 13 0004'MQTT' 05 02 0000 06 21 0001 21 0001 0000", err: "0x82"},
	{name: "maximum packet size 0", wire: "10 12 0004'MQTT' 05 02 0000 05 27 00000000 0000", err: "0x82"},
	{name: "maximum packet size twice", wire: "10 17 0004'MQTT' 05 02 0000 0a 27 00000001 27 00000001 0000", err: "0x82"},
	{name: "session expiry twice", wire: "10 17 0004'MQTT' 05 02 0000 0a 11 00000001 11 00000001 0000", err: "0x82"},
	{name: "topic alias maximum twice", wire: "10 13 0004'MQTT' 05 02 0000 06 22 0001 22 0001 0000", err: "0x82"},
	{name: "request response information 2", wire: "10 0f 0004'MQTT' 05 02 0000 02 19 02 0000", err: "0x82"},
	{name: "request response information twice", wire: "10 11 0004'MQTT' 05 02 0000 04 19 01 19 01 0000", err: "0x82"},
	{name: "request problem information 2", wire: "10 0f 0004'MQTT' 05 02 0000 02 17 02 0000", err: "0x82"},
	{name: "request problem information twice", wire: "10 11 0004'MQTT' 05 02 0000 04 17 01 17 01 0000", err: "0x82"},
	{name: "authentication method twice", wire: "10 13 0004'MQTT' 05 02 0000 06 15 0000 15 0000 0000", err: "0x82"},
	{name: "authentication data twice", wire: "10 16 0004'MQTT' 05 02 0000 09 15 0000 16 0000 16 0000 0000", err: "0x82"},
	{name: "authentication data without a method", wire: "10 10 0004'MQTT' 05 02 0000 03 16 0000 0000", err: "0x82"},
	{name: "will delay among the properties of CONNECT", wire: "10 12 0004'MQTT' 05 02 0000 05 18 00000001 0000", err: "0x81"},
	{name: "will delay twice", wire: "10 1d 0004'MQTT' 05 06 0000 00 0000 0a 18 00000001 18 00000001 0001't' 0000", err: "0x82"},
	{name: "topic alias in the will", wire: "10 16 0004'MQTT' 05 06 0000 00 0000 03 23 0001 0001't' 0000", err: "0x81"},
	{name: "subscription identifier in the will", wire: "10 15 0004'MQTT' 05 06 0000 00 0000 02 0b 01 0001't' 0000", err: "0x81"},
	{name: "payload format 2 in the will", wire: "10 15 0004'MQTT' 05 06 0000 00 0000 02 01 02 0001't' 0000", err: "0x82"},
	{name: "MQTT-3.3.2-14 wildcard in the will's response topic",
		wire: "10 17 0004'MQTT' 05 06 0000 00 0000 04 08 0001'#' 0001't' 0000", err: "0x81 MQTT-3.3.2-14"},

	{name: "3.1 user name and password missing", wire: "10 0f 0006'MQIsdp' 03 c0 0000 0001'c'",
		packet: &Connect{Version: V31, ClientID: []byte("c")}, oneWay: true},
	{name: "3.1 password missing", wire: "10 12 0006'MQIsdp' 03 c0 0000 0001'c' 0001'u'",
		packet: &Connect{Version: V31, ClientID: []byte("c"), HasUsername: true, Username: []byte("u")}, oneWay: true},
	{name: "3.1 flags without meaning", wire: "10 0f 0006'MQIsdp' 03 39 0000 0001'c'",
		packet: &Connect{Version: V31, ClientID: []byte("c")}, oneWay: true},
	{name: "3.1 password without a user name", wire: "10 12 0006'MQIsdp' 03 40 0000 0001'c' 0001'p'", err: "0x81 MQTT-3.1.2-22"},
	{name: "3.1 bytes left over", wire: "10 10 0006'MQIsdp' 03 00 0000 0001'c' 00", err: "0x81 MQTT-3.1.2-18"},
}

func TestConnect(t *testing.T) { runWireCases(t, connectCases) }

func TestConnectUnsupportedVersion(t *testing.T) {
	for _, test := range []struct {
		body string
		want Version
	}{
		{"0004'MQTT' 06 02 0000 00 0000", 6},
		{"0004'MQTT' 85 02 0000 0000", 0x85},
		{"0004'HTTP' 05 02 0000 0000", 0}, // not MQTT: its level means nothing
	} {
		p := Connect{Version: V311}
		err := p.Decode(wire(t, test.body))
		if !strings.HasPrefix(errorText(err), "0x84") || p.Version != test.want {
			t.Errorf("%s: %v, version %d, want %d", test.body, err, p.Version, test.want)
		}
	}
}

var connackCases = []wireCase{
	{name: "3.1", version: V31, wire: "20 02 00 00", packet: &Connack{}},
	{name: "3.1 flags without meaning", version: V31, wire: "20 02 ff 05", packet: &Connack{Reason: ReasonNotAuthorized}, oneWay: true},
	{name: "3.1.1 session present", version: V311, wire: "20 02 01 00", packet: &Connack{SessionPresent: true}},
	{name: "3.1.1 version", version: V311, wire: "20 02 00 01", packet: &Connack{Reason: ReasonUnsupportedProtocolVersion}},
	{name: "3.1.1 client identifier", version: V311, wire: "20 02 00 02", packet: &Connack{Reason: ReasonClientIdentifierNotValid}},
	{name: "3.1.1 unavailable", version: V311, wire: "20 02 00 03", packet: &Connack{Reason: ReasonServerUnavailable}},
	{name: "3.1.1 password", version: V311, wire: "20 02 00 04", packet: &Connack{Reason: ReasonBadUserNameOrPassword}},
	{name: "3.1.1 not authorized", version: V311, wire: "20 02 00 05", packet: &Connack{Reason: ReasonNotAuthorized}},
	{name: "5.0", version: V5, wire: "20 03 01 00 00", packet: &Connack{SessionPresent: true}},
	{name: "5.0 refused", version: V5, wire: "20 03 00 8a 00", packet: &Connack{Reason: ReasonBanned}},
	{name: "every property", version: V5, wire: "20 46 00 00 43" +
		"11 0000003c 12 0002'id' 13 001e 15 0001'm' 16 0001 00 1a 0001'i' 1c 0001's' 1f 0001'r' 21 0014 22 000a 24 01 25 00" +
		"26 0001'k' 0001'v' 26 0001'k' 0000 27 00010000 28 00 29 00 2a 00",
		packet: &Connack{Properties: ConnackProperties{
			HasSessionExpiry: true, SessionExpiry: 60, AssignedClientID: []byte("id"), HasServerKeepAlive: true, ServerKeepAlive: 30,
			AuthenticationMethod: []byte("m"), AuthenticationData: []byte{0}, ResponseInformation: []byte("i"),
			ServerReference: []byte("s"), ReasonString: []byte("r"), ReceiveMaximum: 20, TopicAliasMaximum: 10,
			HasMaximumQoS: true, MaximumQoS: 1, NoRetain: true,
			UserProperties:    []UserProperty{{[]byte("k"), []byte("v")}, {[]byte("k"), []byte{}}},
			MaximumPacketSize: 65536, NoWildcardSubscription: true, NoSubscriptionID: true, NoSharedSubscription: true,
		}}},
	{name: "what is assumed anyway", version: V5, wire: "20 0b 00 00 08 25 01 28 01 29 01 2a 01", packet: &Connack{}, oneWay: true},
	{name: "MQTT-3.1.2-2 5.0 refused by a 3.1.1 server", version: V5, wire: "20 02 00 01",
		packet: &Connack{Reason: ReasonUnsupportedProtocolVersion}, oneWay: true},

	{name: "MQTT-3.2.2-1 reserved flags", version: V5, wire: "20 03 02 00 00", err: "0x81 MQTT-3.2.2-1"},
	{name: "reserved flags (3.1.1)", version: V311, wire: "20 02 80 00", err: "0x81"},
	{name: "MQTT-3.2.2-6 session present in a refusal", version: V5, wire: "20 03 01 87 00", err: "0x82 MQTT-3.2.2-6"},
	{name: "MQTT-3.2.2-4 session present in a refusal (3.1.1)", version: V311, wire: "20 02 01 05", err: "0x82 MQTT-3.2.2-4"},
	{name: "MQTT-3.2.2-8 keep alive timeout", version: V5, wire: "20 03 00 8d 00", err: "0x82 MQTT-3.2.2-8"},
	{name: "MQTT-3.2.2-8 return code of 3.1.1", version: V5, wire: "20 03 00 05 00", err: "0x82 MQTT-3.2.2-8"},
	{name: "reserved return code (3.1.1)", version: V311, wire: "20 02 00 06", err: "0x82"},
	{name: "of three bytes (3.1.1)", version: V311, wire: "20 03 00 00 00", err: "0x81"},
	{name: "of two bytes", version: V5, wire: "20 02 00 00", err: "0x81"},
	{name: "of two bytes, return code 5", version: V5, wire: "20 02 00 05", err: "0x82 MQTT-3.2.2-8"},
	{name: "of one byte", version: V311, wire: "20 01 00", err: "0x81"},
	{name: "maximum QoS 2", version: V5, wire: "20 05 00 00 02 24 02", err: "0x82"},
	{name: "maximum QoS twice", version: V5, wire: "20 07 00 00 04 24 01 24 01", err: "0x82"},
	{name: "retain available 2", version: V5, wire: "20 05 00 00 02 25 02", err: "0x82"},
	{name: "retain available twice", version: V5, wire: "20 07 00 00 04 25 01 25 01", err: "0x82"},
	{name: "wildcard subscription available 2", version: V5, wire: "20 05 00 00 02 28 02", err: "0x82"},
	{name: "wildcard subscription available twice", version: V5, wire: "20 07 00 00 04 28 01 28 01", err: "0x82"},
	{name: "subscription identifiers available 2", version: V5, wire: "20 05 00 00 02 29 02", err: "0x82"},
	{name: "subscription identifiers available twice", version: V5, wire: "20 07 00 00 04 29 01 29 01", err: "0x82"},
	{name: "shared subscription available 2", version: V5, wire: "20 05 00 00 02 2a 02", err: "0x82"},
	{name: "shared subscription available twice", version: V5, wire: "20 07 00 00 04 2a 01 2a 01", err: "0x82"},
	{name: "receive maximum 0", version: V5, wire: "20 06 00 00 03 21 0000", err: "0x82"},
	{name: "maximum packet size 0", version: V5, wire: "20 08 00 00 05 27 00000000", err: "0x82"},
	{name: "assigned client identifier twice", version: V5, wire: "20 09 00 00 06 12 0000 12 0000", err: "0x82"},
	{name: "server keep alive twice", version: V5, wire: "20 09 00 00 06 13 0000 13 0000", err: "0x82"},
	{name: "response information twice", version: V5, wire: "20 09 00 00 06 1a 0000 1a 0000", err: "0x82"},
	{name: "server reference twice", version: V5, wire: "20 09 00 00 06 1c 0000 1c 0000", err: "0x82"},
	{name: "reason string twice", version: V5, wire: "20 09 00 00 06 1f 0000 1f 0000", err: "0x82"},
	{name: "request problem information in CONNACK", version: V5, wire: "20 05 00 00 02 17 01", err: "0x81"},
}

func TestConnack(t *testing.T) { runWireCases(t, connackCases) }

// TestConnackOfRefusal shows that a refusal cannot announce a session, nor 3.1 at all [MQTT-3.2.2-6].
func TestConnackOfRefusal(t *testing.T) {
	p := Connack{SessionPresent: true, Reason: ReasonQuotaExceeded}
	if got := p.Append(nil, V5); got[2] != 0 {
		t.Errorf("5.0: % x", got)
	}
	if got := p.Append(nil, V311); got[2] != 0 || got[3] != ConnackServerUnavailable {
		t.Errorf("3.1.1: % x", got)
	}
	p.Reason = ReasonSuccess
	if got := p.Append(nil, V31); got[2] != 0 {
		t.Errorf("3.1: % x", got)
	}
}
