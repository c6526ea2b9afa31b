package storage

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

const sector = 512 // what a disk writes as a whole

// image is a directory as a power cut would leave it. Zeros at the end of a file
// are not kept.
type image map[string]content

type content struct {
	data []byte
	size int64
}

func takeImage(dir string) (image, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	m, zeros := image{}, [sector]byte{}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		end := len(b)
		for end >= sector && bytes.Equal(b[end-sector:end], zeros[:]) {
			end -= sector
		}
		m[f.Name()] = content{bytes.Clone(b[:end]), int64(len(b))}
	}
	return m, nil
}

func (m image) restore(t *testing.T, dir string) {
	t.Helper()
	for name, c := range m {
		err := os.WriteFile(filepath.Join(dir, name), c.data, 0o600)
		if err == nil {
			err = os.Truncate(filepath.Join(dir, name), c.size)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// cut is one way in which the power may have gone.
type cut struct {
	at    string
	image image
	model model
	safe  Seq
}

// cutter sits between a log and its files, and collects the cuts. bbolt's
// transactions count as done or not done: it has its own proof.
type cutter struct {
	t         *testing.T
	dir       string
	r         *rand.Rand
	disk      sync.Mutex // held while something is written
	journaled chan struct{}
	mu        sync.Mutex // guards what follows
	m         *model
	log       *Log
	safe      Seq // while log is nil
	cuts      []cut
}

// before and the methods of cutJournal are called by the log.
func (x *cutter) before(step, file string) error {
	switch step {
	case "commit", "checkpoint", "journal":
		if step == "commit" && x.journaled != nil {
			select { // now and then the journal is faster
			case <-x.journaled:
			case <-time.After(time.Millisecond):
			}
		}
		x.disk.Lock()
		x.cut(step+" "+file, nil)
	case "committed", "checkpointed", "journaled":
		x.cut(step+" "+file, nil)
		x.disk.Unlock()
		if step == "journaled" {
			select {
			case x.journaled <- struct{}{}:
			default: // no spill waits
			}
		}
	case "create", "rename", "remove":
		x.disk.Lock()
		x.cut(step+" "+file, nil)
		x.disk.Unlock()
	}
	return nil
}

// cut takes an image; change makes of it the images to keep.
func (x *cutter) cut(at string, change func(image) []image) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m == nil {
		return
	}
	m, err := takeImage(x.dir)
	if err != nil {
		x.t.Error(err)
		return
	}
	safe := x.safe
	if x.log != nil {
		safe = x.log.Safe()
	}
	images := []image{m}
	if change != nil {
		images = change(m)
	}
	now := model{ops: x.m.ops[:len(x.m.ops):len(x.m.ops)], acked: maps.Clone(x.m.acked)}
	for _, m := range images {
		x.cuts = append(x.cuts, cut{at, m, now, safe})
	}
}

// cutJournal is the journal's file. What was written since the last sync may
// reach the disk, or not, or any of its sectors may.
type cutJournal struct {
	osJournal
	x       *cutter
	at      int64
	written []byte
	old     []byte
}

func (f *cutJournal) WriteAt(b []byte, at int64) (int, error) {
	f.at, f.written, f.old = at, bytes.Clone(b), make([]byte, len(b))
	if _, err := f.ReadAt(f.old, at); err != nil {
		return 0, err
	}
	return f.osJournal.WriteAt(b, at)
}

func (f *cutJournal) Sync() error {
	f.x.cut(fmt.Sprintf("sync of %d bytes at %d", len(f.written), f.at), func(m image) []image {
		name := journalName
		if m[name].size == 0 {
			name += newSuffix
		}
		full := make([]byte, m[name].size)
		copy(full, m[name].data)
		torn := func(keep func(i int) bool) image {
			b := bytes.Clone(full)
			for i := 0; i*sector < len(f.written); i++ {
				if !keep(i) {
					from, to := i*sector, min((i+1)*sector, len(f.written))
					copy(b[f.at+int64(from):], f.old[from:to])
				}
			}
			t := maps.Clone(m)
			t[name] = content{b, int64(len(b))}
			return t
		}
		sectors := (len(f.written) + sector - 1) / sector
		images := []image{m}
		for k := range min(sectors, 9) {
			images = append(images, torn(func(i int) bool { return i < k }))
		}
		for range 5 {
			bits := f.x.r.Uint64() | 1<<f.x.r.IntN(64)
			images = append(images, torn(func(i int) bool { return bits>>(i%64)&1 != 0 }))
		}
		return images
	})
	return f.osJournal.Sync()
}

func (x *cutter) directory(dir string) *directory {
	x.dir = dir
	return &directory{path: dir, before: x.before, journal: func(name string) (journalFile, error) {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		return &cutJournal{osJournal: osJournal{f}, x: x}, err
	}}
}

// ramDir returns a directory where a sync costs nothing, if there is one.
func ramDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "forebay")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// work does a few hundred random things to a log, with a restart, and returns
// the cuts.
func work(t *testing.T, seed uint64, delay time.Duration, steps int) []cut {
	t.Helper()
	x := &cutter{t: t, r: rand.New(rand.NewPCG(seed, 2)), journaled: make(chan struct{})}
	d := &driver{t: t, r: rand.New(rand.NewPCG(seed, 3)), m: model{acked: map[entryID]bool{}}}
	d.cfg.SetDefaults()
	d.cfg.MaxAckDelay = delay
	d.cfg.Path = ramDir(t)
	x.m = &d.m
	tune := small()
	tune.half = minJournalHalf
	if seed%2 == 0 { // the journal goes round and round without a checkpoint
		tune.checkpoint, tune.records = time.Hour, 1<<30
	}
	for range 2 {
		l, err := open(d.cfg, discard(), nil, x.directory(d.cfg.Path), tune)
		if err != nil {
			t.Fatal(err)
		}
		x.mu.Lock()
		d.l, x.log, d.out = l, l, map[ConsumerID][]uint64{}
		x.mu.Unlock()
		for i := range steps {
			x.mu.Lock()
			switch k := d.r.IntN(100); {
			case i < 3 || k < 4:
				d.consumers()
			case k < 55:
				d.append()
			case k < 75:
				d.take()
			default:
				d.settle()
			}
			x.mu.Unlock()
			if d.r.IntN(4) == 0 {
				mustSafe(t, l, l.Stats().Appended)
			}
		}
		closeLog(t, l)
		x.mu.Lock()
		x.log, x.safe = nil, l.Safe()
		x.mu.Unlock()
	}
	return x.cuts
}

// TestPowerCuts cuts the power at every write and every sync of a workload,
// with every fate of what was not synced, and now and then once more while the
// log recovers: what was safe is there, what was received stays so, and nothing
// is there that was not appended.
func TestPowerCuts(t *testing.T) {
	steps, seeds := 45, uint64(4)
	if testing.Short() {
		steps, seeds = 50, 1
	}
	total, again, ram := 0, 0, ramDir(t)
	for seed := range seeds {
		delay := time.Duration(seed/2%2) * 2 * time.Millisecond
		cuts := work(t, seed, delay, steps)
		for i := range cuts {
			c := &cuts[i]
			x := &cutter{t: t, r: rand.New(rand.NewPCG(seed, uint64(i)))}
			if i%80 == 7 {
				x.m, x.safe = &c.model, c.safe
			}
			c.check(t, ram, x)
			for k := range x.cuts {
				x.cuts[k].at = c.at + ", then " + x.cuts[k].at
				x.cuts[k].check(t, ram, &cutter{t: t})
				again++
			}
		}
		total += len(cuts)
	}
	t.Logf("%d cuts, %d second ones during recovery", total, again)
	if total < int(seeds)*200 || again == 0 {
		t.Error("too few cuts to prove anything")
	}
}

// check opens what the cut has left.
func (c *cut) check(t *testing.T, ram string, x *cutter) {
	t.Helper()
	dir, err := os.MkdirTemp(ram, "cut")
	if err != nil {
		t.Fatal(err)
	}
	c.image.restore(t, dir)
	tune := small()
	tune.half = minJournalHalf
	l, err := open(testConfig(dir), discard(), nil, x.directory(dir), tune)
	if err != nil {
		t.Fatalf("%s: %v", c.at, err)
	}
	x.mu.Lock()
	x.m = nil
	x.mu.Unlock()
	m := model{ops: slices.Clone(c.model.ops), acked: maps.Clone(c.model.acked)}
	if damaged := l.Stats().Damaged; damaged > 0 {
		t.Errorf("%s: %d files are said to be damaged", c.at, damaged)
	}
	m.check(t, l, c.safe, false)
	if t.Failed() {
		t.Fatalf("after the cut at: %s", c.at)
	}
	for _, name := range l.Consumers() { // PUBREL again, and each PUBCOMP
		k := mustConsumer(t, l, name, Limits{})
		for _, n := range k.Released() {
			k.Ack(n)
		}
		if left := k.Released(); len(left) > 0 {
			t.Fatalf("%s: %q never gets rid of %v", c.at, name, left)
		}
	}
	closeLog(t, l)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}
