package core

import "time"

// promptness measures how long a client takes to acknowledge, for a session with a queue. While all clients of a
// message keep up, the log may wait for their acknowledgements before it writes it (D1); a client that is always later
// than that would make its publishers wait for nothing, so it does not count as one that keeps up.
//
// One message at a time is measured. Being late is remembered beyond a connection. It is nil, and then nobody is late,
// until there is something to measure.
type promptness struct {
	n         uint64        // the message
	sent      time.Duration // when it was sent
	measuring bool
	late      bool
}

// isLate reports that the client is not prompt.
func (p *promptness) isLate() bool { return p != nil && p.late }

// sending is called for each message with QoS 1 that goes to the client.
func (s *session) sending(c *Core, n uint64) {
	if c.cfg.MaxAckDelay == 0 {
		return
	}
	if s.prompt == nil {
		s.prompt = &promptness{}
	}
	switch p := s.prompt; {
	case !p.measuring:
		*p = promptness{n: n, sent: c.clock, measuring: true, late: p.late}
	case c.clock-p.sent > c.cfg.MaxAckDelay:
		p.late = true // it need not come to be late
	}
}

// onLanded is called for each message that the client has acknowledged. It has to be much earlier than is needed to
// make up for having been late: one that is near the limit must not be taken for the one and the other in turn.
func (p *promptness) onLanded(c *Core, n uint64) {
	if p == nil || !p.measuring || n != p.n {
		return
	}
	p.measuring = false
	limit := c.cfg.MaxAckDelay
	if p.late {
		limit /= 2
	}
	p.late = c.clock-p.sent > limit
}

// forget ends the measurement: the connection is gone, with what was under way.
func (p *promptness) forget() {
	if p != nil {
		p.measuring = false
	}
}
