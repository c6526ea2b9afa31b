package modbus

import (
	"slices"
	"time"
)

// answered notes that the unit answered, whatever it said. After an absence
// everything is read at once.
func (u *unit) answered(now time.Time) {
	if u.failures == 0 {
		return
	}
	wasOffline := u.state == Offline
	u.failures, u.probe = 0, nil
	if wasOffline {
		for _, b := range u.blocks {
			b.mute = 0
			b.restart(now)
		}
	}
}

// onDamage notes that an answer came damaged: the unit is there, and the read is
// made again at once, but not too often.
func (u *unit) onDamage(b *block, err error, now time.Time) {
	u.answered(now)
	u.damaged++
	b.damaged++
	if b.damaged < damagedReads {
		return // it is as due as it was
	}
	b.damaged = 0
	u.link.counters.missed.Add(u.link.advance(b, now))
	b.err = err
	u.link.deliverBad(u, b.tags, err, now)
	u.judge(now)
}

// unanswered notes that a request got no answer. The first time another block
// is asked at once: if the unit answers that, the request is repeated, and if
// that fails too, it is this block alone that stays without an answer. If the
// unit does not, it is offline and only probed.
func (u *unit) unanswered(b *block, err error, begin, now time.Time) {
	l := u.link
	u.failures++
	b.mute++
	u.probe, u.probeAt = u.blockAfter(b), now
	if u.failures >= offlineAfter || u.state == "" || u.state == Offline {
		l.probesAt = now.Add(probeShare * now.Sub(begin))
	}
	if u.failures < offlineAfter {
		if b.mute > 1 {
			b.err = err
			b.next = now.Add(max(b.interval, backoff(b.mute-2, probeFirst, holeRetry)))
			l.deliverBad(u, b.tags, err, now)
		}
		return
	}
	u.probeAt = now.Add(backoff(u.failures-offlineAfter, probeFirst, probeLast))
	if u.state == Offline && !u.byLink {
		l.deliverBad(u, b.tags, err, now)
		return
	}
	u.enter(Offline, err, now)
	l.deliverBad(u, u.tags, err, now)
}

// blockAfter returns the block behind b, in a circle, that is not a hole.
func (u *unit) blockAfter(b *block) *block {
	at := slices.Index(u.blocks, b)
	for i := range u.blocks {
		next := u.blocks[(at+1+i)%len(u.blocks)]
		if !next.hole {
			return next
		}
	}
	return b
}

// judge derives the state of a unit that answers from its blocks.
func (u *unit) judge(now time.Time) {
	for _, b := range u.blocks {
		if b.err != nil {
			u.enter(Degraded, b.err, now)
			return
		}
	}
	u.enter(Online, nil, now)
}

// enter changes the state; it says so once per change. What is said of the link
// is not said in the log again for each of its units.
func (u *unit) enter(s State, err error, now time.Time) {
	byLink := u.link.down != nil
	u.reason = err
	if u.state == s && u.byLink == byLink {
		return
	}
	log := u.link.log.With("link", u.link.config.Name, "unit", u.config.Name)
	switch {
	case byLink:
	case s != Online:
		log.Warn("modbus unit "+string(s), "err", err)
	case u.state != "" && !u.byLink:
		log.Info("modbus unit online")
	}
	if u.state != s {
		u.state, u.since = s, now
	}
	u.byLink = byLink
	u.link.sink.UnitState(UnitState{Link: u.link.config, Unit: u.config, State: s, Since: u.since, Err: err, Counters: u.counters.unit()})
}
