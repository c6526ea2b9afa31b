package modbus_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// byHand returns a client for a unit 1 with tags at a slave on a real socket.
func byHand(t *testing.T, s *modbustest.Slave, timeout time.Duration, tags ...modbus.TagConfig) *modbus.Client {
	t.Helper()
	return byHandOf(t, s, timeout, unit("plc", 1, tags...))
}

// byHandOf is byHand for any units.
func byHandOf(t *testing.T, s *modbustest.Slave, timeout time.Duration, units ...modbus.UnitConfig) *modbus.Client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // the slave does not mind
	go s.ServeTCP(listener)
	cfg := tcp(units...)
	cfg.Links[0].TCP, cfg.Links[0].Timeout = listener.Addr().String(), timeout
	cfg.SetDefaults()
	c, err := modbus.NewClient(cfg.Links[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestClientReadsWithOneRequest(t *testing.T) {
	s := modbustest.New()
	s.Image.SetRegisters(modbus.HoldingRegister, 100, 0x0000, 0x41ac, 0x0000, 0xc1ac)
	tags := modbus.TagConfig{Reference: "40101", Type: "float32", Order: "CDAB"}.Series(2)
	c := byHand(t, s, 10*time.Second, tags...)
	readings, _, err := c.Read(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, r := range readings {
		got += fmt.Sprintf("%v %d %v %v %#v; ", r.Table, r.Address, r.Value, r.Quality, r.Registers)
	}
	const want = "holding 100 21.5 good []uint16{0x0, 0x41ac}; holding 102 -21.5 good []uint16{0x0, 0xc1ac}; "
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if n := len(s.Requests()); n != 1 {
		t.Errorf("%d requests; want 1", n)
	}
}

func TestClientReadsBits(t *testing.T) {
	s := modbustest.New()
	s.Image.SetBit(modbus.DiscreteInput, 9, true)
	readings, _, err := byHand(t, s, 10*time.Second, modbus.TagConfig{Register: "discrete", Address: new(1)}.Series(12)...).Read(t.Context(), 0)
	if err != nil || len(readings) != 12 {
		t.Fatal(readings, err)
	}
	for _, r := range readings {
		if on := r.Value == modbus.BoolValue(true); on != (r.Address == 9) || r.Registers != nil {
			t.Errorf("%d: %v, registers %v", r.Address, r.Value, r.Registers)
		}
	}
}

// What a device does wrong is an error of its kind, and never another value.
func TestClientMeetsFaults(t *testing.T) {
	tests := []struct {
		name   string
		fault  modbustest.Fault
		answer bool // the unit answered, though not with the value
		want   error
	}{
		{"exception 2", modbustest.Fault{Exception: 2}, true, &modbus.ExceptionError{Function: 3, Code: 2}},
		{"gateway: nobody there", modbustest.Fault{Exception: 11}, false, &modbus.ExceptionError{Function: 3, Code: 11}},
		{"silence", modbustest.Fault{Drop: true}, false, modbus.ErrTimeout},
		{"another transaction", modbustest.Fault{Mangle: func(f []byte) []byte { f[1]++; return f }}, false, modbus.ErrTimeout},
		{"another unit", modbustest.Fault{Mangle: func(f []byte) []byte { f[6]++; return f }}, false, modbus.ErrTimeout},
		{"hangs up", modbustest.Fault{Drop: true, Close: true}, false, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := modbustest.New()
			s.Fault = func(modbustest.Request) modbustest.Fault { return test.fault }
			readings, _, err := byHand(t, s, 100*time.Millisecond, holding("a", 1)).Read(t.Context(), 0)
			if err == nil || readings != nil {
				t.Fatalf("%v, %v; want an error", readings, err)
			}
			want, wantException := errors.AsType[*modbus.ExceptionError](test.want)
			got, isException := errors.AsType[*modbus.ExceptionError](err)
			switch {
			case wantException && (!isException || *got != *want), !wantException && test.want != nil && !errors.Is(err, test.want):
				t.Errorf("%v; want %v", err, test.want)
			case modbus.Answered(err) != test.answer:
				t.Errorf("answered: %v after %v", !test.answer, err)
			}
		})
	}
}

// An answer that comes after its time is not taken for the next one, though it
// has its length.
func TestClientDropsLateAnswer(t *testing.T) {
	s := modbustest.New()
	s.Image.SetRegisters(modbus.HoldingRegister, 1, 1111, 2222)
	release := make(chan struct{})
	s.Fault = func(r modbustest.Request) modbustest.Fault {
		if r.Number == 1 {
			<-release
		}
		return modbustest.Fault{}
	}
	c := byHandOf(t, s, time.Second, unit("a", 1, holding("a", 1)), unit("b", 1, holding("b", 2)))
	if _, _, err := c.Read(t.Context(), 0); !errors.Is(err, modbus.ErrTimeout) {
		t.Fatalf("%v; want a timeout", err)
	}
	close(release)
	if readings, _, err := c.Read(t.Context(), 1); err != nil || readings[0].Value.String() != "2222" {
		t.Errorf("%v, %v; want 2222", readings, err)
	}
}

func TestClientWrites(t *testing.T) {
	s := modbustest.New()
	s.Image.SetRegister(modbus.HoldingRegister, 5, 100)
	tag := holding("setpoint", 5)
	tag.Writable, tag.Scale = true, new(0.1)
	c := byHand(t, s, 10*time.Second, tag)
	before, after, err := c.Write(t.Context(), 0, "21.5")
	if err != nil {
		t.Fatal(err)
	}
	if before.Value.String() != "10" || after.Value.String() != "21.5" || !slices.Equal(after.Registers, []uint16{215}) {
		t.Errorf("before %v, after %v %v", before.Value, after.Value, after.Registers)
	}
	functions := ""
	for _, r := range s.Requests() {
		functions += fmt.Sprint(r.Function(), " ")
	}
	if functions != "3 6 3 " {
		t.Errorf("functions %s; want read, write, read", functions)
	}
}

func TestClientWriteFails(t *testing.T) {
	tests := []struct {
		name          string
		value         any
		fault         func(modbustest.Request) modbustest.Fault
		refused       bool // here, with nothing sent
		before, after bool
	}{
		{"no number", "high", nil, true, false, false},
		{"does not fit", "70000", nil, true, false, false},
		{"cannot be read", "7", func(modbustest.Request) modbustest.Fault { return modbustest.Fault{Exception: 2} }, false, false, false},
		{"is refused", "7", func(r modbustest.Request) modbustest.Fault {
			if r.Function() == 6 {
				return modbustest.Fault{Exception: 3}
			}
			return modbustest.Fault{}
		}, false, true, false},
		{"is not taken", "7", func(r modbustest.Request) modbustest.Fault {
			if r.Function() == 6 {
				r.PDU[4] = 8 // before the image executes it
				return modbustest.Fault{Mangle: func(f []byte) []byte { f[len(f)-1] = 7; return f }}
			}
			return modbustest.Fault{}
		}, false, true, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := modbustest.New()
			s.Fault = test.fault
			tag := holding("setpoint", 5)
			tag.Writable = true
			before, after, err := byHand(t, s, 10*time.Second, tag).Write(t.Context(), 0, test.value)
			_, refused := errors.AsType[*modbus.RefusedError](err)
			if err == nil || refused != test.refused || (before != nil) != test.before || (after != nil) != test.after {
				t.Errorf("before %v, after %v, %v", before, after, err)
			}
			if n := len(s.Requests()); test.refused && n > 0 {
				t.Errorf("%d requests were made", n)
			}
		})
	}
}

func TestClientTellsWhatItCannotDo(t *testing.T) {
	cfg := tcp(unit("plc", 1, holding("a", 1), holding("far", 1000)))
	cfg.SetDefaults()
	if _, err := modbus.NewClient(cfg.Links[0]); err == nil {
		t.Error("tags of two requests were taken")
	}
	cfg = tcp(unit("plc", 300, holding("a", 1)))
	cfg.SetDefaults()
	if _, err := modbus.NewClient(cfg.Links[0]); err == nil {
		t.Error("unit 300 was taken")
	}
}

// The first of the likely ones is the one that was meant.
func TestPlausibility(t *testing.T) {
	tests := []struct {
		words []uint16
		want  string
	}{
		{[]uint16{0x41ac, 0x0000}, "float32 ABCD 21.5"},
		{[]uint16{0x0000, 0x41ac}, "float32 CDAB 21.5"},
		{[]uint16{0xac41, 0x0000}, "float32 BADC 21.5"},
		{[]uint16{0x0000, 0xac41}, "float32 DCBA 21.5"},
		{[]uint16{0x4366, 0x199a}, "float32 ABCD 230.1"},
		{[]uint16{0xc2c6, 0xe979}, "float32 ABCD -99.456"},
		{[]uint16{0x406c, 0xc333, 0x3333, 0x3333}, "float64 ABCD 230.1"},
		{[]uint16{0x3333, 0x3333, 0xc333, 0x406c}, "float64 CDAB 230.1"},
		{[]uint16{0x3333, 0x3333, 0x33c3, 0x6c40}, "float64 DCBA 230.1"},
		{[]uint16{0x0001, 0xe240}, "uint32 ABCD 123456"},
		{[]uint16{0xe240, 0x0001}, "uint32 CDAB 123456"},
		{[]uint16{0xffff, 0xfffb}, "int32 ABCD -5"},
		{[]uint16{0x1234, 0x5678}, "bcd32 ABCD 12345678"},
		{[]uint16{0x5055, 0x4d50}, "string ABCD PUMP"},
		{[]uint16{0x5345, 0x5249, 0x414c, 0x2037}, "string ABCD SERIAL 7"},
		{[]uint16{0, 0}, "nothing"},
		{[]uint16{0x41ab, 0xde6a}, "float32 ABCD 21.4836"},
		{[]uint16{0xfafa, 0xfbfb}, "nothing"},
	}
	for _, test := range tests {
		s := modbustest.New()
		s.Image.SetRegisters(modbus.InputRegister, 10, test.words...)
		tags := modbus.Interpretations(modbus.TagConfig{Register: "input", Address: new(10)}, len(test.words))
		readings, _, err := byHand(t, s, 10*time.Second, tags...).Read(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		likeliest := slices.MaxFunc(readings, func(a, b modbus.Reading) int { return a.Plausibility() - b.Plausibility() })
		got := "nothing"
		if likeliest.Plausibility() > 0 {
			got = fmt.Sprintf("%s %s %v", likeliest.Tag.Type, likeliest.Tag.Order, likeliest.Value)
		}
		if got != test.want {
			t.Errorf("%04x: %s; want %s", test.words, got, test.want)
		}
	}
}
