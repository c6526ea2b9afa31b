package bridge

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"forebay/broker/packet"
	"forebay/storage"
)

// withDown makes a bridge that also takes commands.
func withDown(c *Config) {
	c.Down = []DownRule{{Filter: "sites/{site}/cmd/#", Topic: "plant/{1}"}, {Filter: "all/+/{rest:rest}", Topic: "{rest}/of/{1}"}}
}

const subscribes = "SUBSCRIBE sites/plant7/cmd/#:2:nolocal all/+/#:2:nolocal"

// grant reads SUBSCRIBE and answers it.
func grant(c *peerConn, reasons ...packet.Reason) {
	c.t.Helper()
	var s packet.Subscribe
	f := c.wantType(packet.SUBSCRIBE)
	if err := s.Decode(f, c.v); err != nil {
		c.t.Fatal(err)
	}
	if len(reasons) == 0 {
		for _, x := range s.Subscriptions {
			reasons = append(reasons, packet.Reason(x.QoS))
		}
	}
	c.send((&packet.Suback{PacketID: s.PacketID, Reasons: reasons}).Append(nil, c.v))
}

func command(qos byte, id uint16, text string) packet.Publish {
	return packet.Publish{QoS: qos, PacketID: id, Topic: []byte("sites/plant7/cmd/press4/set"), Payload: []byte(text)}
}

func TestCommandsAreAcknowledgedWhenTheBrokerHasThem(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withDown, nil)
	g.broker.setHold()
	c := u.welcome(false, none)
	c.want(subscribes)
	c.publish(command(1, 7, "a"))
	c.publish(command(2, 8, "b"))
	c.publish(command(0, 0, "c"))
	g.broker.sendAll(1, "t", "meanwhile")
	c.want("PUBLISH 1 up/t meanwhile #2") // nothing before: the broker has not said yes
	g.broker.awaitHeld(3)
	g.broker.let()
	c.want("PUBACK 7", "PUBREC 8")
	if got := g.broker.messages(); !slices.Equal(got, []string{"plant/press4/set a", "plant/press4/set b", "plant/press4/set c"}) {
		t.Errorf("published %q", got)
	}
	c.ack(packet.PUBREL, 8, 0)
	c.want("PUBCOMP 8")
	c.ack(packet.PUBREL, 8, 0)
	c.want("PUBCOMP 8 Packet Identifier not found")
}

func TestMessageIsCopiedAsItWasPublished(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withDown, nil)
	c := u.welcome(false, none)
	grant(c)
	p := packet.Publish{QoS: 1, PacketID: 1, Retain: true, Topic: []byte("all/one/two/three"), Payload: []byte("x"),
		PublishProperties: packet.PublishProperties{HasExpiry: true, Expiry: 9, ContentType: []byte("text"), ResponseTopic: []byte("r"),
			HasCorrelation: true, Correlation: []byte("c"), SubscriptionIDs: []uint32{4},
			UserProperties: []packet.UserProperty{{Name: []byte("n"), Value: []byte("v")}}}}
	c.publish(p)
	c.want("PUBACK 1")
	c.publish(command(1, 2, strings.Repeat("overwrites the reader's buffer", 10)))
	c.want("PUBACK 2")
	g.broker.awaitMessages(2)
	g.broker.mu.Lock()
	defer g.broker.mu.Unlock()
	i := slices.IndexFunc(g.broker.got, func(m Message) bool { return m.Topic == "two/three/of/one" })
	if i < 0 {
		t.Fatalf("published %+v", g.broker.got)
	}
	m := g.broker.got[i]
	q := m.Properties
	if string(m.Payload) != "x" || !m.Retain || m.QoS != 1 || m.Origin != "cloud" || m.Origin != g.broker.at.Name ||
		q.Expiry != 9 || string(q.ContentType) != "text" || string(q.ResponseTopic) != "r" || string(q.Correlation) != "c" ||
		q.SubscriptionIDs != nil || string(q.UserProperties[0].Name) != "n" || string(q.UserProperties[0].Value) != "v" {
		t.Errorf("published %+v", m)
	}
}

func TestInboundQoS2IsDeliveredOnceOverEveryBreak(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withDown, nil)
	c := u.welcome(false, none)
	grant(c)
	c.publish(command(2, 9, "go"))
	c.want("PUBREC 9")
	c.net.Close() // the upstream never saw PUBREC

	again := command(2, 9, "go")
	again.Dup = true
	c = u.welcome(true, none)
	c.publish(again)
	c.want("PUBREC 9")
	c.net.Close()
	g.stop()
	g.start() // the gateway restarts

	c = u.welcome(true, none)
	grant(c)
	c.publish(again)
	c.want("PUBREC 9")
	if got := g.broker.messages(); len(got) != 0 {
		t.Errorf("delivered again after the restart: %q", got)
	}
	c.ack(packet.PUBREL, 9, 0)
	c.want("PUBCOMP 9")
	c.publish(command(2, 9, "another with the same identifier"))
	c.want("PUBREC 9")
	if got := g.broker.messages(); len(got) != 1 {
		t.Errorf("delivered %q", got)
	}
}

// The upstream released a message, lost the connection and released it again before the disk had taken the first
// removal. The second PUBREL found nothing to remove and was never answered: its identifier was blocked for ever.
func TestPubrelRepeatedOnTheNextLinkIsAnswered(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withDown, nil)
	c := u.welcome(false, none)
	grant(c)
	c.publish(command(2, 9, "go"))
	c.want("PUBREC 9")
	g.disk.hold()
	c.ack(packet.PUBREL, 9, 0)
	c.wantNothing()
	c.net.Close()
	c = u.welcome(true, none)
	c.ack(packet.PUBREL, 9, 0)
	c.wantNothing()
	g.disk.let()
	c.want("PUBCOMP 9")
}

func TestInboundIdentifiersGoWithTheSession(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withDown, nil)
	c := u.welcome(false, none)
	grant(c)
	g.broker.setHold()
	c.publish(command(2, 9, "old"))
	g.broker.awaitHeld(1)
	c.net.Close() // while the broker still has it
	c = u.welcome(false, none)
	g.broker.let()
	grant(c)
	c.publish(command(2, 9, "new"))
	c.want("PUBREC 9")
	if got := g.broker.messages(); !slices.Equal(got, []string{"plant/press4/set old", "plant/press4/set new"}) {
		t.Errorf("published %q", got)
	}
	g.stop()
	g.start()
	c = u.welcome(false, none)
	grant(c)
	c.publish(command(2, 9, "newest"))
	c.want("PUBREC 9")
	if got := g.broker.messages(); !slices.Equal(got, []string{"plant/press4/set newest"}) {
		t.Errorf("published %q", got)
	}
}

func TestCommandRefusedByAFullQueue(t *testing.T) {
	full := func(m *Message) error {
		if string(m.Payload) == "refused" {
			return &storage.FullError{Consumer: "session/x", Limit: "bytes"}
		}
		return nil
	}
	t.Run("5.0 says so", func(t *testing.T) {
		u := newUpstream(t)
		g := newGateway(t, u.address(), withDown, nil)
		g.broker.setRefuse(full)
		c := u.welcome(false, none)
		grant(c)
		c.publish(command(1, 1, "refused"))
		c.publish(command(2, 2, "refused"))
		c.publish(command(1, 3, "taken"))
		c.want("PUBACK 1 Quota exceeded", "PUBREC 2 Quota exceeded", "PUBACK 3")
		c.publish(command(2, 2, "taken: the identifier is free again"))
		c.want("PUBREC 2")
		g.awaitStatus("two refused", func(s Status) bool { return s.Dropped["down-refused"] == 2 })
	})
	t.Run("3.1.1 keeps it", func(t *testing.T) {
		u := newUpstream(t)
		g := newGateway(t, u.address(), withDown, nil)
		g.broker.setRefuse(full)
		c := oldUpstream(u)
		grant(c)
		c.publish(command(1, 1, "refused"))
		c.publish(command(2, 2, "refused"))
		c.publish(command(1, 3, "taken"))
		c.want("PUBACK 3")
		c.net.Close()
		g.broker.setRefuse(nil)
		c = u.accept()
		c.v = packet.V311
		c.wantType(packet.CONNECT)
		c.send((&packet.Connack{SessionPresent: true}).Append(nil, c.v))
		c.publish(command(1, 1, "refused"))
		c.publish(command(2, 2, "refused"))
		c.want("PUBACK 1", "PUBREC 2")
	})
}

func TestBusyBrokerIsAskedAgainAndOrderIsKept(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withDown, nil)
	first := true
	g.broker.setRefuse(func(m *Message) error {
		if first && string(m.Payload) == "busy" {
			first = false
			return errors.New("busy")
		}
		return nil
	})
	c := u.welcome(false, none)
	grant(c)
	c.publish(command(2, 1, "busy"))
	c.publish(command(1, 2, "next"))
	c.want("PUBREC 1", "PUBACK 2") // answers in the order of the messages
	if got := g.broker.messages(); len(got) != 2 {
		t.Errorf("published %q", got)
	}
}

func TestMessageTheBrokerWillNeverTake(t *testing.T) {
	never := func(*Message) error { return &packet.Error{Reason: packet.ReasonTopicNameInvalid} }
	for _, v := range []packet.Version{packet.V5, packet.V311} {
		t.Run(v.String(), func(t *testing.T) {
			u := newUpstream(t)
			g := newGateway(t, u.address(), withDown, nil)
			g.broker.setRefuse(never)
			var c *peerConn
			if v == packet.V5 {
				c = u.welcome(false, none)
			} else {
				c = oldUpstream(u)
			}
			grant(c)
			c.publish(command(1, 1, "x"))
			c.publish(command(2, 2, "y"))
			if v == packet.V5 {
				c.want("PUBACK 1 Topic Name invalid", "PUBREC 2 Topic Name invalid")
			} else {
				c.want("PUBACK 1", "PUBREC 2") // 3.1.1 has no way to refuse: it is counted
			}
			g.awaitStatus("two refused", func(s Status) bool { return s.Dropped["down-refused"] == 2 })
		})
	}
}

func TestFailedStoreAcknowledgesNothing(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withDown, nil)
	offers := make(chan struct{}, 100)
	g.broker.setRefuse(func(*Message) error { offers <- struct{}{}; return storage.ErrFailed })
	c := u.welcome(false, none)
	grant(c)
	c.publish(command(1, 1, "x"))
	<-offers
	g.broker.sendAll(1, "t", "meanwhile")
	c.want("PUBLISH 1 up/t meanwhile #2") // D4: and no PUBACK before it
	g.broker.setRefuse(nil)
	c.want("PUBACK 1") // once it has been opened again
}

func TestRefusedSubscriptionIsNamed(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withDown, nil)
	c := u.welcome(false, none)
	grant(c, packet.ReasonGrantedQoS2, packet.ReasonNotAuthorized)
	c.wantNothing()
	if n := g.lines.count("all/+/#: not authorized (0x87)"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
	c.net.Close()
	c = u.welcome(true, none)
	grant(c) // asked again
	c.wantNothing()
	c.net.Close()
	c = u.welcome(true, none)
	c.wantNothing() // granted: a repetition would bring retained commands again
}

func TestSubscribeDoesNotUseAnIdentifierThatIsInFlight(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withDown, nil)
	for range 20 {
		g.broker.sendAll(2, "t", "x")
	}
	c := u.welcome(false, none)
	grant(c)
	for id := uint16(2); id < 22; id++ {
		c.wantType(packet.PUBLISH)
		if id < 12 {
			c.ack(packet.PUBREC, id, 0)
		}
	}
	for range 10 {
		c.wantType(packet.PUBREL)
	}
	c.net.Close()
	g.stop()
	g.start()
	c = u.welcome(true, none)
	used := map[uint16]bool{}
	for range 10 {
		var a packet.Ack
		if err := a.Decode(c.wantType(packet.PUBREL), c.v); err != nil {
			t.Fatal(err)
		}
		used[a.PacketID] = true
	}
	var s packet.Subscribe
	if err := s.Decode(c.wantType(packet.SUBSCRIBE), c.v); err != nil {
		t.Fatal(err)
	}
	if used[s.PacketID] || s.PacketID >= 2 && s.PacketID < 22 {
		t.Errorf("SUBSCRIBE with identifier %d, which a message has [MQTT-2.2.1-3]", s.PacketID)
	}
	c.send((&packet.Suback{PacketID: s.PacketID, Reasons: []packet.Reason{2, 2}}).Append(nil, c.v))
	c.want("PUBLISH 2 dup up/t x #12")
}

func TestManyFiltersAreSubscribedInPieces(t *testing.T) {
	u := newUpstream(t)
	newGateway(t, u.address(), func(c *Config) {
		c.Down = nil
		for _, letter := range "abcdefghij" {
			c.Down = append(c.Down, DownRule{Filter: string(letter)})
		}
	}, nil)
	c := u.welcome(false, none)
	for _, want := range []int{8, 2} { // AWS IoT takes no more than eight
		var s packet.Subscribe
		if err := s.Decode(c.wantType(packet.SUBSCRIBE), c.v); err != nil {
			t.Fatal(err)
		}
		if len(s.Subscriptions) != want {
			t.Errorf("%d filters, want %d", len(s.Subscriptions), want)
		}
	}
}

func TestUpstreamThatBreaksTheProtocolIsLeft(t *testing.T) {
	for name, bytes := range map[string][]byte{
		"topic alias":        (&packet.Publish{Topic: []byte("t"), PublishProperties: packet.PublishProperties{TopicAlias: 1}}).Append(nil, packet.V5),
		"SUBACK of nothing":  (&packet.Suback{PacketID: 3, Reasons: []packet.Reason{0}}).Append(nil, packet.V5),
		"CONNACK again":      (&packet.Connack{}).Append(nil, packet.V5),
		"PUBLISH malformed":  {0x30, 0x03, 0x00, 0x09, 'x'},
		"huge packet length": {0x30, 0xff, 0xff, 0xff, 0x7f},
		"reserved type":      {0x00, 0x00},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			newGateway(t, u.address(), nil, nil)
			c := u.welcome(false, none)
			c.send(bytes)
			c.wantType(packet.DISCONNECT)
			c.wantEnd()
			u.welcome(true, none) // and comes back
		})
	}
}

func TestSubscriptionsThatTheUpstreamDoesNotOfferAreNotAskedFor(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), func(c *Config) {
		c.Down = []DownRule{{Filter: "plain"}, {Filter: "a/+"}, {Filter: "$share/g/b"}}
	}, nil)
	c := u.welcome(false, packet.ConnackProperties{NoWildcardSubscription: true, NoSharedSubscription: true})
	c.want("SUBSCRIBE plain:2:nolocal")
	g.awaitLine("a/+: wildcard subscriptions not supported (0xa2)")
	g.awaitLine("$share/g/b: shared subscriptions not supported (0x9e)")
	g.broker.sendAll(1, "t", "a")
	c.want("PUBLISH 1 up/t a #2")
}
