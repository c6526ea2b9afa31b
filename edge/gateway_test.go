package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/bridge"
	"forebay/broker"
	"forebay/broker/packet"
	"forebay/modbus"
	"forebay/storage"
)

// lockedBuffer gathers log lines of many goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running is a gateway that runs.
type running struct {
	*Gateway
	address string // of its listener
	log     *lockedBuffer
	stop    func() error
}

// runGateway opens a gateway with a store in dir and a free port, and runs it
// until the test ends or stop is called.
func runGateway(t *testing.T, dir string, cfg Config) *running {
	t.Helper()
	g, log := openGateway(t, dir, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	r := &running{Gateway: g, address: g.Addrs()[0], log: log}
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func openGateway(t *testing.T, dir string, cfg Config) (*Gateway, *lockedBuffer) {
	t.Helper()
	cfg.Storage = storage.Config{Path: dir}
	cfg.Broker.Listeners = []broker.ListenerConfig{{Address: "127.0.0.1:0", Anonymous: true}}
	cfg.SetDefaults()
	cfg.Validate(func(path, text string) { t.Errorf("%s: %s", path, text) })
	log := &lockedBuffer{}
	g, err := Open(&cfg, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return g, log
}

// inbox is a client that has subscribed and keeps what comes.
type inbox struct {
	t      *testing.T
	client *demoClient

	mu   sync.Mutex
	came []string // guarded by mu: topic, space, payload
}

func subscribe(t *testing.T, address, filter string) *inbox {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	client, err := dialDemo(ctx, address, "test-"+t.Name())
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	in := &inbox{t: t, client: client}
	subscribed := make(chan struct{})
	client.onPacket = func(f packet.Frame) error {
		switch f.Type() {
		case packet.SUBACK:
			close(subscribed)
		case packet.PUBLISH:
			return in.take(f)
		}
		return nil
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// The broker may close first at the end of a test.
		_ = client.run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	s := packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: []byte(filter), QoS: 1}}}
	if err := client.send(s.Append(nil, packet.V5)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-subscribed:
	case <-time.After(patience):
		t.Fatal("no SUBACK")
	}
	return in
}

func (in *inbox) take(f packet.Frame) error {
	var p packet.Publish
	if err := p.Decode(f, packet.V5); err != nil {
		return err
	}
	in.mu.Lock()
	in.came = append(in.came, string(p.Topic)+" "+string(p.Payload))
	in.mu.Unlock()
	if p.QoS == 1 {
		return in.client.send((&packet.Ack{Type: packet.PUBACK, PacketID: p.PacketID}).Append(nil, packet.V5))
	}
	return nil
}

// wait waits for a message on the topic, or one that has come already, whose
// payload the predicate likes.
func (in *inbox) wait(topic string, like func(payload string) bool) {
	in.t.Helper()
	at := 0
	eventually(in.t, func() bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		for ; at < len(in.came); at++ {
			if payload, ok := strings.CutPrefix(in.came[at], topic+" "); ok && like(payload) {
				return true
			}
		}
		return false
	})
}

func contains(words ...string) func(string) bool {
	return func(payload string) bool {
		for _, w := range words {
			if !strings.Contains(payload, w) {
				return false
			}
		}
		return true
	}
}

func (in *inbox) publish(topic, payload string) {
	in.t.Helper()
	p := packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: 1, PacketID: 7}
	if err := in.client.send(p.Append(nil, packet.V5)); err != nil {
		in.t.Fatal(err)
	}
}

// startPLC serves registers on a free port.
func startPLC(t *testing.T) (*modbus.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plc := modbus.NewServer()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- plc.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("PLC: %v", err)
		}
	})
	return plc, l.Addr().String()
}

func plcLink(name, address string) modbus.LinkConfig {
	return modbus.LinkConfig{Name: name, TCP: address, Timeout: 200 * time.Millisecond, Units: []modbus.UnitConfig{{
		Name: "pump", Unit: new(1), Interval: 20 * time.Millisecond, Topic: "plant/{link}/{tag}",
		Tags: []modbus.TagConfig{
			{Name: "level", Register: "input", Address: new(3), Type: "uint16"},
			{Name: "setpoint", Register: "holding", Address: new(10), Type: "int16", Writable: true, Max: new(100.0)},
			{Name: "rare", Register: "input", Address: new(30), Interval: time.Hour},
		},
	}}}
}

func cloudBridge(name, address string) bridge.Config {
	return bridge.Config{
		Name: name, Addresses: []string{"mqtt://" + address},
		Reconnect: bridge.ReconnectConfig{Min: 100 * time.Millisecond, Max: 100 * time.Millisecond},
		Up:        []bridge.UpRule{{Filter: "plant/#", Topic: "sites/{site}/{topic}"}, {Filter: "modbus/#", Topic: "sites/{site}/{topic}"}},
		Down:      []bridge.DownRule{{Filter: "cmd/{site}/#", Topic: "plant/{1}"}},
	}
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return address
}

// Registers go up to the cloud, a command comes down and its effect goes up
// again, and neither a dead upstream nor a dead PLC beside them disturbs that.
func TestGatewayEndToEnd(t *testing.T) {
	cloud := runGateway(t, filepath.Join(t.TempDir(), "cloud"), Config{Site: "cloud"})
	plc, address := startPLC(t)
	plc.SetRegister(modbus.InputRegister, 3, 271)
	plc.SetRegister(modbus.HoldingRegister, 10, 5)
	at := subscribe(t, cloud.address, "sites/#")
	g := runGateway(t, filepath.Join(t.TempDir(), "gateway"), Config{
		Site:    "mill",
		Bridges: []bridge.Config{cloudBridge("dead", closedPort(t)), cloudBridge("cloud", cloud.address)},
		Modbus:  modbus.Config{Links: []modbus.LinkConfig{plcLink("dead", closedPort(t)), plcLink("line1", address)}},
	})
	at.wait("sites/mill/plant/line1/level", contains(`"value":271,"quality":"good"`))
	at.wait("sites/mill/plant/line1/setpoint", contains(`"value":5,"quality":"good"`))
	at.wait("sites/mill/plant/dead/level", contains(`"value":null,"quality":"bad"`, `"error":`))

	at.publish("cmd/mill/line1/setpoint/set", "42")
	at.wait("sites/mill/plant/line1/setpoint/set/result", contains(`"result":"written","value":42,"before":5`))
	at.wait("sites/mill/plant/line1/setpoint", contains(`"value":42,"quality":"good"`))
	if v := plc.Register(modbus.HoldingRegister, 10); v != 42 {
		t.Errorf("the register holds %d, want 42", v)
	}
	at.publish("cmd/mill/line1/setpoint/set", "1000")
	at.wait("sites/mill/plant/line1/setpoint/set/result", contains(`"result":"refused"`, "1000", "max"))
	at.publish("cmd/mill/line1/level/set", "1")
	at.wait("sites/mill/plant/line1/level/set/result", contains(`"result":"refused"`, "not writable"))

	// A read on demand does not wait for the interval of an hour.
	at.wait("sites/mill/plant/line1/rare", contains(`"value":0,"quality":"good"`))
	plc.SetRegister(modbus.InputRegister, 30, 7)
	local := subscribe(t, g.address, "plant/line1/rare")
	local.publish("plant/line1/rare/get", "")
	local.wait("plant/line1/rare", contains(`"value":7,"quality":"good"`))

	// What a unit is worth is retained.
	here := subscribe(t, g.address, "modbus/+/+/state")
	here.wait("modbus/line1/pump/state", contains(`"state":"online"`))

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := g.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Bridges) != 2 || s.Bridges[0].Name != "dead" || s.Bridges[0].State == bridge.Up || s.Bridges[1].State != bridge.Up {
		t.Errorf("bridges: %+v", s.Bridges)
	}
	if s.Bridges[0].Backlog.Count == 0 {
		t.Error("nothing waits for the dead upstream")
	}
	if len(s.Tags) != 6 || s.Tags[3].Topic != "plant/line1/level" || s.Tags[3].Value != "271" || s.Tags[0].Quality != "bad" {
		t.Errorf("tags: %+v", s.Tags)
	}
	began := time.Now()
	if err := g.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if took := time.Since(began); took > DrainTime {
		t.Errorf("stopping took %v", took)
	}
}

// What was acknowledged while the upstream was away arrives after a restart.
func TestBacklogOutlivesRestart(t *testing.T) {
	cloud := runGateway(t, filepath.Join(t.TempDir(), "cloud"), Config{Site: "cloud"})
	at := subscribe(t, cloud.address, "sites/#")
	dir := filepath.Join(t.TempDir(), "gateway")
	away := cloudBridge("cloud", closedPort(t))
	first := runGateway(t, dir, Config{Site: "mill", Bridges: []bridge.Config{away}})
	device, err := newDemoDevice(context.Background(), first.address, "d", 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- device.client.run(ctx) }()
	for range 10 {
		if err := device.publish(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool { return device.acknowledged() == 10 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	runGateway(t, dir, Config{Site: "mill", Bridges: []bridge.Config{cloudBridge("cloud", cloud.address)}})
	for n := range 10 {
		at.wait("sites/mill/plant/d/count", func(payload string) bool { return payload == fmt.Sprintf(`{"number":%d}`, n) })
	}
}

// eventually waits for a condition that other goroutines bring about.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it does not happen")
		}
	}
}

// A bridge that is taken out of the configuration leaves its messages, and
// that is said.
func TestForgottenBridgeIsReported(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gateway")
	g := runGateway(t, dir, Config{Site: "mill", Bridges: []bridge.Config{cloudBridge("old", closedPort(t))}})
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	again := runGateway(t, dir, Config{Site: "mill"})
	if !strings.Contains(again.log.String(), "bridge=old") {
		t.Errorf("not told:\n%s", again.log)
	}
}

// Close gives back what Open has taken: the same store and port open again.
func TestCloseWithoutRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gateway")
	for range 2 {
		g, _ := openGateway(t, dir, Config{Site: "mill"})
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		if err := g.Close(); err != nil {
			t.Errorf("the second Close: %v", err)
		}
	}
}

func TestOpenTellsWhichPartFailed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := filepath.Join(t.TempDir(), "gateway")
	cfg := Config{Site: "mill", Storage: storage.Config{Path: dir}}
	cfg.Broker.Listeners = []broker.ListenerConfig{{Address: taken.Addr().String(), Anonymous: true}}
	cfg.SetDefaults()
	_, err = Open(&cfg, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "edge: open the broker: ") || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("err = %v, want one that names the broker and the address", err)
	}
	// The store was given back.
	g, _ := openGateway(t, dir, Config{Site: "mill"})
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

func TestAlive(t *testing.T) {
	g, _ := openGateway(t, filepath.Join(t.TempDir(), "gateway"), Config{Site: "mill"})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.Alive(ctx); err == nil {
		t.Error("a loop that does not run is alive")
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	r := runGateway(t, filepath.Join(t.TempDir(), "other"), Config{Site: "mill"})
	ctx, cancel = context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.Alive(ctx); err != nil {
		t.Errorf("a loop that runs is not alive: %v", err)
	}
}

// The judge of the demo counts what it sees, not what it hopes for.
func TestDemoJudge(t *testing.T) {
	device := func(topic string, qos byte, sent uint64, outstanding ...uint64) *demoDevice {
		d := &demoDevice{topic: topic, qos: qos, next: sent, outstanding: map[uint16]uint64{}, refused: map[uint64]bool{}}
		for i, n := range outstanding {
			d.outstanding[uint16(i+1)] = n
		}
		return d
	}
	tests := []struct {
		name    string
		device  *demoDevice
		arrived []uint64
		want    demoVerdict
	}{
		{"all", device("a", 2, 4), []uint64{0, 1, 2, 3}, demoVerdict{acknowledged: 4, arrived: 4}},
		{"gap", device("a", 2, 4), []uint64{0, 3}, demoVerdict{acknowledged: 4, arrived: 2, lost: 2, gaps: 2}},
		{"late", device("a", 1, 4), []uint64{0, 3, 1, 2}, demoVerdict{acknowledged: 4, arrived: 4}},
		{"end missing", device("a", 1, 4), []uint64{0, 1}, demoVerdict{acknowledged: 4, arrived: 2, lost: 2}},
		{"nothing", device("a", 1, 4), nil, demoVerdict{acknowledged: 4, lost: 4}},
		{"not acknowledged", device("a", 1, 4, 1, 3), []uint64{0, 2}, demoVerdict{acknowledged: 2, arrived: 2}},
		{"arrived before its acknowledgement", device("a", 1, 2, 1), []uint64{0, 1}, demoVerdict{acknowledged: 1, arrived: 2}},
		{"QoS 2 twice", device("a", 2, 2), []uint64{0, 0, 1}, demoVerdict{acknowledged: 2, arrived: 2, duplicated: 1}},
		{"QoS 1 twice", device("a", 1, 3), []uint64{0, 1, 0, 1, 2}, demoVerdict{acknowledged: 3, arrived: 3, repeated: 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := &demoJudge{streams: map[string]*demoStream{}, samples: map[string]*demoTimes{}}
			for _, n := range tt.arrived {
				j.take("a", fmt.Appendf(nil, `{"number":%d}`, n))
			}
			if got := j.verdict([]*demoDevice{tt.device}); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
	j := &demoJudge{streams: map[string]*demoStream{}, samples: map[string]*demoTimes{}}
	for _, at := range []string{"1", "2", "1", "3"} {
		j.take("tag", []byte(`{"time":"`+at+`"}`))
	}
	j.take("x", []byte("what is this"))
	if got := j.verdict(nil); got.samplesArrived != 3 || got.duplicated != 1 {
		t.Errorf("%+v, want 3 samples and a stranger", got)
	}
}

func TestDemo(t *testing.T) {
	var out bytes.Buffer
	if err := Demo(context.Background(), DemoOptions{For: 4 * time.Second, JSON: true, Out: &out}); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	var a Account
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		t.Fatalf("%v in %s", err, &out)
	}
	if a.Acknowledged == 0 || a.Arrived != a.Acknowledged || a.Samples == 0 || a.Forwarded < a.Arrived || a.Outages != 1 {
		t.Errorf("account: %+v", a)
	}
}

// On a terminal the screen is redrawn in place; elsewhere there are lines.
func TestDemoShows(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		var out bytes.Buffer
		if err := Demo(context.Background(), DemoOptions{For: 1500 * time.Millisecond, Terminal: terminal, Out: &out}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"temperature", "degC", "uplink", "backlog", "forwarded", "lost", "duplicated", "Nothing was lost"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("terminal %v: %q is not shown:\n%s", terminal, want, &out)
			}
		}
		if got := strings.Contains(out.String(), "\x1b["); got != terminal {
			t.Errorf("terminal %v: control sequences %v", terminal, got)
		}
	}
}
