package main_test

import (
	"fmt"
	"strings"
	"testing"
)

// A client and a device, both by other people, see each other through the tool,
// and what they say is printed.
func TestModbusTraceStandsBetween(t *testing.T) {
	ours, theirs := serialLine(t)
	startSlave(t, []tagCase{{Unit: 9, Table: "holding", Address: 3, Format: "H", Value: 271}}, "rtu", theirs)
	p := start(t, forebay(t), "modbus", "trace", "--listen=127.0.0.1:0", "--rtu="+ours, "--baud=115200", "--timeout=10s")
	var port int
	if _, err := fmt.Sscanf(p.wait("listening on 127.0.0.1:"), "listening on 127.0.0.1:%d;", &port); err != nil {
		t.Fatal(err)
	}
	mbpoll := func(args ...string) string {
		_, out := run(t, program(t, "mbpoll"), append([]string{"-m", "tcp", "-p", fmt.Sprint(port), "-0", "-1", "-a", "9", "-o", "10"}, args...)...)
		return out
	}
	if out := mbpoll("-r", "3", "-t", "4", "127.0.0.1"); !strings.Contains(out, "[3]: \t271\n") {
		t.Errorf("mbpoll:\n%s", out)
	}
	mbpoll("-r", "3", "-t", "4", "127.0.0.1", "4711")
	mbpoll("-r", "500", "-t", "4", "127.0.0.1")
	p.wait("illegal data address")
	for _, want := range []string{
		"> unit 9: 03 00 03 00 01  read holding registers 3, 1\n", "< unit 9: 03 02 01 0f  271\n",
		"> unit 9: 06 00 03 12 67  write register 3 = 4711\n", "< unit 9: 06 00 03 12 67  done\n",
	} {
		if out := p.output(); !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if code := p.stop(); code != 0 {
		t.Errorf("exit %d", code)
	}
}
