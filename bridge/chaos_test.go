package bridge

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/broker/packet"
)

// cloud is an upstream that keeps to the rules of 5.0 and whose connections break at any packet, before or after it
// has taken effect.
type cloud struct {
	t *testing.T
	u *upstream

	mu        sync.Mutex
	random    *rand.Rand
	breaks    bool              // connections break
	delivered []string          // topics and payloads, as they reached subscribers
	open      map[uint16]bool   // QoS 2 identifiers received and not released
	commands  []*cloudCommand   // not finished, in order
	aliases   map[uint16]string // of the connection
	cuts      int
}

type cloudCommand struct {
	packet   packet.Publish
	sent     bool
	released bool // PUBREC came
}

func (c *cloud) run(stop <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	for {
		nc, err := c.u.listener.Accept()
		if err != nil {
			return
		}
		p := &peerConn{t: c.t, net: nc, v: packet.V5}
		c.serve(p)
		nc.Close()
		select {
		case <-stop:
			return
		default:
		}
	}
}

// cut decides whether the connection breaks here.
func (c *cloud) cut() bool {
	if !c.breaks || c.random.IntN(40) != 0 {
		return false
	}
	c.cuts++
	return true
}

// serve is one connection. A peer that breaks the rules fails the test.
func (c *cloud) serve(p *peerConn) {
	c.aliases = map[uint16]string{}
	for {
		f, err := p.next()
		if err != nil {
			return
		}
		c.mu.Lock()
		ok := !c.cut() && c.take(p, f) && !c.cut()
		c.mu.Unlock()
		if !ok {
			return
		}
	}
}

// take applies one packet and sends what follows from it, unless the connection breaks before.
func (c *cloud) take(p *peerConn, f packet.Frame) bool {
	answer := func(b []byte) bool {
		if c.cut() {
			return false
		}
		_, err := p.net.Write(b)
		return err == nil
	}
	var a packet.Ack
	switch f.Type() {
	case packet.CONNECT:
		var hello packet.Connect
		if err := hello.Decode(f.Body); err != nil {
			c.t.Errorf("CONNECT: %v", err)
			return false
		}
		if hello.CleanStart {
			clear(c.open)
		}
		if _, err := p.net.Write((&packet.Connack{SessionPresent: !hello.CleanStart, Properties: packet.ConnackProperties{TopicAliasMaximum: 2}}).Append(nil, p.v)); err != nil {
			return false
		}
		return hello.CleanStart || c.resend(p)
	case packet.SUBSCRIBE:
		var s packet.Subscribe
		if err := s.Decode(f, p.v); err != nil {
			c.t.Errorf("SUBSCRIBE: %v", err)
			return false
		}
		if c.open[s.PacketID] {
			c.t.Errorf("SUBSCRIBE with identifier %d, which is in use", s.PacketID)
		}
		return answer((&packet.Suback{PacketID: s.PacketID, Reasons: make([]packet.Reason, len(s.Subscriptions))}).Append(nil, p.v))
	case packet.PUBLISH:
		var m packet.Publish
		if err := m.Decode(f, p.v); err != nil {
			c.t.Errorf("PUBLISH: %v", err)
			return false
		}
		switch known, ok := c.aliases[m.TopicAlias]; {
		case m.TopicAlias > 2 || m.TopicAlias > 0 && len(m.Topic) == 0 && !ok:
			c.t.Errorf("alias %d means nothing", m.TopicAlias)
		case len(m.Topic) == 0:
			m.Topic = []byte(known)
		case m.TopicAlias > 0:
			c.aliases[m.TopicAlias] = string(m.Topic)
		}
		kind := packet.PUBACK
		if m.QoS == 2 {
			kind = packet.PUBREC
		}
		if m.QoS == 1 || !c.open[m.PacketID] {
			c.delivered = append(c.delivered, string(m.Topic)+" "+string(m.Payload))
		}
		if m.QoS == 2 {
			c.open[m.PacketID] = true
		}
		return answer((&packet.Ack{Type: kind, PacketID: m.PacketID}).Append(nil, p.v))
	case packet.PUBREL:
		if err := a.Decode(f, p.v); err != nil {
			c.t.Errorf("PUBREL: %v", err)
			return false
		}
		delete(c.open, a.PacketID)
		return answer((&packet.Ack{Type: packet.PUBCOMP, PacketID: a.PacketID}).Append(nil, p.v))
	case packet.PUBACK, packet.PUBREC, packet.PUBCOMP:
		if err := a.Decode(f, p.v); err != nil {
			c.t.Errorf("acknowledgement: %v", err)
			return false
		}
		return c.acknowledged(&a, answer) && c.next(p)
	}
	return true
}

// acknowledged takes the bridge's answer to a command.
func (c *cloud) acknowledged(a *packet.Ack, answer func([]byte) bool) bool {
	i := slices.IndexFunc(c.commands, func(x *cloudCommand) bool { return x.sent && x.packet.PacketID == a.PacketID })
	if i < 0 {
		c.t.Errorf("%s %d for nothing", a.Type, a.PacketID)
		return false
	}
	if a.Type == packet.PUBREC {
		c.commands[i].released = true
		return answer((&packet.Ack{Type: packet.PUBREL, PacketID: a.PacketID}).Append(nil, packet.V5))
	}
	c.commands = slices.Delete(c.commands, i, i+1)
	return true
}

// resend repeats what the bridge has not finished [MQTT-4.4.0-1].
func (c *cloud) resend(p *peerConn) bool {
	for _, x := range c.commands {
		var b []byte
		switch {
		case x.released:
			b = (&packet.Ack{Type: packet.PUBREL, PacketID: x.packet.PacketID}).Append(nil, p.v)
		case x.sent:
			x.packet.Dup = true
			b = x.packet.Append(nil, p.v)
		}
		if _, err := p.net.Write(b); err != nil {
			return false
		}
	}
	return c.next(p)
}

// next sends further commands; few identifiers are in use, so that each is soon used again.
func (c *cloud) next(p *peerConn) bool {
	used := map[uint16]bool{}
	for _, x := range c.commands {
		if x.sent {
			used[x.packet.PacketID] = true
		}
	}
	for _, x := range c.commands {
		if x.sent {
			continue
		}
		for id := uint16(1); id <= 4 && !x.sent; id++ {
			if !used[id] {
				x.packet.PacketID, x.sent, used[id] = id, true, true
			}
		}
		if !x.sent {
			return true
		}
		if _, err := p.net.Write(x.packet.Append(nil, p.v)); err != nil {
			return false
		}
	}
	return true
}

// TestEverythingBreaksAtRandom: the promise, with connections that break at every packet and gateways that restart.
func TestEverythingBreaksAtRandom(t *testing.T) {
	breakAtRandom(t, []string{"t"}, withDown)
}

// The same with rules of every order and priority at once, which share a connection.
func TestEverythingBreaksAtRandomInEveryOrder(t *testing.T) {
	breakAtRandom(t, []string{"t", "first", "beside", "value", "lastly"}, func(c *Config) {
		withDown(c)
		c.Up = append([]UpRule{{Filter: "first", Topic: "up/{topic}", Priority: "high"}, {Filter: "beside", Topic: "up/{topic}", Order: orderLiveFirst},
			{Filter: "value", Topic: "up/{topic}", Order: orderLatestOnly}, {Filter: "lastly", Topic: "up/{topic}", Order: orderLiveFirst, Priority: "low"}}, c.Up...)
	})
}

// breakAtRandom lets devices publish to topics in turn and judges what the cloud got of each.
func breakAtRandom(t *testing.T, topics []string, adjust func(*Config)) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := &cloud{t: t, u: newUpstream(t), random: rand.New(rand.NewPCG(seed, 0)), breaks: true, open: map[uint16]bool{}}
	const messages, orders = 1500, 300
	for i := range orders {
		c.commands = append(c.commands, &cloudCommand{packet: packet.Publish{QoS: byte(1 + i%2), Topic: []byte("sites/plant7/cmd/x"), Payload: fmt.Appendf(nil, "%d/%d", 1+i%2, i)}})
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go c.run(stop, done)
	defer func() { close(stop); c.u.listener.Close(); <-done }()

	g := newGateway(t, c.u.address(), adjust, func(b *Bridge) {
		b.patience.goodbye = 0
		b.backoff.random = func() float64 { return 0.02 }
	})
	var executed []string // by all lives of the gateway
	for i := range messages {
		turn := i / len(topics)
		qos := 1 + turn%2
		g.broker.sendAll(byte(qos), topics[i%len(topics)], fmt.Sprintf("%d/%d", qos, turn))
		if i%500 == 499 {
			n := uint64(g.bridge.Status().Backlog.Count)
			g.awaitStatus("some progress", func(s Status) bool { return s.Backlog.Count == 0 || uint64(s.Backlog.Count) < n/2 })
			g.stop()
			executed = append(executed, g.broker.messages()...)
			g.start()
		}
	}
	g.awaitEmpty()
	finished := func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.commands) == 0 }
	g.awaitStatus("all commands", func(Status) bool { return finished() })
	g.stop()
	executed = append(executed, g.broker.messages()...)

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cuts < 20 {
		t.Errorf("only %d breaks: nothing was tested", c.cuts)
	}
	for _, topic := range topics {
		var got []string
		for _, text := range c.delivered {
			if payload, ok := strings.CutPrefix(text, "up/"+topic+" "); ok {
				got = append(got, payload)
			}
		}
		judge(t, topic, got, messages/len(topics))
	}
	for i, text := range executed {
		executed[i] = strings.TrimPrefix(text, "plant/x ")
	}
	judge(t, "command", executed, orders)
}

// judge checks that of payloads "qos/number" each came, QoS 2 once, and for the first time in order. What is live-first
// has no order, of what is latest-only the last must have come, with QoS 1.
func judge(t *testing.T, what string, got []string, count int) {
	t.Helper()
	seen, last := map[string]int{}, map[int]int{1: -1, 2: -1}
	for _, text := range got {
		var qos, n int
		if _, err := fmt.Sscanf(text, "%d/%d", &qos, &n); err != nil {
			t.Fatalf("%s %q: %v", what, text, err)
		}
		seen[text]++
		switch {
		case seen[text] > 1 && qos == 2 && what != "value":
			t.Errorf("%s %s came %d times", what, text, seen[text])
		case seen[text] == 1 && n < last[qos] && what != "beside" && what != "lastly":
			t.Errorf("%s %s came after %d", what, text, last[qos])
		}
		last[qos] = max(last[qos], n)
	}
	for i := range count {
		if what == "value" && i < count-1 {
			continue
		}
		if text := fmt.Sprintf("%d/%d", 1+i%2, i); seen[text] == 0 {
			t.Errorf("%s %s is lost", what, text)
		}
	}
}
