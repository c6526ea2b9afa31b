package modbus_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// wallTimes writes when a tag was read, as clocks on the wall show it.
func (r *rig) wallTimes(tag string, wall func(time.Time) time.Time) string {
	var words []string
	for _, s := range r.of(tag) {
		words = append(words, wall(s.Time).Format("15:04:05"))
	}
	return strings.Join(words, " ")
}

func TestReadsAlignedToTheClock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Fault = func(modbustest.Request) modbustest.Fault { return modbustest.Fault{Delay: 200 * time.Millisecond} }
		tags := unitTags(slave, 3, 100)
		tags[0].Align = 15 * time.Minute
		tags[2].Interval = time.Minute
		cfg := tcp(unit("meter", 1, tags...))
		cfg.Links[0].Units[0].Align = time.Hour
		var ahead atomic.Int64 // of the clock on the wall
		start := time.Now()    // midnight
		wall := func(now time.Time) time.Time {
			return now.Round(0).In(time.FixedZone("", 1800)).Add(7*time.Minute + time.Duration(ahead.Load()))
		}
		if got := wall(start).Format("15:04:05"); got != "00:37:00" {
			t.Fatalf("the test begins at %s", got)
		}
		r := startPrepared(t, cfg, toTCP(slave), func(p *modbus.Poller) { p.SetWall(wall) })
		pass(90 * time.Minute) // 02:07
		if got, want := r.wallTimes("r100", wall), "00:37:00 00:45:00 01:00:00 01:15:00 01:30:00 01:45:00 02:00:00"; got != want {
			t.Errorf("align 15m: read at %s; want %s", got, want)
		}
		if got, want := r.wallTimes("r101", wall), "00:37:00 01:00:00 02:00:00"; got != want {
			t.Errorf("align 1h: read at %s; want %s", got, want)
		}
		if n := len(r.of("r102")); n != 90 {
			t.Errorf("not aligned: read %d times in 90 minutes", n)
		}
		if missed := r.poller.Stats()[0].Missed; missed != 0 {
			t.Errorf("%d reads missed", missed)
		}

		// The clock is put forward by 20 minutes: 02:15 and 02:27 are one moment.
		before := len(r.of("r100"))
		ahead.Store(int64(20 * time.Minute))
		pass(40 * time.Minute) // 03:07
		var got []string
		for _, s := range r.of("r100")[before:] {
			got = append(got, wall(s.Time).Format("15:04:05"))
		}
		if want := "[02:30:00 02:45:00 03:00:00]"; fmt.Sprint(got) != want {
			t.Errorf("after the clock was put forward: read at %s; want %s", got, want)
		}
		// And back, to 02:47.
		before = len(r.of("r100"))
		ahead.Store(0)
		pass(30 * time.Minute)
		got = nil
		for _, s := range r.of("r100")[before:] {
			got = append(got, wall(s.Time).Format("15:04:05"))
		}
		if want := "[03:00:00 03:15:00]"; fmt.Sprint(got) != want {
			t.Errorf("after the clock was put back: read at %s; want %s", got, want)
		}
	})
}

func TestReadNow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		tags := unitTags(slave, 2, 100)
		tags[0].OnChange = true
		cfg := tcp(unit("plc", 1, tags...))
		cfg.Links[0].Units[0].Interval = time.Minute
		r := start(t, cfg, toTCP(slave))
		pass(10 * time.Second)
		if err := r.poller.ReadNow("line", "plc", "r100"); err != nil {
			t.Error(err)
		}
		pass(time.Second)
		if got := text(r.of("r100")); got != "100 good, 100 good" {
			t.Errorf("after one read on demand: %s", got)
		}
		if n := len(r.of("r101")); n != 1 {
			t.Errorf("another tag was read %d times", n)
		}
		pass(4 * time.Minute)
		var at []time.Duration
		for _, q := range r.of("r101") {
			at = append(at, q.Time.Sub(r.of("r101")[0].Time))
		}
		if got := fmt.Sprint(at); got != "[0s 30s 1m30s 2m30s 3m30s]" {
			t.Errorf("the schedule: %s", got)
		}
		if n := len(slave.Requests()); n != 1+5+5 {
			t.Errorf("%d requests", n)
		}
		_, refused := errors.AsType[*modbus.RefusedError](r.poller.ReadNow("line", "plc", "x"))
		if !refused {
			t.Error("a tag that is not there was read")
		}
	})
}

func TestReadNowDoesNotWait(t *testing.T) {
	r := start(t, tcp(unit("plc", 1, holding("a", 1))), nil)
	r.stop()
	var err error
	for range 1000 {
		if err = r.poller.ReadNow("line", "plc", "a"); err != nil {
			break
		}
	}
	if !errors.Is(err, modbus.ErrBusy) {
		t.Errorf("a thousand reads on demand: %v", err)
	}
}
