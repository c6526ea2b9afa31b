package core

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"forebay/broker/packet"
)

// The tree yields for every topic exactly the subscriptions that packet.Match says, through additions, replacements
// and removals, and with the cache between.
func TestRoutesAgreeWithMatch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	levels := []string{"a", "b", "", "+", "$x", "ab"}
	name := func(last ...string) string {
		parts := make([]string, 1+rnd.IntN(4))
		for i := range parts {
			parts[i] = levels[rnd.IntN(len(levels))]
		}
		if len(last) > 0 && rnd.IntN(3) == 0 {
			parts = append(parts, last[0])
		}
		return strings.Join(parts, "/")
	}
	var r router
	sessions := make([]*session, 20)
	for i := range sessions {
		sessions[i] = &session{clientID: fmt.Sprint(i)}
	}
	for range 4_000 {
		s := sessions[rnd.IntN(len(sessions))]
		filter := name("#")
		if filter == "" {
			filter = "#"
		}
		if old := s.subscriptions.find([]byte(filter)); old != nil {
			r.remove(old)
		} else {
			r.add(s, &subscription{filter: filter, qos: byte(rnd.IntN(3))})
		}
		topic := strings.ReplaceAll(name(), "+", "c")
		if topic == "" {
			continue
		}
		want := map[string]byte{}
		for _, s := range sessions {
			for sub := range s.subscriptions.all() {
				if packet.Match([]byte(sub.filter), []byte(topic)) {
					want[s.clientID] = max(want[s.clientID], sub.qos)
				}
			}
		}
		got := map[string]byte{}
		for _, target := range r.find([]byte(topic)).memory {
			if _, twice := got[target.session.clientID]; twice {
				t.Fatalf("%q: session %s twice", topic, target.session.clientID)
			}
			got[target.session.clientID] = target.qos
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%q: got %v, want %v", topic, got, want)
		}
	}
	for _, s := range sessions {
		for _, sub := range slices.Collect(s.subscriptions.all()) {
			r.remove(sub)
		}
	}
	if !r.root.empty() || r.count != 0 {
		t.Errorf("the tree is not empty: %d subscriptions", r.count)
	}
	r.forgetOutdated()
	if len(r.cache) != 0 || r.cacheBytes != 0 || r.cacheTargets != 0 {
		t.Errorf("the cache has %d routes, %d bytes, %d targets", len(r.cache), r.cacheBytes, r.cacheTargets)
	}
}

// The cache is bounded whatever the topics.
func TestRouteCacheIsBounded(t *testing.T) {
	var r router
	r.add(&session{}, &subscription{filter: "#"})
	for i := range 3 * maxCachedRoutes {
		r.find(fmt.Appendf(nil, "%s/%d", strings.Repeat("x", i%1000), i))
		if len(r.cache) > maxCachedRoutes || r.cacheBytes > maxCachedBytes || r.cacheTargets > maxCachedTargets+1 {
			t.Fatalf("%d routes, %d bytes, %d targets", len(r.cache), r.cacheBytes, r.cacheTargets)
		}
	}
}

// The store agrees with a map that is sorted when asked.
func TestRetainedStore(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var st retainedStore
	model := map[string]string{}
	bytes := int64(0)
	for i := range 30_000 {
		topic := fmt.Sprint(rnd.IntN(3000))
		if rnd.IntN(3) == 0 || i > 25_000 {
			st.remove(topic)
			delete(model, topic)
		} else {
			body := fmt.Sprint("body", i)
			st.put(&retained{topic: topic, body: []byte(body)})
			model[topic] = body
		}
		if i%500 != 0 {
			continue
		}
		var want []string
		bytes = 0
		for topic, body := range model {
			want = append(want, topic+"="+body)
			bytes += int64(len(topic) + len(body))
		}
		slices.SortFunc(want, func(a, b string) int {
			ta, _, _ := strings.Cut(a, "=")
			tb, _, _ := strings.Cut(b, "=")
			return strings.Compare(ta, tb)
		})
		var got []string
		for r := st.after("", false); r != nil; r = st.after(r.topic, true) {
			got = append(got, r.topic+"="+string(r.body))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("after %d steps: %d messages, want %d", i, len(got), len(want))
		}
		if st.bytes != bytes || len(st.byTopic) != len(model) {
			t.Fatalf("%d bytes of %d messages, want %d of %d", st.bytes, len(st.byTopic), bytes, len(model))
		}
	}
}

// The window agrees with a map from number to state; no two numbers in flight share an identifier [MQTT-2.2.1-3].
func TestWindow(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	var w window
	model := map[uint64]flight{}
	byID := map[uint16]uint64{}
	next := uint64(60_000)
	refused := 0
	for range 400_000 {
		switch {
		case rnd.IntN(2) == 0:
			next += uint64(rnd.IntN(3)) // numbers may be missing
			if !w.add(next, awaitAck) {
				refused++
				// Only because the oldest is too far back.
				low := next
				for n := range model {
					low = min(low, n)
				}
				if next-low < maxIdentifiers {
					t.Fatalf("%d refused, the oldest is %d", next, low)
				}
				for n := range model {
					if n < low+100 {
						w.land(n)
						delete(model, n)
						delete(byID, identifier(n))
					}
				}
				continue
			}
			if other, taken := byID[identifier(next)]; taken {
				t.Fatalf("%d and %d share an identifier", other, next)
			}
			model[next], byID[identifier(next)] = awaitAck, next
			next++
		case rnd.IntN(20) != 0: // a few stay for long
			for n, state := range model {
				got, gotState := w.find(identifier(n))
				if got != n || gotState != state {
					t.Fatalf("%d is %d in state %d, want %d", n, got, gotState, state)
				}
				if n%500 == 0 {
					continue
				}
				if state == awaitAck && rnd.IntN(2) == 0 {
					w.set(n, awaitComp)
					model[n] = awaitComp
					continue
				}
				w.land(n)
				delete(model, n)
				delete(byID, identifier(n))
				break
			}
		}
		if w.count != len(model) {
			t.Fatalf("%d in flight, want %d", w.count, len(model))
		}
		id := uint16(rnd.IntN(65536))
		if n, state := w.find(id); (state != landed) != (byID[id] != 0) || state != landed && byID[id] != n {
			t.Fatalf("identifier %d: %d in state %d, want %d", id, n, state, byID[id])
		}
	}
	if refused == 0 {
		t.Error("the window was never full: the test is too short")
	}
}
