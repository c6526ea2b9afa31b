package modbus_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// recorder is a Sink that keeps everything.
type recorder struct {
	mu      sync.Mutex
	samples []modbus.Sample
	states  []modbus.UnitState
	changed chan struct{} // closed and replaced on every call
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{})} }

func (r *recorder) Samples(s []modbus.Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = append(r.samples, s...)
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *recorder) UnitState(s modbus.UnitState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.states = append(r.states, s)
	close(r.changed)
	r.changed = make(chan struct{})
}

// of returns what was recorded of one tag.
func (r *recorder) of(tag string) []modbus.Sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []modbus.Sample
	for _, s := range r.samples {
		if s.Tag.Name == tag {
			found = append(found, s)
		}
	}
	return found
}

// states returns the states of a unit as words.
func (r *recorder) statesOf(unit string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var words []string
	for _, s := range r.states {
		if s.Unit.Name == unit {
			words = append(words, string(s.State))
		}
	}
	return strings.Join(words, " ")
}

// waitFor waits in real time until done is true of what was recorded.
func (r *recorder) waitFor(t *testing.T, what string, done func([]modbus.Sample, []modbus.UnitState) bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		r.mu.Lock()
		ok, changed := done(r.samples, r.states), r.changed
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: did not happen", what)
		}
	}
}

// lines is a log that tests can read.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// with returns the lines that contain text.
func (l *lines) with(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// rig is a poller that runs against slaves.
type rig struct {
	*recorder
	poller *modbus.Poller
	log    lines
	ctx    context.Context
	stop   func()
}

// holding is a tag of one holding register.
func holding(name string, address int) modbus.TagConfig {
	return modbus.TagConfig{Name: name, Register: "holding", Address: &address}
}

// unit is a device with a reading interval of one second.
func unit(name string, id int, tags ...modbus.TagConfig) modbus.UnitConfig {
	return modbus.UnitConfig{Name: name, Unit: &id, Tags: tags}
}

// tcp is a configuration of one TCP link called line.
func tcp(units ...modbus.UnitConfig) modbus.Config {
	return modbus.Config{Links: []modbus.LinkConfig{{Name: "line", TCP: "plc.example:502", Units: units}}}
}

// rtu is a configuration of one RTU link called line.
func rtu(units ...modbus.UnitConfig) modbus.Config {
	return modbus.Config{Links: []modbus.LinkConfig{{Name: "line", RTUOverTCP: "plc.example:502", Units: units}}}
}

// start runs a poller whose links dial opens; nil means that nobody is there.
func start(t *testing.T, cfg modbus.Config, dial func(link string) net.Conn) *rig {
	t.Helper()
	return startPrepared(t, cfg, dial, func(*modbus.Poller) {})
}

// startPrepared is start with a poller that something is done to before it runs.
func startPrepared(t *testing.T, cfg modbus.Config, dial func(link string) net.Conn, prepare func(*modbus.Poller)) *rig {
	t.Helper()
	cfg.SetDefaults()
	r := &rig{recorder: newRecorder()}
	log := slog.New(slog.NewTextHandler(&r.log, nil))
	var err error
	if r.poller, err = modbus.New(cfg, log, r); err != nil {
		t.Fatal(err)
	}
	if dial != nil {
		r.poller.SetDial(dial)
	}
	prepare(r.poller)
	var cancel context.CancelFunc
	r.ctx, cancel = context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.poller.Run(r.ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// ticks is a Sink that only counts.
type ticks struct {
	began    time.Time
	interval time.Duration

	mu             sync.Mutex
	reads          uint64 // calls of Samples with values that came of the schedule
	samples, wrong int
	phase          map[string]time.Duration // of a tag: when in the interval it is read
	drift          map[string]time.Duration // how far that has moved
}

func newTicks(began time.Time, interval time.Duration) *ticks {
	return &ticks{began: began, interval: interval, phase: map[string]time.Duration{}, drift: map[string]time.Duration{}}
}

func (c *ticks) Samples(samples []modbus.Sample) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range samples {
		s := &samples[i]
		if s.Quality == modbus.Bad {
			return
		}
		c.samples++
		if "r"+s.Value.String() != s.Tag.Name {
			c.wrong++
		}
	}
	c.reads++
	s := &samples[0]
	phase := s.Time.Sub(c.began) % c.interval
	if s.Time.Sub(c.began) < 2*c.interval {
		c.phase[s.Tag.Name] = phase // the second read is the first in phase
	}
	// What waited for a late answer is read late, once.
	if moved := (phase - c.phase[s.Tag.Name]).Abs(); moved < c.interval/4 {
		c.drift[s.Tag.Name] = moved
	}
}

func (c *ticks) UnitState(modbus.UnitState) {}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// running runs a poller until the function that it returns is called.
func running(t *testing.T, p *modbus.Poller) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// toTCP connects a poller to a slave.
func toTCP(s *modbustest.Slave) func(string) net.Conn {
	return func(string) net.Conn {
		near, far := net.Pipe()
		go s.ServeTCPConn(newLine(far))
		return near
	}
}

// toRTU connects a poller to a slave that speaks RTU.
func toRTU(s *modbustest.Slave) func(string) net.Conn {
	return func(string) net.Conn {
		near, far := net.Pipe()
		go s.ServeRTU(newLine(far))
		return near
	}
}

// ascii is a configuration of one ASCII link called line.
func ascii(units ...modbus.UnitConfig) modbus.Config {
	return modbus.Config{Links: []modbus.LinkConfig{{Name: "line", ASCIIOverTCP: "plc.example:502", Units: units}}}
}

// toASCII connects a poller to a slave that speaks ASCII.
func toASCII(s *modbustest.Slave) func(string) net.Conn {
	return func(string) net.Conn {
		near, far := net.Pipe()
		go s.ServeASCII(newLine(far))
		return near
	}
}

// line makes of a pipe what a socket or serial port is: it takes what is sent
// whether or not somebody reads it.
type line struct {
	io.Reader
	conn net.Conn
	out  chan []byte

	mu     sync.Mutex
	closed bool // guarded by mu
}

func newLine(conn net.Conn) *line {
	in, received := make(chan []byte, 1000), &queue{}
	received.in = in
	l := &line{Reader: received, conn: conn, out: make(chan []byte, 1000)}
	go func() {
		defer close(in)
		buf := make([]byte, 512)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			in <- bytes.Clone(buf[:n])
		}
	}()
	go func() {
		defer func() { _ = conn.Close() }() // a pipe has nothing to lose
		for p := range l.out {
			if _, err := conn.Write(p); err != nil {
				return
			}
		}
	}()
	return l
}

func (l *line) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, net.ErrClosed
	}
	l.out <- bytes.Clone(p)
	return len(p), nil
}

// Close ends the line when everything written has been sent.
func (l *line) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	close(l.out)
	return nil
}

// queue reads what comes through a channel.
type queue struct {
	in   <-chan []byte
	rest []byte
}

func (q *queue) Read(p []byte) (int, error) {
	if len(q.rest) == 0 {
		q.rest = <-q.in
		if q.rest == nil {
			return 0, io.EOF
		}
	}
	n := copy(p, q.rest)
	q.rest = q.rest[n:]
	return n, nil
}

// bubble runs a test in simulated time. At its end slaves that still delay an
// answer are given the time to see that nobody wants it.
func bubble(t *testing.T, f func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) })
		f(t)
	})
}

// pass lets time pass inside a bubble.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// text writes samples as "21.5 good", oldest first.
func text(samples []modbus.Sample) string {
	words := make([]string, 0, len(samples))
	for _, s := range samples {
		words = append(words, fmt.Sprintf("%v %v", s.Value, s.Quality))
	}
	return strings.Join(words, ", ")
}
