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

	// Owned by the goroutine of the link.
	last thinned
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
	origin   *block // the planned block this is a fragment of; nil if planned

	// Owned by the goroutine of the link.
	phase time.Duration // where in the interval it is read
	next  time.Time     // when to read it
	err   error         // of the last read; nil after a good one
	hole  bool          // the device refuses the address: read rarely
	mute  int           // reads in a row without an answer

	flying bool // its answer is awaited in a flight
}

// restart makes the block due, and then due again in its phase.
func (b *block) restart(now time.Time) { b.next = now.Add(b.phase - b.interval) }

// advance sets the next deadline of a block that was due and returns how many
// deadlines passed meanwhile: they are skipped, not made up for.
func (b *block) advance(now time.Time) (missed uint64) {
	b.next = b.next.Add(b.interval)
	if late := now.Sub(b.next); late >= 0 {
		n := late/b.interval + 1
		b.next = b.next.Add(n * b.interval)
		return uint64(n)
	}
	return 0
}

// newBlock makes the smallest block that holds tags, sorted by address.
func newBlock(tags []*tag, origin *block) *block {
	first := tags[0]
	b := &block{
		span:     span{table: first.register.table, address: first.register.address},
		interval: first.config.Interval,
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
}

// planBlocks joins tags of the same table and interval into as few reads as the
// limits allow. A value is never split. Every tag is in exactly one block.
func planBlocks(tags []*tag, l limits) []*block {
	sorted := slices.Clone(tags)
	slices.SortStableFunc(sorted, func(a, b *tag) int {
		return cmp.Or(
			cmp.Compare(a.register.table, b.register.table),
			cmp.Compare(a.config.Interval, b.config.Interval),
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

// serialLoad returns the share of its time that a serial line is busy with the
// planned reads, and their number, if all devices answer without delay.
func serialLoad(cfg *LinkConfig) (load float64, reads int) {
	line := cfg.line()
	for _, u := range newLink(cfg, nil).units {
		for _, b := range u.blocks {
			// Both frames of a read, each with its silence.
			answer := rtuReadOverhead + 2*b.count
			if b.table.bits() {
				answer = rtuReadOverhead + (b.count+7)/8
			}
			busy := time.Duration(8+answer)*line.char + 2*line.silence
			load += float64(busy) / float64(b.interval)
			reads++
		}
	}
	return load, reads
}

// joins reports whether t fits a block that begins with first and ends at end.
func (l limits) joins(first, t *tag, end int) bool {
	most := l.registers
	if first.register.table.bits() {
		most = l.bits
	}
	return t.register.table == first.register.table &&
		t.config.Interval == first.config.Interval &&
		t.register.address <= end+l.gap &&
		max(end, t.register.end())-first.register.address <= most
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
