package packet

import (
	"bytes"
	"fmt"
	"testing"
)

var fixedHeaderCases = []wireCase{
	{name: "PINGREQ", version: V311, wire: "c000", packet: &ping{PINGREQ}},
	{name: "PINGRESP", version: V5, wire: "d000", packet: &ping{PINGRESP}},
	{name: "PINGREQ with a body", version: V5, wire: "c00100", err: "0x81"},
	{name: "PINGRESP with a body", version: V311, wire: "d00100", err: "0x81"},
	{name: "MQTT-3.1.0-1 PINGREQ first", version: 0, wire: "c000", err: "0x82 MQTT-3.1.0-1"},
	{name: "MQTT-3.1.0-1 type 0 first", version: 0, wire: "0000", err: "0x82 MQTT-3.1.0-1"},
	{name: "type 0", version: V5, wire: "0000", err: "0x81"},
	{name: "AUTH in 3.1.1", version: V311, wire: "f000", err: "0x81"},

	{name: "MQTT-2.1.3-1 CONNECT flags", version: 0, wire: "1100", err: "0x81 MQTT-2.2.2-1"},
	{name: "MQTT-2.1.3-1 CONNACK flags", version: V5, wire: "2103000000", err: "0x81 MQTT-2.1.3-1"},
	{name: "MQTT-2.2.2-1 CONNACK flags (3.1.1)", version: V311, wire: "21020000", err: "0x81 MQTT-2.2.2-1"},
	{name: "MQTT-2.1.3-1 PUBACK flags", version: V5, wire: "42020001", err: "0x81 MQTT-2.1.3-1"},
	{name: "MQTT-2.1.3-1 PUBREC flags", version: V5, wire: "52020001", err: "0x81 MQTT-2.1.3-1"},
	{name: "MQTT-2.1.3-1 PUBCOMP flags", version: V5, wire: "72020001", err: "0x81 MQTT-2.1.3-1"},
	{name: "MQTT-2.1.3-1 SUBACK flags", version: V5, wire: "910400010000", err: "0x81 MQTT-2.1.3-1"},
	{name: "MQTT-2.1.3-1 UNSUBACK flags", version: V5, wire: "b10400010000", err: "0x81 MQTT-2.1.3-1"},
	{name: "MQTT-2.1.3-1 PINGREQ flags", version: V5, wire: "c800", err: "0x81 MQTT-2.1.3-1"},
	{name: "MQTT-2.1.3-1 PINGRESP flags", version: V5, wire: "d400", err: "0x81 MQTT-2.1.3-1"},
	{name: "MQTT-3.6.1-1 PUBREL flags 0", version: V5, wire: "60020001", err: "0x81 MQTT-3.6.1-1"},
	{name: "MQTT-3.6.1-1 PUBREL with DUP", version: V311, wire: "6a020001", err: "0x81 MQTT-3.6.1-1"},
	{name: "MQTT-3.8.1-1 SUBSCRIBE flags 0", version: V5, wire: "80020001", err: "0x81 MQTT-3.8.1-1"},
	{name: "MQTT-3.8.1-1 SUBSCRIBE with DUP", version: V5, wire: "8a020001", err: "0x81 MQTT-3.8.1-1"},
	{name: "MQTT-3.10.1-1 UNSUBSCRIBE flags 0", version: V311, wire: "a0020001", err: "0x81 MQTT-3.10.1-1"},
	{name: "MQTT-3.14.1-1 DISCONNECT flags", version: V311, wire: "e100", err: "0x81 MQTT-3.14.1-1"},
	{name: "MQTT-3.15.1-1 AUTH flags", version: V5, wire: "f100", err: "0x81 MQTT-3.15.1-1"},
	{name: "3.1 PUBREL with DUP", version: V31, wire: "6a020001", packet: &Ack{Type: PUBREL, PacketID: 1}, oneWay: true},
	{name: "3.1 UNSUBSCRIBE with DUP", version: V31, wire: "aa0500010001'a'",
		packet: &Unsubscribe{PacketID: 1, Filters: [][]byte{[]byte("a")}}, oneWay: true},
	{name: "3.1 PUBREL with RETAIN", version: V31, wire: "63020001", err: "0x81 MQTT-3.6.1-1"},

	{name: "MQTT-1.5.5-1 remaining length of five bytes", version: V5, wire: "30ffffffff01", err: "0x81"},
	{name: "remaining length of five bytes (3.1.1)", version: V311, wire: "30ffffffff01", err: "0x81"},
	{name: "MQTT-1.5.5-1 remaining length not minimal", version: V5, wire: "c08000", err: "0x81 MQTT-1.5.5-1"},
	{name: "remaining length not minimal is allowed before 5.0", version: V311, wire: "c08000", packet: &ping{PINGREQ}, oneWay: true},
	{name: "MQTT-1.5.5-1 remaining length of CONNECT not minimal", version: 0,
		wire: "108d00 0004'MQTT' 05 02 0000 00 0000", err: "0x81 MQTT-1.5.5-1"},
	{name: "remaining length of CONNECT not minimal is allowed before 5.0", version: 0,
		wire:   "108c00 0004'MQTT' 04 02 0000 0000",
		packet: &Connect{Version: V311, CleanStart: true, ClientID: []byte{}}, oneWay: true},
}

func TestFixedHeader(t *testing.T) { runWireCases(t, fixedHeaderCases) }

func TestNextTakesOnePacketOfMany(t *testing.T) {
	b := wire(t, "40020007 3003 0001'a' c0")
	f, n, err := Next(b, V311, 0)
	if err != nil || n != 4 || f.Type() != PUBACK || !bytes.Equal(f.Body, []byte{0, 7}) || !bytes.Equal(f.Whole, b[:4]) {
		t.Fatalf("first: %+v, %d, %v", f, n, err)
	}
	b = b[n:]
	f, n, err = Next(b, V311, 0)
	if err != nil || n != 5 || f.Type() != PUBLISH || !bytes.Equal(f.Whole, b[:5]) {
		t.Fatalf("second: %+v, %d, %v", f, n, err)
	}
	if &f.Whole[0] != &b[0] || cap(f.Whole) != 5 || cap(f.Body) != 3 {
		t.Error("the frame does not alias exactly its own bytes")
	}
	if _, n, err = Next(b[n:], V311, 0); n != 0 || err != nil {
		t.Fatalf("third, one byte: %d, %v", n, err)
	}
}

func TestNextChecksSizeBeforeTheBody(t *testing.T) {
	for _, test := range []struct {
		header string
		max    uint32
		want   string
	}{
		{"30 64", 102, "<nil>"},
		{"30 64", 101, "0x95"},
		{"30 64", 1, "0x95"},
		{"30 80", 1, "<nil>"}, // the length is not known yet
		{"30 ff ff ff 7f", 0, "<nil>"},
		{"30 ff ff ff 7f", MaxPacket, "<nil>"},
		{"30 ff ff ff 7f", MaxPacket - 1, "0x95"},
	} {
		_, n, err := Next(wire(t, test.header), V311, test.max)
		if got := errorText(err); got != test.want || n != 0 {
			t.Errorf("%s with at most %d bytes: %d, %s; want 0, %s", test.header, test.max, n, got, test.want)
		}
	}
}

func TestRemainingLengthRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 16383, 16384, 2097151, 2097152, MaxRemaining} {
		b := appendVarint([]byte{0x30}, n)
		length, size, fault := remainingLength(b)
		if fault != nil || int(length) != n || size != len(b)-1 || size != varintSize(n) {
			t.Errorf("%d: read %d of %d bytes (%v), size %d", n, length, size, fault, varintSize(n))
		}
		c := cursor{b: b[1:], v: V5}
		if x := c.varint(); int(x) != n || c.err != nil || len(c.b) != 0 {
			t.Errorf("%d: cursor reads %d, %v", n, x, c.err)
		}
	}
}

// TestText puts every kind of bad character at every place of strings long enough to pass through the fast path.
func TestText(t *testing.T) {
	for length := 1; length <= 20; length++ {
		for at := range length {
			for _, test := range []struct{ char, want string }{
				{"\x00", "0x81 MQTT-1.5.4-2"},
				{"\xff", "0x81 MQTT-1.5.4-1"},
				{"\xed\xa0\x80", "0x81 MQTT-1.5.4-1"}, // U+D800
				{"\xc0\x80", "0x81 MQTT-1.5.4-1"},     // U+0000 in two bytes
				{"\x01", "<nil>"},
				{"\x7f", "<nil>"},
				{"\u00e4", "<nil>"},
				{"\ufeff", "<nil>"}, // [MQTT-1.5.4-3]
				{"\U0010ffff", "<nil>"},
			} {
				b := bytes.Repeat([]byte{'~'}, length)
				b = append(append(b[:at:at], test.char...), b[at:]...)
				got := "<nil>"
				if err := checkText(b, V5); err != nil {
					got = errorText(err)
				}
				if got != test.want {
					t.Errorf("%q: %s, want %s", b, got, test.want)
				}
			}
		}
	}
	if err := checkText([]byte{0}, V311); errorText(err) != "0x81 MQTT-1.5.3-2" {
		t.Errorf("3.1.1: %v", err)
	}
	if err := checkText([]byte{0xff}, V31); errorText(err) != "0x81 MQTT-1.5.3-1" {
		t.Errorf("3.1: %v", err)
	}
}

func ExampleNext() {
	received := []byte{0x30, 0x05, 0x00, 0x01, 'a', 'h', 'i', 0xc0}
	for len(received) > 0 {
		f, n, err := Next(received, V311, 1<<20)
		if err != nil {
			fmt.Println(err)
			return
		}
		if n == 0 {
			fmt.Println("read more behind", len(received), "byte")
			return
		}
		received = received[n:]
		var p Publish
		if err := p.Decode(f, V311); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%v %s: %s\n", f.Type(), p.Topic, p.Payload)
	}
	// Output:
	// PUBLISH a: hi
	// read more behind 1 byte
}
