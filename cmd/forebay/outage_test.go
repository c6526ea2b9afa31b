package main_test

import (
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"forebay/broker/packet"
)

// account is what one device did: it numbers its messages and remembers which
// of them the gateway acknowledged. But for acked it belongs to the goroutine of the device until that has ended.
type account struct {
	name  string
	topic string // published to
	qos   byte
	sent  int  // numbers 0 to sent-1 were handed to the client, acknowledged or not
	loose bool // the client itself repeats and reorders: only losses are judged

	mu    sync.Mutex // of acked
	acked map[int]bool
}

// take notes that message n was acknowledged, and reports whether that is news.
func (a *account) take(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	known := a.acked[n]
	a.acked[n] = true
	return !known
}

func (a *account) acknowledged() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.acked)
}

func (a *account) payload(n int) string { return fmt.Sprintf("%s %06d", a.name, n) }

// ledger counts acknowledgements over all devices and wakes the chaos.
type ledger struct {
	mu    sync.Mutex
	total int
	grown chan struct{}
}

func (l *ledger) add(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total += n
	close(l.grown)
	l.grown = make(chan struct{})
}

// await waits until the devices together have n acknowledgements; false: in vain.
func (l *ledger) await(n int) bool {
	deadline := time.After(patience)
	for {
		l.mu.Lock()
		total, grown := l.total, l.grown
		l.mu.Unlock()
		if total >= n {
			return true
		}
		select {
		case <-grown:
		case <-deadline:
			return false
		}
	}
}

// reach is await for the goroutine of the test.
func (l *ledger) reach(t *testing.T, n int) {
	t.Helper()
	if !l.await(n) {
		t.Fatalf("the devices do not come to %d acknowledgements", n)
	}
}

// paho publishes count messages with the Go client, twenty in flight, through
// however many restarts of the gateway. What was acknowledged is read off the wire: v1.5.1
// completes tokens of messages that it never sent when the connection breaks. It also mixes
// new messages between those it repeats, and repeats PUBLISH after PUBREL: only losses are judged.
func (a *account) paho(t *testing.T, port, count int, book *ledger) {
	a.loose = true
	options := mqtt.NewClientOptions().AddBroker(fmt.Sprintf("tcp://127.0.0.1:%d", port)).
		SetClientID(a.name).SetCleanSession(false).SetStore(mqtt.NewOrderedMemoryStore()).
		SetAutoReconnect(true).SetConnectRetry(true).SetConnectRetryInterval(50 * time.Millisecond).
		SetMaxReconnectInterval(100 * time.Millisecond)
	options.SetCustomOpenConnectionFn(func(address *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
		conn, err := net.Dial("tcp", address.Host)
		return &tap{Conn: conn, account: a, book: book, flying: make(map[uint16]int)}, err
	})
	client := mqtt.NewClient(options)
	if token := client.Connect(); token.Wait() && token.Error() != nil {
		t.Errorf("%s: %v", a.name, token.Error())
		return
	}
	defer client.Disconnect(100)
	a.sent = count
	for n := 0; n < count; n += 20 {
		var tokens []mqtt.Token
		for i := n; i < n+20; i++ {
			tokens = append(tokens, client.Publish(a.topic, a.qos, false, a.payload(i)))
		}
		for i, token := range tokens {
			if !token.WaitTimeout(patience) {
				t.Errorf("%s: message %d is not acknowledged", a.name, n+i)
				return
			}
		}
	}
}

// tap is a connection of a client that is not ours, and notes which messages are acknowledged.
type tap struct {
	net.Conn
	account *account
	book    *ledger

	out    []byte         // owned by Write: the packet that is not complete
	in     []byte         // owned by Read
	mu     sync.Mutex     // of flying
	flying map[uint16]int // number of the message by packet identifier
}

func (c *tap) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.out = packets(append(c.out, b[:n]...), func(f packet.Frame) {
		var p packet.Publish
		if f.Type() != packet.PUBLISH || p.Decode(f, packet.V311) != nil {
			return
		}
		var number int
		if _, err := fmt.Sscanf(string(p.Payload), c.account.name+" %d", &number); err == nil {
			c.mu.Lock()
			c.flying[p.PacketID] = number
			c.mu.Unlock()
		}
	})
	return n, err
}

func (c *tap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.in = packets(append(c.in, b[:n]...), func(f packet.Frame) {
		var a packet.Ack
		if f.Type() != packet.PUBACK && f.Type() != packet.PUBREC || a.Decode(f, packet.V311) != nil {
			return
		}
		c.mu.Lock()
		number, ok := c.flying[a.PacketID]
		c.mu.Unlock()
		if ok && c.account.take(number) {
			c.book.add(1)
		}
	})
	return n, err
}

// packets calls fn for each whole packet at the front of b and returns the rest.
func packets(b []byte, fn func(packet.Frame)) []byte {
	for {
		f, n, err := packet.Next(b, packet.V311, 0)
		if err != nil || n == 0 {
			return b
		}
		fn(f)
		b = b[n:]
	}
}

// mosquittoPub publishes with mosquitto_pub, a hundred messages a run, each run with a session
// of its own. A run counts as acknowledged when it exits with 0; after any other its numbers are not used again.
func (a *account) mosquittoPub(t *testing.T, path string, port, count int, book *ledger) {
	for n := 0; a.acknowledged() < count; n += 100 {
		var lines strings.Builder
		for i := n; i < n+100; i++ {
			fmt.Fprintln(&lines, a.payload(i))
		}
		cmd := exec.Command(path, "-p", fmt.Sprint(port), "-c", "-i", fmt.Sprint(a.name, "-", n), "-q", fmt.Sprint(a.qos), "-t", a.topic, "-l")
		cmd.Stdin = strings.NewReader(lines.String())
		err := cmd.Run()
		a.sent = n + 100
		if err == nil {
			for i := n; i < n+100; i++ {
				a.take(i)
			}
			book.add(100)
		}
		if n > 1000*count {
			t.Errorf("%s: gives up: %v", a.name, err)
			return
		}
	}
}

// judge compares what a device was promised with what arrived.
//
// A Mosquitto 2.0.11 that is restarted or whose subscriber comes back sends in another order than
// it received, and sends PUBLISH again (with DUP) where it had sent PUBREL already. Neither says anything about
// us: there the order is not judged, and a repetition only if it comes without DUP.
func (a *account) judge(t *testing.T, l *listener, prefix string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := make(map[int]int)
	last := -1
	for _, m := range l.got {
		var n int
		if _, err := fmt.Sscanf(m.payload, a.name+" %d", &n); err != nil || m.topic != prefix+a.name {
			continue
		}
		if l.strange && m.dup && seen[n] > 0 {
			continue
		}
		if seen[n]++; seen[n] == 1 {
			if n < last && !l.strange && !a.loose {
				t.Errorf("%s at the %s: %d arrived for the first time after %d", a.name, l.name, n, last)
			}
			last = n
		}
		if n >= a.sent {
			t.Errorf("%s at the %s: %d arrived but was never sent", a.name, l.name, n)
		}
	}
	lost, twice := 0, 0
	for n := range a.acked {
		if seen[n] == 0 {
			lost++
		}
	}
	for _, times := range seen {
		if times > 1 {
			twice++
		}
	}
	if lost > 0 {
		t.Errorf("%s QoS %d: %d of %d acknowledged messages never arrived at the %s", a.name, a.qos, lost, len(a.acked), l.name)
	}
	if a.qos == 2 && twice > 0 && !a.loose {
		t.Errorf("%s: %d QoS 2 messages arrived more than once at the %s", a.name, twice, l.name)
	}
	t.Logf("%s QoS %d: acknowledged %d, arrived at the %s %d, repeated %d", a.name, a.qos, len(a.acked), l.name, len(seen), twice)
}

// Ten devices publish 20,000 QoS 1 and QoS 2 messages, and the clouds 2,000 commands, while
// the clouds go away twice and the gateway is killed three times at random moments: whatever was
// acknowledged arrives, QoS 2 exactly once, in order.
//
// One cloud is a Mosquitto, the other, over a second bridge, a Forebay: only of a broker that
// keeps to the standard itself can everything be demanded.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	const perDevice = 2000
	mqtt.ERROR, mqtt.CRITICAL = log.New(io.Discard, "", 0), log.New(io.Discard, "", 0)
	publisher := program(t, "mosquitto_pub")
	cloud := startCloud(t)
	mirror := startGateway(t, `
storage: {path: %DIR%/store}
broker: {listeners: [{address: "127.0.0.1:%PORT%", anonymous: true}]}
`)
	const bridge = `
  - name: %s
    addresses: ["mqtt://127.0.0.1:%d"]
    reconnect: {min: 100ms, max: 500ms}
    up: [{filter: "plant/#", topic: "sites/{site}/{topic}", qos: 2}]
    down: [{filter: "cmd/pump7/#", topic: "local/{1}", qos: 2}]`
	gw := startGateway(t, `
site: pump7
storage: {path: %DIR%/store}
broker: {listeners: [{address: "127.0.0.1:%PORT%", anonymous: true}]}
bridges:`+fmt.Sprintf(bridge, "cloud", cloud.port)+fmt.Sprintf(bridge, "mirror", mirror.port)+"\n")
	gw.wait("connected", "bridge=cloud")
	gw.wait("connected", "bridge=mirror")
	atCloud := listen(t, &listener{name: "cloud", port: cloud.port, filter: "sites/#", strange: true})
	atMirror := listen(t, &listener{name: "mirror", port: mirror.port, filter: "sites/#"})
	atPlant := listen(t, &listener{name: "plant", port: gw.port, filter: "local/#"})

	const total = 10 * perDevice
	book, aside := &ledger{grown: make(chan struct{})}, &ledger{grown: make(chan struct{})}
	var devices, commanders []*account
	var working sync.WaitGroup
	for i := range 10 {
		name := fmt.Sprintf("dev%d", i)
		a := &account{name: name, topic: "plant/" + name, qos: byte(1 + i%2), acked: make(map[int]bool)}
		devices = append(devices, a)
		working.Go(func() {
			switch {
			case i < 6:
				(&device{account: a, port: gw.port, book: book}).publish(t, perDevice)
			case i < 8:
				a.paho(t, gw.port, perDevice, book)
			default:
				a.mosquittoPub(t, publisher, gw.port, perDevice, book)
			}
		})
	}
	sources := []int{cloud.port, cloud.port, mirror.port, mirror.port}
	for i, port := range sources {
		name := fmt.Sprintf("cmd%d", i)
		a := &account{name: name, topic: "cmd/pump7/" + name, qos: byte(1 + i%2), acked: make(map[int]bool), loose: port == cloud.port}
		commanders = append(commanders, a)
		working.Go(func() { // a few at a time, beside the devices and so through all blows
			d := &device{account: a, port: port, book: aside}
			for k := 1; k <= 100 && book.await(total*k/110); k++ {
				d.publish(t, 5*k)
			}
		})
	}

	// Five blows, each at a random point of its part of the run.
	for i, blow := range []string{"kill", "cloud", "kill", "cloud", "kill"} {
		book.reach(t, total*i/6+rand.IntN(total/6))
		switch blow {
		case "kill":
			gw.process.kill()
			gw.restart()
		case "cloud":
			mirror.process.kill()
			if code := cloud.stop(); code != 0 {
				t.Fatalf("mosquitto: exit %d:\n%s", code, cloud.tail())
			}
			book.reach(t, total*(i+1)/6) // the devices go on meanwhile
			cloud.restart()
			mirror.restart()
		}
	}
	working.Wait()

	// A last message of each device, behind all others, shows that everything has arrived.
	end := func(a *account, port int, prefix string, listeners ...*listener) {
		code, out := run(t, publisher, "-p", fmt.Sprint(port), "-q", "2", "-t", a.topic, "-m", "end of "+a.name)
		if code != 0 {
			t.Fatalf("mosquitto_pub: exit %d: %s", code, out)
		}
		for _, l := range listeners {
			l.wait(t, "end of "+a.name)
			a.judge(t, l, prefix)
		}
	}
	for _, a := range devices {
		end(a, gw.port, "sites/pump7/plant/", atCloud, atMirror)
	}
	for i, a := range commanders {
		end(a, sources[i], "local/", atPlant)
	}
}
