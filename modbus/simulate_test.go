package modbus_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"forebay/modbus"
)

func TestServerAnswers(t *testing.T) {
	s := modbus.NewServer()
	s.SetRegisters(modbus.HoldingRegister, 107, 0x022b, 0x0000, 0x0064)
	s.SetRegister(modbus.InputRegister, 8, 0x000a)
	s.SetBit(modbus.Coil, 19, true)
	s.SetBit(modbus.DiscreteInput, 21, true)
	// Examples of Modbus §6, with the data above.
	tests := []struct{ name, request, answer string }{
		{"read coils", "\x01\x00\x13\x00\x0a", "\x01\x02\x01\x00"},
		{"read discrete inputs", "\x02\x00\x13\x00\x03", "\x02\x01\x04"},
		{"read holding registers", "\x03\x00\x6b\x00\x03", "\x03\x06\x02\x2b\x00\x00\x00\x64"},
		{"read input registers", "\x04\x00\x08\x00\x01", "\x04\x02\x00\x0a"},
		{"write coil", "\x05\x00\xac\xff\x00", "\x05\x00\xac\xff\x00"},
		{"write register", "\x06\x00\x01\x00\x03", "\x06\x00\x01\x00\x03"},
		{"write coils", "\x0f\x00\x13\x00\x0a\x02\xcd\x01", "\x0f\x00\x13\x00\x0a"},
		{"write registers", "\x10\x00\x01\x00\x02\x04\x00\x0a\x01\x02", "\x10\x00\x01\x00\x02"},
		{"mask", "\x16\x00\x04\x00\xf2\x00\x25", "\x16\x00\x04\x00\xf2\x00\x25"},
		{"unknown function", "\x2b\x0e\x01\x00\x00", "\xab\x01"},
		{"past the end", "\x03\xff\xff\x00\x02", "\x83\x02"},
		{"126 registers", "\x03\x00\x00\x00\x7e", "\x83\x03"},
		{"none", "\x01\x00\x00\x00\x00", "\x81\x03"},
		{"coil neither on nor off", "\x05\x00\x01\x00\x01", "\x85\x03"},
		{"byte count lies", "\x10\x00\x01\x00\x02\x02\x00\x0a\x01\x02", "\x90\x03"},
		{"cut off", "\x10\x00\x01\x00\x02", "\x90\x03"},
		{"empty", "", "\x80\x01"},
	}
	for _, test := range tests {
		if got := string(s.Answer([]byte(test.request))); got != test.answer {
			t.Errorf("%s: % x; want % x", test.name, got, test.answer)
		}
	}
	if !s.Bit(modbus.Coil, 0xac) || s.Bit(modbus.Coil, 20) || !s.Bit(modbus.Coil, 21) {
		t.Error("coils were not written as asked")
	}
	if s.Register(modbus.HoldingRegister, 2) != 0x0102 || s.Register(modbus.HoldingRegister, 4) != 0x25&^0xf2 {
		t.Error("registers were not written as asked")
	}
}

func TestServerOverTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := modbus.NewServer()
	server.SetRegister(modbus.HoldingRegister, 100, 100)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- server.Serve(ctx, listener) }()

	cfg := tcp(fast(unit("plc", 1, holding("r100", 100))))
	cfg.Links[0].TCP = listener.Addr().String()
	r := start(t, cfg, nil)
	r.waitFor(t, "the register is read", lastIs("r100", modbus.Good))
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	r.waitFor(t, "the tag is bad when the server is gone", lastIs("r100", modbus.Bad))
	r.noWrongValue(t)
}

// pymodbus is a slave by other people: a server with registers 0 to 199 that
// hold their address plus 1000, on a port that it prints.
const pymodbus = `
import asyncio, sys
from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server.async_io import ModbusTcpServer

async def main():
    block = lambda: ModbusSequentialDataBlock(1, [1000 + i for i in range(200)])
    slave = ModbusSlaveContext(di=ModbusSequentialDataBlock(1, [1] * 200), co=ModbusSequentialDataBlock(1, [0] * 200), hr=block(), ir=block())
    server = ModbusTcpServer(ModbusServerContext(slaves={7: slave}, single=False), address=("127.0.0.1", 0))
    task = asyncio.ensure_future(server.serve_forever())
    await server.serving
    print(server.server.sockets[0].getsockname()[1], flush=True)
    await task

asyncio.run(main())
`

func TestAgainstPymodbus(t *testing.T) {
	const python = "/usr/bin/python3" // Debian's modules need Debian's interpreter
	if out, err := exec.Command(python, "-c", "import pymodbus.server").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("pymodbus is missing: %s", out)
		}
		t.Skip("pymodbus is missing")
	}
	command := exec.CommandContext(t.Context(), python, "-c", pymodbus)
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints lines
	command.Stderr = &complaints
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := command.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = command.Wait() // it was killed
	})
	var port int
	if _, err := fmt.Fscan(bufio.NewReader(out), &port); err != nil {
		t.Fatalf("pymodbus did not start: %v\n%q", err, complaints.with(""))
	}

	tags := []modbus.TagConfig{
		{Name: "r1005", Register: "holding", Address: new(5)},
		{Name: "r1006", Register: "input", Address: new(6)},
		{Name: "true", Register: "discrete", Address: new(9)},
		{Name: "refused", Register: "holding", Address: new(200)}, // touches what exists
		{Name: "r1199", Register: "holding", Address: new(199)},
		{Name: "speed", Register: "holding", Address: new(20), Type: "float32", Order: "CDAB", Writable: true},
		{Name: "pump", Register: "coil", Address: new(4), Writable: true},
		{Name: "bit", Register: "holding", Address: new(30), Bit: new(0), Writable: true},
	}
	cfg := tcp(fast(unit("plc", 7, tags...)))
	cfg.Links[0].TCP = fmt.Sprintf("127.0.0.1:%d", port)
	cfg.Links[0].Timeout = 5 * time.Second
	r := start(t, cfg, nil)
	for _, name := range []string{"r1005", "r1006", "r1199", "true"} {
		r.waitFor(t, name+" is good", lastIs(name, modbus.Good))
		samples := r.of(name)
		if got := strings.TrimPrefix(name, "r"); samples[len(samples)-1].Value.String() != got {
			t.Errorf("%s: %v", name, samples[len(samples)-1].Value)
		}
	}
	r.waitFor(t, "an address that does not exist is bad", lastIs("refused", modbus.Bad))
	for _, write := range []struct {
		tag   string
		value any
		want  string
	}{{"speed", -12.25, "-12.25"}, {"pump", true, "true"}, {"bit", true, "true"}} {
		result, err := r.poller.Write(r.ctx, "line", "plc", write.tag, write.value)
		if err != nil || result.After.String() != write.want {
			t.Errorf("write %s: %v, %v", write.tag, result.After, err)
		}
	}
}
