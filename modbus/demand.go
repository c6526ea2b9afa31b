package modbus

import (
	"errors"
	"fmt"
	"time"
)

// maxDemands bounds the reads on demand that one connection has not seen yet.
const maxDemands = 64

// ErrBusy means that too many reads on demand wait already.
var ErrBusy = errors.New("too many reads are wanted at once")

// ReadNow has a tag read once as soon as its link can, with the others of its
// read; what is read is passed to the sink like any other reading, even if it
// has not changed. The schedule goes on as before. It does not wait, not even
// for Run. A unit that does not answer is asked too, within the share of the
// link's time that such units have. The error is ErrBusy, or a *RefusedError when
// the names do not exist.
func (p *Poller) ReadNow(link, unit, tag string) error {
	c := &command{}
	if err := p.find(c, link, unit, tag); err != nil {
		return err
	}
	select {
	case c.unit.link.demands <- demand{c.unit, c.tag}:
		return nil
	default:
		return fmt.Errorf("modbus: %w", ErrBusy)
	}
}

// demand is a read on demand on its way to the goroutine of a link.
type demand struct {
	unit *unit
	tag  *tag
}

// onDemand makes the block of a tag due.
func (d demand) onDemand(now time.Time) {
	d.tag.last = thinned{} // nothing is held back
	if d.unit.failures > 0 {
		d.unit.probeAt = earlier(d.unit.probeAt, now)
		return
	}
	for _, b := range d.unit.blocks {
		for _, t := range b.tags {
			if t == d.tag && b.demanded.IsZero() {
				b.demanded = now
			}
		}
	}
}

// due returns when the block is to be read.
func (b *block) due() time.Time {
	if b.demanded.IsZero() {
		return b.next
	}
	return earlier(b.next, b.demanded)
}
