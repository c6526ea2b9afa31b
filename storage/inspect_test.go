package storage

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// contents returns a checksum of each file, to see whether somebody touched one.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = fmt.Sprintf("%x", sha256.Sum256(b))
	}
	return all
}

func mustInspect(t *testing.T, dir string) *Inspection {
	t.Helper()
	in, err := Inspect(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return in
}

// heldOf returns the messages that wait for a consumer, by their numbers.
func heldOf(t *testing.T, v *View, consumer string) map[uint64]string {
	t.Helper()
	all, last := map[uint64]string{}, Seq(0)
	err := v.Each(func(m *Held) error {
		if m.Seq <= last {
			return fmt.Errorf("record %d after %d", m.Seq, last)
		}
		last = m.Seq
		for _, d := range m.Deliveries {
			if d.Consumer == consumer {
				all[d.N] = string(m.Message)
			}
		}
		return nil
	}, consumer)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestInspectChangesNothing(t *testing.T) {
	dir, segments := damagedStore(t)
	before := contents(t, dir)
	in := mustInspect(t, dir)
	if len(in.Consumers) != 1 || len(in.Findings) != 0 || len(in.Intends) != 0 {
		t.Fatalf("%+v", in.View)
	}
	if c := in.Consumers[0]; c.Name != "c" || c.Count != 290 || c.Bytes < 290*600 || !c.Oldest.Equal(time.UnixMilli(1)) {
		t.Errorf("%+v", c)
	}
	if in.Rows[Retained] != 1 || in.Journal.Bytes == 0 || in.Journal.Holds != 0 || len(in.Segments) > len(segments) || len(in.Segments) < 3 || in.Disk < 290*600 {
		t.Errorf("%+v", in.View)
	}
	got := heldOf(t, in.View, "c")
	if len(got) != 290 || !strings.HasPrefix(got[11], "message 10 ") || !strings.HasPrefix(got[300], "message 299 ") {
		t.Errorf("%d messages, %.12q", len(got), got[11])
	}
	calls := int64(0)
	found, err := in.Check(func(done, total int64) { calls++ })
	if err != nil || len(found) > 0 || calls != int64(len(in.ids)) {
		t.Errorf("%v, %v, %d calls", found, err, calls)
	}
	if _, err := Open(testConfig(dir), discard(), nil); !errors.Is(err, ErrLocked) {
		t.Errorf("opened while it is inspected: %v", err)
	}
	mustInspect(t, dir) // others may look as well
	if after := contents(t, dir); !maps.Equal(before, after) {
		t.Errorf("before %v\nafter %v", before, after)
	}
}

func TestInspectRefuses(t *testing.T) {
	if _, err := Inspect(filepath.Join(t.TempDir(), "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that does not exist: %v", err)
	}
	if _, err := Inspect(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v", err)
	}
	dir, _ := damagedStore(t)
	l := openTest(t, dir, small())
	if _, err := Inspect(dir); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("a running log: %v", err)
	}
	if _, err := Repair(testConfig(dir), nil); !errors.Is(err, ErrLocked) {
		t.Errorf("repair of a running log: %v", err)
	}
	closeLog(t, l)
}

// What a crash has left in the journal is there like the rest.
func TestInspectAfterCrash(t *testing.T) {
	dir := t.TempDir()
	tune := unhurried()
	l := openTest(t, dir, tune)
	a, b := mustConsumer(t, l, "a", Limits{}), mustConsumer(t, l, "b", Limits{})
	for i := range 10 {
		mustSafe(t, l, mustAppend(t, l, fmt.Sprint("message ", i), a, b))
	}
	for range 4 {
		b.Ack(next(t, b).N)
	}
	mustSafe(t, l, b.Received(next(t, b).N))
	crashed := copyDir(t, dir)
	closeLog(t, l)
	in := mustInspect(t, crashed)
	if len(in.Consumers) != 2 || in.Consumers[0].Count != 10 || in.Consumers[1].Count != 5 || in.Consumers[1].Received != 1 || in.Journal.Holds == 0 {
		t.Errorf("%+v", in.View)
	}
	if got := heldOf(t, in.View, "b"); len(got) != 5 || got[6] != "message 5" {
		t.Errorf("b: %v", got)
	}
	if got := heldOf(t, in.View, "a"); len(got) != 10 {
		t.Errorf("a: %v", got)
	}
	if found, err := in.Check(nil); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
}

// A view of a running log is whole while everything moves on.
func TestViewOfRunningLog(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, small())
	defer closeLog(t, l)
	c, other := mustConsumer(t, l, "c", Limits{}), mustConsumer(t, l, "other", Limits{})
	for i := range 300 {
		s := mustAppend(t, l, fmt.Sprintf("message %d %0600d", i, 0), c, other)
		if i%10 != 0 {
			continue
		}
		mustSafe(t, l, s)
		v, err := l.View()
		if err != nil {
			t.Fatal(err)
		}
		// The log goes on: what is acknowledged now was waiting then.
		if i%20 == 0 {
			other.Ack(next(t, other).N)
		}
		if got := heldOf(t, v, "c"); len(got) != i+1 {
			t.Fatalf("%d messages of %d", len(got), i+1)
		}
		if v.Consumers[0].Count != int64(i+1) || v.Disk == 0 {
			t.Fatalf("%+v", v)
		}
	}
}

func TestPurge(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir, small())
	c, other := mustConsumer(t, l, "c", Limits{}), mustConsumer(t, l, "other", Limits{})
	for i := range 200 {
		r := Record{Time: int64(1000 + i), Message: fmt.Appendf(nil, "message %d %0600d", i, 0),
			Deliveries: []Delivery{{Consumer: c.ID()}, {Consumer: other.ID()}}}
		s, err := l.Append(&r)
		if err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			mustSafe(t, l, s)
		}
	}
	if _, err := l.Purge(t.Context(), "nobody", time.Time{}); err == nil {
		t.Error("purged a consumer that does not exist")
	}
	if n, err := l.Purge(t.Context(), "c", time.UnixMilli(1050)); n != 50 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	if e := next(t, c); e.Time != 1050 || c.Stats().Dropped["purged"] != 50 {
		t.Errorf("next is of %d; %+v", e.Time, c.Stats())
	}
	crashed := copyDir(t, dir) // what was purged is durably so
	if n, err := l.Purge(t.Context(), "c", time.Time{}); n != 150 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	if n, err := l.Purge(t.Context(), "c", time.Time{}); n != 0 || err != nil {
		t.Errorf("purged %d the second time, %v", n, err)
	}
	if other.Stats().Count != 200 {
		t.Errorf("the other consumer has %+v", other.Stats())
	}
	closeLog(t, l)
	if in := mustInspect(t, crashed); in.Consumers[0].Count != 150 {
		t.Errorf("after a crash: %+v", in.Consumers)
	}
	if in := mustInspect(t, dir); in.Consumers[0].Count != 0 || in.Consumers[1].Count != 200 {
		t.Errorf("after the end: %+v", in.Consumers)
	}
}

// The tools read what version 1 wrote.
func TestInspectGolden(t *testing.T) {
	in := mustInspect(t, copyDir(t, "testdata/v1"))
	if len(in.Consumers) != 2 || in.Consumers[0].Name != "bridge cloud" || in.Consumers[0].Count != 3 || in.Consumers[0].Received != 1 || in.Rows[Retained] != 1 {
		t.Errorf("%+v", in.View)
	}
	if got := heldOf(t, in.View, "bridge cloud"); len(got) != 3 || got[2] != "two" || got[4] != "four" || got[6] != "six" {
		t.Errorf("%v", got)
	}
	if found, err := in.Check(nil); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
}
