package modbus

import (
	"fmt"
	"time"
)

// How long a value may go unread, beyond the time when it should have been,
// before it is stale: so many intervals, but not less than staleLeast, since
// links that are asked too much are late all the time.
const (
	staleIntervals = 2
	staleLeast     = time.Second
)

// watchStale passes on that values have not been read for too long, although
// nothing has failed: the link has more to do than it can, or something that
// takes long. Nobody may take them for present ones.
func (l *link) watchStale(now time.Time) {
	if now.Before(l.staleAt) {
		return
	}
	l.staleAt = now.Add(staleLeast)
	for _, u := range l.units {
		if u.state == "" || u.state == Offline {
			continue
		}
		for _, b := range u.blocks {
			limit := b.next.Add(max(staleIntervals*b.interval, staleLeast))
			if b.stale || b.err != nil || now.Before(limit) {
				continue
			}
			b.stale = true
			l.deliverStale(u, b, now)
		}
	}
}

func (l *link) deliverStale(u *unit, b *block, now time.Time) {
	err := fmt.Errorf("modbus: not read since it was due at %s: the link is busy", b.next.Format(time.RFC3339))
	l.batch = l.batch[:0]
	for _, t := range b.tags {
		l.add(t, Sample{Link: l.config, Unit: u.config, Tag: t.config, Quality: Stale, Time: now, Err: err})
	}
	l.flush()
}
