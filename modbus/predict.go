package modbus

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// PlannedRead is one read of the plan of a link.
type PlannedRead struct {
	// Unit and Tags point into the configuration; Tags are by address.
	Unit *UnitConfig
	Tags []*TagConfig
	// Table, Address and Count are what is read.
	Table   Table
	Address int
	Count   int
	// Interval is that of its tags.
	Interval time.Duration
	// OnWire is how long request and answer and the silences and delays that
	// belong to them take on a serial line; 0 for other links.
	OnWire time.Duration
}

// Plan returns the reads of a link of a valid configuration, as they are planned
// before the devices have taught anything.
func (l *LinkConfig) Plan() []PlannedRead {
	var plan []PlannedRead
	var line rtuLine
	if l.serial() != nil {
		line = l.line()
	}
	for _, u := range newLink(l, nil).units {
		for _, b := range u.blocks {
			r := PlannedRead{Unit: u.config, Table: b.table, Address: b.address, Count: b.count, Interval: b.interval, OnWire: line.time(b.span)}
			if l.serial() != nil {
				r.OnWire += l.RequestDelay
				if l.CloseAfterRequest {
					r.OnWire += l.ConnectDelay
				}
			}
			for _, t := range b.tags {
				r.Tags = append(r.Tags, t.config)
			}
			plan = append(plan, r)
		}
	}
	return plan
}

// time returns how long the line is busy with a read of s that is answered at
// once: two frames, each with its silence.
func (l rtuLine) time(s span) time.Duration {
	return time.Duration(8+rtuReadOverhead+s.size())*l.char + 2*l.silence
}

// Load returns the share of its time that a line is busy with a plan; it is 0
// for links that are not serial.
func Load(plan []PlannedRead) (load float64) {
	for i := range plan {
		load += plan[i].load()
	}
	return load
}

// Cycle returns how long a line is busy with each read of a plan once.
func Cycle(plan []PlannedRead) (d time.Duration) {
	for i := range plan {
		d += plan[i].OnWire
	}
	return d
}

func (r *PlannedRead) load() float64 { return float64(r.OnWire) / float64(r.Interval) }

// reasonableLoad is the share of its time that a line should be busy with reads:
// devices take time to answer, and writes and repetitions need room.
const reasonableLoad = 0.8

// relief says which tags to read less often so that a line is busy with plan for
// reasonableLoad of its time: those, of one unit and interval, that take the
// most.
func relief(plan []PlannedRead) string {
	type group struct {
		unit     *UnitConfig
		interval time.Duration
		load     float64
		tags     []string
	}
	var groups []group
	for i := range plan {
		r := &plan[i]
		at := slices.IndexFunc(groups, func(g group) bool { return g.unit == r.Unit && g.interval == r.Interval })
		if at < 0 {
			at = len(groups)
			groups = append(groups, group{unit: r.Unit, interval: r.Interval})
		}
		groups[at].load += r.load()
		for _, t := range r.Tags {
			groups[at].tags = append(groups[at].tags, t.Name)
		}
	}
	slices.SortStableFunc(groups, func(a, b group) int { return cmp.Compare(b.load, a.load) })
	excess := Load(plan) - reasonableLoad
	heaviest := 0.0
	var names []string
	for i, g := range groups {
		heaviest += g.load
		names = append(names, fmt.Sprintf("%s of unit %s (every %v)", tagNames(g.tags), g.unit.Name, g.interval))
		// What is left of these groups' share when the rest of the line is kept.
		if left := heaviest - excess; left > 0.1*heaviest || i == len(groups)-1 {
			factor := math.Ceil(10*heaviest/max(left, 0.01*heaviest)) / 10
			return fmt.Sprintf("read %s %.1f times less often", strings.Join(names, " and "), factor)
		}
	}
	return ""
}

// tagNames lists the first few names.
func tagNames(names []string) string {
	const most = 5
	if len(names) == 1 {
		return "tag " + names[0]
	}
	if len(names) > most {
		return fmt.Sprintf("tags %s and %d more", strings.Join(names[:most-1], ", "), len(names)-most+1)
	}
	return "tags " + strings.Join(names, ", ")
}
