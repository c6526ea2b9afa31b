package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// The sizes of messages.
const (
	small = 100
	large = 1000
)

// StoreOptions says how the store is measured.
type StoreOptions struct {
	Dir       string        // on the disk to be measured; a folder is made in it and removed
	SyncDelay time.Duration // added to every sync
	Backlog   int64         // bytes of 1 KB messages to drain
	Quick     bool          // one round, short: to see whether it works
	Progress  func(what string)
}

// pace is how long and how often things are measured.
type pace struct {
	rounds  int
	enqueue time.Duration // of one closed or open loop
	trickle time.Duration // of ten commits a second
	online  time.Duration
	flood   int64 // bytes at full rate
}

// storeBench is one run.
type storeBench struct {
	StoreOptions
	pace
	ctx   context.Context
	disk  *disk
	table *Table
	all   []contender
}

// Store measures the store beside a plain file, bbolt and SQLite. A contender
// that cannot be measured has a note instead. When ctx ends it returns its error.
func Store(ctx context.Context, o StoreOptions) (*Table, error) {
	p := pace{rounds: 5, enqueue: time.Second, trickle: 6 * time.Second, online: 2 * time.Second, flood: 64 << 20}
	if o.Quick {
		p = pace{rounds: 1, enqueue: 200 * time.Millisecond, trickle: time.Second, online: time.Second, flood: 16 << 20}
	}
	return measureStore(ctx, o, p)
}

func measureStore(ctx context.Context, o StoreOptions, p pace) (*Table, error) {
	b := &storeBench{StoreOptions: o, pace: p, ctx: ctx, all: contenders()}
	dir, err := os.MkdirTemp(o.Dir, "forebay-bench-")
	if err != nil {
		return nil, err
	}
	b.Dir = dir
	return b.table, errors.Join(b.run(), os.RemoveAll(dir))
}

func (b *storeBench) run() (err error) {
	if b.disk, err = newDisk(b.Dir); err != nil {
		return err
	}
	b.table = &Table{Title: "Durable messages on " + b.disk.name, Notes: []string{
		fmt.Sprintf("Medians of %d, contenders in turn; %v added to every sync; backlog of %d MiB.", b.rounds, b.SyncDelay, b.Backlog>>20),
		"SQLite: WAL, synchronous=FULL, messages made inside it. bbolt: a key for each message. Both, and the files, gather groups as forebay does.",
		b.disk.source(),
	}}
	for _, c := range b.all {
		b.table.Columns = append(b.table.Columns, c.name)
	}
	for _, step := range []func() error{b.closedLoops, b.openLoop, b.bytesToDisk, b.onlineBytes, b.drains} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// round measures every contender once. A contender's own failure ends the
// benchmark, but for SQLite that is not there.
func (b *storeBench) round(r *Row, i int, measure func(c contender, dir string) (float64, error)) error {
	for _, c := range b.all {
		if err := b.ctx.Err(); err != nil {
			return err
		}
		cell := b.table.cell(r, c.name)
		if cell.Note != "" {
			continue
		}
		b.Progress(fmt.Sprintf("round %d of %d: %s: %s", i+1, b.rounds, r.Name, c.name))
		dir, err := os.MkdirTemp(b.Dir, "")
		if err != nil {
			return err
		}
		v, err := measure(c, dir)
		err = errors.Join(err, os.RemoveAll(dir))
		switch {
		case errors.Is(err, errNotCompared):
		case errors.Is(err, errNoSQLite):
			cell.Note = err.Error()
		case err != nil:
			return fmt.Errorf("%s: %s: %w", r.Name, c.name, err)
		default:
			cell.Samples = append(cell.Samples, v)
		}
	}
	return nil
}

// errNotCompared is a measure that a contender has no part in.
var errNotCompared = errors.New("not compared")

// measure makes a row of a measure.
func (b *storeBench) measure(r *Row, measure func(c contender, dir string) (float64, error)) error {
	for i := range b.rounds {
		if err := b.round(r, i, measure); err != nil {
			return err
		}
	}
	return nil
}

// withQueue opens an empty queue, does fn and closes it.
func (b *storeBench) withQueue(c contender, dir string, fn func(queue) (float64, error)) (float64, error) {
	q, err := c.open(dir, b.SyncDelay)
	if err != nil {
		return 0, err
	}
	v, err := fn(q)
	return v, errors.Join(err, q.close())
}

func (b *storeBench) closedLoops() error {
	for _, size := range []int{small, large} {
		for _, publishers := range []int{1, 10, 100} {
			var budgets []Budget
			if b.SyncDelay > 0 {
				budgets = []Budget{{Of: "raw file", Least: 0.9}}
			}
			r := b.table.row(fmt.Sprintf("enqueue %d B, %s", size, count(publishers, "publisher")), "msg/s", budgets...)
			err := b.measure(r, func(c contender, dir string) (float64, error) {
				return b.withQueue(c, dir, func(q queue) (float64, error) { return b.closedLoop(q, publishers, size) })
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// closedLoop lets publishers put a message and wait until it is durable, each
// for itself, and returns how many a second that makes.
func (b *storeBench) closedLoop(q queue, publishers, size int) (float64, error) {
	var total atomic.Int64
	var failure atomic.Pointer[error]
	var wg sync.WaitGroup
	began := time.Now()
	for range publishers {
		wg.Go(func() {
			message := make([]byte, size)
			for time.Since(began) < b.enqueue {
				ticket, err := q.put(message)
				if err == nil {
					err = q.wait(ticket)
				}
				if err != nil {
					failure.Store(&err)
					return
				}
				total.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failure.Load(); err != nil {
		return 0, *err
	}
	return float64(total.Load()) / time.Since(began).Seconds(), nil
}

func (b *storeBench) openLoop() error {
	var budgets []Budget
	if b.SyncDelay == 0 {
		budgets = []Budget{{Of: "raw file", Least: 0.6}, {Of: "SQLite", Least: 3}}
	}
	r := b.table.row(fmt.Sprintf("enqueue %d B, open loop", small), "msg/s", budgets...)
	return b.measure(r, func(c contender, dir string) (float64, error) {
		return b.withQueue(c, dir, func(q queue) (float64, error) {
			began := time.Now()
			n, err := flood(q, small, func(int64) bool { return time.Since(began) < b.enqueue })
			return float64(n) / time.Since(began).Seconds(), err
		})
	})
}

// flood puts messages without waiting for each, while more says so of the bytes
// so far; at most 2 MB are on their way. It returns when all are durable, and how
// many there were.
func flood(q queue, size int, more func(bytes int64) bool) (n int64, err error) {
	message := make([]byte, size)
	const batches = 20
	batch := int64(100_000 / size)
	var tickets [batches]uint64
	for i := 0; more(n * int64(size)); i++ {
		if i >= batches {
			if err := q.wait(tickets[i%batches]); err != nil {
				return n, err
			}
		}
		for range batch {
			if tickets[i%batches], err = q.put(message); err != nil {
				return n, err
			}
			n++
		}
	}
	for _, t := range tickets {
		if n > 0 {
			err = errors.Join(err, q.wait(t))
		}
	}
	return n, err
}

func (b *storeBench) bytesToDisk() error {
	r := b.table.row(fmt.Sprintf("written, %d B ten times a second", small), "KB/msg", Budget{Of: "raw file", Most: 0.35})
	err := b.measure(r, func(c contender, dir string) (float64, error) {
		return b.withQueue(c, dir, func(q queue) (float64, error) {
			n := int64(0)
			bytes, err := b.written(func() (err error) {
				n, err = b.trickled(q)
				return err
			})
			return bytes / float64(n) / 1000, err
		})
	})
	if err != nil {
		return err
	}
	r = b.table.row(fmt.Sprintf("written, %d B at full rate", large), "× payload", Budget{Most: 1.3})
	return b.measure(r, func(c contender, dir string) (float64, error) {
		return b.withQueue(c, dir, func(q queue) (float64, error) {
			n := int64(0)
			bytes, err := b.written(func() (err error) {
				n, err = flood(q, large, func(bytes int64) bool { return bytes < b.flood })
				return err
			})
			return bytes / float64(n*large), err
		})
	})
}

// written returns how many bytes fn makes the disk write.
func (b *storeBench) written(fn func() error) (float64, error) {
	before, err := b.disk.written()
	if err != nil {
		return 0, err
	}
	if err := fn(); err != nil {
		return 0, err
	}
	after, err := b.disk.written()
	return float64(after - before), err
}

// trickled puts ten messages a second, each durable before the next.
func (b *storeBench) trickled(q queue) (n int64, err error) {
	message := make([]byte, small)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(b.trickle); time.Now().Before(end); n++ {
		ticket, err := q.put(message)
		if err == nil {
			err = q.wait(ticket)
		}
		if err != nil {
			return n, err
		}
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			return n, b.ctx.Err()
		}
	}
	return n, nil
}

// onlineBytes lets an upstream acknowledge everything after 20 ms, as with a
// bridge that is connected.
func (b *storeBench) onlineBytes() error {
	r := b.table.row(fmt.Sprintf("written, %d B, upstream in 20 ms", small), "B/msg", Budget{Free: true})
	return b.measure(r, func(c contender, dir string) (float64, error) {
		if c.name != b.table.Columns[0] {
			return 0, errNotCompared
		}
		cfg := logConfig(dir)
		cfg.MaxAckDelay = 100 * time.Millisecond
		o, err := openOurs(cfg, b.SyncDelay)
		if err != nil {
			return 0, err
		}
		v, err := b.online(o)
		return v, errors.Join(err, o.close())
	})
}

// online counts what this process writes, as nothing else may be counted.
func (b *storeBench) online(o *ours) (float64, error) {
	o.cursor.SetLive(true)
	before, err := ownWrites()
	if err != nil {
		return 0, err
	}
	type sent struct {
		ticket uint64
		at     time.Time
	}
	flying := make(chan sent, 1000)
	acked := make(chan error, 1)
	go func() {
		for s := range flying {
			time.Sleep(time.Until(s.at.Add(20 * time.Millisecond)))
			e, ok := o.cursor.Next()
			if !ok {
				acked <- errors.New("a message is not there")
				return
			}
			o.cursor.Ack(e.N)
		}
		acked <- nil
	}()
	message := make([]byte, small)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	n, last := 0, uint64(0)
	for end := time.Now().Add(b.pace.online); time.Now().Before(end); n++ {
		if last, err = o.put(message); err != nil {
			return 0, err
		}
		flying <- sent{last, time.Now()}
		<-tick.C
	}
	close(flying)
	if err := errors.Join(<-acked, o.wait(last)); err != nil {
		return 0, err
	}
	after, err := ownWrites()
	return float64(after-before) / float64(n), err
}

// drains builds a backlog, opens it with cold caches and drains it.
func (b *storeBench) drains() error {
	drain := b.table.row(fmt.Sprintf("drain %d B, cold", large), "msg/s")
	open := b.table.row("open with the backlog", "ms", Budget{Most: 100})
	memory := b.table.row("memory for all of it", "MiB more", Budget{Most: 16})
	rounds := b.rounds
	if b.Backlog > 1<<30 {
		b.rounds = 1
	}
	defer func() { b.rounds = rounds }()
	err := b.measure(drain, func(c contender, dir string) (float64, error) {
		if c.reopen == nil || c.name == "bbolt" && b.Backlog > 1<<30 {
			return 0, errNotCompared
		}
		d, err := b.drain(c, dir)
		if err == nil && c.name != "raw file" { // which has nothing to open
			open.add(b.table, c.name, float64(d.open.Microseconds())/1000)
			memory.add(b.table, c.name, float64(d.memory)/(1<<20))
		}
		return d.rate, err
	})
	// What the budget says about this class of machine holds only if the file can be read that fast.
	if m := b.table.cell(drain, "raw file").Median(); 0.8*m < 250e3 {
		drain.Budgets = []Budget{{Of: "raw file", Least: 0.8}}
	} else {
		drain.Budgets = []Budget{{Least: 250e3}}
	}
	return err
}

func (r *Row) add(t *Table, column string, v float64) {
	c := t.cell(r, column)
	c.Samples = append(c.Samples, v)
}

// drained is what one drain was like.
type drained struct {
	rate   float64 // messages a second
	open   time.Duration
	memory int64 // at the most, in building the backlog and in draining it
}

// warmUp is the backlog after which all buffers have their size: what more memory
// a larger one takes is what is measured.
const warmUp = 16 << 20

func (b *storeBench) drain(c contender, dir string) (drained, error) {
	first, err := b.drainOf(c, filepath.Join(dir, "warm-up"), min(warmUp, b.Backlog))
	if err != nil {
		return drained{}, err
	}
	d, err := b.drainOf(c, filepath.Join(dir, "whole"), b.Backlog)
	d.memory = max(d.memory-first.memory, 0)
	return d, err
}

// drainOf builds a backlog of so many bytes and drains it.
func (b *storeBench) drainOf(c contender, dir string, size int64) (d drained, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return d, err
	}
	debug.FreeOSMemory()
	stop := watchMemory(&d.memory)
	defer stop()
	if _, err := b.withQueue(c, dir, func(q queue) (float64, error) {
		_, err := flood(q, large, func(bytes int64) bool { return bytes < size && b.ctx.Err() == nil })
		return 0, errors.Join(err, b.ctx.Err())
	}); err != nil {
		return d, err
	}
	if err := forget(dir); err != nil {
		return d, err
	}
	began := time.Now()
	l, err := c.reopen(dir)
	if err != nil {
		return d, err
	}
	d.open = time.Since(began)
	began = time.Now()
	n, err := l.drain()
	d.rate = float64(n) / time.Since(began).Seconds()
	return d, errors.Join(err, l.close())
}

// watchMemory keeps the most memory that this process has until stop.
func watchMemory(most *int64) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if now, err := resident(); err == nil {
				*most = max(*most, now)
			}
			select {
			case <-tick.C:
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}
