package storage

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"
)

// Cursor is one consumer's place in the log. ID, Name, Stats and SetNotify may
// be called from any goroutine; all other methods by one goroutine at a time,
// the owner. None of them waits for the disk.
type Cursor struct {
	// Constant after newCursor.
	log  *Log
	id   ConsumerID
	name string

	// Constant after Open.
	recovered uint64

	// All else is guarded by log.mu.
	removed  bool
	changed  bool // since the last checkpoint
	live     bool
	idle     bool // Next has returned false: notify is owed
	limits   Limits
	notify   func()
	last     uint64 // the highest n given out
	low      uint64 // every n up to it is acknowledged
	pos      uint64 // every n up to it was handed out, or need not be
	done     spans  // acknowledged above low
	received spans  // received, not acknowledged
	pending  Seq    // of the last Received
	dropped  map[string]uint64
	refused  map[string]uint64

	filling   bool   // near a limit, and not well away from it since
	highWater uint64 // how often that has begun

	// See pinned.
	sent   uint64 // no n above it has been handed out, in this life or before
	held   uint64 // no n above it has Hold
	pinTop uint64 // every n from pos on and up to it is pinned, or waits no more

	// What waits, by segment, in order of n.
	count int64
	bytes int64
	parts []part

	// Where in the tail the entries from refFirst to last are.
	refs      []ref
	refHead   int
	refFirst  uint64
	lastChunk *chunk

	window window
	marks  marks
}

// part is what waits for a consumer in one segment.
type part struct {
	segment *segment
	first   uint64
	last    uint64
	count   int64 // of those neither acknowledged, received nor dropped
	bytes   int64 // of these; see settle for how exact
	oldest  int64 // arrival of first, Unix ms
	newest  int64 // arrival of the youngest
}

// ref says where in a chunk a record's frame and one of its deliveries begin.
type ref struct {
	ch       *chunk
	rec, del uint32
}

// marks are what the next commit shall say about the cursor.
type marks struct {
	listed   bool // in Log.marked
	acked    spans
	received spans
	dropped  map[string]uint64
}

func newCursor(l *Log, id ConsumerID, name string) *Cursor {
	return &Cursor{log: l, id: id, name: name, refFirst: 1}
}

// ID returns the consumer's number for Delivery.
func (c *Cursor) ID() ConsumerID { return c.id }

// Name returns the consumer's name.
func (c *Cursor) Name() string { return c.name }

// Next returns the next entry in order of n that is neither acknowledged nor
// received. false: there is none in memory now, or the next one is held and not
// durable yet; the notify function is called once when there may be more.
func (c *Cursor) Next() (Entry, bool) {
	l := c.log
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		n := c.skip(c.pos + 1)
		if n > c.last {
			c.pos = c.last
			c.idle = true
			return Entry{}, false
		}
		var (
			e  Entry
			ok bool
		)
		if n >= c.refFirst {
			e, ok = c.fromTail(n)
		} else {
			var lost uint64
			if e, lost, ok = c.fromWindow(n); lost >= n {
				c.lose(n, lost)
				continue
			}
		}
		if !ok {
			c.idle = true
			return Entry{}, false
		}
		if c.expired(e.Time) && (n > c.sent || !e.hold) { // see pinned
			c.dropOld(n)
			continue
		}
		c.pos, c.sent = n, max(c.sent, n)
		return e, true
	}
}

func (c *Cursor) expired(arrival int64) bool {
	if c.limits.MaxAge <= 0 {
		return false
	}
	now := c.log.wallClock() // first: it may find that the clock has been set
	return now-c.log.clock.arrived(arrival) > c.limits.MaxAge.Milliseconds()
}

// skip returns the lowest number from n on that is still to be handed out.
func (c *Cursor) skip(n uint64) uint64 {
	n = max(n, c.low+1)
	for {
		m := c.received.next(c.done.next(n))
		if m == n {
			return n
		}
		n = m
	}
}

// fromTail builds the entry from the chunk in memory. false: it is held.
func (c *Cursor) fromTail(n uint64) (Entry, bool) {
	r := c.refs[c.refHead+int(n-c.refFirst)]
	m, d, body := r.parse()
	if d.hold && m.seq > c.log.safe {
		return Entry{}, false
	}
	e := Entry{N: n, Seq: m.seq, Time: m.time, Options: d.options, Extra: d.extra, hold: d.hold}
	e.Message = body[len(body)-m.size : len(body) : len(body)]
	return e, true
}

// parse reads the record at r, which this process has encoded.
func (r ref) parse() (message, delivery, []byte) {
	b := r.ch.buf[r.rec:]
	body := b[frameHeader : frameHeader+binary.LittleEndian.Uint32(b[1:])]
	m := parseMessage(body)
	at := message{p: parser{b: r.ch.buf[r.del:]}}
	d := at.delivery()
	if m.p.err != nil || at.p.err != nil {
		panic("BUG: storage: own record does not parse")
	}
	return m, d, body
}

// SetNotify sets the function that tells of more entries after Next has
// returned false. It is called from any goroutine, must not block or call the
// Log or a Cursor, and may be spurious. It replaces the one before. nil: nobody
// reads for now; what was read ahead is given up.
func (c *Cursor) SetNotify(fn func()) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	c.notify = fn
	if fn == nil {
		c.dropWindow()
	}
}

// SetLive tells whether the consumer is connected and keeping up, so that a
// message may wait Config.MaxAckDelay for its acknowledgement before it is
// written. A new Cursor is not live.
func (c *Cursor) SetLive(live bool) {
	l := c.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.live && !live && l.lazy.waits() {
		l.urgent = true
		l.kickCommitter()
	}
	c.live = live
}

// Ack says that n is done: PUBACK or PUBCOMP came, or the consumer itself gave
// it up. It becomes durable with a later commit, at most about a second later;
// after a crash before that the entry comes again. Any order within a window of
// 65,535; acknowledging an unknown n or twice has no effect.
func (c *Cursor) Ack(n uint64) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	c.ackLocked(n)
}

// Drop is like Ack and counts the entry as dropped under cause, a short word.
func (c *Cursor) Drop(cause string, n uint64) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	c.dropLocked(cause, n)
}

func (c *Cursor) dropLocked(cause string, n uint64) {
	if c.ackLocked(n) {
		c.countDrop(cause, 1)
	}
}

// ackLocked reports whether n was waiting until now.
func (c *Cursor) ackLocked(n uint64) bool {
	if c.removed || n > c.last || n <= c.low || c.done.has(n) {
		return false
	}
	written := true
	if c.received.has(n) {
		c.received.remove(n)
	} else {
		written = c.settle(n)
		if !written {
			c.log.lazy.settled(c.log, c.seqOf(n))
		}
	}
	c.done.add(n, n)
	c.settleLow()
	c.trim(c.low)
	c.marks.acked.add(n, n)
	c.mark(written)
	return true
}

// Received says that PUBREC came for n: its body is not needed any more, but n
// is still in use. PUBREL may be sent when Safe has reached the result (D2). 0
// means at once: it is durable already, or n is not known (any more).
func (c *Cursor) Received(n uint64) Seq {
	l := c.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.removed || n > c.last || n <= c.low || c.done.has(n) {
		return 0
	}
	if c.received.has(n) {
		if c.pending > l.safe {
			return c.pending
		}
		return 0
	}
	c.settle(n)
	l.lazy.pin(c.seqOf(n))
	c.received.add(n, n)
	c.marks.received.add(n, n)
	c.mark(true)
	l.seq++
	l.lazy.note(l, -1)
	c.pending = l.seq
	l.urgent = true
	l.kickCommitter()
	return l.seq
}

// Released returns the n that are received but not acknowledged, ascending:
// those whose PUBREL is to be sent again after a reconnect.
func (c *Cursor) Released() []uint64 {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	var all []uint64
	for _, s := range c.received {
		for n := s.first; n <= s.last; n++ {
			all = append(all, n)
		}
	}
	return all
}

// Rewind makes Next start again at the oldest entry that is neither
// acknowledged nor received.
func (c *Cursor) Rewind() {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	c.pos, c.pinTop = c.low, 0
	c.dropWindow()
}

// Recovered returns the highest n that existed when the log was opened: entries
// up to it may have been sent before (DUP).
func (c *Cursor) Recovered() uint64 { return c.recovered }

// CursorStats describes what waits for one consumer.
type CursorStats struct {
	Count   int64             // entries neither acknowledged, received nor dropped
	Bytes   int64             // of their messages and extras; within a segment that has left memory, by its average
	Oldest  int64             // arrival of the oldest, Unix ms, or of one acknowledged shortly before it; 0 when none waits
	Dropped map[string]uint64 // by cause since the consumer was created
	Refused map[string]uint64 // records that policy Reject refused, by FullError.Limit, since Open

	HighWater uint64 // how often four fifths of a limit were reached since Open, having been under half of it before
}

// Stats returns a snapshot. The maps are the caller's.
func (c *Cursor) Stats() CursorStats {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	return CursorStats{Count: c.count, Bytes: c.bytes, Oldest: c.oldest(),
		Dropped: maps.Clone(c.dropped), Refused: maps.Clone(c.refused), HighWater: c.highWater}
}

// oldest returns CursorStats.Oldest. log.mu is held here and below.
func (c *Cursor) oldest() int64 {
	if len(c.parts) == 0 {
		return 0
	}
	if n := c.skip(c.low + 1); n >= c.refFirst && n <= c.last {
		m, _, _ := c.refs[c.refHead+int(n-c.refFirst)].parse()
		return m.time
	}
	return c.parts[0].oldest
}

// push gives the entry at r the next n.
func (c *Cursor) push(r ref, size, arrival int64) {
	if c.refHead == len(c.refs) {
		c.refs, c.refHead, c.refFirst = c.refs[:0], 0, c.last+1
	} else if c.refHead > 64 && c.refHead*2 > len(c.refs) && len(c.refs) == cap(c.refs) {
		k := copy(c.refs, c.refs[c.refHead:])
		clear(c.refs[k:])
		c.refs, c.refHead = c.refs[:k], 0
	}
	c.refs = append(c.refs, r)
	c.last++
	if c.lastChunk != r.ch {
		c.lastChunk = r.ch
		r.ch.cursors = append(r.ch.cursors, c)
	}
	const refSize = 16
	r.ch.cost += refSize
	c.wait(c.log.current, c.last, size, arrival)
	c.fills(false)
	c.log.touch(c)
}

// wait adds n, the highest so far, to what waits in g.
func (c *Cursor) wait(g *segment, n uint64, size, arrival int64) {
	k := len(c.parts)
	if k == 0 || c.parts[k-1].segment != g {
		c.parts = append(c.parts, part{segment: g, first: n, oldest: arrival, newest: arrival})
		g.users++
		k++
	}
	p := &c.parts[k-1]
	p.last = n
	p.count++
	p.bytes += size
	p.newest = max(p.newest, arrival)
	c.count++
	c.bytes += size
}

// settle says that the body of n is not needed any more, and reports whether
// the record has gone to the committer. The size of an entry that has left
// memory is taken to be the average of those that wait in its segment: the sum
// is right again when the last of them is settled.
func (c *Cursor) settle(n uint64) (written bool) {
	written = true
	size := int64(-1)
	if n >= c.refFirst {
		m, d, _ := c.refs[c.refHead+int(n-c.refFirst)].parse()
		size = int64(m.size + len(d.extra))
		written = m.seq < c.log.lazy.first
	}
	i, ok := slices.BinarySearchFunc(c.parts, n, func(p part, n uint64) int {
		switch {
		case p.last < n:
			return -1
		case p.first > n:
			return 1
		}
		return 0
	})
	if !ok {
		return written
	}
	p := &c.parts[i]
	if size < 0 {
		size = p.bytes / p.count
	}
	size = min(size, p.bytes)
	p.count--
	if p.count == 0 {
		size = p.bytes
	}
	p.bytes -= size
	c.count--
	c.bytes -= size
	if p.count == 0 {
		c.leave(p.segment)
		c.parts = slices.Delete(c.parts, i, i+1)
	}
	c.log.touch(c)
	return written
}

// seqOf returns the Seq of n if it is in the tail, else 0.
func (c *Cursor) seqOf(n uint64) Seq {
	if n < c.refFirst {
		return 0
	}
	m, _, _ := c.refs[c.refHead+int(n-c.refFirst)].parse()
	return m.seq
}

// leave says that c needs nothing from g any more.
func (c *Cursor) leave(g *segment) {
	g.users--
	if g.users == 0 && g.sealed {
		c.log.point.spare = true
		c.log.point.written++ // it goes with the next checkpoint
	}
}

// trim forgets the refs up to n.
func (c *Cursor) trim(n uint64) {
	for c.refHead < len(c.refs) && c.refFirst <= n {
		c.refs[c.refHead] = ref{}
		c.refHead++
		c.refFirst++
	}
}

// evict forgets the refs into ch, the oldest chunk of the tail.
func (c *Cursor) evict(ch *chunk) {
	for c.refHead < len(c.refs) && c.refs[c.refHead].ch == ch {
		c.refs[c.refHead] = ref{}
		c.refHead++
		c.refFirst++
	}
	if c.lastChunk == ch {
		c.lastChunk = nil
	}
	if c.refHead == len(c.refs) && cap(c.refs) > 1024 {
		c.refs, c.refHead = nil, 0
	}
}

// lose counts what waits in n..last and is not in memory as damaged.
func (c *Cursor) lose(n, last uint64) {
	lost := 0
	for last = min(last, c.refFirst-1); ; n++ {
		if n = c.skip(n); n > last {
			break
		}
		if c.ackLocked(n) {
			lost++
		}
	}
	if lost > 0 {
		c.countDrop(CauseDamaged, uint64(lost))
	}
}

const (
	maxCauses = 32
	maxCause  = 64
)

func (c *Cursor) countDrop(cause string, k uint64) {
	if c.removed {
		return
	}
	cause = cause[:min(len(cause), maxCause)]
	if _, ok := c.dropped[cause]; !ok && len(c.dropped) >= maxCauses {
		cause = "other"
	}
	if c.dropped == nil {
		c.dropped = map[string]uint64{}
	}
	if c.marks.dropped == nil {
		c.marks.dropped = map[string]uint64{}
	}
	c.dropped[cause] += k
	c.marks.dropped[cause] += k
	c.mark(true)
}

// mark queues the marks of c for the next commit. due: they shall be durable
// within about a second even if nothing else is committed.
func (c *Cursor) mark(due bool) {
	l := c.log
	if !c.marks.listed {
		c.marks.listed = true
		l.marked = append(l.marked, c)
	}
	l.touch(c)
	if due && !l.marksDue {
		l.marksDue = true
		l.setDeadline(l.tune.marks)
		l.kickCommitter()
	}
}

// setDeadline lets the committer take what waits at the latest after d.
func (l *Log) setDeadline(d time.Duration) {
	if t := time.Now().Add(d); l.deadline.IsZero() || t.Before(l.deadline) {
		l.deadline = t
	}
}

// touch lists c for the next checkpoint.
func (l *Log) touch(c *Cursor) {
	if !c.changed && !c.removed {
		c.changed = true
		l.point.cursors = append(l.point.cursors, c)
	}
}
