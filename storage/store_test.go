package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func testConfig(dir string) Config {
	cfg := Config{Path: dir}
	cfg.SetDefaults()
	return cfg
}

// small makes segments, chunks and windows so small that a few hundred records
// go through all of them.
func small() tuning {
	t := defaults()
	t.segment, t.slab, t.tail, t.windows = 64<<10, 4<<10, 16<<10, 64<<10
	t.checkpoint, t.records, t.rotate = 20*time.Millisecond, 50, 16<<10
	t.marks = 5 * time.Millisecond
	t.half = 32 << 10
	return t
}

func openTest(t testing.TB, dir string, tune tuning) *Log {
	t.Helper()
	return openConfig(t, testConfig(dir), tune)
}

func openConfig(t testing.TB, cfg Config, tune tuning) *Log {
	t.Helper()
	l, err := open(cfg, discard(), nil, &directory{path: cfg.Path}, tune)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustConsumer(t testing.TB, l *Log, name string, limits Limits) *Cursor {
	t.Helper()
	c, _, err := l.OpenConsumer(name, limits)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustAppend(t testing.TB, l *Log, message string, cursors ...*Cursor) Seq {
	t.Helper()
	r := Record{Time: 1, Message: []byte(message)}
	for _, c := range cursors {
		r.Deliveries = append(r.Deliveries, Delivery{Consumer: c.ID(), Options: 1})
	}
	s, err := l.Append(&r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustSafe(t testing.TB, l *Log, s Seq) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := l.WaitSafe(ctx, s); err != nil {
		t.Fatalf("waiting for %d: %v", s, err)
	}
}

// next waits for the next entry; ok is false when n entries are not there.
func next(t testing.TB, c *Cursor) Entry {
	t.Helper()
	more := make(chan struct{}, 1)
	c.SetNotify(func() {
		select {
		case more <- struct{}{}:
		default:
		}
	})
	timeout := time.After(30 * time.Second)
	for {
		if e, ok := c.Next(); ok {
			return e
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("no entry for %q; %+v", c.Name(), c.Stats())
		}
	}
}

// drain takes all that waits for c, except what turns out to be damaged.
func drain(t testing.TB, c *Cursor, ack bool) []Entry {
	t.Helper()
	more := make(chan struct{}, 1)
	c.SetNotify(func() {
		select {
		case more <- struct{}{}:
		default:
		}
	})
	timeout := time.After(60 * time.Second)
	var all []Entry
	for {
		e, ok := c.Next()
		if ok {
			all = append(all, e)
			if ack {
				c.Ack(e.N)
			}
			continue
		}
		if s := c.Stats(); s.Count == 0 || !ack && s.Count == int64(len(all)) {
			return all
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("%q stops after %d; %+v", c.Name(), len(all), c.Stats())
		}
	}
}

// idle is what a log without a backlog takes on disk, and some more.
func idle(l *Log) int64 { return l.dir.reserve + l.journalDisk + 1<<20 }

// eventually waits for a condition that other goroutines bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// copyDir copies the files of a store as a kill -9 would leave them.
func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := copyFiles(from, to); err != nil {
		t.Fatal(err)
	}
	return to
}

func copyFiles(from, to string) error {
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(from, f.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, f.Name()), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func TestAppendedIsThereAfterReopen(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, defaults())
	a, seq, err := l.OpenConsumer("a", Limits{})
	if err != nil || seq == 0 {
		t.Fatalf("OpenConsumer: %d, %v", seq, err)
	}
	b := mustConsumer(t, l, "b", Limits{})
	mustAppend(t, l, "one", a, b)
	_, err = l.Append(&Record{
		Time: 1234567890123, Message: []byte("two"),
		Deliveries: []Delivery{{Consumer: a.ID(), Options: 7, Extra: []byte("extra"), Hold: true}},
		Changes:    []Change{{Table: Retained, Key: []byte("k"), Value: []byte("v")}, {Table: Sessions, Key: []byte("gone"), Value: []byte{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Append(&Record{Changes: []Change{{Table: Sessions, Key: []byte("gone")}, {Table: Sessions, Key: []byte("empty"), Value: []byte{}}}})
	if err != nil {
		t.Fatal(err)
	}
	mustSafe(t, l, s)
	for _, restart := range []string{"crash", "close"} {
		at := dir
		if restart == "crash" {
			at = copyDir(t, dir)
		} else {
			closeLog(t, l)
		}
		l2 := openTest(t, at, defaults())
		rows := map[string]string{}
		for _, table := range []Table{Sessions, Retained} {
			if err := l2.Each(table, func(k, v []byte) error { rows[fmt.Sprint(table, string(k))] = string(v); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if want := map[string]string{"3k": "v", "1empty": ""}; fmt.Sprint(rows) != fmt.Sprint(want) {
			t.Errorf("%s: rows %v, want %v", restart, rows, want)
		}
		a2, seq, err := l2.OpenConsumer("a", Limits{})
		if err != nil || seq != 0 || a2.ID() != a.ID() || a2.Recovered() != 2 {
			t.Fatalf("%s: OpenConsumer: id %d, seq %d, recovered %d, %v", restart, a2.ID(), seq, a2.Recovered(), err)
		}
		e1, e2 := next(t, a2), next(t, a2)
		if e1.N != 1 || string(e1.Message) != "one" || e1.Options != 1 {
			t.Errorf("%s: first entry %+v", restart, e1)
		}
		if e2.N != 2 || string(e2.Message) != "two" || e2.Options != 7 || string(e2.Extra) != "extra" || e2.Time != 1234567890123 || e2.Seq <= e1.Seq {
			t.Errorf("%s: second entry %+v", restart, e2)
		}
		if e, ok := a2.Next(); ok {
			t.Errorf("%s: third entry %+v", restart, e)
		}
		if got := mustConsumer(t, l2, "b", Limits{}).Stats(); got.Count != 1 || got.Bytes != 3 {
			t.Errorf("%s: b has %+v", restart, got)
		}
		if s2 := mustAppend(t, l2, "three", a2); s2 <= s {
			t.Errorf("%s: Seq %d after %d", restart, s2, s)
		}
		if e := next(t, a2); e.N != 3 || string(e.Message) != "three" {
			t.Errorf("%s: appended after reopening: %+v", restart, e)
		}
		closeLog(t, l2)
	}
}

func TestHoldWaitsForTheDisk(t *testing.T) {
	dir := t.TempDir()
	block, blocked := make(chan struct{}), make(chan struct{}, 8)
	cfg := testConfig(dir)
	d := &directory{path: dir}
	l, err := open(cfg, discard(), nil, d, defaults())
	if err != nil {
		t.Fatal(err)
	}
	c, s, err := l.OpenConsumer("c", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	mustSafe(t, l, s)
	l.mu.Lock()
	d.before = func(step, _ string) error {
		if step == "journal" {
			blocked <- struct{}{}
			<-block
		}
		return nil
	}
	l.mu.Unlock()
	mustAppend(t, l, "at most once per round trip", c)
	<-blocked
	held, err := l.Append(&Record{Message: []byte("exactly once"), Deliveries: []Delivery{{Consumer: c.ID(), Hold: true}}})
	if err != nil {
		t.Fatal(err)
	}
	if e := next(t, c); e.Message == nil || l.Safe() >= e.Seq {
		t.Errorf("entry %d was not handed out before it was durable", e.Seq)
	}
	if e, ok := c.Next(); ok {
		t.Fatalf("held entry %+v handed out at Safe %d", e, l.Safe())
	}
	close(block)
	if e := next(t, c); string(e.Message) != "exactly once" || l.Safe() < held {
		t.Errorf("at Safe %d: %+v", l.Safe(), e)
	}
	closeLog(t, l)
}

func TestReceivedAndReleased(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, defaults())
	c := mustConsumer(t, l, "c", Limits{})
	for i := range 5 {
		mustAppend(t, l, fmt.Sprint(i), c)
	}
	for range 3 {
		next(t, c)
	}
	s := c.Received(2)
	if s == 0 {
		t.Fatal("Received is durable at once")
	}
	mustSafe(t, l, s)
	if again := c.Received(2); again != 0 {
		t.Errorf("Received again, when durable: %d", again)
	}
	if unknown := c.Received(99); unknown != 0 {
		t.Errorf("Received of an unknown n: %d", unknown)
	}
	l2 := openTest(t, copyDir(t, dir), defaults())
	c2 := mustConsumer(t, l2, "c", Limits{})
	if got := c2.Released(); len(got) != 1 || got[0] != 2 {
		t.Errorf("after a crash released %v, want [2]", got)
	}
	var ns []uint64
	for _, e := range drain(t, c2, false) {
		ns = append(ns, e.N)
	}
	if fmt.Sprint(ns) != "[1 3 4 5]" {
		t.Errorf("after a crash n %v, want 1 3 4 5", ns)
	}
	c2.Ack(2)
	if got := c2.Released(); len(got) != 0 {
		t.Errorf("released after Ack: %v", got)
	}
	closeLog(t, l2)
	closeLog(t, l)
}

func TestMessagesThroughAllOfThePlaces(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			dir := t.TempDir()
			l := openTest(t, dir, small())
			a := mustConsumer(t, l, "a", Limits{})
			b := mustConsumer(t, l, "b", Limits{})
			const n = 3000
			var last Seq
			for i := range n {
				m := fmt.Sprintf("%d %s", i, bytes.Repeat([]byte{'x'}, i%400))
				if i%500 == 0 {
					m = fmt.Sprintf("%d %s", i, bytes.Repeat([]byte{'y'}, 100_000))
				}
				if i%3 == 0 {
					last = mustAppend(t, l, m, a)
				} else {
					last = mustAppend(t, l, m, a, b)
				}
				if i%100 == 0 {
					mustSafe(t, l, last)
				}
			}
			mustSafe(t, l, last)
			if restart {
				closeLog(t, l)
				l = openTest(t, dir, small())
				a, b = mustConsumer(t, l, "a", Limits{}), mustConsumer(t, l, "b", Limits{})
			}
			base := l.dir.reserve + l.journalDisk
			full := l.Stats().Disk - base
			for _, c := range []*Cursor{a, b} {
				i := 0
				for k, e := range drain(t, c, true) {
					if c == b && i%3 == 0 {
						i++
					}
					var got int
					if _, err := fmt.Sscan(string(e.Message), &got); err != nil || got != i || e.N != uint64(k+1) {
						t.Fatalf("%s: entry %d is %d, message %d, want %d: %v", c.Name(), k, e.N, got, i, err)
					}
					i++
				}
				if i != n {
					t.Errorf("%s: %d messages, want %d", c.Name(), i, n)
				}
				if s := c.Stats(); s.Count != 0 || s.Bytes != 0 || s.Oldest != 0 {
					t.Errorf("%s after draining: %+v", c.Name(), s)
				}
			}
			eventually(t, "disk comes back", func() bool { return l.Stats().Disk-base < full/4 && l.Stats().Segments <= 2 })
			closeLog(t, l)
			if left, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix)); err != nil || len(left) > 2 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}
