package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"forebay/broker"
	"forebay/broker/packet"
	"forebay/modbus"
	"forebay/storage"
)

// patience is how long a test waits for what must come. It only decides how
// long a broken build takes to fail.
const patience = 20 * time.Second

// commandServer is the broker as the commands see it, on a real store.
type commandServer struct {
	store   *storage.Log
	cursor  *storage.Cursor
	filters []string
	live    func(*packet.Publish)
	results chan *broker.Message
}

func (s *commandServer) Attach(a broker.Attachment) (*storage.Cursor, error) {
	for _, f := range a.Filters {
		s.filters = append(s.filters, f.Filter)
	}
	s.live = a.Live
	var err error
	s.cursor, _, err = s.store.OpenConsumer(consumerPrefix+a.Name, a.Limits)
	return s.cursor, err
}

func (s *commandServer) Publish(m *broker.Message, done func(error)) {
	s.results <- m
	done(nil)
}

// written is one call of Write.
type written struct {
	link, unit, tag string
	value           any
	deadline        time.Time
}

// commandWriter is the poller as the commands see it.
type commandWriter struct {
	calls chan written
	// answer decides about a call; nil: all is written.
	answer func(ctx context.Context, w written) (modbus.WriteResult, error)
}

func (w *commandWriter) WriteAll(ctx context.Context, link, unit string, values map[string]any) ([]modbus.WriteResult, error) {
	call := written{link: link, unit: unit, value: values}
	call.deadline, _ = ctx.Deadline()
	w.calls <- call
	if w.answer != nil {
		r, err := w.answer(ctx, call)
		return []modbus.WriteResult{r}, err
	}
	var results []modbus.WriteResult
	for name := range values {
		results = append(results, modbus.WriteResult{Tag: &modbus.TagConfig{Name: name}, After: modbus.IntValue(42), Time: time.UnixMilli(1000)})
	}
	return results, nil
}

func (w *commandWriter) Write(ctx context.Context, link, unit, tag string, value any) (modbus.WriteResult, error) {
	call := written{link: link, unit: unit, tag: tag, value: value}
	call.deadline, _ = ctx.Deadline()
	w.calls <- call
	if w.answer != nil {
		return w.answer(ctx, call)
	}
	return modbus.WriteResult{Before: modbus.IntValue(5), After: modbus.IntValue(42), Time: time.UnixMilli(1000)}, nil
}

// bench is a set of commands under test.
type bench struct {
	t      *testing.T
	server *commandServer
	writer *commandWriter
	c      *commands
	stop   func()
}

const setTopic = "mill/line1/press4/setpoint/set"

// newBench opens the store in dir and prepares commands on it.
func newBench(t *testing.T, dir string) *bench {
	t.Helper()
	return newBenchOf(t, dir, oneUnit(t, ""))
}

func newBenchOf(t *testing.T, dir string, cfg *Config) *bench {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	store, err := storage.Open(storage.Config{Path: dir, MaxSize: 64 << 20}, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{
		t:      t,
		server: &commandServer{store: store, results: make(chan *broker.Message, 1000)},
		writer: &commandWriter{calls: make(chan written, 1000)},
	}
	b.c, err = newCommands(cfg, commandsEnvironment{server: b.server, store: store, writer: b.writer, log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if b.stop != nil {
			b.stop()
		}
		if err := store.Close(); err != nil && !errors.Is(err, storage.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

// start runs the commands; stop ends them.
func (b *bench) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.c.run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			b.t.Errorf("run: %v", err)
		}
		b.stop = nil
	}
}

// send puts a command into the queue, as the broker does, and waits until it is
// durable.
func (b *bench) send(p packet.Publish, arrived time.Time) {
	b.t.Helper()
	if p.Topic == nil {
		p.Topic = []byte(setTopic)
	}
	p.QoS, p.PacketID = 1, 1
	seq, err := b.server.store.Append(&storage.Record{
		Time: arrived.UnixMilli(), Message: p.Append(nil, packet.V5),
		Deliveries: []storage.Delivery{{Consumer: b.server.cursor.ID(), Options: 1}},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := b.server.store.WaitSafe(ctx, seq); err != nil {
		b.t.Fatal(err)
	}
}

// result waits for the next result.
func (b *bench) result() (topic string, r map[string]any, m *broker.Message) {
	b.t.Helper()
	select {
	case m := <-b.server.results:
		if err := json.Unmarshal(m.Payload, &r); err != nil {
			b.t.Fatalf("result %s: %v", m.Payload, err)
		}
		return m.Topic, r, m
	case <-time.After(patience):
		b.t.Fatal("no result")
		return "", nil, nil
	}
}

func (b *bench) call() written {
	b.t.Helper()
	select {
	case w := <-b.writer.calls:
		return w
	case <-time.After(patience):
		b.t.Fatal("nothing was written")
		return written{}
	}
}

// nothingWritten sends a command that is refused behind all others, so that
// once it is answered those before it have been decided about.
func (b *bench) nothingWritten() {
	b.t.Helper()
	b.send(packet.Publish{Payload: nil}, time.Now())
	for {
		if _, r, _ := b.result(); strings.Contains(fmt.Sprint(r["error"]), "empty") {
			break
		}
	}
	select {
	case w := <-b.writer.calls:
		b.t.Errorf("written: %+v", w)
	default:
	}
}

func TestCommandIsWrittenAndAnswered(t *testing.T) {
	b := newBench(t, t.TempDir())
	want := []string{
		"mill/line1/press4/temperature/set", "mill/line1/press4/temperature/get",
		"mill/line1/press4/alarm/set", "mill/line1/press4/alarm/get",
		setTopic, strings.TrimSuffix(setTopic, setSuffix) + getSuffix,
		"mill/line1/press4/set",
	}
	if !reflect.DeepEqual(b.server.filters, want) {
		t.Errorf("subscribed to %v, want %v", b.server.filters, want)
	}
	b.start()
	p := packet.Publish{Payload: []byte("42")}
	p.ResponseTopic, p.HasCorrelation, p.Correlation = []byte("app/answers"), true, []byte("c7")
	p.HasExpiry, p.Expiry = true, 3600
	b.send(p, time.Now())

	w := b.call()
	if w.link != "line1" || w.unit != "press4" || w.tag != "setpoint" || w.value != json.Number("42") {
		t.Errorf("written %+v", w)
	}
	if left := time.Until(w.deadline); left < 59*time.Minute || left > time.Hour {
		t.Errorf("%v left to write it, want the hour of its expiry", left)
	}
	const payload = `{"result":"written","value":42,"before":5,"requested":42,"time":"1970-01-01T00:00:01.000Z"}`
	for _, wantTopic := range []string{setTopic + "/result", "app/answers"} {
		topic, _, m := b.result()
		if topic != wantTopic || string(m.Payload) != payload || m.QoS != 1 || m.Retain ||
			!m.Properties.HasCorrelation || string(m.Properties.Correlation) != "c7" {
			t.Errorf("answer on %s: %+v %s, want on %s %s", topic, m, m.Payload, wantTopic, payload)
		}
	}
	b.stop()
	if n := b.server.cursor.Stats().Count; n != 0 {
		t.Errorf("%d commands still wait after they were answered", n)
	}
}

func TestCommandsRefused(t *testing.T) {
	tests := []struct {
		name    string
		publish packet.Publish
		age     time.Duration
		want    string
	}{
		{"retained", packet.Publish{Payload: []byte("1"), Retain: true}, 0, "must not be retained"},
		{"expired", packet.Publish{Payload: []byte("1"), PublishProperties: packet.PublishProperties{HasExpiry: true, Expiry: 5}}, 6 * time.Second, "has expired"},
		{"old without expiry", packet.Publish{Payload: []byte("1")}, commandLife + time.Second, "has expired"},
		{"empty", packet.Publish{}, 0, "is empty"},
		{"list", packet.Publish{Payload: []byte("[1]")}, 0, "must be a number"},
		{"unknown tag", packet.Publish{Topic: []byte("mill/line1/press4/gone/set"), Payload: []byte("1")}, 0, "no tag takes commands here"},
	}
	b := newBench(t, t.TempDir())
	b.start()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b.t = t
			b.send(tt.publish, time.Now().Add(-tt.age))
			_, r, _ := b.result()
			if r["result"] != "refused" || r["value"] != nil || !strings.Contains(fmt.Sprint(r["error"]), tt.want) {
				t.Errorf("answer %v, want refused with %q", r, tt.want)
			}
			b.nothingWritten()
		})
	}
	b.t = t
}

func TestCommandOutcomes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&modbus.RefusedError{Reason: "42 is above max 40"}, "refused"},
		{&modbus.ExceptionError{Function: 6, Code: 2}, "refused"},
		{fmt.Errorf("line1: %w", modbus.ErrDown), "refused"},
		{fmt.Errorf("line1: %w", modbus.ErrTimeout), "unknown"},
		{errors.New("reads back as 7"), "unknown"},
	} {
		b := newBench(t, t.TempDir())
		b.writer.answer = func(context.Context, written) (modbus.WriteResult, error) { return modbus.WriteResult{}, tt.err }
		b.start()
		b.send(packet.Publish{Payload: []byte("42")}, time.Now())
		_, r, _ := b.result()
		if r["result"] != tt.want || r["error"] != tt.err.Error() || r["requested"] != 42.0 {
			t.Errorf("%v: answer %v, want %s", tt.err, r, tt.want)
		}
	}
}

// An answer never goes where it would be taken for a command, nor to the
// broker's own topics.
func TestCommandAnswersStayAway(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.start()
	for _, topic := range []string{setTopic, "$SYS/x"} {
		p := packet.Publish{Payload: []byte("42")}
		p.ResponseTopic = []byte(topic)
		b.send(p, time.Now())
		b.call()
	}
	b.send(packet.Publish{}, time.Now())
	for {
		topic, r, _ := b.result()
		if topic != setTopic+"/result" {
			t.Errorf("answer on %s", topic)
		}
		if r["result"] == "refused" {
			return
		}
	}
}

// copyStore copies a store as a power cut would leave it: without closing it.
func copyStore(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// A gateway that dies while a command is under way does not know whether it
// was written. It must not write it again.
func TestCommandUnderWayIsNotRepeated(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	b := newBench(t, dir)
	release := make(chan struct{})
	b.writer.answer = func(context.Context, written) (modbus.WriteResult, error) {
		<-release
		return modbus.WriteResult{}, nil
	}
	b.start()
	b.send(packet.Publish{Payload: []byte("42")}, time.Now())
	b.call() // it is being written now
	after := newBench(t, copyStore(t, dir))
	after.start()
	after.nothingWritten()
	after.stop()
	if n := after.server.cursor.Stats().Count; n != 0 {
		t.Errorf("%d commands wait, want none", n)
	}
	close(release)
}

// One that was accepted and not taken yet is executed by the next start, once.
func TestAcceptedCommandOutlivesRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	b := newBench(t, dir)
	b.send(packet.Publish{Payload: []byte("42")}, time.Now())
	copied := copyStore(t, dir)
	after := newBench(t, copied)
	after.start()
	after.call()
	after.result()
	after.stop()
	if err := after.server.store.Close(); err != nil {
		t.Fatal(err)
	}
	again := newBench(t, copied)
	again.start()
	again.nothingWritten()
}

// Commands that would wait too long for a link are refused; those of QoS 0
// that come faster than they are taken are counted.
func TestTooManyCommands(t *testing.T) {
	b := newBench(t, t.TempDir())
	release := make(chan struct{})
	b.writer.answer = func(context.Context, written) (modbus.WriteResult, error) {
		<-release
		return modbus.WriteResult{}, nil
	}
	b.start()
	b.send(packet.Publish{Payload: []byte("0")}, time.Now())
	b.call()
	for n := range maxCommands + 2 {
		b.send(packet.Publish{Payload: fmt.Append(nil, n+1)}, time.Now())
	}
	for range 2 {
		if _, r, _ := b.result(); r["result"] != "refused" || !strings.Contains(fmt.Sprint(r["error"]), "line1") {
			t.Errorf("answer %v, want refused because of line1", r)
		}
	}
	close(release)
	for range maxCommands + 1 {
		if _, r, _ := b.result(); r["result"] != "written" {
			t.Errorf("answer %v, want written", r)
		}
	}
}

// Stopping answers every command that was taken.
func TestStopRefusesWaitingCommands(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.writer.answer = func(ctx context.Context, _ written) (modbus.WriteResult, error) {
		<-ctx.Done()
		return modbus.WriteResult{}, &modbus.RefusedError{Reason: "the command is too old"}
	}
	b.start()
	for range 3 {
		b.send(packet.Publish{Payload: []byte("1")}, time.Now())
	}
	b.call()
	b.stop()
	// Those that were not taken yet wait for the next start.
	answered := int64(len(b.server.results))
	if waiting := b.server.cursor.Stats().Count; answered < 1 || answered+waiting != 3 {
		t.Errorf("%d answered and %d waiting, want 3 together", answered, waiting)
	}
	for range answered {
		if _, r, _ := b.result(); r["result"] != "refused" {
			t.Errorf("answer %v, want refused", r)
		}
	}
}

func TestLiveCommand(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.start()
	payload := []byte(`{"value":true}`)
	b.server.live(&packet.Publish{Topic: []byte(setTopic), Payload: payload})
	clear(payload) // the broker uses its buffer again
	if w := b.call(); w.value != true {
		t.Errorf("written %+v, want true", w)
	}
	if _, r, _ := b.result(); r["result"] != "written" {
		t.Errorf("answer %v, want written", r)
	}
	b.server.live(&packet.Publish{Topic: []byte(setTopic), Payload: []byte("1"), Retain: true})
	if _, r, _ := b.result(); r["result"] != "refused" {
		t.Errorf("answer %v to a retained one, want refused", r)
	}
}

func TestParseCommand(t *testing.T) {
	for payload, want := range map[string]any{
		"42":                    json.Number("42"),
		" -1.50 \n":             json.Number("-1.50"),
		"18446744073709551615":  json.Number("18446744073709551615"),
		"true":                  true,
		`"on"`:                  "on",
		"heating":               "heating",
		"hot water":             "hot water",
		"0x10":                  "0x10",
		"1 2":                   "1 2",
		`{"value":7}`:           json.Number("7"),
		`{"value":"x"}`:         "x",
		`{"arm":"a","value":1}`: json.Number("1"),
	} {
		got, _, err := parseCommand([]byte(payload))
		if err != nil || got != want {
			t.Errorf("%q: %#v, %v; want %#v", payload, got, err, want)
		}
	}
	for _, payload := range []string{"", "  ", "null", "[1]", "{}", `{"value":1,"arm":2}`, `{"arm":"x"}`, `{"value":[1]}`, `{"value":null}`, `{"value":1,"x":2}`, "\xff", strings.Repeat("x", maxCommand+1)} {
		if got, _, err := parseCommand([]byte(payload)); err == nil {
			t.Errorf("%q is taken as %#v", payload, got)
		}
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, s := range []string{"42", `{"value":1}`, "true", "x", "[", "\xff", `"a`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if values, err := parseGroup(payload); err == nil && len(values) == 0 {
			t.Error("an empty group is taken")
		}
		v, _, err := parseCommand(payload)
		switch v.(type) {
		case bool, string, json.Number:
			if err != nil {
				t.Errorf("a value and %v", err)
			}
		default:
			if err == nil {
				t.Errorf("%#v without an error", v)
			}
		}
		r := commandResult{Result: "refused", Error: "x"}
		if answer := r.payload(payload); !json.Valid(answer) {
			t.Errorf("no JSON: %s", answer)
		}
	})
}
