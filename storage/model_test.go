package storage

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// model is what the log should hold, kept as the plain list of what was done.
// A recovered log that reports the last Seq s must be exactly what the
// operations up to s make; acknowledgements may be lost by a crash.
type model struct {
	ops   []op
	acked map[entryID]bool
}

// clone returns a copy that later operations do not change.
func (m *model) clone() model {
	return model{ops: m.ops[:len(m.ops):len(m.ops)], acked: maps.Clone(m.acked)}
}

type entryID struct {
	consumer ConsumerID
	n        uint64
}

type op struct {
	seq      Seq
	create   string // name of a new consumer
	remove   bool
	consumer ConsumerID // of create, remove and received
	received uint64     // n
	message  string
	to       []entryID
	changes  []Change
}

// folded is the state that a prefix of the operations makes.
type folded struct {
	consumers map[string]*foldedConsumer
	rows      map[string]string
}

type foldedConsumer struct {
	id       ConsumerID
	entries  map[uint64]string
	received map[uint64]bool
}

func (m *model) fold(last Seq) *folded {
	f := &folded{consumers: map[string]*foldedConsumer{}, rows: map[string]string{}}
	byID := map[ConsumerID]*foldedConsumer{}
	for _, o := range m.ops {
		if o.seq > last {
			continue
		}
		switch c := byID[o.consumer]; {
		case o.create != "":
			c = &foldedConsumer{id: o.consumer, entries: map[uint64]string{}, received: map[uint64]bool{}}
			f.consumers[o.create], byID[o.consumer] = c, c
		case o.remove:
			maps.DeleteFunc(f.consumers, func(_ string, d *foldedConsumer) bool { return d == c })
		case o.received > 0:
			c.received[o.received] = true
		}
		for _, e := range o.to {
			byID[e.consumer].entries[e.n] = o.message
		}
		for _, ch := range o.changes {
			if key := fmt.Sprint(ch.Table, " ", string(ch.Key)); ch.Value == nil {
				delete(f.rows, key)
			} else {
				f.rows[key] = string(ch.Value)
			}
		}
	}
	return f
}

// check compares a log just opened with the model. clean: nothing may have been
// lost, not even acknowledgements.
func (m *model) check(t *testing.T, l *Log, safe Seq, clean bool) {
	t.Helper()
	last := l.Stats().Appended
	// What was safe without having been written went to nobody, or is
	// acknowledged by everybody.
	f := m.fold(max(last, safe))
	rows := map[string]string{}
	for table := Sessions; table <= Statistics; table++ {
		err := l.Each(table, func(k, v []byte) error { rows[fmt.Sprint(table, " ", string(k))] = string(v); return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	if !maps.Equal(rows, f.rows) {
		t.Fatalf("rows %v, want %v", rows, f.rows)
	}
	if got, want := l.Consumers(), slices.Sorted(maps.Keys(f.consumers)); !slices.Equal(got, want) {
		t.Fatalf("consumers %v, want %v", got, want)
	}
	for name, want := range f.consumers {
		c := mustConsumer(t, l, name, Limits{})
		if c.ID() != want.id {
			t.Fatalf("%s: ID %d, want %d", name, c.ID(), want.id)
		}
		m.checkEntries(t, c, want, clean)
		m.checkReleased(t, c, want, clean)
		c.Rewind()
		// What was acknowledged before it was written never existed.
		maps.DeleteFunc(want.entries, func(n uint64, _ string) bool { return n <= c.Recovered() })
		for n := range want.entries {
			if !m.acked[entryID{want.id, n}] {
				t.Fatalf("%s: n %d is unknown", name, n)
			}
		}
	}
}

func (m *model) checkEntries(t *testing.T, c *Cursor, want *foldedConsumer, clean bool) {
	t.Helper()
	delivered := map[uint64]bool{}
	before := uint64(0)
	for _, e := range drain(t, c, false) {
		id := entryID{want.id, e.N}
		switch {
		case e.N <= before:
			t.Fatalf("%s: n %d after %d", c.Name(), e.N, before)
		case want.entries[e.N] != string(e.Message):
			t.Fatalf("%s: n %d is %q, want %q", c.Name(), e.N, e.Message, want.entries[e.N])
		case want.received[e.N]:
			t.Fatalf("%s: n %d was received, and is delivered again", c.Name(), e.N)
		case clean && m.acked[id]:
			t.Fatalf("%s: n %d was acknowledged, and is delivered again", c.Name(), e.N)
		}
		before = e.N
		delivered[e.N] = true
	}
	for n := range want.entries {
		if !delivered[n] && !want.received[n] && !m.acked[entryID{want.id, n}] {
			t.Fatalf("%s: n %d is lost (%d delivered); %+v; acknowledged up to %d of %d and %v", c.Name(), n, len(delivered), c.Stats(), c.low, c.last, c.done)
		}
	}
}

func (m *model) checkReleased(t *testing.T, c *Cursor, want *foldedConsumer, clean bool) {
	t.Helper()
	got := c.Released()
	for _, n := range got {
		if !want.received[n] || clean && m.acked[entryID{want.id, n}] {
			t.Fatalf("%s: n %d is released", c.Name(), n)
		}
	}
	for n := range want.received {
		if !m.acked[entryID{want.id, n}] && !slices.Contains(got, n) {
			t.Fatalf("%s: n %d was received, and is forgotten", c.Name(), n)
		}
	}
}

// cut forgets what a crash has undone.
func (m *model) cut(l *Log, safe Seq) {
	last := max(l.Stats().Appended, safe)
	m.ops = slices.DeleteFunc(m.ops, func(o op) bool { return o.seq > last })
	for i := range m.ops {
		m.ops[i].to = slices.DeleteFunc(slices.Clone(m.ops[i].to), func(e entryID) bool {
			c := l.byID[e.consumer]
			return c != nil && e.n > c.last
		})
	}
	maps.DeleteFunc(m.acked, func(e entryID, _ bool) bool {
		c := l.byID[e.consumer]
		if c == nil || e.n > c.last {
			return true
		}
		return c.skip(e.n) == e.n || c.received.has(e.n)
	})
}

// driver does random things to a log and to its model.
type driver struct {
	t       *testing.T
	r       *rand.Rand
	cfg     Config
	l       *Log
	m       model
	out     map[ConsumerID][]uint64 // handed out, not acknowledged
	serial  int
	quiet   sync.Mutex // held by whoever writes files: then a copy is what a crash would leave
	copies  chan crash
	ready   atomic.Pointer[Log] // l, once it is open
	crashes int
	failing bool // the disk will
	online  int  // messages still to pass
}

// failed reports whether err says what was to be expected of a failing disk.
func (d *driver) failed(err error) bool { return d.failing && errors.Is(err, ErrFailed) }

// crash is a directory as the death of the process would have left it.
type crash struct {
	dir  string
	safe Seq
}

// before holds quiet while bbolt writes, and copies the directory now and then
// at the moments before and after a commit.
func (d *driver) before(step, _ string) error {
	switch step {
	case "commit", "checkpoint", "journal":
		d.quiet.Lock()
		d.snapshot()
	case "committed", "checkpointed", "journaled":
		d.snapshot()
		d.quiet.Unlock()
	}
	return nil
}

func (d *driver) snapshot() {
	l := d.ready.Load()
	if l == nil || rand.IntN(12) > 0 || len(d.copies) == cap(d.copies) {
		return
	}
	safe := l.Safe()
	dir := d.t.TempDir()
	if err := copyFiles(l.dir.path, dir); err != nil {
		d.t.Error(err)
	}
	select {
	case d.copies <- crash{dir, safe}:
	default:
	}
}

func (d *driver) open(dir string) {
	d.cfg.Path = dir
	d.ready.Store(nil)
	l, err := open(d.cfg, discard(), nil, &directory{path: dir, before: d.before}, small())
	if err != nil {
		d.t.Fatal(err)
	}
	d.l = l
	d.ready.Store(l)
	d.out = map[ConsumerID][]uint64{}
}

// openCopy opens without copying again.
func (d *driver) checkCopy(c crash) {
	cfg := d.cfg
	cfg.Path = c.dir
	l := openConfig(d.t, cfg, small())
	d.m.check(d.t, l, c.safe, false)
	closeLog(d.t, l)
	d.crashes++
}

func (d *driver) cursor() *Cursor {
	names := d.l.Consumers()
	if len(names) == 0 {
		return nil
	}
	return mustConsumer(d.t, d.l, names[d.r.IntN(len(names))], Limits{})
}

func (d *driver) append() {
	d.serial++
	o := op{message: fmt.Sprintf("%d %*s", d.serial, d.r.IntN(300), "")}
	if d.r.IntN(100) == 0 {
		o.message = fmt.Sprintf("%d %*s", d.serial, 20_000, "")
	}
	r := Record{Time: time.Now().UnixMilli(), Message: []byte(o.message)}
	for _, name := range d.l.Consumers() {
		if d.r.IntN(3) > 0 {
			c := mustConsumer(d.t, d.l, name, Limits{})
			r.Deliveries = append(r.Deliveries, Delivery{Consumer: c.ID(), Hold: d.r.IntN(4) == 0})
			o.to = append(o.to, entryID{c.ID(), c.last + 1})
		}
	}
	for range d.r.IntN(3) / 2 * d.r.IntN(3) {
		ch := Change{Table: Sessions + Table(d.r.IntN(4)), Key: fmt.Append(nil, d.r.IntN(8))}
		if d.r.IntN(3) > 0 {
			ch.Value = fmt.Append(nil, d.serial)
		}
		r.Changes = append(r.Changes, ch)
	}
	o.changes = r.Changes
	seq, err := d.l.Append(&r)
	if full := (*FullError)(nil); errors.As(err, &full) || d.failed(err) {
		return
	}
	if err != nil {
		d.t.Fatal(err)
	}
	o.seq = seq
	d.m.ops = append(d.m.ops, o)
}

func (d *driver) take() {
	c := d.cursor()
	if c == nil {
		return
	}
	for range d.r.IntN(20) {
		e, ok := c.Next()
		if !ok {
			return
		}
		d.out[c.id] = append(d.out[c.id], e.N)
	}
}

func (d *driver) settle() {
	c := d.cursor()
	if c == nil {
		return
	}
	out := d.out[c.id]
	for range min(d.r.IntN(15), len(out)) {
		i := 0
		if d.r.IntN(4) == 0 {
			i = d.r.IntN(len(out))
		}
		n := out[i]
		if d.r.IntN(5) == 0 {
			if s := c.Received(n); s > 0 {
				d.m.ops = append(d.m.ops, op{seq: s, consumer: c.id, received: n})
			}
			continue
		}
		c.Ack(n)
		d.m.acked[entryID{c.id, n}] = true
		out = slices.Delete(out, i, i+1)
	}
	d.out[c.id] = out
}

func (d *driver) consumers() {
	name := string(rune('a' + d.r.IntN(5)))
	if d.r.IntN(6) > 0 {
		c, seq, err := d.l.OpenConsumer(name, Limits{})
		if d.failed(err) {
			return
		}
		if err != nil {
			d.t.Fatal(err)
		}
		if seq > 0 {
			d.m.ops = append(d.m.ops, op{seq: seq, create: name, consumer: c.id})
		}
		c.SetLive(d.r.IntN(2) == 0)
		return
	}
	if slices.Contains(d.l.Consumers(), name) {
		id := mustConsumer(d.t, d.l, name, Limits{}).ID()
		seq, err := d.l.RemoveConsumer(name)
		if d.failed(err) {
			return
		}
		if err != nil {
			d.t.Fatal(err)
		}
		d.m.ops = append(d.m.ops, op{seq: seq, remove: true, consumer: id})
	}
}

func (d *driver) restart(clean bool) {
	dir, safe := d.cfg.Path, d.l.Safe()
	if clean {
		closeLog(d.t, d.l)
	} else {
		d.quiet.Lock()
		safe = d.l.Safe()
		dir = copyDir(d.t, dir)
		d.quiet.Unlock()
		closeLog(d.t, d.l)
	}
	d.open(dir)
	d.m.check(d.t, d.l, safe, clean)
	d.m.cut(d.l, safe)
	// Copies made before this are of a history that has been cut.
	for len(d.copies) > 0 {
		<-d.copies
	}
}

func (d *driver) step() {
	switch k := d.r.IntN(1000); {
	case k < 500:
		d.append()
	case k < 700:
		d.take()
	case k < 900:
		d.settle()
	case k < 930:
		d.consumers()
	case k < 950:
		if c := d.cursor(); c != nil {
			c.Rewind()
			d.out[c.id] = nil
		}
	case k < 980:
		mustSafe(d.t, d.l, Seq(d.r.Uint64N(uint64(d.l.Stats().Appended)+1)))
	case k < 985:
		d.restart(true)
	case k < 990:
		d.restart(false)
	}
	select {
	case c := <-d.copies:
		d.checkCopy(c)
	default:
	}
}

func TestModel(t *testing.T) {
	for _, delay := range []time.Duration{0, 3 * time.Millisecond} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("delay=%v/seed=%d", delay, seed), func(t *testing.T) {
				steps := 1500
				if testing.Short() {
					steps = 300
				}
				d := &driver{t: t, r: rand.New(rand.NewPCG(seed, 1)), m: model{acked: map[entryID]bool{}}, copies: make(chan crash, 2)}
				d.cfg.SetDefaults()
				d.cfg.MaxAckDelay = delay
				d.open(ramDir(t))
				t.Cleanup(func() {
					if err := d.l.Close(); err != nil && !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
				})
				for range steps {
					d.step()
				}
				d.restart(false)
				d.restart(true)
				closeLog(t, d.l)
				t.Logf("%d operations, %d crash copies checked", len(d.m.ops), d.crashes)
			})
		}
	}
}
