package storage

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// A box that starts in 1970 takes messages until the network tells it the time.
// They are not too old then, nor after the next start, but they do become so.
func TestAgeAllowsForAClockThatIsSet(t *testing.T) {
	dir := t.TempDir()
	tune := small()
	tune.checkpoint = time.Hour // what is remembered has to be in the log
	var ahead, wrong atomic.Int64
	wrong.Store(int64(50 * 365 * 24 * time.Hour))
	tune.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	tune.wall = func(now time.Time) int64 { return now.Add(-time.Duration(wrong.Load())).UnixMilli() }
	limits := Limits{MaxAge: time.Hour}
	open := func() (*Log, *Cursor) {
		l := openTest(t, dir, tune)
		return l, mustConsumer(t, l, "c", limits)
	}
	l, c := open()
	put := func(name string) {
		s, err := l.Append(&Record{Time: tune.wall(tune.now()), Message: []byte(name), Deliveries: []Delivery{{Consumer: c.ID()}}})
		if err != nil {
			t.Fatal(err)
		}
		mustSafe(t, l, s)
	}
	put("first")
	ahead.Store(int64(30 * time.Minute))
	wrong.Store(int64(10 * time.Hour)) // a first guess
	if got := messages(drain(t, c, false)); got != "first" {
		t.Fatalf("after the first step of the clock: %q", got)
	}
	put("second")
	wrong.Store(0)
	c.Rewind()
	if got := messages(drain(t, c, false)); got != "first second" {
		t.Fatalf("after the second step: %q", got)
	}
	put("third")
	crashed := copyDir(t, dir)
	closeLog(t, l)

	for _, where := range []string{dir, crashed} {
		dir = where
		ahead.Store(int64(50 * time.Minute))
		l, c = open()
		if got := messages(drain(t, c, false)); got != "first second third" {
			t.Errorf("in the next life: %q", got)
		}
		ahead.Store(int64(70 * time.Minute))
		c.Rewind()
		if got := messages(drain(t, c, false)); got != "second third" {
			t.Errorf("when the first is older than an hour: %q", got)
		}
		if n := c.Stats().Dropped[CauseAge]; n != 1 {
			t.Errorf("%d dropped for their age, want 1", n)
		}
		closeLog(t, l)
	}
}

// What is remembered of the clock is bounded, and a clock that is put back harms
// nobody.
func TestClockIsSetOften(t *testing.T) {
	dir := t.TempDir()
	tune := small()
	var wrong atomic.Int64
	tune.wall = func(now time.Time) int64 { return now.Add(-time.Duration(wrong.Load())).UnixMilli() }
	l := openTest(t, dir, tune)
	c := mustConsumer(t, l, "c", Limits{MaxAge: time.Hour})
	for i := range 2 * maxEras {
		wrong.Store(int64(time.Duration(1000+i*(i%2*2-1)) * time.Hour))
		s, err := l.Append(&Record{Time: tune.wall(time.Now()), Message: fmt.Append(nil, "m"), Deliveries: []Delivery{{Consumer: c.ID()}}})
		if err != nil {
			t.Fatal(err)
		}
		mustSafe(t, l, s)
		if got := len(drain(t, c, true)); got != 1 {
			t.Fatalf("%d messages after step %d, want 1", got, i)
		}
	}
	l.mu.Lock()
	n := len(l.clock.eras)
	l.mu.Unlock()
	if n != maxEras {
		t.Errorf("%d eras are remembered, want %d", n, maxEras)
	}
	closeLog(t, l)
	l = openTest(t, dir, tune)
	if n := len(l.clock.eras); n > maxEras {
		t.Errorf("%d eras are remembered after a restart, want at most %d", n, maxEras)
	}
	closeLog(t, l)
}
