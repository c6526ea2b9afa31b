package edge

import (
	"strings"
	"testing"
)

func TestSystemTopics(t *testing.T) {
	dir := t.TempDir()
	g := runGateway(t, dir, Config{Version: "1.2.3"})
	in := subscribe(t, g.address, "$SYS/broker/#")
	is := func(want string) func(string) bool { return func(got string) bool { return got == want } }
	// The first round was told before anybody asked, or is told now.
	in.wait("$SYS/broker/version", is("forebay version 1.2.3"))
	in.wait("$SYS/broker/uptime", func(got string) bool { return strings.HasSuffix(got, " seconds") })

	s := newSystem(g.Gateway)
	s.update(t.Context())
	in.wait("$SYS/broker/clients/connected", is("1"))
	in.wait("$SYS/broker/clients/disconnected", is("0"))
	in.wait("$SYS/broker/clients/total", is("1"))
	in.wait("$SYS/broker/subscriptions/count", func(got string) bool { return got != "0" })
	in.wait("$SYS/broker/retained messages/count", func(got string) bool { return got != "0" })
	in.wait("$SYS/broker/publish/messages/dropped", is("0"))
	for _, topic := range []string{"messages/received", "messages/sent", "publish/messages/sent", "bytes/received", "bytes/sent"} {
		in.wait("$SYS/broker/"+topic, func(got string) bool { return got != "0" })
	}

	// What has not changed is not told again.
	in.mu.Lock()
	before := len(in.came)
	in.mu.Unlock()
	s.update(t.Context())
	s.tell("end", "of the round")
	in.wait("$SYS/broker/end", is("of the round"))
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, m := range in.came[before:] {
		if strings.HasPrefix(m, "$SYS/broker/version") || strings.HasPrefix(m, "$SYS/broker/clients") {
			t.Errorf("told again: %s", m)
		}
	}
}

// What a round was refused is told by the next one, and none of it outlives the process.
func TestSystemTopicsAfterRefusal(t *testing.T) {
	dir := t.TempDir()
	g, _ := openGateway(t, dir, Config{Version: "old"})
	s := newSystem(g)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	s.tell("version", "forebay version old")
	if !s.refused.Load() {
		t.Error("a refusal went unnoticed")
	}
	second := runGateway(t, dir, Config{Version: "new"})
	in := subscribe(t, second.address, "$SYS/broker/version")
	s.server = second.server
	s.version = "newest"
	s.update(t.Context())
	in.wait("$SYS/broker/version", func(got string) bool { return got == "forebay version newest" })
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, m := range in.came {
		if strings.Contains(m, "old") {
			t.Errorf("told from an earlier run: %s", m)
		}
	}
}
