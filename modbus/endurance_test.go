package modbus_test

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// A week passes: every deadline is met, or skipped and counted; reads stay in
// their phase; nothing is left over. With FOREBAY_WEEK=1 tags are read each
// second, not each minute.
func TestWeek(t *testing.T) {
	interval := time.Minute
	if os.Getenv("FOREBAY_WEEK") != "" {
		interval = time.Second
	}
	const week = 7 * 24 * time.Hour
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Forget = true
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			f := modbustest.Fault{Delay: 3 * time.Millisecond}
			if r.Number%5003 == 0 { // longer than the interval
				f.Delay, f.Aside = interval+interval/2, true
			}
			return f
		}
		cfg := tcp(unit("a", 1, unitTags(slave, 2, 100)...), unit("b", 2, unitTags(slave, 1, 200)...))
		cfg.Links[0].Timeout = min(time.Minute, 2*interval)
		for i := range cfg.Links[0].Units {
			cfg.Links[0].Units[i].Interval = interval
		}
		began := time.Now()
		counted := newTicks(began, interval)
		cfg.SetDefaults()
		p, err := modbus.New(cfg, discard(), counted)
		if err != nil {
			t.Fatal(err)
		}
		p.SetDial(toTCP(slave))
		before := runtime.NumGoroutine()
		stop := running(t, p)
		pass(week)
		stop()
		time.Sleep(5 * time.Minute)
		if now := runtime.NumGoroutine(); now > before {
			t.Errorf("%d goroutines are left, of %d before", now, before)
		}
		var missed uint64
		for _, s := range p.Stats() {
			missed += s.Missed
		}
		// Each block is read once at the start, out of its phase.
		deadlines := 3 * uint64(week/interval)
		if got := counted.reads + missed; got < deadlines || got > deadlines+6 {
			t.Errorf("%d reads and %d missed; want %d together", counted.reads, missed, deadlines)
		}
		if missed > deadlines/1000 {
			t.Errorf("%d of %d deadlines missed", missed, deadlines)
		}
		for tag, drift := range counted.drift {
			if drift > 20*time.Millisecond {
				t.Errorf("%s has moved by %v in its interval", tag, drift)
			}
		}
		if counted.wrong > 0 {
			t.Errorf("%d wrong values", counted.wrong)
		}
	})
}

func TestSerialLineIsUsedAsFarAsItGoes(t *testing.T) {
	for _, baud := range []int{9600, 115200} {
		t.Run(fmt.Sprint(baud), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				slave := modbustest.New()
				cfg := wired(slave, baud, 4, 0)
				cfg.SetDefaults()
				load := modbus.Load(cfg.Links[0].Plan())
				for i := range cfg.Links[0].Units { // to 97 % of the line
					u := &cfg.Links[0].Units[i]
					u.Interval = time.Duration(float64(u.Interval) * load / 0.97)
					for k := range u.Tags {
						u.Tags[k].Interval = u.Interval
					}
				}
				r := start(t, cfg, toRTU(slave))
				pass(time.Minute)
				s := r.poller.Stats()[0]
				want := 4 * uint64(time.Minute/cfg.Links[0].Units[0].Interval)
				if s.Requests < want*98/100 || s.Missed > want/50 {
					t.Errorf("%d of %d reads, %d missed", s.Requests, want, s.Missed)
				}
			})
		})
	}
}

// wired is n units of 20 registers each on a serial line whose frames take their
// time; the first dead of them are dead.
func wired(slave *modbustest.Slave, baud, n, dead int) modbus.Config {
	char := 11 * time.Second / time.Duration(baud)
	slave.Fault = func(r modbustest.Request) modbustest.Fault {
		return modbustest.Fault{Drop: int(r.Unit) <= dead, Delay: time.Duration(8+5+2*r.Count()) * char}
	}
	var units []modbus.UnitConfig
	for i := range n {
		units = append(units, unit(fmt.Sprint("u", i), i+1, row(slave, 100*i, 20)...))
		units[i].Interval = 3 * time.Second
	}
	return modbus.Config{Links: []modbus.LinkConfig{{Name: "line", RTU: &modbus.SerialConfig{Port: "/dev/ttyUSB0", Baud: baud}, Units: units}}}
}

func TestThreeDeadUnitsOfThirtyTwo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		r := start(t, wired(slave, 9600, 32, 3), toRTU(slave))
		pass(5 * time.Minute)
		for i := 3; i < 32; i++ {
			if n := len(r.of(fmt.Sprintf("r%d", 100*i))); n < 93 {
				t.Errorf("unit %d was read %d times in five minutes; want 100", i, n)
			}
		}
		for i := range 3 {
			if got := r.statesOf(fmt.Sprint("u", i)); got != "offline" {
				t.Errorf("dead unit %d: %s", i, got)
			}
		}
		r.stop()
		r.noWrongValue(t)
	})
}

func TestTwoHundredDevices(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var cfg modbus.Config
		slave := modbustest.New()
		tags := row(slave, 0, 125)
		for i := range 200 {
			cfg.Links = append(cfg.Links, modbus.LinkConfig{
				Name: fmt.Sprint("line", i), TCP: "plc.example",
				Units: []modbus.UnitConfig{unit("plc", 1, tags...)},
			})
		}
		cfg.SetDefaults()
		counted := newTicks(time.Now(), time.Second)
		p, err := modbus.New(cfg, discard(), counted)
		if err != nil {
			t.Fatal(err)
		}
		p.SetDial(func(link string) net.Conn { return toTCP(slave)(link) })
		stop := running(t, p)
		pass(9500 * time.Millisecond)
		stop()
		if counted.samples != 200*125*10 || counted.wrong != 0 {
			t.Errorf("%d samples of 200 devices in ten seconds, %d wrong; want %d", counted.samples, counted.wrong, 200*125*10)
		}
	})
}
