package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func messages(entries []Entry) string {
	var s []string
	for _, e := range entries {
		s = append(s, string(e.Message))
	}
	return strings.Join(s, " ")
}

func TestPolicies(t *testing.T) {
	for _, tt := range []struct {
		name    string
		limits  Limits
		want    string
		refused int
		dropped uint64
	}{
		{"no limit", Limits{}, "m0 m1 m2 m3 m4 m5", 0, 0},
		{"reject by count", Limits{MaxCount: 4}, "m0 m1 m2 m3", 2, 0},
		{"reject by bytes", Limits{MaxBytes: 9}, "m0 m1 m2 m3", 2, 0},
		{"drop oldest by count", Limits{MaxCount: 4, WhenFull: DropOldest}, "m2 m3 m4 m5", 0, 2},
		{"drop oldest by bytes", Limits{MaxBytes: 9, WhenFull: DropOldest}, "m2 m3 m4 m5", 0, 2},
		{"drop newest by count", Limits{MaxCount: 4, WhenFull: DropNewest}, "m0 m1 m2 m3", 0, 2},
		{"drop newest by bytes", Limits{MaxBytes: 9, WhenFull: DropNewest}, "m0 m1 m2 m3", 0, 2},
		{"larger than all", Limits{MaxBytes: 1, WhenFull: DropOldest}, "", 0, 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			l := openTest(t, dir, defaults())
			c := mustConsumer(t, l, "limited", tt.limits)
			other := mustConsumer(t, l, "other", Limits{})
			refused := 0
			var last Seq
			for i := range 6 {
				s, err := l.Append(&Record{Message: fmt.Append(nil, "m", i), Deliveries: []Delivery{{Consumer: other.ID()}, {Consumer: c.ID()}}})
				if full := (*FullError)(nil); errors.As(err, &full) && full.Consumer == "limited" {
					refused++
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				last = s
			}
			if refused != tt.refused {
				t.Errorf("%d refused, want %d", refused, tt.refused)
			}
			if got := other.Stats().Count; got != int64(6-refused) {
				t.Errorf("the other consumer has %d: what is refused goes to nobody, what is dropped does not concern it", got)
			}
			mustSafe(t, l, last)
			closeLog(t, l)
			l = openTest(t, dir, defaults())
			c = mustConsumer(t, l, "limited", tt.limits)
			if got := c.Stats(); got.Dropped[CauseFull] != tt.dropped {
				t.Errorf("dropped %v, want %d", got.Dropped, tt.dropped)
			}
			if got := messages(drain(t, c, true)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if mustAppend(t, l, "x", c); tt.limits.MaxBytes != 1 && c.Stats().Count != 1 {
				t.Error("no room although all is acknowledged")
			}
			closeLog(t, l)
		})
	}
}

func TestDropOldestLeavesWhatIsInFlight(t *testing.T) {
	l := openTest(t, t.TempDir(), defaults())
	c := mustConsumer(t, l, "c", Limits{MaxCount: 3, WhenFull: DropOldest})
	for i := range 3 {
		mustAppend(t, l, fmt.Sprint("m", i), c)
	}
	inFlight := next(t, c)
	for i := range 4 {
		mustAppend(t, l, fmt.Sprint("n", i), c)
	}
	if got := messages(drainN(t, c, 2)); got != "n2 n3" {
		t.Errorf("unread: %q, want n2 n3", got)
	}
	c.Rewind()
	if e := next(t, c); e.N != inFlight.N {
		t.Errorf("after Rewind n %d, want %d", e.N, inFlight.N)
	}
	closeLog(t, l)
}

func drainN(t *testing.T, c *Cursor, n int) []Entry {
	t.Helper()
	var all []Entry
	for range n {
		all = append(all, next(t, c))
	}
	return all
}

func TestStoreLimit(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MaxSize = minSize
	tune := defaults()
	tune.checkpoint = 100 * time.Millisecond
	l := openConfig(t, cfg, tune)
	c := mustConsumer(t, l, "c", Limits{WhenFull: DropOldest})
	body := make([]byte, 10_000)
	for round := range 2 {
		n := 0
		for {
			s, err := l.Append(&Record{Message: body, Deliveries: []Delivery{{Consumer: c.ID()}}})
			if full := (*FullError)(nil); errors.As(err, &full) {
				if full.Consumer != "" || full.Limit != "store" {
					t.Fatalf("full: %v", err)
				}
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if n++; n%16 == 0 {
				mustSafe(t, l, s)
			}
		}
		if n < 300 {
			t.Errorf("round %d: full after %d messages", round, n)
		}
		if _, err := l.Append(&Record{Changes: []Change{{Table: Sessions, Key: []byte("k"), Value: []byte("v")}}}); err != nil {
			t.Errorf("a table change when messages are refused: %v", err)
		}
		if s := l.Stats(); s.Disk > cfg.MaxSize {
			t.Errorf("%d bytes on disk, more than %d", s.Disk, cfg.MaxSize)
		}
		if got := len(drain(t, c, true)); got != n {
			t.Errorf("drained %d of %d", got, n)
		}
		eventually(t, "space comes back", func() bool { return l.Stats().Disk < idle(l) })
	}
	closeLog(t, l)
}

func TestAge(t *testing.T) {
	tune := small()
	clock := time.Now()
	tune.now = func() time.Time { return clock }
	l := openTest(t, t.TempDir(), tune)
	c := mustConsumer(t, l, "c", Limits{MaxAge: time.Hour})
	for i, age := range []time.Duration{2 * time.Hour, 61 * time.Minute, 59 * time.Minute, 0} {
		_, err := l.Append(&Record{Time: clock.Add(-age).UnixMilli(), Message: fmt.Append(nil, "m", i), Deliveries: []Delivery{{Consumer: c.ID()}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := messages(drainN(t, c, 2)); got != "m2 m3" {
		t.Errorf("got %q, want m2 m3", got)
	}
	if s := c.Stats(); s.Dropped[CauseAge] != 2 || s.Count != 2 {
		t.Errorf("stats %+v", s)
	}
	closeLog(t, l)
}

// A consumer that nobody reads must not hold disk for messages beyond their age.
func TestAgeFreesDiskWithoutAReader(t *testing.T) {
	var ahead atomic.Int64
	tune := small()
	tune.expire = 10 * time.Millisecond
	tune.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	l := openTest(t, t.TempDir(), tune)
	c := mustConsumer(t, l, "c", Limits{MaxAge: time.Hour})
	old := time.Now().UnixMilli()
	var last Seq
	for range 400 {
		s, err := l.Append(&Record{Time: old, Message: make([]byte, 1000), Deliveries: []Delivery{{Consumer: c.ID()}}})
		if err != nil {
			t.Fatal(err)
		}
		last = s
	}
	mustSafe(t, l, last)
	if got := c.Stats().Count; got != 400 {
		t.Errorf("%d waiting, want 400", got)
	}
	ahead.Store(int64(2 * time.Hour)) // and nothing else happens
	eventually(t, "old segments go", func() bool { return c.Stats().Count == 0 && l.Stats().Segments <= 1 })
	closeLog(t, l)
}

func TestRemovedConsumerReturnsAsANewOne(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, small())
	keeper := mustConsumer(t, l, "keeper", Limits{})
	ids := map[ConsumerID]bool{}
	for round := range 5 {
		c := mustConsumer(t, l, "c", Limits{})
		if ids[c.ID()] {
			t.Fatalf("ID %d is used again", c.ID())
		}
		ids[c.ID()] = true
		if s := c.Stats(); s.Count != 0 {
			t.Fatalf("round %d: a new consumer has %+v", round, s)
		}
		var last Seq
		for i := range 200 {
			last = mustAppend(t, l, fmt.Sprintf("%d.%d %0500d", round, i, 0), c)
		}
		mustSafe(t, l, last)
		if e := next(t, c); e.N != 1 || !strings.HasPrefix(string(e.Message), fmt.Sprint(round, ".0 ")) {
			t.Fatalf("round %d: first entry %d %.10s", round, e.N, e.Message)
		}
		s, err := l.RemoveConsumer("c")
		if err != nil || s == 0 {
			t.Fatalf("RemoveConsumer: %d, %v", s, err)
		}
		c.Ack(1)
		if _, ok := c.Next(); ok {
			t.Fatal("a removed cursor hands out entries")
		}
		if _, err := l.Append(&Record{Message: []byte("late"), Deliveries: []Delivery{{Consumer: c.ID()}}}); err != nil {
			t.Fatal(err)
		}
		mustSafe(t, l, s)
		if round%2 == 1 {
			closeLog(t, l)
			l = openTest(t, dir, small())
		}
	}
	eventually(t, "its space comes back", func() bool { return l.Stats().Segments <= 1 })
	if keeper.Stats().Count != 0 {
		t.Error("the other consumer got something")
	}
	closeLog(t, l)
}

// Acknowledgements alone must become durable within about a second.
func TestAckBecomesDurableByItself(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, defaults())
	c := mustConsumer(t, l, "c", Limits{})
	mustSafe(t, l, mustAppend(t, l, "m", c))
	next(t, c)
	c.Ack(1)
	before := l.Stats().Appended
	eventually(t, "a commit", func() bool { return l.Safe() > before })
	l2 := openTest(t, copyDir(t, dir), defaults())
	if got := mustConsumer(t, l2, "c", Limits{}).Stats().Count; got != 0 {
		t.Errorf("%d waiting after a crash, want 0", got)
	}
	closeLog(t, l2)
	closeLog(t, l)
}

func TestLiveConsumersSpareTheDisk(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MaxAckDelay = 10 * time.Second
	commits := 0
	d := &directory{path: cfg.Path, before: func(step, _ string) error {
		if step == "journal" {
			commits++ // by the committer, read after Close
		}
		return nil
	}}
	tune := defaults()
	tune.slab, tune.tail = 1<<10, 16<<10 // many times that goes through
	l, err := open(cfg, discard(), nil, d, tune)
	if err != nil {
		t.Fatal(err)
	}
	a, _, err := l.OpenConsumer("a", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	b, s, err := l.OpenConsumer("b", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	mustSafe(t, l, s)
	a.SetLive(true)
	b.SetLive(true)
	const n = 1000
	for i := range n {
		s := mustAppend(t, l, fmt.Sprintf("%0100d", i), a, b)
		a.Ack(next(t, a).N)
		if l.Safe() >= s {
			t.Fatal("safe before both have acknowledged")
		}
		b.Ack(next(t, b).N)
		mustSafe(t, l, s) // at once: the delay is longer than this test may take
	}
	s = mustAppend(t, l, "b goes", a, b)
	b.SetLive(false)
	mustSafe(t, l, s)
	closeLog(t, l)
	if commits > 6 { // two of them by Open and Close
		t.Errorf("%d commits for %d messages that were acknowledged in time", commits, n)
	}
	l = openConfig(t, cfg, defaults())
	if got := messages(drain(t, mustConsumer(t, l, "b", Limits{}), false)); got != "b goes" {
		t.Errorf("b got %q after reopening", got)
	}
	closeLog(t, l)
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, defaults())
	if _, err := Open(testConfig(dir), discard(), nil); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open: %v", err)
	}
	for _, r := range []*Record{
		{Changes: []Change{{Table: Sessions}}},
		{Changes: []Change{{Table: Sessions, Key: make([]byte, MaxKey+1)}}},
		{Deliveries: []Delivery{{Extra: make([]byte, MaxExtra+1)}}},
	} {
		if _, err := l.Append(r); err == nil {
			t.Errorf("no error for %.100v", r)
		}
	}
	if _, _, err := l.OpenConsumer("", Limits{}); err == nil {
		t.Error("a consumer without a name")
	}
	closeLog(t, l)
	if _, err := l.Append(&Record{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Append after Close: %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(file), discard(), nil); err == nil {
		t.Error("a file was opened as directory")
	}
}

func TestConfig(t *testing.T) {
	var c Config
	c.SetDefaults()
	c.Validate(func(path, problem string) { t.Errorf("default: %s: %s", path, problem) })
	bad := map[string]bool{}
	(&Config{MaxSize: 1, MaxAckDelay: -1}).Validate(func(path, _ string) { bad[path] = true })
	if len(bad) != 3 {
		t.Errorf("problems with %v, want path, max_size and max_ack_delay", bad)
	}
}
