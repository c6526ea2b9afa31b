package main_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"forebay/edge"
	"forebay/modbus/modbustest"
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

// What devices refuse is shown beside the plan.
func TestModbusPlanLearned(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	slave := modbustest.New()
	slave.Fault = func(r modbustest.Request) modbustest.Fault {
		if r.Address() <= 2 && r.Address()+r.Count() > 2 {
			return modbustest.Fault{Exception: 2}
		}
		return modbustest.Fault{}
	}
	go slave.ServeTCP(listener)
	g := startGateway(t, controlled+fmt.Sprintf(`
modbus:
  links:
    - name: line
      tcp: %q
      units:
        - name: meter
          unit: 1
          interval: 20ms
          tags:
            - {name: a, register: holding, address: 0}
            - {name: b, register: holding, address: 1}
            - {name: c, register: holding, address: 2}
            - {name: d, register: holding, address: 3}
`, listener.Addr()))
	g.awaitStatus("the hole is known", func(r *edge.Report) bool {
		u := r.Modbus.Links[0].Units[0]
		return u.Learned != nil && len(u.Learned.Holes) > 0
	})
	out := g.mustAsk("modbus", "plan", g.conf, "--learned")
	for _, want := range []string{"unit 1 meter  holding 0-3  every 20ms    a b c d\n", "link line unit meter: holding 2-2 is refused with exception 2\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("it prints\n%s; want %s", out, want)
		}
	}
}
