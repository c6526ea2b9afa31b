package bench

import (
	"testing"
	"time"
)

func TestLatenciesFindQuantiles(t *testing.T) {
	var l, other latencies
	for i := range 100 {
		to := &l
		if i%2 == 0 {
			to = &other
		}
		to.take(time.Duration(i+1) * time.Millisecond)
	}
	l.add(&other)
	for _, c := range []struct {
		q    float64
		want time.Duration
	}{{0, time.Millisecond}, {0.5, 51 * time.Millisecond}, {0.99, 100 * time.Millisecond}} {
		if got := l.at(c.q); got > c.want || got < c.want-c.want/16-1 {
			t.Errorf("quantile %v of 1 to 100 ms is %v, want at most a sixteenth below %v", c.q, got, c.want)
		}
	}
	var none latencies
	if got := none.at(0.5); got != 0 {
		t.Errorf("no values have the median %v", got)
	}
}
