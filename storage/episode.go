package storage

import (
	"context"
	"log/slog"
	"maps"
	"time"
)

// episode is a time during which a consumer, or the store, refuses or drops
// messages for one cause, or is about to. It is told once when it begins and once when it is
// over, however many messages it costs (D5). Guarded by Log.mu.
type episode struct {
	cursor  *Cursor // nil: the store as a whole
	limit   string  // that was reached first: as in FullError.Limit, or CauseAge
	began   time.Time
	latest  time.Time // when a message was last refused or dropped
	refused uint64
	dropped uint64
	need    int64 // bytes of the latest message that met the limit
	filling bool  // nothing is refused or dropped: see causeFilling
}

// episodeKey tells episodes apart. A consumer has one for being full, whichever
// the limit, and one for age; the store has one for each of its limits.
type episodeKey struct {
	cursor *Cursor
	cause  string
}

// outcome is what became of a message that met a limit.
type outcome byte

const (
	refused outcome = iota
	droppedOldest
	droppedNewest
	droppedOld
)

func (o outcome) String() string {
	switch o {
	case refused:
		return "queue is full: new messages are refused"
	case droppedOldest:
		return "queue is full: the oldest messages are dropped"
	case droppedNewest:
		return "queue is full: new messages are dropped"
	case droppedOld:
		return "messages are older than the queue allows: they are dropped"
	}
	panic("BUG: storage: unknown outcome")
}

// notice is a line for the log on its way to the committer, which writes it
// with no lock held.
type notice struct {
	level slog.Level
	text  string
	attrs []slog.Attr
}

// strained notes what became of a message of that size because c, or with nil
// the store, was at the limit, and begins an episode if none is under way. The
// caller counts. l.mu is held.
func (l *Log) strained(c *Cursor, limit string, o outcome, size int64) {
	now := time.Now()
	key := episodeKey{c, limit}
	if c != nil && limit != CauseAge {
		key.cause = CauseFull
	}
	e := l.episodes[key]
	if e == nil {
		e = &episode{cursor: c, limit: limit, began: now}
		l.episodes[key] = e
		l.notices = append(l.notices, l.beginning(e, o))
		l.kickCommitter()
	}
	e.latest, e.need = now, size
	if o == refused {
		e.refused++
	} else {
		e.dropped++
	}
}

func (l *Log) beginning(e *episode, o outcome) notice {
	n := notice{level: slog.LevelWarn, text: o.String()}
	if c := e.cursor; c != nil {
		n.attrs = []slog.Attr{slog.String("consumer", c.name), slog.String("limit", e.limit),
			slog.Int64("waiting", c.count), slog.Int64("bytes", c.bytes)}
		return n
	}
	n.text = "store is full: new messages are refused"
	switch e.limit {
	case limitWaiting:
		n.text = "disk does not keep up: new messages are refused"
	case limitDisk:
		n.text = "disk is nearly full, without room for the reserve: new messages are refused"
	}
	n.attrs = []slog.Attr{slog.String("limit", e.limit), slog.Int64("waiting_bytes", l.waiting), slog.Int64("bytes", l.disk())}
	return n
}

// over tells whether there is room again: a tenth of the limit, and the message
// that was last in want of it would still fit.
func (l *Log) over(e *episode) bool {
	c := e.cursor
	switch {
	case e.filling:
		return l.ebbed(c)
	case c == nil && e.limit == limitWaiting:
		return l.waiting < tenthLess(maxWaiting)
	case c == nil && e.limit == limitDisk:
		return !l.unreserved
	case c == nil:
		return l.disk()+l.waiting+e.need < tenthLess(l.cfg.MaxSize-reserved)
	case e.limit == CauseAge:
		age := c.limits.MaxAge.Milliseconds()
		return age == 0 || c.age() < tenthLess(age)
	}
	m := &c.limits
	return c.count == 0 || (m.MaxCount <= 0 || c.count < tenthLess(m.MaxCount)) &&
		(m.MaxBytes <= 0 || c.bytes+e.need <= tenthLess(m.MaxBytes))
}

func tenthLess(limit int64) int64 { return limit - limit/10 }

// endEpisodes ends those that are over. A while without refusals and drops is
// asked for as well, lest a queue that is filled as fast as it is read tells
// the same every second. l.mu is held.
func (l *Log) endEpisodes(now time.Time) {
	maps.DeleteFunc(l.episodes, func(_ episodeKey, e *episode) bool {
		if e.cursor != nil && e.cursor.removed {
			return true // nobody is left whom it concerns
		}
		if now.Sub(e.latest) < l.tune.quiet || !l.over(e) {
			return false
		}
		n := notice{level: slog.LevelInfo, text: "queue has room again"}
		switch {
		case e.filling && e.cursor == nil:
			l.fillingUp, n.text = false, "store is under half of its limits again"
		case e.filling:
			e.cursor.filling, n.text = false, "queue is under half of its limits again"
		case e.cursor == nil && e.limit == limitWaiting:
			n.text = "disk keeps up again"
		case e.cursor == nil && e.limit == limitDisk:
			n.text = "disk has room again"
		case e.cursor == nil:
			n.text = "store has room again"
		case e.limit == CauseAge:
			n.text = "messages are no longer too old"
		}
		if e.cursor != nil {
			n.attrs = append(n.attrs, slog.String("consumer", e.cursor.name))
		}
		n.attrs = append(n.attrs, slog.String("limit", e.limit))
		if !e.filling {
			n.attrs = append(n.attrs, slog.Uint64("refused", e.refused), slog.Uint64("dropped", e.dropped))
		}
		n.attrs = append(n.attrs, slog.Duration("lasted", now.Sub(e.began).Round(time.Millisecond)))
		l.notices = append(l.notices, n)
		return true
	})
}

// look does what is to be done from time to time, and returns when to look
// again. It is the committer's; l.mu is held.
func (l *Log) look(now time.Time) time.Duration {
	if now.Sub(l.aged) >= l.tune.expire {
		l.aged = now
		l.expireAll()
		l.lookForThin()
	}
	l.lookAtStore()
	l.wallClock()
	longest := l.tune.expire
	if l.unreserved {
		l.retryReserve(now)
		longest = min(longest, reserveRetry)
	}
	if len(l.episodes) == 0 {
		return longest
	}
	// Not at each commit: there may be an episode for every session.
	if every := l.tune.quiet / 10; now.Sub(l.looked) >= every {
		l.looked = now
		l.endEpisodes(now)
	}
	return min(longest, l.tune.quiet/10)
}

// say writes the notices. No lock is held.
func (l *Log) say(notices []notice) {
	for _, n := range notices {
		l.log.LogAttrs(context.Background(), n.level, n.text, n.attrs...)
	}
}
