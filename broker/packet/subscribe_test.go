package packet

import (
	"bytes"
	"testing"
)

var subscribeCases = []wireCase{
	{name: "3.1.1", version: V311, wire: "82 0e 000a 0003'a/b' 01 0003'c/d' 02", packet: &Subscribe{PacketID: 10,
		Subscriptions: []Subscription{{Filter: []byte("a/b"), QoS: 1}, {Filter: []byte("c/d"), QoS: 2}}}},
	{name: "3.1 with DUP", version: V31, wire: "8a 06 000a 0001'#' 00", packet: &Subscribe{PacketID: 10,
		Subscriptions: []Subscription{{Filter: []byte("#")}}}, oneWay: true},
	{name: "5.0", version: V5, wire: "82 07 000a 00 0001'+' 02", packet: &Subscribe{PacketID: 10,
		Subscriptions: []Subscription{{Filter: []byte("+"), QoS: 2}}}},
	{name: "every option", version: V5, wire: "82 0f 000a 00 0001'a' 2d 0001'b' 14 0001'c' 08", packet: &Subscribe{PacketID: 10,
		Subscriptions: []Subscription{
			{Filter: []byte("a"), QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 2},
			{Filter: []byte("b"), NoLocal: true, RetainHandling: 1},
			{Filter: []byte("c"), RetainAsPublished: true},
		}}},
	{name: "every property", version: V5, wire: "82 15 000a 0e 0b 8001 26 0001'k' 0000 26 0000 0000 0001'a' 00",
		packet: &Subscribe{PacketID: 10, SubscriptionID: 128, UserProperties: []UserProperty{{[]byte("k"), []byte{}}, {[]byte{}, []byte{}}},
			Subscriptions: []Subscription{{Filter: []byte("a")}}}},
	{name: "shared", version: V5, wire: "82 10 000a 00 000a'$share/g/a' 01", packet: &Subscribe{PacketID: 10,
		Subscriptions: []Subscription{{Filter: []byte("$share/g/a"), QoS: 1}}}},
	{name: "$share is a level like any other (3.1.1)", version: V311, wire: "82 0d 000a 0008'$share/g' 01", packet: &Subscribe{PacketID: 10,
		Subscriptions: []Subscription{{Filter: []byte("$share/g"), QoS: 1}}}},

	{name: "MQTT-3.8.3-2 no filter", version: V5, wire: "82 03 000a 00", err: "0x82 MQTT-3.8.3-2"},
	{name: "MQTT-3.8.3-3 no filter (3.1.1)", version: V311, wire: "82 02 000a", err: "0x82 MQTT-3.8.3-3"},
	{name: "MQTT-2.2.1-3 packet identifier 0", version: V5, wire: "82 07 0000 00 0001'a' 00", err: "0x82 MQTT-2.2.1-3"},
	{name: "MQTT-2.3.1-1 packet identifier 0 (3.1.1)", version: V311, wire: "82 06 0000 0001'a' 00", err: "0x82 MQTT-2.3.1-1"},
	{name: "MQTT-3.8.3-1 filter not UTF-8", version: V5, wire: "82 07 000a 00 0001 ff 00", err: "0x81 MQTT-1.5.4-1"},
	{name: "MQTT-3.8.3-1 filter not UTF-8 (3.1.1)", version: V311, wire: "82 06 000a 0001 ff 00", err: "0x81 MQTT-1.5.3-1"},
	{name: "MQTT-4.7.3-1 empty filter", version: V5, wire: "82 06 000a 00 0000 00", err: "0x81 MQTT-4.7.3-1"},
	{name: "MQTT-4.7.3-2 null in the filter", version: V5, wire: "82 07 000a 00 0001 00 00", err: "0x81 MQTT-1.5.4-2"},
	{name: "MQTT-4.7.1-1 hash misplaced", version: V5, wire: "82 09 000a 00 0003'#/a' 00", err: "0x81 MQTT-4.7.1-1"},
	{name: "MQTT-4.7.1-2 hash misplaced (3.1.1)", version: V311, wire: "82 07 000a 0002'a#' 00", err: "0x81 MQTT-4.7.1-2"},
	{name: "MQTT-4.7.1-2 plus misplaced", version: V5, wire: "82 08 000a 00 0002'a+' 00", err: "0x81 MQTT-4.7.1-2"},
	{name: "MQTT-4.7.1-3 plus misplaced (3.1.1)", version: V311, wire: "82 07 000a 0002'+a' 00", err: "0x81 MQTT-4.7.1-3"},
	{name: "MQTT-4.8.2-1 no share name", version: V5, wire: "82 0f 000a 00 0009'$share//a' 00", err: "0x81 MQTT-4.8.2-1"},
	{name: "MQTT-4.8.2-2 wildcard in the share name", version: V5, wire: "82 10 000a 00 000a'$share/+/a' 00", err: "0x81 MQTT-4.8.2-2"},
	{name: "MQTT-4.8.2-2 no filter behind the share name", version: V5, wire: "82 0e 000a 00 0008'$share/g' 00", err: "0x81 MQTT-4.8.2-2"},
	{name: "MQTT-3.8.3-4 no local on a shared subscription", version: V5, wire: "82 10 000a 00 000a'$share/g/a' 04", err: "0x82 MQTT-3.8.3-4"},
	{name: "MQTT-3.8.3-5 reserved bit 7", version: V5, wire: "82 07 000a 00 0001'a' 80", err: "0x81 MQTT-3.8.3-5"},
	{name: "MQTT-3.8.3-5 reserved bit 6", version: V5, wire: "82 07 000a 00 0001'a' 40", err: "0x81 MQTT-3.8.3-5"},
	{name: "QoS 3", version: V5, wire: "82 07 000a 00 0001'a' 03", err: "0x82"},
	{name: "retain handling 3", version: V5, wire: "82 07 000a 00 0001'a' 30", err: "0x82"},
	{name: "MQTT-3-8.3-4 QoS 3 (3.1.1)", version: V311, wire: "82 06 000a 0001'a' 03", err: "0x81 MQTT-3-8.3-4"},
	{name: "MQTT-3-8.3-4 reserved bits (3.1.1)", version: V311, wire: "82 06 000a 0001'a' 04", err: "0x81 MQTT-3-8.3-4"},
	{name: "no options", version: V5, wire: "82 06 000a 00 0001'a'", err: "0x81"},
	{name: "second filter cut off", version: V311, wire: "82 08 000a 0001'a' 00 0001", err: "0x81"},
	{name: "subscription identifier 0", version: V5, wire: "82 09 000a 02 0b 00 0001'a' 00", err: "0x82"},
	{name: "subscription identifier twice", version: V5, wire: "82 0b 000a 04 0b 01 0b 01 0001'a' 00", err: "0x82"},
	{name: "reason string in SUBSCRIBE", version: V5, wire: "82 0a 000a 03 1f 0000 0001'a' 00", err: "0x81"},
}

func TestSubscribe(t *testing.T) { runWireCases(t, subscribeCases) }

var subackCases = []wireCase{
	{name: "3.1.1", version: V311, wire: "90 06 000a 00 01 02 80", packet: &Suback{PacketID: 10,
		Reasons: []Reason{ReasonGrantedQoS0, ReasonGrantedQoS1, ReasonGrantedQoS2, ReasonUnspecifiedError}}},
	{name: "5.0", version: V5, wire: "90 05 000a 00 02 87", packet: &Suback{PacketID: 10,
		Reasons: []Reason{ReasonGrantedQoS2, ReasonNotAuthorized}}},
	{name: "every property", version: V5, wire: "90 0e 000a 0a 1f 0002'no' 26 0000 0000 9e", packet: &Suback{PacketID: 10,
		Reasons: []Reason{ReasonSharedSubscriptionsNotSupported}, ReasonString: []byte("no"),
		UserProperties: []UserProperty{{[]byte{}, []byte{}}}}},

	{name: "MQTT-3.9.3-2 no such reason", version: V5, wire: "90 04 000a 00 03", err: "0x82 MQTT-3.9.3-2"},
	{name: "MQTT-3.9.3-2 server busy", version: V5, wire: "90 04 000a 00 89", err: "0x82 MQTT-3.9.3-2"},
	{name: "MQTT-3.9.3-2 reason of 5.0 (3.1.1)", version: V311, wire: "90 03 000a 87", err: "0x82 MQTT-3.9.3-2"},
	{name: "MQTT-3.9.3-2 reserved (3.1.1)", version: V311, wire: "90 03 000a 03", err: "0x82 MQTT-3.9.3-2"},
	{name: "MQTT-3.8.4-6 no reasons", version: V5, wire: "90 03 000a 00", err: "0x82 MQTT-3.8.4-6"},
	{name: "no reasons (3.1.1)", version: V311, wire: "90 02 000a", err: "0x82"},
	{name: "MQTT-2.2.1-6 packet identifier 0", version: V5, wire: "90 04 0000 00 00", err: "0x82 MQTT-2.2.1-6"},
	{name: "MQTT-2.3.1-7 packet identifier 0 (3.1.1)", version: V311, wire: "90 03 0000 00", err: "0x82 MQTT-2.3.1-7"},
	{name: "reason string twice", version: V5, wire: "90 0a 000a 06 1f 0000 1f 0000 00", err: "0x82"},
	{name: "subscription identifier in SUBACK", version: V5, wire: "90 06 000a 02 0b 01 00", err: "0x81"},
}

func TestSuback(t *testing.T) { runWireCases(t, subackCases) }

func TestSubackFailureBefore5(t *testing.T) {
	p := Suback{PacketID: 1, Reasons: []Reason{ReasonNotAuthorized, ReasonGrantedQoS1}, ReasonString: []byte("no")}
	if got, want := p.Append(nil, V311), wire(t, "90 04 0001 80 01"); !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
}

var unsubscribeCases = []wireCase{
	{name: "3.1.1", version: V311, wire: "a2 0c 000a 0003'a/b' 0003'c/d'", packet: &Unsubscribe{PacketID: 10,
		Filters: [][]byte{[]byte("a/b"), []byte("c/d")}}},
	{name: "5.0", version: V5, wire: "a2 0f 000a 00 000a'$share/g/#'", packet: &Unsubscribe{PacketID: 10,
		Filters: [][]byte{[]byte("$share/g/#")}}},
	{name: "every property", version: V5, wire: "a2 0c 000a 06 26 0001'k' 0000 0001'a'", packet: &Unsubscribe{PacketID: 10,
		UserProperties: []UserProperty{{[]byte("k"), []byte{}}}, Filters: [][]byte{[]byte("a")}}},

	{name: "MQTT-3.10.3-2 no filter", version: V5, wire: "a2 03 000a 00", err: "0x82 MQTT-3.10.3-2"},
	{name: "MQTT-3.10.3-2 no filter (3.1.1)", version: V311, wire: "a2 02 000a", err: "0x82 MQTT-3.10.3-2"},
	{name: "MQTT-3.10.3-1 filter not UTF-8", version: V5, wire: "a2 06 000a 00 0001 ff", err: "0x81 MQTT-1.5.4-1"},
	{name: "MQTT-3.10.3-1 filter not UTF-8 (3.1.1)", version: V311, wire: "a2 05 000a 0001 ff", err: "0x81 MQTT-1.5.3-1"},
	{name: "MQTT-4.7.3-1 empty filter", version: V311, wire: "a2 04 000a 0000", err: "0x81 MQTT-4.7.3-1"},
	{name: "MQTT-2.2.1-3 packet identifier 0", version: V5, wire: "a2 06 0000 00 0001'a'", err: "0x82 MQTT-2.2.1-3"},
	{name: "filter cut off", version: V311, wire: "a2 05 000a 0002'a'", err: "0x81"},
	{name: "subscription identifier in UNSUBSCRIBE", version: V5, wire: "a2 08 000a 02 0b 01 0001'a'", err: "0x81"},
}

func TestUnsubscribe(t *testing.T) { runWireCases(t, unsubscribeCases) }

var unsubackCases = []wireCase{
	{name: "3.1.1", version: V311, wire: "b0 02 000a", packet: &Unsuback{PacketID: 10}},
	{name: "5.0", version: V5, wire: "b0 05 000a 00 00 11", packet: &Unsuback{PacketID: 10,
		Reasons: []Reason{ReasonSuccess, ReasonNoSubscriptionExisted}}},
	{name: "every property", version: V5, wire: "b0 0e 000a 0a 1f 0002'no' 26 0000 0000 80", packet: &Unsuback{PacketID: 10,
		Reasons: []Reason{ReasonUnspecifiedError}, ReasonString: []byte("no"), UserProperties: []UserProperty{{[]byte{}, []byte{}}}}},

	{name: "MQTT-3.11.3-2 quota exceeded", version: V5, wire: "b0 04 000a 00 97", err: "0x82 MQTT-3.11.3-2"},
	{name: "no reasons", version: V5, wire: "b0 03 000a 00", err: "0x82"},
	{name: "reasons (3.1.1)", version: V311, wire: "b0 03 000a 00", err: "0x81"},
	{name: "MQTT-2.2.1-6 packet identifier 0", version: V5, wire: "b0 04 0000 00 00", err: "0x82 MQTT-2.2.1-6"},
	{name: "MQTT-2.3.1-7 packet identifier 0 (3.1.1)", version: V311, wire: "b0 02 0000", err: "0x82 MQTT-2.3.1-7"},
}

func TestUnsuback(t *testing.T) { runWireCases(t, unsubackCases) }
