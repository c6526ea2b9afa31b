package modbus

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// clientOver is a Client whose requests c makes.
func clientOver(c *client) *Client { return &Client{link: &link{client: c}} }

// Devices that have much to say say it in pieces; what a piece does not end with
// is asked for. Modbus §6.21.
func TestIdentification(t *testing.T) {
	withCRC := func(frame string) string {
		b := appendCRC(hexBytes(t, frame))
		return fmt.Sprintf("%x", b)
	}
	tests := []struct {
		name, kind string
		scenes     []script
		want       string
	}{
		{"TCP, two pieces", "tcp", []script{
			// Unit 1, function 43, MEI type 14, code 2, from object 0; answer: more follows from object 1.
			{"0001 0000 0005 01 2b0e 02 00", 0, "0001 0000 000d 01 2b0e 02 82 ff 01 01 00 03 41434d"},
			{"0002 0000 0005 01 2b0e 02 01", 0, "0002 0000 000c 01 2b0e 02 82 00 00 01 01 02 5837"},
			{"0003 0000 0005 01 2b0e 03 00", 0, "0003 0000 0003 01 ab 03"},
			{"0004 0000 0002 01 11", 0, "0004 0000 0005 01 11 02 2a ff"},
		}, `vendor="ACM" product code="X7" id=2aff`},
		{"RTU, in pieces on the wire", "rtu", []script{
			{withCRC("01 2b0e 02 00"), 0, withCRC("01 2b0e 02 02 00 00 01 00 03 41434d")[:10] + "|" + withCRC("01 2b0e 02 02 00 00 01 00 03 41434d")[10:]},
			{withCRC("01 2b0e 03 00"), 0, withCRC("01 2b0e 03 02 00 00 01 80 02 4142")},
			{withCRC("01 11"), 0, withCRC("01 91 01")},
		}, `vendor="ACM" object 0x80="AB" id=`},
		{"one that goes round and round", "tcp", []script{
			{"0001 0000 0005 01 2b0e 02 00", 0, "0001 0000 000d 01 2b0e 02 82 ff 00 01 00 03 41434d"},
		}, "modbus: the identification does not end: after object 0 comes 0"},
		{"one that is shorter than it says", "tcp", []script{
			{"0001 0000 0005 01 2b0e 02 00", 0, "0001 0000 000d 01 2b0e 02 82 00 00 01 00 04 41434d"},
		}, "modbus: the identification is shorter than it says"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			converse(t, test.kind, test.scenes, func(c *client) {
				ctx, cancel := context.WithCancel(context.Background()) // of the bubble, which t.Context is not
				defer cancel()
				id, err := clientOver(c).Identify(ctx, 1)
				got := ""
				for _, o := range id.Objects {
					got += fmt.Sprintf("%s=%q ", o.Name(), o.Text)
				}
				got += fmt.Sprintf("id=%x", id.ServerID)
				if err != nil {
					got = err.Error()
				}
				if got != test.want {
					t.Errorf("%s; want %s", got, test.want)
				}
			})
		})
	}
}

func TestCheckRequest(t *testing.T) {
	for _, test := range []struct {
		pdu  string
		code byte // of the exception; 0: it may pass
	}{
		{"03 0000 007d", 0}, {"03 0000 007e", 3}, {"03 0000 0000", 3}, {"03 ffff 0002", 2}, {"03 ffff 0001", 0},
		{"01 0000 07d0", 0}, {"01 0000 07d1", 3}, {"05 0000 ff00", 0}, {"05 0000 0001", 3}, {"06 0000 0001", 0},
		{"0f 0000 0009 02 ff01", 0}, {"0f 0000 0009 01 ff01", 3}, {"0f 0000 0001 02 01", 3},
		{"10 0000 0001 02 0001", 0}, {"10 0000 0002 02 0001", 3}, {"10 0000 0001 03 0001", 3},
		{"16 0000 00f2 0025", 0}, {"16 0000 00f2", 3}, {"11", 0}, {"1100", 3}, {"2b0e 01 00", 0}, {"2b0d 01 00", 3},
		{"08 0000 0000", 1}, {"17 0000", 1}, {"", 1}, {"03", 3},
	} {
		err := CheckRequest(hexBytes(t, test.pdu))
		refusal, _ := errors.AsType[*ExceptionError](err)
		if test.code == 0 && err != nil || test.code != 0 && (refusal == nil || refusal.Code != test.code) {
			t.Errorf("%s: %v; want exception %d", test.pdu, err, test.code)
		}
	}
}

func FuzzCheckRequest(f *testing.F) {
	f.Add([]byte{3, 0, 0, 0, 1})
	f.Add([]byte{16, 0, 0, 0, 1, 2, 0, 1})
	f.Add([]byte{43, 14, 1, 0})
	server := NewServer()
	f.Fuzz(func(t *testing.T, pdu []byte) {
		if CheckRequest(pdu) != nil || pdu[0] == reportServerID || pdu[0] == encapsulated {
			return
		}
		if answer := server.Answer(pdu); answer[0] != pdu[0] {
			t.Errorf("% x passes, but a device refuses it: % x", pdu, answer)
		}
	})
}

func FuzzIdentification(f *testing.F) {
	f.Add([]byte{43, 14, 2, 0x82, 0xff, 1, 1, 0, 3, 65, 67, 77})
	f.Fuzz(func(t *testing.T, pdu []byte) {
		objects, _, _, err := parseIdentification(pdu)
		size := identificationHead
		for _, o := range objects {
			size += 2 + len(o.Text)
		}
		if err == nil && size > len(pdu) {
			t.Errorf("%d objects of %d bytes out of %d", len(objects), size, len(pdu))
		}
		frame := append([]byte{1}, pdu...)
		if n := identificationLength(frame); err == nil && n != 1+size+2 || err != nil && n < 0 {
			t.Errorf("measured %d, want %d", n, 1+size+2)
		}
	})
}

// A client whose requests somebody else carries takes no answer that is none.
func TestCarriedClientChecksAnswers(t *testing.T) {
	cfg := Config{Links: []LinkConfig{{Name: "device", TCP: "gateway", Timeout: time.Second,
		Units: []UnitConfig{{Name: "unit", Unit: new(7), Tags: []TagConfig{{Name: "a", Register: "holding", Address: new(1)}}}}}}}
	cfg.SetDefaults()
	for _, test := range []struct{ answer, want string }{
		{"03 02 0105", "261"},
		{"83 02", "modbus: exception 2 to function 3: illegal data address"},
		{"04 02 0105", "modbus: what came is no answer to function 3"},
		{"", "modbus: what came is no answer to function 3"},
		{"03 04 0105 0203", "modbus: the answer has 4 bytes and says 4 instead of 2"},
	} {
		c, err := NewCarriedClient(cfg.Links[0], func(_ context.Context, unit byte, request []byte) ([]byte, error) {
			if unit != 7 || string(request) != string([]byte{3, 0, 1, 0, 1}) {
				t.Errorf("unit %d is asked % x", unit, request)
			}
			return hexBytes(t, test.answer), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		readings, _, err := c.Read(t.Context(), 0)
		got := fmt.Sprint(err)
		if err == nil {
			got = readings[0].Value.String()
		}
		if got != test.want {
			t.Errorf("%q gives %s; want %s", test.answer, got, test.want)
		}
		c.Close()
	}
}
