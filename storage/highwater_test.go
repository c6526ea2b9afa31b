package storage

import (
	"fmt"
	"testing"
	"time"
)

// A queue that comes near a limit is told of once, and once more when it is well
// away from it again, however much it moves in between.
func TestFillingUpIsToldOnce(t *testing.T) {
	for _, tt := range []struct {
		limits Limits
		limit  string
	}{
		{Limits{MaxCount: 100}, "count"},
		{Limits{MaxBytes: 300, MaxCount: 1000}, "bytes"},
	} {
		t.Run(tt.limit, func(t *testing.T) {
			tune := defaults()
			tune.quiet = 20 * time.Millisecond
			l, w := openLogged(t, testConfig(t.TempDir()), tune)
			c := mustConsumer(t, l, "bridge/cloud", tt.limits)
			put := func(n int) {
				for i := range n {
					mustAppend(t, l, fmt.Sprintf("%03d", i), c)
				}
			}
			take := func(n int) {
				for range n {
					c.Ack(next(t, c).N)
				}
			}
			for round := range 2 {
				put(79)
				if n := len(w.with("filling up")); n != round {
					t.Errorf("%d lines before four fifths are reached, want %d", n, round)
				}
				put(1)
				w.wait(t, round+1, "level=WARN", "queue is filling up", "consumer=bridge/cloud", "limit="+tt.limit, "waiting=80", "bytes=240")
				take(30)
				put(40) // to 90 %
				take(40)
				if len(w.with("under half")) != round {
					t.Error("over at exactly half")
				}
				take(1)
				w.wait(t, round+1, "level=INFO", "queue is under half of its limits again", "consumer=bridge/cloud", "limit="+tt.limit, "lasted=")
				take(49)
			}
			if n := c.Stats().HighWater; n != 2 {
				t.Errorf("counted %d times, want 2", n)
			}
			closeLog(t, l)
		})
	}
}

// A queue that is too old is told of before its messages go.
func TestAgeingIsTold(t *testing.T) {
	tune := defaults()
	tune.expire = 2 * time.Millisecond
	l, w := openLogged(t, testConfig(t.TempDir()), tune)
	c := mustConsumer(t, l, "bridge/cloud", Limits{MaxAge: time.Hour})
	s, err := l.Append(&Record{Time: time.Now().Add(-50 * time.Minute).UnixMilli(), Message: []byte("m"), Deliveries: []Delivery{{Consumer: c.ID()}}})
	if err != nil {
		t.Fatal(err)
	}
	mustSafe(t, l, s)
	w.wait(t, 1, "queue is filling up", "limit=age")
	if n := c.Stats().Count; n != 1 {
		t.Errorf("%d messages, want 1", n)
	}
	closeLog(t, l)
}

func TestStoreFillingUpIsToldOnce(t *testing.T) {
	tune := defaults()
	tune.quiet, tune.checkpoint = 20*time.Millisecond, 20*time.Millisecond
	cfg := testConfig(t.TempDir())
	cfg.MaxSize = 16 << 20
	l, w := openLogged(t, cfg, tune)
	c := mustConsumer(t, l, "c", Limits{})
	body := fmt.Sprintf("%0100000d", 0)
	for len(w.with("store is filling up")) == 0 {
		mustSafe(t, l, mustAppend(t, l, body, c))
	}
	drain(t, c, true)
	w.wait(t, 1, "store is under half of its limits again")
	w.wait(t, 1, "store is filling up", "max_size=16777216")
	if n := l.Stats().HighWater; n != 1 {
		t.Errorf("counted %d times, want 1", n)
	}
	closeLog(t, l)
}
