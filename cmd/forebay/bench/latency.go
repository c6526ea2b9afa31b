package bench

import (
	"math/bits"
	"time"

	"golang.org/x/sys/unix"
)

// latencies is a histogram with steps of at most 1/16 of the value.
type latencies struct {
	count [64 << 4]uint32
	total int64
}

func (l *latencies) take(d time.Duration) {
	v := uint64(max(d, 16))
	octave := bits.Len64(v) - 1
	l.count[octave<<4|int(v>>(octave-4)&15)]++
	l.total++
}

func (l *latencies) add(other *latencies) {
	for i, n := range other.count {
		l.count[i] += n
	}
	l.total += other.total
}

// at returns the value that the share q of all values does not exceed, 0 if there are none.
func (l *latencies) at(q float64) time.Duration {
	want := int64(q * float64(l.total))
	for i, n := range l.count {
		if want -= int64(n); want < 0 {
			octave := i >> 4
			return time.Duration(1<<octave + (i&15)<<(octave-4))
		}
	}
	return 0
}

// sleepUntil sleeps with the kernel's precision; Go's timers are late by up to a millisecond in an idle process.
func sleepUntil(t time.Time) error {
	for {
		left := time.Until(t)
		if left <= 0 {
			return nil
		}
		ts := unix.NsecToTimespec(int64(left))
		if err := unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil); err != nil && err != unix.EINTR {
			return err
		}
	}
}
