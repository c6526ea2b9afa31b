package broker

import (
	"errors"
	"fmt"
	"sync/atomic"

	"forebay/broker/core"
	"forebay/storage"
)

// durableLog gives the core the durable log. It is used by the loop only; notifications come from the log's own
// goroutines and go through the inbox.
type durableLog struct {
	// Constant after construction.
	log    *storage.Log
	inbox  *inbox
	limits storage.Limits // of one session

	// Owned by the loop.
	record storage.Record // reused by every Append
	queues map[uint32]*durableQueue
	names  map[string]*durableQueue
}

func newDurableLog(log *storage.Log, in *inbox, limits storage.Limits) *durableLog {
	return &durableLog{log: log, inbox: in, limits: limits, queues: map[uint32]*durableQueue{}, names: map[string]*durableQueue{}}
}

func (d *durableLog) Append(r *core.Record) (uint64, error) {
	to := &d.record
	to.Time, to.Message = r.Time, r.Message
	for _, v := range r.Deliveries {
		to.Deliveries = append(to.Deliveries, storage.Delivery{
			Consumer: storage.ConsumerID(v.Consumer), Options: v.Options, Extra: v.Extra, Hold: v.Hold,
		})
	}
	for _, v := range r.Changes {
		// The core's numbers are those of the store, see tables.
		to.Changes = append(to.Changes, storage.Change{Table: storage.Table(v.Table), Key: v.Key, Value: v.Value})
	}
	seq, err := d.log.Append(to)
	clear(to.Deliveries)
	clear(to.Changes)
	*to = storage.Record{Deliveries: to.Deliveries[:0], Changes: to.Changes[:0]}
	var full *storage.FullError
	if errors.As(err, &full) {
		return 0, fmt.Errorf("%w: %w", core.ErrFull, err)
	}
	return uint64(seq), err
}

// tables are those of the core and their numbers in the store.
var tables = [...]struct {
	core  core.Table
	store storage.Table
}{
	{core.TableSessions, storage.Sessions},
	{core.TableSubscriptions, storage.Subscriptions},
	{core.TableRetained, storage.Retained},
	{core.TableInbound, storage.InboundIDs},
}

func (d *durableLog) OpenQueue(name string) (core.Queue, uint64, error) {
	cursor, seq, err := d.log.OpenConsumer(name, d.limits)
	if err != nil {
		return nil, 0, err
	}
	q := d.names[name]
	if q == nil {
		q = &durableQueue{cursor: cursor}
		id := q.ID()
		d.names[name], d.queues[id] = q, q
		// Once posted the queue is not posted again until the loop has taken it: the inbox stays bounded.
		cursor.SetNotify(func() {
			if !q.posted.Swap(true) {
				d.inbox.postQueue(id)
			}
		})
	}
	return q, uint64(seq), nil
}

func (d *durableLog) RemoveQueue(name string) (uint64, error) {
	if q := d.names[name]; q != nil {
		delete(d.names, name)
		delete(d.queues, q.ID())
	}
	seq, err := d.log.RemoveConsumer(name)
	return uint64(seq), err
}

// taken says that the loop has got the notification of a queue; the next one is posted again.
func (d *durableLog) taken(id uint32) {
	if q := d.queues[id]; q != nil {
		q.posted.Store(false)
	}
}

// restore fills the core with what was durable. Rows that cannot be read are counted and reported; the rest is used (D7).
func (d *durableLog) restore(c *core.Core, report func(table core.Table, err error)) error {
	for _, t := range tables {
		err := d.log.Each(t.store, func(key, value []byte) error {
			if err := c.Restore(t.core, key, value); err != nil {
				report(t.core, err)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("broker: restore: %w", err)
		}
	}
	if err := c.Restored(d.log.Consumers()); err != nil {
		return fmt.Errorf("broker: restore: %w", err)
	}
	return nil
}

// durableQueue is the place of one session in the log.
type durableQueue struct {
	cursor *storage.Cursor
	posted atomic.Bool // the inbox has its number
}

func (q *durableQueue) ID() uint32                  { return uint32(q.cursor.ID()) }
func (q *durableQueue) Ack(n uint64)                { q.cursor.Ack(n) }
func (q *durableQueue) Received(n uint64) uint64    { return uint64(q.cursor.Received(n)) }
func (q *durableQueue) Released() []uint64          { return q.cursor.Released() }
func (q *durableQueue) Rewind()                     { q.cursor.Rewind() }
func (q *durableQueue) Recovered() uint64           { return q.cursor.Recovered() }
func (q *durableQueue) Drop(cause string, n uint64) { q.cursor.Drop(cause, n) }
func (q *durableQueue) SetLive(live bool)           { q.cursor.SetLive(live) }
func (q *durableQueue) Len() int64                  { return q.cursor.Stats().Count }

func (q *durableQueue) Next() (core.Entry, bool) {
	e, ok := q.cursor.Next()
	return core.Entry{N: e.N, Seq: uint64(e.Seq), Time: e.Time, Options: e.Options, Extra: e.Extra, Message: e.Message}, ok
}
