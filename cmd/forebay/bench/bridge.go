package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forebay/broker/packet"
)

// BridgeOptions says how bridges are measured.
type BridgeOptions struct {
	Self     string // this program
	Backlog  int    // messages that wait for the upstream
	Quick    bool   // one round, short, with a small backlog: to see whether it works
	Only     []string
	Progress func(what string)
}

// bridgeBench is one run.
type bridgeBench struct {
	BridgeOptions
	ctx       context.Context
	table     *Table
	rounds    int
	time      time.Duration // of one forwarding
	returns   int           // of the upstream, in one round
	away      time.Duration // before each: longer than the longest wait between attempts
	mosquitto Target
	installed bool
}

// The contenders.
const (
	ourBridge   = "forebay"
	theirBridge = "mosquitto"
	nobody      = "no bridge"
)

// roundTrip is how far away the upstream is.
const roundTrip = 10 * time.Millisecond

// Bridge measures our bridge beside Mosquitto's: forwarding to an upstream that is 10 ms away, bytes on the wire, the
// way out of a backlog into a Mosquitto, and how soon it goes on after an outage. When ctx ends it returns its error.
func Bridge(ctx context.Context, o BridgeOptions) (*Table, error) {
	b := &bridgeBench{BridgeOptions: o, ctx: ctx, rounds: 5, time: 2 * time.Second, returns: 4, away: 3 * time.Second}
	if o.Quick {
		b.rounds, b.time, b.returns, b.away, b.Backlog = 1, 300*time.Millisecond, 1, 500*time.Millisecond, min(o.Backlog, 20_000)
	}
	b.mosquitto, b.installed = Mosquitto()
	b.table = &Table{
		Title:   "Bridges, QoS 1",
		Columns: []string{ourBridge, theirBridge, nobody},
		Notes: []string{
			fmt.Sprintf("Medians of %d, contenders in turn. Load, bridges and upstream share the machine's processors.", b.rounds),
			"Forebay has every message on disk before it is acknowledged to its publisher, Mosquitto keeps them in memory.",
		},
	}
	for _, step := range []func() error{b.forward, b.wire, b.backlog, b.outages} {
		if err := step(); err != nil {
			return b.table, err
		}
	}
	if len(b.table.Rows) == 0 {
		return nil, fmt.Errorf("bench: no measurement has any of %q in its name", o.Only)
	}
	return b.table, nil
}

func (b *bridgeBench) wanted(names ...string) bool {
	return len(b.Only) == 0 || slices.ContainsFunc(b.Only, func(word string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, word) })
	})
}

// with is a contender's broker with a bridge to the upstream.
func (b *bridgeBench) with(contender, upstream string) Target {
	if contender == ourBridge {
		t := Self(b.Self)
		broker := t.config
		t.config = func(s site) string {
			return strings.Replace(broker(s), "storage: {", "storage: {max_size: 64GiB, ", 1) + fmt.Sprintf(`bridges:
  - name: bench
    addresses: ["mqtt://%s"]
    reconnect: {min: 100ms, max: 1s}
    queue: {max_size: 32GiB}
    up: [{filter: "bench/#", topic: "sites/pump7/{topic}"}]
`, upstream)
		}
		return t
	}
	t := b.mosquitto
	broker := t.config
	t.config = func(s site) string {
		text := broker(s)
		text = strings.Replace(text, "max_queued_messages 100000", "max_queued_messages 0", 1)
		return text + fmt.Sprintf("connection bench\naddress %s\ntopic bench/# out 1 \"\" sites/pump7/\n"+
			"notifications false\nbridge_attempt_unsubscribe false\ncleansession false\ntry_private false\nrestart_timeout 1 1\n", upstream)
	}
	return t
}

// each measures every bridge once in every round. Without a Mosquitto there is only ours.
func (b *bridgeBench) each(row *Row, contenders []string, measure func(contender string) error) error {
	for round := range b.rounds {
		for _, c := range contenders {
			if err := b.ctx.Err(); err != nil {
				return err
			}
			if c != ourBridge && !b.installed {
				b.table.cell(row, c).Note = "not installed: apt-get install mosquitto"
				continue
			}
			b.Progress(fmt.Sprintf("round %d of %d: %s: %s", round+1, b.rounds, row.Name, c))
			if err := measure(c); err != nil {
				return fmt.Errorf("%s: %s: %w", row.Name, c, err)
			}
		}
	}
	return nil
}

// upstream is a sink behind a long way.
type upstream struct {
	*sink
	near, far net.Listener
}

func openUpstream(away time.Duration) (*upstream, error) {
	u := &upstream{sink: newSink()}
	var err error
	if u.far, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if u.near, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, errors.Join(err, u.far.Close())
	}
	go u.serve(u.far)
	go distant(u.near, u.far.Addr().String(), away)
	return u, nil
}

func (u *upstream) close() error {
	u.cut()
	return errors.Join(u.near.Close(), u.far.Close())
}

// load is publishers that keep a number of messages between themselves and the upstream.
type load struct {
	publishers, inFlight int
	payload              int
	ahead                int64 // messages that the upstream does not have yet, at the most
}

// flow is what a load has shown.
type flow struct {
	messages int64
	elapsed  time.Duration
	cpu      time.Duration // of the bridge's process
	wire     float64       // bytes of each message, both ways
}

// run publishes for some time and returns when the upstream has everything.
func (l load) run(r *running, s *sink, d time.Duration) (flow, error) {
	if err := ready(r, s); err != nil {
		return flow{}, err
	}
	s.forget()
	before, err := r.cpu()
	if err != nil {
		return flow{}, err
	}
	var publishing sync.WaitGroup
	var published atomic.Int64
	var failure atomic.Pointer[error]
	began := time.Now()
	for i := range l.publishers {
		publishing.Go(func() {
			if err := l.publish(r, uint32(i), func(n int) bool {
				for published.Load()-s.messages.Load() > l.ahead {
					if time.Since(began) > d+answerTime {
						return false
					}
					time.Sleep(100 * time.Microsecond)
				}
				if time.Since(began) >= d {
					return false
				}
				published.Add(int64(n))
				return true
			}); err != nil {
				failure.CompareAndSwap(nil, &err)
			}
		})
	}
	publishing.Wait()
	if err := failure.Load(); err != nil {
		return flow{}, *err
	}
	for s.messages.Load() < published.Load() {
		if time.Since(began) > d+answerTime {
			return flow{}, fmt.Errorf("bench: %d of %d messages arrive", s.messages.Load(), published.Load())
		}
		time.Sleep(200 * time.Microsecond)
	}
	f := flow{messages: s.messages.Load(), elapsed: time.Since(began)}
	after, err := r.cpu()
	f.cpu = after - before
	f.wire = float64(s.in.Load()+s.out.Load()) / float64(f.messages)
	if lost, repeated := s.lost.Load(), s.repeated.Load(); lost+repeated > 0 {
		return f, errors.Join(err, fmt.Errorf("bench: %d of %d messages lost, %d repeated", lost, f.messages, repeated))
	}
	return f, err
}

// publish sends blocks of messages as one publisher while more, which is told how many follow, says so.
func (l load) publish(r *running, index uint32, more func(n int) bool) error {
	w, err := r.login(login{clientID: fmt.Sprint("bench-pub", index)})
	if err != nil {
		return err
	}
	m := packet.Publish{QoS: 1, Payload: make([]byte, l.payload), Topic: fmt.Appendf(nil, "%sline3/press%d/temperature", benchTopics, index)}
	tail := m.Payload[l.payload-sinkHead:]
	binary.BigEndian.PutUint32(tail, index)
	for seq := uint32(0); more(l.inFlight); {
		for i := range l.inFlight {
			m.PacketID = uint16(i + 1)
			binary.BigEndian.PutUint32(tail[4:], seq)
			seq++
			w.out = m.Append(w.out, packet.V311)
		}
		if err := w.conn.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
			return err
		}
		for range l.inFlight {
			if f, err := w.next(); err != nil {
				return err
			} else if f.Type() != packet.PUBACK {
				return fmt.Errorf("bench: a publisher is sent %v", f.Type())
			}
		}
	}
	return w.disconnect()
}

// ready returns when what is published comes to the upstream.
func ready(r *running, s *sink) error {
	probe := load{payload: sinkHead, inFlight: 1}
	for deadline := time.Now().Add(answerTime); s.messages.Load() == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("bench: nothing is forwarded")
		}
		once := true
		if err := probe.publish(r, 0, func(int) bool { defer func() { once = false }(); return once }); err != nil {
			return err
		}
	}
	for seen := int64(-1); seen != s.messages.Load(); time.Sleep(10 * roundTrip) {
		seen = s.messages.Load() // the rest of the probes
	}
	return nil
}

// forwarding measures one bridge under a load.
func (b *bridgeBench) forwarding(contender string, l load) (f flow, err error) {
	u, err := openUpstream(roundTrip)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, u.close()) }()
	r, err := b.with(contender, u.near.Addr().String()).open(false)
	if err != nil {
		return f, err
	}
	defer r.close()
	return l.run(r, u.sink, b.time)
}

func (b *bridgeBench) forward() error {
	const name, nameCPU = "forward 100 B, upstream in 10 ms", "forward 100 B, CPU of broker and bridge"
	if !b.wanted(name, nameCPU) {
		return nil
	}
	rate := b.table.row(name, "msg/s", Budget{Of: theirBridge, Least: 5})
	cpu := b.table.row(nameCPU, "µs/msg")
	l := load{publishers: 10, inFlight: 200, payload: small, ahead: 10_000}
	return b.each(rate, []string{ourBridge, theirBridge}, func(contender string) error {
		f, err := b.forwarding(contender, l)
		if err != nil {
			return err
		}
		rate.add(b.table, contender, float64(f.messages)/f.elapsed.Seconds())
		cpu.add(b.table, contender, micro(f.cpu)/float64(f.messages))
		return nil
	})
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func (b *bridgeBench) wire() error {
	const name = "on the wire, 16 B payload, 5 topics"
	if !b.wanted(name) {
		return nil
	}
	row := b.table.row(name, "B/msg", Budget{Of: theirBridge, Most: 0.7})
	l := load{publishers: 5, inFlight: 10, payload: 16, ahead: 1000}
	return b.each(row, []string{ourBridge, theirBridge}, func(contender string) error {
		f, err := b.forwarding(contender, l)
		if err == nil {
			row.add(b.table, contender, f.wire)
		}
		return err
	})
}

// outages is how soon messages flow again when the upstream is back.
func (b *bridgeBench) outages() error {
	const name, nameWorst = "upstream back to first message", "upstream back to first message, worst"
	if !b.wanted(name, nameWorst) {
		return nil
	}
	row, worst := b.table.row(name, "ms", Budget{Most: 1000}), b.table.row(nameWorst, "ms", Budget{Most: 1000})
	b.table.Notes = append(b.table.Notes, fmt.Sprintf("Outages of %v; Forebay waits up to 1 s between attempts, Mosquitto 1 s.", b.away))
	err := b.each(row, []string{ourBridge, theirBridge}, func(contender string) error {
		all, err := b.outage(contender)
		for _, ms := range all {
			row.add(b.table, contender, ms)
		}
		return err
	})
	for i := range row.Cells {
		if all := row.Cells[i].Samples; len(all) > 0 {
			worst.Cells[i].Samples = []float64{slices.Max(all)}
		}
	}
	return err
}

// outage lets the upstream go away some times while one message waits for it.
func (b *bridgeBench) outage(contender string) (all []float64, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	s := newSink()
	go s.serve(l)
	r, err := b.with(contender, l.Addr().String()).open(false)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := ready(r, s); err != nil {
		return nil, err
	}
	one := load{payload: sinkHead, inFlight: 1}
	for i := range b.returns {
		address := l.Addr().String()
		if err := l.Close(); err != nil {
			return all, err
		}
		s.cut()
		once := true
		if err := one.publish(r, uint32(100+i), func(int) bool { defer func() { once = false }(); return once }); err != nil {
			return all, err
		}
		time.Sleep(b.away)
		s.forget()
		if l, err = net.Listen("tcp", address); err != nil {
			return all, err
		}
		back := time.Now()
		go s.serve(l)
		select {
		case at := <-s.first:
			all = append(all, float64(at.Sub(back).Microseconds())/1000)
		case <-time.After(3 * answerTime):
			return all, errors.New("bench: nothing comes after an outage")
		case <-b.ctx.Done():
			return all, b.ctx.Err()
		}
	}
	return all, nil
}
