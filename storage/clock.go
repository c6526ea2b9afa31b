package storage

import (
	"encoding/binary"
	"log/slog"
	"time"
)

// The age of a message is the difference between two readings of the wall clock,
// and that may be set in between: a box without a battery starts in 1970, and
// everything it has taken until the network tells the time would be decades old
// a moment later. So the log compares the wall clock with the steady one. When
// the former has been put forward it remembers which readings were too low, and
// by how much; messages with such a time are taken for that much younger. The
// other direction does no harm: then they merely wait longer.

// clockTable has what is remembered across a restart. It is the store's own.
const clockTable Table = 0xF0

const (
	minClockStep = time.Minute     // less is not worth remembering
	clockSlack   = 5 * time.Second // a message may get its time a moment before it is appended
	maxEras      = 64              // remembered; the oldest goes
)

// clockEra is a time during which the wall clock was late.
type clockEra struct {
	from, to int64 // its readings, Unix ms
	late     int64 // ms
	past     bool  // of an earlier life: a further step says nothing about it
}

// clock is guarded by Log.mu.
type clock struct {
	start time.Time // when the present era began
	wall  int64     // what the wall clock said then, Unix ms
	eras  []clockEra
}

// wallClock returns what the wall clock says, Unix ms.
func (l *Log) wallClock() int64 {
	now := l.tune.now()
	wall := l.tune.wall(now)
	if l.clock.start.IsZero() {
		l.clock.start, l.clock.wall = now, wall
	}
	expected := l.clock.wall + now.Sub(l.clock.start).Milliseconds()
	if step := wall - expected; step >= minClockStep.Milliseconds() || step <= -minClockStep.Milliseconds() {
		l.stepped(step, expected)
		l.clock.start, l.clock.wall = now, wall
	}
	return wall
}

// stepped remembers that the clock, which should say expected, was put forward
// by step, or back.
func (l *Log) stepped(step, expected int64) {
	k := &l.clock
	l.notices = append(l.notices, notice{level: slog.LevelInfo, text: "the clock has been set; the age of messages allows for it",
		attrs: []slog.Attr{slog.Duration("by", time.Duration(step)*time.Millisecond)}})
	slack := clockSlack.Milliseconds()
	k.eras = append(k.eras, clockEra{from: k.wall - slack, to: expected + slack})
	r := Record{}
	if len(k.eras) > maxEras {
		r.Changes = append(r.Changes, Change{Table: clockTable, Key: k.eras[0].key()})
		k.eras = append(k.eras[:0], k.eras[1:]...)
	}
	for i := range k.eras {
		if e := &k.eras[i]; !e.past {
			e.late += step
			r.Changes = append(r.Changes, Change{Table: clockTable, Key: e.key(), Value: e.value()})
		}
	}
	// Without it the next life does not know, and all else is well: an error is
	// that the log is full, or has failed.
	if room, err := r.room(); err == nil {
		_, _, _ = l.appendLocked(&r, room, nil)
	}
	l.kickCommitter()
}

// arrived corrects what the wall clock said when a message arrived. If several
// eras had that reading it is the latest that it can have been.
func (k *clock) arrived(said int64) int64 {
	latest := said
	for i := range k.eras {
		if e := &k.eras[i]; said >= e.from && said <= e.to {
			latest = max(latest, said+e.late)
		}
	}
	return latest
}

func (e *clockEra) key() []byte { return binary.BigEndian.AppendUint64(nil, uint64(e.from)) }

func (e *clockEra) value() []byte {
	return binary.AppendVarint(binary.AppendVarint(nil, e.to), e.late)
}

// restoreClock reads what earlier lives remembered; Open calls it.
func (l *Log) restoreClock() error {
	l.wallClock()
	return l.state.each(clockTable, func(key, value []byte) error {
		p := parser{b: value}
		if e := (clockEra{to: p.int(), late: p.int(), past: true}); p.err == nil && len(key) == 8 {
			e.from = int64(binary.BigEndian.Uint64(key))
			l.clock.eras = append(l.clock.eras, e)
		}
		return nil
	})
}
