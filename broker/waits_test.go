package broker

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forebay/broker/packet"
)

// loopWaits tells what the loop of a server has waited for, besides epoll. What it waits for inside the process, a lock,
// a channel, a timer, stands in the profile of blocking, which takes every wait however short it was. The disk shows in
// what the kernel accounts to the loop's own thread.
type loopWaits struct {
	g      *gateway
	thread int
	before map[string]int64 // of waits
	disk   int64
}

func watchLoop(g *gateway) *loopWaits {
	g.t.Helper()
	runtime.SetBlockProfileRate(1)
	g.t.Cleanup(func() { runtime.SetBlockProfileRate(0) })
	w := &loopWaits{g: g}
	g.inLoop(func(*loop) bool {
		runtime.LockOSThread() // for as long as it runs
		w.thread = unix.Gettid()
		return true
	})
	w.before, w.disk = w.places(), w.diskBytes()
	return w
}

// places counts the waits of all loops so far by the function that waited, and what in: "func in lock".
func (w *loopWaits) places() map[string]int64 {
	records := make([]runtime.BlockProfileRecord, 10_000)
	n, ok := runtime.BlockProfile(records)
	if !ok {
		w.g.t.Fatalf("%d places in the profile of blocking", n)
	}
	places := map[string]int64{}
	for _, r := range records[:n] {
		frames := runtime.CallersFrames(r.Stack())
		var names []string
		for more := true; more; {
			var f runtime.Frame
			f, more = frames.Next()
			names = append(names, strings.TrimPrefix(f.Function, "forebay/"))
		}
		const round = "broker.(*loop).round"
		at := strings.Join(names, " < ")
		if before, _, inLoop := strings.Cut(at, " < "+round); inLoop {
			places[before] += r.Count
		}
	}
	return places
}

// diskBytes is what the loop's thread has read from the disk and made to be written.
func (w *loopWaits) diskBytes() (sum int64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/io", w.thread))
	if err != nil {
		without(w.g.t, "the kernel does not account the input and output of threads: "+err.Error())
	}
	for line := range bytes.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), ": ")
		if name == "read_bytes" || name == "write_bytes" {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				w.g.t.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}

// since returns the waits since the last call, without those for the locks that doc.go names: they protect a few slices.
func (w *loopWaits) since() (waits []string) {
	now, disk := w.places(), w.diskBytes()
	for at, n := range now {
		if n -= w.before[at]; n > 0 && !brief(at) {
			waits = append(waits, fmt.Sprintf("%d × %s", n, at))
		}
	}
	if disk > w.disk {
		waits = append(waits, fmt.Sprintf("%d bytes of disk", disk-w.disk))
	}
	w.before, w.disk = now, disk
	return waits
}

// brief reports that a place is one of the locks that the loop may take: the inbox's, a feed's, and the log's, under which
// no system call is made.
func brief(at string) bool {
	lock, of, _ := strings.Cut(at, " < ")
	if lock != "sync.(*Mutex).Lock" {
		return false
	}
	for _, owner := range []string{"broker.(*inbox).", "broker.(*feed).", "broker.(*guard).", "storage.(*Log).", "storage.(*Cursor)."} {
		if strings.HasPrefix(of, owner) {
			return true
		}
	}
	return false
}

// The loop waits for nothing but epoll: not for commits to the disk, password hashes, TLS and WebSocket handshakes, a
// reload of its files, a flood of retained messages, nor for readers that do not read.
func TestLoopDoesNotWait(t *testing.T) {
	a := newAuthority(t)
	cfg := a.server()
	passwords := writeFile(t, "passwd", userLines)
	cfg.PasswordFile = passwords
	cfg.Listeners = append(cfg.Listeners, anyPort().Listeners[0])
	g := start(t, cfg)
	plain := g.Addrs()[1]
	w := watchLoop(g)

	// That it sees what it should: the loop is made to wait, once in each way.
	g.inLoop(func(*loop) bool { <-time.After(time.Millisecond); return true })
	if got := strings.Join(w.since(), "\n"); !strings.Contains(got, "runtime.chanrecv1") {
		t.Fatalf("the loop has waited for a channel, and what is seen is %q", got)
	}
	file := filepath.Join(t.TempDir(), "file")
	g.inLoop(func(*loop) bool { return os.WriteFile(file, make([]byte, 100_000), 0o600) == nil })
	if got := strings.Join(w.since(), "\n"); !strings.Contains(got, "bytes of disk") {
		t.Logf("writing a file is not seen: %q; its file system may be in memory", got)
	}

	connect := func(c *client, p packet.Connect) *client { c.login(p); return c }
	for _, test := range []struct {
		name string
		do   func()
	}{
		{"commits", func() {
			away := connect(dial(t, plain, packet.V5), lasting("away"))
			away.subscribe("commits", 2)
			away.disconnect()
			pub := connect(dial(t, plain, packet.V5), lasting("pub"))
			for id := range uint16(200) {
				pub.deliver(packet.Publish{Topic: []byte("commits"), Payload: make([]byte, 1000), QoS: byte(1 + id%2), PacketID: id + 1})
			}
			back := connect(dial(t, plain, packet.V5), lasting("away"))
			for range 200 {
				back.receive()
			}
		}},
		{"password hashes", func() {
			for i := range 5 {
				connect(dial(t, plain, packet.V311), packet.Connect{ClientID: fmt.Append(nil, "alice", i), CleanStart: true,
					HasUsername: true, HasPassword: true, Username: []byte("alice"), Password: []byte("secret")}).disconnect()
			}
		}},
		{"TLS handshakes", func() {
			for i := range 20 {
				connect(a.dial(g, ""), packet.Connect{ClientID: fmt.Append(nil, "tls", i), CleanStart: true}).disconnect()
			}
		}},
		{"reloads", func() {
			for i := range 5 {
				if err := os.WriteFile(passwords, []byte(userLines+strings.Repeat("\n# more", i)), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := g.Reload(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"retained messages", func() {
			pub := connect(dial(t, plain, packet.V5), packet.Connect{ClientID: []byte("retain"), CleanStart: true})
			const messages = 3000
			for i := range messages {
				pub.publish(packet.Publish{Topic: fmt.Append(nil, "retained/", i), Payload: []byte("x"), Retain: true})
			}
			sub := connect(dial(t, plain, packet.V5), packet.Connect{ClientID: []byte("fetch"), CleanStart: true})
			pub.send(packet.AppendPingreq(nil))
			pub.expect(packet.PINGRESP)
			sub.subscribe("retained/#", 0)
			for range messages {
				sub.receive()
			}
		}},
		{"a slow reader", func() {
			slow := connect(dial(t, plain, packet.V5), packet.Connect{ClientID: []byte("slow"), CleanStart: true})
			slow.subscribe("slow", 0)
			pub := connect(dial(t, plain, packet.V5), packet.Connect{ClientID: []byte("fast"), CleanStart: true})
			for range 500 {
				pub.publish(packet.Publish{Topic: []byte("slow"), Payload: make([]byte, 30_000)})
			}
			pub.send(packet.AppendPingreq(nil))
			pub.expect(packet.PINGRESP)
		}},
	} {
		test.do()
		if waits := w.since(); len(waits) > 0 {
			t.Errorf("%s: the loop has waited:\n%s", test.name, strings.Join(waits, "\n"))
		}
	}
}
