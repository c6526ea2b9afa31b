package bench

import (
	"context"
	"fmt"
	"net"
	"time"

	"forebay/broker/packet"
)

// stir is what another client does while the latency of a publisher is measured.
type stir struct {
	name    string
	prepare func(r *running) error                      // nil: nothing
	act     func(ctx context.Context, r *running) error // again and again until ctx ends
}

const stirRetained = 100000

// stirs are clients that a broker must not let others wait for.
func (b *brokers) stirs() []stir {
	return []stir{
		{name: "alone"},
		{name: "# over 100,000 retained", prepare: func(r *running) error {
			_, err := storeRetained(r, stirRetained, b.Payload)
			return err
		}, act: func(_ context.Context, r *running) error {
			_, err := fetchRetained(r, stirRetained)
			return err
		}},
		{name: "1 MiB in small pieces", act: dribble},
		{name: "logins with a password", act: func(_ context.Context, r *running) error {
			w, err := r.login(login{clientID: "bench-stir"})
			if err != nil {
				return err
			}
			return w.disconnect()
		}},
	}
}

// stirred measures a publisher's latency while others keep the broker busy.
func (b *brokers) stirred(ctx context.Context) error {
	const row = "2000/s, QoS 1, beside "
	var wanted []stir
	for _, s := range b.stirs() {
		if b.wanted(row + s.name) {
			wanted = append(wanted, s)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	return b.each(ctx, false, func(target string, r *running) error {
		for _, s := range wanted {
			t := traffic{
				name: row + s.name, publishers: 10, subscribers: 10, each: true, qos: 1, rate: 2000,
				payload: b.Payload, inFlight: 100, duration: b.Time,
			}
			if err := b.beside(ctx, target, s, t, r); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *brokers) beside(ctx context.Context, target string, s stir, t traffic, r *running) error {
	if s.prepare != nil {
		if err := s.prepare(r); err != nil {
			return err
		}
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		for s.act != nil && ctx.Err() == nil {
			if err := s.act(ctx, r); err != nil {
				ended <- fmt.Errorf("%s: %w", s.name, err)
				return
			}
		}
		ended <- nil
	}()
	err := b.flow(target, t, r)
	stop()
	if stirErr := <-ended; err == nil {
		err = stirErr
	}
	return err
}

// dribble sends one packet of 1 MiB in pieces of 1 KiB, each in a segment of its own.
func dribble(ctx context.Context, r *running) error {
	w, err := r.login(login{clientID: "bench-stir"})
	if err != nil {
		return err
	}
	if tcp, ok := w.conn.(*net.TCPConn); ok {
		if err := tcp.SetNoDelay(true); err != nil {
			return err
		}
	}
	const size, piece = 1<<20 - 1<<10, 1 << 10
	m := packet.Publish{Topic: []byte(benchTopics + "large"), Payload: make([]byte, size)}
	for b := m.Append(nil, packet.V311); len(b) > 0 && ctx.Err() == nil; {
		n := min(piece, len(b))
		if _, err := w.conn.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
		time.Sleep(50 * time.Microsecond)
	}
	return w.conn.Close()
}
