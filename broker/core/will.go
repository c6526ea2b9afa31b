package core

import (
	"time"

	"forebay/broker/packet"
)

// will is a will message and when it is due.
type will struct {
	delay uint32 // seconds after the end of the connection
	// body is the message as an encoded 5.0 PUBLISH, with its own QoS and retain flag.
	body []byte
}

// newWill takes the will out of a CONNECT.
func newWill(p *packet.Connect) *will {
	m := packet.Publish{
		Retain: p.Will.Retain, QoS: p.Will.QoS, Topic: p.Will.Topic, Payload: p.Will.Payload, // [MQTT-3.1.2-9]
		PublishProperties: p.Will.PublishProperties, // user properties in their order [MQTT-3.1.3-10]
	}
	if m.QoS > 0 {
		m.PacketID = 1
	}
	return &will{delay: p.Will.WillDelay, body: m.Append(nil, packet.V5)}
}

// publishWill publishes the will of s, once [MQTT-3.1.2-8] [MQTT-3.1.2-10]. A will that the log does not take is
// lost: there is nobody to refuse it to, so it is counted.
func (c *Core) publishWill(s *session) {
	w := s.will
	s.will = nil
	p := packet.Publish{}
	if err := decodeMessage(&p, w.body); err != nil {
		c.stats.DroppedWills++
		return
	}
	a := c.cfg.Authorizer
	if a != nil && !a.MayPublish(s.clientID, s.username, p.Topic) || c.checkTopic(p.Topic) != packet.ReasonSuccess {
		c.stats.DroppedWills++
		return
	}
	if _, err := c.publish(&publication{p: &p, from: s.clientID}); err != nil {
		c.stats.DroppedWills++
	}
}

// restoreWill decides when the will of a restored session is due. The client was connected when the gateway stopped,
// and what it missed is a broken connection: its will waits for its delay, and at least as long as silence would
// have been tolerated, so that a device that comes back at once after a restart is not reported dead.
func (c *Core) restoreWill(s *session, connected bool) {
	if s.will == nil {
		return
	}
	wait := time.Duration(s.will.delay) * time.Second
	if connected {
		wait = max(wait, s.quiet)
	} else {
		wait = max(0, wait-(c.clock-s.left))
	}
	s.willDue = c.clock + wait
	c.due(s.willDue)
}
