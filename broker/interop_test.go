package broker

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"forebay/broker/packet"
)

// program is a mosquitto_sub that runs beside the test.
type program struct {
	t     testing.TB
	cmd   *exec.Cmd
	lines chan string
}

// peerArgs are the arguments that all of Mosquitto's clients need to reach the server.
func peerArgs(g *gateway, args ...string) []string {
	_, port, err := net.SplitHostPort(g.addr().String())
	if err != nil {
		g.t.Fatal(err)
	}
	return append([]string{"-h", "127.0.0.1", "-p", port}, args...)
}

func runPeer(g *gateway, name string, args ...string) {
	g.t.Helper()
	if out, err := exec.Command(needPeer(g.t, name), peerArgs(g, args...)...).CombinedOutput(); err != nil {
		g.t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

// startPeer starts a program whose lines are read by expect.
func startPeer(g *gateway, name string, args ...string) *program {
	g.t.Helper()
	p := &program{t: g.t, cmd: exec.Command(needPeer(g.t, name), peerArgs(g, args...)...), lines: make(chan string, 100)}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		p.cmd.Stderr = p.cmd.Stdout
		err = p.cmd.Start()
	}
	if err != nil {
		g.t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	g.t.Cleanup(func() {
		// It may have ended by itself, and its exit code is then of no interest.
		_ = p.cmd.Process.Kill()
		for range p.lines {
		}
		<-read
		_ = p.cmd.Wait()
	})
	return p
}

func (p *program) expect(want string) {
	p.t.Helper()
	select {
	case line := <-p.lines:
		if line != want {
			p.t.Errorf("%s printed %q, want %q", p.cmd.Path, line, want)
		}
	case <-time.After(patience):
		p.t.Fatalf("%s does not print %q", p.cmd.Path, want)
	}
}

// subscribed waits until n subscriptions exist.
func (g *gateway) subscribed(n int) {
	g.t.Helper()
	g.settled("subscriptions", func(s Stats) bool { return s.Subscriptions == n })
}

var peerVersions = []string{"mqttv31", "mqttv311", "mqttv5"}

func TestMosquittoClients(t *testing.T) {
	for _, v := range peerVersions {
		t.Run(v, func(t *testing.T) {
			g := start(t, anyPort())
			sub := startPeer(g, "mosquitto_sub", "-V", v, "-i", "sub", "-q", "2", "-t", "a/+", "-t", "r/#", "-F", "%t %q %r %p")
			g.subscribed(2)
			for qos := range 3 {
				runPeer(g, "mosquitto_pub", "-V", v, "-q", strconv.Itoa(qos), "-t", "a/b", "-m", fmt.Sprint("hello ", qos))
				sub.expect(fmt.Sprintf("a/b %d 0 hello %d", qos, qos))
			}
			runPeer(g, "mosquitto_pub", "-V", v, "-q", "1", "-r", "-t", "r/x", "-m", "kept")
			sub.expect("r/x 1 0 kept")
			late := startPeer(g, "mosquitto_sub", "-V", v, "-q", "1", "-t", "r/x", "-F", "%t %q %r %p")
			late.expect("r/x 1 1 kept")
			runPeer(g, "mosquitto_pub", "-V", v, "-r", "-n", "-t", "r/x")
			sub.expect("r/x 0 0 ")
			g.settled("no retained message", func(s Stats) bool { return s.Retained == 0 })
		})
	}
}

// Members of 5.0 and 3.1.1 in one shared subscription: each message comes to one of them, in turn.
func TestMosquittoShared(t *testing.T) {
	g := start(t, anyPort())
	var members []*program
	for i, v := range []string{"mqttv311", "mqttv5"} {
		members = append(members, startPeer(g, "mosquitto_sub", "-V", v, "-i", v, "-q", "1", "-t", "$share/group/a/+", "-F", "%t %q %p"))
		g.subscribed(i + 1)
	}
	for i := range 4 {
		runPeer(g, "mosquitto_pub", "-q", "1", "-t", "a/b", "-m", strconv.Itoa(i))
	}
	for i := range 4 {
		members[i%2].expect(fmt.Sprintf("a/b 1 %d", i))
	}
}

func TestMosquittoWill(t *testing.T) {
	for _, v := range peerVersions {
		t.Run(v, func(t *testing.T) {
			g := start(t, anyPort())
			sub := g.client(packet.V5, "sub")
			sub.subscribe("will", 1)
			dying := startPeer(g, "mosquitto_sub", "-V", v, "-t", "x", "--will-topic", "will", "--will-payload", "gone", "--will-qos", "1")
			g.subscribed(2)
			if err := dying.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if m := sub.receive(); m.payload != "gone" || m.qos != 1 {
				t.Errorf("got %v", m)
			}
		})
	}
}

func TestMosquittoPersistentSession(t *testing.T) {
	for _, v := range peerVersions {
		t.Run(v, func(t *testing.T) {
			dir := t.TempDir()
			g := open(t, dir, anyPort()).run()
			session := []string{"-V", v, "-i", "keeper", "-c", "-q", "2", "-t", "q/#", "-F", "%q %p"}
			if v == "mqttv5" {
				session = append(session, "-x", "3600")
			}
			runPeer(g, "mosquitto_sub", append(session, "-E")...) // subscribes and goes
			runPeer(g, "mosquitto_pub", "-V", v, "-q", "1", "-t", "q/1", "-m", "one")
			g.stop()
			g = open(t, dir, anyPort()).run()
			runPeer(g, "mosquitto_pub", "-V", v, "-q", "2", "-t", "q/2", "-m", "two")
			back := startPeer(g, "mosquitto_sub", session...)
			back.expect("1 one")
			back.expect("2 two")
		})
	}
}

func TestMosquittoPasswords(t *testing.T) {
	g := start(t, Config{PasswordFile: writeFile(t, "passwd", userLines), Listeners: []ListenerConfig{{Address: "127.0.0.1:0"}}})
	pub := needPeer(t, "mosquitto_pub")
	for _, v := range peerVersions {
		runPeer(g, "mosquitto_pub", "-V", v, "-u", "alice", "-P", "secret", "-t", "x", "-m", "y", "-q", "1")
		out, err := exec.Command(pub, peerArgs(g, "-V", v, "-u", "alice", "-P", "wrong", "-t", "x", "-m", "y", "-q", "1")...).CombinedOutput()
		if err == nil || !strings.Contains(strings.ToLower(string(out)), "bad user name") {
			t.Errorf("%s with the wrong password: %v: %s", v, err, out)
		}
	}
}

func TestPahoClient(t *testing.T) {
	g := start(t, anyPort())
	connect := func(id string) mqtt.Client {
		o := mqtt.NewClientOptions().AddBroker("tcp://" + g.addr().String()).SetClientID(id).SetAutoReconnect(false)
		c := mqtt.NewClient(o)
		waitToken(t, c.Connect())
		t.Cleanup(func() { c.Disconnect(0) })
		return c
	}
	const publishers, each = 4, 250
	got := make(chan string, publishers*each)
	sub := connect("sub")
	waitToken(t, sub.Subscribe("p/#", 2, func(_ mqtt.Client, m mqtt.Message) { got <- m.Topic() + "=" + string(m.Payload()) }))
	for p := range publishers {
		c := connect(fmt.Sprint("pub", p))
		go func() {
			for i := range each {
				c.Publish(fmt.Sprint("p/", p), byte(1+p%2), false, fmt.Sprint(i))
			}
		}()
	}
	// Every message once, and in order for each publisher and topic (D6).
	last := make([]int, publishers)
	for range publishers * each {
		var m string
		select {
		case m = <-got:
		case <-time.After(patience):
			t.Fatalf("messages are missing: %v", last)
		}
		var p, i int
		if _, err := fmt.Sscanf(m, "p/%d=%d", &p, &i); err != nil {
			t.Fatalf("%q: %v", m, err)
		}
		if i != last[p] {
			t.Fatalf("publisher %d: got %d, want %d", p, i, last[p])
		}
		last[p]++
	}
	if !slices.Equal(last, []int{each, each, each, each}) {
		t.Errorf("received %v of each publisher", last)
	}
}

func waitToken(t *testing.T, token mqtt.Token) {
	t.Helper()
	if !token.WaitTimeout(patience) {
		t.Fatal("the client does not come to an end")
	}
	if err := token.Error(); err != nil {
		t.Fatal(err)
	}
}
