package modbus_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// openPTY opens a pseudo terminal: a serial line without hardware. far is the
// device's end, name the port.
func openPTY(t *testing.T) (far *os.File, name string) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("no pseudo terminals here: ", err)
	}
	far = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { _ = far.Close() }) // the test may have closed it already
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	return far, fmt.Sprintf("/dev/pts/%d", n)
}

// serialTo serves slave on a new line that the symbolic link port leads to.
func serialTo(t *testing.T, slave *modbustest.Slave, port string) (far *os.File) {
	t.Helper()
	far, name := openPTY(t)
	if err := os.Symlink(name, port); err != nil {
		t.Fatal(err)
	}
	go slave.ServeRTU(far)
	return far
}

func serial(port string, units ...modbus.UnitConfig) modbus.Config {
	return modbus.Config{Links: []modbus.LinkConfig{{
		Name: "line", RTU: &modbus.SerialConfig{Port: port, Baud: 115200}, Timeout: 5 * time.Second, Units: units,
	}}}
}

// fast makes a unit poll every 20 ms.
func fast(u modbus.UnitConfig) modbus.UnitConfig {
	u.Interval = 20 * time.Millisecond
	return u
}

func lastIs(tag string, quality modbus.Quality) func([]modbus.Sample, []modbus.UnitState) bool {
	return func(samples []modbus.Sample, _ []modbus.UnitState) bool {
		for i := len(samples) - 1; i >= 0; i-- {
			if samples[i].Tag.Name == tag {
				return samples[i].Quality == quality
			}
		}
		return false
	}
}

func TestSerialPortThatIsUnpluggedAndComesBack(t *testing.T) {
	port := filepath.Join(t.TempDir(), "ttyUSB0")
	slave := modbustest.New()
	cfg := serial(port, fast(unit("plc", 1, unitTags(slave, 2, 100)...)))
	r := start(t, cfg, nil)
	r.waitFor(t, "a missing port makes the tag bad", lastIs("r100", modbus.Bad))
	far := serialTo(t, slave, port)
	r.waitFor(t, "the tag is good when the port comes", lastIs("r100", modbus.Good))

	// Unplugged while a request is on its way or between two.
	if err := os.Remove(port); err != nil {
		t.Fatal(err)
	}
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	r.waitFor(t, "the tag is bad when the port goes", lastIs("r100", modbus.Bad))
	serialTo(t, slave, port)
	r.waitFor(t, "the tag is good when the port comes back", lastIs("r100", modbus.Good))
	r.stop()

	r.noWrongValue(t)
	if got := r.statesOf("plc"); got != "offline online offline online" {
		t.Errorf("states: %s", got)
	}
	if up, down := len(r.log.with("link up")), len(r.log.with("link down")); up != 2 || down != 2 {
		t.Errorf("%d lines of up and %d of down; want 2 and 2", up, down)
	}
}

func TestSerialLineWritesAndReads(t *testing.T) {
	port := filepath.Join(t.TempDir(), "ttyUSB0")
	slave := modbustest.New()
	serialTo(t, slave, port)
	r := start(t, serial(port, unit("plc", 1, writableTags()...)), nil)
	result, err := r.poller.Write(r.ctx, "line", "plc", "flow", 21.5)
	if err != nil || result.After.String() != "21.5" {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestSerialPortThatIsNone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, serial(file, unit("plc", 1, holding("a", 1))), nil)
	r.waitFor(t, "a file is no port", lastIs("a", modbus.Bad))
	if lines := r.log.with("not a serial port"); len(lines) != 1 {
		t.Errorf("log: %q", lines)
	}
}
