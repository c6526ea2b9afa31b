package bridge

import "time"

// backlogAge is how long a message has waited when it belongs to the backlog, which the replay limits hold for.
const backlogAge = 10 * time.Second

// bucket is a token bucket that holds a second's worth. It may be overdrawn by one message.
type bucket struct {
	perSecond float64 // 0: no limit
	tokens    float64
	at        time.Time // tokens are of then
}

func (b *bucket) refill(now time.Time) {
	if b.at.IsZero() {
		b.at, b.tokens = now, max(b.perSecond, 1)
	}
	if passed := now.Sub(b.at); passed > 0 {
		b.tokens = min(b.tokens+passed.Seconds()*b.perSecond, max(b.perSecond, 1))
		b.at = now
	}
}

func (b *bucket) empty() bool { return b.perSecond > 0 && b.tokens < 1 }

// due is when an empty bucket is so no more.
func (b *bucket) due() time.Time {
	if !b.empty() {
		return b.at
	}
	return b.at.Add(time.Duration((1-b.tokens)/b.perSecond*float64(time.Second)) + time.Millisecond)
}

// replay holds the backlog back, so that it does not crush the upstream, or crowd out what is just coming. Owned by Run.
type replay struct {
	messages, bytes bucket
	blocked         bool // something would have been sent
}

func newReplay(cfg ReplayConfig) replay {
	return replay{messages: bucket{perSecond: cfg.MessagesPerSecond}, bytes: bucket{perSecond: float64(cfg.BytesPerSecond)}}
}

// allows reports whether a message of the backlog may go.
func (r *replay) allows(now time.Time) bool {
	r.messages.refill(now)
	r.bytes.refill(now)
	r.blocked = r.messages.empty() || r.bytes.empty()
	return !r.blocked
}

// spend accounts for a message of the backlog that took so many bytes on the wire; 0: it was dropped.
func (r *replay) spend(bytes int) {
	if bytes == 0 {
		return
	}
	if r.messages.perSecond > 0 {
		r.messages.tokens--
	}
	if r.bytes.perSecond > 0 {
		r.bytes.tokens -= float64(bytes)
	}
}

// due is when the next message of the backlog may go; blocked is set.
func (r *replay) due() time.Time {
	m, b := r.messages.due(), r.bytes.due()
	if m.Before(b) {
		return b
	}
	return m
}
