package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// startDevice serves a slave on a free port and returns the flag that leads there.
func startDevice(t *testing.T, s *modbustest.Slave) (flag string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // the slave does not mind
	go s.ServeTCP(listener)
	return "--tcp=" + listener.Addr().String()
}

// plant is a slave with a value of each kind.
func plant() *modbustest.Slave {
	s := modbustest.New()
	s.Image.SetRegisters(modbus.HoldingRegister, 100, 0x0000, 0x41ac, 0x999a, 0x4191)
	s.Image.SetRegisters(modbus.InputRegister, 10, 0x5055, 0x4d50, 0x2031, 0x1b00)
	s.Image.SetRegister(modbus.HoldingRegister, 20, 215)
	s.Image.SetRegisters(modbus.HoldingRegister, 30, 0x7fc0, 0)
	s.Image.SetBit(modbus.Coil, 4, true)
	return s
}

// tool runs a command line and returns exit code and both outputs, with the
// times and the address of the device taken out.
func tool(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(append([]string{"modbus"}, args...), &out, &errs)
	return code, mask(out.String()), mask(errs.String())
}

func mask(s string) string {
	s = regexp.MustCompile(`\d+\.\d ms`).ReplaceAllString(s, "# ms")
	s = regexp.MustCompile(`"took_ms":[\d.]+`).ReplaceAllString(s, `"took_ms":#`)
	s = regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+Z`).ReplaceAllString(s, "TIME")
	return regexp.MustCompile(`127\.0\.0\.1:\d+`).ReplaceAllString(s, "DEVICE")
}

func TestModbusTools(t *testing.T) {
	tests := []struct{ args, want string }{
		{"read holding 100 --type float32 --order CDAB --count 2", `
REGISTER     VALUE  HEX            DECIMAL
holding 100  21.5   0x0000 0x41ac  0 16812
holding 102  18.2   0x999a 0x4191  39322 16785
answered in # ms
`},
		{"read 40021 --type int16 --scale 0.1 --offset 10", `
REGISTER    VALUE  HEX     DECIMAL
holding 20  31.5   0x00d7  215
answered in # ms
`},
		{"read holding 0x14 --bit 2", `
REGISTER    VALUE  HEX     DECIMAL
holding 20  true   0x00d7  215
answered in # ms
`},
		{"read coil 3 --count 2", `
BIT     VALUE
coil 3  false
coil 4  true
answered in # ms
`},
		{"read input 10 --type string --count 4", `
REGISTER  VALUE         HEX                          DECIMAL
input 10  "PUMP 1\x1b"  0x5055 0x4d50 0x2031 0x1b00  20565 19792 8241 6912
answered in # ms
`},
		{"read holding 30 --type float32", `
REGISTER    VALUE                       HEX            DECIMAL
holding 30  none (the device sent NaN)  0x7fc0 0x0000  32704 0
answered in # ms
`},
		{"read holding 100 --type float32 --order CDAB --json", `
{"time":"TIME","unit":1,"took_ms":#,"values":[{"register":"holding","address":100,"value":21.5,"quality":"good","registers":[0,16812]}]}
`},
		{"read holding 30 --type float32 --json --unit 7", `
{"time":"TIME","unit":7,"took_ms":#,"values":[{"register":"holding","address":30,"value":null,"quality":"bad","error":"the device sent NaN","registers":[32704,0]}]}
`},
		{"write holding 20 22.5 --type int16 --scale 0.1", `
holding 20  VALUE  HEX     DECIMAL
before      21.5   0x00d7  215
after       22.5   0x00e1  225
`},
		{"write --type float32 --order DCBA -- holding 40 -12.5", `
holding 40  VALUE  HEX            DECIMAL
before      0      0x0000 0x0000  0 0
after       -12.5  0x0000 0x48c1  0 18625
`},
		{"write coil 4 off", `
coil 4  VALUE
before  true
after   false
`},
		{"write holding 50 PUMP --type string --count 3", `
holding 50  VALUE   HEX                   DECIMAL
before      ""      0x0000 0x0000 0x0000  0 0 0
after       "PUMP"  0x5055 0x4d50 0x0000  20565 19792 0
`},
		{"write holding 60 true --bit 3", `
holding 60  VALUE  HEX     DECIMAL
before      false  0x0000  0
after       true   0x0008  8
`},
		{"scan --units 1,3-4 --probe holding:20", `
unit 1: holding 20 is 215, in # ms
unit 3: holding 20 is 215, in # ms
unit 4: holding 20 is 215, in # ms
3 of 3 units: 1, 3, 4
`},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			args := strings.Fields(test.args) // the device before a --
			code, out, errs := tool(t, slices.Insert(args, 1, startDevice(t, plant()))...)
			if want := strings.TrimPrefix(test.want, "\n"); code != 0 || out != want || errs != "" {
				t.Errorf("exit %d, printed\n%s%swant\n%s", code, out, errs, want)
			}
		})
	}
}

// The whole of orders is in a file: one line would not tell that a column moved.
func TestModbusOrders(t *testing.T) {
	s := modbustest.New()
	s.Image.SetRegisters(modbus.InputRegister, 2, 0xcccd, 0xcccc, 0xbccc, 0x406c)
	code, out, errs := tool(t, "orders", "30003", "--count=4", startDevice(t, s))
	if code != 0 || errs != "" {
		t.Fatalf("exit %d: %s", code, errs)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "orders.golden"))
	if err != nil {
		t.Fatal(err)
	}
	if out != string(want) {
		t.Errorf("printed\n%swant\n%s", out, want)
	}
}

func TestModbusToolsFail(t *testing.T) {
	except := func(code byte) func(modbustest.Request) modbustest.Fault {
		return func(modbustest.Request) modbustest.Fault { return modbustest.Fault{Exception: code} }
	}
	only := func(function byte, f modbustest.Fault) func(modbustest.Request) modbustest.Fault {
		return func(r modbustest.Request) modbustest.Fault {
			if r.Function() == function {
				return f
			}
			return modbustest.Fault{}
		}
	}
	tests := []struct {
		args  string
		fault func(modbustest.Request) modbustest.Fault
		want  []string
	}{
		{"read holding 9", except(2), []string{"unit 1", "exception 2", "illegal data address", "40101 in a manual"}},
		{"read holding 9 --unit 5", except(11), []string{"gateway answers for unit 5", "exception 11"}},
		{"read holding 9 --timeout 50ms --unit 5", only(3, modbustest.Fault{Drop: true}), []string{"unit 5 on DEVICE", "no answer in time: 50ms", "--timeout"}},
		{"read holding 9", only(3, modbustest.Fault{Drop: true, Close: true}), []string{"connection lost"}},
		{"orders holding 9", except(1), []string{"exception 1", "another table"}},
		{"write holding 9 5", only(6, modbustest.Fault{Exception: 3}), []string{"nothing was written", "exception 3"}},
		{"write holding 9 5", only(3, modbustest.Fault{Exception: 2}), []string{"nothing was written", "exception 2"}},
		{"write holding 9 5 --timeout 50ms", only(6, modbustest.Fault{Drop: true}), []string{"the effect is not known", "no answer in time"}},
		{"scan --units 1-3", except(11), []string{"none of 3 units answers on DEVICE"}},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			s := modbustest.New()
			s.Fault = test.fault
			args := strings.Fields(test.args)
			code, out, errs := tool(t, append(args, startDevice(t, s))...)
			for _, want := range test.want {
				if !strings.Contains(errs, want) {
					t.Errorf("no %q in:\n%s%s", want, out, errs)
				}
			}
			if code != 1 || strings.Contains(errs, "--help") || strings.Count(errs, "\n") != 1 {
				t.Errorf("exit %d, want 1 and one sentence:\n%s%s", code, out, errs)
			}
		})
	}
}

// A refusal is an answer of the unit, a gateway's word about it is not, and
// silence is none.
func TestModbusScanCountsAnswers(t *testing.T) {
	s := modbustest.New()
	s.Fault = func(r modbustest.Request) modbustest.Fault {
		return map[byte]modbustest.Fault{2: {Exception: 2}, 3: {Exception: 11}, 4: {Drop: true}, 5: {Exception: 10}}[r.Unit]
	}
	code, out, errs := tool(t, "scan", "--units=1-6", "--timeout=50ms", startDevice(t, s))
	const want = `unit 1: holding 0 is 0, in # ms
unit 2: exception 2 to function 3: illegal data address, in # ms
unit 6: holding 0 is 0, in # ms
3 of 6 units: 1, 2, 6
`
	if code != 0 || out != want || errs != "" {
		t.Errorf("exit %d, printed\n%s%swant\n%s", code, out, errs, want)
	}
}

// A failed read in JSON is a line too.
func TestModbusReadFailsInJSON(t *testing.T) {
	s := modbustest.New()
	s.Fault = func(modbustest.Request) modbustest.Fault { return modbustest.Fault{Exception: 4} }
	code, out, _ := tool(t, "read", "holding", "1", "--json", startDevice(t, s))
	var line struct {
		Error  string
		Values []any
	}
	if err := json.Unmarshal([]byte(strings.Replace(out, `"took_ms":#`, `"took_ms":0`, 1)), &line); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if code != 1 || !strings.Contains(line.Error, "exception 4") || line.Values != nil {
		t.Errorf("exit %d, printed %s", code, out)
	}
}

// Everything wrong with a command line is said in sentences that name the
// place, before anything is opened.
func TestModbusUsage(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	none := file("none.yaml", "site: x\n")
	two := file("two.yaml", `
modbus:
  links:
    - {name: a, tcp: 192.0.2.1, units: [{name: x, unit: 1, tags: [{name: y, register: coil, address: 0}]}]}
    - {name: b, tcp: 192.0.2.2, units: [{name: x, unit: 1, tags: [{name: y, register: coil, address: 0}]}]}
`)
	const at = " --tcp 192.0.2.1"
	tests := []struct {
		args string
		want []string
	}{
		{"", []string{"which tool?", "identify, import, orders, plan, read, scan, simulate, trace, write"}},
		{"raed", []string{`unknown tool "raed"`}},
		{"read" + at, []string{"which register?"}},
		{"read holding" + at, []string{"which address?"}},
		{"read holding ten" + at, []string{"ADDRESS", `"ten" is not a number`}},
		{"read holding 65536" + at, []string{"ADDRESS: 65536 is out of range"}},
		{"read holding 65530 --count 9" + at, []string{"ADDRESS: 65536 is out of range"}},
		{"read holding 65535 --type float32" + at, []string{"ADDRESS", "past the last address"}},
		{"read register 1" + at, []string{`REGISTER: "register" is not known`, "coil, discrete, input or holding"}},
		{"read 50001" + at, []string{"REGISTER", "not a reference"}},
		{"read holding 1 2" + at, []string{`"2" is too much`}},
		{"read holding 1", []string{"which device?", "--rtu-over-tcp"}},
		{"read holding 1 --rtu /dev/ttyUSB0" + at, []string{"which device?"}},
		{"read holding 1 --tcp :502", []string{"--tcp", "not an address"}},
		{"read holding 1 --baud 9600" + at, []string{"--baud is for a serial port only"}},
		{"read holding 1 --rtu /dev/x --baud 3 --parity some --stop-bits 3", []string{"--baud: 3", `--parity: "some"`, "--stop-bits: 3"}},
		{"read holding 1 --rtu /dev/x --baud 0", []string{"--baud: 0 is out of range"}},
		{"read holding 1 --unit 256" + at, []string{"--unit: 256 is out of range"}},
		{"read holding 1 --unit 0 --rtu-over-tcp 192.0.2.1:4001", []string{"--unit: 0 is the broadcast address"}},
		{"read holding 1 --timeout 5m" + at, []string{"--timeout: 5m0s is out of range"}},
		{"read holding 1 --timeout 0" + at, []string{"--timeout: 0 is out of range"}},
		{"read holding 1 --type flot --order ABDC" + at, []string{`--type: "flot" is not known`, `--order: "ABDC" is not known`}},
		{"read coil 1 --type float32" + at, []string{"--type: a coil is one bit"}},
		{"read holding 1 --scale 0" + at, []string{"--scale: 0 would make"}},
		{"read holding 1 --bit 16" + at, []string{"--bit: 16 is out of range"}},
		{"read holding 1 --count 0" + at, []string{"--count: 0 is out of range"}},
		{"read holding 1 --count 126" + at, []string{"need 2 requests", "125 registers", "ask for fewer"}},
		{"read holding 1 --type string" + at, []string{"--count", "a string or bytes need their number of registers"}},
		{"read holding 1 --every 1ms" + at, []string{"--every: 1ms is out of range"}},
		{"read holding 1 --evry 1s" + at, []string{"unknown flag: --evry"}},
		{"write holding 1" + at, []string{"which value?"}},
		{"write holding 1 5 6" + at, []string{`"6" is too much`}},
		{"write holding 1 -5" + at, []string{"below zero needs --"}},
		{"write holding 1 high" + at, []string{"VALUE: high is not a number"}},
		{"write holding 1 70000" + at, []string{"VALUE: 70000 does not fit uint16"}},
		{"write coil 1 maybe" + at, []string{"VALUE: maybe is not a bool"}},
		{"write input 1 5" + at, []string{"REGISTER: the input table cannot be written"}},
		{"write 10001 1" + at, []string{"REGISTER: the discrete table cannot be written"}},
		{"orders coil 1" + at, []string{"REGISTER", "one bit"}},
		{"orders 00001" + at, []string{"REGISTER", "one bit"}},
		{"orders holding 1 --count 3" + at, []string{"--count", "use 2 or 4"}},
		{"orders holding 65535" + at, []string{"ADDRESS", "past the last address"}},
		{"scan --units 1-300" + at, []string{"--units", "1-300"}},
		{"scan --units 9-5" + at, []string{"--units", "write 5-9"}},
		{"scan --units 0-5 --rtu /dev/x", []string{"--units: 0 is the broadcast address"}},
		{"scan --probe 7" + at, []string{"--probe", "TABLE:ADDRESS"}},
		{"scan --probe foo:7" + at, []string{`--probe: "foo" is not known`}},
		{"scan --probe holding:70000" + at, []string{"--probe: 70000"}},
		{"scan 5" + at, []string{"unknown command"}},
		{"simulate", []string{"accepts 1 arg"}},
		{"simulate " + none, []string{"no links under modbus"}},
		{"simulate " + two, []string{"unit 1 is on link a and on link b", "--link NAME"}},
		{"simulate " + two + " --link c", []string{`no link "c"`, "a, b"}},
		{"simulate " + two + " --link a --listen here", []string{"--listen", "ADDRESS:PORT"}},
	}
	for _, test := range tests {
		code, out, errs := tool(t, strings.Fields(test.args)...)
		for _, want := range test.want {
			if !strings.Contains(errs, want) {
				t.Errorf("%s: no %q in:\n%s", test.args, want, errs)
			}
		}
		if code != 2 || out != "" || !strings.HasPrefix(errs, "forebay modbus") && !strings.HasPrefix(errs, "forebay: ") {
			t.Errorf("%s: exit %d, want 2, and printed:\n%s%s", test.args, code, out, errs)
		}
	}
}
