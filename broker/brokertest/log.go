package brokertest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"forebay/broker/core"
)

// Log is a core.Log in memory. What is written becomes durable when Commit is called; Restart is the log as a crash
// would leave it. The zero Log is empty and ready.
type Log struct {
	// Full makes every Append fail with core.ErrFull, Err with that error.
	Full bool
	Err  error

	seq     uint64
	safe    uint64
	ops     []op // everything that happened, in order
	nextID  uint32
	queues  map[string]*Queue
	tables  map[core.Table]map[string][]byte
	records int
}

// op is one durable change: what Restart does again.
type op struct {
	seq   uint64
	apply func(*Log)
}

// do performs a change now and remembers it.
func (l *Log) do(apply func(*Log)) uint64 {
	l.seq++
	apply(l)
	l.ops = append(l.ops, op{l.seq, apply})
	return l.seq
}

// Append implements core.Log.
func (l *Log) Append(r *core.Record) (uint64, error) {
	if l.Err != nil {
		return 0, l.Err
	}
	if l.Full {
		return 0, fmt.Errorf("brokertest: %w", core.ErrFull)
	}
	kept := core.Record{Time: r.Time, Message: bytes.Clone(r.Message)}
	for _, d := range r.Deliveries {
		d.Extra = bytes.Clone(d.Extra)
		kept.Deliveries = append(kept.Deliveries, d)
	}
	for _, c := range r.Changes {
		if c.Value != nil && len(c.Value) == 0 {
			panic("brokertest: a row with an empty value")
		}
		kept.Changes = append(kept.Changes, core.Change{Table: c.Table, Key: bytes.Clone(c.Key), Value: bytes.Clone(c.Value)})
	}
	l.records++
	seq := l.seq + 1
	return l.do(func(l *Log) {
		for _, d := range kept.Deliveries {
			q := l.byID(d.Consumer)
			if q == nil {
				panic(fmt.Sprintf("brokertest: delivery to consumer %d, which does not exist", d.Consumer))
			}
			q.last++
			q.entries = append(q.entries, entry{Entry: core.Entry{
				N: q.last, Seq: seq, Time: kept.Time, Options: d.Options, Extra: d.Extra, Message: kept.Message,
			}, hold: d.Hold})
		}
		for _, c := range kept.Changes {
			l.change(c)
		}
	}), nil
}

func (l *Log) change(c core.Change) {
	if l.tables == nil {
		l.tables = map[core.Table]map[string][]byte{}
	}
	if l.tables[c.Table] == nil {
		l.tables[c.Table] = map[string][]byte{}
	}
	if c.Value == nil {
		delete(l.tables[c.Table], string(c.Key))
		return
	}
	l.tables[c.Table][string(c.Key)] = c.Value
}

func (l *Log) byID(id uint32) *Queue {
	for _, q := range l.queues {
		if q.id == id {
			return q
		}
	}
	return nil
}

// OpenQueue implements core.Log.
func (l *Log) OpenQueue(name string) (core.Queue, uint64, error) {
	if l.Err != nil {
		return nil, 0, l.Err
	}
	if q := l.queues[name]; q != nil {
		return q, 0, nil
	}
	seq := l.do(func(l *Log) {
		if l.queues == nil {
			l.queues = map[string]*Queue{}
		}
		l.nextID++
		l.queues[name] = &Queue{log: l, id: l.nextID, name: name, received: map[uint64]bool{}, Dropped: map[string]int{}}
	})
	return l.queues[name], seq, nil
}

// RemoveQueue implements core.Log.
func (l *Log) RemoveQueue(name string) (uint64, error) {
	if l.Err != nil {
		return 0, l.Err
	}
	return l.do(func(l *Log) { delete(l.queues, name) }), nil
}

// Commit makes everything durable and returns its number, which is for Core.Durable.
func (l *Log) Commit() uint64 {
	l.safe = l.seq
	return l.safe
}

// Safe reports that everything is durable.
func (l *Log) Safe() bool { return l.safe == l.seq }

// Restart returns the log as it would be found after a crash: what is durable, and nothing else.
func (l *Log) Restart() *Log {
	next := &Log{}
	for _, o := range l.ops {
		if o.seq <= l.safe {
			next.seq = o.seq
			o.apply(next)
			next.ops = append(next.ops, o)
		}
	}
	next.safe = next.seq
	for _, q := range next.queues {
		q.recovered = q.last
	}
	return next
}

// Restore gives all rows to a core that has just been made, in order, and ends its restoring.
func (l *Log) Restore(c *core.Core) error {
	for t := core.TableSessions; t <= core.TableInbound; t++ {
		for _, key := range slices.Sorted(maps.Keys(l.tables[t])) {
			if err := c.Restore(t, []byte(key), l.tables[t][key]); err != nil {
				return err
			}
		}
	}
	return c.Restored(slices.Sorted(maps.Keys(l.queues)))
}

// Rows returns the number of rows of a table.
func (l *Log) Rows(t core.Table) int { return len(l.tables[t]) }

// Records returns the number of successful Appends.
func (l *Log) Records() int { return l.records }

// Queue returns the queue of that name, nil if there is none.
func (l *Log) Queue(name string) *Queue { return l.queues[name] }

// Queues returns the numbers of all queues, ascending.
func (l *Log) Queues() []uint32 {
	var ids []uint32
	for _, q := range l.queues {
		ids = append(ids, q.id)
	}
	slices.Sort(ids)
	return ids
}

// Queue is a core.Queue.
type Queue struct {
	// Dropped counts Drop by cause.
	Dropped map[string]int
	// Live is what SetLive was told last.
	Live bool

	log       *Log
	id        uint32
	name      string
	last      uint64
	recovered uint64
	entries   []entry // not acknowledged, ascending
	received  map[uint64]bool
	at        uint64 // Next goes on behind it
}

type entry struct {
	core.Entry
	hold bool
}

// ID implements core.Queue.
func (q *Queue) ID() uint32 { return q.id }

// Next implements core.Queue.
func (q *Queue) Next() (core.Entry, bool) {
	for _, e := range q.entries {
		if e.N <= q.at || q.received[e.N] {
			continue
		}
		if e.hold && e.Seq > q.log.safe {
			return core.Entry{}, false
		}
		q.at = e.N
		return e.Entry, true
	}
	return core.Entry{}, false
}

// change performs a change of this queue that Restart does again with its successor.
func (q *Queue) change(apply func(*Queue)) uint64 {
	name := q.name
	return q.log.do(func(l *Log) {
		if q := l.queues[name]; q != nil {
			apply(q)
		}
	})
}

func (q *Queue) remove(n uint64) {
	q.entries = slices.DeleteFunc(q.entries, func(e entry) bool { return e.N == n })
	delete(q.received, n)
}

// Ack implements core.Queue.
func (q *Queue) Ack(n uint64) {
	if !slices.ContainsFunc(q.entries, func(e entry) bool { return e.N == n }) {
		panic(fmt.Sprintf("brokertest: %s: acknowledgement of %d, which is not there", q.name, n))
	}
	q.change(func(q *Queue) { q.remove(n) })
}

// Received implements core.Queue.
func (q *Queue) Received(n uint64) uint64 {
	return q.change(func(q *Queue) { q.received[n] = true })
}

// Released implements core.Queue.
func (q *Queue) Released() []uint64 { return slices.Sorted(maps.Keys(q.received)) }

// Rewind implements core.Queue.
func (q *Queue) Rewind() { q.at = 0 }

// Recovered implements core.Queue.
func (q *Queue) Recovered() uint64 { return q.recovered }

// Drop implements core.Queue.
func (q *Queue) Drop(cause string, n uint64) {
	q.Dropped[cause]++
	q.Ack(n)
}

// SetLive implements core.Queue.
func (q *Queue) SetLive(live bool) { q.Live = live }

// Len implements core.Queue.
func (q *Queue) Len() int64 { return int64(len(q.entries)) }
