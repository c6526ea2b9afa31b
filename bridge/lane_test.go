package bridge

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

// withRules makes a configuration with these rules up.
func withRules(rules ...UpRule) func(*Config) {
	return func(c *Config) { c.Up = rules }
}

// Azure/iotedge 2486: live data came twelve days late, behind the backlog of an outage.
func TestIotedge2486LiveDataGoesBeforeTheBacklog(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withRules(UpRule{Filter: "#", Order: orderLiveFirst}), nil)
	g.broker.sendAll(1, "t", "old 1", "old 2", "old 3", "old 4")
	c := u.welcome(false, packet.ConnackProperties{ReceiveMaximum: 1})
	c.want(fmt.Sprintf("PUBLISH 1 t old 1 #%d", id(backlog, normal, 1)))
	g.broker.await("what comes now to go into another lane", func([]Message) bool { return g.broker.resorts == 1 })
	g.broker.sendAll(1, "t", "live 1", "live 2")
	c.ack(packet.PUBACK, id(backlog, normal, 1), 0)
	c.want(fmt.Sprintf("PUBLISH 1 t live 1 #%d", id(live, normal, 1)))
	c.net.Close()

	// Another outage: what comes now waits behind the backlog, what was under way goes first.
	g.broker.await("the end of the link", func([]Message) bool { return g.broker.resorts == 2 })
	g.broker.sendAll(1, "t", "old 5")
	c = u.welcome(true, packet.ConnackProperties{ReceiveMaximum: 1})
	for _, want := range []string{"dup t live 1", "t live 2", "t old 2", "t old 3", "t old 4", "t old 5"} {
		var p packet.Publish
		if err := p.Decode(c.wantType(packet.PUBLISH), c.v); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s %s", p.Topic, p.Payload); !strings.HasSuffix(want, got) || p.Dup != strings.HasPrefix(want, "dup") {
			t.Fatalf("got %q (dup %v), want %q", got, p.Dup, want)
		}
		c.ack(packet.PUBACK, p.PacketID, 0)
	}
	g.awaitEmpty()
}

func id(o order, p priority, n uint64) uint16 { return (&lane{order: o, priority: p}).packetID(n) }

func TestLanesNeverShareAPacketIdentifier(t *testing.T) {
	used := map[uint16]string{}
	for p := range priority(priorities) {
		for o := range order(orders) {
			for n := range uint64(idsPerLane) {
				x := id(o, p, n)
				if other, ok := used[x]; ok || x == 0 || int(x) >= controlIDs {
					t.Fatalf("identifier %d of %s.%s is also %s", x, priorityNames[p], orderNames[o], other)
				}
				used[x] = priorityNames[p] + "." + orderNames[o]
			}
		}
	}
	if id(strict, normal, 1) != 2 || maxWindow > idsPerLane || controlIDs+maxRules/filtersPerSubscribe > 65535 {
		t.Error("the ranges have moved, or do not suffice")
	}
}

func TestHighPriorityGoesFirst(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withRules(UpRule{Filter: "log/#", Priority: "low"}, UpRule{Filter: "alarm/#", Priority: "high"}, UpRule{Filter: "#"}), nil)
	g.broker.sendAll(1, "log/a", "1", "2")
	g.broker.sendAll(1, "value", "3", "4")
	g.broker.sendAll(2, "alarm/a", "5", "6")
	c := u.welcome(false, packet.ConnackProperties{ReceiveMaximum: 5})
	c.want(fmt.Sprintf("PUBLISH 2 alarm/a 5 #%d", id(strict, high, 1)), fmt.Sprintf("PUBLISH 2 alarm/a 6 #%d", id(strict, high, 2)),
		"PUBLISH 1 value 3 #2", "PUBLISH 1 value 4 #3", fmt.Sprintf("PUBLISH 1 log/a 1 #%d", id(strict, low, 1)))
	c.wantNothing()
	if n := len(g.bridge.Status().Lanes); n != 3 {
		t.Errorf("%d lanes in the status, want 3", n)
	}
}

func TestLatestOnlyKeepsOneMessagePerTopic(t *testing.T) {
	var there atomic.Bool
	u := newUpstream(t)
	g := newGateway(t, u.address(), withRules(UpRule{Filter: "#", Order: orderLatestOnly}), func(b *Bridge) {
		dial := b.dial
		b.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if !there.Load() {
				return nil, syscall.ECONNREFUSED
			}
			return dial(ctx, network, address)
		}
	})
	for i := range 500 {
		g.broker.sendAll(1, "level", fmt.Sprint(i))
		g.broker.sendAll(2, "pressure", fmt.Sprint(i))
	}
	g.broker.sendAll(1, "seldom", "x")
	g.awaitStatus("all but the latest dropped", func(s Status) bool { return s.Dropped["superseded"] == 998 && s.Backlog.Count == 3 })
	there.Store(true)
	c := u.welcome(false, none)
	c.want(fmt.Sprintf("PUBLISH 1 level 499 #%d", id(latest, normal, 999)), fmt.Sprintf("PUBLISH 1 pressure 499 #%d", id(latest, normal, 1000)),
		fmt.Sprintf("PUBLISH 1 seldom x #%d", id(latest, normal, 1001)))

	// What is in flight is not superseded. After the link has broken it is.
	g.broker.sendAll(1, "level", "500")
	c.want(fmt.Sprintf("PUBLISH 1 level 500 #%d", id(latest, normal, 1002)))
	c.ack(packet.PUBACK, id(latest, normal, 1001), 0)
	g.awaitStatus("one acknowledgement", func(s Status) bool { return s.Forwarded == 1 })
	c.net.Close()
	for range 2 {
		c = u.welcome(true, none)
		c.want(fmt.Sprintf("PUBLISH 1 dup pressure 499 #%d", id(latest, normal, 1000)), fmt.Sprintf("PUBLISH 1 dup level 500 #%d", id(latest, normal, 1002)))
		c.wantNothing()
		c.net.Close()
		g.stop() // and the same after a restart of the gateway
		g.start()
	}
}

func TestLatestOnlyIsBounded(t *testing.T) {
	var q newestOfTopics
	message := func(topic string, size int) []byte {
		return (&packet.Publish{Topic: []byte(topic), Payload: make([]byte, size)}).Append(nil, packet.V5)
	}
	for n := uint64(1); n <= 100_000; n++ {
		q.put(storage.Entry{N: n, Message: message(fmt.Sprint(n%7), int(n%100))})
	}
	if len(q.topics) != 7 || len(q.turns) > 2000 || q.bytes > 7*200 {
		t.Errorf("%d topics, %d turns, %d bytes", len(q.topics), len(q.turns), q.bytes)
	}
	var got []uint64
	for e, ok := q.front(); ok; e, ok = q.front() {
		got = append(got, e.N)
		q.pop()
	}
	if !slices.IsSorted(got) || len(got) != 7 || got[6] != 100_000 || q.bytes != 0 || len(q.topics) != 0 {
		t.Errorf("came out %v, %d bytes remain", got, q.bytes)
	}
}

// mosquitto 1359: after the outage a tidal wave drowns the upstream, and what is just coming.
func TestMosquitto1359BacklogIsHeldBack(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), func(c *Config) {
		c.Up = []UpRule{{Filter: "#", Order: orderLiveFirst}}
		c.Replay.MessagesPerSecond = 0.001
	}, nil)
	g.broker.sendAll(1, "t", "old 1", "old 2", "old 3", "old 4")
	c := u.welcome(false, none)
	c.want(fmt.Sprintf("PUBLISH 1 t old 1 #%d", id(backlog, normal, 1)))
	g.broker.await("the link", func([]Message) bool { return g.broker.resorts == 1 })
	g.broker.sendAll(1, "t", "live 1", "live 2", "live 3")
	for n := range uint64(3) {
		c.want(fmt.Sprintf("PUBLISH 1 t live %d #%d", n+1, id(live, normal, n+1)))
	}
	c.wantNothing() // the rest of the backlog has its time
}

func TestReplayBucket(t *testing.T) {
	now := time.Unix(0, 0)
	r := newReplay(ReplayConfig{MessagesPerSecond: 100, BytesPerSecond: 1000})
	sent, bytes := 0, 0
	for until := now.Add(10 * time.Second); now.Before(until); {
		if r.allows(now) {
			r.spend(300)
			sent, bytes = sent+1, bytes+300
			continue
		}
		if due := r.due(); !due.After(now) {
			t.Fatalf("due %v at %v", due, now)
		} else {
			now = due
		}
	}
	if bytes < 9500 || bytes > 11_600 {
		t.Errorf("%d bytes in ten seconds at 1000 a second", bytes)
	}
	r = newReplay(ReplayConfig{})
	for range 1000 {
		if !r.allows(now) {
			t.Fatal("held back without a limit")
		}
		r.spend(1 << 20)
	}
}

// A rule that gets another order leaves messages in a lane that no rule uses: they go as the rules of today say.
func TestRulesMayMoveToAnotherLane(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withRules(UpRule{Filter: "a/#", Priority: "high", Topic: "before/{1}"}, UpRule{Filter: "b", Topic: "b"}), nil)
	g.broker.sendAll(2, "a/x", "1")
	g.broker.sendAll(1, "b", "2")
	c := u.welcome(false, none)
	c.want(fmt.Sprintf("PUBLISH 2 before/x 1 #%d", id(strict, high, 1)), "PUBLISH 1 b 2 #2")
	c.net.Close()
	g.stop()
	g.cfg.Up = []UpRule{{Filter: "a/#", Topic: "now/{1}", Order: orderLatestOnly}}
	g.cfg.SetDefaults()
	g.start()
	g.broker.sendAll(2, "a/x", "3")
	c = u.welcome(true, none)
	c.wantAnyOrder(fmt.Sprintf("PUBLISH 2 dup now/x 1 #%d", id(strict, high, 1)), fmt.Sprintf("PUBLISH 1 now/x 3 #%d", id(latest, normal, 1)))
	// Nothing says any more where the other is to go: it is not lost without a word.
	g.awaitStatus("a dead letter", func(s Status) bool { return s.Dropped["no-rule"] == 1 && s.DeadLetters == 1 })
}

func TestRuleExpiry(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withRules(UpRule{Filter: "#", Expiry: 3 * time.Hour}), nil)
	send := func(text string, age time.Duration, expiry uint32) {
		g.broker.sendAt(packet.Publish{QoS: 1, Topic: []byte("t"), Payload: []byte(text),
			PublishProperties: packet.PublishProperties{HasExpiry: expiry > 0, Expiry: expiry}}, time.Now().Add(-age-500*time.Millisecond))
	}
	send("too old", 3*time.Hour, 0)
	send("still good", 2*time.Hour, 0)
	send("the publisher says less", 2*time.Hour, 7200)
	c := u.welcome(false, none)
	var p packet.Publish
	if err := p.Decode(c.wantType(packet.PUBLISH), c.v); err != nil {
		t.Fatal(err)
	}
	if string(p.Payload) != "still good" || !p.HasExpiry || p.Expiry > 3600 || p.Expiry < 3500 {
		t.Errorf("got %q, expiry %d", p.Payload, p.Expiry)
	}
	g.awaitStatus("two expired", func(s Status) bool { return s.Dropped["expired"] == 2 })
}

// A reload keeps the account of what may be in flight in the lanes that stay, and adds those that the rules need.
func TestChangeKeepsLanesAndAddsOthers(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withRules(UpRule{Filter: "a", Priority: "high"}, UpRule{Filter: "b"}), shortGoodbye)
	g.broker.sendAll(2, "a", "1")
	g.broker.sendAll(1, "b", "2")
	c := u.welcome(false, none)
	c.want(fmt.Sprintf("PUBLISH 2 a 1 #%d", id(strict, high, 1)), "PUBLISH 1 b 2 #2")
	c.ack(packet.PUBREC, id(strict, high, 1), 0)
	c.want(fmt.Sprintf("PUBREL %d", id(strict, high, 1)))
	c.net.Close()
	g.change(func(cfg *Config) {
		cfg.Up = []UpRule{{Filter: "b", Order: orderLatestOnly}, {Filter: "a", Order: orderLiveFirst}}
		cfg.Replay.MessagesPerSecond = 1000
	})
	g.broker.sendAll(1, "a", "3")
	c = u.welcome(true, none)
	c.wantAnyOrder(fmt.Sprintf("PUBREL %d", id(strict, high, 1)), "PUBLISH 1 dup b 2 #2", fmt.Sprintf("PUBLISH 1 a 3 #%d", id(backlog, normal, 1)))
	g.broker.await("the link", func([]Message) bool { return g.broker.resorts == 1 })
	g.broker.sendAll(1, "b", "4")
	g.broker.sendAll(1, "a", "5")
	c.wantAnyOrder(fmt.Sprintf("PUBLISH 1 b 4 #%d", id(latest, normal, 1)), fmt.Sprintf("PUBLISH 1 a 5 #%d", id(live, normal, 1)))
	if n := len(g.bridge.Status().Lanes); n != 5 {
		t.Errorf("%d lanes, want 5", n)
	}
}

// What has a low priority, and the backlog, are not starved by what goes first.
func TestNoLaneIsStarved(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), withRules(UpRule{Filter: "alarm", Priority: "high"}, UpRule{Filter: "log", Priority: "low"}, UpRule{Filter: "#"}), nil)
	for i := range 300 {
		g.broker.sendAll(1, "alarm", fmt.Sprint(i))
	}
	g.broker.sendAll(1, "log", "x", "x")
	g.broker.sendAll(1, "value", "x", "x")
	c := u.welcome(false, packet.ConnackProperties{ReceiveMaximum: 1})
	count := map[string]int{}
	for range 110 {
		var p packet.Publish
		if err := p.Decode(c.wantType(packet.PUBLISH), c.v); err != nil {
			t.Fatal(err)
		}
		count[string(p.Topic)]++
		c.ack(packet.PUBACK, p.PacketID, 0)
	}
	if count["log"] != 2 || count["value"] != 2 || count["alarm"] != 106 {
		t.Errorf("of the first 110 messages %v", count)
	}
}

// A crash takes back acknowledgements, more than a lane has packet identifiers if messages go fast: the oldest is far
// behind what is open at the upstream. Two never share an identifier all the same.
func TestCrashTakesBackMoreThanThereAreIdentifiers(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	u.welcome(false, none)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	g.halt()
	const twin = 10 + idsPerLane
	for n := 1; n <= twin+1; n++ {
		qos := byte(1)
		if n == 10 || n >= twin {
			qos = 2
		}
		g.broker.sendAll(qos, "t", fmt.Sprint(n))
	}
	if err := g.log.WaitSafe(t.Context(), g.log.Stats().Appended); err != nil {
		t.Fatal(err)
	}
	// What the store remembers of a life in which all of these were sent, and those below 4000 finished.
	for _, n := range []uint64{10, twin} {
		if err := g.log.WaitSafe(t.Context(), g.broker.cursor.Received(n)); err != nil {
			t.Fatal(err)
		}
	}
	for n := uint64(12); n < 4090; n++ {
		g.broker.cursor.Ack(n)
	}
	g.stop = nil
	if err := g.log.Close(); err != nil {
		t.Fatal(err)
	}
	g.start()
	c := u.welcome(true, none)
	shared := id(strict, normal, 10)
	if shared != id(strict, normal, twin) {
		t.Fatal("the test is about two messages with one identifier")
	}
	c.want(fmt.Sprintf("PUBREL %d", shared))
	for n := uint64(1); n <= 11; n++ {
		if n != 10 {
			c.want(fmt.Sprintf("PUBLISH 1 dup up/t %d #%d", n, id(strict, normal, n)))
		}
	}
	c.wantNothing()
	c.ack(packet.PUBCOMP, shared, 0)
	c.want(fmt.Sprintf("PUBREL %d", shared))
	for n := uint64(1); n <= 11; n++ {
		if n != 10 {
			c.ack(packet.PUBACK, id(strict, normal, n), 0)
		}
	}
	seen := 0
	for n := uint64(4090); n <= twin+1; n++ {
		if n == twin {
			continue
		}
		var p packet.Publish
		if err := p.Decode(c.wantType(packet.PUBLISH), c.v); err != nil {
			t.Fatal(err)
		}
		if string(p.Payload) != fmt.Sprint(n) || p.PacketID == shared {
			t.Fatalf("got %s with identifier %d, want %d", p.Payload, p.PacketID, n)
		}
		seen++
	}
	c.ack(packet.PUBCOMP, shared, 0)
	g.awaitStatus("both exchanges to be over", func(s Status) bool { return s.Forwarded == 12 && s.Backlog.Count == int64(seen) })
}
