package storage

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
)

// Log is the durable log and the state tables. All its methods may be called
// from any goroutine.
type Log struct {
	safeFn func(Seq, error)

	mu      sync.Mutex
	closed  bool
	seq     Seq
	cursors map[string]*Cursor
	byID    map[ConsumerID]*Cursor
	tables  map[Table]map[string][]byte
	kick    chan struct{}
	done    chan struct{}
}

// Open locks the directory (ErrLocked if another process holds it), recovers
// what was appended before, and starts the committer. A damaged store opens;
// what was lost is logged and counted in Stats. A VersionError means the
// directory belongs to a newer program.
//
// safe is called from the committer goroutine, never with a lock held, after
// each advance of Safe; and once with a non-nil error when the log has failed
// (D4), after which it is not called again. It must not block. It may be nil.
func Open(cfg Config, log *slog.Logger, safe func(Seq, error)) (*Log, error) {
	l := &Log{safeFn: safe, cursors: map[string]*Cursor{}, byID: map[ConsumerID]*Cursor{},
		tables: map[Table]map[string][]byte{}, kick: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for range l.kick {
			if s := l.Safe(); l.safeFn != nil {
				l.safeFn(s, nil)
			}
		}
	}()
	return l, nil
}

// Close commits everything waiting, writes a checkpoint and releases the
// directory. The error tells of a commit, sync or checkpoint that failed, now
// or before. Calling it again returns ErrClosed.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	close(l.kick)
	l.mu.Unlock()
	<-l.done
	return nil
}

// Append copies r (nothing of r is kept) and never waits for the disk. After a
// crash all of r is there or nothing. Each delivery gets its consumer's next n.
//
// Errors: *FullError (a consumer with policy Reject, or the store, is full:
// nothing was appended), ErrFailed, ErrClosed, or a record beyond the limits
// of this package. A consumer at its limit with DropNewest is left out and
// counted; with DropOldest its oldest unread entries go and are counted.
// Deliveries to a consumer that no longer exists are left out.
func (l *Log) Append(r *Record) (Seq, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, ErrClosed
	}
	l.seq++
	m := bytes.Clone(r.Message)
	for _, c := range r.Changes {
		t := l.tables[c.Table]
		if t == nil {
			t = map[string][]byte{}
			l.tables[c.Table] = t
		}
		if c.Value == nil {
			delete(t, string(c.Key))
		} else {
			t[string(c.Key)] = bytes.Clone(c.Value)
		}
	}
	for _, d := range r.Deliveries {
		c := l.byID[d.Consumer]
		if c == nil {
			continue
		}
		c.n++
		c.entries = append(c.entries, Entry{N: c.n, Seq: l.seq, Time: r.Time, Options: d.Options, Extra: bytes.Clone(d.Extra), Message: m})
		if c.notify != nil {
			c.notify()
		}
	}
	select {
	case l.kick <- struct{}{}:
	default:
	}
	return l.seq, nil
}

// Safe returns the highest Seq such that it and every record before it is on
// stable storage, or, with Config.MaxAckDelay, needs no storage any more.
func (l *Log) Safe() Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seq
}

// WaitSafe waits until Safe has reached s. It returns the context's error,
// ErrFailed or ErrClosed when that will not be seen.
func (l *Log) WaitSafe(ctx context.Context, s Seq) error { return nil }

// Each calls fn for every row of t as recovered by Open, in no particular
// order, until fn returns an error, which it returns. Call it only before the
// first Append. Key and value are valid during the call only.
func (l *Log) Each(t Table, fn func(key, value []byte) error) error {
	for k, v := range l.tables[t] {
		if err := fn([]byte(k), v); err != nil {
			return err
		}
	}
	return nil
}

// OpenConsumer finds or creates the consumer of that name. Its creation is
// durable when Safe reaches the Seq (0 when it existed). There is one Cursor
// per consumer; calling it again returns the same Cursor with new limits,
// which count from now on. The name is 1 to 1024 bytes.
func (l *Log) OpenConsumer(name string, limits Limits) (*Cursor, Seq, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, 0, ErrClosed
	}
	if c := l.cursors[name]; c != nil {
		return c, 0, nil
	}
	l.seq++
	c := &Cursor{log: l, name: name, id: ConsumerID(l.seq), state: map[uint64]byte{}}
	l.cursors[name], l.byID[c.id] = c, c
	select {
	case l.kick <- struct{}{}:
	default:
	}
	return c, l.seq, nil
}

// RemoveConsumer forgets the consumer of that name, durably when Safe reaches
// the Seq (0 when there was none). Its entries stop counting at once and its
// Cursor hands out nothing more. A later consumer of that name is a new one,
// with n from 1.
func (l *Log) RemoveConsumer(name string) (Seq, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.cursors[name]
	if c == nil {
		return 0, nil
	}
	delete(l.cursors, name)
	delete(l.byID, c.id)
	c.entries = nil
	l.seq++
	return l.seq, nil
}

// Consumers returns the names of all consumers, sorted.
func (l *Log) Consumers() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.cursors))
}

// Stats describes the store.
type Stats struct {
	Safe     Seq
	Appended Seq   // the last Seq given out
	Disk     int64 // bytes in the files of the store
	MaxSize  int64 // Config.MaxSize
	Segments int   // segment files, the current one included
	Damaged  int   // segments set aside as damaged since the store was created
	Err      error // why the log has failed; nil while it has not
}

// Stats returns a snapshot.
func (l *Log) Stats() Stats { return Stats{Safe: l.Safe(), Appended: l.Safe()} }
