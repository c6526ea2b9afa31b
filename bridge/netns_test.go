package bridge

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// uplink is a pair of virtual network interfaces between here and a network namespace in which the cloud lives. What
// happens to it is what happens to a cable or a radio, not to a socket.
type uplink struct {
	t            *testing.T
	name         string // of the namespace
	ours, theirs string // the interfaces
	net          string // the first three numbers of the addresses; ours ends with .1 and theirs with .2
	mosquitto    *exec.Cmd
}

// newUplink makes one, or skips the test where that is not allowed.
func newUplink(t *testing.T) *uplink {
	t.Helper()
	for _, program := range []string{"ip", "tc", "nft", "mosquitto"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skipf("%v: apt install iproute2 nftables mosquitto", err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("only root makes network namespaces")
	}
	// Names and addresses of our own, whatever else runs here: 198.18.0.0/15 is for such things (RFC 2544).
	n := os.Getpid()
	u := &uplink{t: t, name: fmt.Sprintf("fb%d", n), ours: fmt.Sprintf("fbo%d", n), theirs: fmt.Sprintf("fbt%d", n), net: fmt.Sprintf("198.18.%d", n%256)}
	if out, err := exec.Command("ip", "netns", "add", u.name).CombinedOutput(); err != nil {
		t.Skipf("the kernel refuses network namespaces: %v: %s", err, out)
	}
	t.Cleanup(func() { u.run("ip", "netns", "del", u.name) })
	if out, err := exec.Command("ip", "link", "add", u.ours, "type", "veth", "peer", "name", u.theirs, "netns", u.name).CombinedOutput(); err != nil {
		t.Skipf("the kernel refuses virtual interfaces: %v: %s", err, out)
	}
	t.Cleanup(func() { u.run("ip", "link", "del", u.ours) })
	u.run("ip", "addr", "add", u.net+".1/24", "dev", u.ours)
	u.run("ip", "link", "set", u.ours, "up")
	u.inside("ip", "link", "set", "lo", "up")
	u.inside("ip", "addr", "add", u.net+".2/24", "dev", u.theirs)
	u.inside("ip", "link", "set", u.theirs, "up")
	config := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(config, []byte("user root\nlistener 1883 0.0.0.0\nallow_anonymous true\nlog_type none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u.mosquitto = exec.Command("ip", "netns", "exec", u.name, "mosquitto", "-c", config) // becomes mosquitto
	if err := u.mosquitto.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		u.mosquitto.Process.Kill() // it may be gone already
		u.mosquitto.Wait()         // how it ends is not what is tested
	})
	for end := time.Now().Add(patient); ; <-time.After(10 * time.Millisecond) {
		nc, err := net.Dial("tcp", u.address())
		if err == nil {
			nc.Close()
			return u
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func (u *uplink) address() string { return u.net + ".2:1883" }

func (u *uplink) run(program string, args ...string) {
	u.t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		u.t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
	}
}

// inside runs a program in the cloud's namespace.
func (u *uplink) inside(program string, args ...string) {
	u.t.Helper()
	u.run("ip", append([]string{"netns", "exec", u.name, program}, args...)...)
}

// TestRealInterface lets a link die as links do: without anybody saying so.
func TestRealInterface(t *testing.T) {
	t.Parallel() // it waits for others most of the time
	u := newUplink(t)
	r := record(t, 1883, "ip", "netns", "exec", u.name)
	const ackTimeout = 2 * time.Second
	g := newGateway(t, "mqtt://"+u.address(), func(c *Config) {
		c.AckTimeout, c.ConnectTimeout = ackTimeout, 2*time.Second
	}, nil)
	g.awaitLong("up", func(s Status) bool { return s.State == Up })
	var payloads []string
	drained := func() {
		t.Helper()
		g.awaitLong("up and an empty queue", func(s Status) bool { return s.State == Up && s.Backlog.Count == 0 })
	}
	outage := func(name string, begin, end func()) {
		t.Run(name, func(t *testing.T) {
			begin()
			began := time.Now()
			payloads = g.sendNumbered(1, payloads, 50)
			g.awaitLong("the dead link noticed", func(s Status) bool { return s.State == Stalled || s.State == Down })
			// A machine that is busy may be late to notice, never early.
			if took := time.Since(began); took < ackTimeout/2 {
				t.Errorf("the link was called dead after %v", took)
			} else {
				t.Logf("noticed after %v; the time for it is %v", took.Round(10*time.Millisecond), ackTimeout)
			}
			payloads = g.sendNumbered(1, payloads, 50)
			end()
			drained()
		})
	}
	outage("black hole", func() {
		u.inside("nft", "add table ip hole; add chain ip hole in { type filter hook input priority 0; }; add rule ip hole in tcp dport 1883 drop")
	}, func() { u.inside("nft", "delete table ip hole") })
	outage("link down", func() { u.inside("ip", "link", "set", u.theirs, "down") },
		func() { u.inside("ip", "link", "set", u.theirs, "up") })
	outage("another address", func() {
		u.run("ip", "addr", "del", u.net+".1/24", "dev", u.ours)
		u.run("ip", "addr", "add", u.net+".3/24", "dev", u.ours)
	}, func() {})
	t.Run("9.6 kbit/s", func(t *testing.T) {
		u.run("tc", "qdisc", "add", "dev", u.ours, "root", "tbf", "rate", "9600bit", "burst", "1600", "latency", "2s")
		began := time.Now()
		payloads = g.sendNumbered(1, payloads, 200)
		drained()
		t.Logf("200 messages took %v", time.Since(began).Round(10*time.Millisecond))
		u.run("tc", "qdisc", "del", "dev", u.ours, "root")
	})
	t.Logf("%d of %d messages came more than once", r.want(payloads), len(payloads))
}
