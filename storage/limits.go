package storage

// maxOpen is how far apart two messages with open packet identifiers can be.
const maxOpen = 65_535

// full returns which limit one more entry of that size would exceed, or "".
// Log.mu is held here and below.
func (c *Cursor) full(size int64) string {
	switch {
	case c.limits.MaxCount > 0 && c.count >= c.limits.MaxCount:
		return "count"
	case c.limits.MaxBytes > 0 && c.bytes+size > c.limits.MaxBytes:
		return "bytes"
	}
	return ""
}

// makeRoom applies the policies that drop. false: the new entry is to go.
func (c *Cursor) makeRoom(size int64) bool {
	if c.full(size) == "" {
		return true
	}
	if c.limits.WhenFull == DropNewest || c.limits.MaxBytes > 0 && size > c.limits.MaxBytes {
		return false
	}
	for limit := c.full(size); limit != ""; limit = c.full(size) {
		n := c.unpinned(max(c.pos, c.pinTop) + 1)
		c.pinTop = n - 1
		if n > c.last {
			return false // all that waits is in flight, or may be
		}
		c.log.strained(c, limit, droppedOldest, size)
		c.dropLocked(CauseFull, n)
	}
	return true
}

// A consumer's packet identifiers are n mod 65535 + 1. A QoS 2 message that was
// sent and not acknowledged has an exchange open at the peer: were it dropped, a
// later message with the same identifier could be taken for its repetition, and
// be answered and thrown away [MQTT-4.3.3-10]. So what has Hold and may have
// been sent is pinned: neither age nor DropOldest drops it.
//
// In this life, what Next has handed out may have been sent. Of former lives the
// log does not know it. It knows that nothing was sent further than maxOpen
// beyond the oldest that was not acknowledged; since a crash may have brought
// back the oldest from what was acknowledged just before, twice that is taken.

// pinFormer pins what former lives may have sent; Open calls it.
func (c *Cursor) pinFormer() { c.sent = min(c.last, c.low+2*maxOpen) }

// unpinned returns the lowest number from n on that waits and is not pinned; it
// is above c.last if there is none. Whether an entry that has left memory has
// Hold is not known one by one: all of them up to c.held count as pinned. With
// a consumer that never had a Hold that is none.
func (c *Cursor) unpinned(n uint64) uint64 {
	top := min(c.sent, c.held)
	for n = c.skip(n); n <= top; n = c.skip(n + 1) {
		if n < c.refFirst {
			n = min(top, c.refFirst-1)
			continue
		}
		if _, d, _ := c.refs[c.refHead+int(n-c.refFirst)].parse(); !d.hold {
			break
		}
	}
	return n
}

// expire drops what is too old in segments that are so as a whole; the others
// follow when Next comes to them.
func (c *Cursor) expire() {
	for i := 0; i < len(c.parts); {
		p := c.parts[i]
		if !c.expired(p.newest) {
			return
		}
		for n := c.unpinned(max(p.first, c.pos+1)); n <= p.last; n = c.unpinned(n) {
			c.dropOld(n)
		}
		if i < len(c.parts) && c.parts[i].segment == p.segment {
			i++ // some are in flight, or may be
		}
	}
}

// dropOld drops n, which is older than the limit.
func (c *Cursor) dropOld(n uint64) {
	c.log.strained(c, CauseAge, droppedOld, 0)
	c.dropLocked(CauseAge, n)
}

func (c *Cursor) countRefusal(limit string) {
	if c.refused == nil {
		c.refused = map[string]uint64{}
	}
	c.refused[limit]++
}
