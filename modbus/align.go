package modbus

import "time"

// clockStep is how far the wall clock may run from the monotonic one between two
// looks before it counts as set; clockLook is how often one looks while reads
// are aligned to it.
const (
	clockStep = 500 * time.Millisecond
	clockLook = 10 * time.Second
)

// nextAligned returns the next multiple of align behind wall, counted from
// midnight of its zone; align divides a day. One that is nearer than a second, or
// a tenth of align, is taken for the present one, which the clock has not reached
// quite yet.
func nextAligned(wall time.Time, align time.Duration) time.Time {
	wall = wall.Add(min(time.Second, align/10))
	year, month, day := wall.Date()
	hour, minute, second := wall.Clock()
	elapsed := time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute +
		time.Duration(second)*time.Second + time.Duration(wall.Nanosecond())
	next := elapsed - elapsed%align + align
	if time.Hour%align == 0 {
		return wall.Add(next - elapsed) // an hour that comes twice has its reads twice
	}
	// In the fields of the wall clock: on the day that the clock changes, 06:00
	// is not six hours behind midnight.
	return time.Date(year, month, day, 0, 0, int(next/time.Second), int(next%time.Second), wall.Location())
}

// aligned returns when a block that is aligned is due behind now.
func (l *link) aligned(b *block, now time.Time) time.Time {
	wall := l.wall(now)
	return now.Add(nextAligned(wall, b.align).Sub(wall))
}

// watchClock plans aligned reads anew when the wall clock has been set.
func (l *link) watchClock(now time.Time) {
	if !l.aligns {
		return
	}
	skew := l.wall(now).Sub(l.epoch.Round(0)) - now.Sub(l.epoch)
	if (skew - l.skew).Abs() < clockStep {
		return
	}
	l.skew = skew
	for _, u := range l.units {
		for _, b := range u.blocks {
			if b.align > 0 && b.next.After(now) {
				b.next = l.aligned(b, now)
			}
		}
	}
}

// wallClock returns the time on the wall at a time that has a monotonic reading.
func wallClock(now time.Time) time.Time { return now.Round(0) }
