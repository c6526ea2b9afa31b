package storage

import (
	"slices"
	"time"
)

// lazyState counts, for each record not yet taken by the committer, what it
// waits for, so that a message which all its live consumers acknowledge within
// Config.MaxAckDelay is safe without having been written. It is idle when
// MaxAckDelay is 0. Guarded by Log.mu.
//
// What makes leaving a record out sound: its deliveries' acknowledgements are
// in the marks of the same commit, or an earlier one than, any later record.
// So no n above can be durable while n itself is unknown, and an n given out
// again after a crash was never durable, which QoS 1 allows.
type lazyState struct {
	first Seq         // the record that need[0] is about
	need  []int32     // deliveries not settled; -1: to be written whatever happens
	born  []time.Time // when they were appended
	head  int         // records before it are safe
	said  Seq         // of the last marks that were written before what still waits
}

// MaxAckDelay returns the one of Config. It is constant.
func (l *Log) MaxAckDelay() time.Duration { return l.cfg.MaxAckDelay }

// note describes the record with the Seq given out last.
func (z *lazyState) note(l *Log, need int32) {
	if l.cfg.MaxAckDelay > 0 {
		z.need, z.born = append(z.need, need), append(z.born, time.Now())
	}
}

// oldest returns when the first record that is not settled was appended.
func (z *lazyState) oldest() (time.Time, bool) {
	for i := z.head; i < len(z.need); i++ {
		if z.need[i] != 0 {
			return z.born[i], true
		}
	}
	return time.Time{}, false
}

// settledOnly tells whether all that is due is what cursors did, while records
// still wait for their acknowledgements: then it is not worth writing these. last
// is the Seq before the first of them, which had a record that is not written, so
// that the marks can have it: then they come before what they do not cover.
//
// It is not so when somebody has acknowledged out of order: then a mark could
// be durable, and an n below it unknown.
func (l *Log) settledOnly(now time.Time) (last Seq, ok bool) {
	oldest, waits := l.lazy.oldest()
	z := &l.lazy
	if l.urgent || !waits || !now.Before(oldest.Add(l.cfg.MaxAckDelay)) ||
		l.journal == nil || !l.journal.fits(min(maxJournaled, l.journal.half/4)) || l.current.filled >= l.tune.segment || // what waits belongs to this segment
		z.head == 0 || l.safe+1 != z.first+Seq(z.head) || l.safe <= z.said {
		return 0, false
	}
	for _, ch := range l.open {
		if ch.first == l.safe {
			return 0, false // chunks are told apart by their first Seq
		}
	}
	for _, c := range l.marked {
		if len(c.done) > 0 || len(c.marks.received) > 0 {
			return 0, false
		}
	}
	return l.safe, true
}

// waits reports whether a record is held back.
func (z *lazyState) waits() bool { return z.head < len(z.need) }

// settled says that one delivery of record seq is done.
func (z *lazyState) settled(l *Log, seq Seq) {
	if l.cfg.MaxAckDelay == 0 || seq < z.first {
		return
	}
	n := &z.need[seq-z.first]
	if *n < 0 {
		return
	}
	*n--
	if *n == 0 {
		z.advance(l)
	}
}

// pin says that record seq must be written, whatever becomes of it.
func (z *lazyState) pin(seq Seq) {
	if i := seq - z.first; seq >= z.first && i < Seq(len(z.need)) && i >= Seq(z.head) {
		z.need[i] = -1
	}
}

// advance moves Safe over what needs no storage any more.
func (z *lazyState) advance(l *Log) {
	if l.failed != nil || l.safe+1 != z.first+Seq(z.head) {
		return // an earlier one is being committed
	}
	start := z.head
	for z.head < len(z.need) && z.need[z.head] == 0 {
		z.head++
	}
	if z.head > start {
		l.safe += Seq(z.head - start)
		l.safeMoved = true
		l.wakeWaiters()
		l.kickCommitter()
	}
}

// any reports whether a record must be written.
func (z *lazyState) any() bool {
	for _, n := range z.need[z.head:] {
		if n != 0 {
			return true
		}
	}
	return false
}

// release lets those open chunks go to the tail of whose records none needs
// storage any more, so that memory does not fill up while nothing has to be
// written, and reports whether there were any. What their consumers acknowledged
// is in the marks of the next commit, which comes before any later record. l.mu is
// held. No group with earlier records is under way: Safe would wait for it.
func (l *Log) release() bool {
	z, k := &l.lazy, 0
	for k+1 < len(l.open) && l.open[k+1].first <= z.first+Seq(z.head) {
		k++
	}
	if k == 0 {
		return false
	}
	for _, ch := range l.open[:k] {
		l.waiting -= int64(len(ch.buf))
		l.current.filled -= int64(len(ch.buf))
		l.tailSize += ch.cost
		ch.inSegment = true // or needs not to be there
	}
	l.tail = append(l.tail, l.open[:k]...)
	l.open = slices.Delete(l.open, 0, k)
	z.forget(l.open[0].first - 1)
	l.evictTail()
	return true
}

// forget leaves out what comes before record seq, which is settled and stays:
// marks alone may have its number.
func (z *lazyState) forget(seq Seq) {
	if seq <= z.first {
		return
	}
	i := int(seq - z.first)
	z.need, z.born = slices.Delete(z.need, 0, i), slices.Delete(z.born, 0, i)
	z.first, z.head = seq, z.head-i
}

// done reports whether record seq needs no storage.
func (z *lazyState) done(seq Seq) bool {
	i := seq - z.first
	return seq >= z.first && i < Seq(len(z.need)) && z.need[i] == 0
}

// reset starts anew behind record last.
func (z *lazyState) reset(last Seq) {
	z.first, z.need, z.born, z.head = last+1, z.need[:0], z.born[:0], 0
}
