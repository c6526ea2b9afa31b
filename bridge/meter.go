package bridge

import (
	"math"
	"time"
)

// meterMemory is over what time the rates are averaged.
const meterMemory = 30 * time.Second

// Rates are messages per second, averaged over the last half minute.
type Rates struct {
	Forwarded float64 `json:"forwarded"`
	Received  float64 `json:"received"`
}

// meter measures how fast messages go and how fast the backlog shrinks. Owned by Run.
type meter struct {
	at                           time.Time // of the last look; zero: none on this link
	looks                        int
	forwarded, received, waiting float64 // at the last look

	up, down, shrinking float64 // messages per second
}

// begin starts anew: what was measured on another link, or without one, says nothing.
func (m *meter) begin() { *m = meter{} }

// look takes the counters as they are now.
func (m *meter) look(now time.Time, forwarded, received uint64, waiting int64) {
	f, r, w := float64(forwarded), float64(received), float64(waiting)
	if passed := now.Sub(m.at); !m.at.IsZero() && passed > 0 {
		part := 1.0
		if m.looks > 1 {
			part = 1 - math.Exp(-passed.Seconds()/meterMemory.Seconds())
		}
		m.up += part * ((f-m.forwarded)/passed.Seconds() - m.up)
		m.down += part * ((r-m.received)/passed.Seconds() - m.down)
		m.shrinking += part * ((m.waiting-w)/passed.Seconds() - m.shrinking)
	}
	m.at, m.forwarded, m.received, m.waiting = now, f, r, w
	m.looks++
}

func (m *meter) rates() Rates { return Rates{tenth(m.up), tenth(m.down)} }

// eta returns in how many seconds nothing will wait any more; 0: unknown, or nothing waits.
func (m *meter) eta() int64 {
	if m.waiting == 0 || m.shrinking < 0.01 {
		return 0
	}
	return int64(math.Ceil(m.waiting / m.shrinking))
}

func tenth(x float64) float64 { return math.Round(x*10) / 10 }
