package bridge

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// veryPatient is how long a test waits for programs that are slow to start, or slow altogether.
const veryPatient = time.Minute

// buildPeers builds the programs of the module bridgepeers, whose dependencies are no concern of ours otherwise.
var buildPeers = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "forebay-peers-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir+"/", "./...")
	cmd.Dir = "bridgepeers"
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build in bridgepeers: %w\n%s", err, out)
	}
	return dir, nil
})

// peerProgram returns the path of a program of bridgepeers. Without a network it cannot be built for the first time.
func peerProgram(t *testing.T, name string) string {
	t.Helper()
	began := time.Now()
	dir, err := buildPeers()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Logf("%s was built in %v", name, time.Since(began).Round(time.Second))
	return filepath.Join(dir, name)
}

// startPeer runs a program that ends with its standard input, until the test ends or kill is called.
func startPeer(t *testing.T, path string, args ...string) (kill func(), output io.Reader) {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		cmd.Process.Kill() // it may be gone already
		cmd.Wait()         // how it ends is not what is tested
	})
	t.Cleanup(kill)
	return kill, output
}

// recorder is a subscriber of its own at a cloud, with a session that lasts.
type recorder struct {
	t *testing.T

	mu    sync.Mutex
	first []string       // payloads in the order of their first arrival
	times map[string]int // that a payload has arrived

	strange bool // the cloud itself delivers in another order when a node of it is gone
}

// record subscribes with mosquitto_sub, as soon as the cloud lets it. wrapper is what it is run by; empty: nothing.
func record(t *testing.T, port int, wrapper ...string) *recorder {
	t.Helper()
	needProgram(t, "mosquitto_sub")
	args := append(wrapper, "stdbuf", "-oL", "mosquitto_sub", "-V", "311", "-p", fmt.Sprint(port), "-i", "recorder", "-c", "-q", "1", "-t", "up/#", "-F", "%p")
	end := time.Now().Add(veryPatient)
	for {
		out, err := exec.Command(args[0], append(args[1:], "-E")...).CombinedOutput()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no subscription: %v: %s", err, out)
		}
		<-time.After(100 * time.Millisecond) // between attempts
	}
	r := &recorder{t: t, times: map[string]int{}}
	_, output := startPeer(t, args[0], args[1:]...)
	go func() {
		for lines := bufio.NewScanner(output); lines.Scan(); {
			r.mu.Lock()
			if r.times[lines.Text()]++; r.times[lines.Text()] == 1 {
				r.first = append(r.first, lines.Text())
			}
			r.mu.Unlock()
		}
	}()
	return r
}

// want waits until all payloads are there, in this order unless the cloud is strange, and returns how many came more than once.
func (r *recorder) want(payloads []string) (repeated int) {
	r.t.Helper()
	end := time.Now().Add(veryPatient)
	for {
		r.mu.Lock()
		n := len(r.first)
		r.mu.Unlock()
		if n >= len(payloads) {
			break
		}
		if time.Now().After(end) {
			r.t.Fatalf("%d of %d messages arrived", n, len(payloads))
		}
		<-time.After(10 * time.Millisecond) // between looks
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, payload := range payloads {
		if r.times[payload] == 0 {
			r.t.Fatalf("%q never arrived", payload)
		}
		if r.first[i] != payload && !r.strange {
			r.t.Fatalf("message %d is %q, want %q", i, r.first[i], payload)
		}
		if r.times[payload] > 1 {
			repeated++
		}
	}
	return repeated
}

// awaitLong is awaitStatus for clouds that are slow.
func (g *gateway) awaitLong(what string, ok func(Status) bool) {
	g.t.Helper()
	for end := time.Now().Add(veryPatient); !ok(g.bridge.Status()); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatalf("waited in vain for %s: %+v", what, g.bridge.Status())
		}
	}
}

// sendNumbered sends count messages and returns their payloads behind those before.
func (g *gateway) sendNumbered(qos byte, before []string, count int) []string {
	for range count {
		payload := fmt.Sprintf("message %d", len(before))
		g.broker.sendAll(qos, "press4/temperature", payload)
		before = append(before, payload)
	}
	return before
}

// TestNATSCluster drains into three nodes of NATS with JetStream, the first of which is killed meanwhile. The session
// goes on at the next: NATS keeps it on all three.
func TestNATSCluster(t *testing.T) {
	t.Parallel() // it waits for others most of the time
	path, dir := peerProgram(t, "nats"), t.TempDir()
	var mqtt, cluster []string
	for range 3 {
		mqtt, cluster = append(mqtt, fmt.Sprint(freePort(t))), append(cluster, fmt.Sprint(freePort(t)))
	}
	var kills []func()
	var ready []*bufio.Scanner
	for i := range 3 {
		args := append([]string{fmt.Sprint("node", i), filepath.Join(dir, fmt.Sprint(i)), mqtt[i]}, cluster[i:]...)
		kill, output := startPeer(t, path, append(args, cluster[:i]...)...)
		kills, ready = append(kills, kill), append(ready, bufio.NewScanner(output))
	}
	for i, lines := range ready {
		if !lines.Scan() || lines.Text() != "ready" {
			t.Fatalf("node %d says %q: %v", i, lines.Text(), lines.Err())
		}
	}
	var last int
	if _, err := fmt.Sscan(mqtt[2], &last); err != nil {
		t.Fatal(err)
	}
	r := record(t, last)
	r.strange = true
	g := newGateway(t, "mqtt://127.0.0.1:"+mqtt[0], func(c *Config) {
		c.Addresses = append(c.Addresses, "mqtt://127.0.0.1:"+mqtt[1], "mqtt://127.0.0.1:"+mqtt[2])
	}, nil)
	g.awaitLong("up", func(s Status) bool { return s.State == Up && s.Protocol == "3.1.1" })
	const count = 600
	payloads := g.sendNumbered(1, nil, count)
	g.awaitLong("some forwarded", func(s Status) bool { return s.Forwarded >= count/10 })
	kills[0]()
	if s := g.bridge.Status(); s.Backlog.Count == 0 {
		t.Log("everything was forwarded before the node was killed")
	}
	g.awaitLong("another node and an empty queue", func(s Status) bool {
		return s.State == Up && s.Address != g.cfg.Addresses[0] && s.Backlog.Count == 0
	})
	payloads = g.sendNumbered(2, payloads, 20)
	g.awaitLong("an empty queue", func(s Status) bool { return s.Backlog.Count == 0 })
	t.Logf("%d of %d messages came more than once", r.want(payloads), len(payloads))
}

// toxiproxy is a bad network in front of one upstream.
type toxiproxy struct {
	t   *testing.T
	api string
}

// ask sends a request to the proxy. A body that is nil is none.
func (p *toxiproxy) ask(method, path string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(p.t.Context(), method, p.api+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 300 {
		err = fmt.Errorf("toxiproxy: %s %s: %s: %s", method, path, response.Status, answer)
	}
	return err
}

func (p *toxiproxy) must(method, path string, body any) {
	p.t.Helper()
	if err := p.ask(method, path, body); err != nil {
		p.t.Fatal(err)
	}
}

// startToxiproxy puts a bad network before a port and returns it with its own port.
func startToxiproxy(t *testing.T, upstream int) (*toxiproxy, int) {
	t.Helper()
	path, api, port := peerProgram(t, "toxiproxy"), fmt.Sprintf("127.0.0.1:%d", freePort(t)), freePort(t)
	startPeer(t, path, api)
	p := &toxiproxy{t: t, api: "http://" + api}
	proxy := map[string]any{"name": "uplink", "listen": fmt.Sprintf("127.0.0.1:%d", port), "upstream": fmt.Sprintf("127.0.0.1:%d", upstream), "enabled": true}
	for end := time.Now().Add(veryPatient); ; <-time.After(20 * time.Millisecond) {
		err := p.ask("POST", "/proxies", proxy)
		if err == nil {
			return p, port
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestBadNetwork drains into a Mosquitto through everything that Toxiproxy can do to a connection.
func TestBadNetwork(t *testing.T) {
	t.Parallel() // it waits for others most of the time
	port := freePort(t)
	configuredMosquitto(t, fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\n", port))
	awaitPort(t, port)
	p, bad := startToxiproxy(t, port)
	r := record(t, port)
	g := newGateway(t, fmt.Sprintf("mqtt://127.0.0.1:%d", bad), func(c *Config) { c.AckTimeout, c.ConnectTimeout = time.Second, time.Second }, impatient)
	g.awaitLong("up", func(s Status) bool { return s.State == Up })
	var payloads []string
	for _, c := range []struct {
		name, kind, stream string
		attributes         map[string]int
		ends               bool // nothing gets through until it is gone
	}{
		{"latency", "latency", "downstream", map[string]int{"latency": 100, "jitter": 90}, false},
		{"latency of what we send", "latency", "upstream", map[string]int{"latency": 100, "jitter": 90}, false},
		{"1 KB a second", "bandwidth", "upstream", map[string]int{"rate": 1}, false},
		{"in slices", "slicer", "upstream", map[string]int{"average_size": 3, "size_variation": 2, "delay": 100}, false},
		{"reset in the midst", "reset_peer", "upstream", map[string]int{"timeout": 50}, true},
		{"closed behind some bytes", "limit_data", "upstream", map[string]int{"bytes": 700}, true},
		{"closed behind some answers", "limit_data", "downstream", map[string]int{"bytes": 60}, true},
		{"closed late", "slow_close", "upstream", map[string]int{"delay": 300}, false},
		{"nothing goes out any more", "timeout", "upstream", map[string]int{"timeout": 0}, true},
		{"nothing comes back any more", "timeout", "downstream", map[string]int{"timeout": 0}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			// A link that breaks again soon is not told again.
			told := func() int { return g.lines.count("level=WARN") + g.lines.count("connected to the upstream") }
			before := told()
			p.must("POST", "/proxies/uplink/toxics", map[string]any{"name": "toxic", "type": c.kind, "stream": c.stream, "attributes": c.attributes})
			payloads = g.sendNumbered(1, payloads, 50)
			if c.ends {
				g.awaitLong("a line about it", func(Status) bool { return told() > before })
				p.must("DELETE", "/proxies/uplink/toxics/toxic", nil)
			}
			g.awaitLong("an empty queue", func(s Status) bool { return s.Backlog.Count == 0 })
			if !c.ends {
				p.must("DELETE", "/proxies/uplink/toxics/toxic", nil)
			}
			g.awaitLong("up", func(s Status) bool { return s.State == Up })
		})
	}
	p.must("POST", "/proxies/uplink", map[string]any{"enabled": false}) // cut, and nobody listens
	payloads = g.sendNumbered(2, payloads, 50)
	g.awaitLong("down", func(s Status) bool { return s.State == Down })
	p.must("POST", "/proxies/uplink", map[string]any{"enabled": true})
	g.awaitLong("an empty queue", func(s Status) bool { return s.Backlog.Count == 0 })
	t.Logf("%d of %d messages came more than once", r.want(payloads), len(payloads))
	if strings.Contains(g.lines.String(), "level=ERROR") {
		t.Errorf("log:\n%s", g.lines)
	}
}
