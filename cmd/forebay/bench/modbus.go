package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"forebay/modbus"
)

// ModbusOptions says how Modbus is measured.
type ModbusOptions struct {
	Self     string // the program that is started as a gateway
	Quick    bool   // one round, short: to see whether it works
	Progress func(what string)
}

// modbusBench is one run.
type modbusBench struct {
	ModbusOptions
	ctx    context.Context
	dir    string
	rounds int
	time   time.Duration // of one measurement
	table  *Table
	peer   *libmodbus // nil: not there
}

// Modbus measures polling: one connection beside libmodbus's client, a gateway
// with many devices, and serial lines whose wire is simulated. When ctx ends it
// returns its error.
func Modbus(ctx context.Context, o ModbusOptions) (*Table, error) {
	dir, err := os.MkdirTemp("", "forebay-bench-")
	if err != nil {
		return nil, err
	}
	b := &modbusBench{ModbusOptions: o, ctx: ctx, dir: dir, rounds: 5, time: 2 * time.Second,
		table: &Table{Title: "Modbus on this machine", Columns: []string{oursColumn, peerColumn}}}
	if o.Quick {
		b.rounds, b.time = 1, 500*time.Millisecond
	}
	return b.table, errors.Join(b.run(), os.RemoveAll(dir))
}

func (b *modbusBench) run() error {
	b.table.Notes = []string{
		fmt.Sprintf("Medians of %d. Reads are of 125 registers; devices and gateway share the machine's processors.", b.rounds),
		"One connection: a slave of libmodbus in a process of its own; ours is the poller, values decoded.",
		"Devices: a real gateway polls devices simulated here; processor time and memory are its own, less those of an idle one.",
		"Wire: a pseudo-terminal whose far end takes the time that every character has on the line.",
	}
	var err error
	if b.peer, err = buildLibmodbus(b.ctx, b.dir); err != nil && !errors.Is(err, errNoLibmodbus) {
		return err
	}
	for _, step := range []func() error{b.connection, b.devices, b.wires} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// The columns.
const (
	oursColumn = "forebay"
	peerColumn = "libmodbus"
)

// connection measures one TCP connection beside libmodbus's client.
func (b *modbusBench) connection() error {
	row := b.table.row("one TCP connection", "registers/s", Budget{Of: peerColumn, Least: 0.9})
	flights := b.table.row("one TCP connection, 4 in flight", "registers/s")
	allocations := b.table.row("allocations per read", "", Budget{Most: 0.1})
	address, stop, err := b.slave()
	if err != nil {
		return err
	}
	defer stop()
	for i := range b.rounds {
		if b.peer != nil {
			b.say(i, row, peerColumn)
			reads, err := b.peer.reads(b.ctx, address, b.time)
			if err != nil {
				return err
			}
			row.add(b.table, peerColumn, reads*registersPerRead)
		}
		b.say(i, row, oursColumn)
		p, err := b.pollFlatOut(address, 1)
		if err != nil {
			return err
		}
		row.add(b.table, oursColumn, p.reads*registersPerRead)
		allocations.add(b.table, oursColumn, p.allocations)
		b.say(i, flights, oursColumn)
		if p, err = b.pollFlatOut(address, 4); err != nil {
			return err
		}
		flights.add(b.table, oursColumn, p.reads*registersPerRead)
	}
	if b.peer == nil {
		b.table.cell(row, peerColumn).Note = errNoLibmodbus.Error()
		b.table.cell(allocations, oursColumn).Note = "allocations include those of the slave, which is in this process for want of libmodbus"
	}
	return nil
}

// slave starts a slave, in a process of its own if libmodbus is there.
func (b *modbusBench) slave() (address string, stop func(), err error) {
	if b.peer != nil {
		return b.peer.slave()
	}
	d, err := startDevices()
	if err != nil {
		return "", nil, err
	}
	return d.address(), d.stop, nil
}

func (b *modbusBench) say(round int, r *Row, who string) {
	b.Progress(fmt.Sprintf("round %d of %d: %s: %s", round+1, b.rounds, r.Name, who))
}

// registersPerRead is the most that one read may have: Modbus §6.3.
const registersPerRead = 125

// polled is what a poller achieved.
type polled struct {
	reads       float64 // per second
	allocations float64 // per read
}

// pollFlatOut lets a poller read from one connection as fast as it can: its
// schedule asks for more than anybody could answer.
func (b *modbusBench) pollFlatOut(address string, inFlight int) (polled, error) {
	link := modbus.LinkConfig{Name: "bench", TCP: address, InFlight: inFlight}
	// With an interval of 10 ms, the least there is, so many units ask for 64,000 reads a second.
	for n := range 640 {
		link.Units = append(link.Units, modbus.UnitConfig{
			Name: fmt.Sprint(n), Unit: new(1), Interval: 10 * time.Millisecond, Tags: registerTags(),
		})
	}
	return b.poll(link)
}

// registerTags is a tag for each register of a read.
func registerTags() []modbus.TagConfig {
	tags := make([]modbus.TagConfig, registersPerRead)
	for i := range tags {
		tags[i] = modbus.TagConfig{Name: fmt.Sprint(i), Register: "holding", Address: new(i)}
	}
	return tags
}

// poll runs a poller over one link until its values come and then for as long
// as a measurement takes.
func (b *modbusBench) poll(link modbus.LinkConfig) (polled, error) {
	cfg := modbus.Config{Links: []modbus.LinkConfig{link}}
	cfg.SetDefaults()
	seen := &counter{}
	poller, err := modbus.New(cfg, slog.New(slog.DiscardHandler), seen)
	if err != nil {
		return polled{}, fmt.Errorf("bench: %w", err)
	}
	ctx, stop := context.WithCancel(b.ctx)
	ended := make(chan error, 1)
	go func() { ended <- poller.Run(ctx) }()
	defer func() {
		stop()
		<-ended // Run returns nil
	}()
	if err := b.warm(seen); err != nil {
		return polled{}, err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	good, began := seen.good.Load(), time.Now()
	if err := b.pause(b.time); err != nil {
		return polled{}, err
	}
	reads := float64(seen.good.Load()-good) / registersPerRead
	elapsed := time.Since(began).Seconds()
	runtime.ReadMemStats(&after)
	if bad := seen.bad.Load(); bad > 0 {
		return polled{}, fmt.Errorf("bench: %d values could not be read", bad)
	}
	return polled{reads / elapsed, float64(after.Mallocs-before.Mallocs) / reads}, nil
}

// warm waits until every value may have come once.
func (b *modbusBench) warm(seen *counter) error {
	for deadline := time.Now().Add(answerTime); seen.good.Load() < registersPerRead; {
		if bad := seen.bad.Load(); bad > 0 {
			return fmt.Errorf("bench: %d values could not be read", bad)
		}
		if err := b.pause(10 * time.Millisecond); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("bench: no value was read")
		}
	}
	return b.pause(b.time / 4)
}

// pause waits for as long as ctx lets it.
func (b *modbusBench) pause(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
}

// counter is a sink that counts.
type counter struct{ good, bad atomic.Uint64 }

func (c *counter) Samples(samples []modbus.Sample) {
	for i := range samples {
		if samples[i].Quality != modbus.Good {
			c.bad.Add(1)
			return
		}
	}
	c.good.Add(uint64(len(samples)))
}

func (c *counter) UnitState(modbus.UnitState) {}

// wires measures serial lines.
func (b *modbusBench) wires() error {
	for _, baud := range []int{9600, 115200} {
		row := b.table.row(fmt.Sprintf("serial line, %d Bd", baud), "of theory", Budget{Least: 0.95})
		for i := range b.rounds {
			b.say(i, row, oursColumn)
			share, err := b.wire(baud)
			if err != nil {
				return err
			}
			row.add(b.table, oursColumn, share)
		}
	}
	return nil
}

// wire returns which share of what the line could carry is read from it.
func (b *modbusBench) wire(baud int) (float64, error) {
	w, err := startWire(baud)
	if err != nil {
		return 0, err
	}
	defer w.stop()
	link := modbus.LinkConfig{Name: "bench", RTU: &modbus.SerialConfig{Port: w.port, Baud: baud}, Timeout: 5 * time.Second}
	// Just about what the line can carry, or the configuration would be refused; several units, so that one is always due.
	const units = 4
	for n := range units {
		link.Units = append(link.Units, modbus.UnitConfig{
			Name: fmt.Sprint(n), Unit: new(1), Interval: units * w.cycle() * 101 / 100, Tags: registerTags(),
		})
	}
	p, err := b.pollWire(link)
	return p * w.cycle().Seconds(), err
}

// pollWire counts reads on a serial line from one answer to another, so that
// slow lines need no long time.
func (b *modbusBench) pollWire(link modbus.LinkConfig) (float64, error) {
	cfg := modbus.Config{Links: []modbus.LinkConfig{link}}
	cfg.SetDefaults()
	answers := make(answerTimes, 1)
	poller, err := modbus.New(cfg, slog.New(slog.DiscardHandler), answers)
	if err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	ctx, stop := context.WithCancel(b.ctx)
	ended := make(chan error, 1)
	go func() { ended <- poller.Run(ctx) }()
	defer func() {
		stop()
		<-ended // Run returns nil
	}()
	first, last, n := time.Time{}, time.Time{}, 0
	for last.Sub(first) < b.time || n < 2 {
		select {
		case at := <-answers:
			if first.IsZero() {
				first = at
			}
			last = at
			n++
		case <-time.After(answerTime):
			return 0, errors.New("bench: no value was read from the serial line")
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		}
	}
	return float64(n-1) / last.Sub(first).Seconds(), nil
}

// answerTimes is a sink that tells when answers came.
type answerTimes chan time.Time

func (a answerTimes) Samples(samples []modbus.Sample) {
	if samples[0].Quality == modbus.Good {
		select {
		case a <- samples[0].Time:
		default: // nobody counts any more
		}
	}
}

func (answerTimes) UnitState(modbus.UnitState) {}

// sub makes a folder for one gateway.
func (b *modbusBench) sub(name string) (string, error) {
	dir := filepath.Join(b.dir, name)
	return dir, os.MkdirAll(dir, 0o700)
}
