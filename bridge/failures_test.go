package bridge

import (
	"fmt"
	"testing"
	"time"

	"forebay/broker/packet"
)

// What users of other bridges report, each a test named for the report. Others are where their subject is:
// TestMosquitto1359BacklogIsHeldBack, TestIotedge2486LiveDataGoesBeforeTheBacklog,
// TestHivemqEdge1290ConnectedAndMovesNothing.

// mosquitto 3400: what was sent between the death of a link and its discovery is lost.
func TestMosquitto3400FirstSecondsOfAnOutage(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, func(b *Bridge) { b.patience.ack = 300 * time.Millisecond })
	dead := u.welcome(false, none) // it reads no more: the bytes go into the buffers of the system
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	for i := range 100 {
		g.broker.sendAll(byte(1+i%2), "t", fmt.Sprint(i))
	}
	g.awaitStatus("the link to be given up", func(s Status) bool { return s.State == Stalled })
	g.broker.sendAll(1, "t", "100")
	c := u.welcome(true, none)
	dead.net.Close()
	for i := range 101 {
		var p packet.Publish
		if err := p.Decode(c.wantType(packet.PUBLISH), c.v); err != nil {
			t.Fatal(err)
		}
		if string(p.Payload) != fmt.Sprint(i) || p.Dup != (i < 100) {
			t.Fatalf("message %d is %q, dup %v", i, p.Payload, p.Dup)
		}
	}
}

// mosquitto 3394, 3472: everything is configured to keep messages during an outage, and they are dropped all the same.
// Here the upstream has never been there, the devices send QoS 0 and 1, and the gateway restarts.
func TestMosquitto3394And3472NothingIsDroppedWhileTheUpstreamIsAway(t *testing.T) {
	u := newUpstream(t)
	address := u.listener.Addr().String()
	u.listener.Close()
	g := newGateway(t, "mqtt://"+address, withRules(UpRule{Filter: "#", Lift: 1}), nil)
	for i := range 50 {
		g.broker.sendAll(byte(i%2), "t", fmt.Sprint(i))
	}
	g.stop()
	g.start()
	for i := range 50 {
		g.broker.sendAll(byte(i%2), "t", fmt.Sprint(50+i))
	}
	u = newUpstreamAt(t, address)
	c := u.welcome(false, packet.ConnackProperties{ReceiveMaximum: 7})
	for i := range 100 {
		var p packet.Publish
		if err := p.Decode(c.wantType(packet.PUBLISH), c.v); err != nil {
			t.Fatal(err)
		}
		if string(p.Payload) != fmt.Sprint(i) || p.QoS != 1 {
			t.Fatalf("message %d is %q with QoS %d", i, p.Payload, p.QoS)
		}
		c.ack(packet.PUBACK, p.PacketID, 0)
	}
	g.awaitEmpty()
	if s := g.bridge.Status(); len(s.Dropped) > 0 || s.Forwarded != 100 {
		t.Errorf("forwarded %d, dropped %v", s.Forwarded, s.Dropped)
	}
}

// mosquitto 3275: after a reconnect PUBREL is never sent, and the exchange hangs.
func TestMosquitto3275PubrelComesAfterTheReconnect(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(2, "t", "a", "b")
	c := u.welcome(false, packet.ConnackProperties{ReceiveMaximum: 2})
	c.want("PUBLISH 2 up/t a #2", "PUBLISH 2 up/t b #3")
	c.ack(packet.PUBREC, 2, 0)
	c.want("PUBREL 2")
	c.net.Close()
	c = u.welcome(true, packet.ConnackProperties{ReceiveMaximum: 2})
	c.want("PUBREL 2", "PUBLISH 2 dup up/t b #3")
	// PUBREC comes on the new link: PUBREL follows it there.
	c.ack(packet.PUBREC, 3, 0)
	c.want("PUBREL 3")
	c.ack(packet.PUBCOMP, 3, 0)
	c.ack(packet.PUBCOMP, 2, 0)
	g.broker.sendAll(2, "t", "c") // the places in the window are free again
	c.want("PUBLISH 2 up/t c #4")
	g.awaitStatus("two forwarded", func(s Status) bool { return s.Forwarded == 2 })
}

// mosquitto 2165: the same QoS 2 messages are sent over and over again.
func TestMosquitto2165QoS2IsNotRepeatedForEver(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(2, "t", "a", "b")
	c := u.welcome(false, none)
	c.want("PUBLISH 2 up/t a #2", "PUBLISH 2 up/t b #3")
	c.ack(packet.PUBREC, 2, 0)
	c.want("PUBREL 2")
	for range 3 { // the upstream has lost the answer each time
		c.net.Close()
		c = u.welcome(true, none)
		c.want("PUBREL 2", "PUBLISH 2 dup up/t b #3")
		c.wantNothing()
	}
	// It says that it knows nothing of the one, and refuses the other: both are over.
	c.ack(packet.PUBCOMP, 2, packet.ReasonPacketIdentifierNotFound)
	c.ack(packet.PUBREC, 3, packet.ReasonUnspecifiedError)
	g.awaitEmpty()
	c.wantNothing()
	c.net.Close()
	c = u.welcome(true, none)
	c.wantNothing()
}

// mosquitto 2362: the bridge is connected, and nothing goes through. Here the upstream takes everything, answers
// PINGREQ and acknowledges nothing: every link is given up, the state says so, and it goes on when the upstream does.
func TestMosquitto2362ConnectedWithoutAcknowledgements(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, func(b *Bridge) { b.patience.ack = 300 * time.Millisecond })
	g.broker.sendAll(1, "t", "a")
	for i := range 2 {
		c := u.welcome(i > 0, none)
		c.wantType(packet.PUBLISH)
		c.wantEnd()
		g.awaitStatus("stalled", func(s Status) bool { return s.State == Stalled })
	}
	c := u.welcome(true, none)
	c.want("PUBLISH 1 dup up/t a #2")
	c.ack(packet.PUBACK, 2, 0)
	g.awaitStatus("up, and nothing waits", func(s Status) bool { return s.State == Up && s.Backlog.Count == 0 })
}
