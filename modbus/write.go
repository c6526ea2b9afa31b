package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// WriteResult tells what a write did.
type WriteResult struct {
	// Link, Unit and Tag point into the Config given to New; nil when the names
	// given to Write do not exist.
	Link *LinkConfig
	Unit *UnitConfig
	Tag  *TagConfig
	// Before is the value read just before the write, After the value read back
	// after it; each is null if that read did not happen or failed.
	Before, After Value
	// Time is when the value was read back, or the write failed.
	Time time.Time
}

// Write writes one tag and reads it back. value is a bool, a number (any Go
// integer or float type, or json.Number) or a string: text for a string or enum
// tag, otherwise a number or bool in words.
//
// It waits for Run, for its turn on the link and for the device; when ctx ends
// before the command was sent it is refused, never executed late. An error that
// is a *RefusedError, an *ExceptionError or ErrDown means that nothing was
// written. Any other (ErrTimeout, a value that reads back differently) means
// that the effect is unknown or not the one wanted; it never wraps one of those.
func (p *Poller) Write(ctx context.Context, link, unit, tag string, value any) (WriteResult, error) {
	c := &command{ctx: ctx, value: value, answered: make(chan struct{})}
	if err := p.find(c, link, unit, tag); err != nil {
		c.result.Time = time.Now()
		return c.result, err
	}
	if !c.tag.config.Writable {
		c.result.Time = time.Now()
		return c.result, refuse("tag %s is not writable", tag)
	}
	l := c.unit.link
	select {
	case l.commands <- c:
	case <-ctx.Done():
		c.result.Time = time.Now()
		return c.result, refuse("the command is too old: %v", context.Cause(ctx))
	case <-l.done:
		c.result.Time = time.Now()
		return c.result, refuse("the poller has stopped")
	}
	// The link answers every command it took, within a few timeouts. Leaving
	// earlier would leave the caller without the outcome.
	<-c.answered
	return c.result, c.err
}

func refuse(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// plain returns an error's text for use inside another one.
func plain(err error) string { return strings.TrimPrefix(err.Error(), "modbus: ") }

// find resolves the names of a command.
func (p *Poller) find(c *command, link, unit, tag string) error {
	for _, l := range p.links { // one for each connection of the link
		if l.config.Name != link {
			continue
		}
		c.result.Link = l.config
		for _, u := range l.units {
			if u.config.Name != unit {
				continue
			}
			c.unit, c.result.Unit = u, u.config
			for _, t := range u.tags {
				if t.config.Name == tag {
					c.tag, c.result.Tag = t, t.config
					return nil
				}
			}
			return refuse("unit %s has no tag %s", unit, tag)
		}
	}
	if c.result.Link != nil {
		return refuse("link %s has no unit %s", link, unit)
	}
	return refuse("there is no link %s", link)
}

// command is one write on its way to the goroutine of a link.
type command struct {
	// Constant after Write made it.
	ctx   context.Context // of the caller: when it ends the command is too old
	unit  *unit
	tag   *tag
	value any

	// Written by the goroutine of the link before it closes answered.
	result        WriteResult
	before, after []byte // as read; nil when not read
	unread        error  // why the value before could not be read
	err           error
	answered      chan struct{}
}

// execute runs the command on the goroutine of its link; ctx is that of Run.
func (c *command) execute(ctx context.Context) {
	defer close(c.answered)
	c.err = c.write(ctx)
	c.result.Time = time.Now()
}

// write checks, reads, writes and reads back.
func (c *command) write(ctx context.Context) error {
	u, t := c.unit, c.tag
	l := u.link
	switch {
	case c.ctx.Err() != nil:
		return refuse("the command is too old: %v", context.Cause(c.ctx))
	case l.down != nil:
		return l.down
	case u.failures >= offlineAfter:
		return refuse("unit %s is offline since %s: %s", u.config.Name, u.since.Format(time.RFC3339), plain(u.reason))
	}
	words, err := t.encode(c.value)
	if err != nil {
		return err
	}
	l.counters.writes.Add(1)
	before, err := c.read(ctx)
	if err != nil {
		c.unread = err
		return refuse("the value before it could not be read: %s", plain(err))
	}
	c.before, c.result.Before = before, c.decode(before)
	err = c.send(ctx, before, words)
	l.count(u, err)
	if isException(err, acknowledge) || isException(err, gatewayTarget) {
		// The device may be executing it. Not wrapped: it is no refusal.
		return fmt.Errorf("modbus: written, with unknown effect: %s", plain(err))
	}
	if err != nil {
		return err
	}
	after, err := c.read(ctx)
	if err != nil {
		// Not wrapped: that the reading was refused says nothing of the write.
		return fmt.Errorf("modbus: written, but not read back: %s", plain(err))
	}
	c.after, c.result.After = after, c.decode(after)
	c.publish(after)
	if !t.same(words, after) {
		return fmt.Errorf("modbus: the device did not take the value: it reads back as %v", c.result.After)
	}
	return nil
}

// read reads what belongs to the tag; the result is the caller's.
func (c *command) read(ctx context.Context) ([]byte, error) {
	r := &c.tag.register
	data, err := c.unit.link.client.read(ctx, c.unit.id, span{r.table, r.address, r.width})
	c.unit.link.count(c.unit, err)
	return bytes.Clone(data), err
}

func (c *command) decode(data []byte) Value {
	v, _, err := c.tag.decode(data, 0)
	if err != nil && v.IsNull() {
		return Value{} // before or after, the device may hold "no value"
	}
	return v
}

// publish passes the value that was read back on, like any other reading.
func (c *command) publish(data []byte) {
	l, t := c.unit.link, c.tag
	s := Sample{Link: l.config, Unit: c.unit.config, Tag: t.config, Time: time.Now()}
	s.Value, s.Quality, s.Err = t.decode(data, 0)
	l.batch = l.batch[:0]
	l.add(t, s)
	l.flush()
}

// send writes words, in the form of encode, with the function that fits.
func (c *command) send(ctx context.Context, before, words []byte) error {
	u, r := c.unit, &c.tag.register
	requests := u.link.client
	switch {
	case r.table == Coil:
		return requests.writeCoil(ctx, u.id, r.address, words[0] != 0)
	case r.part():
		return c.sendPart(ctx, before, words)
	case r.width > 1:
		return requests.writeRegisters(ctx, u.id, r.address, words)
	}
	err := requests.writeRegister(ctx, u.id, r.address, binary.BigEndian.Uint16(words))
	if isException(err, illegalFunction) {
		// Some devices know function 16 only.
		return requests.writeRegisters(ctx, u.id, r.address, words)
	}
	return err
}

// sendPart changes some bits of a register: with function 22, which the device
// does in one step. One that does not know it gets, if the configuration says
// so, the register as it was just read with those bits changed, which undoes
// what the device changed in between.
func (c *command) sendPart(ctx context.Context, before, words []byte) error {
	u, r := c.unit, &c.tag.register
	m := r.mask(words)
	if !u.noMask {
		err := u.link.client.maskRegister(ctx, u.id, r.address, m)
		if !isException(err, illegalFunction) {
			return err
		}
		if !u.config.ReadModifyWrite {
			return fmt.Errorf("modbus: part of a register is written with function 22, which the device does not know: %w; see read_modify_write", err)
		}
		u.noMask = true
	}
	word := binary.BigEndian.Uint16(before)&m.keep | m.set
	return u.link.client.writeRegister(ctx, u.id, r.address, word)
}

func isException(err error, code byte) bool {
	refusal, ok := errors.AsType[*ExceptionError](err)
	return ok && refusal.Code == code
}
