package modbus

import (
	"cmp"
	"slices"
	"time"
)

// tag is a configured tag made ready, with what the thinning remembers of it.
type tag struct {
	// Constant after newTag.
	config   *TagConfig
	register register
	thinning thinning
	served   []*servedTag // who wants every sample, also those that are held back

	// Owned by the goroutine of the link.
	last  thinned
	total total     // of a counter
	wrote time.Time // when it was last written; zero: never
}

// span is what one read asks for.
type span struct {
	table   Table
	address int
	count   int // registers or bits
}

// block is one read request and the tags whose values it brings.
type block struct {
	// Constant after newBlock.
	span
	tags     []*tag // by address
	interval time.Duration
	align    time.Duration // to the wall clock; 0: not aligned
	origin   *block        // the planned block this is a fragment of; nil if planned

	// Owned by the goroutine of the link.
	phase time.Duration // where in the interval it is read
	next  time.Time     // when to read it
	err   error         // of the last read; nil after a good one
	hole  bool          // the device refuses the address: read rarely
	mute  int           // reads in a row without an answer
	stale bool          // it has been said that its values are

	damaged int // answers in a row that came damaged

	restarted bool      // it has not been read since restart
	demanded  time.Time // since when a read on demand is wanted; zero: none is

	flying bool // its answer is awaited in a flight
	gone   bool // other blocks have its tags now
}

// restart makes the block due, and then due again in its phase.
func (b *block) restart(now time.Time) {
	b.next, b.restarted = now.Add(b.phase-b.interval), true
	if b.align > 0 {
		b.next = now
	}
}

// advance sets the next deadline of a block that was read and returns how many
// deadlines passed meanwhile: they are skipped, not made up for.
func (l *link) advance(b *block, now time.Time) (missed uint64) {
	restarted := b.restarted
	b.demanded, b.restarted = time.Time{}, false
	switch {
	case b.next.After(now):
		return 0 // it was read on demand
	case b.align > 0:
		missed = uint64(now.Sub(b.next) / b.align)
		b.next = l.aligned(b, now)
		return missed
	}
	b.next = b.next.Add(b.interval)
	if late := now.Sub(b.next); late >= 0 {
		n := late/b.interval + 1
		b.next = b.next.Add(n * b.interval)
		if !restarted { // then it was only brought forward
			return uint64(n)
		}
	}
	return 0
}

// newBlock makes the smallest block that holds tags, sorted by address.
func newBlock(tags []*tag, origin *block) *block {
	first := tags[0]
	b := &block{
		span:     span{table: first.register.table, address: first.register.address},
		interval: first.config.Interval,
		align:    first.config.Align,
		tags:     tags,
		origin:   origin,
	}
	for _, t := range tags {
		b.count = max(b.count, t.register.end()-b.address)
	}
	return b
}

// limits are what a device accepts in one read.
type limits struct {
	registers, bits, gap int
	exact                bool         // a value is read at its own address only
	learned              *LearnedUnit // nil: nothing
}

// planBlocks joins tags of the same table and interval into as few reads as the
// limits allow. A value is never split. Every tag is in exactly one block.
func planBlocks(tags []*tag, l limits) []*block {
	sorted := slices.Clone(tags)
	slices.SortStableFunc(sorted, func(a, b *tag) int {
		return cmp.Or(
			cmp.Compare(a.register.table, b.register.table),
			cmp.Compare(a.config.Interval, b.config.Interval),
			cmp.Compare(a.config.Align, b.config.Align),
			cmp.Compare(a.register.address, b.register.address),
			cmp.Compare(a.register.end(), b.register.end()),
		)
	})
	var blocks []*block
	begin := 0
	end := 0 // first address behind sorted[begin:i]
	for i, t := range sorted {
		if i > begin && !l.joins(sorted[begin], t, end) {
			blocks = append(blocks, newBlock(sorted[begin:i:i], nil))
			begin, end = i, 0
		}
		end = max(end, t.register.end())
	}
	if begin < len(sorted) {
		blocks = append(blocks, newBlock(sorted[begin:], nil))
	}
	return blocks
}

// joins reports whether t fits a block that begins with first and ends at end.
func (l limits) joins(first, t *tag, end int) bool {
	most := l.registers
	if first.register.table.bits() {
		most = l.bits
	}
	begin, newEnd := first.register.address, max(end, t.register.end())
	switch {
	case t.register.table != first.register.table || t.config.Interval != first.config.Interval || t.config.Align != first.config.Align:
		return false
	case l.exact:
		return t.register.address == begin && t.register.end() == end
	case l.learned != nil && l.learned.parted(t.register.table, begin, newEnd):
		return false
	}
	return t.register.address <= end+l.gap && newEnd-begin <= most
}

// bisect splits a block that the device refused in two, at its largest gap or
// else near its middle, never inside a value. It returns nil when there is
// nothing to split.
func (b *block) bisect() []*block {
	best, bestGap, bestDistance := 0, -1, 0
	end := b.tags[0].register.end()
	for i, t := range b.tags {
		gap := t.register.address - end
		distance := abs(2*i - len(b.tags))
		if i > 0 && gap >= 0 && (gap > bestGap || gap == bestGap && distance < bestDistance) {
			best, bestGap, bestDistance = i, gap, distance
		}
		end = max(end, t.register.end())
	}
	if best == 0 {
		return nil
	}
	origin := b.origin
	if origin == nil {
		origin = b
	}
	return []*block{newBlock(b.tags[:best:best], origin), newBlock(b.tags[best:], origin)}
}

func abs(n int) int { return max(n, -n) }
