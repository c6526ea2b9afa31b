package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// BrokerOptions says what Broker measures.
type BrokerOptions struct {
	Targets []Target // in turn within every round; ratios are to the first
	Rounds  int      // medians are over so many runs
	Time    time.Duration
	Payload int      // bytes of a message
	Only    []string // words that a measurement's name must have one of; none: all
	JSON    bool
	Say     func(format string, a ...any) // progress, a line each
}

// Broker measures brokers one after another with the same traffic and prints one table to w. A message that is lost,
// repeated or out of order is told beside the figure; the figures then are worth nothing.
func Broker(ctx context.Context, o BrokerOptions, w io.Writer) error {
	if o.Payload < headSize {
		return fmt.Errorf("bench: a payload of %d bytes cannot hold the %d by which losses are found", o.Payload, headSize)
	}
	if err := raiseFiles(); err != nil {
		return err
	}
	b := brokers{BrokerOptions: o, table: &Table{
		Title: fmt.Sprintf("Brokers on this machine, medians of %d", o.Rounds),
		Notes: []string{"Load and brokers share its processors: compare within a row only."},
	}}
	for _, t := range o.Targets {
		b.table.Columns = append(b.table.Columns, t.Name)
	}
	for _, part := range []func(context.Context) error{b.traffics, b.durable, b.memory, b.retained, b.matching, b.stirred} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	if len(b.table.Rows) == 0 {
		return fmt.Errorf("bench: no measurement has any of %q in its name", o.Only)
	}
	if o.JSON {
		return b.table.WriteJSON(w)
	}
	return b.table.WriteText(w)
}

// brokers collects the figures of one call of Broker.
type brokers struct {
	BrokerOptions
	table *Table // a column for each target
}

// wanted reports whether the row is asked for.
func (b *brokers) wanted(row string) bool {
	return len(b.Only) == 0 || slices.ContainsFunc(b.Only, func(word string) bool { return strings.Contains(row, word) })
}

// put adds a figure to a row, which has budgets if Mosquitto is there to compare with.
func (b *brokers) put(name, unit, target string, figure float64, budgets ...Budget) {
	at := slices.IndexFunc(b.table.Rows, func(r *Row) bool { return r.Name == name })
	if at < 0 {
		at = len(b.table.Rows)
		known := slices.DeleteFunc(budgets, func(of Budget) bool { return of.Of != "" && !slices.Contains(b.table.Columns, of.Of) })
		b.table.row(name, unit, known...)
	}
	c := b.table.cell(b.table.Rows[at], target)
	c.Samples = append(c.Samples, figure)
}

// Budgets beside Mosquitto's figure.
func atLeast(ratio float64) Budget { return Budget{Of: mosquittoName, Least: ratio} }
func atMost(ratio float64) Budget  { return Budget{Of: mosquittoName, Most: ratio} }

// cpuBudget is what share of Mosquitto's processor time per message we may take.
func (t *traffic) cpuBudget() Budget {
	switch {
	case t.rate == 2000:
		return atMost(1.2)
	case t.rate > 0 || t.away:
		return atMost(1)
	case t.qos == 0:
		return atMost(1.0 / 30)
	case t.qos == 1 && t.subscribers > t.publishers:
		return atMost(1.0 / 8)
	}
	return atMost(1.0 / 10)
}

// patterns are the closed and open loops over live subscribers.
func (b *brokers) patterns() []traffic {
	const few = 10
	var all []traffic
	for qos := range byte(3) {
		all = append(all,
			traffic{name: "p2p", publishers: few, subscribers: few, each: true, qos: qos},
			traffic{name: "fan-in", publishers: few, subscribers: 1, qos: qos},
			traffic{name: "fan-out", publishers: 1, subscribers: few, qos: qos},
			traffic{name: "ingest", publishers: few, qos: qos})
	}
	for _, rate := range []int{2000, 20000} {
		all = append(all, traffic{name: fmt.Sprintf("open loop %d/s", rate), publishers: few, subscribers: few, each: true, qos: 1, rate: rate})
	}
	for i := range all {
		t := &all[i]
		t.name = fmt.Sprintf("%s, QoS %d", t.name, t.qos)
		t.payload, t.duration, t.inFlight = b.Payload, b.Time, 100
	}
	return all
}

func (b *brokers) traffics(ctx context.Context) error {
	wanted := slices.DeleteFunc(b.patterns(), func(t traffic) bool { return !b.wanted(t.name) })
	if len(wanted) == 0 {
		return nil
	}
	return b.each(ctx, false, func(target string, r *running) error {
		for _, t := range wanted {
			if err := b.flow(target, t, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// durable is publishing to a session that is away: every message on disk before its PUBACK.
func (b *brokers) durable(ctx context.Context) error {
	t := traffic{
		name: "durable, QoS 1", publishers: 10, subscribers: 1, away: true, qos: 1, payload: b.Payload, duration: b.Time, inFlight: 20,
	}
	if !b.wanted(t.name) {
		return nil
	}
	return b.each(ctx, true, func(target string, r *running) error { return b.flow(target, t, r) })
}

// each runs f with every target, in turn, for every round, each target being a process of its own without a past. One
// that fails is left out from then on, and the table says why; ours must not fail.
func (b *brokers) each(ctx context.Context, durable bool, f func(target string, r *running) error) error {
	failed := map[string]bool{}
	for round := range b.Rounds {
		for i, t := range b.Targets {
			if durable && !t.durable || failed[t.Name] {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			b.Say("round %d of %d: %s", round+1, b.Rounds, t.Name)
			err := t.run(durable, f)
			if err == nil {
				continue
			}
			if err = fmt.Errorf("%s: %w", t.Name, err); i == 0 {
				return err
			}
			failed[t.Name] = true
			b.table.Notes = append(b.table.Notes, "LEFT OUT: "+err.Error())
		}
	}
	return nil
}

// run starts the target, calls f and stops it.
func (t Target) run(durable bool, f func(target string, r *running) error) error {
	r, err := t.open(durable)
	if err != nil {
		return err
	}
	defer r.close()
	return f(t.Name, r)
}

// flow measures one pattern and puts its figures into the rows.
func (b *brokers) flow(target string, t traffic, r *running) error {
	f, err := t.measure(r)
	if err != nil {
		return err
	}
	if f.Messages == 0 {
		return fmt.Errorf("bench: %s: no message came through: %s", t.name, f.Unanswered)
	}
	if f.Unanswered != "" || f.Lost != 0 || f.Repeated != 0 {
		wrong := fmt.Sprintf("WRONG: %s, %s: %d of %d lost, %d repeated %s", target, t.name, f.Lost, f.Messages, f.Repeated, f.Unanswered)
		b.table.Notes = append(b.table.Notes, strings.TrimSpace(wrong))
	}
	micro := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	if t.rate == 0 {
		b.put(t.name, "msg/s", target, float64(f.Messages)/f.Elapsed.Seconds(), atLeast(10))
	} else {
		b.put(t.name+", p50", "µs", target, micro(f.P50), atMost(1))
		b.put(t.name+", p99", "µs", target, micro(f.P99), atMost(1))
	}
	if f.CPU > 0 {
		b.put(t.name+", CPU", "µs/msg", target, micro(f.CPU)/float64(f.Messages), t.cpuBudget())
	}
	return nil
}
