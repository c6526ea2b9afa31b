package main_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// simulated has a value that keeps still, ones that move, and two units.
const simulated = `
modbus:
  links:
    - name: line
      rtu: {port: /dev/ttyUSB0}
      units:
        - name: boiler
          unit: 1
          tags:
            - {name: setpoint, register: holding, address: 20, type: float32, order: CDAB, writable: true, min: 20, max: 80}
            - {name: supply, register: input, address: 0, type: float32, order: CDAB}
            - {name: pump, register: coil, address: 3, writable: true}
        - name: meter
          unit: 7
          tags:
            - {name: serial, register: input, address: 4, type: string, count: 3}
`

// startSimulator runs the tool on a free port.
func startSimulator(t *testing.T) (p *process, port int) {
	t.Helper()
	p = start(t, forebay(t), "modbus", "simulate", write(t, t.TempDir(), "site.yaml", simulated), "--listen", "127.0.0.1:0")
	line := p.wait("listening on 127.0.0.1:")
	if _, err := fmt.Sscanf(line, "listening on 127.0.0.1:%d;", &port); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return p, port
}

// mbpoll, a master by other people, reads and writes the simulated devices.
func TestMbpollMeetsSimulator(t *testing.T) {
	p, port := startSimulator(t)
	if out := p.output(); !strings.Contains(out, "unit 1: boiler of link line, 3 tags\nunit 7: meter of link line, 1 tag\n") {
		t.Errorf("it says:\n%s", out)
	}
	mbpoll := func(args ...string) string {
		t.Helper()
		all := append([]string{"-m", "tcp", "-p", fmt.Sprint(port), "-0", "-1"}, args...)
		code, out := run(t, program(t, "mbpoll"), all...)
		if code != 0 {
			t.Fatalf("mbpoll %v: exit %d\n%s", args, code, out)
		}
		return out
	}
	// mbpoll's own word order is that of CDAB.
	if out := mbpoll("-a", "1", "-r", "20", "-t", "4:float", "127.0.0.1"); !strings.Contains(out, "[20]: \t20\n") {
		t.Errorf("the setpoint begins at its minimum, but:\n%s", out)
	}
	var value float64
	out := mbpoll("-a", "1", "-r", "0", "-t", "3:float", "127.0.0.1")
	if _, err := fmt.Sscanf(out[strings.Index(out, "[0]:"):], "[0]: \t%f", &value); err != nil || value < 30 || value > 70 {
		t.Errorf("a moving float is %v, want 30 to 70:\n%s", value, out)
	}
	mbpoll("-a", "1", "-r", "20", "-t", "4:float", "127.0.0.1", "42.5")
	p.wait("unit 1 boiler/setpoint = 42.5 (holding 20: 0x0000 0x422a)")
	mbpoll("-a", "1", "-r", "3", "-t", "0", "127.0.0.1", "1")
	p.wait("unit 1 boiler/pump = true (coil 3)")
	if out := mbpoll("-a", "1", "-r", "20", "-t", "4:float", "127.0.0.1"); !strings.Contains(out, "[20]: \t42.5\n") {
		t.Errorf("what was written does not stay:\n%s", out)
	}
	mbpoll("-a", "7", "-r", "9", "-t", "4", "127.0.0.1", "5")
	p.wait("unit 7 no tag = 5 (holding 9: 0x0005)")
	if code := p.stop(); code != 0 {
		t.Errorf("exit %d after SIGTERM:\n%s", code, p.output())
	}
}

// The tools read what another program serves, over TCP and a serial line, in
// each type and order, and what they write is there.
func TestModbusToolsMeetPymodbus(t *testing.T) {
	ours, theirs := serialLine(t)
	startSlave(t, everyKind(9), "rtu", theirs)
	plc := startSlave(t, everyKind(9), "tcp")
	tcp := fmt.Sprintf("--tcp=127.0.0.1:%d", plc.port)
	ways := map[string][]string{"tcp": {tcp}, "rtu": {"--rtu=" + ours, "--baud=115200"}}
	for name, way := range ways {
		way = append(way, "--unit=9", "--timeout=10s", "--json")
		for _, c := range everyKind(9) {
			if c.rest != "" {
				continue // scale and offset are the same code in the gateway
			}
			args := append([]string{"modbus", "read", c.Table, fmt.Sprint(c.Address)}, way...)
			if c.typ != "" {
				args = append(args, "--type="+c.typ)
			}
			if c.Order != "" {
				args = append(args, "--order="+c.Order)
			}
			code, out := run(t, forebay(t), args...)
			var got struct {
				Values []struct {
					Value   json.RawMessage
					Quality string
				}
			}
			if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || len(got.Values) != 1 {
				t.Fatalf("%s %s: exit %d, %v:\n%s", name, c.name, code, err, out)
			}
			if v := got.Values[0]; string(v.Value) != c.want || v.Quality != "good" {
				t.Errorf("%s %s: %s %s, want %s", name, c.name, v.Value, v.Quality, c.want)
			}
		}
	}
	code, out := run(t, forebay(t), "modbus", "write", "holding", "1", "4711", "--unit=9", "--timeout=10s", tcp)
	if code != 0 || !strings.Contains(out, "before     65535  0xffff") || !strings.Contains(out, "after      4711   0x1267") {
		t.Errorf("write: exit %d\n%s", code, out)
	}
	if got := plc.register(9, "holding", 1); got != "4711" {
		t.Errorf("the slave holds %s, want 4711", got)
	}
	code, out = run(t, forebay(t), "modbus", "orders", "holding", "44", "--unit=9", "--timeout=10s", tcp)
	if code != 0 || !strings.Contains(out, "likely  float32 CDAB  holding 44  12.25\n") {
		t.Errorf("orders: exit %d\n%s", code, out)
	}
	code, out = run(t, forebay(t), "modbus", "read", "holding", "500", "--unit=9", "--timeout=10s", tcp)
	if code != 1 || !strings.Contains(out, "unit 9 answers with exception 2") {
		t.Errorf("an address that is not there: exit %d\n%s", code, out)
	}
	code, out = run(t, forebay(t), "modbus", "scan", "--units=7-10", "--timeout=500ms", "--rtu="+ours, "--baud=115200")
	if code != 0 || !strings.HasSuffix(out, "1 of 4 units: 9\n") {
		t.Errorf("scan: exit %d\n%s", code, out)
	}
}

// Ctrl-C ends a scan at once, with what was found.
func TestModbusScanInterrupted(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	asked := make(chan struct{}, 300)
	s := modbustest.New()
	s.Fault = func(r modbustest.Request) modbustest.Fault {
		if r.Unit == 3 {
			asked <- struct{}{}
		}
		return modbustest.Fault{Drop: r.Unit >= 3}
	}
	go s.ServeTCP(listener)
	p := start(t, forebay(t), "modbus", "scan", "--tcp", listener.Addr().String(), "--timeout=1m")
	<-asked // unit 3 will not answer for a minute
	interrupt(t, p)
	if code := p.exitCode(); code != 0 || !strings.HasSuffix(p.output(), "2 of 2 units asked (247 were to be): 1, 2") {
		t.Errorf("exit %d:\n%s", code, p.output())
	}
}

// A repeated read says at once what fails, goes on, and tells of it in the exit
// code.
func TestModbusReadRepeats(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := modbustest.New()
	s.Fault = func(r modbustest.Request) modbustest.Fault {
		s.Image.SetRegister(modbus.HoldingRegister, 7, uint16(r.Number))
		if r.Number == 2 {
			return modbustest.Fault{Exception: 6}
		}
		return modbustest.Fault{}
	}
	go s.ServeTCP(listener)
	p := start(t, forebay(t), "modbus", "read", "holding", "7", "--every=10ms", "--timeout=10s", "--tcp", listener.Addr().String())
	p.wait("exception 6", "ask again later")
	p.wait("holding 7  4 ")
	interrupt(t, p)
	if code := p.exitCode(); code != 1 || !strings.Contains(p.output(), "1 of ") {
		t.Errorf("exit %d:\n%s", code, p.output())
	}
}

func interrupt(t *testing.T, p *process) {
	t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
}
