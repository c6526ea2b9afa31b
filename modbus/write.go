package modbus

import (
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
	err := p.submit(c)
	return c.result, err
}

// submit has the link of the command execute it.
func (p *Poller) submit(c *command) error {
	l := c.unit.link
	select {
	case l.commands <- c:
	case <-c.ctx.Done():
		c.result.Time = time.Now()
		return refuse("the command is too old: %v", context.Cause(c.ctx))
	case <-l.done:
		c.result.Time = time.Now()
		return refuse("the poller has stopped")
	}
	// The link answers every command it took, within a few timeouts. Leaving
	// earlier would leave the caller without the outcome.
	<-c.answered
	return c.err
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
	group []*setting // instead of tag and value

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
	case c.group != nil:
		return c.writeGroup(ctx)
	}
	now := time.Now()
	if err := t.mayWrite(now); err != nil {
		return err
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
	c.before, c.result.Before = before, t.valueOf(before, 0)
	t.wrote = now
	err = c.send(ctx, before, words)
	l.count(u, err)
	if err = outcomeOf(err); err != nil {
		return err
	}
	after, err := c.read(ctx)
	if err != nil {
		// Not wrapped: that the reading was refused says nothing of the write.
		return fmt.Errorf("modbus: written, but not read back: %s", plain(err))
	}
	c.after, c.result.After = after, t.valueOf(after, 0)
	c.publish(after)
	if !t.same(words, after) {
		return fmt.Errorf("modbus: the device did not take the value: it reads back as %v", c.result.After)
	}
	return nil
}

// outcomeOf turns the error of a write request into that of the command.
func outcomeOf(err error) error {
	if isException(err, acknowledge) || isException(err, gatewayTarget) {
		// The device may be executing it. Not wrapped: it is no refusal.
		return fmt.Errorf("modbus: written, with unknown effect: %s", plain(err))
	}
	return err
}

// read reads what belongs to the tag; the result is the caller's.
func (c *command) read(ctx context.Context) ([]byte, error) {
	r := &c.tag.register
	return c.readSpan(ctx, span{r.table, r.address, r.width})
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
		return c.sendMask(ctx, r.address, before, r.mask(words))
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

func isException(err error, code byte) bool {
	refusal, ok := errors.AsType[*ExceptionError](err)
	return ok && refusal.Code == code
}
