package bridge

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"forebay/broker/packet"
)

var none packet.ConnackProperties

func TestForwardsInOrderAndForgetsWhatIsAcknowledged(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(1, "a/b", "one", "two", "three")
	c := u.welcome(false, none)
	c.want("PUBLISH 1 up/a/b one #2", "PUBLISH 1 up/a/b two #3", "PUBLISH 1 up/a/b three #4")
	for id := uint16(2); id <= 4; id++ {
		c.ack(packet.PUBACK, id, 0)
	}
	g.awaitEmpty()
	g.broker.sendAll(1, "a/b", "four")
	c.want("PUBLISH 1 up/a/b four #5")
	if s := g.bridge.Status(); s.Forwarded != 3 || s.State != Up || s.Protocol != "5.0" {
		t.Errorf("status %+v", s)
	}
}

func TestLostPubackIsResentWithDupAndNothingElseIs(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(1, "t", "a", "b", "c")
	c := u.welcome(false, none)
	c.want("PUBLISH 1 up/t a #2", "PUBLISH 1 up/t b #3", "PUBLISH 1 up/t c #4")
	c.ack(packet.PUBACK, 3, 0)
	g.awaitStatus("one acknowledgement", func(s Status) bool { return s.Forwarded == 1 })
	c.wantNothing()
	c.net.Close()

	c = u.welcome(true, none)
	c.want("PUBLISH 1 dup up/t a #2", "PUBLISH 1 dup up/t c #4") // [MQTT-4.4.0-1]
	g.broker.sendAll(1, "t", "d")
	c.want("PUBLISH 1 up/t d #5")
	c.wantNothing()
}

func TestQoS2LosingEachAnswer(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(2, "t", "x")
	c := u.welcome(false, none)
	c.want("PUBLISH 2 up/t x #2")
	c.net.Close() // PUBREC lost

	c = u.welcome(true, none)
	c.want("PUBLISH 2 dup up/t x #2")
	c.ack(packet.PUBREC, 2, 0)
	c.want("PUBREL 2")
	c.net.Close() // PUBCOMP lost

	c = u.welcome(true, none)
	c.want("PUBREL 2") // and never the PUBLISH again
	c.wantNothing()
	c.ack(packet.PUBREC, 2, 0) // repeated by the upstream
	c.want("PUBREL 2")
	c.ack(packet.PUBCOMP, 2, 0)
	g.awaitStatus("one forwarded", func(s Status) bool { return s.Forwarded == 1 && s.Backlog.Count == 0 })
}

func TestPubrelAndPubcompWaitForTheDiskAndNothingElseDoes(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withDown, nil)
	g.broker.sendAll(2, "t", "a")
	c := u.welcome(false, none)
	grant(c)
	c.want("PUBLISH 2 up/t a #2")
	c.publish(command(2, 9, "go"))
	c.want("PUBREC 9")
	g.disk.hold()
	c.ack(packet.PUBREC, 2, 0)
	c.ack(packet.PUBREL, 9, 0)
	g.broker.sendAll(1, "t", "b")
	c.want("PUBLISH 1 up/t b #3")
	c.ack(packet.PUBACK, 3, 0)
	g.awaitStatus("b forwarded", func(s Status) bool { return s.Forwarded == 1 })
	c.wantNothing() // D2
	g.disk.let()
	c.want("PUBREL 2", "PUBCOMP 9")

	// A reconnect does not release sooner either.
	g.broker.sendAll(2, "t", "c")
	c.want("PUBLISH 2 up/t c #4")
	g.disk.hold()
	c.ack(packet.PUBREC, 4, 0)
	c.wantNothing()
	c.net.Close()
	c = u.welcome(true, none)
	c.publish(command(0, 0, "the bridge does not read before it has taken up its session"))
	g.disk.let()
	c.want("PUBREL 2", "PUBREL 4")
}

func TestReconnectReleasesBeforeItRepeats(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(2, "t", "a", "b", "c")
	g.broker.sendAll(1, "t", "d")
	c := u.welcome(false, none)
	c.want("PUBLISH 2 up/t a #2", "PUBLISH 2 up/t b #3", "PUBLISH 2 up/t c #4", "PUBLISH 1 up/t d #5")
	c.ack(packet.PUBREC, 4, 0)
	c.want("PUBREL 4")
	c.ack(packet.PUBREC, 3, 0)
	c.want("PUBREL 3")
	c.net.Close()

	c = u.welcome(true, none)
	c.want("PUBREL 3", "PUBREL 4", "PUBLISH 2 dup up/t a #2", "PUBLISH 1 dup up/t d #5")
}

func TestSessionLostUpstream(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(1, "t", "one")
	g.broker.sendAll(2, "t", "unreceived", "released")
	c := u.welcome(false, none)
	c.want("PUBLISH 1 up/t one #2", "PUBLISH 2 up/t unreceived #3", "PUBLISH 2 up/t released #4")
	c.ack(packet.PUBREC, 4, 0)
	c.want("PUBREL 4")
	c.net.Close()

	c = u.welcome(false, none)
	c.want("PUBLISH 1 up/t one #2", "PUBLISH 2 up/t unreceived #3") // as new: no DUP
	c.wantNothing()
	if s := g.bridge.Status(); s.Forwarded != 1 || s.Backlog.Count != 2 {
		t.Errorf("the released message is finished: %+v", s)
	}
	// In the new session they have been sent once.
	c.net.Close()
	c = u.welcome(true, none)
	c.want("PUBLISH 1 dup up/t one #2", "PUBLISH 2 dup up/t unreceived #3")
}

func TestRestartOfTheGatewayContinuesTheSession(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(1, "t", "one")
	g.broker.sendAll(2, "t", "two", "three")
	c := u.welcome(false, none)
	c.want("PUBLISH 1 up/t one #2", "PUBLISH 2 up/t two #3", "PUBLISH 2 up/t three #4")
	c.ack(packet.PUBREC, 3, 0)
	c.want("PUBREL 3")
	c.net.Close()
	g.stop()
	g.start()

	c = u.accept()
	if c.hello().CleanStart {
		t.Error("a session that the store knows is taken up, not thrown away")
	}
	c.send((&packet.Connack{SessionPresent: true}).Append(nil, c.v))
	c.want("PUBREL 3", "PUBLISH 1 dup up/t one #2", "PUBLISH 2 dup up/t three #4")
	g.broker.sendAll(1, "t", "four")
	c.want("PUBLISH 1 up/t four #5")
}

func TestStoreWithoutSessionRemovesTheOneUpstream(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(2, "t", "a")
	c := u.accept()
	if hello := c.hello(); !hello.CleanStart || hello.Properties.SessionExpiry != 0 {
		t.Error("packet identifiers of a session nobody remembers would be taken for repetitions")
	}
	c.send((&packet.Connack{}).Append(nil, c.v))
	c.wantEnd()
	c = u.accept()
	hello := c.hello()
	if hello.CleanStart || string(hello.ClientID) != "plant7-cloud" || hello.Properties.SessionExpiry != 720*3600 || hello.KeepAlive != 30 {
		t.Errorf("CONNECT %+v", hello)
	}
	c.send((&packet.Connack{SessionPresent: true}).Append(nil, c.v)) // an empty one
	c.want("PUBLISH 2 up/t a #2")
}

func TestReceiveMaximumOne(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(1, "t", "a")
	g.broker.sendAll(2, "t", "b")
	g.broker.sendAll(1, "t", "c")
	c := u.welcome(false, packet.ConnackProperties{ReceiveMaximum: 1})
	c.want("PUBLISH 1 up/t a #2")
	c.wantNothing() // [MQTT-3.3.4-7]
	c.ack(packet.PUBACK, 2, 0)
	c.want("PUBLISH 2 up/t b #3")
	c.ack(packet.PUBREC, 3, 0)
	c.want("PUBREL 3")
	c.wantNothing() // the exchange counts until PUBCOMP
	c.ack(packet.PUBCOMP, 3, 0)
	c.want("PUBLISH 1 up/t c #4")
}

func TestRefusedForGoodIsDroppedAndTheQueueGoesOn(t *testing.T) {
	for _, reason := range []packet.Reason{packet.ReasonNotAuthorized, packet.ReasonTopicNameInvalid,
		packet.ReasonPacketTooLarge, packet.ReasonPayloadFormatInvalid, packet.ReasonImplementationSpecificError} {
		t.Run(reason.String(), func(t *testing.T) {
			u := newUpstream(t)
			g := newGateway(t, u.address(), nil, nil)
			g.broker.sendAll(1, "t", "a")
			g.broker.sendAll(2, "t", "b")
			g.broker.sendAll(1, "t", "c")
			c := u.welcome(false, packet.ConnackProperties{ReceiveMaximum: 1})
			c.want("PUBLISH 1 up/t a #2")
			c.ack(packet.PUBACK, 2, reason)
			c.want("PUBLISH 2 up/t b #3")
			c.ack(packet.PUBREC, 3, reason)
			c.want("PUBLISH 1 up/t c #4") // no PUBREL: the exchange is over [MQTT-4.3.3-4]
			cause := strings.ReplaceAll(strings.ToLower(reason.String()), " ", "-")
			g.awaitStatus("two drops", func(s Status) bool { return s.Dropped[cause] == 2 })
			if n := g.bridge.Status().Forwarded; n != 0 {
				t.Errorf("forwarded %d, want 0", n)
			}
		})
	}
}

func TestRefusedForNowWaitsAndIsNotLost(t *testing.T) {
	for _, reason := range []packet.Reason{packet.ReasonQuotaExceeded, packet.ReasonMessageRateTooHigh, packet.ReasonServerBusy} {
		t.Run(reason.String(), func(t *testing.T) {
			u := newUpstream(t)
			g := newGateway(t, u.address(), nil, nil)
			g.broker.sendAll(1, "t", "a", "b")
			g.broker.sendAll(2, "t", "c")
			c := u.welcome(false, none)
			c.want("PUBLISH 1 up/t a #2", "PUBLISH 1 up/t b #3", "PUBLISH 2 up/t c #4")
			c.ack(packet.PUBACK, 2, reason)
			c.ack(packet.PUBACK, 3, 0)
			c.wantNothing() // not before everything in flight is answered
			c.ack(packet.PUBREC, 4, reason)
			c.want("PUBLISH 1 up/t a #2", "PUBLISH 2 up/t c #4") // new exchanges: no DUP
			c.ack(packet.PUBACK, 2, 0)
			c.ack(packet.PUBREC, 4, 0)
			c.want("PUBREL 4")
			c.ack(packet.PUBCOMP, 4, 0)
			g.awaitStatus("all forwarded", func(s Status) bool { return s.Forwarded == 3 && s.Backlog.Count == 0 })
			if s := g.bridge.Status(); len(s.Dropped) != 1 { // the one of wantNothing
				t.Errorf("status %+v", s)
			}
			if n := g.lines.count("refuses messages for now"); n != 1 {
				t.Errorf("logged %d times, want once", n)
			}
		})
	}
}

func TestLimitsOfThePeer(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	p := packet.ConnackProperties{MaximumPacketSize: 100, HasMaximumQoS: true, MaximumQoS: 1, NoRetain: true}
	c := u.welcome(false, p)
	g.broker.send(packet.Publish{QoS: 1, Topic: []byte("t"), Payload: make([]byte, 100)})
	g.broker.send(packet.Publish{QoS: 2, Retain: true, Topic: []byte("t"), Payload: []byte("small")})
	c.want("PUBLISH 1 up/t small #3") // [MQTT-3.2.2-11], [MQTT-3.2.2-14], [MQTT-3.2.2-15]
	c.ack(packet.PUBACK, 3, 0)
	g.awaitEmpty()
	if n := g.bridge.Status().Dropped["too-large"]; n != 1 {
		t.Errorf("dropped %d too large, want 1", n)
	}
}

func TestExpiryIsCountedDown(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	message := func(text string, expiry uint32) packet.Publish {
		return packet.Publish{QoS: 1, Topic: []byte("t"), Payload: []byte(text),
			PublishProperties: packet.PublishProperties{HasExpiry: true, Expiry: expiry}}
	}
	// A second of tolerance on either side would hide an error of one: whole hours cannot be missed.
	old := time.Now().Add(-2*time.Hour - 500*time.Millisecond)
	g.broker.sendAt(message("late", 7200), old)
	g.broker.sendAt(message("fresh", 10800), old)
	c := u.welcome(false, none)
	f := c.wantType(packet.PUBLISH)
	var got packet.Publish
	if err := got.Decode(f, packet.V5); err != nil {
		t.Fatal(err)
	}
	if string(got.Payload) != "fresh" || got.Expiry > 3600 || got.Expiry < 3500 {
		t.Errorf("got %s", describe(f, packet.V5))
	}
	g.awaitStatus("one expired", func(s Status) bool { return s.Dropped["expired"] == 1 })
}

func TestPacketIdentifiersAreNeverUsedTwice(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	const count = 3*idsPerLane + 5
	for i := 1; i <= count; i++ {
		g.broker.sendAll(1, "t", fmt.Sprint(i))
	}
	c := u.welcome(false, none)
	var p packet.Publish
	take := func(n int) {
		t.Helper()
		if err := p.Decode(c.wantType(packet.PUBLISH), packet.V5); err != nil {
			t.Fatal(err)
		}
		if string(p.Payload) != fmt.Sprint(n) || p.PacketID != uint16(n%idsPerLane)+1 {
			t.Fatalf("message %s with identifier %d, want %d", p.Payload, p.PacketID, n)
		}
	}
	take(1)
	var acks []byte
	for n := 2; n <= maxWindow; n++ {
		take(n)
		acks = (&packet.Ack{Type: packet.PUBACK, PacketID: p.PacketID}).Append(acks, packet.V5)
		if len(acks) > 8000 {
			c.send(acks)
			acks = acks[:0]
		}
	}
	c.send(acks)
	g.awaitStatus("all but one acknowledged", func(s Status) bool { return s.Forwarded == maxWindow-1 })
	c.wantNothing() // the first is still in flight: its neighbours round the corner wait
	c.ack(packet.PUBACK, 2, 0)
	for n := maxWindow + 1; n <= count; n++ {
		take(n)
		c.ack(packet.PUBACK, p.PacketID, 0)
	}
	g.awaitEmpty()
}

func TestFrozenUpstreamIsStalledAndNothingIsResentOnTheSameLink(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, func(b *Bridge) { b.patience.ack = 300 * time.Millisecond })
	g.broker.sendAll(1, "t", "a")
	c := u.welcome(false, none)
	c.want("PUBLISH 1 up/t a #2")
	c.wantEnd() // and no second PUBLISH before it
	g.awaitStatus("stalled", func(s Status) bool { return s.State == Stalled })

	c = u.welcome(true, none)
	c.want("PUBLISH 1 dup up/t a #2")
	if s := g.bridge.Status(); s.State != Stalled {
		t.Errorf("state %s: an upstream that stalled has to prove itself", s.State)
	}
	c.ack(packet.PUBACK, 2, 0)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	if n := g.lines.count("has stopped acknowledging"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
}

func TestHalfClosedUpstream(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(1, "t", "a")
	c := u.welcome(false, none)
	c.want("PUBLISH 1 up/t a #2")
	if err := c.net.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.wantEnd()
	c = u.welcome(true, none)
	c.want("PUBLISH 1 dup up/t a #2")
}

func TestQoS0IsDroppedAndCountedWhileTheLinkIsAway(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	live := func(text string) { g.broker.live(&packet.Publish{Topic: []byte("t"), Payload: []byte(text)}) }
	live("early")
	if n := g.bridge.Status().Dropped["qos0-offline"]; n != 1 {
		t.Errorf("dropped %d, want 1", n)
	}
	c := u.welcome(false, none)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	live("now")
	c.want("PUBLISH 0 up/t now")
	g.awaitStatus("one forwarded", func(s Status) bool { return s.Forwarded == 1 })
}

func TestQoS0BufferIsBounded(t *testing.T) {
	q := liveBuffer{wake: func() {}, open: true}
	p := packet.Publish{Topic: []byte("t"), Payload: make([]byte, 1000)}
	for range 2000 {
		q.put(&p)
	}
	batch := q.take(nil)
	if _, overflow := q.dropped(); len(batch) > liveLimit || overflow == 0 {
		t.Errorf("%d bytes held, %d dropped", len(batch), overflow)
	}
	q.put(&p)
	q.setOpen(false)
	if offline, _ := q.dropped(); offline != 1 {
		t.Errorf("%d counted when the link went, want 1", offline)
	}
}

func TestRetainPolicyAndExcludes(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), func(c *Config) {
		c.Up = []UpRule{
			{Filter: "force/#", Topic: "{topic}", Retain: "force"},
			{Filter: "drop/#", Topic: "{topic}", Retain: "drop"},
			{Filter: "keep/#", Topic: "{topic}", Exclude: []string{"keep/+/secret"}},
		}
	}, nil)
	c := u.welcome(false, none)
	send := func(topic string, retain bool) {
		g.broker.send(packet.Publish{QoS: 1, Retain: retain, Topic: []byte(topic), Payload: []byte("x")})
	}
	send("force/a", false)
	send("drop/a", true)
	send("keep/a/secret", false)
	send("keep/a", true)
	c.want("PUBLISH 1 retain force/a x #2", "PUBLISH 1 drop/a x #3", "PUBLISH 1 retain keep/a x #4")
}

func TestStopTakesLeave(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(1, "t", "a")
	c := u.welcome(false, none)
	c.want("PUBLISH 1 up/t a #2")
	stopped := make(chan struct{})
	go func() { g.stop(); close(stopped) }()
	c.ack(packet.PUBACK, 2, 0)
	c.want("DISCONNECT Success")
	<-stopped
	g.broker.await("the retained state", func(got []Message) bool {
		last := ""
		for _, m := range got {
			if m.Topic == "$SYS/broker/connection/cloud/state" && m.Retain {
				last += string(m.Payload)
			}
		}
		return last == "010"
	})
}
