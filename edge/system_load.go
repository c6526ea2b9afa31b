package edge

import (
	"math"
	"strconv"
	"time"

	"forebay/broker"
)

// load is the moving average, over three times, of how much a counter grows in
// a minute.
type load struct {
	last    uint64 // the counter
	average [3]float64
}

// loadTime is one of them, as its topics name it.
type loadTime struct {
	name string
	over time.Duration
}

func loadTimes() [3]loadTime {
	return [3]loadTime{{"1min", time.Minute}, {"5min", 5 * time.Minute}, {"15min", 15 * time.Minute}}
}

// step takes what the counter says after a time. Like the load averages of a
// machine, each average forgets what was before by exp(-elapsed/time).
func (l *load) step(counter uint64, elapsed time.Duration) {
	rate := float64(counter-l.last) * float64(time.Minute) / float64(elapsed)
	l.last = counter
	for i, t := range loadTimes() {
		keep := math.Exp(-float64(elapsed) / float64(t.over))
		l.average[i] = rate + keep*(l.average[i]-rate)
	}
}

// tellLoads tells the averages. They begin at zero.
func (s *system) tellLoads(st *broker.Stats, now time.Time) {
	elapsed := now.Sub(s.looked)
	if s.looked.IsZero() {
		elapsed = now.Sub(s.began)
	}
	s.looked = now
	for name, counter := range map[string]uint64{
		"messages/received": st.PacketsReceived, "messages/sent": st.PacketsSent,
		"publish/received": st.Received, "publish/sent": st.Sent, "publish/dropped": st.Dropped(),
		"bytes/received": st.BytesReceived, "bytes/sent": st.BytesSent,
		"sockets": st.Accepted, "connections": st.Admitted,
	} {
		l := s.loads[name]
		if l == nil {
			l = &load{}
			s.loads[name] = l
		}
		if elapsed > 0 {
			l.step(counter, elapsed)
		}
		for i, t := range loadTimes() {
			s.tell("load/"+name+"/"+t.name, strconv.FormatFloat(l.average[i], 'f', 2, 64))
		}
	}
}
