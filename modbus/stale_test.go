package modbus_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// A value that is not read in time because its link is busy does not go on
// looking like a present one.
func TestValuesBecomeStale(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		var slow atomic.Int64
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			if r.Function() == 4 {
				return modbustest.Fault{Delay: time.Duration(slow.Load())}
			}
			return modbustest.Fault{}
		}
		cfg := tcp(unit("plc", 1, holding("quick", 1), modbus.TagConfig{Name: "slow", Register: "input", Address: new(1)}))
		cfg.Links[0].Timeout = 10 * time.Second
		r := start(t, cfg, toTCP(slave))
		pass(5500 * time.Millisecond)
		if got := text(r.of("quick")); strings.Contains(got, "stale") || !strings.Contains(got, "good") {
			t.Fatalf("at ease: %s", got)
		}
		before := len(r.of("quick"))
		slow.Store(int64(6 * time.Second))
		pass(30 * time.Second)
		slow.Store(0)
		pass(20 * time.Second)
		samples := r.of("quick")[before:]
		got := text(samples)
		if !strings.Contains(got, "0 good, null stale, 0 good") || strings.Contains(got, "stale, null stale") {
			t.Errorf("busy: %s", got)
		}
		if !strings.HasSuffix(got, "0 good, 0 good, 0 good") {
			t.Errorf("at ease again: %s", got)
		}
		for _, s := range samples {
			if s.Quality == modbus.Stale && (s.Err == nil || !strings.Contains(s.Err.Error(), "not read since")) {
				t.Errorf("no reason: %v", s.Err)
			}
		}
	})
}
