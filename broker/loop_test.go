package broker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forebay/broker/core"
	"forebay/broker/packet"
)

var versions = []packet.Version{packet.V31, packet.V311, packet.V5}

func TestPublishReachesSubscriber(t *testing.T) {
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) {
			g := start(t, anyPort())
			sub := g.client(v, "sub")
			sub.subscribe("plant/+/temperature", 2)
			pub := g.client(v, "pub")
			for qos := range byte(3) {
				payload := fmt.Sprintf("qos %d", qos)
				pub.deliver(packet.Publish{Topic: []byte("plant/p1/temperature"), Payload: []byte(payload), QoS: qos, PacketID: uint16(qos)})
				if got, want := sub.receive(), (message{"plant/p1/temperature", payload, qos, false, false}); got != want {
					t.Errorf("got %v, want %v", got, want)
				}
			}
			pub.disconnect()
			sub.disconnect()
		})
	}
}

// The loop must put packets together however the network has cut them. [MQTT-4.2-1]
func TestPacketsInPieces(t *testing.T) {
	g := start(t, anyPort())
	sub := g.client(packet.V5, "sub")
	sub.subscribe("big/#", 1)
	pub := dial(t, g.addr(), packet.V5)
	login := packet.Connect{Version: packet.V5, ClientID: []byte("pub"), CleanStart: true}
	for _, b := range login.Append(nil) {
		pub.send([]byte{b})
	}
	pub.expect(packet.CONNACK)
	// Around the sizes at which the loop changes its way of keeping them.
	for i, size := range []int{0, 1, keptInFront, keptInFront + 1, readSize - 1, readSize, readSize + 1, 3*readSize + 17, 1<<20 - 100} {
		payload := bytes.Repeat([]byte{byte('a' + i)}, size)
		p := packet.Publish{Topic: []byte("big/x"), Payload: payload, QoS: 1, PacketID: 1}
		// Two packets back to back, cut in odd places.
		b := p.Append(nil, packet.V5)
		p.PacketID = 2
		b = p.Append(b, packet.V5)
		for len(b) > 0 {
			n := min(len(b), len(b)/3+1, 50_000)
			pub.send(b[:n])
			b = b[n:]
		}
		pub.expectAck(packet.PUBACK, 1)
		pub.expectAck(packet.PUBACK, 2)
		for range 2 {
			if m := sub.receive(); m.payload != string(payload) {
				t.Fatalf("payload of %d bytes arrived as %d others", size, len(m.payload))
			}
		}
	}
	g.inLoop(func(l *loop) bool { return l.keptBytes == 0 }) // idle connections hold nothing
}

func TestPacketBeyondTheLimitIsRefused(t *testing.T) {
	cfg := anyPort()
	cfg.Limits.PacketSize = 2048
	g := start(t, cfg)
	c := g.client(packet.V5, "c")
	p := packet.Publish{Topic: []byte("t"), Payload: make([]byte, 3000), QoS: 1, PacketID: 1}
	c.send(p.Append(nil, packet.V5)[:10]) // the length is enough
	if reason := c.expectClosed(); reason != packet.ReasonPacketTooLarge {
		t.Errorf("closed with %v, want %v", reason, packet.ReasonPacketTooLarge)
	}
}

func TestGarbageClosesOnlyItsSender(t *testing.T) {
	g := start(t, anyPort())
	good := g.client(packet.V311, "good")
	for _, b := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x00", "\x10\xff\xff\xff\xff\xff", strings.Repeat("\xf0", 100)} {
		bad := dial(t, g.addr(), packet.V311)
		bad.send([]byte(b))
		bad.expectClosed()
	}
	good.send(packet.AppendPingreq(nil))
	good.expect(packet.PINGRESP)
}

func TestLimitOfConnections(t *testing.T) {
	cfg := anyPort()
	cfg.Limits.Connections = 2
	g := start(t, cfg)
	a, b := g.client(packet.V5, "a"), g.client(packet.V5, "b")
	dial(t, g.addr(), packet.V5).expectClosed()
	b.disconnect()
	g.settled("room", func(s Stats) bool { return s.Sockets == 1 })
	g.client(packet.V5, "c").disconnect()
	a.disconnect()
}

// Connections must not take the descriptors that the store needs.
func TestLimitOfConnectionsLeavesDescriptors(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	if got := affordable(int(limit.Cur), logger); got >= int(limit.Cur) || got < 1 {
		t.Errorf("%d connections of %d descriptors", got, limit.Cur)
	}
	if got := affordable(10, logger); got != 10 {
		t.Errorf("10 connections became %d", got)
	}
}

// Without descriptors the listener must rest, not spin, and go on later.
func TestOutOfDescriptors(t *testing.T) {
	g := start(t, anyPort())
	first := g.client(packet.V311, "first")
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFD(fd)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	lowest, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0) // the lowest free descriptor
	if err != nil {
		t.Fatal(err)
	}
	closeFD(lowest)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(lowest), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	restored := false
	restore := func() {
		if !restored {
			restored = true
			if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer restore()
	addr := g.addr().(*net.TCPAddr)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}); err != nil {
		t.Fatal(err)
	}
	g.inLoop(func(l *loop) bool { return !l.listeners[0].pausedUntil.IsZero() })
	first.send(packet.AppendPingreq(nil))
	first.expect(packet.PINGRESP)
	restore()
	g.settled("the connection that waited", func(s Stats) bool { return s.Sockets == 2 })
}

// inLoop waits until what fn sees in the loop is as wanted.
func (g *gateway) inLoop(fn func(*loop) bool) {
	g.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		answer := make(chan bool, 1)
		if err := g.inbox.postCall(func() { answer <- fn(g.loop) }); err != nil {
			g.t.Fatal(err)
		}
		if <-answer {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatal("it does not become so")
		}
	}
}

func TestAcceptedSocketsSendAtOnce(t *testing.T) {
	g := start(t, anyPort())
	g.client(packet.V311, "c")
	g.inLoop(func(l *loop) bool {
		for _, s := range l.sockets {
			if s != nil {
				if on, err := unix.GetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY); err != nil || on == 0 {
					t.Errorf("TCP_NODELAY %d, %v", on, err)
				}
			}
		}
		return l.open == 1
	})
}

func TestRemoteAddresses(t *testing.T) {
	cfg := anyPort()
	cfg.Listeners = append(cfg.Listeners, ListenerConfig{Address: ":0", Anonymous: true})
	g := start(t, cfg)
	g.client(packet.V311, "c")
	both := g.Addrs()[1].(*net.TCPAddr).Port
	for _, ip := range []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback} {
		dial(t, &net.TCPAddr{IP: ip, Port: both}, packet.V311).login(packet.Connect{ClientID: []byte(ip.String()), CleanStart: true})
	}
	var got []string
	g.inLoop(func(l *loop) bool {
		for _, s := range l.sockets {
			if s != nil {
				host, _, err := net.SplitHostPort(s.conn.Info().Remote)
				if err != nil {
					t.Error(err)
				}
				got = append(got, host+" at "+s.conn.Info().Listener)
			}
		}
		return true
	})
	slices.Sort(got)
	if want := []string{"127.0.0.1 at 127.0.0.1:0", "127.0.0.1 at :0", "::1 at :0"}; !slices.Equal(got, want) {
		t.Errorf("remote addresses %q, want %q", got, want)
	}
}

func TestPacketsInLogLinesTellNoPasswords(t *testing.T) {
	login := packet.Connect{Version: packet.V5, HasUsername: true, Username: []byte("alice"), HasPassword: true, Password: []byte("secret")}
	for _, test := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, ""},
		{"ping", packet.AppendPingreq(nil), "c0 00"},
		{"login", login.Append(nil), "CONNECT"},
		{"authentication", []byte{0xf0, 1, 2}, "AUTH"},
		{"a long one", bytes.Repeat([]byte{0x30}, 1000), strings.TrimSpace(strings.Repeat("30 ", 64))},
	} {
		if got := firstBytes(test.b); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// A subscriber that does not read costs messages of its own only, and bounded memory.
func TestSlowReader(t *testing.T) {
	g := start(t, anyPort())
	slow := g.client(packet.V311, "slow")
	slow.subscribe("flood", 0)
	fast := g.client(packet.V311, "fast")
	fast.subscribe("flood", 0)
	pub := g.client(packet.V311, "pub")
	payload := make([]byte, 32<<10)
	const messages = 1000 // 32 MB, more than the kernel and the broker hold
	for range messages {
		// In step with the fast reader, so that it loses nothing.
		pub.publish(packet.Publish{Topic: []byte("flood"), Payload: payload})
		if m := fast.receive(); len(m.payload) != len(payload) {
			t.Fatalf("payload of %d bytes", len(m.payload))
		}
	}
	st := g.settled("statistics", func(s Stats) bool { return s.Sent >= messages })
	if st.DroppedSlow == 0 {
		t.Error("nothing was dropped for the reader who read nothing")
	}
	if st.MemoryBytes > 2<<20 {
		t.Errorf("%d bytes are held for one slow reader", st.MemoryBytes)
	}
	slow.send(packet.AppendPingreq(nil)) // it may read on
	for {
		if f, err := slow.next(); err != nil {
			t.Fatal(err)
		} else if f.Type() == packet.PINGRESP {
			break
		}
	}
}

// A peer that neither reads nor goes is closed all the same.
func TestCloseOfAPeerThatDoesNotRead(t *testing.T) {
	g := start(t, anyPort())
	slow := g.client(packet.V5, "slow")
	slow.subscribe("flood", 0)
	pub := g.client(packet.V5, "pub")
	for range 1000 {
		pub.publish(packet.Publish{Topic: []byte("flood"), Payload: make([]byte, 32<<10)})
	}
	pub.send(packet.AppendPingreq(nil))
	pub.expect(packet.PINGRESP)
	other := g.client(packet.V5, "slow") // takes over
	g.settled("the end of the old connection", func(s Stats) bool { return s.Sockets == 2 })
	other.send(packet.AppendPingreq(nil))
	other.expect(packet.PINGRESP)
}

func TestManyConnections(t *testing.T) {
	g := start(t, anyPort())
	var all []*client
	for i := range 300 {
		c := g.client(packet.V311, fmt.Sprint("c", i))
		c.subscribe("all", 1)
		all = append(all, c)
	}
	all[0].deliver(packet.Publish{Topic: []byte("own"), Payload: []byte("x"), QoS: 1, PacketID: 9})
	all[0].publish(packet.Publish{Topic: []byte("all"), Payload: []byte("hello")})
	for _, c := range all {
		if m := c.receive(); m.payload != "hello" {
			t.Fatalf("got %v", m)
		}
	}
	for _, c := range all {
		c.disconnect()
	}
	g.settled("all gone", func(s Stats) bool { return s.Sockets == 0 && s.Connections == 0 })
}

// Descriptors are used again at once, in the same round too: no event of an old connection may reach a new one.
func TestComingAndGoing(t *testing.T) {
	g := start(t, anyPort())
	steady := g.client(packet.V311, "steady")
	steady.subscribe("count", 1)
	const goers, times = 8, 60
	ends := make(chan error, goers)
	for i := range goers {
		go func() { ends <- comeAndGo(g.addr(), i, times) }()
	}
	for range goers {
		if err := <-ends; err != nil {
			t.Error(err)
		}
	}
	// One of three was published in full before its client went.
	for range goers * times / 3 {
		if m := steady.receive(); m.topic != "count" {
			t.Fatalf("got %v", m)
		}
	}
	g.settled("all but one gone", func(s Stats) bool { return s.Sockets == 1 && s.Connections == 1 && s.Sessions == 1 })
}

// comeAndGo connects again and again, and goes in the order of the day: in peace, with a reset, in the middle of a packet.
func comeAndGo(addr net.Addr, who, times int) error {
	for i := range times {
		conn, err := net.Dial(addr.Network(), addr.String())
		if err != nil {
			return err
		}
		b := (&packet.Connect{Version: packet.V311, ClientID: fmt.Append(nil, "goer", who), CleanStart: true}).Append(nil)
		s := packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: []byte("#"), QoS: 1}}}
		b = s.Append(b, packet.V311)
		if i%3 == 0 {
			p := packet.Publish{Topic: []byte("count"), QoS: 1, PacketID: 1}
			b = p.Append(b, packet.V311)
			b = append(b, byte(packet.DISCONNECT)<<4, 0)
		} else {
			b = append(b, byte(packet.PUBLISH)<<4, 200, 0)
		}
		if _, err := conn.Write(b); err != nil {
			return err
		}
		switch i % 3 {
		case 0:
			if _, err := io.Copy(io.Discard, conn); err != nil { // until the server has closed
				return err
			}
		case 1:
			if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
				return err
			}
		}
		if err := conn.Close(); err != nil {
			return err
		}
	}
	return nil
}

func TestRunLeavesNoGoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 3 {
		g := open(t, t.TempDir(), anyPort())
		g.run()
		c := g.client(packet.V5, "c")
		c.subscribe("x", 1)
		g.stop()
	}
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > before { // those of the tests' own channels end a little later
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
	}
}

func TestStopTellsClientsAndAcknowledges(t *testing.T) {
	g := start(t, anyPort())
	keeper := dial(t, g.addr(), packet.V5)
	keeper.login(packet.Connect{ClientID: []byte("keeper"), Properties: packet.ConnectProperties{SessionExpiry: 3600}})
	keeper.subscribe("t", 1)
	pub := g.client(packet.V5, "pub")
	pub.publish(packet.Publish{Topic: []byte("t"), Payload: []byte("x"), QoS: 1, PacketID: 7})
	g.settled("the message", func(s Stats) bool { return s.Received == 1 })
	g.stop()
	pub.expectAck(packet.PUBACK, 7)
	if reason := pub.expectClosed(); reason != packet.ReasonServerShuttingDown {
		t.Errorf("closed with %v", reason)
	}
	if reason := keeper.expectClosed(); reason != packet.ReasonServerShuttingDown {
		t.Errorf("closed with %v", reason)
	}
}

func TestListenProblemsNameTheAddress(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	g := start(t, anyPort()) // for its open store
	cfg := Config{Listeners: []ListenerConfig{
		{Address: taken.Addr().String(), Anonymous: true}, {Address: "203.0.113.1:1883", Anonymous: true},
	}}
	_, err = New(cfg, g.store, g.lines)
	if err == nil {
		t.Fatal("an address that is taken was bound")
	}
	for _, want := range []string{"listen on " + taken.Addr().String(), "address already in use", "listen on 203.0.113.1:1883"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}

// brittle is an authorizer with a bug that some topics meet.
type brittle struct{}

func (brittle) MayPublish(_, _ string, topic []byte) bool {
	switch string(topic) {
	case "slip":
		return topic[len(topic)] == 0
	case "broken":
		panic("BUG: nothing holds any more")
	}
	return true
}

func (brittle) MaySubscribe(_, _ string, _ []byte) core.Access { return core.AccessAll }
func (brittle) MayReceive(_, _ string, _ []byte) bool          { return true }

func TestPanicInOnePacketClosesItsSender(t *testing.T) {
	g := open(t, t.TempDir(), anyPort())
	g.loop.core.SetAuthorizer(brittle{})
	g.run()
	good, bad := g.client(packet.V5, "good"), g.client(packet.V5, "bad")
	bad.publish(packet.Publish{Topic: []byte("slip"), QoS: 1, PacketID: 1})
	bad.expectClosed()
	good.deliver(packet.Publish{Topic: []byte("fine"), QoS: 1, PacketID: 1})
	if st := g.settled("the client gone", func(s Stats) bool { return s.Connections == 1 }); st.Panics != 1 {
		t.Errorf("%d panics counted, want 1", st.Panics)
	}
}

func TestBrokenInvariantEndsRun(t *testing.T) {
	g := open(t, t.TempDir(), anyPort())
	defer func() {
		if err := g.store.Close(); err != nil {
			t.Error(err)
		}
	}()
	g.loop.core.SetAuthorizer(brittle{})
	ended := make(chan error, 1)
	go func() { ended <- g.Run(context.Background()) }()
	c := g.client(packet.V5, "c")
	c.publish(packet.Publish{Topic: []byte("broken"), QoS: 1, PacketID: 1})
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "nothing holds any more") {
		t.Errorf("Run returned %v", err)
	}
	c.expectClosed()
	if err := g.inbox.postCall(func() {}); err != ErrClosed {
		t.Errorf("the inbox still takes calls: %v", err)
	}
}
