package bridge

import (
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/storage"
)

func TestStatusIsPublishedRetained(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, func(b *Bridge) { b.patience.status = 5 * time.Millisecond })
	c := u.welcome(false, none)
	g.broker.sendAll(1, "t", "waits")
	c.want("PUBLISH 1 up/t waits #2")
	latest := func(got []Message, topic string) (text string) {
		for _, m := range got {
			if m.Topic == topic {
				if !m.Retain || m.Origin != "" {
					t.Errorf("%s: retain %v, origin %q", topic, m.Retain, m.Origin)
				}
				text = string(m.Payload)
			}
		}
		return text
	}
	g.broker.await("the status of a link in use", func(got []Message) bool {
		var s Status
		text := latest(got, "$SYS/forebay/bridges/cloud")
		if text == "" {
			return false
		}
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err)
		}
		return s.Name == "cloud" && s.State == Up && s.Address == u.address() && s.Protocol == "5.0" &&
			s.Backlog.Count == 1 && s.Backlog.Bytes > 0 && s.Backlog.Oldest != nil && latest(got, "$SYS/broker/connection/cloud/state") == "1"
	})
	u.listener.Close()
	c.net.Close()
	g.broker.await("the status of a lost link", func(got []Message) bool {
		text := latest(got, "$SYS/forebay/bridges/cloud")
		return strings.Contains(text, `"state":"down"`) && strings.Contains(text, "connection refused") &&
			latest(got, "$SYS/broker/connection/cloud/state") == "0"
	})
}

func TestDropsAreLoggedOncePerEpisode(t *testing.T) {
	var text lines
	log := slog.New(slog.NewTextHandler(&text, nil))
	w := dropWatch{last: map[string]uint64{"expired": 7}, episodes: map[string]*episode{}}
	example := func(string) string { return "a/b" }
	now := time.Unix(0, 0)
	for range 5 {
		for _, n := range []uint64{7, 9, 12, 12} {
			w.look(now, map[string]uint64{"expired": n, storage.CauseFull: 2 * n}, example, log)
			now = now.Add(20 * time.Second)
		}
		w.last = map[string]uint64{"expired": 7}
	}
	if n := text.count("messages are being dropped\" cause=expired count=2 example=a/b"); n != 1 {
		t.Errorf("%d lines, want one for drops that never paused for a minute:\n%s", n, &text)
	}
	if n := text.count("cause=" + storage.CauseFull); n != 0 {
		t.Errorf("a full queue is told %d times here too; the store tells of it:\n%s", n, &text)
	}
	w.last = map[string]uint64{"expired": 12}
	w.look(now.Add(time.Hour), map[string]uint64{"expired": 12}, example, log)
	if n := text.count("no more messages are being dropped"); n != 1 {
		t.Errorf("the end is told %d times:\n%s", n, &text)
	}
}

func TestQueueLimitDropsAreShown(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), func(c *Config) { c.Queue.MaxCount = 2; c.Queue.WhenFull = "drop-newest" },
		func(b *Bridge) { b.patience.status = 5 * time.Millisecond })
	g.broker.sendAll(1, "t", "a", "b", "c")
	g.awaitStatus("one dropped", func(s Status) bool {
		var sum uint64
		for _, n := range s.Dropped {
			sum += n
		}
		return sum == 1
	})
	c := u.welcome(false, none)
	c.want("PUBLISH 1 up/t a #2", "PUBLISH 1 up/t b #3")
	c.wantNothing()
}

// While the bridge tried again more often than its status was due, the status was never told: a queue that filled up
// behind an unreachable upstream could not be seen.
func TestStatusIsFreshWhileRetrying(t *testing.T) {
	u := newUpstream(t)
	u.listener.Close()
	g := newGateway(t, u.address(),
		func(c *Config) {
			c.Reconnect = ReconnectConfig{Min: 100 * time.Millisecond, Max: 100 * time.Millisecond}
		},
		func(b *Bridge) { b.patience.status = 300 * time.Millisecond })
	told := func(words ...string) func([]Message) bool {
		return func(got []Message) bool {
			return slices.ContainsFunc(got, func(m Message) bool {
				return m.Topic == "$SYS/forebay/bridges/cloud" && !slices.ContainsFunc(words, func(word string) bool {
					return !strings.Contains(string(m.Payload), word)
				})
			})
		}
	}
	g.broker.await("the status without a link", told(`"state":"down"`))
	g.broker.sendAll(1, "t", "waits")
	g.broker.await("the backlog in the status", told(`"state":"down"`, `"backlog":{"count":1`))
}
