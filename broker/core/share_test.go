package core_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"forebay/broker/brokertest"
	"forebay/broker/core"
	"forebay/broker/packet"
)

// Whoever comes and goes: a message with QoS 1 for a shared subscription of durable sessions arrives, at one member.
func TestSharedMessagesArriveAtOneMember(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		b := newBench(core.Config{Inflight: 3})
		const members, messages = 3, 200
		var conns [members]*core.Conn
		owner := map[string]int{} // of each message
		read := func(m int) {
			conn := conns[m]
			for conn != nil && len(b.got[conn]) > 0 {
				f, n, err := packet.Next(b.got[conn], packet.V5, 0)
				if err != nil || n == 0 {
					t.Fatal(n, err)
				}
				b.got[conn] = b.got[conn][n:]
				if f.Type() != packet.PUBLISH {
					continue
				}
				var p packet.Publish
				if err := p.Decode(f, packet.V5); err != nil {
					t.Fatal(err)
				}
				if was, known := owner[string(p.Payload)]; known && (was != m || !p.Dup) {
					t.Fatalf("seed %d: %s came to %d, and again to %d (dup %v)", seed, p.Payload, was, m, p.Dup)
				}
				owner[string(p.Payload)] = m
				if rnd.IntN(4) > 0 {
					b.send(conn, fmt.Sprintf("puback %d", p.PacketID))
				}
			}
		}
		connect := func(m int) {
			conns[m] = b.core.Accept(core.ConnInfo{})
			b.got[conns[m]] = []byte{}
			b.send(conns[m], fmt.Sprintf("connect m%d expiry=1000", m))
			read(m)
		}
		for m := range members {
			connect(m)
			b.send(conns[m], "subscribe 1 $share/g/t:1")
		}
		pub := b.connect("connect p v4 clean")
		for i := range messages {
			b.send(pub, fmt.Sprintf("publish t q1 id=1 =%d", i))
			m := rnd.IntN(members)
			switch {
			case conns[m] == nil:
				connect(m)
			case rnd.IntN(3) == 0:
				b.core.Lost(conns[m], "gone")
				conns[m] = nil
			default:
				read(m)
			}
		}
		// Everybody is back, and acknowledges in the end.
		for range 2 * messages {
			for m := range members {
				if conns[m] != nil {
					b.core.Lost(conns[m], "gone")
				}
				connect(m)
			}
			if len(owner) == messages {
				break
			}
		}
		if len(owner) != messages {
			t.Errorf("seed %d: %d of %d messages arrived", seed, len(owner), messages)
		}
		per := map[int]int{}
		for _, m := range owner {
			per[m]++
		}
		if len(per) != members {
			t.Errorf("seed %d: the messages went to %v", seed, per)
		}
	}
}

// BenchmarkSharedSubscription is one message to one member, in turn; its subscription has an identifier.
func BenchmarkSharedSubscription(b *testing.B) {
	for _, members := range []int{2, 100} {
		b.Run(fmt.Sprint(members), func(b *testing.B) {
			bench := newBench(core.Config{})
			for i := range members {
				bench.connect(fmt.Sprintf("connect s%d v5 clean", i), "subscribe 1 $share/g/plant/+:0 id=5")
			}
			pub := bench.connect("connect p v5 clean")
			p, _ := brokertest.Parse("publish plant/press =12345678", pub.Version())
			b.ReportAllocs()
			for range b.N {
				bench.core.Tick(bench.now)
				bench.receive(pub, p)
				bench.round()
			}
		})
	}
}
