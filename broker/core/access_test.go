package core_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"forebay/broker/brokertest"
	"forebay/broker/core"
	"forebay/broker/packet"
)

// rules lets everybody publish, and read what does not begin with one of the hidden words. asked counts the topics.
type rules struct {
	hidden []string
	asked  *int
}

func (r rules) MayPublish(_, _ string, _ []byte) bool { return true }

func (r rules) MaySubscribe(_, _ string, filter []byte) core.Access {
	if len(r.hidden) == 0 {
		return core.AccessAll
	}
	return core.AccessSome
}

func (r rules) MayReceive(_, _ string, topic []byte) bool {
	if r.asked != nil {
		*r.asked++
	}
	for _, word := range r.hidden {
		if strings.HasPrefix(string(topic), word) {
			return false
		}
	}
	return true
}

func (b *bench) topics(t *testing.T, conn *core.Conn) (all []string) {
	t.Helper()
	for out := b.got[conn]; len(out) > 0; {
		f, n, err := packet.Next(out, conn.Version(), 0)
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		if out = out[n:]; f.Type() == packet.PUBLISH {
			var p packet.Publish
			if err := p.Decode(f, conn.Version()); err != nil {
				t.Fatal(err)
			}
			all = append(all, string(p.Topic))
		}
	}
	b.got[conn] = nil
	return all
}

// What a client may not read is left out: live, retained, and what waited for it when the rules changed.
func TestDeliveryIsAuthorised(t *testing.T) {
	b := newBench(core.Config{Authorizer: rules{hidden: []string{"secret"}}, Inflight: 1})
	pub := b.connect("connect p v4 clean")
	b.send(pub, "publish secret/kept retain =x")
	b.send(pub, "publish open/kept retain =x")
	sub := b.core.Accept(core.ConnInfo{})
	memory := b.core.Accept(core.ConnInfo{})
	b.got[sub], b.got[memory] = nil, nil
	b.send(sub, "connect s v4")
	b.send(memory, "connect m v4 clean")
	b.send(sub, "subscribe 1 #:1")
	b.send(memory, "subscribe 1 #:1")
	b.send(pub, "publish secret/live =x")
	b.send(pub, "publish open/live =x")
	want := "[open/kept open/live]"
	if got := fmt.Sprint(b.topics(t, sub)); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	// One is in flight, the others wait; then the rules change.
	for i, topic := range []string{"first", "later/a", "open/b"} {
		b.send(pub, fmt.Sprintf("publish %s q1 id=%d =x", topic, i+1))
	}
	b.core.SetAuthorizer(rules{hidden: []string{"later"}})
	b.send(pub, "publish later/c q1 id=4 =x")
	b.send(pub, "publish secret/d q1 id=5 =x")
	for id := 1; id < 6; id++ {
		b.send(sub, fmt.Sprintf("puback %d", id))
		b.send(memory, fmt.Sprintf("puback %d", id))
	}
	if got, want := fmt.Sprint(b.topics(t, sub)), "[first open/b secret/d]"; got != want {
		t.Errorf("the queue in the log gave %v, want %v", got, want)
	}
	if got, want := fmt.Sprint(b.topics(t, memory)), "[open/kept open/live first open/b secret/d]"; got != want {
		t.Errorf("the queue in memory gave %v, want %v", got, want)
	}
	if st := b.core.Stats(); st.DroppedDenied != 2 {
		t.Errorf("%d counted", st.DroppedDenied)
	}
	if dropped := b.log.Queue("session/s").Dropped["denied"]; dropped != 1 {
		t.Errorf("the queue has counted %d", dropped)
	}
}

// What has waited since an earlier start is checked against the rules of this one.
func TestDeliveryAfterRestartIsAuthorised(t *testing.T) {
	b := newBench(core.Config{})
	sub := b.connect("connect s v4", "subscribe 1 #:1")
	pub := b.connect("connect p v4 clean")
	b.core.Lost(sub, "gone")
	b.send(pub, "publish secret/a q1 id=1 =x")
	b.send(pub, "publish open/a q1 id=2 =x")
	again := newBench(core.Config{Authorizer: rules{hidden: []string{"secret"}}})
	again.log = b.log.Restart()
	events := &accept{}
	again.core = core.New(core.Config{Authorizer: rules{hidden: []string{"secret"}}}, again.log, events, again.now)
	events.core = again.core
	if err := again.log.Restore(again.core); err != nil {
		t.Fatal(err)
	}
	sub = again.core.Accept(core.ConnInfo{})
	again.got[sub] = nil
	again.send(sub, "connect s v4")
	if got, want := fmt.Sprint(again.topics(t, sub)), "[open/a]"; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A session is read with the rights of who is logged in to it now.
func TestDeliveryToAnotherUser(t *testing.T) {
	users := byUser{"alice": "a", "bob": "b"}
	b := newBench(core.Config{Authorizer: users})
	sub := b.connect("connect s v4 user=alice pass=x", "subscribe 1 #:1")
	pub := b.connect("connect p v4 clean")
	b.core.Lost(sub, "gone")
	b.send(pub, "publish a/1 q1 id=1 =x")
	sub = b.core.Accept(core.ConnInfo{})
	b.got[sub] = nil
	b.send(sub, "connect s v4 user=bob pass=x")
	b.send(pub, "publish a/2 q1 id=2 =x")
	b.send(pub, "publish b/3 q1 id=3 =x")
	if got, want := fmt.Sprint(b.topics(t, sub)), "[b/3]"; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// byUser lets each user read what begins with its word.
type byUser map[string]string

func (byUser) MayPublish(_, _ string, _ []byte) bool               { return true }
func (byUser) MaySubscribe(_, _ string, filter []byte) core.Access { return core.AccessSome }
func (u byUser) MayReceive(_, user string, topic []byte) bool {
	return bytes.HasPrefix(topic, []byte(u[user]))
}

// The rules are asked when a route is made, not for each message; and routing allocates nothing with them.
func TestAuthorisedRoutingIsCached(t *testing.T) {
	asked := 0
	b := newBench(core.Config{Authorizer: rules{hidden: []string{"secret"}, asked: &asked}})
	for i := range 3 {
		b.connect(fmt.Sprintf("connect s%d v4 clean", i), "subscribe 1 a/+:1")
	}
	pub := b.connect("connect p v4 clean")
	var batch []byte
	for range 20 {
		for _, line := range []string{"publish a/b =hello", "publish a/c =hello"} {
			p, _ := brokertest.Parse(line, packet.V311)
			batch = append(batch, p...)
		}
	}
	b.receive(pub, batch)
	b.round()
	asked = 0
	if allocs := testing.AllocsPerRun(20, func() {
		b.receive(pub, batch)
		b.round()
	}); allocs > 0 || asked > 0 {
		t.Errorf("%v allocations, %d questions", allocs, asked)
	}
}

// A message of a shared subscription goes to a member that may read it.
func TestSharedDeliveryIsAuthorised(t *testing.T) {
	b := newBench(core.Config{Authorizer: byUser{"alice": "a", "bob": "b"}})
	members := map[string]*core.Conn{}
	for _, user := range []string{"alice", "bob"} {
		members[user] = b.core.Accept(core.ConnInfo{})
		b.got[members[user]] = nil
		b.send(members[user], "connect "+user+" v5 clean user="+user+" pass=x")
		b.send(members[user], "subscribe 1 $share/g/#:0")
	}
	pub := b.connect("connect p v4 clean")
	for _, topic := range []string{"a/1", "a/2", "b/3", "b/4", "c/5"} {
		b.send(pub, "publish "+topic+" =x")
	}
	if alice, bob := fmt.Sprint(b.topics(t, members["alice"])), fmt.Sprint(b.topics(t, members["bob"])); alice != "[a/1 a/2]" || bob != "[b/3 b/4]" {
		t.Errorf("alice got %s, bob %s", alice, bob)
	}
}
