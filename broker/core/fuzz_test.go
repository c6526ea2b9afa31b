package core_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/broker/brokertest"
	"forebay/broker/core"
	"forebay/broker/packet"
)

// FuzzConversation lets several connections, in several states, say anything: nothing may panic, hang or hold more
// memory than the limits allow, what the core sends is well-formed, and what it says is durable can be restored.
//
// The input is a list of steps: one byte for what happens and to whom, then what that needs.
func FuzzConversation(f *testing.F) {
	for _, seed := range conversations(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 1<<14 {
			return
		}
		newChaos(t).run(script)
	})
}

// The steps. The upper half of the byte is the step, the lower two bits are the connection.
const (
	stepSend    = 0 // length:1, bytes
	stepLost    = 1
	stepTick    = 2 // seconds:1
	stepDurable = 3
	stepRestart = 4
	stepStall   = 5
	stepRead    = 6
	stepFull    = 7
	stepInject  = 8 // length:1, a PUBLISH
	stepFail    = 9
	stepHello   = 10 // which connect:1
	stepWait    = 11 // from now on logins and authentications are answered later; or at once again
	stepAnswer  = 12 // what:1, the answers to those that wait
	stepDrain   = 13
)

// hellos are the connects that most conversations need to get anywhere.
var hellos = []string{
	"connect a v4", "connect a v5 expiry=100 receive=3", "connect b v3 clean", "connect b v5 clean will=gone =bye",
	"connect c v5 expiry=10 size=40 aliases=3", "connect c v4 bridge", "connect a v5 clean", "connect b v4",
	"connect a v5 clean auth=test data=more", "connect b v5 expiry=9 auth=test data=ok", "connect c v5 expiry=50 aliases=2 receive=2",
}

type chaos struct {
	t     *testing.T
	core  *core.Core
	log   *brokertest.Log
	now   time.Time
	conns [4]*chaosConn

	waiting bool            // logins are not answered at once
	asked   []func(ok bool) // what answers them
	drained bool
}

// chaosEvents answers what the core asks, at once or later.
type chaosEvents struct {
	accept
	chaos *chaos
}

func (e *chaosEvents) Login(conn *core.Conn, _ string, _ bool, _ []byte) {
	e.chaos.ask(func(ok bool) { e.core.LoginResult(conn, ok, packet.ReasonBadUserNameOrPassword) })
}

func (e *chaosEvents) Authenticate(conn *core.Conn, step core.AuthStep) {
	answer := answerAuth(step)
	e.chaos.ask(func(ok bool) {
		if !ok {
			answer = core.AuthAnswer{Reason: packet.ReasonNotAuthorized}
		}
		e.core.AuthResult(conn, answer)
	})
}

func (c *chaos) ask(answer func(ok bool)) {
	if c.waiting {
		c.asked = append(c.asked, answer)
		return
	}
	answer(true)
}

type chaosConn struct {
	conn    *core.Conn
	in      []byte
	out     []byte
	stalled bool
}

func newChaos(t *testing.T) *chaos {
	c := &chaos{t: t, log: &brokertest.Log{}, now: time.Unix(1_800_000_000, 0)}
	c.start()
	return c
}

var chaosLimits = core.Config{
	PacketSize: 4096, ReceiveMaximum: 10, Sessions: 8, Inflight: 5, QueueMessages: 20, QueueBytes: 8 << 10,
	Subscriptions: 10, TopicLevels: 8, TopicSize: 64, RetainedMessages: 10, RetainedBytes: 16 << 10, MemoryBytes: 512 << 10,
}

func (c *chaos) start() {
	events := &chaosEvents{chaos: c}
	c.asked, c.drained = nil, false
	c.core = core.New(chaosLimits, c.log, events, c.now)
	events.core = c.core
	if err := c.log.Restore(c.core); err != nil {
		c.t.Fatalf("what the core wrote cannot be restored: %v", err)
	}
	c.conns = [4]*chaosConn{}
}

func (c *chaos) run(script []byte) {
	for len(script) > 0 {
		step, who := script[0]>>4, script[0]&3
		script = script[1:]
		argument := byte(0)
		if len(script) > 0 {
			argument = script[0]
		}
		switch step {
		case stepSend, stepInject:
			n := min(int(argument), max(0, len(script)-1))
			data := script[min(1, len(script)):][:n]
			script = script[min(1, len(script))+n:]
			if step == stepSend {
				c.send(who, data)
			} else {
				c.inject(data)
			}
		case stepHello:
			b, _ := brokertest.Parse(hellos[int(argument)%len(hellos)], 0)
			c.send(who, b)
			script = script[min(1, len(script)):]
		case stepAnswer:
			asked := c.asked
			c.asked = nil
			for _, answer := range asked {
				answer(argument&1 == 0)
			}
			script = script[min(1, len(script)):]
		case stepTick:
			c.now = c.now.Add(time.Duration(argument) * time.Second)
			c.core.Tick(c.now)
			script = script[min(1, len(script)):]
		default:
			c.event(step, who)
		}
		c.round()
	}
	c.finish()
}

func (c *chaos) event(step, who byte) {
	conn := c.conns[who]
	switch step {
	case stepLost:
		if conn != nil {
			c.core.Lost(conn.conn, "lost")
			c.conns[who] = nil
		}
	case stepDurable:
		if c.log.Err == nil {
			c.commit()
		}
	case stepRestart:
		c.log = c.log.Restart()
		c.start()
	case stepStall, stepRead:
		if conn != nil {
			conn.stalled = step == stepStall
			c.write(conn.conn)
		}
	case stepFull:
		c.log.Full = !c.log.Full
	case stepWait:
		c.waiting = !c.waiting
	case stepDrain:
		c.drained = true
		c.core.Drain(packet.ReasonServerShuttingDown)
	case stepFail:
		c.log.Err = os.ErrClosed
		c.core.LogFailed(os.ErrClosed)
	}
}

func (c *chaos) commit() {
	c.core.Durable(c.log.Commit())
	for _, q := range c.log.Queues() {
		c.core.QueueReady(q)
	}
}

func (c *chaos) send(who byte, data []byte) {
	if c.conns[who] == nil {
		conn := &chaosConn{conn: c.core.Accept(core.ConnInfo{})}
		conn.conn.Data = conn
		c.conns[who] = conn
	}
	conn := c.conns[who]
	conn.in = append(conn.in, data...)
	c.feed(conn)
}

func (c *chaos) feed(conn *chaosConn) {
	if conn.conn.Paused() {
		return
	}
	given := bytes.Clone(conn.in)
	n := c.core.Receive(conn.conn, given)
	clear(given)
	conn.in = conn.in[n:]
}

func (c *chaos) inject(data []byte) {
	f, n, err := packet.Next(data, packet.V5, 0)
	var p core.Inject
	if err != nil || n == 0 || f.Type() != packet.PUBLISH || p.Decode(f, packet.V5) != nil || len(p.Topic) == 0 {
		return
	}
	c.core.Publish(&p)
}

func (c *chaos) round() {
	for rounds := 0; rounds == 0 || c.core.Busy(); rounds++ {
		if rounds > 2000 {
			c.t.Fatal("the core is busy for ever")
		}
		c.core.Tick(c.now)
		c.core.Flush(c.write)
	}
	for i, conn := range c.conns {
		if conn != nil && conn.conn.Closing() {
			c.core.Lost(conn.conn, "closed")
			c.conns[i] = nil
		}
	}
	st := c.core.Stats()
	const most = 512<<10 + 4*(80<<10)
	if st.MemoryBytes > most || st.Sessions > 8 || st.Retained > 10 || st.Subscriptions > 80 || st.RetainedBytes > 16<<10 {
		c.t.Fatalf("beyond the limits: %+v", st)
	}
}

func (c *chaos) write(conn *core.Conn) {
	cc := conn.Data.(*chaosConn)
	if !cc.stalled {
		for _, chunk := range conn.Pending() {
			cc.out = append(cc.out, chunk...)
		}
		n := 0
		for _, chunk := range conn.Pending() {
			n += len(chunk)
		}
		conn.Wrote(n)
		c.check(cc)
	}
	c.feed(cc)
}

// check reads what the client got, as the client would.
func (c *chaos) check(cc *chaosConn) {
	v := cc.conn.Version()
	if v == 0 {
		v = packet.V311
	}
	for len(cc.out) > 0 {
		f, n, err := packet.Next(cc.out, v, 0)
		if err != nil || n == 0 {
			c.t.Fatalf("the core sent % x: %v", cc.out, err)
		}
		if _, err := brokertest.Format(f, v, true); err != nil {
			c.t.Fatalf("the core sent % x: %v", f.Whole, err)
		}
		cc.out = cc.out[n:]
	}
}

// finish ends everything: nothing may be left.
func (c *chaos) finish() {
	for i, conn := range c.conns {
		if conn != nil {
			c.core.Lost(conn.conn, "end")
			c.conns[i] = nil
		}
	}
	c.round()
	// Sessions that the end of the process will forget are left as they are.
	if st := c.core.Stats(); st.Connections != 0 || st.MemoryBytes != 0 && !c.drained {
		c.t.Fatalf("left over: %+v", st)
	}
	if c.log.Err == nil {
		c.log.Commit()
	}
	c.log = c.log.Restart()
	c.start()
	c.core.Tick(c.now.Add(1000 * time.Hour))
	if c.log.Err == nil && !c.log.Full {
		if st := c.core.Stats(); st.Sessions != 0 || st.Subscriptions != 0 {
			c.t.Fatalf("left over after everything has expired: %+v", st)
		}
	}
}

// conversations turns the transcripts into seeds.
func conversations(f *testing.F) [][]byte {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	var seeds [][]byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, section := range strings.Split(string(text), "\n== ")[1:] {
			seeds = append(seeds, seedOf(section))
		}
	}
	return seeds
}

func seedOf(section string) []byte {
	var seed []byte
	names := map[string]byte{}
	versions := map[string]packet.Version{}
	who := func(name string) byte {
		if _, ok := names[name]; !ok {
			names[name] = byte(len(names) % 4)
		}
		return names[name]
	}
	for line := range strings.Lines(section) {
		line, _, _ = strings.Cut(line, "#!")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		name, sends := strings.CutSuffix(words[0], ">")
		switch {
		case sends:
			b, v := brokertest.Parse(strings.Join(words[1:], " "), versions[name])
			versions[name] = v
			if len(b) < 256 {
				seed = append(append(seed, stepSend<<4|who(name), byte(len(b))), b...)
			}
		case words[0] == "durable":
			seed = append(seed, stepDurable<<4)
		case words[0] == "restart":
			seed = append(seed, stepRestart<<4)
		case words[0] == "tick":
			seed = append(seed, stepTick<<4, 90)
		case words[0] == "full", words[0] == "room":
			seed = append(seed, stepFull<<4)
		case words[0] == "fail":
			seed = append(seed, stepFail<<4)
		case words[0] == "drain":
			seed = append(seed, stepDrain<<4)
		case words[0] == "logins":
			seed = append(seed, stepWait<<4)
		case len(words) == 3 && words[1] == "login":
			seed = append(seed, stepAnswer<<4, byte(len(words[2])&1)) // "ok" is even
		case len(words) == 2 && words[1] == "lost":
			seed = append(seed, stepLost<<4|who(words[0]))
		}
	}
	return seed
}
