package main_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// The tools go through the gateway that owns a line, to units that it knows and
// those it does not, and what they write is in its log.
func TestModbusToolsThroughTheGateway(t *testing.T) {
	slave := startSlave(t, []tagCase{
		{Unit: 1, Table: "holding", Address: 3, Format: "H", Value: 271}, {Unit: 9, Table: "holding", Address: 0, Format: "H", Value: 5},
	}, "tcp")
	g := startGateway(t, controlled+fmt.Sprintf(`
modbus:
  links:
    - name: line1
      tcp: "127.0.0.1:%d"
      timeout: 10s
      units: [{name: press4, unit: 1, interval: 50ms, tags: [{name: count, register: holding, address: 3}]}]
`, slave.port))
	client := watch(t, g.port, "-t", "modbus/line1/press4/count", "-q", "1")
	for _, c := range []struct{ args, want string }{
		{"read holding 3", "271"},
		{"read holding 0 --unit 9", "5"},
		{"write holding 3 4711", "after      4711   0x1267"},
		{"scan --units 1,9", "2 of 2 units: 1, 9"},
		{"orders holding 2 --unit 9", "uint32"},
	} {
		code, out := g.ask(append([]string{"modbus"}, append(strings.Fields(c.args), "--link", "line1")...)...)
		if code != 0 || !strings.Contains(out, c.want) {
			t.Errorf("%s: exit %d:\n%s", c.args, code, out)
		}
	}
	client.wait("modbus/line1/press4/count", `"value":4711`)
	if !g.has(0, []string{"written by hand through the control socket", "link=line1", "unit=1", "request=0600031267"}) {
		t.Errorf("the log does not tell of the write:\n%s", g.tail())
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"modbus", "read", "holding", "3", "--link", "line2"}, "there is no link line2"},
		{[]string{"modbus", "read", "holding", "3", "--link", "line1", "--unit", "1", "--count", "100", "--type", "uint16", "--bit", "1", "--scale", "0"}, "--scale"},
		{[]string{"modbus", "read", "holding", "3", "--link", "line1", "--timeout", "2s"}, "leave --timeout"},
		{[]string{"modbus", "read", "holding", "3", "--link", "line1", "--tcp", "127.0.0.1"}, "which device?"},
		{[]string{"modbus", "identify", "--link", "line2"}, "there is no link line2"},
	} {
		if code, out := g.ask(c.args...); code == 0 || !strings.Contains(out, c.want) {
			t.Errorf("%q: exit %d:\n%s", c.args, code, out)
		}
	}
	code, out := run(t, forebay(t), "modbus", "read", "holding", "3", "--link", "line1", "--socket", filepath.Join(t.TempDir(), "none.sock"))
	if code != 1 || !strings.Contains(out, "no gateway answers") {
		t.Errorf("without a gateway: exit %d:\n%s", code, out)
	}
}

// pymodbus tells what it is.
func TestModbusIdentifyMeetsPymodbus(t *testing.T) {
	ours, theirs := serialLine(t)
	startSlave(t, everyKind(9), "rtu", theirs)
	plc := startSlave(t, everyKind(9), "tcp")
	for _, way := range [][]string{{fmt.Sprintf("--tcp=127.0.0.1:%d", plc.port)}, {"--rtu=" + ours, "--baud=115200"}} {
		code, out := run(t, forebay(t), append([]string{"modbus", "identify", "--unit=9", "--timeout=10s"}, way...)...)
		if code != 0 || !strings.Contains(out, "server ID") && !strings.Contains(out, "vendor") {
			t.Errorf("%s: exit %d:\n%s", way, code, out)
		}
	}
}
