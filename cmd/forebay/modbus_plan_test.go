package main_test

import (
	"strings"
	"testing"
)

func TestModbusPlan(t *testing.T) {
	file := write(t, t.TempDir(), "site.yaml", simulated)
	code, out := run(t, forebay(t), "modbus", "plan", file)
	want := `link line
  unit 1 boiler  coil 3         every 1s  12ms    pump
  unit 1 boiler  input 0-1      every 1s  13.7ms  supply
  unit 1 boiler  holding 20-21  every 1s  13.7ms  setpoint
  unit 7 meter   input 4-6      every 1s  14.9ms  serial
  4 reads, 4 a second; one round takes 54.4ms; the line is busy for 5.44 % of the time
`
	if code != 0 || out != want {
		t.Errorf("exit %d\n%s; want\n%s", code, out, want)
	}
	tight := strings.ReplaceAll(simulated, "rtu: {port: /dev/ttyUSB0}", "rtu: {port: /dev/ttyUSB0, baud: 300}")
	code, out = run(t, forebay(t), "modbus", "plan", write(t, t.TempDir(), "tight.yaml", tight))
	if code != 78 || !strings.Contains(out, "take 3.5 times the time") || !strings.Contains(out, "times less often") {
		t.Errorf("a line that is too slow: exit %d\n%s", code, out)
	}
}
