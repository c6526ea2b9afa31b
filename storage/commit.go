package storage

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// group is what one commit makes durable.
type group struct {
	chunks  []*chunk
	last    Seq
	segment *segment
	write   bool // something must reach the disk
	point   *checkpoint

	// How it reaches the disk; see place.
	direct  bool     // straight into the segment, behind what the journal holds
	turn    bool     // the halves of the journal change places, and what it holds is spilled
	settled settled  // what the spill may leave out
	behind  []*chunk // what the spill is about
	put     int64    // bytes of records that the spill has written

	// The segment is full, or drained, with this group: the one that follows,
	// and its header.
	seal   bool
	next   *segment
	census []byte
}

// commitLoop is the committer: it takes whatever waits, makes it durable with
// one commit, and tells.
func (l *Log) commitLoop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		runtime.Gosched() // those whom the last group has woken shall be in the next together
		l.mu.Lock()
		closing := l.closing
		if busy := l.busy(); closing && busy != nil { // the last checkpoint must be the last
			l.mu.Unlock()
			<-busy
			continue
		}
		failed := l.failed
		var g *group
		wait := time.Hour
		if failed == nil {
			now := time.Now()
			look := l.look(now)
			if due := l.due(now); due <= 0 || closing {
				g = l.take(now, closing)
			} else {
				wait = min(due, look)
			}
		}
		moved, safe := l.safeMoved, l.safe
		l.safeMoved = false
		notices := l.notices
		l.notices = nil
		l.mu.Unlock()

		l.say(notices)
		switch {
		case failed != nil:
			l.tellFailed(failed)
		case g != nil:
			l.commitGroup(g, closing)
			if !closing {
				continue
			}
		case moved:
			l.tell(safe)
		}
		if closing {
			return
		}
		timer.Reset(wait)
		select {
		case <-l.kick:
		case <-timer.C:
		}
	}
}

func (l *Log) tell(safe Seq) {
	if l.safeFn != nil && !l.told {
		l.safeFn(safe, nil)
	}
}

func (l *Log) tellFailed(err error) {
	if l.safeFn != nil && !l.told {
		l.safeFn(l.Safe(), err)
	}
	l.told = true
}

// fail is the end of all appending (D4). The first reason stays.
func (l *Log) fail(what string, err error) {
	l.mu.Lock()
	if l.failed == nil {
		l.failed = fmt.Errorf("%w: %s: %w", ErrFailed, what, err)
		l.wakeWaiters()
	}
	l.mu.Unlock()
	l.kickCommitter()
}

// due returns how long the committer may sleep; nothing is to be done before.
func (l *Log) due(now time.Time) time.Duration {
	if l.urgent {
		return 0
	}
	wait := time.Hour
	if !l.deadline.IsZero() {
		wait = l.deadline.Sub(now)
	}
	if oldest, ok := l.lazy.oldest(); ok {
		wait = min(wait, oldest.Add(l.cfg.MaxAckDelay).Sub(now))
	}
	if l.busy() == nil && l.point.written > 0 {
		wait = min(wait, l.pointDue().Sub(now))
	}
	return wait
}

// pointDue returns when the next checkpoint is due if something has been
// written. It costs more than a commit does: as long as there is little to say,
// and no space to come back, it may take its time. l.mu is held.
func (l *Log) pointDue() time.Time {
	p := &l.point
	switch {
	case p.records >= l.tune.records || l.rowBytes >= maxRowBytes:
		return p.at
	case p.written >= littleWritten || p.spare || l.drained():
		return p.at.Add(l.tune.checkpoint)
	}
	return p.at.Add(12 * l.tune.checkpoint)
}

// drained tells whether the current segment can be given up. l.mu is held.
func (l *Log) drained() bool { return l.current.users == 0 && l.current.filled >= l.tune.rotate }

// take closes what is open and describes it. l.mu is held.
func (l *Log) take(now time.Time, closing bool) *group {
	point := l.busy() == nil && (closing && l.point.dirty() || l.point.written > 0 && !now.Before(l.pointDue()))
	g := &group{segment: l.current}
	if last, ok := l.settledOnly(now); ok && !point && !closing {
		return l.takeMarks(g, last)
	}
	lazy := l.cfg.MaxAckDelay > 0
	g.write = l.marksDue || point && len(l.marked) > 0 || len(l.open) > 0 && (!lazy || l.lazy.any())
	if g.write {
		l.appendMarks()
	}
	if len(l.open) > 0 {
		l.closeChunk()
	}
	g.chunks, l.open = l.open, nil
	for _, ch := range g.chunks {
		ch.out = ch.buf
		if lazy {
			ch.out = l.lazy.keep(ch.buf)
		}
	}
	g.last = l.seq
	l.lazy.reset(l.seq)
	l.urgent, l.marksDue, l.deadline = false, false, time.Time{}
	l.place(g, point)
	if point {
		g.point = l.snapshot(now)
	}
	return g
}

// takeMarks makes a group of what the cursors did alone. l.mu is held.
func (l *Log) takeMarks(g *group, last Seq) *group {
	ch := &chunk{first: last}
	if ch.buf = l.takenMarks(last); ch.buf != nil {
		ch.out = ch.buf
		l.grown(ch, len(ch.buf))
		g.chunks, g.write = []*chunk{ch}, true
	}
	g.last, l.lazy.said = last, last
	l.marksDue, l.deadline = false, time.Time{}
	l.place(g, false)
	return g
}

// place decides how g reaches the disk. l.mu is held.
func (l *Log) place(g *group, point bool) {
	size := int64(0)
	for _, ch := range g.chunks {
		size += int64(len(ch.out))
	}
	g.write = g.write && size > 0
	if g.write {
		l.point.written += wholePages(groupHeader + size)
		l.point.records += l.records // what is not written, the next start need not read
	}
	l.records = 0
	switch {
	case !g.write:
	case l.journal == nil || l.journal.direct(size):
		g.direct = true
	case !l.journal.fits(size):
		g.turn = true
	}
	g.turn = g.turn || point
	if g.turn && !g.direct {
		g.settled = settled{}
		for _, chunks := range [][]*chunk{l.journaled, g.chunks} {
			for _, ch := range chunks {
				g.settled.note(ch)
			}
		}
	}
	g.seal = (g.turn || g.direct) && l.current.filled >= l.tune.segment ||
		point && l.drained()
	if g.seal {
		l.current.sealed, l.current.last = true, g.last
		l.point.spare = l.point.spare || l.current.users == 0
		g.census = l.census()
		g.next = l.newSegment(l.current.id + 1)
	}
}

func (l *Log) newSegment(id uint32) *segment {
	l.current = &segment{id: id}
	l.segments[id] = l.current
	return l.current
}

// busy returns what is closed when the spill and the checkpoint under way have
// ended, or nil. l.mu is held.
func (l *Log) busy() chan struct{} {
	if l.spilling != nil {
		return l.spilling
	}
	return l.point.busy
}

func (l *Log) expireAll() {
	for _, c := range l.cursors {
		if c.limits.MaxAge > 0 {
			c.expire()
			c.fills(true)
		}
	}
}

// keep returns the frames that must be written.
func (z *lazyState) keep(frames []byte) []byte {
	out, start, skipped := []byte(nil), 0, false
	for at := 0; at < len(frames); {
		end := at + frameHeader + int(binary.LittleEndian.Uint32(frames[at+1:]))
		seq, _ := binary.Uvarint(frames[at+frameHeader:])
		if frames[at] == frameMessage && z.done(Seq(seq)) {
			out, skipped = append(out, frames[start:at]...), true
			start = end
		}
		at = end
	}
	if !skipped {
		return frames
	}
	return append(out, frames[start:]...)
}

// appendMarks writes what the cursors did since the last commit. l.mu is held.
func (l *Log) appendMarks() {
	if frame := l.takenMarks(l.seq + 1); frame != nil {
		ch := l.space(len(frame))
		l.seq++
		ch.buf = append(ch.buf, frame...)
		l.grown(ch, len(frame))
	}
}

// takenMarks returns what the cursors did since the last commit as a frame with
// that Seq, or nil, and forgets it. l.mu is held.
func (l *Log) takenMarks(seq Seq) (b []byte) {
	room, groups := frameHeader+3*binary.MaxVarintLen64, 0
	for _, c := range l.marked {
		if c.removed {
			continue
		}
		m := &c.marks
		room += 80 + 2*binary.MaxVarintLen64*(len(m.acked)+len(m.received)) + (maxCause+2*binary.MaxVarintLen64)*len(m.dropped)
		for _, set := range []bool{len(m.acked) > 0, len(m.received) > 0, len(m.dropped) > 0} {
			if set {
				groups++
			}
		}
	}
	if groups > 0 {
		b = beginFrame(make([]byte, 0, room), frameMarks)
		b = binary.AppendUvarint(b, uint64(seq))
		b = binary.AppendUvarint(b, uint64(groups))
		for _, c := range l.marked {
			if !c.removed {
				b = c.marks.append(b, c.id)
			}
		}
		b = endFrame(b, 0)
	}
	for _, c := range l.marked {
		m := &c.marks
		m.listed, m.acked, m.received = false, m.acked[:0], m.received[:0]
		clear(m.dropped)
	}
	l.marked = l.marked[:0]
	return b
}

func (m *marks) append(b []byte, id ConsumerID) []byte {
	if len(m.acked) > 0 {
		b = binary.AppendUvarint(b, uint64(id))
		b = appendSpans(append(b, markAck), m.acked)
	}
	if len(m.received) > 0 {
		b = binary.AppendUvarint(b, uint64(id))
		b = appendSpans(append(b, markReceived), m.received)
	}
	if len(m.dropped) > 0 {
		b = binary.AppendUvarint(b, uint64(id))
		b = appendCounts(append(b, markDropped), m.dropped)
	}
	return b
}

func appendCounts(b []byte, counts map[string]uint64) []byte {
	b = binary.AppendUvarint(b, uint64(len(counts)))
	for cause, k := range counts {
		b = appendString(b, cause)
		b = binary.AppendUvarint(b, k)
	}
	return b
}

// commitGroup makes g durable and tells everybody.
func (l *Log) commitGroup(g *group, closing bool) {
	if err := l.write(g); err != nil {
		l.fail("write "+journalName+" or "+segmentName(g.segment.id), err)
	}
	var few [8]func()
	l.mu.Lock()
	if failed := l.failed; failed != nil {
		l.mu.Unlock()
		l.tellFailed(failed)
		return
	}
	notify := l.committed(g, few[:0])
	if g.turn {
		l.spilling = make(chan struct{})
	}
	if g.point != nil {
		l.point.busy = make(chan struct{})
	}
	safe := l.safe
	l.safeMoved = false
	l.mu.Unlock()
	l.tell(safe)
	for _, fn := range notify {
		fn()
	}
	switch {
	case !g.turn:
	case closing:
		l.turn(g)
	default:
		l.ended.Go(func() { l.turn(g) })
	}
}

// write puts the group into the journal or its segment. It waits for a spill
// under way only if that half of the journal, or the segment, is needed.
func (l *Log) write(g *group) error {
	if g.turn || g.direct {
		l.mu.Lock()
		busy, failed := l.spilling, l.failed
		l.mu.Unlock()
		if busy != nil {
			<-busy
			l.mu.Lock()
			failed = l.failed
			l.mu.Unlock()
		}
		if failed != nil {
			return nil // what the disk holds behind it is not known
		}
	}
	j := l.journal
	switch {
	case g.direct:
		before := Seq(0)
		if j != nil {
			before = j.last
		}
		if err := l.putDirect(g, before); err != nil {
			return err
		}
		if !g.turn { // which does it otherwise
			if err := l.seal(g); err != nil {
				return err
			}
		}
		if j != nil {
			j.begin(j.active)
			j.last = g.last
		}
		return nil
	case j == nil:
		return nil
	}
	if g.turn && j.at > 0 {
		j.begin(1 - j.active)
	}
	if !g.write {
		return nil
	}
	return j.commit(g.chunks, g.last)
}

// committed advances Safe, moves the chunks to the tail and returns whom to
// notify. l.mu is held.
func (l *Log) committed(g *group, notify []func()) []func() {
	l.safe = max(l.safe, g.last) // of marks alone, it may have gone on meanwhile
	l.lazy.advance(l)
	l.wakeWaiters()
	for _, ch := range g.chunks {
		l.waiting -= int64(len(ch.buf))
		l.tailSize += ch.cost
		l.tail = append(l.tail, ch)
		written := len(ch.out)
		if !g.write {
			written = 0
		}
		if g.direct || !g.write || len(ch.out) == 0 {
			ch.inSegment, ch.out = true, nil // or needs not to be there
		} else {
			l.journaled = append(l.journaled, ch)
			l.journaledSize += int64(len(ch.out))
		}
		if g.segment == l.current {
			g.segment.filled -= int64(len(ch.buf) - written) // that much is not going there
		}
		for _, c := range ch.cursors {
			if c.idle && c.notify != nil && !c.removed {
				c.idle = false
				notify = append(notify, c.notify)
			}
		}
	}
	l.moved()
	if g.turn {
		g.behind = slices.Clone(l.journaled)
	}
	l.evictTail()
	return notify
}

// evictTail lets the oldest chunks go while the tail is too large, but for those
// that only the journal has. l.mu is held.
func (l *Log) evictTail() {
	for l.tailSize > l.tune.tail && len(l.tail) > 0 && l.tail[0].inSegment {
		ch := l.tail[0]
		l.tail[0] = nil
		l.tail = l.tail[1:]
		l.tailSize -= ch.cost
		for _, c := range ch.cursors {
			c.evict(ch)
		}
	}
}
