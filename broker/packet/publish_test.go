package packet

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

var publishCases = []wireCase{
	{name: "QoS 0", version: V311, wire: "30 05 0001'a' 'hi'",
		packet: &Publish{Topic: []byte("a"), Payload: []byte("hi")}},
	{name: "MQTT-2.2.1-2 QoS 0 has no packet identifier", version: V5, wire: "30 06 0001'a' 00 'hi'",
		packet: &Publish{Topic: []byte("a"), Payload: []byte("hi")}},
	{name: "no payload", version: V31, wire: "31 05 0003'a/b'",
		packet: &Publish{Retain: true, Topic: []byte("a/b"), Payload: []byte{}}},
	{name: "QoS 1", version: V311, wire: "32 09 0003'a/b' 000a 'hi'",
		packet: &Publish{QoS: 1, PacketID: 10, Topic: []byte("a/b"), Payload: []byte("hi")}},
	{name: "QoS 2, DUP, RETAIN", version: V311, wire: "3d 07 0003'a/b' ffff",
		packet: &Publish{Dup: true, QoS: 2, Retain: true, PacketID: 65535, Topic: []byte("a/b"), Payload: []byte{}}},
	{name: "MQTT-2.2.2-1 QoS 1 without properties", version: V5, wire: "3a 08 0003'a/b' 000a 00",
		packet: &Publish{Dup: true, QoS: 1, PacketID: 10, Topic: []byte("a/b"), Payload: []byte{}}},
	{name: "MQTT-3.3.2-13 MQTT-3.3.2-19 MQTT-1.5.7-1 every property", version: V5,
		wire: "32 40 0003'a/b' 000a 36" +
			"01 01  02 00000e10  03 0004'json'  08 0003'r/1'  09 0002 00ff  0b 01  0b ffffff7f  23 0007" +
			"26 0001'k' 0001'v'  26 0001'k' 0001'w'  26 0000 0000" + "'hi'",
		packet: &Publish{QoS: 1, PacketID: 10, Topic: []byte("a/b"), Payload: []byte("hi"), PublishProperties: PublishProperties{
			HasPayloadFormat: true, PayloadFormat: 1, HasExpiry: true, Expiry: 3600, TopicAlias: 7,
			ContentType: []byte("json"), ResponseTopic: []byte("r/1"), HasCorrelation: true, Correlation: []byte{0, 255},
			SubscriptionIDs: []uint32{1, MaxRemaining},
			UserProperties: []UserProperty{
				{[]byte("k"), []byte("v")}, {[]byte("k"), []byte("w")}, {[]byte{}, []byte{}},
			},
		}}},
	{name: "properties in another order", version: V5, wire: "30 0e 0001'a' 0a 23 0007 02 00000001 01 00",
		packet: &Publish{Topic: []byte("a"), Payload: []byte{}, PublishProperties: PublishProperties{
			HasPayloadFormat: true, HasExpiry: true, Expiry: 1, TopicAlias: 7,
		}}, oneWay: true},
	{name: "present though empty", version: V5, wire: "30 0a 0001'a' 06 03 0000 09 0000",
		packet: &Publish{Topic: []byte("a"), Payload: []byte{}, PublishProperties: PublishProperties{
			ContentType: []byte{}, HasCorrelation: true, Correlation: []byte{},
		}}},
	{name: "an alias for the topic name", version: V5, wire: "30 08 0000 03 23 0007 'hi'",
		packet: &Publish{Topic: []byte{}, Payload: []byte("hi"), PublishProperties: PublishProperties{TopicAlias: 7}}},
	{name: "MQTT-1.5.4-3 U+FEFF stays", version: V5, wire: "30 06 0003 efbbbf 00",
		packet: &Publish{Topic: []byte("\ufeff"), Payload: []byte{}}},

	{name: "MQTT-3.3.1-4 QoS 3", version: V5, wire: "36 07 0001'a' 0001 00 00", err: "0x81 MQTT-3.3.1-4"},
	{name: "MQTT-3.3.1-4 QoS 3 (3.1.1)", version: V311, wire: "36 05 0001'a' 0001", err: "0x81 MQTT-3.3.1-4"},
	{name: "MQTT-3.3.1-2 DUP with QoS 0", version: V5, wire: "38 04 0001'a' 00", err: "0x81 MQTT-3.3.1-2"},
	{name: "MQTT-3.3.1-2 DUP with QoS 0 (3.1.1)", version: V311, wire: "39 03 0001'a'", err: "0x81 MQTT-3.3.1-2"},
	{name: "MQTT-3.3.2-1 no topic name", version: V5, wire: "30 00", err: "0x81"},
	{name: "topic name cut off", version: V311, wire: "30 04 0003'ab'", err: "0x81"},
	{name: "packet identifier cut off", version: V311, wire: "32 04 0001'a' 00", err: "0x81"},
	{name: "properties missing", version: V5, wire: "30 03 0001'a'", err: "0x81"},
	{name: "MQTT-2.2.1-3 packet identifier 0", version: V5, wire: "32 06 0001'a' 0000 00", err: "0x82 MQTT-2.2.1-3"},
	{name: "MQTT-2.3.1-1 packet identifier 0 (3.1.1)", version: V311, wire: "34 05 0001'a' 0000", err: "0x82 MQTT-2.3.1-1"},
	{name: "MQTT-3.3.2-1 MQTT-1.5.4-1 topic name not UTF-8", version: V5, wire: "30 06 0003 eda080 00", err: "0x81 MQTT-1.5.4-1"},
	{name: "MQTT-1.5.3-1 topic name not UTF-8 (3.1.1)", version: V311, wire: "30 03 0001 ff", err: "0x81 MQTT-1.5.3-1"},
	{name: "MQTT-1.5.4-2 MQTT-4.7.3-2 null in the topic name", version: V5, wire: "30 05 0002'a'00 00", err: "0x81 MQTT-1.5.4-2"},
	{name: "MQTT-1.5.3-2 null in the topic name (3.1.1)", version: V311, wire: "30 04 0002'a'00", err: "0x81 MQTT-1.5.3-2"},
	{name: "MQTT-3.3.2-2 plus in the topic name", version: V5, wire: "30 06 0003'a/+' 00", err: "0x81 MQTT-3.3.2-2"},
	{name: "MQTT-3.3.2-2 hash in the topic name (3.1.1)", version: V311, wire: "30 03 0001'#'", err: "0x81 MQTT-3.3.2-2"},
	{name: "MQTT-4.7.3-1 empty topic name (3.1.1)", version: V311, wire: "30 04 0000'hi'", err: "0x81 MQTT-4.7.3-1"},
	{name: "neither topic name nor alias", version: V5, wire: "30 03 0000 00", err: "0x82"},

	{name: "MQTT-3.3.2-8 topic alias 0", version: V5, wire: "30 07 0001'a' 03 23 0000", err: "0x94 MQTT-3.3.2-8"},
	{name: "payload format 2", version: V5, wire: "30 06 0001'a' 02 01 02", err: "0x82"},
	{name: "payload format twice", version: V5, wire: "30 08 0001'a' 04 01 01 01 01", err: "0x82"},
	{name: "expiry twice", version: V5, wire: "30 0e 0001'a' 0a 02 00000001 02 00000001", err: "0x82"},
	{name: "alias twice", version: V5, wire: "30 0a 0001'a' 06 23 0001 23 0001", err: "0x82"},
	{name: "content type twice", version: V5, wire: "30 0a 0001'a' 06 03 0000 03 0000", err: "0x82"},
	{name: "response topic twice", version: V5, wire: "30 0c 0001'a' 08 08 0001'r' 08 0001'r'", err: "0x82"},
	{name: "correlation data twice", version: V5, wire: "30 0a 0001'a' 06 09 0000 09 0000", err: "0x82"},
	{name: "subscription identifier 0", version: V5, wire: "30 06 0001'a' 02 0b 00", err: "0x82"},
	{name: "MQTT-1.5.5-1 subscription identifier not minimal", version: V5, wire: "30 07 0001'a' 03 0b 8100", err: "0x81 MQTT-1.5.5-1"},
	{name: "subscription identifier of five bytes", version: V5, wire: "30 0a 0001'a' 06 0b ffffffff01", err: "0x81"},
	{name: "MQTT-3.3.2-14 wildcard in the response topic", version: V5, wire: "30 0a 0001'a' 06 08 0003'r/+'", err: "0x81 MQTT-3.3.2-14"},
	{name: "MQTT-4.7.3-1 empty response topic", version: V5, wire: "30 07 0001'a' 03 08 0000", err: "0x81 MQTT-4.7.3-1"},
	{name: "MQTT-3.3.2-13 response topic not UTF-8", version: V5, wire: "30 08 0001'a' 04 08 0001 ff", err: "0x81 MQTT-1.5.4-1"},
	{name: "MQTT-3.3.2-19 content type not UTF-8", version: V5, wire: "30 08 0001'a' 04 03 0001 ff", err: "0x81 MQTT-1.5.4-1"},
	{name: "MQTT-1.5.7-1 user property name not UTF-8", version: V5, wire: "30 0a 0001'a' 06 26 0001 ff 0000", err: "0x81 MQTT-1.5.4-1"},
	{name: "MQTT-1.5.7-1 user property value with a null", version: V5, wire: "30 0a 0001'a' 06 26 0000 0001 00", err: "0x81 MQTT-1.5.4-2"},
	{name: "property of another packet", version: V5, wire: "30 09 0001'a' 05 11 00000001", err: "0x81"},
	{name: "will delay in PUBLISH", version: V5, wire: "30 09 0001'a' 05 18 00000001", err: "0x81"},
	{name: "unknown property 4", version: V5, wire: "30 06 0001'a' 02 04 00", err: "0x81"},
	{name: "unknown property 0x2b", version: V5, wire: "30 06 0001'a' 02 2b 00", err: "0x81"},
	{name: "unknown property 300", version: V5, wire: "30 07 0001'a' 03 ac02 00", err: "0x81"},
	{name: "MQTT-1.5.5-1 property identifier not minimal", version: V5, wire: "30 07 0001'a' 03 8100 01", err: "0x81 MQTT-1.5.5-1"},
	{name: "property length beyond the packet", version: V5, wire: "30 06 0001'a' 03 01 01", err: "0x81"},
	{name: "MQTT-1.5.5-1 property length not minimal", version: V5, wire: "30 05 0001'a' 8000", err: "0x81 MQTT-1.5.5-1"},
	{name: "value beyond the property length", version: V5, wire: "30 09 0001'a' 03 02 00000001", err: "0x81"},
	{name: "string beyond the property length", version: V5, wire: "30 08 0001'a' 03 03 0001'x'", err: "0x81"},
	{name: "identifier without value", version: V5, wire: "30 05 0001'a' 01 01", err: "0x81"},
}

func TestPublish(t *testing.T) { runWireCases(t, publishCases) }

func TestPublishSize(t *testing.T) {
	for _, test := range publishCases {
		p, ok := test.packet.(*Publish)
		if !ok {
			continue
		}
		for _, v := range []Version{V31, V311, V5} {
			if got, want := PublishSize(p, v), len(p.Append(nil, v)); got != want {
				t.Errorf("%s in %v: PublishSize %d, appended %d", test.name, v, got, want)
			}
		}
	}
	for _, n := range []int{0, 120, 121, 122, 123, 130, 16376, 16377, 16378, 16379, 16380, 70000} {
		p := &Publish{QoS: 1, PacketID: 1, Topic: []byte("a"), Payload: make([]byte, n)}
		b := p.Append(nil, V5)
		if got := PublishSize(p, V5); got != len(b) {
			t.Errorf("payload of %d: PublishSize %d, appended %d", n, got, len(b))
		}
		if back, err := read(b, V5); err != nil || len(back.(*Publish).Payload) != n {
			t.Errorf("payload of %d: read back %v", n, err)
		}
	}
}

// TestLongProperties crosses the lengths at which a length takes one more byte.
func TestLongProperties(t *testing.T) {
	for _, n := range []int{0, 100, 117, 118, 119, 120, 121, 122, 123, 127, 128, 129, 16370, 16376, 16384, MaxString} {
		users := []UserProperty{{Name: []byte{}, Value: []byte(strings.Repeat("v", n))}}
		for _, p := range []any{
			&Publish{Topic: []byte("a"), Payload: []byte{}, PublishProperties: PublishProperties{UserProperties: users}},
			&Ack{Type: PUBREL, PacketID: 1, UserProperties: users},
			&Suback{PacketID: 1, Reasons: []Reason{ReasonGrantedQoS1}, UserProperties: users},
			&Disconnect{UserProperties: users},
			&Connack{Properties: ConnackProperties{UserProperties: users}},
		} {
			b := encode(p, nil, V5)
			back, err := read(b, V5)
			if err != nil {
				t.Errorf("%T with %d bytes: %v", p, n, err)
				continue
			}
			if again := encode(back, nil, V5); !bytes.Equal(again, b) {
				t.Errorf("%T with %d bytes: encodes differently the second time", p, n)
			}
		}
	}
}

func TestPublishIDOffset(t *testing.T) {
	for _, payload := range []int{0, 200, 20000} {
		for _, v := range []Version{V311, V5} {
			p := Publish{QoS: 1, PacketID: 0x1234, Topic: []byte("plant/press4"), Payload: make([]byte, payload)}
			f, _, err := Next(p.Append(nil, v), v, 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := binary.BigEndian.Uint16(f.Whole[PublishIDOffset(f):]); got != 0x1234 {
				t.Errorf("%v, payload of %d: found %#x", v, payload, got)
			}
		}
	}
}

func TestPublishToOlderVersion(t *testing.T) {
	p := Publish{Topic: []byte("a"), Payload: []byte("hi"), PublishProperties: PublishProperties{
		ContentType: []byte("text"), HasExpiry: true, Expiry: 9,
	}}
	if got, want := p.Append(nil, V311), wire(t, "30 05 0001'a' 'hi'"); !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
	p.Dup = true // [MQTT-3.3.1-2]
	if got := p.Append(nil, V311); got[0] != 0x30 {
		t.Errorf("first byte %#x with QoS 0 and DUP", got[0])
	}
}

// TestDecodeOverwrites decodes a bare packet into one that was full before.
func TestDecodeOverwrites(t *testing.T) {
	var p Publish
	for _, test := range publishCases {
		if want, ok := test.packet.(*Publish); ok {
			f, _, err := Next(wire(t, test.wire), test.version, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Decode(f, test.version); err != nil {
				t.Fatal(err)
			}
			if got := p.Append(nil, V5); !bytes.Equal(got, want.Append(nil, V5)) {
				t.Errorf("%s: %+v, want %+v", test.name, p, *want)
			}
		}
	}
}
