package modbus

import (
	"errors"
	"sync/atomic"
)

// UnitCounters counts what happened to the requests to one unit since Run began.
type UnitCounters struct {
	// Requests were made; of these Timeouts found no answer in time and Failures
	// went wrong in another way.
	Requests, Timeouts, Failures uint64
	// Exceptions were given by the device instead of an answer, by their code:
	// Modbus §7. Codes that are not there were not given.
	Exceptions map[byte]uint64
	// What arrived while the unit was asked, or before it was, and was thrown
	// away: answers to earlier requests, frames that answer nothing that was
	// asked, and frames with a wrong checksum. Each counts once, however long.
	Late, Stray, CRC uint64
}

// UnitStats are the counters of one unit.
type UnitStats struct {
	// Link and Unit point into the Config given to New.
	Link *LinkConfig
	Unit *UnitConfig
	UnitCounters
}

// LinkStats counts what happened on one link since Run began.
type LinkStats struct {
	// Link points into the Config given to New.
	Link *LinkConfig
	// Up is whether the port or every connection can be opened.
	Up bool
	// Requests were made; of these Timeouts found no answer, Exceptions were
	// refused by the device and Failures went wrong in another way.
	Requests, Timeouts, Exceptions, Failures uint64
	// Late, Stray and CRC are as in UnitCounters.
	Late, Stray, CRC uint64
	// Reconnects is how often the link came back after it was down.
	Reconnects uint64
	// Missed is how many reads were skipped because the link was too slow for
	// the intervals asked for.
	Missed uint64
	// Samples were passed to the sink, Writes were executed.
	Samples, Writes uint64
}

// Stats returns the counters of all links, in the order of the configuration.
func (p *Poller) Stats() []LinkStats {
	var stats []LinkStats
	for _, l := range p.links {
		if n := len(stats); n == 0 || stats[n-1].Link != l.config {
			stats = append(stats, LinkStats{Link: l.config, Up: true})
		}
		l.counters.addTo(&stats[len(stats)-1])
	}
	return stats
}

// Units returns the counters of all units.
func (p *Poller) Units() []UnitStats {
	var stats []UnitStats
	for _, l := range p.links {
		for _, u := range l.units {
			stats = append(stats, UnitStats{l.config, u.config, u.counters.unit()})
		}
	}
	return stats
}

// counters of one connection; any goroutine may read them.
type counters struct {
	requestCounters
	up                                  atomic.Bool
	reconnects, missed, samples, writes atomic.Uint64
}

// requestCounters of a connection or a unit; any goroutine may read them.
type requestCounters struct {
	requests, timeouts, failures atomic.Uint64
	exceptions                   [256]atomic.Uint32
	late, stray, crc             atomic.Uint64
}

// addTo adds the counters of one connection to those of its link.
func (c *counters) addTo(s *LinkStats) {
	u := c.unit()
	s.Up = s.Up && c.up.Load()
	s.Requests += u.Requests
	s.Timeouts += u.Timeouts
	s.Failures += u.Failures
	for _, n := range u.Exceptions {
		s.Exceptions += n
	}
	s.Late += u.Late
	s.Stray += u.Stray
	s.CRC += u.CRC
	s.Reconnects += c.reconnects.Load()
	s.Missed += c.missed.Load()
	s.Samples += c.samples.Load()
	s.Writes += c.writes.Load()
}

// unit returns the counters as they are now.
func (c *requestCounters) unit() UnitCounters {
	u := UnitCounters{
		Requests: c.requests.Load(), Timeouts: c.timeouts.Load(), Failures: c.failures.Load(),
		Late: c.late.Load(), Stray: c.stray.Load(), CRC: c.crc.Load(),
	}
	for code := range c.exceptions {
		if n := c.exceptions[code].Load(); n > 0 {
			if u.Exceptions == nil {
				u.Exceptions = make(map[byte]uint64)
			}
			u.Exceptions[byte(code)] = uint64(n)
		}
	}
	return u
}

// count notes the outcome of one request and what was heard meanwhile.
func (c *requestCounters) count(err error, heard tally) {
	c.requests.Add(1)
	refusal, refused := errors.AsType[*ExceptionError](err)
	switch {
	case err == nil:
	case errors.Is(err, ErrTimeout):
		c.timeouts.Add(1)
	case refused:
		c.exceptions[refusal.Code].Add(1)
	default:
		c.failures.Add(1)
	}
	if heard != (tally{}) {
		c.late.Add(heard.late)
		c.stray.Add(heard.stray)
		c.crc.Add(heard.crc)
	}
}

// count notes the outcome of one request to u.
func (l *link) count(u *unit, err error) {
	heard := l.client.transport.heard()
	since := heard.minus(l.heard)
	l.heard = heard
	l.counters.count(err, since)
	u.counters.count(err, since)
}
