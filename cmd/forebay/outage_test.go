package main_test

import (
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// account is what one device did: it numbers its messages and remembers which
// of them the gateway acknowledged.
type account struct {
	name string
	qos  byte

	mu    sync.Mutex
	sent  int // numbers 0 to sent-1 were handed to the client, acknowledged or not
	acked map[int]bool
}

func (a *account) topic() string { return "plant/" + a.name }

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

// reach waits until the devices together have n acknowledgements.
func (l *ledger) reach(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(4 * patience)
	for {
		l.mu.Lock()
		total, grown := l.total, l.grown
		l.mu.Unlock()
		if total >= n {
			return
		}
		select {
		case <-grown:
		case <-deadline:
			t.Fatalf("only %d of %d messages were acknowledged", total, n)
		}
	}
}

// paho publishes count messages with the Go client, twenty in flight, through
// however many restarts of the gateway.
func (a *account) paho(t *testing.T, port, count int, book *ledger) {
	options := mqtt.NewClientOptions().AddBroker(fmt.Sprintf("tcp://127.0.0.1:%d", port)).
		SetClientID(a.name).SetCleanSession(false).SetStore(mqtt.NewOrderedMemoryStore()).
		SetAutoReconnect(true).SetConnectRetry(true).SetConnectRetryInterval(50 * time.Millisecond).
		SetMaxReconnectInterval(100 * time.Millisecond)
	client := mqtt.NewClient(options)
	if token := client.Connect(); token.Wait() && token.Error() != nil {
		t.Errorf("%s: %v", a.name, token.Error())
		return
	}
	defer client.Disconnect(100)
	for n := 0; n < count; n += 20 {
		var tokens []mqtt.Token
		for i := n; i < n+20; i++ {
			tokens = append(tokens, client.Publish(a.topic(), a.qos, false, a.payload(i)))
		}
		a.mu.Lock()
		a.sent = n + 20
		a.mu.Unlock()
		for i, token := range tokens {
			if !token.WaitTimeout(patience) {
				t.Errorf("%s: message %d is not acknowledged", a.name, n+i)
				return
			}
			if token.Error() == nil {
				a.mu.Lock()
				a.acked[n+i] = true
				a.mu.Unlock()
			}
		}
		book.add(20)
	}
}

// mosquittoPub publishes with mosquitto_pub, a hundred messages a run. A run
// counts as acknowledged when it exits with 0; after any other its numbers are not used again.
func (a *account) mosquittoPub(t *testing.T, path string, port, count int, book *ledger) {
	for n := 0; len(a.acked) < count; n += 100 {
		var lines strings.Builder
		for i := n; i < n+100; i++ {
			fmt.Fprintln(&lines, a.payload(i))
		}
		cmd := exec.Command(path, "-p", fmt.Sprint(port), "-q", fmt.Sprint(a.qos), "-t", a.topic(), "-l")
		cmd.Stdin = strings.NewReader(lines.String())
		err := cmd.Run()
		a.mu.Lock()
		a.sent = n + 100
		if err == nil {
			for i := n; i < n+100; i++ {
				a.acked[i] = true
			}
		}
		a.mu.Unlock()
		if err == nil {
			book.add(100)
		}
		if n > 1000*count {
			t.Errorf("%s: gives up: %v", a.name, err)
			return
		}
	}
}

// judge compares what a device was promised with what arrived at the cloud.
func (a *account) judge(t *testing.T, received []string) {
	seen := make(map[int]int)
	last := -1
	for _, line := range received {
		var n int
		if _, err := fmt.Sscanf(line, "sites/pump7/plant/"+a.name+" "+a.name+" %d", &n); err != nil {
			continue
		}
		if seen[n]++; seen[n] == 1 {
			if n < last {
				t.Errorf("%s: %d arrived for the first time after %d", a.name, n, last)
			}
			last = n
		}
		if n >= a.sent {
			t.Errorf("%s: %d arrived but was never sent", a.name, n)
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
		t.Errorf("%s, QoS %d: %d of %d acknowledged messages never arrived", a.name, a.qos, lost, len(a.acked))
	}
	if a.qos == 2 && twice > 0 {
		t.Errorf("%s: %d QoS 2 messages arrived more than once", a.name, twice)
	}
	t.Logf("%s QoS %d: acknowledged %d, arrived %d, repeated %d", a.name, a.qos, len(a.acked), len(seen), twice)
}

// Ten devices publish 20,000 QoS 1 and QoS 2 messages while the cloud goes
// away twice and the gateway is killed three times at random moments: whatever was acknowledged
// arrives, QoS 2 exactly once, in order.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	const perDevice = 2000
	mqtt.ERROR, mqtt.CRITICAL = log.New(io.Discard, "", 0), log.New(io.Discard, "", 0)
	publisher := program(t, "mosquitto_pub")
	cloud := startCloud(t)
	judge := watch(t, cloud.port, "-t", "sites/#", "-q", "2", "-c", "-i", "judge")
	gw := startGateway(t, fmt.Sprintf(`
site: pump7
storage: {path: %%DIR%%/store}
broker: {listeners: [{address: "127.0.0.1:%%PORT%%", anonymous: true}]}
bridges:
  - name: cloud
    addresses: ["mqtt://127.0.0.1:%d"]
    reconnect: {min: 50ms, max: 500ms}
    up: [{filter: "plant/#", topic: "sites/{site}/{topic}", qos: 2}]
`, cloud.port))

	book := &ledger{grown: make(chan struct{})}
	var devices []*account
	var working sync.WaitGroup
	for i := range 10 {
		a := &account{name: fmt.Sprintf("dev%d", i), qos: byte(1 + i%2), acked: make(map[int]bool)}
		devices = append(devices, a)
		working.Go(func() {
			if i < 8 {
				a.paho(t, gw.port, perDevice, book)
			} else {
				a.mosquittoPub(t, publisher, gw.port, perDevice, book)
			}
		})
	}

	// Five blows, each at a random point of its fifth of the run.
	const total = 10 * perDevice
	for i, blow := range []string{"kill", "cloud", "kill", "cloud", "kill"} {
		book.reach(t, total*i/6+rand.IntN(total/6))
		switch blow {
		case "kill":
			gw.process.kill()
			gw.restart()
		case "cloud":
			if code := cloud.stop(); code != 0 {
				t.Fatalf("mosquitto: exit %d:\n%s", code, cloud.output())
			}
			book.reach(t, total*(i+1)/6) // the devices go on meanwhile
			cloud.restart()
		}
	}
	working.Wait()

	// A last message of each device, behind all others, shows that everything has arrived.
	for _, a := range devices {
		code, out := run(t, publisher, "-p", fmt.Sprint(gw.port), "-q", "2", "-t", a.topic(), "-m", "end of "+a.name)
		if code != 0 {
			t.Fatalf("mosquitto_pub: exit %d: %s", code, out)
		}
	}
	for _, a := range devices {
		judge.wait("end of " + a.name)
	}
	judge.mu.Lock()
	received := append([]string(nil), judge.lines...)
	judge.mu.Unlock()
	for _, a := range devices {
		a.judge(t, received)
	}
}
