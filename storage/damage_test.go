package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// injure changes one file of a closed store.
type injure func(t *testing.T, file string)

func overwrite(at func(size int) (from, to int), b byte) injure {
	return func(t *testing.T, file string) {
		t.Helper()
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		from, to := at(len(data))
		for i := from; i < to; i++ {
			if b == 0 {
				data[i] = 0
			} else {
				data[i] ^= b + byte(i*7)
			}
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func all(size int) (int, int)    { return 0, size }
func metas(int) (int, int)       { return 0, 8192 }
func meta0(int) (int, int)       { return 0, 4096 }
func pages(int) (int, int)       { return 8192, 40960 }
func behind(size int) (int, int) { return 8192, size }

func truncate(part int64) injure {
	return func(t *testing.T, file string) {
		t.Helper()
		info, err := os.Stat(file)
		if err == nil {
			err = os.Truncate(file, info.Size()*part/100)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// truncateUsed cuts inside what is used: files are longer than that.
func truncateUsed(t *testing.T, file string) {
	t.Helper()
	if err := os.Truncate(file, 5*4096); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

// flip changes one byte inside a message, which only our own checksum sees.
func flip(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, []byte("message 1"))
	if at < 0 {
		at = bytes.Index(data, []byte("message "))
	}
	if at < 0 {
		t.Fatal("no message in " + file)
	}
	data[at] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// damagedStore is a closed store with rows and with 300 messages for one
// consumer in several segments, of which the first 10 are acknowledged.
func damagedStore(t *testing.T) (dir string, segments []string) {
	t.Helper()
	dir = t.TempDir()
	l := openTest(t, dir, small())
	c := mustConsumer(t, l, "c", Limits{})
	for i := range 300 {
		s := mustAppend(t, l, fmt.Sprintf("message %d %0600d", i, 0), c)
		if i%10 == 0 {
			mustSafe(t, l, s)
		}
	}
	if _, err := l.Append(&Record{Changes: []Change{{Table: Retained, Key: []byte("k"), Value: []byte("v")}}}); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		c.Ack(next(t, c).N)
	}
	closeLog(t, l)
	segments, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(segments) < 3 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	return dir, segments
}

func TestDamage(t *testing.T) {
	const total = 290
	for _, tt := range []struct {
		name   string
		which  int // segment; -1: the state file
		injure injure
		intact bool // nothing may be lost
		bad    bool // a file must be set aside
	}{
		{"segment truncated to nothing", 1, truncate(0), false, true},
		{"segment truncated inside", 1, truncateUsed, false, true},
		{"segment of zeros", 1, overwrite(all, 0), false, true},
		{"segment with zeroed header", 1, overwrite(metas, 0), false, true},
		{"segment with one bad header page", 1, overwrite(meta0, 0), false, false},
		{"segment with zeroed pages", 1, overwrite(pages, 0), false, true},
		{"segment of noise", 1, overwrite(all, 1), false, true},
		{"segment of noise behind the header", 1, overwrite(behind, 1), false, true},
		{"byte flipped in a message", 1, flip, false, false},
		{"segment missing", 1, remove, false, false},
		{"first segment of noise", 0, overwrite(all, 1), false, true},
		{"last segment of noise", -2, overwrite(all, 1), false, true},
		{"last segment truncated inside", -2, truncateUsed, false, true},
		{"state missing", -1, remove, true, false},
		{"state truncated to nothing", -1, truncate(0), true, true},
		{"state of zeros", -1, overwrite(all, 0), true, true},
		{"state of noise", -1, overwrite(all, 1), true, true},
		{"state of noise behind the header", -1, overwrite(behind, 1), true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, segments := damagedStore(t)
			file := filepath.Join(dir, stateName)
			if tt.which >= 0 {
				file = segments[tt.which]
			} else if tt.which == -2 {
				file = segments[len(segments)-1]
			}
			tt.injure(t, file)
			l := openTest(t, dir, small())
			c := mustConsumer(t, l, "c", Limits{})
			got := drain(t, c, true)
			last := -1
			for _, e := range got {
				var i int
				if _, err := fmt.Sscanf(string(e.Message), "message %d", &i); err != nil || i <= last || len(e.Message) < 600 {
					t.Fatalf("message %.20q after %d: %v", e.Message, last, err)
				}
				last = i
			}
			lost := int(c.Stats().Dropped[CauseDamaged])
			if len(got)+lost != total {
				t.Errorf("%d delivered and %d counted as damaged, want together %d", len(got), lost, total)
			}
			if tt.intact && lost > 0 {
				t.Errorf("%d lost", lost)
			}
			if !tt.intact && (lost == 0 && tt.name != "segment with one bad header page" || lost > 150) {
				t.Errorf("%d lost: too few or too many for one segment", lost)
			}
			bad, err := filepath.Glob(filepath.Join(dir, "*"+badSuffix))
			if err != nil || (len(bad) > 0) != tt.bad {
				t.Errorf("set aside: %v, %v", bad, err)
			}
			if tt.bad && l.Stats().Damaged != 1 {
				t.Errorf("stats say %d files were set aside", l.Stats().Damaged)
			}
			rows := 0
			if err := l.Each(Retained, func(k, v []byte) error { rows++; return nil }); err != nil || rows > 1 || tt.which >= 0 && rows != 1 {
				t.Errorf("%d rows, %v", rows, err)
			}
			mustSafe(t, l, mustAppend(t, l, "new", c))
			if e := next(t, c); string(e.Message) != "new" || e.N <= total {
				t.Errorf("appended after the damage: %d %q", e.N, e.Message)
			}
			closeLog(t, l)
			closeLog(t, openTest(t, dir, small()))
		})
	}
}

func TestNewerVersionIsNotTouched(t *testing.T) {
	for _, name := range []string{stateName, "segment"} {
		t.Run(name, func(t *testing.T) {
			dir, segments := damagedStore(t)
			file := filepath.Join(dir, stateName)
			if name != stateName {
				file = segments[0]
				remove(t, filepath.Join(dir, stateName)) // so that Open has to read it
			}
			db, err := bolt.Open(file, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = db.Update(func(tx *bolt.Tx) error {
				return tx.Bucket(bucketHeader).Put(keyVersion, binary.BigEndian.AppendUint32(nil, formatVersion+1))
			})
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Open(testConfig(dir), discard(), nil)
			var newer *VersionError
			if !errors.As(err, &newer) || newer.Version != formatVersion+1 {
				t.Errorf("Open: %v", err)
			}
			after, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(before, after) {
				t.Errorf("the file has changed, %v", err)
			}
		})
	}
}

// failing makes one step fail.
type failing struct {
	step  string
	after int
}

func (f *failing) before(step, _ string) error {
	if step != f.step {
		return nil
	}
	if f.after--; f.after >= 0 {
		return nil
	}
	return syscall.ENOSPC
}

func TestFailureIsFinal(t *testing.T) {
	for _, step := range []string{"create", "rename", "syncdir", "commit", "committed", "checkpoint", "checkpointed", "journal", "journaled"} {
		for after := range 3 {
			t.Run(fmt.Sprint(step, " ", after), func(t *testing.T) {
				dir := t.TempDir()
				told := make(chan error, 1000)
				f := &failing{step: step, after: 1 << 30}
				l, err := open(testConfig(dir), discard(), func(_ Seq, err error) {
					if err != nil {
						told <- err
					}
				}, &directory{path: dir, before: f.before}, small())
				if err != nil {
					t.Fatal(err)
				}
				l.mu.Lock()
				f.after = after
				l.mu.Unlock()
				c := mustConsumer(t, l, "c", Limits{})
				safe := map[string]Seq{}
				for i := 0; ; i++ {
					m := fmt.Sprintf("%d %01000d", i, 0)
					s, err := l.Append(&Record{Message: []byte(m), Deliveries: []Delivery{{Consumer: c.ID()}}})
					if err == nil {
						safe[m] = s
						err = l.WaitSafe(t.Context(), s)
					}
					if errors.Is(err, ErrFailed) {
						if !errors.Is(err, syscall.ENOSPC) {
							t.Errorf("the reason is missing: %v", err)
						}
						break
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if err := <-told; !errors.Is(err, ErrFailed) {
					t.Errorf("told %v", err)
				}
				at := l.Safe()
				if _, err := l.Append(&Record{}); !errors.Is(err, ErrFailed) {
					t.Errorf("Append after the failure: %v", err)
				}
				c.Ack(1)
				if l.Stats().Err == nil || l.Safe() != at {
					t.Errorf("stats %+v, Safe %d then %d", l.Stats(), at, l.Safe())
				}
				if err := l.Close(); !errors.Is(err, ErrFailed) {
					t.Errorf("Close: %v", err)
				}
				if len(told) > 0 {
					t.Error("told more than once")
				}
				l = openTest(t, dir, small())
				var got []string
				if slices.Contains(l.Consumers(), "c") {
					for _, e := range drain(t, mustConsumer(t, l, "c", Limits{}), true) {
						got = append(got, string(e.Message))
					}
				}
				for m, s := range safe {
					if s <= at && !slices.Contains(got, m) {
						t.Errorf("%.10q was safe, and is lost", m)
					}
				}
				closeLog(t, l)
			})
		}
	}
}

// mountSmall mounts a file system of about 32 MB.
func mountSmall(kind, dir string) error {
	if kind == "tmpfs" {
		return syscall.Mount("forebay", dir, kind, 0, "size=32m")
	}
	image := dir + ".img"
	if err := writeZeros(image, 36<<20); err != nil {
		return err
	}
	for _, args := range [][]string{{"mkfs." + kind, "-q", "-m", "0", "-J", "size=1", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", args[0], err, out)
		}
	}
	return nil
}

// smallDisk mounts one where the machine lets us. A kernel without loop devices
// has no small ext4.
func smallDisk(t *testing.T, kind string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = mountSmall(kind, dir)
	}
	if err != nil && os.Getenv("CI") == "true" && kind == "tmpfs" {
		t.Fatalf("cannot mount a small file system: %v", err)
	}
	if err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A disk that is really full: what was safe is there when the log is opened on
// it again, can be drained, and the space serves new messages.
func TestDiskFull(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) { testDiskFull(t, smallDisk(t, kind)) })
	}
}

func testDiskFull(t *testing.T, dir string) {
	t.Helper()
	l := openTest(t, filepath.Join(dir, "store"), defaults())
	c := mustConsumer(t, l, "c", Limits{})
	body := strings.Repeat("x", 20_000)
	n := 0
	for {
		s, err := l.Append(&Record{Message: []byte(body), Deliveries: []Delivery{{Consumer: c.ID()}}})
		if err == nil {
			err = l.WaitSafe(t.Context(), s)
		}
		if errors.Is(err, ErrFailed) && errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if err := l.Probe(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Probe of a full disk: %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close: %v", err)
	}
	tune := defaults()
	tune.checkpoint = 100 * time.Millisecond
	l = openTest(t, filepath.Join(dir, "store"), tune)
	c = mustConsumer(t, l, "c", Limits{})
	if got := len(drain(t, c, true)); got < n {
		t.Errorf("%d of %d safe messages", got, n)
	}
	eventually(t, "space comes back", func() bool {
		// What the store says is not enough: a reader may still hold the file that has been unlinked.
		var s syscall.Statfs_t
		if err := syscall.Statfs(dir, &s); err != nil {
			t.Fatal(err)
		}
		return l.Stats().Segments <= 1 && l.Stats().Disk < idle(l) && int64(s.Bavail)*int64(s.Bsize) > 4<<20
	})
	eventually(t, "Probe finds room", func() bool { return l.Probe() == nil })
	if _, err := os.Stat(l.dir.file(probeName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what Probe has written is still there: %v", err)
	}
	eventually(t, "the reserve is there again", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return !l.unreserved })
	for range n / 2 {
		mustSafe(t, l, mustAppend(t, l, body, c))
	}
	closeLog(t, l)
}

// Without room for the reserve no message is taken, as the disk could become so
// full that the log could not be opened. What makes it shrink is, and the reserve
// is made as soon as others have made room.
func TestNoRoomForReserve(t *testing.T) {
	disk := smallDisk(t, "tmpfs")
	var s syscall.Statfs_t
	if err := syscall.Statfs(disk, &s); err != nil {
		t.Fatal(err)
	}
	others := filepath.Join(disk, "others")
	if err := writeZeros(others, int64(s.Bavail)*int64(s.Bsize)-1<<20); err != nil {
		t.Fatal(err)
	}
	l := openTest(t, filepath.Join(disk, "store"), small())
	c := mustConsumer(t, l, "c", Limits{})
	r := Record{Message: []byte("m"), Deliveries: []Delivery{{Consumer: c.ID()}}}
	var full *FullError
	if _, err := l.Append(&r); !errors.As(err, &full) || full.Limit != limitDisk {
		t.Errorf("Append on a disk that is nearly full: %v", err)
	}
	s2, err := l.Append(&Record{Changes: []Change{{Table: Sessions, Key: []byte("k")}}})
	if err != nil {
		t.Fatal(err)
	}
	mustSafe(t, l, s2)
	if err := os.Remove(others); err != nil {
		t.Fatal(err)
	}
	eventually(t, "messages are taken", func() bool { _, err := l.Append(&r); return err == nil })
	closeLog(t, l)
}
