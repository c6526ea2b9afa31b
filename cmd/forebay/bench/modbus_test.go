package bench

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/modbus"
)

func newModbusBench(t *testing.T) *modbusBench {
	return &modbusBench{
		ModbusOptions: ModbusOptions{Progress: func(string) {}},
		ctx:           t.Context(), dir: t.TempDir(), rounds: 1, time: 50 * time.Millisecond,
		table: &Table{Columns: []string{oursColumn, peerColumn}},
	}
}

// A simulated line carries no more than a real one could, and no figure comes of
// a line that carries nothing.
func TestWireTakesItsTime(t *testing.T) {
	b := newModbusBench(t)
	share, err := b.wire(115200)
	if err != nil {
		t.Fatal(err)
	}
	if share <= 0 || share > 1.001 {
		t.Errorf("%v of what the line can carry", share)
	}
	if want := 263*11*time.Second/115200 + 3500*time.Microsecond; (&wiredSlave{char: 11 * time.Second / 115200, silence: 1750 * time.Microsecond}).cycle().Round(time.Millisecond) != want.Round(time.Millisecond) {
		t.Errorf("a cycle is not %v", want)
	}
}

func TestPollerReadsDevicesFlatOut(t *testing.T) {
	d, err := startDevices()
	if err != nil {
		t.Fatal(err)
	}
	defer d.stop()
	b := newModbusBench(t)
	for _, inFlight := range []int{1, 4} {
		p, err := b.pollFlatOut(d.address(), inFlight)
		if err != nil || p.reads <= 0 {
			t.Errorf("%d in flight: %+v, %v", inFlight, p, err)
		}
	}
	d.stop()
	if _, err := b.poll(modbus.LinkConfig{Name: "bench", TCP: d.address(), Units: []modbus.UnitConfig{{Name: "unit", Unit: new(1), Tags: registerTags()}}}); err == nil || !strings.Contains(err.Error(), "could not be read") && !strings.Contains(err.Error(), "no value") {
		t.Errorf("figures of a device that is gone: %v", err)
	}
}

// Without libmodbus there is a word about how to get it, not a failure.
func TestLibmodbusMissing(t *testing.T) {
	t.Setenv("PATH", "")
	if _, err := buildLibmodbus(t.Context(), t.TempDir()); !errors.Is(err, errNoLibmodbus) {
		t.Errorf("without a compiler: %v", err)
	}
	dir := t.TempDir()
	compiler := "#!/bin/sh\necho 'peer.c:10:10: fatal error: modbus.h: No such file or directory' >&2\nexit 1\n"
	if err := os.WriteFile(filepath.Join(dir, "gcc"), []byte(compiler), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if _, err := buildLibmodbus(t.Context(), t.TempDir()); !errors.Is(err, errNoLibmodbus) {
		t.Errorf("without the library: %v", err)
	}
}
