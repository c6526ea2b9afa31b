package bridge

import (
	"testing"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

// change stops the bridge and runs its successor.
func (g *gateway) change(adjust func(*Config)) {
	g.t.Helper()
	g.halt()
	adjust(&g.cfg)
	g.cfg.SetDefaults()
	next, err := g.bridge.Successor(g.cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	g.bridge = next
	if err := g.bridge.Attach(); err != nil {
		g.t.Fatal(err)
	}
	g.tune(g.bridge)
	g.bridge.backoff.random = func() float64 { return 0.1 }
	g.run()
}

func shortGoodbye(b *Bridge) { b.patience.goodbye = 10 * time.Millisecond }

// What was sent and not acknowledged is sent again at the new address, as a repetition of the same exchange, and what
// waits goes behind it and by the new rules.
func TestChangeKeepsTheQueueAndWhatIsInFlight(t *testing.T) {
	u, other := newUpstream(t), newUpstream(t)
	g := newGateway(t, u.address(), nil, shortGoodbye)
	g.broker.sendAll(2, "t", "a", "b")
	c := u.welcome(false, none)
	c.want("PUBLISH 2 up/t a #2", "PUBLISH 2 up/t b #3")
	c.ack(packet.PUBREC, 2, 0)
	c.want("PUBREL 2")
	g.change(func(cfg *Config) {
		cfg.Addresses = []string{other.address()}
		cfg.Up = []UpRule{{Filter: "#", Topic: "new/{topic}"}}
	})
	c = other.welcome(true, none)
	c.want("PUBREL 2", "PUBLISH 2 dup new/t b #3") // [MQTT-4.4.0-1]
	c.ack(packet.PUBCOMP, 2, 0)
	c.ack(packet.PUBREC, 3, 0)
	c.want("PUBREL 3")
	c.ack(packet.PUBCOMP, 3, 0)
	g.awaitEmpty()
	g.broker.sendAll(1, "t", "c")
	c.want("PUBLISH 1 new/t c #4")
	c.ack(packet.PUBACK, 4, 0)
	g.awaitEmpty()
	if s := g.bridge.Status(); s.Forwarded != 3 || len(s.Dropped) > 0 {
		t.Errorf("status %+v", s)
	}
}

// An inbound QoS 2 message that was taken before the change is not taken again after it, and rules that are new are
// subscribed to.
func TestChangeKeepsTheDownlink(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), func(c *Config) {
		c.Down, c.UserProperties = []DownRule{{Filter: "cmd/#"}}, []string{propertyID}
	}, shortGoodbye)
	c := u.welcome(false, none)
	grant(c)
	once := packet.Publish{Topic: []byte("cmd/go"), Payload: []byte("now"), QoS: 2, PacketID: 9}
	c.publish(once)
	c.want("PUBREC 9")
	g.change(func(cfg *Config) { cfg.Down = append(cfg.Down, DownRule{Filter: "more/#"}) })
	c = u.welcome(true, none)
	c.wantType(packet.SUBSCRIBE)
	once.Dup = true
	c.publish(once)
	c.want("PUBREC 9")
	g.broker.awaitMessages(1)
	if got := g.broker.messages(); len(got) != 1 {
		t.Errorf("came down: %q, want it once", got)
	}
}

// With another client identifier nothing is known of the session upstream: it is begun afresh.
func TestChangeOfClientIDBeginsAnotherSession(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, shortGoodbye)
	u.welcome(false, none)
	g.awaitStatus("the link", func(s Status) bool { return s.State == Up })
	g.change(func(cfg *Config) { cfg.ClientID = "another" })
	c := u.accept()
	if hello := c.hello(); !hello.CleanStart || string(hello.ClientID) != "another" {
		t.Errorf("clean start %v as %s", hello.CleanStart, hello.ClientID)
	}
}

// A configuration that is wrong changes nothing.
func TestSuccessorOfNonsense(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, shortGoodbye)
	u.welcome(false, none)
	g.halt()
	wrong := g.cfg
	wrong.Addresses = []string{"tcp://nowhere"}
	if next, err := g.bridge.Successor(wrong); err == nil {
		t.Fatalf("taken: %v", next.cfg)
	}
	g.run()
	u.welcome(true, none)
	g.awaitStatus("the old link", func(s Status) bool { return s.State == Up })
}

// After Forget nothing is left of the session: neither what the store knew when it was opened nor what came since.
func TestForgetRemovesTheSession(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), func(c *Config) { c.Down = []DownRule{{Filter: "cmd/#"}} }, shortGoodbye)
	c := u.welcome(false, none)
	c.wantType(packet.SUBSCRIBE)
	publish := func(id uint16) {
		c.publish(packet.Publish{Topic: []byte("cmd/go"), QoS: 2, PacketID: id})
		c.wantType(packet.PUBREC)
	}
	publish(9)
	g.stop()
	g.start()
	c = u.welcome(true, none)
	c.wantType(packet.SUBSCRIBE)
	publish(10)
	g.broker.sendAll(1, "t", "x")
	c.want("PUBLISH 1 up/t x #2")
	c.ack(packet.PUBACK, 2, packet.ReasonNotAuthorized)
	g.awaitStatus("a dead letter", func(s Status) bool { return s.DeadLetters == 1 })
	g.halt()
	if _, err := Forget("cloud", g.bridge, g.log); err != nil {
		t.Fatal(err)
	}
	g.stop = nil // it does not run
	if err := g.log.Close(); err != nil {
		t.Fatal(err)
	}
	log, err := storage.Open(storage.Config{Path: g.dir, MaxSize: 64 << 20}, g.bridge.log, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := log.Each(storage.Bridges, func(key, value []byte) error {
		t.Errorf("left behind: %q = %q", key, value)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
