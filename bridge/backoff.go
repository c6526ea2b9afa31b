package bridge

import "time"

// backoff gives the waits between attempts: each a random part of a bound that doubles ("full jitter"), so that
// gateways that lost their upstream together do not return together.
type backoff struct {
	min, max time.Duration  // constant
	random   func() float64 // constant; in [0, 1)
	bound    time.Duration  // of the next wait; 0: min
}

// next returns the next wait, from 0 to the bound.
func (b *backoff) next() time.Duration {
	if b.bound == 0 {
		b.bound = b.min
	}
	wait := time.Duration(b.random() * float64(b.bound))
	b.bound = min(2*b.bound, b.max)
	return wait
}

// held tells that a connection has lasted for a time. If that is stable or more the next bound is the first again, and
// held returns true; a shorter one changes nothing, for an upstream that takes everybody in and drops them again is not
// helped by their coming back at once.
func (b *backoff) held(lasted, stable time.Duration) bool {
	if lasted < stable {
		return false
	}
	b.bound = 0
	return true
}
