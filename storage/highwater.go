package storage

import (
	"log/slog"
	"time"
)

// A queue that comes near one of its limits is told of once, while there is
// still time to act, and once more when it is well away from it again. So is
// the store as a whole. These are episodes like those of refusing and dropping,
// with a cause of their own.
const causeFilling = "filling"

// nearly tells whether used is at four fifths of the limit; 0 is no limit.
func nearly(used, limit int64) bool { return limit > 0 && used >= limit-limit/5 }

// below tells whether used is under half of the limit.
func below(used, limit int64) bool { return limit <= 0 || used == 0 || used < limit/2 }

// age returns how long the oldest message has waited, in ms.
func (c *Cursor) age() int64 {
	if oldest := c.oldest(); oldest > 0 {
		now := c.log.wallClock()
		return now - c.log.clock.arrived(oldest)
	}
	return 0
}

// fills begins an episode when c has come near a limit of count or bytes, which
// is called for each message, or with aged of age. Log.mu is held.
func (c *Cursor) fills(aged bool) {
	m := &c.limits
	switch {
	case c.filling:
	case nearly(c.count, m.MaxCount):
		c.log.filling(c, "count")
	case nearly(c.bytes, m.MaxBytes):
		c.log.filling(c, "bytes")
	case aged && nearly(c.age(), m.MaxAge.Milliseconds()):
		c.log.filling(c, CauseAge)
	}
}

// filling begins an episode of c, or with nil of the store. l.mu is held.
func (l *Log) filling(c *Cursor, limit string) {
	now := time.Now()
	l.episodes[episodeKey{c, causeFilling}] = &episode{cursor: c, limit: limit, filling: true, began: now, latest: now}
	n := notice{level: slog.LevelWarn, text: "queue is filling up"}
	if c == nil {
		l.highWater++
		l.fillingUp = true
		n.text = "store is filling up"
		n.attrs = []slog.Attr{slog.Int64("bytes", l.disk()), slog.Int64("max_size", l.cfg.MaxSize)}
	} else {
		c.highWater++
		c.filling = true
		n.attrs = []slog.Attr{slog.String("consumer", c.name), slog.String("limit", limit),
			slog.Int64("waiting", c.count), slog.Int64("bytes", c.bytes)}
	}
	l.notices = append(l.notices, n)
	l.kickCommitter()
}

// ebbed tells whether an episode of filling up is over. l.mu is held.
func (l *Log) ebbed(c *Cursor) bool {
	if c == nil {
		return below(l.disk()+l.waiting, l.cfg.MaxSize-reserved)
	}
	m := &c.limits
	return below(c.count, m.MaxCount) && below(c.bytes, m.MaxBytes) && below(c.age(), m.MaxAge.Milliseconds())
}

// lookAtStore begins an episode of the store. l.mu is held.
func (l *Log) lookAtStore() {
	if !l.fillingUp && nearly(l.disk()+l.waiting, l.cfg.MaxSize-reserved) {
		l.filling(nil, limitStore)
	}
}
