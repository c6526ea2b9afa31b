package edge

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// What a device has refused is not asked again after a restart.
func TestLearnedPlanOutlivesRestart(t *testing.T) {
	slave := modbustest.New()
	slave.Fault = func(r modbustest.Request) modbustest.Fault {
		if r.Count() > 4 {
			return modbustest.Fault{Exception: 3}
		}
		return modbustest.Fault{}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go slave.ServeTCP(listener)
	unit := modbus.UnitConfig{Name: "meter", Unit: new(1), Interval: 20 * time.Millisecond}
	for i, name := range []string{"a", "b", "c", "d", "e", "f"} {
		unit.Tags = append(unit.Tags, modbus.TagConfig{Name: name, Register: "holding", Address: new(i)})
	}
	cfg := Config{Site: "mill", Modbus: modbus.Config{Links: []modbus.LinkConfig{{
		Name: "line", TCP: listener.Addr().String(), Units: []modbus.UnitConfig{unit},
	}}}}
	dir := filepath.Join(t.TempDir(), "gateway")

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	first := runGateway(t, dir, cfg)
	for known := (modbus.Sizes{}); known != (modbus.Sizes{Good: 4, Refused: 5}); {
		s, err := first.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Learned) == 1 {
			known = s.Learned[0].Registers
		}
	}
	r, err := first.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if u := r.Modbus.Links[0].Units[0]; u.Learned == nil || u.Learned.Registers.Refused != 5 || u.Exceptions[3] == 0 {
		t.Errorf("the report of the unit: %+v", u)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	before := len(slave.Requests())
	second := runGateway(t, dir, cfg)
	at := subscribe(t, second.address, "modbus/line/#")
	at.wait("modbus/line/meter/f", contains(`"quality":"good"`))
	for _, r := range slave.Requests()[before:] {
		if r.Count() > 4 {
			t.Errorf("after the restart it asks for %d registers", r.Count())
		}
	}
}
