package modbus_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

func TestReadsOnSchedule(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Image.SetRegister(modbus.HoldingRegister, 100, 215)
		slave.Image.SetBit(modbus.Coil, 3, true)
		temperature := holding("temperature", 100)
		temperature.Scale = new(0.1)
		running := modbus.TagConfig{Name: "running", Register: "coil", Address: new(3)}
		begin := time.Now()
		r := start(t, tcp(unit("press", 1, temperature, running)), toTCP(slave))
		pass(2500 * time.Millisecond)

		// Both at once, then in their phases: coils on the second, registers
		// half a second later.
		if got, want := text(r.of("running")), "true good, true good, true good"; got != want {
			t.Errorf("running: %s; want %s", got, want)
		}
		var at []time.Duration
		for _, s := range r.of("temperature") {
			if s.Value.String() != "21.5" || s.Quality != modbus.Good || s.Err != nil {
				t.Errorf("temperature: %v %v %v", s.Value, s.Quality, s.Err)
			}
			at = append(at, s.Time.Sub(begin))
		}
		if got, want := fmt.Sprint(at), "[0s 500ms 1.5s 2.5s]"; got != want {
			t.Errorf("temperature was read at %s; want %s", got, want)
		}
		if got := r.statesOf("press"); got != "online" {
			t.Errorf("states: %s", got)
		}
	})
}

// unitTags returns n tags r0, r1, … of one register each, far enough apart to
// be read one by one, that hold their own number plus base.
func unitTags(slave *modbustest.Slave, n, base int) []modbus.TagConfig {
	var tags []modbus.TagConfig
	for i := range n {
		slave.Image.SetRegister(modbus.HoldingRegister, uint16(base+10*i), uint16(base+i))
		tags = append(tags, holding(fmt.Sprintf("r%d", base+i), base+10*i))
	}
	return tags
}

// noWrongValue fails if a good sample is not the number in its tag's name, and
// returns the number of good samples.
func (r *rig) noWrongValue(t *testing.T) (good int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.samples {
		if s.Quality == modbus.Bad || s.Quality == modbus.Stale {
			continue
		}
		good++
		if "r"+s.Value.String() != s.Tag.Name {
			t.Errorf("%s read as %v", s.Tag.Name, s.Value)
		}
	}
	return good
}

func TestLateAnswersNeverGiveWrongValues(t *testing.T) {
	for _, line := range []string{"tcp", "rtu", "ascii"} {
		for _, units := range []int{1, 2} {
			for _, delay := range []time.Duration{1200, 1900, 2500, 3600} {
				name := fmt.Sprintf("%s/%d_units/%dms", line, units, delay)
				t.Run(name, func(t *testing.T) { testLateAnswers(t, line, units, delay*time.Millisecond) })
			}
		}
	}
}

func testLateAnswers(t *testing.T, line string, units int, delay time.Duration) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			// Every eleventh answer is late; what is behind it waits.
			if r.Number%11 == 3 {
				return modbustest.Fault{Delay: delay}
			}
			return modbustest.Fault{Delay: 5 * time.Millisecond}
		}
		var configs []modbus.UnitConfig
		for i := range units {
			configs = append(configs, unit(fmt.Sprint("u", i), i+1, unitTags(slave, 4, 100+200*i)...))
		}
		cfg, dial := tcp(configs...), toTCP(slave)
		switch line {
		case "rtu":
			cfg, dial = rtu(configs...), toRTU(slave)
		case "ascii":
			cfg, dial = ascii(configs...), toASCII(slave)
		}
		r := start(t, cfg, dial)
		pass(5 * time.Minute)
		if good := r.noWrongValue(t); good < 200 {
			t.Errorf("only %d good samples in five minutes", good)
		}
	})
}

func TestDeadUnitDoesNotHoldUpItsNeighbour(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		var dead atomic.Bool
		dead.Store(true)
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			return modbustest.Fault{Drop: dead.Load() && r.Unit == 2, Delay: 10 * time.Millisecond}
		}
		r := start(t, tcp(unit("live", 1, unitTags(slave, 1, 100)...), unit("dead", 2, unitTags(slave, 3, 300)...)), toTCP(slave))
		pass(10 * time.Minute)
		// A probe of one second in thirty, at most a fifth in the beginning.
		if n := r.noWrongValue(t); n < 570 {
			t.Errorf("the live unit was read %d times in ten minutes; want 600 less a few", n)
		}
		if got := r.statesOf("dead"); got != "offline" {
			t.Errorf("dead unit: %s", got)
		}
		if got := text(r.of("r301")[:1]); got != "null bad" {
			t.Errorf("a tag of the dead unit: %s", got)
		}
		if n := len(r.log.with("offline")); n != 1 {
			t.Errorf("%d log lines about one change of state", n)
		}
		dead.Store(false)
		pass(40 * time.Second)
		if got := r.statesOf("dead"); got != "offline online" {
			t.Errorf("after its return: %s", got)
		}
		back := r.of("r301")
		if got := text(back[len(back)-1:]); got != "301 good" {
			t.Errorf("a tag after the return: %s", got)
		}
	})
}

func TestManyDeadUnitsGetTheirShareOnly(t *testing.T) {
	for _, line := range []string{"tcp", "rtu"} {
		t.Run(line, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				slave := modbustest.New()
				slave.Fault = func(r modbustest.Request) modbustest.Fault {
					return modbustest.Fault{Drop: r.Unit > 1, Delay: 10 * time.Millisecond}
				}
				var units []modbus.UnitConfig
				for i := range 20 {
					units = append(units, unit(fmt.Sprint("dead", i), 2+i, unitTags(slave, 2, 300+100*i)...))
				}
				units = append(units, unit("live", 1, unitTags(slave, 1, 100)...))
				cfg, dial := tcp(units...), toTCP(slave)
				if line == "rtu" {
					cfg, dial = rtu(units...), toRTU(slave)
				}
				r := start(t, cfg, dial)
				pass(time.Minute)
				// In the first minute every dead unit is asked for the first time.
				if n := r.noWrongValue(t); n < 40 {
					t.Errorf("the live unit was read %d times in the first minute", n)
				}
				pass(9 * time.Minute)
				if n := r.noWrongValue(t); n < 540 {
					t.Errorf("the live unit was read %d times in ten minutes", n)
				}
				for i := range 20 {
					if got := r.statesOf(fmt.Sprint("dead", i)); got != "offline" {
						t.Errorf("dead unit %d: %q", i, got)
					}
				}
			})
		})
	}
}

func TestRefusedRegisterLeavesItsNeighboursAlive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		var healed atomic.Bool
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			if !healed.Load() && r.Address() <= 105 && r.Address()+r.Count() > 105 {
				return modbustest.Fault{Exception: 2}
			}
			return modbustest.Fault{}
		}
		var tags []modbus.TagConfig
		for i := range 16 {
			slave.Image.SetRegister(modbus.HoldingRegister, uint16(100+i), uint16(100+i))
			tags = append(tags, holding(fmt.Sprintf("r%d", 100+i), 100+i))
		}
		r := start(t, tcp(unit("plc", 1, tags...)), toTCP(slave))
		pass(10 * time.Second)
		r.noWrongValue(t)
		for i := range 16 {
			name := fmt.Sprintf("r%d", 100+i)
			samples := r.of(name)
			if i == 5 {
				if got := text(samples); got != "null bad" {
					t.Errorf("the hole: %s; want one bad sample", got)
				}
				refusal, ok := errors.AsType[*modbus.ExceptionError](samples[0].Err)
				if !ok || refusal.Code != 2 || refusal.Function != 3 {
					t.Errorf("the hole: %v", samples[0].Err)
				}
				continue
			}
			if len(samples) < 9 {
				t.Errorf("%s: %d samples in ten seconds", name, len(samples))
			}
		}
		if got := r.statesOf("plc"); got != "degraded" {
			t.Errorf("states: %s", got)
		}

		healed.Store(true)
		pass(6 * time.Minute)
		if got := r.statesOf("plc"); got != "degraded online" {
			t.Errorf("states after the repair: %s", got)
		}
		requests := len(slave.Requests())
		pass(10 * time.Second)
		if n := len(slave.Requests()) - requests; n != 10 {
			t.Errorf("%d requests in ten seconds after the repair; want one block again", n)
		}
	})
}

func TestMuteBlockDoesNotTakeTheUnitOffline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			return modbustest.Fault{Drop: r.Address() == 110} // a device that ignores what it does not know
		}
		r := start(t, tcp(unit("plc", 1, unitTags(slave, 3, 100)...)), toTCP(slave))
		pass(10 * time.Minute)
		r.noWrongValue(t)
		if n := len(r.of("r102")); n < 560 {
			t.Errorf("a good tag was read %d times in ten minutes", n)
		}
		if got := r.statesOf("plc"); got != "degraded" && got != "online degraded" {
			t.Errorf("states: %s", got)
		}
		if got := text(r.of("r101")[:1]); got != "null bad" {
			t.Errorf("the mute tag: %s", got)
		}
	})
}

func TestLinkThatComesAndGoes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		var there atomic.Bool
		var open atomic.Pointer[net.Conn]
		r := start(t, tcp(unit("plc", 1, unitTags(slave, 2, 100)...)), func(string) net.Conn {
			if !there.Load() {
				return nil
			}
			conn := toTCP(slave)("")
			open.Store(&conn)
			return conn
		})
		pass(5 * time.Minute)
		if n := len(r.log.with("modbus link down")); n != 1 {
			t.Errorf("%d lines about one missing device", n)
		}
		if got := text(r.of("r100")); got != "null bad" {
			t.Errorf("without a device: %s", got)
		}
		if !errors.Is(r.of("r100")[0].Err, modbus.ErrDown) {
			t.Errorf("without a device: %v", r.of("r100")[0].Err)
		}
		there.Store(true)
		pass(40 * time.Second)
		if good := r.noWrongValue(t); good == 0 {
			t.Error("nothing was read after the device came")
		}
		there.Store(false)
		if err := (*open.Load()).Close(); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		there.Store(true)
		pass(time.Minute)
		if got := r.statesOf("plc"); got != "offline online offline online" {
			t.Errorf("states: %s", got)
		}
		if up, down := len(r.log.with("link up")), len(r.log.with("link down")); up != 2 || down != 2 {
			t.Errorf("%d lines of up and %d of down; want 2 and 2", up, down)
		}
		if stats := r.poller.Stats()[0]; stats.Reconnects != 2 || !stats.Up {
			t.Errorf("stats: %+v", stats)
		}
	})
}

func TestDeviceThatClosesAfterEachAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Fault = func(modbustest.Request) modbustest.Fault { return modbustest.Fault{Close: true} }
		r := start(t, tcp(unit("plc", 1, unitTags(slave, 2, 100)...)), toTCP(slave))
		pass(10 * time.Second)
		if good := r.noWrongValue(t); good < 19 || strings.Contains(text(r.samples), "bad") {
			t.Errorf("%d good samples: %s", good, text(r.samples))
		}
	})
}

func TestConnectionThatDiedSilentlyIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		connections := 0 // only the link's goroutine dials
		r := start(t, tcp(unit("plc", 1, unitTags(slave, 2, 100)...)), func(string) net.Conn {
			connections++
			if connections > 1 {
				return toTCP(slave)("")
			}
			// A device that was switched off: it takes everything and is silent.
			near, far := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, far) }() // ends with the pipe
			return near
		})
		pass(20 * time.Second)
		if got := r.statesOf("plc"); got != "offline online" {
			t.Errorf("states: %s", got)
		}
		if n := r.noWrongValue(t); n < 20 {
			t.Errorf("%d good samples", n)
		}
		r.stop()
		if connections != 2 {
			t.Errorf("%d connections", connections)
		}
	})
}

func TestGatewayExceptionsMeanTheUnitIsAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			if r.Unit == 2 {
				return modbustest.Fault{Exception: 11}
			}
			return modbustest.Fault{}
		}
		r := start(t, tcp(unit("here", 1, unitTags(slave, 1, 100)...), unit("away", 2, unitTags(slave, 3, 300)...)), toTCP(slave))
		pass(5 * time.Minute)
		if got := r.statesOf("away") + ", " + r.statesOf("here"); got != "offline, online" {
			t.Errorf("states: %s", got)
		}
		asked := 0
		for _, request := range slave.Requests() {
			if request.Unit == 2 {
				asked++
			}
		}
		if asked > 25 {
			t.Errorf("the absent unit was asked %d times in five minutes", asked)
		}
		units := r.poller.Units()
		if n := units[1].Exceptions[11]; int(n) != asked || int(units[1].Requests) != asked || len(units[0].Exceptions) != 0 {
			t.Errorf("of %d requests to the absent unit these are counted: %+v", asked, units)
		}
		r.noWrongValue(t)
	})
}

func TestRunEndsWhileADeviceIsSilent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Fault = func(modbustest.Request) modbustest.Fault { return modbustest.Fault{Drop: true} }
		for _, cfg := range []modbus.Config{tcp(unit("plc", 1, holding("a", 1))), rtu(unit("plc", 1, holding("a", 1)))} {
			cfg.Links[0].Timeout = 30 * time.Second
			r := start(t, cfg, toTCP(slave))
			pass(time.Second)
			begin := time.Now()
			r.stop()
			if d := time.Since(begin); d > 100*time.Millisecond {
				t.Errorf("Run ended after %v", d)
			}
			if len(r.samples) != 0 || len(r.states) != 0 {
				t.Errorf("the end of Run was taken for a failure: %v %v", r.samples, r.states)
			}
		}
	})
}

func TestMissedReadsAreSkippedAndCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Fault = func(modbustest.Request) modbustest.Fault {
			return modbustest.Fault{Delay: 900 * time.Millisecond}
		}
		r := start(t, tcp(unit("plc", 1, unitTags(slave, 2, 100)...)), toTCP(slave))
		pass(20 * time.Second)
		// 1.8 s of work per second: each tag every other second.
		if n := len(r.of("r100")); n < 10 || n > 13 {
			t.Errorf("%d samples in 20 s", n)
		}
		if missed := r.poller.Stats()[0].Missed; missed < 15 || missed > 20 {
			t.Errorf("%d reads missed", missed)
		}
	})
}
