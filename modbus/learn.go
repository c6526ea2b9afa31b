package modbus

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// relearnAfter is how long something learned about the sizes and borders of a
// device's reads is believed: firmware changes. Then the plan of the
// configuration is tried again, which costs a few refused reads.
const relearnAfter = 24 * time.Hour

// LearnedUnit is what refused reads have taught about one unit. The plan of its
// reads heeds it. It is a value to be kept in JSON and handed back at the next
// start; what does not fit the configuration any more does no harm.
type LearnedUnit struct {
	// Link and Unit are names in the configuration.
	Link string `json:"link"`
	Unit string `json:"unit"`
	// Since is when Registers, Bits and Cuts were last learned.
	Since time.Time `json:"since"`
	// Registers and Bits are the sizes of reads.
	Registers Sizes `json:"registers"`
	Bits      Sizes `json:"bits"`
	// Cuts are borders that no read may cross.
	Cuts []Cut `json:"cuts,omitempty"`
	// Holes cannot be read. They are tried rarely, each by itself.
	Holes []Hole `json:"holes,omitempty"`
}

// Sizes are what a device has shown about the size of its reads, in registers or
// bits: Good is the largest that it answered, Refused the smallest that it
// refused although every part could be read. Refused is 0 when none was.
type Sizes struct {
	Good    int `json:"good"`
	Refused int `json:"refused"`
}

// Cut lies before an address: a read ends there at the latest, or begins there
// at the earliest.
type Cut struct {
	Table   Table `json:"table"`
	Address int   `json:"address"`
}

// Hole is a range of addresses that the device refuses.
type Hole struct {
	Table     Table `json:"table"`
	Address   int   `json:"address"`
	Count     int   `json:"count"`
	Exception byte  `json:"exception"`
}

// MarshalText writes the word used in the configuration.
func (t Table) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the word used in the configuration.
func (t *Table) UnmarshalText(text []byte) error {
	table, ok := tables[string(text)]
	if !ok {
		return fmt.Errorf("modbus: %q is no table", text)
	}
	*t = table
	return nil
}

// most returns the size to plan with when the configuration allows limit: while
// the real maximum is not known, the middle of what it can be.
func (s Sizes) most(limit int) int {
	if s.Refused == 0 {
		return limit
	}
	return max(1, min(limit, (s.Good+s.Refused)/2))
}

// sizes returns those of a table.
func (u *LearnedUnit) sizes(t Table) *Sizes {
	if t.bits() {
		return &u.Bits
	}
	return &u.Registers
}

// parted reports whether the addresses from begin to end must not be read
// together.
func (u *LearnedUnit) parted(t Table, begin, end int) bool {
	for _, c := range u.Cuts {
		if c.Table == t && begin < c.Address && c.Address < end {
			return true
		}
	}
	return u.hole(t, begin, end) != nil
}

// hole returns a hole that the addresses from begin to end touch, or nil.
func (u *LearnedUnit) hole(t Table, begin, end int) *Hole {
	for i := range u.Holes {
		h := &u.Holes[i]
		if h.Table == t && begin < h.Address+h.Count && h.Address < end {
			return h
		}
	}
	return nil
}

// OnLearned sets who is told of everything that is learned, from the goroutines
// of the links; the value is the receiver's. It is called before Run.
func (p *Poller) OnLearned(tell func(LearnedUnit)) {
	for _, l := range p.links {
		l.tell = tell
	}
}

// Recall plans the reads of units as they were learned before. It is called
// before Run.
func (p *Poller) Recall(units []LearnedUnit) {
	for _, l := range p.links {
		for _, u := range l.units {
			for i := range units {
				if known := &units[i]; known.Link == l.config.Name && known.Unit == u.config.Name {
					u.learned = known.clone()
					u.blocks = u.plan()
				}
			}
		}
	}
}

func (u *LearnedUnit) clone() LearnedUnit {
	c := *u
	c.Cuts, c.Holes = slices.Clone(u.Cuts), slices.Clone(u.Holes)
	return c
}

// plan makes the blocks of the unit; those of holes are marked.
func (u *unit) plan() []*block {
	var readable []*tag
	var holes []*block
	for _, t := range u.tags {
		r := &t.register
		h := u.learned.hole(r.table, r.address, r.end())
		if h == nil {
			readable = append(readable, t)
			continue
		}
		b := newBlock([]*tag{t}, nil)
		b.hole = true
		b.err = &ExceptionError{Function: b.function(), Code: h.Exception}
		holes = append(holes, b)
	}
	return append(planBlocks(readable, u.limits()), holes...)
}

// limits are what the configuration and the device allow.
func (u *unit) limits() limits {
	return limits{
		registers: u.learned.Registers.most(u.config.MaxRegisters),
		bits:      u.learned.Bits.most(u.config.MaxBits),
		gap:       u.config.MaxGap,
		exact:     u.config.Exact,
		learned:   &u.learned,
	}
}

// refused deals with a block that the device refuses by address or size: it is
// split, so that the readable tags live on; what cannot be split is a hole.
func (u *unit) refused(b *block, err *ExceptionError, now time.Time) {
	parts := b.bisect()
	if parts == nil {
		b.err, b.next = err, now.Add(max(holeRetry, b.interval))
		u.link.deliverBad(u, b.tags, err, now)
		if b.hole {
			return
		}
		b.hole = true
		u.learned.Holes = append(u.learned.Holes, Hole{b.table, b.address, b.count, err.Code})
		u.settle(b, now)
		u.tell()
		return
	}
	for _, part := range parts {
		part.next, part.err = now, err // not good until it has been read
	}
	b.gone = true
	u.blocks = append(slices.DeleteFunc(slices.Clone(u.blocks), func(x *block) bool { return x == b }), parts...)
}

// recovered notes a good read.
func (u *unit) recovered(b *block, now time.Time) {
	b.err, b.mute = nil, 0
	switch {
	case b.hole:
		b.hole = false
		u.learned.Holes = slices.DeleteFunc(u.learned.Holes, func(h Hole) bool {
			return h.Table == b.table && h.Address < b.address+b.count && b.address < h.Address+h.Count
		})
		u.replan()
		u.tell()
	case b.origin != nil:
		u.enlarge(b)
		u.settle(b, now)
	case u.enlarge(b):
		u.replan() // the maximum is known better now
		u.tell()
	case u.learned.narrows() && now.Sub(u.learned.Since).Abs() > relearnAfter:
		u.learned.Since = now
		u.learned.Registers.Refused, u.learned.Bits.Refused, u.learned.Cuts = 0, 0, nil
		u.replan()
		u.tell()
	}
}

// enlarge notes the size of a good read and reports whether larger reads are to
// be planned now.
func (u *unit) enlarge(b *block) bool {
	sizes := u.learned.sizes(b.table)
	if b.count <= sizes.Good {
		return false
	}
	sizes.Good = b.count
	if sizes.Good >= sizes.Refused {
		sizes.Refused = 0 // it was not the size
	}
	return sizes.Refused > 0
}

// narrows reports whether reads are smaller than the configuration allows.
func (u *LearnedUnit) narrows() bool {
	return u.Registers.Refused > 0 || u.Bits.Refused > 0 || len(u.Cuts) > 0
}

// settle looks whether every fragment of a planned block has been read or found
// to be a hole, and then learns from it.
func (u *unit) settle(b *block, now time.Time) {
	if b.origin == nil {
		return
	}
	var parts []*block
	holes := false
	for _, x := range u.blocks {
		if x.origin != b.origin {
			continue
		}
		if x.err != nil && !x.hole {
			return
		}
		holes = holes || x.hole
		parts = append(parts, x)
	}
	if !holes {
		u.learned.Since = now
		u.learn(b.origin, parts)
		u.tell()
	}
	u.replan()
}

// learn finds why a block was refused whose parts, all of them, can be read:
// what lies between them, or its size, or a border inside it.
func (u *unit) learn(whole *block, parts []*block) {
	slices.SortFunc(parts, func(a, b *block) int { return cmp.Compare(a.address, b.address) })
	var gaps, borders []Cut
	for i, part := range parts[1:] {
		cut := Cut{whole.table, part.address}
		borders = append(borders, cut)
		if part.address > parts[i].address+parts[i].count {
			gaps = append(gaps, cut)
		}
	}
	sizes := u.learned.sizes(whole.table)
	switch {
	case len(gaps) > 0:
		u.learned.Cuts = append(u.learned.Cuts, gaps...)
	case whole.count > sizes.Good && (sizes.Refused == 0 || whole.count < sizes.Refused):
		sizes.Refused = whole.count
	default:
		u.learned.Cuts = append(u.learned.Cuts, borders...)
	}
}

// replan makes the blocks anew. Each is due when the first of its tags was.
func (u *unit) replan() {
	before := make(map[*tag]*block)
	for _, b := range u.blocks {
		b.gone = true
		for _, t := range b.tags {
			before[t] = b
		}
	}
	u.blocks = u.plan()
	for _, b := range u.blocks {
		b.phase = before[b.tags[0]].phase
		b.next = before[b.tags[0]].next
		for _, t := range b.tags {
			was := before[t]
			b.next = earlier(b.next, was.next)
			if !was.demanded.IsZero() {
				b.demanded = was.demanded
			}
			if b.err == nil {
				b.err = was.err
			}
		}
	}
}

// tell passes on what was learned.
func (u *unit) tell() {
	if u.link.tell == nil {
		return
	}
	u.learned.Link, u.learned.Unit = u.link.config.Name, u.config.Name
	u.link.tell(u.learned.clone())
}
