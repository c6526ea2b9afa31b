package bench

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"forebay/broker/packet"
)

// raiseFiles lets this process and those it starts open as many files as the machine allows.
func raiseFiles() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// settleTime is how long a broker is left alone before its memory is read.
const settleTime = 2 * time.Second

// megabytes reads the resident memory of a broker once it has settled.
func megabytes(r *running) (float64, error) {
	time.Sleep(settleTime)
	n, err := r.resident()
	return float64(n) / (1 << 20), err
}

// memory is what an idle broker holds, with and without many idle connections.
func (b *brokers) memory(ctx context.Context) error {
	const plain, secure = 5000, 1000
	rowIdle := "memory, idle"
	rowPlain, rowSecure := fmt.Sprintf("memory, %d connections", plain), fmt.Sprintf("memory, %d TLS connections", secure)
	if !b.wanted(rowIdle) && !b.wanted(rowPlain) && !b.wanted(rowSecure) {
		return nil
	}
	err := b.each(ctx, false, func(target string, r *running) error {
		if r.pid == 0 {
			return nil
		}
		mb, err := megabytes(r)
		if err != nil {
			return err
		}
		b.put(rowIdle, "MB", target, mb, Budget{Most: 12})
		if !b.wanted(rowPlain) {
			return nil
		}
		return b.crowd(crowd{rowPlain, plain, r.login, 20}, target, r)
	})
	if err != nil || !b.wanted(rowSecure) {
		return err
	}
	return b.each(ctx, false, func(target string, r *running) error {
		if r.secure == "" {
			return nil
		}
		return b.crowd(crowd{rowSecure, secure, r.loginSecure, 45}, target, r)
	})
}

// crowd is many idle connections, each with a subscription.
type crowd struct {
	row         string
	connections int
	enter       func(login) (*wire, error)
	most        float64 // MB
}

// crowd measures the broker's memory with a crowd.
func (b *brokers) crowd(of crowd, target string, r *running) error {
	var all []*wire
	defer func() {
		for _, w := range all {
			_ = w.conn.Close() // done with it
		}
	}()
	for i := range of.connections {
		w, err := of.enter(login{clientID: fmt.Sprint("bench-idle", i)})
		if err != nil {
			return err
		}
		all = append(all, w)
		if err := w.subscribe(0, fmt.Sprintf("%sidle/%d", benchTopics, i)); err != nil {
			return err
		}
		w.in = nil // thousands of buffers would be ours to hold
	}
	mb, err := megabytes(r)
	if err != nil {
		return err
	}
	b.put(of.row, "MB", target, mb, Budget{Most: of.most})
	return nil
}

// retained is how fast many retained messages are stored and fetched, and what they cost.
func (b *brokers) retained(ctx context.Context) error {
	const messages = 100000
	row := fmt.Sprintf("%d retained", messages)
	if !b.wanted(row) {
		return nil
	}
	return b.each(ctx, false, func(target string, r *running) error {
		before, memErr := megabytes(r)
		took, err := storeRetained(r, messages, b.Payload)
		if err != nil {
			return err
		}
		b.put(row+", store", "msg/s", target, messages/took.Seconds(), atLeast(1))
		if after, err := megabytes(r); err == nil && memErr == nil {
			b.put(row+", memory", "B/msg", target, (after-before)*(1<<20)/messages, Budget{Most: 400})
		}
		if took, err = fetchRetained(r, messages); err != nil {
			return err
		}
		b.put(row+", fetch by #", "msg/s", target, messages/took.Seconds(), atLeast(1))
		return nil
	})
}

// storeRetained publishes retained messages with QoS 0 and returns how long the broker took over them.
func storeRetained(r *running, messages, payload int) (time.Duration, error) {
	w, err := r.login(login{clientID: "bench-retain"})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	m := packet.Publish{Retain: true, Payload: make([]byte, payload)}
	for i := range messages {
		m.Topic = fmt.Appendf(m.Topic[:0], "%sretained/%d/%d", benchTopics, i%100, i)
		if w.out = m.Append(w.out, packet.V311); len(w.out) > wireBuffer {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	if err := w.barrier(); err != nil {
		return 0, err
	}
	return time.Since(start), w.disconnect()
}

// fetchRetained subscribes to all of them and returns how long it took until the last came.
func fetchRetained(r *running, messages int) (time.Duration, error) {
	w, err := r.login(login{clientID: "bench-fetch"})
	if err != nil {
		return 0, err
	}
	s := packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: []byte(benchTopics + "retained/#")}}}
	w.out = s.Append(w.out, packet.V311)
	start := time.Now()
	for got := 0; got < messages; {
		if err := w.conn.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
			return 0, err
		}
		f, err := w.next()
		if err != nil {
			return 0, fmt.Errorf("after %d of %d retained messages: %w", got, messages, err)
		}
		if f.Type() == packet.PUBLISH {
			got++
		}
	}
	return time.Since(start), w.disconnect()
}

// matching is publishing to topics that are new each time, with many wildcard subscriptions that do not match.
func (b *brokers) matching(ctx context.Context) error {
	const subscriptions = 100000
	row := fmt.Sprintf("%d subscriptions", subscriptions)
	if !b.wanted(row) {
		return nil
	}
	return b.each(ctx, false, func(target string, r *running) error {
		all, err := manyFilters(r, subscriptions)
		for _, w := range all {
			defer func() { _ = w.conn.Close() }() // done with it
		}
		if err != nil {
			return err
		}
		return b.match(row, target, r)
	})
}

// manyFilters makes as many wildcard subscriptions as clients with 500 each have.
func manyFilters(r *running, subscriptions int) (all []*wire, err error) {
	const each, batch = 500, 100
	for i := 0; i < subscriptions; i += batch {
		if i%each == 0 {
			w, err := r.login(login{clientID: fmt.Sprint("bench-filters", i/each)})
			if err != nil {
				return all, err
			}
			all = append(all, w)
		}
		var filters []string
		for k := i; k < i+batch; k++ {
			filters = append(filters, fmt.Sprintf("%s+/%d/+/%d/#", benchTopics, k%300, k))
		}
		if err := all[len(all)-1].subscribe(0, filters...); err != nil {
			return all, err
		}
	}
	return all, nil
}

// match publishes to ever new topics that reach into the tree of filters and match none.
func (b *brokers) match(row, target string, r *running) error {
	p, err := r.login(login{clientID: "bench-match"})
	if err != nil {
		return err
	}
	before, cpuErr := r.cpu()
	start, n := time.Now(), 0
	m := packet.Publish{Payload: make([]byte, b.Payload)}
	for time.Since(start) < b.Time {
		for range 200 {
			m.Topic = fmt.Appendf(m.Topic[:0], "%sa/%d/b/x%d", benchTopics, n%300, n)
			p.out = m.Append(p.out, packet.V311)
			n++
		}
		if err := p.flush(); err != nil {
			return err
		}
	}
	if err := p.barrier(); err != nil {
		return err
	}
	b.put(row+", unmatched", "msg/s", target, float64(n)/time.Since(start).Seconds(), atLeast(1))
	if after, err := r.cpu(); err == nil && cpuErr == nil {
		b.put(row+", unmatched, CPU", "µs/msg", target, float64(after-before)/float64(time.Microsecond)/float64(n), Budget{Most: 2})
	}
	return p.disconnect()
}
