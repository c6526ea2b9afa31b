package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The tools read from and write to what modbus-serial serves. It comes from npm,
// for this test alone, and only in CI or when FOREBAY_NPM=1 allows to fetch it,
// or when node finds it already.
func TestModbusToolsMeetModbusSerial(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		missing(t, "node")
	}
	dir := t.TempDir()
	if os.Getenv("FOREBAY_NPM") != "" || os.Getenv("CI") == "true" {
		install := exec.Command("npm", "install", "--no-audit", "--no-fund", "--omit=optional", "--prefix", dir, "modbus-serial")
		if out, err := install.CombinedOutput(); err != nil {
			t.Fatalf("npm install: %v\n%s", err, out)
		}
		t.Setenv("NODE_PATH", filepath.Join(dir, "node_modules"))
	}
	if exec.Command(node, "-e", `require("modbus-serial")`).Run() != nil {
		t.Skip("node has no modbus-serial: set FOREBAY_NPM=1 to fetch it")
	}
	var port int
	if _, err := fmt.Sscanf(start(t, node, filepath.Join("testdata", "slave.js")).wait("ready "), "ready %d", &port); err != nil {
		t.Fatal(err)
	}
	link := []string{"--tcp", fmt.Sprintf("127.0.0.1:%d", port), "--unit=9", "--timeout=10s"}
	code, out := run(t, forebay(t), append([]string{"modbus", "write", "holding", "7", "4711"}, link...)...)
	if code != 0 || !strings.Contains(out, "before     21") || !strings.Contains(out, "after      4711") {
		t.Errorf("write: exit %d\n%s", code, out)
	}
	code, out = run(t, forebay(t), append([]string{"modbus", "read", "holding", "0", "--count=125"}, link...)...)
	if code != 0 || !strings.Contains(out, "holding 124  372 ") {
		t.Errorf("read: exit %d\n%s", code, out)
	}
}
