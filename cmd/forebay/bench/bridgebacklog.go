package bench

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"forebay/broker/packet"
)

// fillers build a backlog.
var fillers = load{publishers: 10, inFlight: 200, payload: small}

// backlog lets messages pile up without an upstream, and then drains them into a Mosquitto. How fast that one takes
// the same messages from a client is what the drain is compared with.
func (b *bridgeBench) backlog() error {
	waiting := fmt.Sprintf("%d messages waiting", b.Backlog)
	names := []string{"memory, " + waiting, "drain to a Mosquitto", "drain, CPU of broker and bridge", "drain, memory"}
	if !b.wanted(names...) {
		return nil
	}
	memory := b.table.row(names[0], "MiB more", Budget{Most: 16})
	rate := b.table.row(names[1], "msg/s", Budget{Of: nobody, Least: 0.9})
	cpu := b.table.row(names[2], "µs/msg", Budget{Most: 3})
	peak := b.table.row(names[3], "MiB more", Budget{Most: 16})
	if !b.installed {
		rate.Cells[0].Note = "not drained: apt-get install mosquitto"
		return nil
	}
	rounds := b.rounds
	defer func() { b.rounds = rounds }()
	if b.Backlog > 100_000 {
		b.rounds = min(rounds, 3)
	}
	if b.Backlog > 2_000_000 {
		b.rounds = 1
	}
	return b.each(rate, []string{ourBridge, nobody}, func(contender string) error {
		if contender == nobody {
			perSecond, err := b.direct()
			rate.add(b.table, contender, perSecond)
			return err
		}
		d, err := b.pileUp()
		if err != nil {
			return err
		}
		const mb = 1 << 20
		memory.add(b.table, contender, max(0, float64(d.full-d.start)/mb))
		peak.add(b.table, contender, max(0, float64(d.most-d.start)/mb))
		rate.add(b.table, contender, float64(b.Backlog)/d.elapsed.Seconds())
		cpu.add(b.table, contender, micro(d.cpu)/float64(b.Backlog))
		return nil
	})
}

// pile is what a backlog and its end were like.
type pile struct {
	start, full, most int64 // anonymous memory: buffers warm and little waiting; all waiting; at the most while it drained
	elapsed, cpu      time.Duration
}

func (b *bridgeBench) pileUp() (p pile, err error) {
	port, err := freePort()
	if err != nil {
		return p, err
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	r, err := b.with(ourBridge, address).open(false)
	if err != nil {
		return p, err
	}
	defer r.close()
	warm := min(b.Backlog/2, 20_000)
	if err := fillers.fill(r, warm); err != nil {
		return p, err
	}
	if p.start, err = r.anonymous(); err != nil {
		return p, err
	}
	if err := fillers.fill(r, b.Backlog-warm); err != nil {
		return p, err
	}
	if p.full, err = r.anonymous(); err != nil {
		return p, err
	}
	// It waits behind all others; being retained it also reaches whoever subscribes too late.
	if err := publishEnd(r); err != nil {
		return p, err
	}
	return p, b.drainPile(&p, r, port)
}

// fill publishes so many messages and returns when all are acknowledged.
func (l load) fill(r *running, messages int) error {
	var left atomic.Int64
	left.Store(int64(messages))
	var wg sync.WaitGroup
	all := make(chan error, l.publishers)
	for i := range l.publishers {
		wg.Go(func() { all <- l.publish(r, uint32(i), func(n int) bool { return left.Add(-int64(n)) > -int64(n) }) })
	}
	wg.Wait()
	close(all)
	var err error
	for e := range all {
		err = errors.Join(err, e)
	}
	return err
}

// endTopic is that of the last message.
const endTopic = benchTopics + "end"

func publishEnd(r *running) error {
	w, err := r.login(login{clientID: "bench-end"})
	if err != nil {
		return err
	}
	m := packet.Publish{QoS: 1, PacketID: 1, Retain: true, Topic: []byte(endTopic)}
	w.out = m.Append(w.out, packet.V311)
	if _, err := w.answer(packet.PUBACK); err != nil {
		return err
	}
	return w.disconnect()
}

// drainPile starts the upstream and returns when the last message has come there.
func (b *bridgeBench) drainPile(p *pile, r *running, port int) error {
	before, err := r.cpu()
	if err != nil {
		return err
	}
	cloud, err := b.plainMosquitto(port)
	if err != nil {
		return err
	}
	defer cloud.close()
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- awaitEnd(cloud) }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			p.elapsed = time.Since(began)
			after, cpuErr := r.cpu()
			p.cpu = after - before
			return errors.Join(err, cpuErr)
		case <-tick.C:
			now, err := r.anonymous()
			if err != nil {
				return err
			}
			p.most = max(p.most, now)
		case <-b.ctx.Done():
			return b.ctx.Err()
		}
	}
}

// awaitEnd waits for the last message, however long that takes.
func awaitEnd(cloud *running) error {
	w, err := cloud.login(login{clientID: "bench-await"})
	if err != nil {
		return err
	}
	if err := w.subscribe(0, "sites/pump7/"+endTopic); err != nil {
		return err
	}
	if _, err := w.next(); err != nil {
		return err
	}
	return w.disconnect()
}

// plainMosquitto is a Mosquitto that is nobody's bridge, at a port that was known before it started.
func (b *bridgeBench) plainMosquitto(port int) (_ *running, err error) {
	r := &running{address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	if r.dir, err = os.MkdirTemp("", "forebay-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_inflight_messages 0\nlog_type none\n", port)
	if os.Getuid() == 0 {
		text += "user root\n" // or it could not read what only we may
	}
	config := filepath.Join(r.dir, "config.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if r.child, err = launch(r.dir, []string{b.mosquitto.Command[0], "-c", config}); err != nil {
		return nil, err
	}
	r.process = r.child.process
	return r, r.wait("mosquitto")
}

// direct is how many messages a second that Mosquitto takes from one client.
func (b *bridgeBench) direct() (float64, error) {
	port, err := freePort()
	if err != nil {
		return 0, err
	}
	cloud, err := b.plainMosquitto(port)
	if err != nil {
		return 0, err
	}
	defer cloud.close()
	began := time.Now()
	err = load{publishers: 1, inFlight: 1000, payload: small}.fill(cloud, b.Backlog)
	return float64(b.Backlog) / time.Since(began).Seconds(), err
}
