package bridge

import (
	"strings"
	"testing"
	"time"

	"forebay/broker/packet"
)

func withCanary(c *Config) {
	one := 0
	c.Up = []UpRule{{Filter: "#", Topic: "up/{topic}", QoS: &one}}
	c.Canary = CanaryConfig{Topic: "canary/{site}", Interval: time.Second}
}

// quick makes canaries come often, and those that are lost known soon.
func quick(b *Bridge) {
	b.canary.interval, b.canary.patience = 10*time.Millisecond, 500*time.Millisecond
	b.patience.status = 5 * time.Millisecond
}

// grantCanary answers the canary's SUBSCRIBE and returns the first canary.
func grantCanary(t *testing.T, c *peerConn) packet.Publish {
	t.Helper()
	var s packet.Subscribe
	if err := s.Decode(c.wantType(packet.SUBSCRIBE), c.v); err != nil {
		t.Fatal(err)
	}
	if len(s.Subscriptions) != 1 || string(s.Subscriptions[0].Filter) != "canary/plant7" || s.Subscriptions[0].NoLocal {
		t.Fatalf("SUBSCRIBE %+v", s)
	}
	c.send((&packet.Suback{PacketID: s.PacketID, Reasons: []packet.Reason{0}}).Append(nil, c.v))
	return nextCanary(t, c)
}

func nextCanary(t *testing.T, c *peerConn) packet.Publish {
	t.Helper()
	var p packet.Publish
	if err := p.Decode(c.wantType(packet.PUBLISH), c.v); err != nil {
		t.Fatal(err)
	}
	if string(p.Topic) != "canary/plant7" || p.QoS != 0 {
		t.Fatalf("PUBLISH %s with QoS %d, want a canary", p.Topic, p.QoS)
	}
	return p
}

// hivemq-edge 1290, mosquitto 2362: a bridge that says it is connected and moves nothing. Here all is QoS 0, nothing is
// ever acknowledged, and the upstream answers every PINGREQ.
func TestHivemqEdge1290ConnectedAndMovesNothing(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withCanary, quick)
	c := u.welcome(false, none)
	c.publish(grantCanary(t, c))
	g.awaitStatus("a canary that is back", func(s Status) bool { return s.State == Up && s.Canary != nil && s.Canary.Back != nil })
	if got := g.broker.messages(); len(got) > 0 {
		t.Errorf("a canary came out of its cage: %q", got)
	}
	for { // no canary comes back any more
		if _, err := c.next(); err != nil {
			break
		}
	}
	g.awaitStatus("stalled", func(s Status) bool {
		return s.State == Stalled && strings.Contains(s.LastError, "moving messages") && s.Canary.Misses >= 2
	})

	c = u.welcome(true, none)
	p := grantCanary(t, c) // the upstream acknowledges the subscription: that is no proof
	if s := g.bridge.Status(); s.State != Stalled {
		t.Errorf("state %s before a canary is back", s.State)
	}
	c.publish(p)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
}

func TestCanaryThatTheUpstreamForbidsEndsNothing(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withCanary, quick)
	c := u.welcome(false, none)
	grantCanary(t, c)
	for range 3 {
		nextCanary(t, c)
	}
	g.awaitStatus("degraded", func(s Status) bool {
		return s.State == Degraded && strings.Contains(s.LastError, "canary.topic")
	})
	g.broker.await("the link shown as there", func(got []Message) bool {
		state := ""
		for _, m := range got {
			if m.Topic == "$SYS/broker/connection/cloud/state" {
				state += string(m.Payload)
			}
		}
		return state == "01"
	})
}

func TestLateAcknowledgementsDegradeTheLink(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, func(b *Bridge) { b.patience.ack = 3 * time.Second })
	g.broker.sendAll(1, "t", "a")
	c := u.welcome(false, none)
	c.want("PUBLISH 1 up/t a #2")
	g.awaitStatus("degraded", func(s Status) bool { return s.State == Degraded && strings.Contains(s.LastError, "slow") })
	c.ack(packet.PUBACK, 2, 0)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up && s.LastError == "" })
}
