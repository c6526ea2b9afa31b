package modbus_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"forebay/modbus"
)

// everyTag has a tag of each type in each order, and of each kind of bit, none
// overlapping.
func everyTag() []modbus.TagConfig {
	var tags []modbus.TagConfig
	add := func(t modbus.TagConfig) {
		t.Name = fmt.Sprintf("tag%d", len(tags))
		if t.Address == nil {
			t.Address = new(len(tags) * 4)
		}
		tags = append(tags, t)
	}
	types := strings.Fields("bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float32 float64 bcd16 bcd32")
	for _, typ := range types {
		for _, order := range []string{"ABCD", "CDAB", "BADC", "DCBA"} {
			add(modbus.TagConfig{Register: "input", Type: typ, Order: order})
		}
	}
	add(modbus.TagConfig{Register: "holding", Type: "string", Count: 3})
	add(modbus.TagConfig{Register: "holding", Type: "string", Count: 3, Layout: "char_per_register", Order: "BADC"})
	add(modbus.TagConfig{Register: "holding", Enum: map[string]string{"1": "stopped", "7": "running"}})
	add(modbus.TagConfig{Register: "holding", Type: "int16", Scale: new(0.001), Offset: -7})
	add(modbus.TagConfig{Register: "coil"})
	add(modbus.TagConfig{Register: "discrete", Invert: true})
	for bit := range 3 {
		add(modbus.TagConfig{Register: "holding", Address: new(9000), Bit: new(bit), Order: "BADC"})
	}
	return tags
}

// simulate serves a simulator on a free port and returns its address.
func simulate(t *testing.T, s *modbus.Simulator) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- s.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return listener.Addr().String()
}

// A poller with the same configuration finds every tag good, and the values
// move.
func TestSimulatorPlaysTheConfiguration(t *testing.T) {
	cfg := tcp(fast(unit("plc", 3, everyTag()...)))
	cfg.SetDefaults()
	s, err := modbus.NewSimulator(cfg.Links, func(w modbus.Written) { t.Errorf("written: %v", w) })
	if err != nil {
		t.Fatal(err)
	}
	cfg.Links[0].TCP = simulate(t, s)
	cfg.Links[0].Timeout = 10 * time.Second
	r := start(t, cfg, nil)
	for _, tag := range cfg.Links[0].Units[0].Tags {
		r.waitFor(t, tag.Name+" is good", lastIs(tag.Name, modbus.Good))
	}
	for _, at := range []int{0, 13, 21, 34, 40, 3600, 86400 * 365} {
		s.Move(time.Duration(at) * time.Second)
	}
	for _, tag := range cfg.Links[0].Units[0].Tags {
		for _, sample := range r.of(tag.Name) {
			if sample.Quality != modbus.Good {
				t.Errorf("%s (%s): %v", tag.Name, tag.Type, sample.Err)
			}
		}
		if tag.Type == "float32" {
			first := r.of(tag.Name)[0].Value
			r.waitFor(t, tag.Name+" moves", func(all []modbus.Sample, _ []modbus.UnitState) bool {
				return len(all) > 0 && all[len(all)-1].Quality == modbus.Good && differs(all, tag.Name, first)
			})
		}
	}
}

func differs(all []modbus.Sample, tag string, from modbus.Value) bool {
	for _, s := range all {
		if s.Tag.Name == tag && s.Value != from {
			return true
		}
	}
	return false
}

// What is written is told, stays, and comes back.
func TestSimulatorIsWritten(t *testing.T) {
	setpoint := holding("setpoint", 20)
	setpoint.Type, setpoint.Scale, setpoint.Writable, setpoint.Min, setpoint.Max = "int16", new(0.1), true, new(20.0), new(80.0)
	level := holding("level", 30) // moves
	cfg := tcp(unit("plc", 3, setpoint, level))
	cfg.SetDefaults()
	var told []string
	s, err := modbus.NewSimulator(cfg.Links, func(w modbus.Written) {
		name := "-"
		if w.Tag != nil {
			name = w.Tag.Name
		}
		told = append(told, fmt.Sprintf("%d %s %v %d %v", w.ID, name, w.Table, w.Address, w.Value))
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(unit byte, request, want string) {
		t.Helper()
		if got := string(s.Answer(unit, []byte(request))); got != want {
			t.Errorf("% x: % x; want % x", request, got, want)
		}
	}
	ask(3, "\x03\x00\x14\x00\x01", "\x03\x02\x00\xc8") // begins at its minimum: 20
	ask(3, "\x06\x00\x14\x00\xd7", "\x06\x00\x14\x00\xd7")
	ask(3, "\x10\x00\x1d\x00\x02\x04\x00\x07\x00\x09", "\x10\x00\x1d\x00\x02") // 29 and level
	ask(3, "\x05\x00\x02\xff\x00", "\x05\x00\x02\xff\x00")
	ask(3, "\x06\x00\x14", "\x86\x03") // cut off: nothing is written
	s.Move(time.Hour + 11*time.Second)
	ask(3, "\x03\x00\x14\x00\x01", "\x03\x02\x00\xd7")
	ask(3, "\x03\x00\x1e\x00\x01", "\x03\x02\x00\x09")
	ask(4, "\x03\x00\x14\x00\x01", "\x83\x0b") // no such unit
	want := "3 setpoint holding 20 21.5; 3 level holding 30 9; 3 - holding 29 7; 3 - coil 2 true"
	if got := strings.Join(told, "; "); got != want {
		t.Errorf("told %s\nwant %s", got, want)
	}
}

func TestSimulatorTellsUnitsApart(t *testing.T) {
	cfg := tcp(unit("a", 1, holding("x", 0)), unit("b", 2, holding("x", 0)))
	cfg.Links = append(cfg.Links, modbus.LinkConfig{Name: "other", TCP: "192.0.2.1", Units: []modbus.UnitConfig{unit("c", 2, holding("x", 0))}})
	cfg.SetDefaults()
	if _, err := modbus.NewSimulator(cfg.Links, func(modbus.Written) {}); err == nil {
		t.Error("two units 2 on different links were taken")
	}
	s, err := modbus.NewSimulator(cfg.Links[:1], func(modbus.Written) {})
	if err != nil {
		t.Fatal(err)
	}
	s.Answer(1, []byte("\x06\x00\x00\x00\x01"))
	s.Answer(2, []byte("\x06\x00\x00\x00\x02"))
	for unit := byte(1); unit <= 2; unit++ {
		if answer := s.Answer(unit, []byte("\x03\x00\x00\x00\x01")); answer[3] != unit {
			t.Errorf("unit %d: % x", unit, answer)
		}
	}
}

func FuzzSimulator(f *testing.F) {
	for _, request := range []string{"", "\x03", "\x03\x00\x00\x00\x7d", "\x06\x00\x14\x00\xd7", "\x10\xff\xff\x00\x01\x02\x00\x07",
		"\x0f\x00\x13\x00\x0a\x02\xcd\x01", "\x16\x00\x04\x00\xf2\x00\x25", "\x05\x00\x02\xff\x00"} {
		f.Add(byte(3), []byte(request))
	}
	cfg := tcp(unit("plc", 3, everyTag()...))
	cfg.SetDefaults()
	s, err := modbus.NewSimulator(cfg.Links, func(w modbus.Written) { _ = w.Value.String() })
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, unit byte, request []byte) {
		answer := s.Answer(unit, request)
		if len(answer) < 2 || len(request) > 0 && answer[0]&0x7f != request[0]&0x7f {
			t.Errorf("% x is answered with % x", request, answer)
		}
	})
}
