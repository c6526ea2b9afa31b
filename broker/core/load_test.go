package core_test

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"
	"time"

	"forebay/broker/brokertest"
	"forebay/broker/core"
	"forebay/broker/packet"
)

// accept lets everybody in.
type accept struct {
	core *core.Core
	ends int // connections of clients that were let in and are over
}

func (a *accept) Login(conn *core.Conn, _ string, _ bool, _ []byte) {
	a.core.LoginResult(conn, true, 0)
}
func (a *accept) Authenticate(conn *core.Conn, step core.AuthStep) {
	a.core.AuthResult(conn, answerAuth(step))
}

// answerAuth is an authentication method: ok lets in as "someone", other as somebody else, more and nothing ask on, and
// everything else is refused.
func answerAuth(step core.AuthStep) core.AuthAnswer {
	switch data := string(step.Data); {
	case step.Method != "test":
		return core.AuthAnswer{Reason: packet.ReasonBadAuthenticationMethod}
	case data == "more":
		return core.AuthAnswer{More: true, Data: []byte("go-on")}
	case step.Data == nil:
		return core.AuthAnswer{More: true}
	case data == "ok":
		return core.AuthAnswer{Username: "someone", Data: []byte("done")}
	case data == "other":
		return core.AuthAnswer{Username: "other"}
	}
	return core.AuthAnswer{Reason: packet.ReasonNotAuthorized}
}
func (a *accept) Connected(*core.Conn)                           {}
func (a *accept) Disconnected(*core.Conn, packet.Reason, string) { a.ends++ }
func (a *accept) Refused(*core.Conn, packet.Reason, string)      {}

// bench is a core with a log, and a transport that takes everything.
type bench struct {
	*accept
	core *core.Core
	log  *brokertest.Log
	now  time.Time
	got  map[*core.Conn][]byte // what is kept of the output, of those that are in it
}

func newBench(cfg core.Config) *bench {
	b := &bench{log: &brokertest.Log{}, now: time.Unix(1_800_000_000, 0), got: map[*core.Conn][]byte{}}
	b.accept = &accept{}
	b.core = core.New(cfg, b.log, b.accept, b.now)
	b.accept.core = b.core
	if err := b.core.Restored(nil); err != nil {
		panic(err)
	}
	return b
}

// connect opens a connection, sends lines, and forgets the answers.
func (b *bench) connect(lines ...string) *core.Conn {
	conn := b.core.Accept(core.ConnInfo{})
	for _, line := range lines {
		b.send(conn, line)
	}
	return conn
}

func (b *bench) send(conn *core.Conn, line string) {
	p, _ := brokertest.Parse(line, max(conn.Version(), packet.V31))
	b.receive(conn, p)
	b.round()
	b.core.Durable(b.log.Commit())
	b.round()
}

func (b *bench) receive(conn *core.Conn, p []byte) {
	if n := b.core.Receive(conn, p); n != len(p) {
		panic(fmt.Sprintf("%d of %d bytes taken", n, len(p)))
	}
}

func (b *bench) round() {
	b.core.Flush(b.write)
	for b.core.Busy() {
		b.core.Tick(b.now)
		b.core.Flush(b.write)
	}
}

func (b *bench) write(conn *core.Conn) {
	out, keep := b.got[conn]
	size := 0
	for _, chunk := range conn.Pending() {
		size += len(chunk)
		if keep {
			out = append(out, chunk...)
		}
	}
	conn.Wrote(size)
	if keep {
		b.got[conn] = out
	}
}

// A routed message allocates nothing: with QoS 0 of every version to every version, and with QoS 1 and 2 between
// sessions in memory.
func TestRoutingDoesNotAllocate(t *testing.T) {
	for _, tc := range []struct{ from, to, message string }{
		{"v4", "v4", "publish a/b =hello"},
		{"v5", "v5", "publish a/b user=name:value =hello"},
		{"v4", "v5", "publish a/b =hello"},
		{"v5", "v4", "publish a/b user=name:value =hello"},
		{"v4", "v4", "publish a/b q1 id=7 =hello"},
	} {
		t.Run(tc.from+" to "+tc.to+" "+tc.message, func(t *testing.T) {
			b := newBench(core.Config{})
			for i := range 3 {
				b.connect(fmt.Sprintf("connect s%d %s clean", i, tc.to), "subscribe 1 a/+:1")
			}
			pub := b.connect("connect p " + tc.from + " clean")
			p, _ := brokertest.Parse(tc.message, pub.Version())
			batch := bytes.Repeat(p, 20)
			b.receive(pub, batch)
			b.round()
			before := b.core.Stats().Sent
			allocs := testing.AllocsPerRun(20, func() {
				b.receive(pub, batch)
				b.round()
			})
			if allocs > 0 {
				t.Errorf("%v allocations for %d messages", allocs, 3*20)
			}
			if sent := b.core.Stats().Sent - before; sent != 21*3*20 {
				t.Errorf("%d messages were sent", sent)
			}
		})
	}
}

// A subscriber that reads nothing costs its own bound and no more; those beside it get everything.
func TestSlowReaderIsBounded(t *testing.T) {
	b := newBench(core.Config{OutputBytes: 256 << 10})
	slow := b.connect("connect slow v4 clean", "subscribe 1 a:0")
	fast := b.connect("connect fast v4 clean", "subscribe 1 a:0")
	pub := b.connect("connect p v4 clean")
	b.got[fast] = nil
	message := (&packet.Publish{Topic: []byte("a"), Payload: make([]byte, 30_000)}).Append(nil, packet.V311)
	stalled := func(conn *core.Conn) {
		if conn != slow {
			b.write(conn)
		}
	}
	for range 100 {
		b.receive(pub, message)
		b.core.Flush(stalled)
	}
	st := b.core.Stats()
	if len(b.got[fast]) != 100*len(message) {
		t.Errorf("the fast reader got %d bytes", len(b.got[fast]))
	}
	if st.DroppedSlow == 0 || st.MemoryBytes > 256<<10+2*64<<10 {
		t.Errorf("%d dropped, %d bytes held", st.DroppedSlow, st.MemoryBytes)
	}
	// It may go on: with whole packets.
	b.got[slow] = nil
	b.write(slow)
	if len(b.got[slow]) == 0 || len(b.got[slow])%len(message) != 0 {
		t.Errorf("the slow reader got %d bytes", len(b.got[slow]))
	}
	if st := b.core.Stats(); st.MemoryBytes != 0 {
		t.Errorf("%d bytes held by idle connections", st.MemoryBytes)
	}
}

// A client that asks and never takes the answers is ended at twice the bound.
func TestClientThatReadsNoAnswers(t *testing.T) {
	b := newBench(core.Config{OutputBytes: 128 << 10})
	conn := b.connect("connect c v5 clean")
	pings := bytes.Repeat(packet.AppendPingreq(nil), 1000)
	sent := 0
	for !conn.Closing() {
		b.receive(conn, pings)
		b.core.Flush(func(*core.Conn) {})
		if sent += len(pings); sent > 1<<20 {
			t.Fatal("it is still there")
		}
	}
	if held := b.core.Stats().MemoryBytes; held > 2*128<<10+64<<10 {
		t.Errorf("%d bytes were held", held)
	}
	b.core.Lost(conn, "closed")
	if held := b.core.Stats().MemoryBytes; held != 0 {
		t.Errorf("%d bytes are held afterwards", held)
	}
}

// The queue of a session in the log is fetched only as fast as its client reads.
func TestSlowReaderOfAQueue(t *testing.T) {
	b := newBench(core.Config{})
	sub := b.connect("connect s v4", "subscribe 1 a:1")
	pub := b.connect("connect p v4 clean")
	b.core.Lost(sub, "gone")
	for i := range 500 {
		p := packet.Publish{Topic: []byte("a"), QoS: 1, PacketID: uint16(i + 1), Payload: make([]byte, 1000)}
		b.receive(pub, p.Append(nil, packet.V311))
		b.core.Durable(b.log.Commit())
	}
	sub = b.core.Accept(core.ConnInfo{})
	b.got[sub] = nil
	p, _ := brokertest.Parse("connect s v4", packet.V311)
	b.receive(sub, p)
	b.core.Durable(b.log.Commit())
	for range 10 {
		b.core.Flush(func(conn *core.Conn) {
			if conn != sub {
				b.write(conn)
			}
		})
	}
	if held := b.core.Stats().MemoryBytes; held > 256<<10 {
		t.Errorf("%d bytes were fetched for a client that does not read", held)
	}
	for len(sub.Pending()) > 0 {
		b.write(sub)
		b.round()
	}
	if want := 4 + 500*(3+3+2+1000); len(b.got[sub]) != want {
		t.Errorf("got %d bytes, want %d", len(b.got[sub]), want)
	}
}

// A 3.1.1 client has no receive maximum: it is not read while too many of its messages wait for the disk.
func TestPublisherIsPausedByTheDisk(t *testing.T) {
	b := newBench(core.Config{})
	b.connect("connect s v4", "subscribe 1 a:1")
	pub := b.connect("connect p v4 clean")
	b.got[pub] = nil
	var batch []byte
	const messages = 10_000
	for i := range messages {
		p := packet.Publish{Topic: []byte("a"), QoS: 1, PacketID: uint16(i + 1)}
		batch = p.Append(batch, packet.V311)
	}
	n := b.core.Receive(pub, batch)
	if n == len(batch) || !pub.Paused() {
		t.Fatalf("%d of %d bytes were taken", n, len(batch))
	}
	resumed := 0
	for len(batch) > n {
		batch = batch[n:]
		n = 0
		b.core.Tick(b.now)
		b.core.Durable(b.log.Commit())
		b.core.Flush(func(conn *core.Conn) {
			b.write(conn)
			if conn == pub && !conn.Paused() && n == 0 {
				resumed++
				n = b.core.Receive(pub, batch)
			}
		})
		if n == 0 {
			t.Fatal("the end of the pause was not announced")
		}
	}
	b.core.Durable(b.log.Commit())
	b.round()
	if len(b.got[pub]) != 4*messages {
		t.Errorf("%d bytes of acknowledgements after %d pauses", len(b.got[pub]), resumed)
	}
}

// A publisher to many subscribers does not keep the loop for all it has sent: others are served in between.
func TestLargeFanOutIsCutIntoRounds(t *testing.T) {
	b := newBench(core.Config{})
	const subscribers, messages = 2000, 50
	for i := range subscribers {
		b.connect(fmt.Sprintf("connect s%d v4 clean", i), "subscribe 1 a:0")
	}
	pub := b.connect("connect p v4 clean")
	p, _ := brokertest.Parse("publish a =x", packet.V311)
	rest := bytes.Repeat(p, messages)
	rounds := 0
	for ; len(rest) > 0; rounds++ {
		b.core.Tick(b.now)
		rest = rest[b.core.Receive(pub, rest):]
		resumed := false
		b.core.Flush(func(conn *core.Conn) {
			b.write(conn)
			resumed = resumed || conn == pub
		})
		if len(rest) > 0 && !pub.Paused() && !resumed {
			t.Fatal("not paused, and not read to the end")
		}
		if len(rest) > 0 && pub.Paused() && !b.core.Busy() {
			t.Fatal("the loop would sleep over the rest")
		}
	}
	if rounds < 5 {
		t.Errorf("%d deliveries in %d rounds", subscribers*messages, rounds)
	}
	if sent := b.core.Stats().Sent; sent != subscribers*messages {
		t.Errorf("%d were sent", sent)
	}
}

// A subscription to 100,000 retained messages is served in slices, and to the end.
func TestManyRetainedMessages(t *testing.T) {
	b := newBench(core.Config{})
	const messages = 100_000
	for i := range messages {
		b.core.Publish(&core.Inject{Publish: packet.Publish{Topic: fmt.Appendf(nil, "plant/%d/state", i), Payload: []byte("x"), Retain: true}})
	}
	sub := b.connect("connect s clean")
	b.got[sub] = nil
	p, _ := brokertest.Parse("subscribe 1 plant/+/state:0", packet.V5)
	b.receive(sub, p)
	rounds := 0
	for rounds == 0 || b.core.Busy() {
		b.core.Tick(b.now)
		b.core.Flush(b.write)
		rounds++
	}
	if rounds < 50 {
		t.Errorf("%d messages in %d rounds", messages, rounds)
	}
	seen := map[string]bool{}
	for out := b.got[sub]; len(out) > 0; {
		f, n, err := packet.Next(out, packet.V5, 0)
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		if out = out[n:]; f.Type() != packet.PUBLISH {
			continue
		}
		var m packet.Publish
		if err := m.Decode(f, packet.V5); err != nil || seen[string(m.Topic)] || !m.Retain {
			t.Fatalf("%s: %v", m.Topic, err)
		}
		seen[string(m.Topic)] = true
	}
	if len(seen) != messages {
		t.Errorf("got %d messages", len(seen))
	}
}

// An idle connection with one subscription of its own costs little.
func TestIdleConnectionsAreSmall(t *testing.T) {
	b := newBench(core.Config{})
	const connections = 5000
	before := liveBytes()
	for i := range connections {
		b.connect(fmt.Sprintf("connect client%d v4 clean keepalive=60", i), fmt.Sprintf("subscribe 1 device/%d/set:1", i))
	}
	each := (liveBytes() - before) / connections
	t.Logf("%d bytes for each connection", each)
	if each > 1300 {
		t.Errorf("%d bytes for each connection", each)
	}
	if st := b.core.Stats(); st.Connections != connections {
		t.Errorf("%d connections", st.Connections)
	}
}

// A retained message costs little more than its own bytes.
func TestRetainedMessagesAreSmall(t *testing.T) {
	b := newBench(core.Config{})
	const messages = 50_000
	before := liveBytes()
	payload := make([]byte, 100)
	for i := range messages {
		topic := fmt.Appendf(nil, "plant/line/%d/%d", i%100, i)
		b.core.Publish(&core.Inject{Publish: packet.Publish{Topic: topic, Payload: payload, Retain: true}})
	}
	each := (liveBytes() - before) / messages
	t.Logf("%d bytes for each message of 100", each)
	if each > 400 {
		t.Errorf("%d bytes for each message", each)
	}
	if st := b.core.Stats(); st.Retained != messages {
		t.Errorf("%d are retained", st.Retained)
	}
}

// liveBytes is what the heap holds and nothing could free.
func liveBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// The retained messages of $SYS are ours and do not take the room of the site's own.
func TestRetainedLimitLeavesOutSYS(t *testing.T) {
	b := newBench(core.Config{RetainedMessages: 2})
	for _, topic := range []string{"$SYS/broker/version", "a", "b", "c", "$SYS/broker/uptime"} {
		b.core.Publish(&core.Inject{Publish: packet.Publish{Topic: []byte(topic), Payload: []byte("x"), Retain: true}})
	}
	if got := b.core.Stats(); got.Retained != 4 || got.DroppedRetained != 1 {
		t.Errorf("%d are retained and %d dropped, want a, b and two of $SYS, without c", got.Retained, got.DroppedRetained)
	}
}
