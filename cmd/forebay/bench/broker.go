package bench

import (
	"context"
	"encoding/json"
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
	b := brokers{BrokerOptions: o, figures: map[string]map[string][]float64{}}
	for _, part := range []func(context.Context) error{b.traffics, b.durable, b.memory, b.retained, b.matching, b.stirred} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	if len(b.order) == 0 {
		return fmt.Errorf("bench: no measurement has any of %q in its name", o.Only)
	}
	return b.print(w)
}

// brokers collects the figures of one call of Broker.
type brokers struct {
	BrokerOptions
	order   []string // the rows as they came
	units   map[string]string
	figures map[string]map[string][]float64 // row, target: one figure for each round
	remarks []string
}

// wanted reports whether the row is asked for.
func (b *brokers) wanted(row string) bool {
	return len(b.Only) == 0 || slices.ContainsFunc(b.Only, func(word string) bool { return strings.Contains(row, word) })
}

func (b *brokers) put(row, unit, target string, figure float64) {
	if b.figures[row] == nil {
		b.figures[row] = map[string][]float64{}
		b.order = append(b.order, row)
		if b.units == nil {
			b.units = map[string]string{}
		}
		b.units[row] = unit
	}
	b.figures[row][target] = append(b.figures[row][target], figure)
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

// each runs f with every target, in turn, for every round, each target being a process of its own without a past.
func (b *brokers) each(ctx context.Context, durable bool, f func(target string, r *running) error) error {
	for round := range b.Rounds {
		for _, t := range b.Targets {
			if durable && !t.durable {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			b.Say("round %d of %d: %s", round+1, b.Rounds, t.Name)
			r, err := t.open(durable)
			if err != nil {
				return err
			}
			err = f(t.Name, r)
			r.close()
			if err != nil {
				return fmt.Errorf("%s: %w", t.Name, err)
			}
		}
	}
	return nil
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
		b.remarks = append(b.remarks, strings.TrimSpace(fmt.Sprintf("%s, %s: %d of %d lost, %d repeated %s", target, t.name, f.Lost, f.Messages, f.Repeated, f.Unanswered)))
	}
	micro := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	if t.rate == 0 {
		b.put(t.name, "msg/s", target, float64(f.Messages)/f.Elapsed.Seconds())
	} else {
		b.put(t.name+", p50", "µs", target, micro(f.P50))
		b.put(t.name+", p99", "µs", target, micro(f.P99))
	}
	if f.CPU > 0 {
		b.put(t.name+", CPU", "µs/msg", target, micro(f.CPU)/float64(f.Messages))
	}
	return nil
}

// brokerRow is one row of the result.
type brokerRow struct {
	Name    string             `json:"name"`
	Unit    string             `json:"unit"`
	Medians map[string]float64 `json:"medians"`
	Ratios  map[string]float64 `json:"ratios"` // first target ÷ this one
}

func (b *brokers) rows() []brokerRow {
	var rows []brokerRow
	for _, name := range b.order {
		row := brokerRow{Name: name, Unit: b.units[name], Medians: map[string]float64{}, Ratios: map[string]float64{}}
		for target, all := range b.figures[name] {
			row.Medians[target] = median(all)
		}
		first, known := row.Medians[b.Targets[0].Name]
		for target, m := range row.Medians {
			if known && m > 0 && target != b.Targets[0].Name {
				row.Ratios[target] = first / m
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func (b *brokers) print(w io.Writer) error {
	if b.JSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"rows": b.rows(), "remarks": b.remarks, "rounds": b.Rounds})
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%-52s %-8s", fmt.Sprintf("medians of %d", b.Rounds), "")
	for i, t := range b.Targets {
		fmt.Fprintf(&text, " %12s", t.Name)
		if i > 0 {
			fmt.Fprintf(&text, " %8s", "ratio")
		}
	}
	text.WriteByte('\n')
	for _, row := range b.rows() {
		fmt.Fprintf(&text, "%-52s %-8s", row.Name, row.Unit)
		for i, t := range b.Targets {
			m, known := row.Medians[t.Name]
			fmt.Fprintf(&text, " %12s", figure(m, known))
			if i > 0 {
				ratio, known := row.Ratios[t.Name]
				fmt.Fprintf(&text, " %8s", figure(ratio, known))
			}
		}
		text.WriteByte('\n')
	}
	fmt.Fprintf(&text, "ratio: %s ÷ that broker\n", b.Targets[0].Name)
	for _, remark := range b.remarks {
		fmt.Fprintln(&text, "WRONG: "+remark)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// figure is a number with three significant digits, or what stands for none.
func figure(v float64, known bool) string {
	switch {
	case !known:
		return "-"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.3g", v)
	}
	return fmt.Sprintf("%.2g", v)
}
