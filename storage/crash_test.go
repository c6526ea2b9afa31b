package storage

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

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

// workload is a random run of a log with everything that it does to the disk:
// appends, acknowledgements, spills, checkpoints, segments that come and go,
// consumers that come and go and come back, and a restart.
type workload struct {
	seed  uint64
	steps int
	tune  tuning
	x     *recorder
	d     *driver
}

func newWorkload(t *testing.T, seed uint64, steps int) *workload {
	t.Helper()
	w := &workload{seed: seed, steps: steps, tune: small(), x: newRecorder(ramDir(t))}
	w.d = &driver{t: t, r: rand.New(rand.NewPCG(seed, 3)), m: model{acked: map[entryID]bool{}}}
	w.d.cfg = testConfig(w.x.dir)
	if seed/2%2 == 1 { // then acknowledgements are written before what waits for others
		w.d.cfg.MaxAckDelay, w.tune.marks = 15*time.Millisecond, time.Millisecond
		w.tune.slab, w.tune.tail = 1, 256 // so that what passes leaves memory unwritten
	}
	w.tune.half, w.tune.segment, w.tune.rotate, w.tune.records = minJournalHalf, 16<<10, 2<<10, 12
	w.tune.expire = 3 * time.Millisecond
	if seed%2 == 0 { // the journal goes round and round without a checkpoint
		w.tune.checkpoint, w.tune.records = time.Hour, 1<<30
	}
	w.x.m, w.x.journaled = &w.d.m, make(chan struct{})
	return w
}

// run lives twice, and returns early if the log fails.
func (w *workload) run() {
	d, x := w.d, w.x
	for range 2 {
		l, err := open(d.cfg, discard(), nil, x.directory(), w.tune)
		if err != nil {
			if x.fail == 0 {
				d.t.Fatal(err)
			}
			return
		}
		x.mu.Lock()
		d.l, x.log, d.out = l, l, map[ConsumerID][]uint64{}
		x.mu.Unlock()
		for i := 0; i < w.steps && l.Stats().Err == nil; i++ {
			x.mu.Lock()
			if l.Stats().Err == nil { // which cannot change now
				d.random(i)
			}
			x.mu.Unlock()
			if d.online > 0 {
				<-time.After(time.Millisecond) // so that acknowledgements come to be due
			}
			if d.r.IntN(3) == 0 && x.fail == 0 {
				mustSafe(d.t, l, l.Stats().Appended)
			}
		}
		if err := l.Close(); err != nil && x.fail == 0 {
			d.t.Fatal(err)
		}
		x.mu.Lock()
		x.log, x.safe = nil, l.Safe()
		x.mu.Unlock()
		if l.Stats().Err != nil {
			return
		}
	}
}

// random does one of the things that a workload is made of.
func (d *driver) random(i int) {
	if d.online > 0 {
		d.online--
		d.pass()
		return
	}
	switch k := d.r.IntN(100); {
	case i < 3 || k < 6:
		d.consumers()
	case k < 10 && d.cfg.MaxAckDelay > 0:
		d.online = 20
	case k < 55:
		d.append()
	case k < 70:
		d.take()
	case k < 90:
		d.settle()
	default: // segments are to go
		for range len(d.l.Consumers()) * 3 {
			d.take()
			d.settle()
		}
	}
}

// pass lets a message pass as it does while all are connected: each consumer
// acknowledges the one before it, in order.
func (d *driver) pass() {
	d.serial++
	o := op{message: fmt.Sprint(d.serial)}
	r := Record{Message: []byte(o.message)}
	for _, name := range d.l.Consumers() {
		c := mustConsumer(d.t, d.l, name, Limits{})
		c.SetLive(true)
		for e, ok := c.Next(); ok; e, ok = c.Next() {
			d.out[c.id] = append(d.out[c.id], e.N)
		}
		slices.Sort(d.out[c.id])
		for _, n := range d.out[c.id] {
			c.Ack(n)
			d.m.acked[entryID{c.id, n}] = true
		}
		d.out[c.id] = nil
		r.Deliveries = append(r.Deliveries, Delivery{Consumer: c.ID()})
		o.to = append(o.to, entryID{c.id, c.last + 1})
	}
	seq, err := d.l.Append(&r)
	if d.failed(err) {
		return
	}
	if err != nil {
		d.t.Fatal(err)
	}
	o.seq = seq
	d.m.ops = append(d.m.ops, o)
}

// crashCases is how many power cuts to try: FOREBAY_CRASH_CASES, or some
// thousand.
func crashCases(t *testing.T) int64 {
	t.Helper()
	if s := os.Getenv("FOREBAY_CRASH_CASES"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if testing.Short() {
		return 500
	}
	return 3000
}

// TestPowerCuts cuts the power at every write, sync and change of a name of a
// workload, with several fates of what was not synced, and now and then once
// more while the log recovers: what was safe is there, what was received stays
// so, nothing is there that was not appended, no file is left over, and the log
// goes on. FOREBAY_CRASH_CASES says how many cuts to try.
func TestPowerCuts(t *testing.T) {
	const workloads = 4
	want := crashCases(t)
	var cases, again atomic.Int64
	t.Run("seeds", func(t *testing.T) {
		for first := range uint64(workloads) {
			t.Run(fmt.Sprint(first), func(t *testing.T) {
				t.Parallel()
				ram := ramDir(t)
				left := want / workloads
				for seed := first; left > want/workloads/10 && !t.Failed(); seed += workloads {
					w := newWorkload(t, seed, 60)
					w.run()
					e := &explorer{t: t, ram: ram, tune: w.tune, r: rand.New(rand.NewPCG(seed, 5)), again: &again}
					n := e.explore(fmt.Sprintf("seed %d", seed), newDisk(nil, w.x), w.x.changes, left)
					left -= n
					cases.Add(n)
				}
			})
		}
	})
	t.Logf("%d power cuts, %d of them during the recovery from another", cases.Load(), again.Load())
	if cases.Load() < want*9/10 || again.Load() == 0 {
		t.Error("too few power cuts to prove anything")
	}
}

// explorer opens what power cuts have left.
type explorer struct {
	t     *testing.T
	ram   string
	tune  tuning
	r     *rand.Rand
	again *atomic.Int64
}

// explore cuts the power before each of the changes, and returns how many cuts
// that were: about as many as are wanted, taken evenly, if there could be more.
func (e *explorer) explore(where string, d *disk, changes []change, want int64) (cases int64) {
	const fates = 4
	every := max(1, float64(len(changes)*fates)*0.8/float64(want))
	credit := 0.0
	for i := range changes {
		c := &changes[i]
		for k := range fates {
			if k > 0 && !d.uncertain() {
				break
			}
			if credit++; credit < every {
				continue
			}
			credit -= every
			cases++
			x := newRecorder("")
			if e.again != nil && e.r.IntN(80) == 0 {
				x.m, x.safe = &c.given.model, c.given.safe
			}
			at := fmt.Sprintf("%s, before change %d (%v %s) with fate %d", where, i, c.kind, c.name, k)
			m := d.cut(fate(k, e.r))
			e.check(at, m, c.given, x)
			if len(x.changes) > 0 {
				second := &explorer{t: e.t, ram: e.ram, tune: e.tune, r: e.r}
				n := second.explore(at, newDisk(m, newRecorder("")), x.changes, 40)
				cases += n
				e.again.Add(n)
			}
		}
		d.apply(c)
	}
	return cases
}

// check opens what a cut has left. With a model in x it records what that does
// to the disk.
func (e *explorer) check(at string, m image, p *promise, x *recorder) {
	t := e.t
	t.Helper()
	dir, err := os.MkdirTemp(e.ram, "cut")
	if err != nil {
		t.Fatal(err)
	}
	m.restore(t, dir)
	tune := e.tune
	tune.checkpoint, tune.records = time.Hour, 1<<30 // but for that of Close
	tune.expire = time.Hour                          // what is moved would be appended behind what is to be checked
	// A reserve that is there already saves time.
	reserve := image{reserveName: content{size: reserveSize + journalSize(tune.half)}}
	reserve.restore(t, dir)
	x.dir = dir
	newDisk(m, x)
	l, err := open(testConfig(dir), discard(), nil, x.directory(), tune)
	if err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	defer func() {
		if t.Failed() {
			t.Log("after the cut at: " + at)
		}
	}()
	x.mu.Lock()
	x.m = nil
	x.mu.Unlock()
	if damaged := l.Stats().Damaged; damaged > 0 {
		t.Errorf("%s: %d files are said to be damaged", at, damaged)
	}
	checkFiles(t, l)
	now := p.model.clone()
	now.check(t, l, p.safe, false)
	if t.Failed() {
		t.FailNow()
	}
	goOn(t, l, at)
	if e.r.IntN(8) == 0 {
		afterwards(t, l, tune, at)
	} else {
		closeLog(t, l)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

// checkFiles compares the directory with what the log knows.
func checkFiles(t *testing.T, l *Log) {
	t.Helper()
	files, err := os.ReadDir(l.dir.path)
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, f := range files {
		if name := f.Name(); strings.HasSuffix(name, segmentSuffix) || strings.HasSuffix(name, newSuffix) || strings.HasSuffix(name, badSuffix) {
			got = append(got, name)
		}
	}
	l.mu.Lock()
	for id := range l.segments {
		want = append(want, segmentName(id))
	}
	l.mu.Unlock()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("files %v, want %v", got, want)
	}
}

// goOn finishes what is open, as a client does when it comes back, and appends.
func goOn(t *testing.T, l *Log, at string) {
	t.Helper()
	for _, name := range l.Consumers() {
		c := mustConsumer(t, l, name, Limits{})
		for _, n := range c.Released() { // PUBREL again, and each PUBCOMP
			c.Ack(n)
		}
		if left := c.Released(); len(left) > 0 {
			t.Fatalf("%s: %q never gets rid of %v", at, name, left)
		}
		mustAppend(t, l, "the one after", c)
	}
}

// afterwards drains the log in a further life and sees its space come back.
func afterwards(t *testing.T, l *Log, tune tuning, at string) {
	t.Helper()
	closeLog(t, l)
	dir := l.dir.path
	l = openTest(t, dir, tune)
	for _, name := range l.Consumers() {
		got := drain(t, mustConsumer(t, l, name, Limits{}), true)
		if k := len(got); k == 0 || string(got[k-1].Message) != "the one after" {
			t.Fatalf("%s: what was appended after it is missing for %q", at, name)
		}
	}
	closeLog(t, l)
	l = openTest(t, dir, tune)
	for _, name := range l.Consumers() {
		if s := mustConsumer(t, l, name, Limits{}).Stats(); s.Count != 0 || s.Bytes != 0 {
			t.Fatalf("%s: %q was drained, and has %+v", at, name, s)
		}
	}
	if s := l.Stats(); s.Segments != 1 || s.Disk > idle(l) {
		t.Fatalf("%s: the space of what was drained is not back: %+v", at, s)
	}
	closeLog(t, l)
}

// TestEveryFailure lets the disk fail for good at one write, sync or change of
// a name after another, in the middle of writes too: the log says so, and what
// was safe is there when the disk is well again.
func TestEveryFailure(t *testing.T) {
	const steps = 40
	well := newWorkload(t, 1, steps)
	well.run()
	tries := 150
	if testing.Short() {
		tries = 15
	}
	for i := range tries {
		w := newWorkload(t, 1, steps)
		w.d.failing = true
		w.x.fail = 1 + i*len(well.x.changes)/tries
		w.run()
		l := openTest(t, w.x.dir, w.tune)
		w.d.m.check(t, l, w.x.safe, false)
		goOn(t, l, filepath.Base(w.x.dir))
		closeLog(t, l)
		if t.Failed() {
			t.Fatalf("after the failure of change %d", w.x.fail)
		}
	}
}
