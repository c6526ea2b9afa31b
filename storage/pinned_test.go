package storage

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// appendNamed appends a message for c, with Hold if its name begins with "h".
func appendNamed(t *testing.T, l *Log, c *Cursor, name string, at time.Time) Seq {
	t.Helper()
	s, err := l.Append(&Record{Time: at.UnixMilli(), Message: []byte(name),
		Deliveries: []Delivery{{Consumer: c.ID(), Hold: strings.HasPrefix(name, "h")}}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDropOldestKeepsWhatMayBeOpenAtThePeer(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before string
		sent   int // handed out before the connection ends
		after  string
		want   string
	}{
		{"sent with Hold", "h0 m1 h2 h3", 2, "m4 m5 m6 m7", "h0 m5 m6 m7"},
		{"nothing sent", "h0 h1 m2", 0, "m3 m4", "m2 m3 m4"},
		{"sent without Hold", "m0 m1 m2", 3, "m3 m4", "m2 m3 m4"},
		{"all of it sent with Hold", "h0 h1", 2, "h2 m3", "h0 h1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := openTest(t, t.TempDir(), defaults())
			before := strings.Fields(tt.before)
			c := mustConsumer(t, l, "c", Limits{MaxCount: int64(len(before)), WhenFull: DropOldest})
			for _, name := range before {
				mustSafe(t, l, appendNamed(t, l, c, name, time.Now()))
			}
			drainN(t, c, tt.sent)
			c.Rewind()
			for _, name := range strings.Fields(tt.after) {
				appendNamed(t, l, c, name, time.Now())
			}
			if got := messages(drain(t, c, true)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			// Once acknowledged nothing of it keeps anything.
			for i := range 3 * len(before) {
				appendNamed(t, l, c, fmt.Sprint("m", i), time.Now())
			}
			if got := drain(t, c, true); len(got) != len(before) || string(got[0].Message) != fmt.Sprint("m", 2*len(before)) {
				t.Errorf("later: %q", messages(got))
			}
			closeLog(t, l)
		})
	}
}

// What was in flight is unread again after Rewind, also for a queue that was
// full in between.
func TestDropOldestAfterRewind(t *testing.T) {
	l := openTest(t, t.TempDir(), defaults())
	c := mustConsumer(t, l, "c", Limits{MaxCount: 3, WhenFull: DropOldest})
	for _, name := range []string{"m0", "m1", "m2"} {
		appendNamed(t, l, c, name, time.Now())
	}
	drainN(t, c, 2)
	appendNamed(t, l, c, "m3", time.Now())
	c.Rewind()
	appendNamed(t, l, c, "m4", time.Now())
	if got := messages(drain(t, c, true)); got != "m1 m3 m4" {
		t.Errorf("got %q, want m1 m3 m4", got)
	}
	closeLog(t, l)
}

func TestDropOldestKeepsWhatFormerLivesMayHaveSent(t *testing.T) {
	for _, tt := range []struct{ name, before, after, want string }{
		{"with Hold", "h0 h1 h2", "m3 h4", "h0 h1 h2"},
		{"Hold and then without", "h0 h1 m2", "m3 m4", "h0 h1 m4"},
		{"without Hold", "m0 m1 m2", "m3 m4", "m2 m3 m4"},
	} {
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/crash=%v", tt.name, crash), func(t *testing.T) {
				dir := t.TempDir()
				limits := Limits{MaxCount: 3, WhenFull: DropOldest}
				l := openTest(t, dir, defaults())
				c := mustConsumer(t, l, "c", limits)
				for _, name := range strings.Fields(tt.before) {
					mustSafe(t, l, appendNamed(t, l, c, name, time.Now()))
				}
				drainN(t, c, 1)
				if crash {
					dir = copyDir(t, dir)
				}
				closeLog(t, l)
				l = openTest(t, dir, defaults())
				c = mustConsumer(t, l, "c", limits)
				for _, name := range strings.Fields(tt.after) {
					appendNamed(t, l, c, name, time.Now())
				}
				if got := messages(drain(t, c, true)); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				closeLog(t, l)
			})
		}
	}
}

// No peer can have an exchange open that is further on than the identifiers
// reach: a long backlog does not lose its policy because of a restart.
func TestDropOldestBeyondTheIdentifiers(t *testing.T) {
	const count = 2*maxOpen + 2
	dir := t.TempDir()
	l := openTest(t, dir, defaults())
	limits := Limits{MaxCount: count, WhenFull: DropOldest}
	c := mustConsumer(t, l, "c", limits)
	r := &Record{Message: []byte("m"), Deliveries: []Delivery{{Consumer: c.ID(), Hold: true}}}
	for range count {
		if _, err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	l = openTest(t, dir, defaults())
	c = mustConsumer(t, l, "c", limits)
	for range 3 {
		if _, err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	var kept []uint64
	for _, e := range drain(t, c, true) {
		if e.N >= 2*maxOpen {
			kept = append(kept, e.N)
		}
	}
	if got, want := fmt.Sprint(kept), fmt.Sprint([]uint64{count - 2, count + 2, count + 3}); got != want {
		t.Errorf("the end of the backlog is %v, want %v", got, want)
	}
	closeLog(t, l)
}

func TestAgeKeepsWhatMayBeOpenAtThePeer(t *testing.T) {
	for _, sent := range []int{0, 1, 3} {
		var ahead atomic.Int64
		tune := defaults()
		tune.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		l := openTest(t, t.TempDir(), tune)
		c := mustConsumer(t, l, "c", Limits{MaxAge: time.Hour})
		for _, name := range []string{"h0", "m1", "h2"} {
			mustSafe(t, l, appendNamed(t, l, c, name, time.Now()))
		}
		drainN(t, c, sent)
		c.Rewind()
		ahead.Store(int64(2 * time.Hour))
		want := []string{0: "", 1: "h0", 3: "h0 h2"}[sent]
		if got := messages(drain(t, c, true)); got != want {
			t.Errorf("%d sent: got %q, want %q", sent, got, want)
		}
		closeLog(t, l)
	}
}

// The same where whole segments go, their messages out of memory.
func TestAgeWithoutAReaderKeepsWhatMayBeOpenAtThePeer(t *testing.T) {
	var ahead atomic.Int64
	tune := small()
	tune.expire = 10 * time.Millisecond
	tune.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	l := openTest(t, t.TempDir(), tune)
	c := mustConsumer(t, l, "c", Limits{MaxAge: time.Hour})
	var last Seq
	for range 400 {
		last = appendNamed(t, l, c, fmt.Sprintf("h%0999d", 0), time.Now())
	}
	mustSafe(t, l, last)
	drainN(t, c, 3)
	c.SetNotify(nil)
	c.Rewind()
	ahead.Store(int64(2 * time.Hour))
	eventually(t, "old segments go", func() bool { return c.Stats().Count <= 3 && l.Stats().Segments <= 2 })
	got := drain(t, c, true)
	if len(got) != 3 || got[0].N != 1 || got[2].N != 3 {
		t.Errorf("%d left, want the first 3", len(got))
	}
	closeLog(t, l)
}
