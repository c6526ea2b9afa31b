package main_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Another client, by other people, reads and writes through the gateway what a
// device, by other people too, has.
func TestMbpollMeetsServedTags(t *testing.T) {
	mbpoll := program(t, "mbpoll")
	slave := startSlave(t, []tagCase{{Unit: 9, Table: "holding", Address: 3, Format: "H", Value: 271}}, "tcp")
	port := freePort(t)
	g := startGateway(t, controlled+fmt.Sprintf(`
modbus:
  server:
    listen: "127.0.0.1:%d"
    tags:
      - {link: line1, unit: press4, tag: count, register: holding, address: 10, type: uint32, writable: true}
      - {link: line1, unit: press4, tag: count, register: input, address: 0}
      - {link: dead, unit: press5, tag: count, register: input, address: 100}
  links:
    - name: line1
      tcp: "127.0.0.1:%d"
      timeout: 10s
      units: [{name: press4, unit: 9, interval: 50ms, tags: [{name: count, register: holding, address: 3, writable: true}]}]
    - name: dead
      tcp: "127.0.0.1:%d"
      units: [{name: press5, unit: 1, tags: [{name: count, register: holding, address: 3}]}]
`, port, slave.port, freePort(t)))
	poll := func(args ...string) (int, string) {
		return run(t, mbpoll, append([]string{"-m", "tcp", "-p", fmt.Sprint(port), "-0", "-1", "-B"}, args...)...)
	}
	for end := time.Now().Add(patience); ; {
		code, out := poll("-r", "10", "-t", "4:int", "127.0.0.1")
		if code == 0 && strings.Contains(out, "[10]: \t271\n") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("exit %d:\n%s\n%s", code, out, g.tail())
		}
	}
	if code, out := poll("-r", "0", "-t", "3:float", "127.0.0.1"); code != 0 || !strings.Contains(out, "[0]: \t271\n") {
		t.Errorf("as float: exit %d:\n%s", code, out)
	}
	if code, out := poll("-r", "10", "-t", "4:int", "127.0.0.1", "4711"); code != 0 {
		t.Errorf("write: exit %d:\n%s", code, out)
	}
	if code, out := poll("-r", "10", "-t", "4:int", "127.0.0.1"); code != 0 || !strings.Contains(out, "[10]: \t4711\n") {
		t.Errorf("what was written: exit %d:\n%s", code, out)
	}
	if !g.has(0, []string{"written by a client of modbus.server", "tag=count", "before=271", "value=4711"}) {
		t.Errorf("the log does not tell of the write:\n%s", g.tail())
	}
	if _, out := poll("-r", "100", "-t", "3:float", "127.0.0.1"); strings.Contains(out, "[100]:") || !strings.Contains(out, "Target device failed to respond") {
		t.Errorf("a device that is dead is served:\n%s", out)
	}
	if python, err := exec.LookPath("/usr/bin/python3"); err == nil && exec.Command(python, "-c", "import pymodbus").Run() == nil {
		code, out := run(t, python, "-c", fmt.Sprintf(`
from pymodbus.client import ModbusTcpClient
c = ModbusTcpClient("127.0.0.1", port=%d)
assert c.connect()
print(c.read_holding_registers(10, 2, slave=1).registers, c.read_holding_registers(11, 1, slave=1).exception_code)
`, port))
		if code != 0 || !strings.Contains(out, "[0, 4711] 2") {
			t.Errorf("pymodbus: exit %d:\n%s", code, out)
		}
	} else {
		missing(t, "python3-pymodbus")
	}
}
