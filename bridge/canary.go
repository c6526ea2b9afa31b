package bridge

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"forebay/broker/packet"
)

// canaryID is the packet identifier of the canary's SUBSCRIBE, behind those of the rules.
const canaryID = controlIDs + maxRules

// errCanary: the canary has come back before, and does not now.
var errCanary = errors.New("bridge: canary does not come back")

// canary sends messages to ourselves through the upstream, which prove that it moves messages and not only bytes, also
// when all else is QoS 0. Until the first has come back it proves nothing: the upstream may forbid the topic. Owned by
// Run.
type canary struct {
	// Constant.
	topic    []byte // empty: there is none
	interval time.Duration
	patience time.Duration // for one to come back; the second that does not ends the link
	token    string        // tells ours from those of former lives

	trusted bool // one has come back in this life
	allowed bool // on this link the subscription was granted
	proof   bool // on this link one has come back
	flying  bool
	sent    time.Time
	number  uint64
	missed  int // in a row

	back   time.Time     // when one came back last
	trip   time.Duration // how long that one took
	misses uint64        // all of them
}

func newCanary(topic string, cfg CanaryConfig, patience time.Duration) *canary {
	return &canary{topic: []byte(topic), interval: cfg.Interval, patience: patience, token: rand.Text()}
}

// begin gathers the canary's SUBSCRIBE, on each link anew.
func (c *canary) begin(l *link, f *forwarder) {
	c.allowed, c.proof, c.flying, c.missed, c.sent = false, false, false, 0, time.Time{}
	if len(c.topic) == 0 {
		return
	}
	s := packet.Subscribe{PacketID: canaryID, Subscriptions: []packet.Subscription{{Filter: c.topic, RetainHandling: 2}}}
	f.flights[canaryID] = flight{expect: packet.SUBACK}
	l.expect()
	l.gathering = s.Append(l.gathering, l.peer.version)
}

// onSuback takes the answer to begin. The error is for the log.
func (c *canary) onSuback(l *link, f *forwarder, a *packet.Suback) error {
	if g, ok := f.flights[canaryID]; !ok || g.expect != packet.SUBACK || len(a.Reasons) != 1 {
		return &brokenError{"SUBACK without a SUBSCRIBE"}
	}
	delete(f.flights, canaryID)
	l.answered()
	c.allowed = a.Reasons[0] < 0x80
	return nil
}

// beat sends a canary when it is time to, and judges the one that is under way.
func (c *canary) beat(l *link) error {
	if !c.allowed {
		return nil
	}
	if c.flying && l.now.Sub(c.sent) >= c.patience {
		c.flying, c.sent = false, time.Time{}
		c.missed++
		c.misses++
		if c.trusted && c.missed >= 2 {
			return errCanary
		}
	}
	if c.flying || l.now.Sub(c.sent) < c.interval {
		return nil
	}
	c.number++
	p := packet.Publish{Topic: c.topic, Payload: fmt.Appendf(nil, "forebay canary %s %d", c.token, c.number)}
	l.gathering = p.Append(l.gathering, l.peer.version)
	c.flying, c.sent = true, l.now
	return nil
}

// due is when beat has something to do; zero: it has nothing.
func (c *canary) due() time.Time {
	switch {
	case !c.allowed:
		return time.Time{}
	case c.flying:
		return c.sent.Add(c.patience)
	}
	return c.sent.Add(c.interval)
}

// caught reports whether p is a canary, which goes no further.
func (c *canary) caught(l *link, p *packet.Publish) bool {
	if len(c.topic) == 0 || p.QoS > 0 || !bytes.Equal(p.Topic, c.topic) {
		return false
	}
	var number uint64
	rest, ours := strings.CutPrefix(string(p.Payload[:min(len(p.Payload), 100)]), "forebay canary "+c.token+" ")
	if _, err := fmt.Sscan(rest, &number); !ours || err != nil {
		return true // of a former life, or somebody plays with it
	}
	c.trusted, c.proof, c.missed, c.back = true, true, 0, l.now
	if number == c.number && c.flying {
		c.flying, c.trip = false, l.now.Sub(c.sent)
	}
	return true
}

// awaited reports whether the link has still to prove itself with a canary.
func (c *canary) awaited() bool { return c.allowed && c.trusted && !c.proof }

// doubt says what the canary has against the link; empty: nothing.
func (c *canary) doubt() string {
	switch {
	case c.missed == 0:
		return ""
	case !c.trusted:
		return "the canary has not come back yet: does the upstream let this client publish and subscribe to canary.topic?"
	}
	return "the canary has not come back in time"
}
