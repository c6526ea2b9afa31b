package core_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"forebay/broker/brokertest"
	"forebay/broker/core"
	"forebay/broker/packet"
)

// The conversations in testdata/*.txt. Each begins with "== name"; then, one a line, # being a comment:
//
//	A> PACKET          client A sends it; the first line of a client opens its connection. The form is that of
//	                   brokertest.Parse
//	A< PACKET          the next packet that A gets, in the form of brokertest.Format
//	A why TEXT         the reason string of the last packet that A got; "A why" for none
//	A closed           A has got nothing more and is to be closed
//	A lost             the network of A fails; A may open a new connection afterwards
//	A stalls, A reads  A's transport takes nothing more, takes everything again
//	                   an authentication method is "test", see answerAuth
//	A login ok|0xNN    the answer to a login that was put off with "logins wait"
//	tick DURATION      time passes
//	durable            everything the log has so far is on stable storage (the notifications of queues included)
//	manual             from here on only "durable" makes things durable; before, every line ends with it
//	restart            the power fails: connections are gone, what was not durable too
//	full, room         the log refuses, accepts
//	fail               the log has failed
//	drain              the core drains
//	config FIELD=N     a limit, before the first packet
//	deny TOPIC         nobody may publish or subscribe to it
//	inject PUBLISH [from=NAME]   published from inside; "injected ok|pending|ERROR" is what came of the last one
//	attach NAME FILTER:MAXQOS[:LIFT]…, detach NAME
//	NAME= PUBLISH n=N  the next entry of an attachment's queue, or "NAME= nothing"
//	NAME~ PUBLISH      the next live message of an attachment
//	dropped QUEUE CAUSE N, stat FIELD N, rows TABLE N
//
// At the end of a conversation every packet that was sent must have been looked at.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, section := range strings.Split("\n"+string(b), "\n== ")[1:] {
			name, text, _ := strings.Cut(section, "\n")
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txt")+"/"+name, func(t *testing.T) {
				// Where a stream is cut must make no difference.
				for _, cut := range []int{1, 3, 1 << 20} {
					tr := newTranscript(t)
					tr.cut = cut
					tr.run(text)
				}
			})
		}
	}
}

// transcript is one conversation.
type transcript struct {
	t       *testing.T
	line    string
	core    *core.Core
	cfg     core.Config
	log     *brokertest.Log
	now     time.Time
	manual  bool
	waiting bool // logins wait
	denied  []string
	cut     int // clients send their packets in pieces of so many bytes
	clients map[string]*client
	live    map[string][]string
	done    error
}

var errPending = errors.New("pending")

// client is one end of a connection.
type client struct {
	conn    *core.Conn
	version packet.Version
	in      []byte // sent to the core and not consumed
	out     []byte // got from the core and not looked at
	why     string // the reason string of the last packet
	stalled bool
	lost    bool
}

func newTranscript(t *testing.T) *transcript {
	return &transcript{
		t: t, log: &brokertest.Log{}, now: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC),
		clients: map[string]*client{}, live: map[string][]string{},
	}
}

func (tr *transcript) fatalf(format string, args ...any) {
	tr.t.Helper()
	tr.t.Fatalf("%q: %s", tr.line, fmt.Sprintf(format, args...))
}

func (tr *transcript) start() {
	if tr.core != nil {
		return
	}
	tr.cfg.Authorizer = tr
	tr.core = core.New(tr.cfg, tr.log, tr, tr.now)
	if err := tr.log.Restore(tr.core); err != nil {
		tr.fatalf("restore: %v", err)
	}
	tr.settle()
}

func (tr *transcript) run(text string) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#!") // a comment behind a packet, which may hold a #
		if tr.line = strings.TrimSpace(line); tr.line == "" || tr.line[0] == '#' {
			continue
		}
		tr.step(strings.Fields(tr.line))
		if tr.core != nil {
			tr.settle()
		}
	}
	tr.line = "end"
	for name, c := range tr.clients {
		if rest := tr.packets(c); len(rest) > 0 {
			tr.fatalf("%s was sent %q", name, rest)
		}
	}
	for name, rest := range tr.live {
		if len(rest) > 0 {
			tr.fatalf("%s was sent %q", name, rest)
		}
	}
}

// step does what one line says.
func (tr *transcript) step(words []string) {
	first, rest := words[0], strings.Join(words[1:], " ")
	if tr.setUp(words, rest) {
		return
	}
	tr.start()
	switch {
	case strings.HasSuffix(first, ">"):
		tr.send(strings.TrimSuffix(first, ">"), rest)
	case strings.HasSuffix(first, "<"):
		tr.expect(strings.TrimSuffix(first, "<"), rest)
	case strings.HasSuffix(first, "="):
		tr.expectEntry(strings.TrimSuffix(first, "="), rest)
	case strings.HasSuffix(first, "~"):
		tr.expectLive(strings.TrimSuffix(first, "~"), rest)
	case tr.clients[first] != nil:
		tr.clientStep(first, words[1:])
	default:
		tr.coreStep(words, rest)
	}
}

// setUp does what may come before the core is made.
func (tr *transcript) setUp(words []string, rest string) bool {
	switch words[0] {
	case "config":
		field, value, _ := strings.Cut(rest, "=")
		if f := reflect.ValueOf(&tr.cfg).Elem().FieldByName(field); f.Kind() == reflect.String {
			f.SetString(value)
			return true
		}
		n, err := strconv.ParseInt(value, 0, 64)
		if err != nil {
			tr.fatalf("%v", err)
		}
		f := reflect.ValueOf(&tr.cfg).Elem().FieldByName(field)
		if f.CanInt() {
			f.SetInt(n)
		} else {
			f.SetUint(uint64(n))
		}
	case "deny":
		tr.denied = append(tr.denied, rest)
	case "manual":
		tr.manual = true
	case "logins":
		tr.waiting = true
	default:
		return false
	}
	return true
}

func (tr *transcript) clientStep(name string, words []string) {
	c := tr.clients[name]
	switch words[0] {
	case "closed":
		if rest := tr.packets(c); len(rest) > 0 {
			tr.fatalf("%s was sent %q", name, rest)
		}
		if !c.conn.Closing() {
			tr.fatalf("the connection is open")
		}
		tr.core.Lost(c.conn, "closed")
		delete(tr.clients, name)
	case "lost":
		tr.core.Lost(c.conn, "reset by peer")
		c.lost = true
		if rest := tr.packets(c); len(rest) > 0 {
			tr.fatalf("%s was sent %q", name, rest)
		}
		delete(tr.clients, name)
	case "why":
		if want := strings.Join(words[1:], " "); c.why != want {
			tr.fatalf("got %q", c.why)
		}
	case "stalls":
		c.stalled = true
	case "reads":
		c.stalled = false
		tr.write(c.conn)
	case "login":
		if words[1] == "ok" {
			tr.core.LoginResult(c.conn, true, 0)
			return
		}
		n, err := strconv.ParseUint(words[1], 0, 8)
		if err != nil {
			tr.fatalf("%v", err)
		}
		tr.core.LoginResult(c.conn, false, packet.Reason(n))
	default:
		tr.fatalf("unknown")
	}
}

func (tr *transcript) coreStep(words []string, rest string) {
	switch words[0] {
	case "tick":
		d, err := time.ParseDuration(rest)
		if err != nil {
			tr.fatalf("%v", err)
		}
		tr.now = tr.now.Add(d)
		tr.core.Tick(tr.now)
	case "durable":
		tr.commit()
	case "restart":
		tr.log = tr.log.Restart()
		tr.core, tr.clients = nil, map[string]*client{}
		tr.start()
	case "full", "room":
		tr.log.Full = words[0] == "full"
	case "fail":
		tr.log.Err = errors.New("log: input/output error")
		tr.core.LogFailed(tr.log.Err)
	case "drain":
		tr.core.Drain(packet.ReasonServerShuttingDown)
	case "inject":
		tr.inject(rest)
	case "injected":
		got := "ok"
		if tr.done != nil {
			got = tr.done.Error()
		}
		if !strings.Contains(got, rest) {
			tr.fatalf("got %q", got)
		}
	case "attach":
		tr.attach(words[1], words[2:])
	case "detach":
		tr.core.Detach(rest)
	case "dropped":
		if got := strconv.Itoa(tr.log.Queue(words[1]).Dropped[words[2]]); got != words[3] {
			tr.fatalf("got %s", got)
		}
	case "stat":
		if got := fmt.Sprint(reflect.ValueOf(tr.core.Stats()).FieldByName(words[1])); got != words[2] {
			tr.fatalf("got %s", got)
		}
	case "rows":
		tables := map[string]core.Table{"sessions": core.TableSessions, "subscriptions": core.TableSubscriptions, "retained": core.TableRetained, "inbound": core.TableInbound}
		if got := strconv.Itoa(tr.log.Rows(tables[words[1]])); got != words[2] {
			tr.fatalf("got %s", got)
		}
	default:
		tr.fatalf("unknown")
	}
}

func (tr *transcript) send(name, line string) {
	c := tr.clients[name]
	if c == nil {
		c = &client{conn: tr.core.Accept(core.ConnInfo{Remote: name, Door: &core.Door{Anonymous: true}})}
		c.conn.Data = c
		tr.clients[name] = c
	}
	b, v := brokertest.Parse(line, c.version)
	if c.version == 0 && v != 0 {
		c.version = v
	}
	for piece := range slices.Chunk(b, tr.cut) {
		c.in = append(c.in, piece...)
		tr.feed(c)
	}
}

// feed gives the core what it has not consumed.
func (tr *transcript) feed(c *client) {
	if c.lost || c.conn.Paused() {
		return
	}
	given := append([]byte(nil), c.in...)
	n := tr.core.Receive(c.conn, given)
	for i := range given {
		given[i] = 0xFF // nothing of it may be kept
	}
	c.in = c.in[n:]
}

// write is the transport of a connection.
func (tr *transcript) write(conn *core.Conn) {
	c := conn.Data.(*client)
	if !c.stalled {
		for {
			chunks := conn.Pending()
			if len(chunks) == 0 {
				break
			}
			// As a socket that takes some bytes only.
			n := min(len(chunks[0]), 7000)
			c.out = append(c.out, chunks[0][:n]...)
			conn.Wrote(n)
		}
	}
	tr.feed(c)
}

// settle runs rounds until nothing moves.
func (tr *transcript) settle() {
	for rounds := 0; ; rounds++ {
		if rounds > 10_000 {
			tr.fatalf("the core is busy for ever")
		}
		tr.core.Flush(tr.write)
		if tr.core.Busy() {
			tr.core.Tick(tr.now)
			continue
		}
		if tr.manual || tr.log.Err != nil || tr.log.Safe() {
			return
		}
		tr.commit()
	}
}

func (tr *transcript) commit() {
	tr.core.Durable(tr.log.Commit())
	for _, q := range tr.log.Queues() {
		tr.core.QueueReady(q)
	}
}

// packets takes the whole packets a client has got.
func (tr *transcript) packets(c *client) []string {
	var lines []string
	for len(c.out) > 0 {
		lines = append(lines, tr.next(c))
	}
	return lines
}

func (tr *transcript) next(c *client) string {
	v := c.version
	if v == 0 {
		v = c.conn.Version() // what was sent as bytes
	}
	f, n, err := packet.Next(c.out, max(v, packet.V31), 0)
	if err != nil || n == 0 {
		tr.fatalf("not a packet: % x: %v", c.out, err)
	}
	c.out = c.out[n:]
	if v == 0 {
		return fmt.Sprintf("hex % x", f.Whole)
	}
	line, err := brokertest.Format(f, v, true)
	if err != nil {
		tr.fatalf("% x: %v", f.Whole, err)
	}
	c.why = brokertest.Why(f, v)
	return line
}

func (tr *transcript) expect(name, want string) {
	c := tr.clients[name]
	if c == nil {
		tr.fatalf("no connection")
	}
	if len(c.out) == 0 {
		if want != "nothing" {
			tr.fatalf("got nothing")
		}
		return
	}
	if b, ok := strings.CutPrefix(want, "hex "); ok {
		f, n, err := packet.Next(c.out, max(c.version, packet.V31), 0)
		if got := fmt.Sprintf("% x", f.Whole); err != nil || got != b {
			tr.fatalf("got %s, %v", got, err)
		}
		c.out = c.out[n:]
		return
	}
	if got := tr.next(c); got != want {
		tr.fatalf("got %q", got)
	}
}

func (tr *transcript) inject(line string) {
	line, origin, _ := strings.Cut(line, " from=")
	tr.done = errPending
	tr.core.Publish(&core.Inject{
		Publish: *brokertest.Publish(line), Origin: origin, Done: func(err error) { tr.done = err },
	})
}

func (tr *transcript) attach(name string, filters []string) {
	q, _, err := tr.log.OpenQueue("bridge/" + name)
	if err != nil {
		tr.fatalf("%v", err)
	}
	a := core.Attachment{Name: name, QueueID: q.ID(), Live: func(p *packet.Publish) {
		tr.live[name] = append(tr.live[name], tr.format(p))
	}}
	for _, w := range filters {
		parts := append(strings.Split(w, ":"), "0")
		a.Filters = append(a.Filters, core.AttachFilter{Filter: parts[0], MaxQoS: parts[1][0] - '0', Lift: parts[2][0] - '0'})
	}
	if err := tr.core.Attach(a); err != nil {
		tr.fatalf("%v", err)
	}
}

func (tr *transcript) format(p *packet.Publish) string {
	f, _, err := packet.Next(p.Append(nil, packet.V5), packet.V5, 0)
	if err != nil {
		tr.fatalf("%v", err)
	}
	line, err := brokertest.Format(f, packet.V5, true)
	if err != nil {
		tr.fatalf("%v", err)
	}
	return line
}

func (tr *transcript) expectLive(name, want string) {
	if len(tr.live[name]) == 0 {
		tr.fatalf("got nothing")
	}
	got := tr.live[name][0]
	tr.live[name] = tr.live[name][1:]
	if got != want {
		tr.fatalf("got %q", got)
	}
}

// expectEntry takes the next entry of an attachment's queue and shows it as it is to be delivered.
func (tr *transcript) expectEntry(name, want string) {
	e, ok := tr.log.Queue("bridge/" + name).Next()
	got := "nothing"
	if ok {
		var p packet.Publish
		f, _, err := packet.Next(e.Message, packet.V5, 0)
		if err == nil {
			err = p.Decode(f, packet.V5)
		}
		if err != nil {
			tr.fatalf("%v", err)
		}
		p.QoS, p.Retain = e.Options&core.OptionQoS, e.Options&core.OptionRetain != 0
		got = tr.format(&p) + fmt.Sprintf(" n=%d", e.N)
	}
	if got != want {
		tr.fatalf("got %q", got)
	}
}

// The core's events and questions.

func (tr *transcript) Login(conn *core.Conn, username string, hasUsername bool, password []byte) {
	if tr.waiting {
		return
	}
	if username == "bad" {
		tr.core.LoginResult(conn, false, packet.ReasonBadUserNameOrPassword)
		return
	}
	tr.core.LoginResult(conn, true, 0)
}
func (tr *transcript) Authenticate(conn *core.Conn, step core.AuthStep) {
	tr.core.AuthResult(conn, answerAuth(step))
}
func (tr *transcript) Connected(*core.Conn)                           {}
func (tr *transcript) Disconnected(*core.Conn, packet.Reason, string) {}
func (tr *transcript) Refused(*core.Conn, packet.Reason, string)      {}
func (tr *transcript) MayPublish(_, _ string, topic []byte) bool {
	return !slices.Contains(tr.denied, string(topic))
}
func (tr *transcript) MaySubscribe(client, user string, f []byte) core.Access {
	if !tr.MayPublish(client, user, f) {
		return core.AccessNone
	}
	return core.AccessAll
}
func (tr *transcript) MayReceive(_, _ string, _ []byte) bool { return true }
