package broker

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"forebay/broker/packet"
)

func TestGuardSlowsGuessing(t *testing.T) {
	g := newGuard()
	now := time.Unix(1_800_000_000, 0)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	guess := func(from netip.Addr, name string) bool {
		if !g.allows(from, name, now) {
			return false
		}
		g.wrong(from, name, now)
		return true
	}
	for i := range wrongPerName {
		if !guess(a, "alice") {
			t.Fatalf("guess %d was refused", i)
		}
	}
	if guess(a, "alice") {
		t.Error("one guess too many")
	}
	if !g.allows(a, "bob", now) || !g.allows(b, "alice", now) {
		t.Error("others are kept out")
	}
	now = now.Add(drainTimeOfGuard / wrongPerName)
	if !guess(a, "alice") || guess(a, "alice") {
		t.Error("want one guess after a tenth of the time")
	}
	now = now.Add(drainTimeOfGuard)
	looked := 0
	for i := range 3 * wrongPerAddress {
		if guess(a, fmt.Sprint("user", i)) {
			looked++
		}
	}
	if looked != wrongPerAddress {
		t.Errorf("%d names were tried from one address", looked)
	}
	if g.allows(a, "alice", now) || !g.allows(b, "alice", now) {
		t.Error("want the address refused, and no other")
	}
}

func TestGuardTakesAnIPv6NetworkForOneAddress(t *testing.T) {
	g := newGuard()
	now := time.Unix(1_800_000_000, 0)
	for i := range wrongPerName {
		g.wrong(netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1)), "alice", now)
	}
	if g.allows(netip.MustParseAddr("2001:db8::ffff"), "alice", now) {
		t.Error("another address of the same network may go on")
	}
	if !g.allows(netip.MustParseAddr("2001:db8:0:1::1"), "alice", now) {
		t.Error("another network may not")
	}
	if !g.allows(netip.Addr{}, "alice", now) || g.wrong(netip.Addr{}, "alice", now) {
		t.Error("a Unix socket is guarded")
	}
}

func TestGuardIsBounded(t *testing.T) {
	g := newGuard()
	now := time.Unix(1_800_000_000, 0)
	for i := range 3 * maxSuspects {
		g.wrong(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), "x", now)
	}
	if n := len(g.buckets); n > maxSuspects {
		t.Errorf("%d buckets", n)
	}
}

// Guessing is slowed for real clients, and costs others nothing.
func TestGuessingIsRefused(t *testing.T) {
	g := start(t, Config{PasswordFile: writeFile(t, "passwd", userLines), Listeners: []ListenerConfig{{Address: "127.0.0.1:0"}}})
	login := func(v packet.Version, user, password string) packet.Reason {
		c := dial(t, g.addr(), v)
		return c.connect(packet.Connect{ClientID: []byte(user), CleanStart: true, HasUsername: true, HasPassword: true,
			Username: []byte(user), Password: []byte(password)}).Reason
	}
	for range wrongPerName {
		if got := login(packet.V5, "alice", "guess"); got != packet.ReasonBadUserNameOrPassword {
			t.Fatalf("CONNACK %v", got)
		}
	}
	if got := login(packet.V5, "alice", "secret"); got != packet.ReasonConnectionRateExceeded {
		t.Errorf("after %d wrong passwords: CONNACK %v", wrongPerName, got)
	}
	if got := login(packet.V311, "alice", "secret"); got != packet.ReasonServerUnavailable {
		t.Errorf("after %d wrong passwords, 3.1.1: CONNACK %v", wrongPerName, got)
	}
	if got := login(packet.V5, "bob", "se:cret"); got != packet.ReasonSuccess {
		t.Errorf("another user: CONNACK %v", got)
	}
	if st := g.settled("counted", func(Stats) bool { return true }); st.LoginsFailed != wrongPerName || st.LoginsDelayed != 2 {
		t.Errorf("%d logins failed, %d delayed", st.LoginsFailed, st.LoginsDelayed)
	}
}

// With SCRAM guesses are cheap for the server, and slowed all the same; and who has another secret is disconnected.
func TestGuessingWithScramIsRefused(t *testing.T) {
	secret := func(password string) string {
		s, err := newScramSecret([]byte(password), 4096)
		if err != nil {
			t.Fatal(err)
		}
		return "sam:" + s.String() + "\n"
	}
	file := writeFile(t, "passwd", secret("secret"))
	g := start(t, Config{PasswordFile: file, Listeners: []ListenerConfig{{Address: "127.0.0.1:0"}}})
	login := func(password string) (*scramClient, packet.Reason) {
		c := &scramClient{client: dial(t, g.addr(), packet.V5)}
		return c, c.login("c", "sam", password).Reason
	}
	c, reason := login("secret")
	if reason != packet.ReasonSuccess {
		t.Fatalf("CONNACK %v", reason)
	}
	replace(t, file, secret("new"))
	if err := g.reload(); err != nil {
		t.Fatal(err)
	}
	if reason := c.expectClosed(); reason != packet.ReasonNotAuthorized {
		t.Errorf("closed with %v", reason)
	}
	for range wrongPerName {
		if _, reason := login("guess"); reason != packet.ReasonNotAuthorized {
			t.Fatalf("CONNACK %v", reason)
		}
	}
	if _, reason := login("new"); reason != packet.ReasonConnectionRateExceeded {
		t.Errorf("after %d wrong passwords: CONNACK %v", wrongPerName, reason)
	}
}
