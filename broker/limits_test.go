package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"forebay/broker/packet"
)

func TestLimitOfConnectionsPerAddress(t *testing.T) {
	a := newAuthority(t)
	cfg := a.server()
	cfg.Listeners = append(cfg.Listeners, ListenerConfig{Address: "127.0.0.1:0", Anonymous: true},
		ListenerConfig{Address: "127.0.0.1:0", Anonymous: true, ProxyProtocol: true})
	cfg.Limits.ConnectionsPerAddress = 2
	g := start(t, cfg)
	plain, proxied := g.Addrs()[1], g.Addrs()[2]
	one, two := a.dial(g, ""), dial(t, plain, packet.V311)
	for i, c := range []*client{one, two} {
		c.login(packet.Connect{ClientID: []byte{byte('a' + i)}, CleanStart: true})
	}
	// The third is closed, whichever way it comes; another address is not.
	dial(t, plain, packet.V311).expectClosed()
	dial(t, g.addr(), packet.V5).expectClosed()
	from := func(address string) *client {
		c := dial(t, proxied, packet.V311)
		c.send([]byte("PROXY TCP4 " + address + " 10.0.0.1 1 2\r\n"))
		return c
	}
	from("127.0.0.1").expectClosed()
	from("192.0.2.7").login(packet.Connect{ClientID: []byte("p"), CleanStart: true})
	if st := g.settled("refused", func(s Stats) bool { return s.RefusedAddress == 3 }); st.Sockets != 3 {
		t.Errorf("%d sockets", st.Sockets)
	}
	two.disconnect()
	g.settled("room", func(s Stats) bool { return s.Sockets == 2 })
	dial(t, plain, packet.V311).login(packet.Connect{ClientID: []byte("d"), CleanStart: true})
	one.answers()
}

func TestLimitsOfAListener(t *testing.T) {
	cfg := anyPort()
	cfg.Listeners = append(cfg.Listeners, ListenerConfig{Address: "127.0.0.1:0", Anonymous: true})
	cfg.Listeners[0].Limits.Connections = 1
	g := start(t, cfg)
	first := g.client(packet.V5, "a")
	dial(t, g.addr(), packet.V5).expectClosed()
	other := dial(t, g.Addrs()[1], packet.V5)
	other.login(packet.Connect{ClientID: []byte("b"), CleanStart: true})
	g.settled("counted", func(s Stats) bool { return s.RefusedFull == 1 })
	first.disconnect()
	g.settled("room", func(s Stats) bool { return s.Sockets == 1 })
	g.client(packet.V5, "c").answers()
}

// A client beyond its rate is slowed, loses nothing, is not taken for dead, and costs the others nothing.
func TestLimitOfRates(t *testing.T) {
	for name, limits := range map[string]ListenerLimits{"messages": {MessageRate: 200}, "bytes": {ByteRate: 20_000}} {
		t.Run(name, func(t *testing.T) {
			cfg := anyPort()
			cfg.Listeners = append(cfg.Listeners, ListenerConfig{Address: "127.0.0.1:0", Anonymous: true})
			cfg.Listeners[0].Limits = limits
			g := start(t, cfg)
			sub := dial(t, g.Addrs()[1], packet.V5)
			sub.login(packet.Connect{ClientID: []byte("sub"), CleanStart: true})
			sub.subscribe("t", 0)
			pub := g.client(packet.V5, "pub")
			const messages = 300
			p := packet.Publish{Topic: []byte("t"), Payload: make([]byte, 95)}
			started := time.Now()
			pub.send(bytes.Repeat(p.Append(nil, packet.V5), messages))
			// Others go on meanwhile, at once.
			quick := dial(t, g.Addrs()[1], packet.V5)
			quick.login(packet.Connect{ClientID: []byte("quick"), CleanStart: true})
			quick.answers()
			for range messages {
				sub.receive()
			}
			pub.answers()
			if took := time.Since(started); took < 400*time.Millisecond {
				t.Errorf("%d messages passed in %v", messages, took)
			}
			if st := g.settled("slowed", func(Stats) bool { return true }); st.Slowed == 0 {
				t.Error("nothing is counted")
			}
		})
	}
}

// Connections that come too fast wait; none is refused.
func TestLimitOfConnectRate(t *testing.T) {
	cfg := anyPort()
	cfg.Limits.ConnectRate = 20
	g := start(t, cfg)
	started := time.Now()
	var all []*client
	for range 30 {
		all = append(all, dial(t, g.addr(), packet.V311))
	}
	for i, c := range all {
		c.login(packet.Connect{ClientID: []byte{byte('A' + i)}, CleanStart: true})
	}
	if took := time.Since(started); took < 400*time.Millisecond {
		t.Errorf("30 connections were accepted in %v", took)
	}
}

// A connection that says nothing, or not all, is closed in time: before the header of a proxy, before TLS, before
// CONNECT, and in its midst.
func TestLimitOfTimeToConnect(t *testing.T) {
	a := newAuthority(t)
	cfg := a.server()
	cfg.Listeners = append(cfg.Listeners, ListenerConfig{Address: "127.0.0.1:0", Anonymous: true},
		ListenerConfig{Address: "127.0.0.1:0", Anonymous: true, ProxyProtocol: true},
		ListenerConfig{Address: "127.0.0.1:0", Anonymous: true, Transport: TransportWebSocket})
	cfg.Limits.ConnectTimeout = 100 * time.Millisecond
	g := start(t, cfg)
	established := dial(t, g.Addrs()[1], packet.V311)
	established.login(packet.Connect{ClientID: []byte("a"), CleanStart: true})
	silent := map[string]*client{}
	for i, words := range []string{"\x16\x03", "\x10\x0c\x00\x04MQ", "PROXY TC", "GET / HT"} {
		for _, text := range []string{"", words} {
			c := dial(t, g.Addrs()[i], packet.V311)
			c.send([]byte(text))
			silent[fmt.Sprintf("listener %d, %q", i, text)] = c
		}
	}
	for name, c := range silent {
		if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c.conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: it is still there", name)
		}
	}
	established.answers()
}

func TestLimitsOfSessions(t *testing.T) {
	cfg := anyPort()
	cfg.Limits.Subscriptions, cfg.Limits.TopicLevels, cfg.Limits.KeepAlive = 2, 3, time.Minute
	cfg.Limits.QueuedMessages, cfg.Limits.Inflight = 5, 1
	g := start(t, cfg)
	c := dial(t, g.addr(), packet.V5)
	ack := c.login(packet.Connect{ClientID: []byte("c"), KeepAlive: 0, Properties: packet.ConnectProperties{SessionExpiry: 100}})
	if !ack.Properties.HasServerKeepAlive || ack.Properties.ServerKeepAlive != 60 {
		t.Errorf("server keep alive %d", ack.Properties.ServerKeepAlive)
	}
	s := packet.Subscribe{PacketID: 1}
	for _, filter := range []string{"a/b/c/d", "a/#", "b", "c"} {
		s.Subscriptions = append(s.Subscriptions, packet.Subscription{Filter: []byte(filter), QoS: 1})
	}
	c.send(s.Append(nil, packet.V5))
	var suback packet.Suback
	if err := suback.Decode(c.expect(packet.SUBACK), packet.V5); err != nil {
		t.Fatal(err)
	}
	for i, want := range []packet.Reason{packet.ReasonTopicFilterInvalid, 1, 1, packet.ReasonQuotaExceeded} {
		if suback.Reasons[i] != want {
			t.Errorf("subscription %d: %v, want %v", i, suback.Reasons[i], want)
		}
	}
	c.disconnect()
	pub := g.client(packet.V5, "pub")
	for i := range 10 {
		pub.deliver(packet.Publish{Topic: []byte("a/b"), Payload: []byte{byte('0' + i)}, QoS: 1, PacketID: 1})
	}
	c = dial(t, g.addr(), packet.V5)
	c.login(packet.Connect{ClientID: []byte("c"), Properties: packet.ConnectProperties{SessionExpiry: 100}})
	var got strings.Builder
	for range 5 {
		got.WriteString(c.receive().payload)
	}
	c.answers()
	if got.String() != "56789" {
		t.Errorf("got %s, want the last five", got.String())
	}
}

// What a slowed client has sent waits in its own buffers and the kernel's, not in the server's memory.
func TestSlowedClientIsBounded(t *testing.T) {
	a := newAuthority(t)
	cfg := a.server()
	cfg.Listeners[0].Limits.MessageRate = 200
	cfg.Listeners = append(cfg.Listeners, ListenerConfig{Address: "127.0.0.1:0", Anonymous: true, Limits: cfg.Listeners[0].Limits})
	for i, transport := range []string{"TLS", "TCP"} {
		t.Run(transport, func(t *testing.T) {
			g := start(t, cfg)
			pub := dial(t, g.Addrs()[1], packet.V5)
			if i == 0 {
				pub = a.dial(g, "")
			}
			pub.login(packet.Connect{ClientID: []byte("pub"), CleanStart: true})
			p := packet.Publish{Topic: []byte("t"), Payload: []byte("x")}
			flood := bytes.Repeat(p.Append(nil, packet.V5), 100_000)
			sent := make(chan error, 1)
			go func() {
				_, err := pub.conn.Write(flood)
				sent <- err
			}()
			g.settled("many pauses", func(s Stats) bool { return s.Slowed >= 12 })
			g.inLoop(func(l *loop) bool {
				if l.keptBytes > 2*feedBatch {
					t.Errorf("%d bytes are kept", l.keptBytes)
				}
				return true
			})
			if err := pub.conn.Close(); err != nil {
				t.Fatal(err)
			}
			<-sent
		})
	}
}
