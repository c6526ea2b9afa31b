package storage

import (
	"encoding/binary"
	"fmt"
	"time"
)

// group is what one commit makes durable.
type group struct {
	chunks  []*chunk
	last    Seq
	segment *segment
	write   bool   // something must reach the disk
	seal    bool   // the segment is full, or drained, with this group
	census  []byte // for the header of the segment, if it has to be created
	point   *checkpoint
}

// commitLoop is the committer: it takes whatever waits, makes it durable with
// one commit, and tells.
func (l *Log) commitLoop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		l.mu.Lock()
		closing := l.closing
		if closing && l.point.busy != nil { // the last checkpoint must be the last
			busy := l.point.busy
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
	if l.point.busy == nil && l.point.dirty() {
		if l.point.records >= l.tune.records || l.rowBytes >= maxRowBytes {
			return 0
		}
		wait = min(wait, l.point.at.Add(l.tune.checkpoint).Sub(now))
	}
	return wait
}

// take closes what is open and describes it. l.mu is held.
func (l *Log) take(now time.Time, closing bool) *group {
	point := l.point.busy == nil && l.point.dirty() &&
		(closing || l.point.records >= l.tune.records || l.rowBytes >= maxRowBytes || !now.Before(l.point.at.Add(l.tune.checkpoint)))
	g := &group{segment: l.current}
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
	if g.write && (l.w == nil || l.w.id != l.current.id) {
		g.census = l.census()
	}
	g.seal = l.current.filled >= l.tune.segment ||
		point && l.current.users == 0 && l.current.filled >= l.tune.rotate
	if g.seal {
		l.current.sealed, l.current.last = true, g.last
		l.newSegment(l.current.id + 1)
	}
	if point {
		g.point = l.snapshot(now)
	}
	return g
}

func (l *Log) newSegment(id uint32) {
	l.current = &segment{id: id}
	l.segments[id] = l.current
}

func (l *Log) expireAll() {
	for _, c := range l.cursors {
		if c.limits.MaxAge > 0 {
			c.expire()
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
		ch := l.space(room)
		start := len(ch.buf)
		l.seq++
		b := beginFrame(ch.buf, frameMarks)
		b = binary.AppendUvarint(b, uint64(l.seq))
		b = binary.AppendUvarint(b, uint64(groups))
		for _, c := range l.marked {
			if !c.removed {
				b = c.marks.append(b, c.id)
			}
		}
		ch.buf = endFrame(b, start)
		l.grown(ch, len(ch.buf)-start)
	}
	for _, c := range l.marked {
		m := &c.marks
		m.listed, m.acked, m.received = false, m.acked[:0], m.received[:0]
		clear(m.dropped)
	}
	l.marked = l.marked[:0]
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
	var size int64
	if g.write && len(g.chunks) > 0 {
		err := guard(func() (err error) {
			size, err = l.write(g)
			return err
		})
		if err != nil {
			l.fail("write "+segmentName(g.segment.id), err)
			l.mu.Lock()
			failed := l.failed
			l.mu.Unlock()
			l.tellFailed(failed)
			return
		}
	}
	if g.seal && l.w != nil {
		err := l.w.close()
		l.w = nil
		if err != nil {
			l.log.Warn("storage: close of a full segment", "err", err)
		}
	}
	var few [8]func()
	l.mu.Lock()
	notify := l.committed(g, size, few[:0])
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
	if g.point == nil {
		return
	}
	if closing {
		l.writeCheckpoint(g.point)
		return
	}
	l.ended.Go(func() { l.writeCheckpoint(g.point) })
}

// write puts the group into its segment, creating it first if need be.
func (l *Log) write(g *group) (int64, error) {
	if l.w == nil {
		w, err := createSegment(l.dir, g.segment.id, g.census)
		if err != nil {
			return 0, err
		}
		l.w = w
		l.mu.Lock()
		g.segment.writer = w
		l.mu.Unlock()
	}
	return l.w.commit(g.chunks)
}

// committed advances Safe, moves the chunks to the tail and returns whom to
// notify. l.mu is held.
func (l *Log) committed(g *group, size int64, notify []func()) []func() {
	if size > 0 {
		l.diskSegments += size - g.segment.size
		g.segment.size = size
	}
	if g.seal {
		g.segment.writer = nil
	}
	l.safe = g.last
	l.lazy.advance(l)
	l.wakeWaiters()
	for _, ch := range g.chunks {
		l.waiting -= int64(len(ch.buf))
		l.tailSize += ch.cost
		l.tail = append(l.tail, ch)
		for _, c := range ch.cursors {
			if c.idle && c.notify != nil && !c.removed {
				c.idle = false
				notify = append(notify, c.notify)
			}
		}
	}
	for l.tailSize > l.tune.tail && len(l.tail) > 0 {
		ch := l.tail[0]
		l.tail[0] = nil
		l.tail = l.tail[1:]
		l.tailSize -= ch.cost
		for _, c := range ch.cursors {
			c.evict(ch)
		}
	}
	return notify
}
