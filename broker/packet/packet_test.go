package packet

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// wireCase is one packet as bytes and as a value. The name carries the numbers of the statements it shows.
type wireCase struct {
	name    string
	version Version
	wire    string // see wire
	packet  any    // what it decodes to, a pointer; it encodes to the same bytes
	err     string // instead of packet: reason and statement, as in "0x81 MQTT-3.3.1-4"
	oneWay  bool   // the bytes are not the shortest form: do not compare the encoding
}

// wire reads hexadecimal digits, in which spaces do not count and 'text' in quotes stands for itself.
func wire(t testing.TB, s string) []byte {
	t.Helper()
	var b []byte
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			b = append(b, part...)
			continue
		}
		digits, err := hex.DecodeString(strings.ReplaceAll(part, " ", ""))
		if err != nil {
			t.Fatalf("test case %q: %v", s, err)
		}
		b = append(b, digits...)
	}
	return b
}

// ping stands for PINGREQ and PINGRESP, which have no struct.
type ping struct{ Type Type }

// newPacket returns a zero value to decode type t into.
func newPacket(t Type) any {
	switch t {
	case CONNECT:
		return new(Connect)
	case CONNACK:
		return new(Connack)
	case PUBLISH:
		return new(Publish)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		return new(Ack)
	case SUBSCRIBE:
		return new(Subscribe)
	case SUBACK:
		return new(Suback)
	case UNSUBSCRIBE:
		return new(Unsubscribe)
	case UNSUBACK:
		return new(Unsuback)
	case DISCONNECT:
		return new(Disconnect)
	case AUTH:
		return new(Auth)
	}
	return &ping{t}
}

func decode(p any, f Frame, v Version) error {
	switch p := p.(type) {
	case *Connect:
		return p.Decode(f.Body)
	case *ping:
		return nil
	case interface{ Decode(Frame, Version) error }:
		return p.Decode(f, v)
	}
	panic(fmt.Sprintf("no packet: %T", p))
}

func encode(p any, dst []byte, v Version) []byte {
	switch p := p.(type) {
	case *Connect:
		return p.Append(dst)
	case *ping:
		if p.Type == PINGREQ {
			return AppendPingreq(dst)
		}
		return AppendPingresp(dst)
	case interface{ Append([]byte, Version) []byte }:
		return p.Append(dst, v)
	}
	panic(fmt.Sprintf("no packet: %T", p))
}

// read takes the one packet that b must be, and decodes it.
func read(b []byte, v Version) (any, error) {
	f, n, err := Next(b, v, 0)
	if err != nil {
		return nil, err
	}
	if n != len(b) {
		return nil, fmt.Errorf("Next took %d bytes of %d", n, len(b))
	}
	p := newPacket(f.Type())
	return p, decode(p, f, v)
}

// errorText puts err into the form of wireCase.err.
func errorText(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return fmt.Sprint(err)
	}
	return strings.TrimSpace(fmt.Sprintf("0x%02x %s", byte(e.Reason), e.Statement))
}

func runWireCases(t *testing.T, cases []wireCase) {
	t.Helper()
	names := map[string]bool{}
	for _, test := range cases {
		if names[test.name] {
			t.Errorf("two cases are called %q", test.name)
		}
		names[test.name] = true
		t.Run(test.name, func(t *testing.T) {
			b := wire(t, test.wire)
			got, err := read(b, test.version)
			if test.err != "" {
				if err == nil {
					t.Fatalf("% x was accepted as %+v", b, got)
				}
				if errorText(err) != test.err {
					t.Fatalf("error %q, want %q", errorText(err)+": "+err.Error(), test.err)
				}
				return
			}
			if err != nil {
				t.Fatalf("% x: %v", b, err)
			}
			if !reflect.DeepEqual(got, test.packet) {
				t.Fatalf("% x\ndecodes to %+v\nwant       %+v", b, got, test.packet)
			}
			if test.oneWay {
				return
			}
			// Appended behind something else, as in an output buffer.
			out := encode(test.packet, []byte("before"), test.version)
			if rest, found := bytes.CutPrefix(out, []byte("before")); !found || !bytes.Equal(rest, b) {
				t.Fatalf("%+v\nencodes to % x\nwant       % x", test.packet, rest, b)
			}
			for n := range b {
				if _, taken, err := Next(b[:n], test.version, 0); taken != 0 || err != nil {
					t.Fatalf("Next of the first %d bytes: %d, %v; want 0, nil", n, taken, err)
				}
			}
		})
	}
}

func TestErrorText(t *testing.T) {
	err := &Error{ReasonMalformedPacket, "MQTT-3.3.1-4", "PUBLISH with QoS 3"}
	if got, want := err.Error(), "packet: Malformed Packet: PUBLISH with QoS 3 [MQTT-3.3.1-4]"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	err = &Error{ReasonPacketTooLarge, "", "larger"}
	if got, want := err.Error(), "packet: Packet too large: larger"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNames(t *testing.T) {
	for _, test := range []struct {
		value fmt.Stringer
		want  string
	}{
		{V31, "3.1"}, {V311, "3.1.1"}, {V5, "5.0"}, {Version(6), "protocol level 6"},
		{CONNECT, "CONNECT"}, {PUBLISH, "PUBLISH"}, {AUTH, "AUTH"}, {Type(0), "reserved"}, {Type(16), "packet type 16"},
		{ReasonSuccess, "Success"}, {ReasonReauthenticate, "Re-authenticate"}, {ReasonUnspecifiedError, "Unspecified error"},
		{ReasonTopicNameInvalid, "Topic Name invalid"}, {ReasonQuotaExceeded, "Quota exceeded"},
		{ReasonWildcardSubscriptionsNotSupported, "Wildcard Subscriptions not supported"},
		{Reason(0x05), "reason 0x5"}, {Reason(0xA3), "reason 0xa3"},
	} {
		if got := test.value.String(); got != test.want {
			t.Errorf("%#v is %q, want %q", test.value, got, test.want)
		}
	}
}

func TestReturnCode(t *testing.T) {
	for _, test := range []struct {
		reason Reason
		want   byte
	}{
		{ReasonSuccess, ConnackAccepted},
		{ReasonUnsupportedProtocolVersion, ConnackUnacceptableProtocolVersion},
		{ReasonClientIdentifierNotValid, ConnackIdentifierRejected},
		{ReasonServerUnavailable, ConnackServerUnavailable},
		{ReasonBadUserNameOrPassword, ConnackBadUserNameOrPassword},
		{ReasonNotAuthorized, ConnackNotAuthorized},
		{ReasonBanned, ConnackNotAuthorized},
		{ReasonServerBusy, ConnackServerUnavailable},
		{ReasonQuotaExceeded, ConnackServerUnavailable},
	} {
		if got := test.reason.ReturnCode(); got != test.want {
			t.Errorf("%v is return code %d, want %d", test.reason, got, test.want)
		}
	}
}

// TestAllocatesNothing reads and writes every packet of the tables with values that have been used before.
func TestAllocatesNothing(t *testing.T) {
	for _, cases := range [][]wireCase{
		fixedHeaderCases, connectCases, connackCases, publishCases, ackCases, subscribeCases, subackCases,
		unsubscribeCases, unsubackCases, disconnectCases, authCases,
	} {
		for _, test := range cases {
			if test.packet == nil {
				continue
			}
			b := wire(t, test.wire)
			p := newPacket(Type(b[0] >> 4))
			out := make([]byte, 0, 4096)
			got := testing.AllocsPerRun(10, func() {
				f, _, err := Next(b, test.version, 0)
				if err == nil {
					err = decode(p, f, test.version)
				}
				if err != nil {
					t.Fatal(err)
				}
				out = encode(p, out[:0], test.version)
			})
			if got != 0 {
				t.Errorf("%s: %v allocations", test.name, got)
			}
		}
	}
}

// TestAppendCannotWriteGarbage shows that what does not fit its length field is never sent cut or garbled.
func TestAppendCannotWriteGarbage(t *testing.T) {
	long := make([]byte, MaxString+1)
	for name, appendIt := range map[string]func(){
		"topic":         func() { (&Publish{Topic: long}).Append(nil, V311) },
		"content type":  func() { (&Publish{PublishProperties: PublishProperties{ContentType: long}}).Append(nil, V5) },
		"filter":        func() { (&Unsubscribe{Filters: [][]byte{long}}).Append(nil, V311) },
		"client id":     func() { (&Connect{Version: V311, ClientID: long}).Append(nil) },
		"AUTH in 3.1.1": func() { (&Auth{}).Append(nil, V311) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if text, _ := recover().(string); !strings.HasPrefix(text, "BUG: packet: ") {
					t.Errorf("recovered %q", text)
				}
			}()
			appendIt()
		})
	}
}
