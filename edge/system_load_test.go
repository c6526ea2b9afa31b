package edge

import (
	"math"
	"testing"
	"time"
)

// A steady counter brings every average to its rate in a minute, the short one
// first; how often one looks does not matter.
func TestLoadFollowsTheRate(t *testing.T) {
	after := func(step time.Duration, total time.Duration) [3]float64 {
		var l load
		for at := step; at <= total; at += step {
			l.step(uint64(at/time.Second)*2, step) // 120 a minute
		}
		return l.average
	}
	for i, over := range []float64{1, 5, 15} {
		want := 120 * (1 - math.Exp(-5/over))
		for _, step := range []time.Duration{time.Second, 10 * time.Second, time.Minute} {
			if got := after(step, 5*time.Minute)[i]; math.Abs(got-want) > 0.5 {
				t.Errorf("after 5 minutes in steps of %v: %.2f over %v minutes, want %.2f", step, got, over, want)
			}
		}
	}
	if got := after(10*time.Second, 3*time.Hour); math.Abs(got[0]-120) > 0.01 || math.Abs(got[2]-120) > 0.01 {
		t.Errorf("after hours: %v, want 120", got)
	}
}

// The first look may be a moment after the start.
func TestLoadBeginsGently(t *testing.T) {
	var l load
	if l.step(6, time.Millisecond); l.average[0] > 6.01 || l.average[2] > 0.41 {
		t.Errorf("6 in the first millisecond: %v", l.average)
	}
}
