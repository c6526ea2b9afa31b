package storage

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// damageCensus breaks what a segment says about its consumers.
func damageCensus(t *testing.T, file string) {
	t.Helper()
	db, err := bolt.Open(file, 0o600, nil)
	if err == nil {
		err = db.Update(func(tx *bolt.Tx) error {
			return tx.Bucket(bucketHeader).Put(keyCensus, []byte("nothing"))
		})
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The tools see every damage, take nothing away by looking, and leave a store
// behind that is whole.
func TestTools(t *testing.T) {
	const total = 290
	for _, tt := range []struct {
		name   string
		file   string // "first", "second", "last" segment, or a name
		injure injure
		lost   bool // something must be
		left   bool // of the file something must be
		aside  bool // the file must be
	}{
		{"segment truncated to nothing", "second", truncate(0), true, false, true},
		{"segment truncated inside", "second", truncateUsed, true, false, true},
		{"segment of zeros", "second", overwrite(all, 0), true, false, true},
		{"segment with zeroed pages", "second", overwrite(pages, 0), true, false, true},
		{"segment of noise", "second", overwrite(all, 1), true, false, true},
		{"byte flipped in a message", "second", flip, true, true, true},
		{"census damaged", "second", damageCensus, false, true, true},
		{"segment missing", "second", remove, true, false, false},
		{"first segment of noise", "first", overwrite(all, 1), true, false, true},
		{"last segment of noise", "last", overwrite(all, 1), true, false, true},
		{"byte flipped in the last segment", "last", flip, true, true, true},
		{"state missing", stateName, remove, false, false, false},
		{"state of noise", stateName, overwrite(all, 1), false, false, true},
		{"journal of noise", journalName, overwrite(all, 1), false, false, true},
		{"journal truncated", journalName, truncate(50), false, false, true},
		{"journal missing", journalName, remove, false, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, segments := damagedStore(t)
			file := filepath.Join(dir, tt.file)
			switch tt.file {
			case "first":
				file = segments[0]
			case "second":
				file = segments[1]
			case "last":
				file = segments[len(segments)-1]
			}
			tt.injure(t, file)
			before := contents(t, dir)
			in := mustInspect(t, dir)
			held := heldOf(t, in.View, "c")
			found, err := in.Check(nil)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(found, func(f Finding) bool {
				return (f.File == filepath.Base(file) || f.File == "" && strings.Contains(f.Problem, "state file")) && f.Problem != "" && f.Cure != ""
			}) {
				t.Errorf("nothing is found about %s: %+v", file, found)
			}
			if lost := total - len(held); (lost > 0) != tt.lost || lost > 150 || tt.left && lost > 1 {
				t.Errorf("%d lost", lost)
			}
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			if after := contents(t, dir); !maps.Equal(before, after) {
				t.Fatal("looking has changed something")
			}
			done, err := Repair(testConfig(dir), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(done.Findings) == 0 || slices.Contains(done.SetAside, filepath.Base(file)+badSuffix) != tt.aside {
				t.Errorf("repaired: %+v", done)
			}
			if b, err := os.ReadFile(file + badSuffix); tt.aside && tt.name != "segment truncated to nothing" && (err != nil || len(b) == 0) {
				t.Errorf("set aside: %d bytes, %v", len(b), err)
			}
			in = mustInspect(t, dir)
			if found, err := in.Check(nil); err != nil || len(found) > 0 {
				t.Errorf("after the repair: %+v, %v", found, err)
			}
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			l := openTest(t, dir, small())
			c := mustConsumer(t, l, "c", Limits{})
			var bytes int64
			for _, m := range held {
				bytes += int64(len(m))
			}
			lost := total - len(held)
			if s := c.Stats(); s.Count != int64(len(held)) || s.Bytes != bytes || s.Dropped[CauseDamaged] != uint64(lost) || done.Lost["c"] > int64(lost) {
				t.Errorf("%+v after %d were held with %d bytes; repair says %d are lost", s, len(held), bytes, done.Lost["c"])
			}
			for _, e := range drain(t, c, true) {
				if held[e.N] != string(e.Message) {
					t.Fatalf("message %d: %.20q", e.N, e.Message)
				}
				delete(held, e.N)
			}
			if len(held) > 0 {
				t.Errorf("%d are not delivered", len(held))
			}
			closeLog(t, l)
		})
	}
}

func TestRepairOfSoundStore(t *testing.T) {
	dir, _ := damagedStore(t)
	done, err := Repair(testConfig(dir), nil)
	if err != nil || len(done.Findings) > 0 || len(done.Lost) > 0 || len(done.SetAside) > 0 {
		t.Errorf("%+v, %v", done, err)
	}
	if in := mustInspect(t, dir); in.Consumers[0].Count != 290 {
		t.Errorf("%+v", in.Consumers)
	}
}

// A full disk leaves the damaged segment where it is; the rest is repaired.
func TestRepairWithoutRoom(t *testing.T) {
	dir, segments := damagedStore(t)
	flip(t, segments[1])
	f := &failing{step: "commit", after: 1 << 30}
	l, err := open(testConfig(dir), discard(), nil, &directory{path: dir, before: f.before}, unhurried())
	if err != nil {
		t.Fatal(err)
	}
	f.after = 0
	done := &Repaired{Lost: map[string]int64{}}
	if err := l.repair(done, nil); err == nil || done.Lost["c"] != 1 {
		t.Errorf("%+v, %v", done, err)
	}
	f.after = 1 << 30
	closeLog(t, l)
	if bad, err := filepath.Glob(filepath.Join(dir, "*"+badSuffix)); err != nil || len(bad) > 0 {
		t.Errorf("set aside: %v, %v", bad, err)
	}
	if got := heldOf(t, mustInspect(t, dir).View, "c"); len(got) != 289 {
		t.Errorf("%d held", len(got))
	}
}

// The first segment of a store that has crashed before its first checkpoint says
// who the consumers are. Without it, the lists in those behind it do.
func TestConsumersAreFoundBehindDamage(t *testing.T) {
	dir := t.TempDir()
	tune := small()
	tune.checkpoint, tune.records = unhurried().checkpoint, 1<<30
	l := openTest(t, dir, tune)
	c := mustConsumer(t, l, "c", Limits{})
	for i := range 300 {
		s := mustAppend(t, l, fmt.Sprintf("message %d %0600d", i, 0), c)
		if i%10 == 0 {
			mustSafe(t, l, s)
		}
	}
	c.Ack(next(t, c).N)
	mustSafe(t, l, mustAppend(t, l, "the last", c))
	crashed := copyDir(t, dir)
	closeLog(t, l)
	overwrite(all, 1)(t, filepath.Join(crashed, segmentName(1)))
	l = openTest(t, crashed, small())
	defer closeLog(t, l)
	c = mustConsumer(t, l, "c", Limits{})
	got, lost := drain(t, c, true), c.Stats().Dropped[CauseDamaged]
	if len(got) < 150 || string(got[len(got)-1].Message) != "the last" || len(got)+int(lost) < 300 || len(got)+int(lost) > 301 {
		// The one that was acknowledged later may count as lost before that is read.
		t.Errorf("%d delivered, %d counted as damaged", len(got), lost)
	}
}
