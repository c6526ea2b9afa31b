package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

// patient is how long a test waits for what must happen before it fails.
const patient = 10 * time.Second

// localBroker is the local broker as a bridge sees it: it keeps what was published, and its send is what devices do.
type localBroker struct {
	t   testing.TB
	log *storage.Log

	mu      sync.Mutex
	got     []Message
	changed chan struct{} // closed and replaced when got or held grows
	refuse  func(m *Message) error
	hold    bool // keep done instead of calling it
	held    []func()
	cursor  *storage.Cursor // of the queue without a name
	cursors []*storage.Cursor
	at      Attachment
	resorts int
	live    func(*packet.Publish)
}

func newLocalBroker(t testing.TB, log *storage.Log) *localBroker {
	return &localBroker{t: t, log: log, changed: make(chan struct{})}
}

func (b *localBroker) Attach(a Attachment) ([]*storage.Cursor, error) {
	var cursors []*storage.Cursor
	for _, queue := range append([]string{""}, a.Queues...) {
		c, _, err := b.log.OpenConsumer(strings.TrimSuffix(a.Name+"#"+queue, "#"), a.Limits)
		if err != nil {
			return nil, err
		}
		cursors = append(cursors, c)
	}
	b.at, b.cursor, b.cursors, b.live = a, cursors[0], cursors, a.Live
	return cursors, nil
}

func (b *localBroker) Queues(name string) []string {
	var queues []string
	for _, c := range b.log.Consumers() {
		if queue, ok := strings.CutPrefix(c, name+"#"); ok {
			queues = append(queues, queue)
		}
	}
	return queues
}

// Resort has nothing to forget: send asks every time.
func (b *localBroker) Resort() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resorts++
	b.notify()
}

func (b *localBroker) Publish(m *Message, done func(error)) {
	if strings.HasPrefix(m.Topic, "$SYS/") {
		b.keep(m)
		done(nil)
		return
	}
	b.mu.Lock()
	refuse, hold := b.refuse, b.hold
	b.mu.Unlock()
	if refuse != nil {
		if err := refuse(m); err != nil {
			done(err)
			return
		}
	}
	finish := func() {
		seq, err := b.log.Append(&storage.Record{Time: time.Now().UnixMilli(), Changes: m.Changes})
		if err == nil {
			err = b.log.WaitSafe(context.Background(), seq)
		}
		if err == nil {
			b.keep(m)
		}
		done(err)
	}
	if hold {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.held = append(b.held, finish)
		b.notify()
		return
	}
	finish()
}

func (b *localBroker) keep(m *Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, *m)
	b.notify()
}

// notify wakes those that await something. b.mu is held.
func (b *localBroker) notify() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// awaitHeld waits until n messages are kept back by hold.
func (b *localBroker) awaitHeld(n int) {
	b.t.Helper()
	b.await(fmt.Sprintf("%d messages with the broker", n), func([]Message) bool { return len(b.held) == n })
}

// let finishes what hold kept back.
func (b *localBroker) let() {
	b.mu.Lock()
	held := b.held
	b.held, b.hold = nil, false
	b.mu.Unlock()
	for _, finish := range held {
		finish()
	}
}

func (b *localBroker) setHold() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hold = true
}

func (b *localBroker) setRefuse(fn func(m *Message) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse = fn
}

// messages returns the downlink messages as "topic payload", those about the bridge itself left out.
func (b *localBroker) messages() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []string
	for _, m := range b.got {
		if !strings.HasPrefix(m.Topic, "$SYS/") {
			list = append(list, m.Topic+" "+string(m.Payload))
		}
	}
	return list
}

// await waits until ok says so of everything that was published.
func (b *localBroker) await(what string, ok func(got []Message) bool) {
	b.t.Helper()
	timeout := time.After(patient)
	for {
		b.mu.Lock()
		done, changed := ok(b.got), b.changed
		b.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			b.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (b *localBroker) awaitMessages(n int) {
	b.t.Helper()
	b.await(fmt.Sprintf("%d downlink messages", n), func(got []Message) bool {
		count := 0
		for _, m := range got {
			if !strings.HasPrefix(m.Topic, "$SYS/") {
				count++
			}
		}
		return count >= n
	})
}

// send is a device publishing with QoS 1 or 2 what the bridge's filters match.
func (b *localBroker) send(p packet.Publish) {
	b.sendAt(p, time.Now())
}

func (b *localBroker) sendAt(p packet.Publish, at time.Time) {
	p.PacketID = 1
	place := b.at.Place(p.Topic)
	if place.Not {
		return
	}
	qos := min(max(p.QoS, place.Lift), place.MaxQoS)
	_, err := b.log.Append(&storage.Record{Time: at.UnixMilli(), Message: p.Append(nil, packet.V5),
		Deliveries: []storage.Delivery{{Consumer: b.cursors[place.Queue].ID(), Options: qos, Hold: qos == 2}}})
	if err != nil {
		panic(err)
	}
}

// sendAll is send for payloads on one topic.
func (b *localBroker) sendAll(qos byte, topic string, payloads ...string) {
	for _, text := range payloads {
		b.send(packet.Publish{QoS: qos, Topic: []byte(topic), Payload: []byte(text)})
	}
}

// lines collects log lines.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// slowLog is the store as a bridge sees it, on a disk that can be held up.
type slowLog struct {
	*storage.Log

	mu   sync.Mutex
	held chan struct{} // nil: the disk works
	safe storage.Seq   // when it was held up
}

func (l *slowLog) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held, l.safe = make(chan struct{}), l.Log.Safe()
}

func (l *slowLog) let() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.held)
	l.held = nil
}

func (l *slowLog) Safe() storage.Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held != nil {
		return l.safe
	}
	return l.Log.Safe()
}

func (l *slowLog) WaitSafe(ctx context.Context, s storage.Seq) error {
	l.mu.Lock()
	held, safe := l.held, l.safe
	l.mu.Unlock()
	if held != nil && s > safe {
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return l.Log.WaitSafe(ctx, s)
}

// gateway is one bridge over a store in a directory; it can be stopped and started again, also as after a crash.
type gateway struct {
	t      *testing.T
	dir    string
	cfg    Config
	tune   func(*Bridge)
	log    *storage.Log
	disk   *slowLog
	broker *localBroker
	bridge *Bridge
	lines  *lines
	halt   func() // ends Run
	stop   func() // that and the store
}

func testConfig(address string) Config {
	cfg := Config{Name: "cloud", Addresses: []string{address},
		Up:        []UpRule{{Filter: "#", Topic: "up/{topic}"}},
		Reconnect: ReconnectConfig{Min: 100 * time.Millisecond, Max: 100 * time.Millisecond}}
	cfg.SetDefaults()
	return cfg
}

// newGateway starts a bridge to address. adjust and tune may be nil.
func newGateway(t *testing.T, address string, adjust func(*Config), tune func(*Bridge)) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: t.TempDir(), cfg: testConfig(address), lines: &lines{}, tune: tune}
	if adjust != nil {
		adjust(&g.cfg)
		g.cfg.SetDefaults()
	}
	g.start()
	t.Cleanup(func() {
		if g.stop != nil {
			g.stop()
		}
		if t.Failed() {
			t.Logf("log of the bridge:\n%s", g.lines)
		}
	})
	return g
}

func (g *gateway) start() {
	g.t.Helper()
	var err error
	g.log, err = storage.Open(storage.Config{Path: g.dir, MaxSize: 64 << 20}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		g.t.Fatal(err)
	}
	g.broker, g.disk = newLocalBroker(g.t, g.log), &slowLog{Log: g.log}
	logger := slog.New(slog.NewTextHandler(g.lines, nil))
	g.bridge, err = New(g.cfg, Environment{Site: "plant7", Broker: g.broker, Log: g.disk, Logger: logger})
	if err != nil {
		g.t.Fatal(err)
	}
	g.bridge.backoff.random = func() float64 { return 0.1 }
	if g.tune != nil {
		g.tune(g.bridge)
	}
	if err := g.bridge.Attach(); err != nil {
		g.t.Fatal(err)
	}
	g.run()
	g.stop = func() {
		g.stop = nil
		g.halt()
		if err := g.log.Close(); err != nil {
			g.t.Errorf("close the store: %v", err)
		}
	}
}

// run runs the bridge until halt.
func (g *gateway) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.bridge.Run(ctx) }()
	g.halt = func() {
		cancel()
		if err := <-ended; err != nil {
			g.t.Errorf("Run: %v", err)
		}
	}
}

// upstream is a broker that does what the test says, packet by packet.
type upstream struct {
	t        *testing.T
	listener net.Listener
}

func newUpstream(t *testing.T) *upstream { return newUpstreamAt(t, "127.0.0.1:0") }

// newUpstreamAt brings an upstream back that was closed.
func newUpstreamAt(t *testing.T, address string) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &upstream{t, l}
}

func (u *upstream) address() string { return "mqtt://" + u.listener.Addr().String() }

// peerConn is one connection of the bridge.
type peerConn struct {
	t    *testing.T
	net  net.Conn
	v    packet.Version
	buf  []byte
	used int
}

// accept waits for the bridge to connect.
func (u *upstream) accept() *peerConn {
	u.t.Helper()
	u.listener.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(patient))
	nc, err := u.listener.Accept()
	if err != nil {
		u.t.Fatalf("the bridge does not connect: %v", err)
	}
	u.t.Cleanup(func() { nc.Close() })
	return &peerConn{t: u.t, net: nc, v: packet.V5}
}

// hello reads CONNECT.
func (c *peerConn) hello() *packet.Connect {
	c.t.Helper()
	var p packet.Connect
	if err := p.Decode(c.wantType(packet.CONNECT).Body); err != nil {
		c.t.Fatal(err)
	}
	return &p
}

// welcome accepts a connection and its CONNECT, and before it the one that removes an old session, if there is one.
func (u *upstream) welcome(sessionPresent bool, p packet.ConnackProperties) *peerConn {
	u.t.Helper()
	c := u.accept()
	if c.hello().CleanStart {
		c.send((&packet.Connack{Properties: p}).Append(nil, c.v))
		c.wantEnd()
		c = u.accept()
		if c.hello().CleanStart {
			u.t.Fatal("a clean start again")
		}
	}
	c.send((&packet.Connack{SessionPresent: sessionPresent, Properties: p}).Append(nil, c.v))
	return c
}

func (c *peerConn) send(b []byte) {
	c.t.Helper()
	if _, err := c.net.Write(b); err != nil {
		c.t.Fatalf("upstream write: %v", err)
	}
}

func (c *peerConn) ack(t packet.Type, id uint16, reason packet.Reason) {
	c.t.Helper()
	c.send((&packet.Ack{Type: t, PacketID: id, Reason: reason}).Append(nil, c.v))
}

func (c *peerConn) publish(p packet.Publish) {
	c.t.Helper()
	c.send(p.Append(nil, c.v))
}

// next reads one packet.
func (c *peerConn) next() (packet.Frame, error) {
	for {
		f, n, err := packet.Next(c.buf[c.used:], c.v, 0)
		if err != nil {
			return f, err
		}
		if n > 0 {
			c.used += n
			return f, nil
		}
		c.net.SetReadDeadline(time.Now().Add(patient))
		chunk := make([]byte, 4096)
		got, err := c.net.Read(chunk)
		if got == 0 && err != nil {
			return f, err
		}
		c.buf = append(c.buf, chunk[:got]...)
	}
}

// wantType reads a packet that must be of type t.
func (c *peerConn) wantType(t packet.Type) packet.Frame {
	c.t.Helper()
	f, err := c.next()
	if err != nil {
		c.t.Fatalf("waiting for %s: %v", t, err)
	}
	if f.Type() != t {
		c.t.Fatalf("got %s, want %s", describe(f, c.v), t)
	}
	return f
}

// want reads packets that must be these, in this order; see describe.
func (c *peerConn) want(packets ...string) {
	c.t.Helper()
	for _, want := range packets {
		f, err := c.next()
		if err != nil {
			c.t.Fatalf("waiting for %s: %v", want, err)
		}
		if got := describe(f, c.v); got != want {
			c.t.Fatalf("got %s, want %s", got, want)
		}
	}
}

// wantAnyOrder reads packets that must be these.
func (c *peerConn) wantAnyOrder(packets ...string) {
	c.t.Helper()
	for rest := slices.Clone(packets); len(rest) > 0; {
		f, err := c.next()
		if err != nil {
			c.t.Fatalf("waiting for %q: %v", rest, err)
		}
		i := slices.Index(rest, describe(f, c.v))
		if i < 0 {
			c.t.Fatalf("got %s, want one of %q", describe(f, c.v), rest)
		}
		rest = slices.Delete(rest, i, i+1)
	}
}

// wantNothing checks that the bridge has sent nothing more by the time it answers a PUBLISH sent now: whatever it
// would have sent stands before the PUBACK.
func (c *peerConn) wantNothing() {
	c.t.Helper()
	c.publish(packet.Publish{QoS: 1, PacketID: 60000, Topic: []byte("no/rule/wants/this")})
	c.want("PUBACK 60000")
}

// wantEnd waits for the bridge to close the connection.
func (c *peerConn) wantEnd() {
	c.t.Helper()
	for {
		f, err := c.next()
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || err != nil && strings.Contains(err.Error(), "reset"):
			return
		case err != nil:
			c.t.Fatalf("waiting for the connection to be closed: %v", err)
		case f.Type() != packet.DISCONNECT:
			c.t.Fatalf("got %s, want the connection to be closed", describe(f, c.v))
		}
	}
}

// describe writes a packet as "PUBLISH 1 dup topic payload #id".
func describe(f packet.Frame, v packet.Version) string {
	name := f.Type().String()
	switch f.Type() {
	case packet.PUBLISH:
		var p packet.Publish
		if err := p.Decode(f, v); err != nil {
			return err.Error()
		}
		text := fmt.Sprintf("%s %d", name, p.QoS)
		if p.Dup {
			text += " dup"
		}
		if p.Retain {
			text += " retain"
		}
		text += fmt.Sprintf(" %s %s", p.Topic, p.Payload)
		if p.QoS > 0 {
			text += fmt.Sprintf(" #%d", p.PacketID)
		}
		if p.HasExpiry {
			text += fmt.Sprintf(" expiry=%d", p.Expiry)
		}
		return text
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		var a packet.Ack
		if err := a.Decode(f, v); err != nil {
			return err.Error()
		}
		text := fmt.Sprintf("%s %d", name, a.PacketID)
		if a.Reason != 0 {
			text += " " + a.Reason.String()
		}
		return text
	case packet.SUBSCRIBE:
		var s packet.Subscribe
		if err := s.Decode(f, v); err != nil {
			return err.Error()
		}
		text := name
		for _, x := range s.Subscriptions {
			text += fmt.Sprintf(" %s:%d", x.Filter, x.QoS)
			if x.NoLocal {
				text += ":nolocal"
			}
		}
		return text
	case packet.DISCONNECT:
		var d packet.Disconnect
		if err := d.Decode(f, v); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%s %s", name, d.Reason)
	}
	return name
}

// awaitStatus waits until the bridge's status is as ok wants it.
func (g *gateway) awaitStatus(what string, ok func(Status) bool) {
	g.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patient)
	for !ok(g.bridge.Status()) {
		select {
		case <-tick.C:
		case <-timeout:
			g.t.Fatalf("waited in vain for %s: %+v", what, g.bridge.Status())
		}
	}
}

// awaitLine waits until text is in the log.
func (g *gateway) awaitLine(text string) {
	g.t.Helper()
	g.awaitStatus("the line "+text, func(Status) bool { return g.lines.count(text) > 0 })
}

func (g *gateway) awaitEmpty() {
	g.t.Helper()
	g.awaitStatus("an empty queue", func(s Status) bool { return s.Backlog.Count == 0 })
}
