package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The tools read from and write to what libmodbus serves, in as large pieces as
// there are.
func TestModbusToolsMeetLibmodbus(t *testing.T) {
	compiler := program(t, "gcc")
	if _, err := os.Stat("/usr/include/modbus/modbus.h"); err != nil {
		missing(t, "libmodbus-dev")
	}
	binary := filepath.Join(t.TempDir(), "slave")
	build := exec.Command(compiler, "-o", binary, filepath.Join("testdata", "slave.c"), "-I/usr/include/modbus", "-lmodbus")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ours, theirs := serialLine(t)
	start(t, binary, "rtu", theirs).wait("ready")
	var port int
	if _, err := fmt.Sscanf(start(t, binary, "tcp").wait("ready "), "ready %d", &port); err != nil {
		t.Fatal(err)
	}
	for name, link := range map[string][]string{
		"tcp": {"--tcp", fmt.Sprintf("127.0.0.1:%d", port)},
		"rtu": {"--rtu", ours, "--baud=115200"},
	} {
		t.Run(name, func(t *testing.T) {
			link = append(link, "--unit=9", "--timeout=10s")
			code, out := run(t, forebay(t), append([]string{"modbus", "write", "holding", "7", "4711"}, link...)...)
			if code != 0 {
				t.Fatalf("write: exit %d\n%s", code, out)
			}
			code, out = run(t, forebay(t), append([]string{"modbus", "read", "holding", "0", "--count=125", "--json"}, link...)...)
			var got struct{ Values []struct{ Value int } }
			if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || len(got.Values) != 125 {
				t.Fatalf("read: exit %d, %v:\n%s", code, err, out)
			}
			for i, v := range got.Values {
				if want := 3 * i; v.Value != want && i != 7 || i == 7 && v.Value != 4711 {
					t.Errorf("register %d is %d", i, v.Value)
				}
			}
			code, out = run(t, forebay(t), append([]string{"modbus", "read", "input", "150", "--count=51"}, link...)...)
			if code != 1 {
				t.Errorf("beyond the end: exit %d\n%s", code, out)
			}
		})
	}
}
