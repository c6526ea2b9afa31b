package modbus

import (
	"math"
	"time"
)

// thinning decides which samples of a tag are passed on. The zero value passes
// all.
type thinning struct {
	onChange bool
	deadband deadband
	min, max time.Duration
	slack    time.Duration // how early a poll may come and still count
}

// thinned is the last sample of a tag that was passed on; its zero value means
// that there was none.
type thinned struct {
	value   Value
	quality Quality
	reason  string
	time    time.Time
}

// newThinning prepares the thinning of a tag whose configuration is valid.
func newThinning(cfg *TagConfig) thinning {
	band, err := parseDeadband(cfg.Deadband)
	if err != nil {
		panic("BUG: modbus: deadband not validated: " + err.Error())
	}
	return thinning{
		onChange: cfg.OnChange || cfg.Deadband != "" || cfg.MaxInterval > 0,
		deadband: band,
		min:      cfg.MinInterval,
		max:      cfg.MaxInterval,
		// Polls jitter: one that comes a little before the interval is over
		// is the one that was meant.
		slack: cfg.Interval / 2,
	}
}

// passes reports whether s is passed on after last. A change of quality, or of
// the reason for it, always is.
func (t thinning) passes(s *Sample, last *thinned) bool {
	if last.time.IsZero() || s.Quality != last.quality || reason(s.Err) != last.reason {
		return true
	}
	age := s.Time.Sub(last.time) + t.slack
	switch {
	case age < t.min:
		return false
	case t.max > 0 && age >= t.max:
		return true
	case !t.onChange:
		return true
	}
	return t.deadband.exceeded(last.value, s.Value)
}

// exceeded reports whether the step from one value to another is larger than
// the deadband; without one every difference is.
func (d deadband) exceeded(from, to Value) bool {
	a, ok1 := from.Number()
	b, ok2 := to.Number()
	if d.width == 0 || !ok1 || !ok2 {
		return from != to
	}
	width := d.width
	if d.relative {
		width *= math.Abs(a)
	}
	return math.Abs(b-a) > width
}

func reason(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
