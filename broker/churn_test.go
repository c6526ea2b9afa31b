package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"forebay/broker/packet"
)

// churn is a crowd that comes and goes through every door. Its members share a few client identifiers, so that they take
// each other's sessions over.
type churn struct {
	doors []func(ctx context.Context) (net.Conn, error)
	until time.Time
	idle  *http.Transport
}

const churnIDs = 12

// newChurn knows how to come in through each listener of everyDoor.
func newChurn(t *testing.T, g *gateway, ca string) *churn {
	t.Helper()
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("no certificate in %s", ca)
	}
	secure := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	c := &churn{idle: &http.Transport{TLSClientConfig: secure}}
	options := &websocket.DialOptions{Subprotocols: []string{"mqtt"}, HTTPClient: &http.Client{Transport: c.idle}}
	for i, door := range doors {
		addr := g.Addrs()[i].String()
		c.doors = append(c.doors, func(ctx context.Context) (net.Conn, error) {
			switch door {
			case "tcp":
				return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			case "tls":
				return (&tls.Dialer{Config: secure}).DialContext(ctx, "tcp", addr)
			}
			conn, _, err := websocket.Dial(ctx, door+"://"+addr+"/mqtt", options)
			if err != nil {
				return nil, err
			}
			return websocket.NetConn(context.Background(), conn, websocket.MessageBinary), nil
		})
	}
	return c
}

// run keeps members busy until the time is over, and returns how many connections there were.
func (c *churn) run(length time.Duration, seed uint64) (connections int) {
	c.until = time.Now().Add(length)
	var crowd sync.WaitGroup
	var mu sync.Mutex
	for member := range 2 * len(c.doors) {
		crowd.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(member)))
			n := 0
			for time.Now().Before(c.until) {
				c.visit(rnd, c.doors[member%len(c.doors)])
				n++
			}
			mu.Lock()
			connections += n
			mu.Unlock()
		})
	}
	crowd.Wait()
	return connections
}

// visit is one connection. Its errors are no news: others take its session over, and half of what it does is rude.
func (c *churn) visit(rnd *rand.Rand, door func(context.Context) (net.Conn, error)) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := door(ctx)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }() // the server may have been faster
	_ = conn.SetDeadline(time.Now().Add(patience))
	gone := make(chan struct{})
	go func() { // it reads, so that the server can write, and answers nothing
		defer close(gone)
		buf := make([]byte, 4096)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
		}
	}()
	version := []packet.Version{packet.V31, packet.V311, packet.V5}[rnd.IntN(3)]
	if _, err := conn.Write(churnConnect(rnd, version)); err != nil {
		return
	}
	for range rnd.IntN(4) {
		if _, err := conn.Write(churnPacket(rnd, version)); err != nil {
			return
		}
	}
	switch rnd.IntN(4) {
	case 0:
		_, _ = conn.Write([]byte{byte(packet.DISCONNECT) << 4, 0}) // it goes anyway
	case 1:
		_, _ = conn.Write([]byte{byte(packet.PUBLISH) << 4, 200, 1, 0}) // and so in the middle of a packet
	case 2: // it stays for a while, or until it is taken over
		select {
		case <-gone:
		case <-time.After(time.Duration(rnd.IntN(50)) * time.Millisecond):
		}
	}
}

func churnConnect(rnd *rand.Rand, version packet.Version) []byte {
	p := packet.Connect{Version: version, ClientID: fmt.Append(nil, "goer", rnd.IntN(churnIDs)), CleanStart: rnd.IntN(2) == 0}
	if version == packet.V5 {
		p.Properties.SessionExpiry = uint32(rnd.IntN(2) * 60)
		p.Properties.TopicAliasMaximum = uint16(rnd.IntN(4))
	}
	if rnd.IntN(3) == 0 {
		p.HasWill = true
		p.Will.Topic, p.Will.Payload, p.Will.QoS = []byte("churn/will"), []byte("gone"), byte(rnd.IntN(3))
	}
	return p.Append(nil)
}

// churnPacket subscribes or publishes.
func churnPacket(rnd *rand.Rand, version packet.Version) []byte {
	filters := []string{"churn/#", "churn/+", "churn/1", "$share/group/churn/2"}
	if rnd.IntN(2) == 0 {
		s := packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{
			{Filter: []byte(filters[rnd.IntN(len(filters))]), QoS: byte(rnd.IntN(3))},
		}}
		return s.Append(nil, version)
	}
	p := packet.Publish{Topic: fmt.Append(nil, "churn/", rnd.IntN(3)), QoS: byte(rnd.IntN(3)), Retain: rnd.IntN(8) == 0,
		Payload: make([]byte, rnd.IntN(3000))}
	if p.QoS > 0 {
		p.PacketID = uint16(1 + rnd.IntN(9))
	}
	return p.Append(nil, version)
}

// end takes away what the crowd has left on purpose: sessions and retained messages.
func (c *churn) end(t *testing.T, g *gateway) {
	t.Helper()
	c.idle.CloseIdleConnections()
	cleaner := g.client(packet.V5, "cleaner")
	for i := range 3 {
		cleaner.deliver(packet.Publish{Topic: fmt.Append(nil, "churn/", i), Retain: true, QoS: 1, PacketID: uint16(i + 1)})
	}
	cleaner.disconnect()
	for i := range churnIDs {
		g.client(packet.V5, fmt.Sprint("goer", i)).disconnect()
	}
}

// footprint is what a server leaves in the process.
type footprint struct {
	goroutines, descriptors int
	heap                    int64
}

func measureFootprint(t *testing.T) (f footprint) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return footprint{runtime.NumGoroutine(), len(entries), int64(m.HeapAlloc)}
}

// A crowd connects, subscribes, publishes, takes over and vanishes, for two seconds or for FOREBAY_CHURN, such as 5m. A
// steady client notices nothing of it, and in the end nothing is left.
func TestChurn(t *testing.T) {
	length := 2 * time.Second
	if text := os.Getenv("FOREBAY_CHURN"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	g, ca := everyDoor(t)
	steady := g.client(packet.V5, "steady")
	steady.subscribe("steady", 1)
	c := newChurn(t, g, ca)
	rest := func() footprint {
		c.end(t, g)
		g.settled("the crowd gone", func(s Stats) bool {
			return s.Sockets == 1 && s.Connections == 1 && s.Sessions == 1 && s.Subscriptions == 1 && s.Retained == 0 && s.MemoryBytes == 0
		})
		return measureFootprint(t)
	}
	c.run(length/10, 1) // fills what the server keeps to use again
	before := rest()

	ended := make(chan int, 1)
	go func() { ended <- c.run(length, 2) }()
	connections := 0
	for id := uint16(1); connections == 0; id = id%60_000 + 1 {
		payload := fmt.Sprint("message ", id)
		steady.publish(packet.Publish{Topic: []byte("steady"), Payload: []byte(payload), QoS: 1, PacketID: id})
		if m := steady.receive(); m.payload != payload {
			t.Fatalf("got %v, want %s", m, payload)
		}
		steady.expectAck(packet.PUBACK, id)
		select {
		case connections = <-ended:
		default:
		}
	}

	after := rest()
	deadline := time.Now().Add(patience)
	for after.goroutines > before.goroutines || after.descriptors > before.descriptors { // the crowd's own end a little later
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%+v before, %+v after\n%s", before, after, buf[:runtime.Stack(buf, true)])
		}
		after = measureFootprint(t)
	}
	t.Logf("%d connections; before %+v, after %+v", connections, before, after)
	// What the log and the pools keep comes to less than this, whatever the length of the run.
	if grown := after.heap - before.heap; grown > 16<<20 {
		t.Errorf("the heap has grown by %d bytes in %d connections", grown, connections)
	}
	if st := g.settled("stats", func(Stats) bool { return true }); st.Panics > 0 {
		t.Errorf("%d packets met a bug", st.Panics)
	}
}
