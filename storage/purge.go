package storage

import (
	"context"
	"fmt"
	"time"
)

// causePurged is what Purge counts drops under.
const causePurged = "purged"

// Purge drops what waits for a consumer, as far as it arrived before that time,
// or all with a zero time, and returns how much that was. It does so durably. It
// spares nothing: a QoS 2 message in the middle of its exchange goes too.
func (l *Log) Purge(ctx context.Context, consumer string, before time.Time) (int64, error) {
	l.mu.Lock()
	c := l.cursors[consumer]
	l.mu.Unlock()
	if c == nil {
		return 0, fmt.Errorf("storage: purge: no consumer %q", consumer)
	}
	old := spans{{1, 1<<64 - 2}}
	if !before.IsZero() {
		v, err := l.View()
		if err != nil {
			return 0, err
		}
		old = nil
		err = v.Each(func(m *Held) error {
			for _, d := range m.Deliveries {
				if d.id == c.id && m.Time < before.UnixMilli() {
					old.add(d.N, d.N)
				}
			}
			return ctx.Err()
		}, consumer)
		if err != nil {
			return 0, err
		}
	}
	dropped := int64(0)
	for _, s := range old {
		dropped += c.dropAll(s)
	}
	l.mu.Lock()
	l.seq++ // a record of its own, which WaitSafe can wait for
	seq := l.seq
	l.lazy.note(l, -1)
	l.urgent = true
	l.mu.Unlock()
	l.kickCommitter()
	return dropped, l.WaitSafe(ctx, seq)
}

// dropAll drops what waits in s, in slices so that others come in between.
func (c *Cursor) dropAll(s span) (dropped int64) {
	for n, more := s.first, true; more; {
		c.log.mu.Lock()
		last := min(s.last, c.last)
		for range 1000 {
			if n = c.skip(n); n > last {
				more = false
				break
			}
			if c.ackLocked(n) {
				c.countDrop(causePurged, 1)
				dropped++
			}
			n++
		}
		more = more && !c.removed
		c.log.mu.Unlock()
	}
	return dropped
}
