package main_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// judgement is how long the judge looks on; FOREBAY_JUDGE=10m makes it ten minutes.
func judgement(t *testing.T) time.Duration {
	text := os.Getenv("FOREBAY_JUDGE")
	if text == "" {
		return 5 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal("FOREBAY_JUDGE: ", err)
	}
	return d
}

// lineTo is a line to a port on this machine that can be cut.
type lineTo struct {
	net.Listener
	to int

	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

func newLineTo(t *testing.T, port int) *lineTo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	line := &lineTo{Listener: l, to: port}
	var carrying sync.WaitGroup
	carrying.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", line.to))
			if err != nil {
				near.Close()
				continue
			}
			line.mu.Lock()
			line.conns = append(line.conns, near, far)
			line.mu.Unlock()
			for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
				carrying.Go(func() {
					_, _ = io.Copy(pair[0], pair[1]) // either end ends both, whatever the reason
					near.Close()
					far.Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		line.cut()
		carrying.Wait()
	})
	return line
}

func (l *lineTo) port() int { return l.Addr().(*net.TCPAddr).Port }

// cut ends all connections with a reset.
func (l *lineTo) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.(*net.TCPConn).SetLinger(0) // closed already: as good as cut
		c.Close()
	}
	l.conns = nil
}

// smallDisk mounts a file system that can be filled at dir; false: only root may.
func smallDisk(t *testing.T, dir string) bool {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("forebay-judge", dir, "tmpfs", 0, "size=128m"); err != nil {
		t.Logf("no disk is filled: %v", err)
		return false
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return true
}

// fill takes all that is free on the disk of dir and returns what gives it back.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(block)
	}
	f.Close()
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// chaos is what may happen to a gateway, its cloud, the line between them and its disk.
type chaos struct {
	t      *testing.T
	gw     *gateway
	cloud  *gateway
	line   *lineTo
	disk   string // that can be filled; empty: none
	counts map[string]int
}

// pass lets time go by, which is what a chaos of so many minutes is made of.
func pass(least, more time.Duration) { <-time.After(least + rand.N(more)) }

func (c *chaos) blow() {
	c.t.Helper()
	blows := map[string]func(){
		"kill": func() {
			c.gw.kill()
			c.gw.restart()
		},
		"kill cloud": func() {
			c.cloud.kill()
			pass(100*time.Millisecond, 2*time.Second)
			c.cloud.restart()
		},
		"kill both": func() {
			c.cloud.kill()
			c.gw.kill()
			c.gw.restart()
			c.cloud.restart()
		},
		"cut": c.line.cut,
		"freeze": func() {
			c.signal(c.cloud, syscall.SIGSTOP)
			pass(500*time.Millisecond, 3*time.Second)
			c.signal(c.cloud, syscall.SIGCONT)
		},
	}
	if c.disk != "" {
		blows["fill the disk"] = func() {
			empty := fill(c.t, c.disk)
			pass(200*time.Millisecond, time.Second)
			empty()
			select {
			case <-c.gw.exit: // systemd would
				c.t.Logf("the gateway ended on a full disk:\n%s", c.gw.tail())
				c.gw.restart()
			default:
			}
		}
	}
	names := []string{}
	for name := range blows {
		names = append(names, name)
	}
	// The rarest so far comes next, so that a short run has one of each.
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	name := slices.MinFunc(names, func(a, b string) int { return c.counts[a] - c.counts[b] })
	c.counts[name]++
	blows[name]()
}

func (c *chaos) signal(g *gateway, s syscall.Signal) {
	c.t.Helper()
	if err := g.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// Devices publish under every order that rules have while gateway, cloud, line and disk are beaten: what was
// acknowledged arrives, QoS 2 exactly once, in the order that the rule promises.
func TestJudge(t *testing.T) {
	length := judgement(t)
	cloud := startGateway(t, `
storage: {path: %DIR%/store}
broker: {listeners: [{address: "127.0.0.1:%PORT%", anonymous: true}]}
`)
	line := newLineTo(t, cloud.port)
	gw := newGateway(t, fmt.Sprintf(`
storage: {path: %%DIR%%/disk/store}
broker: {listeners: [{address: "127.0.0.1:%%PORT%%", anonymous: true}]}
bridges:
  - name: cloud
    addresses: ["mqtt://127.0.0.1:%d"]
    reconnect: {min: 100ms, max: 500ms}
    ack_timeout: 1s
    queue: {when_full: reject}
    up:
      - {filter: "plant/strict/#"}
      - {filter: "plant/live-first/#", order: live-first}
      - {filter: "plant/latest-only/#", order: latest-only, qos: 1}
`, line.port()))
	c := &chaos{t: t, gw: gw, cloud: cloud, line: line, counts: map[string]int{}}
	if disk := filepath.Join(gw.dir, "disk"); smallDisk(t, disk) {
		c.disk = disk
	}
	gw.restart()
	l := listen(t, &listener{name: "cloud", port: cloud.port, filter: "plant/#"})

	book := &ledger{grown: make(chan struct{})}
	var working sync.WaitGroup
	devices := map[string][]*account{}
	over := make(chan struct{})
	for _, order := range []string{"strict", "live-first", "latest-only"} {
		for qos := byte(1); qos <= 2; qos++ {
			name := fmt.Sprintf("%s-%d", order, qos)
			a := &account{name: name, topic: "plant/" + order + "/" + name, qos: qos, acked: map[int]bool{}}
			devices[order] = append(devices[order], a)
			working.Go(func() { publishUntil(t, &device{account: a, port: gw.port, book: book}, over) })
		}
	}
	for began := time.Now(); time.Since(began) < length && !t.Failed(); {
		pass(200*time.Millisecond, time.Second)
		c.blow()
	}
	close(over)
	working.Wait()
	t.Logf("blows: %v", c.counts)
	for order, all := range devices {
		for _, a := range all {
			l.wait(t, a.payload(a.sent-1))
			a.judgeOrder(t, l, order)
		}
	}
}

// publishUntil publishes ten messages at a time.
func publishUntil(t *testing.T, d *device, over <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for count := 10; ; count += 10 {
		d.publish(t, count)
		select {
		case <-over:
			return
		case <-tick.C:
		}
	}
}

// judgeOrder compares what a device was promised with what arrived.
func (a *account) judgeOrder(t *testing.T, l *listener, order string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := map[int]int{}
	var first []int // in the order of their first arrival
	for _, m := range l.got {
		var n int
		if _, err := fmt.Sscanf(m.payload, a.name+" %d", &n); err != nil || m.topic != a.topic {
			continue
		}
		if seen[n]++; seen[n] == 1 {
			first = append(first, n)
		}
		if seen[n] > 1 && a.qos == 2 && order != "latest-only" {
			t.Errorf("%s: %d, of QoS 2, arrived %d times", a.name, n, seen[n])
		}
	}
	if lost := a.lost(seen); order != "latest-only" && lost > 0 {
		t.Errorf("%s: %d of %d acknowledged messages never arrived", a.name, lost, len(a.acked))
	}
	// Live-first may send two rows at a time, what has piled up and what comes: each in order.
	rows := 1
	if order == "live-first" {
		rows = 2
	}
	if n := outOfOrder(first, rows); n >= 0 {
		t.Errorf("%s: %d is out of order", a.name, n)
	}
	t.Logf("%s: sent %d, acknowledged %d, arrived %d", a.name, a.sent, a.acknowledged(), len(first))
}

func (a *account) lost(seen map[int]int) (lost int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n := range a.acked {
		if seen[n] == 0 {
			lost++
		}
	}
	return lost
}

// outOfOrder returns the first number that is in none of so many ascending rows; -1: there is none.
func outOfOrder(numbers []int, rows int) int {
	last := make([]int, rows)
	for i := range last {
		last[i] = -1
	}
	for _, n := range numbers {
		at := -1
		for i, l := range last {
			if l < n && (at < 0 || l > last[at]) {
				at = i
			}
		}
		if at < 0 {
			return n
		}
		last[at] = n
	}
	return -1
}
