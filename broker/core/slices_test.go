package core_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"forebay/broker/brokertest"
	"forebay/broker/core"
	"forebay/broker/packet"
)

// Long work in slices: what one round does is counted, not timed. mostSent is what may be sent in a round: its share of
// work, and what one client may get in one go beyond it.
const mostSent = 10_000 + 2*1024

// rounds goes on until the core has nothing to do, and returns the most that was sent in a round. A message from one
// client to another arrives in the same round, whatever else is going on.
func rounds(t *testing.T, b *bench, begin func()) (count int, most uint64) {
	t.Helper()
	from := b.connect("connect from v4 clean")
	to := b.connect("connect to v4 clean", "subscribe 1 live:0")
	hello, _ := brokertest.Parse("publish live =x", packet.V311)
	b.core.Tick(b.now)
	begin()
	for count == 0 || b.core.Busy() {
		if count++; count > 100_000 {
			t.Fatal("busy for ever")
		}
		before := b.core.Stats().Sent
		b.got[to] = []byte{}
		if n := b.core.Receive(from, hello); n != len(hello) {
			t.Fatalf("round %d: the publisher is not read", count)
		}
		b.core.Flush(b.write)
		if got := b.got[to]; !bytes.Equal(got, hello) {
			t.Fatalf("round %d: the live message did not arrive: % x", count, got)
		}
		most = max(most, b.core.Stats().Sent-before)
		b.core.Durable(b.log.Commit())
		b.core.Tick(b.now)
	}
	if most > mostSent {
		t.Errorf("%d messages were sent in one round", most)
	}
	return count, most
}

func retain(b *bench, messages int) {
	for i := range messages {
		b.core.Publish(&core.Inject{Publish: packet.Publish{Topic: fmt.Appendf(nil, "plant/%d/state", i), Payload: []byte("x"), Retain: true}})
	}
}

// Many clients that subscribe to everything at once share the rounds; so do filters that match nothing.
func TestManySubscribersToManyRetained(t *testing.T) {
	const messages, clients = 20_000, 20
	for _, tc := range []struct {
		filter string
		sent   uint64
	}{{"#", messages}, {"plant/+/nothing", 0}} {
		b := newBench(core.Config{})
		retain(b, messages)
		subscribe, _ := brokertest.Parse("subscribe 1 "+tc.filter+":0", packet.V311)
		var subs []*core.Conn
		for i := range clients {
			subs = append(subs, b.connect(fmt.Sprintf("connect s%d v4 clean", i)))
		}
		start := b.core.Stats().Sent
		count, _ := rounds(t, b, func() {
			for _, s := range subs {
				b.receive(s, subscribe)
			}
		})
		if want := messages * clients / 12_000; count < want {
			t.Errorf("%s: %d rounds, want %d or more", tc.filter, count, want)
		}
		live := uint64(count)
		if tc.filter == "#" {
			live *= clients + 1
		}
		if sent := b.core.Stats().Sent - start - live; sent != clients*tc.sent {
			t.Errorf("%s: %d were sent", tc.filter, sent)
		}
	}
}

// A client that subscribes again and again to everything is not read on before it has been served.
func TestSubscribingAgainAndAgain(t *testing.T) {
	b := newBench(core.Config{})
	retain(b, 5_000)
	s := b.connect("connect s v4")
	subscribe, _ := brokertest.Parse("subscribe 1 plant/+/nothing:1", packet.V311)
	rest := bytes.Repeat(subscribe, 100)
	b.core.Tick(b.now)
	if n := b.core.Receive(s, rest); n > 20*len(subscribe) {
		t.Errorf("%d SUBSCRIBE packets were taken in one round", n/len(subscribe))
	}
	for range 1000 {
		b.core.Tick(b.now)
		rest = rest[b.core.Receive(s, rest):]
		b.core.Flush(b.write)
		b.core.Durable(b.log.Commit())
	}
	if len(rest) > 0 {
		t.Errorf("%d were never taken", len(rest)/len(subscribe))
	}
}

// Sessions that come back to long queues, all at once.
func TestManyComeBackToTheirQueues(t *testing.T) {
	const clients, messages = 100, 300
	b := newBench(core.Config{Inflight: messages})
	pub := b.connect("connect p v4 clean")
	for i := range clients {
		b.core.Lost(b.connect(fmt.Sprintf("connect s%d v4", i), "subscribe 1 a:1"), "gone")
	}
	publish, _ := brokertest.Parse("publish a q1 id=1 =x", packet.V311)
	for range messages {
		b.core.Tick(b.now)
		b.receive(pub, publish)
	}
	b.core.Durable(b.log.Commit())
	start := b.core.Stats().Sent
	count, _ := rounds(t, b, func() {
		for i := range clients {
			connect, _ := brokertest.Parse(fmt.Sprintf("connect s%d v4", i), 0)
			b.receive(b.core.Accept(core.ConnInfo{}), connect)
		}
		b.core.Durable(b.log.Commit())
	})
	if sent := b.core.Stats().Sent - start - uint64(count); sent != clients*messages {
		t.Errorf("%d were sent in %d rounds", sent, count)
	}
}

// A session with a long queue that is taken over by one connection after the other.
func TestTakeOverWithLongQueue(t *testing.T) {
	const messages = 3_000
	b := newBench(core.Config{})
	b.core.Lost(b.connect("connect s v4", "subscribe 1 a:2"), "gone")
	for range messages {
		b.core.Publish(&core.Inject{Publish: packet.Publish{Topic: []byte("a"), QoS: 2, PacketID: 1, Payload: bytes.Repeat([]byte("x"), 100)}})
	}
	b.core.Durable(b.log.Commit())
	connect, _ := brokertest.Parse("connect s v4", 0)
	for range 20 {
		count, most := rounds(t, b, func() { b.receive(b.core.Accept(core.ConnInfo{}), connect) })
		if most > 1_001 {
			t.Errorf("%d were sent in one of %d rounds", most, count)
		}
	}
}

// Clients that fall silent at the same moment, with wills for many; and sessions that expire together.
func TestManyEndsAtOnce(t *testing.T) {
	const clients = 1_000
	b := newBench(core.Config{})
	for i := range clients {
		b.connect(fmt.Sprintf("connect c%d v5 expiry=10 keepalive=10 will=gone =x", i))
	}
	for i := range 20 {
		b.connect(fmt.Sprintf("connect watch%d v4 clean", i), "subscribe 1 gone:0")
	}
	step := func(what string, d time.Duration, size func(core.Stats) int) {
		before := size(b.core.Stats())
		b.now = b.now.Add(d)
		most, count := 0, 0
		for b.core.Tick(b.now); ; b.core.Tick(b.now) {
			left := size(b.core.Stats())
			most, before = max(most, before-left), left
			count++
			b.core.Flush(b.write)
			b.core.Durable(b.log.Commit())
			if !b.core.Busy() {
				break
			}
		}
		if most > 250 || before > 30 || count < 4 {
			t.Errorf("%s: %d at most in one of %d rounds, %d left", what, most, count, before)
		}
	}
	connected := func(core.Stats) int { return clients - b.ends }
	step("silence", 15*time.Second, connected)
	if sent := b.core.Stats().Sent; sent != 20*clients {
		t.Errorf("%d wills were sent", sent)
	}
	step("expiry", 11*time.Second, func(st core.Stats) int { return st.Sessions })
}

// Publishers that use up every round do not starve a session in the log.
func TestFloodDoesNotStarveQueues(t *testing.T) {
	const messages, subscribers = 2_000, 100
	b := newBench(core.Config{Inflight: messages})
	b.core.Lost(b.connect("connect s v4", "subscribe 1 a:1"), "gone")
	for i := range subscribers {
		b.connect(fmt.Sprintf("connect c%d v4 clean", i), "subscribe 1 flood:0")
	}
	for range messages {
		b.core.Publish(&core.Inject{Publish: packet.Publish{Topic: []byte("a"), QoS: 1, PacketID: 1, Payload: []byte("x")}})
	}
	b.core.Durable(b.log.Commit())
	pub := b.connect("connect p v4 clean")
	p, _ := brokertest.Parse("publish flood =x", packet.V311)
	flood := bytes.Repeat(p, 1_000)
	connect, _ := brokertest.Parse("connect s v4", 0)
	s := b.core.Accept(core.ConnInfo{})
	b.got[s] = []byte{}
	b.receive(s, connect)
	b.core.Durable(b.log.Commit())
	for round := range 100 {
		b.core.Tick(b.now)
		if n := b.core.Receive(pub, flood); n == len(flood) {
			t.Fatalf("round %d was not full", round)
		}
		b.core.Flush(b.write)
		if len(b.got[s]) >= messages*(2+3+2+1) {
			return
		}
	}
	t.Errorf("the session got %d bytes in 100 rounds", len(b.got[s]))
}
