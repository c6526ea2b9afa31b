package modbus

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// Limits of one write: Modbus §6.11 and §6.12.
const (
	maxWriteBits      = 1968
	maxWriteRegisters = 123
)

// setting is one tag of a group and what is written to it.
type setting struct {
	tag   *tag
	value any

	// Set by the goroutine of the link.
	words  []byte // as encode returns them
	result WriteResult
}

// WriteAll writes several tags of a unit with one request, so that the device
// takes all of the values or none, and reads them back. values are as those of
// [Poller.Write], by the names of the tags. The tags must be a row of registers
// without a gap, or of coils, or parts of one register; else the command is
// refused, as it is when any of the values is. The results are in the order of
// the addresses; there are none when the names do not exist. For the rest, errors
// above all, it is like Write.
func (p *Poller) WriteAll(ctx context.Context, link, unit string, values map[string]any) ([]WriteResult, error) {
	c := &command{ctx: ctx, answered: make(chan struct{})}
	for name, value := range values {
		if err := p.find(c, link, unit, name); err != nil {
			return nil, err
		}
		if !c.tag.config.Writable {
			return nil, refuse("tag %s is not writable", name)
		}
		c.group = append(c.group, &setting{tag: c.tag, value: value, result: c.result})
	}
	if len(c.group) == 0 {
		return nil, refuse("there is nothing to write")
	}
	slices.SortFunc(c.group, func(a, b *setting) int {
		return cmp.Or(cmp.Compare(a.tag.register.address, b.tag.register.address), cmp.Compare(a.tag.register.end(), b.tag.register.end()),
			cmp.Compare(a.tag.config.Name, b.tag.config.Name))
	})
	err := p.submit(c)
	results := make([]WriteResult, 0, len(c.group))
	for _, s := range c.group {
		s.result.Time = c.result.Time
		results = append(results, s.result)
	}
	return results, err
}

// span returns what the settings of a group are together, or why they cannot be
// written with one request.
func (c *command) span() (span, error) {
	first := &c.group[0].tag.register
	all := span{first.table, first.address, first.width}
	for i, s := range c.group {
		r := &s.tag.register
		switch {
		case r.table != all.table:
			return all, refuse("%s and %s are not in the same table: write them one by one", c.group[0].tag.config.Name, s.tag.config.Name)
		case r.part() != first.part() || r.part() && r.address != first.address:
			return all, refuse("%s is a part of a register, which can be written together with parts of the same one only", s.tag.config.Name)
		case i > 0 && !r.part() && r.address != all.address+all.count:
			return all, refuse("the registers of %s are not the ones behind those of %s: write them one by one", s.tag.config.Name, c.group[i-1].tag.config.Name)
		case i > 0 && !r.part():
			all.count += r.width
		}
	}
	most, read := maxWriteRegisters, c.unit.config.MaxRegisters
	if all.table.bits() {
		most, read = maxWriteBits, c.unit.config.MaxBits
	}
	if all.count > min(most, read) {
		return all, refuse("they have %d registers or coils, but at most %d are written at once", all.count, min(most, read))
	}
	return all, nil
}

// writeGroup checks, reads, writes and reads back the tags of a group.
func (c *command) writeGroup(ctx context.Context) error {
	all, err := c.span()
	if err != nil {
		return err
	}
	now := time.Now()
	for _, s := range c.group {
		if err := s.tag.mayWrite(now); err != nil {
			return err
		}
		if s.words, err = s.tag.encode(s.value); err != nil {
			return fmt.Errorf("%w, for %s", err, s.tag.config.Name)
		}
	}
	l := c.unit.link
	l.counters.writes.Add(1)
	before, err := c.readSpan(ctx, all)
	if err != nil {
		return refuse("the values before it could not be read: %s", plain(err))
	}
	c.eachOf(before, all, func(s *setting, data []byte, offset int) { s.result.Before = s.tag.valueOf(data, offset) })
	for _, s := range c.group {
		s.tag.wrote = now
	}
	err = c.sendGroup(ctx, all, before)
	l.count(c.unit, err)
	if err = outcomeOf(err); err != nil {
		return err
	}
	after, err := c.readSpan(ctx, all)
	if err != nil {
		// Not wrapped: that the reading was refused says nothing of the write.
		return fmt.Errorf("modbus: written, but not read back: %s", plain(err))
	}
	return c.confirm(after, all)
}

// confirm passes on what was read back and compares it with what was written.
func (c *command) confirm(after []byte, all span) (err error) {
	l := c.unit.link
	l.batch = l.batch[:0]
	c.eachOf(after, all, func(s *setting, data []byte, offset int) {
		s.result.After = s.tag.valueOf(data, offset)
		sample := Sample{Link: l.config, Unit: c.unit.config, Tag: s.tag.config, Time: time.Now()}
		sample.Value, sample.Quality, sample.Err = s.tag.decode(data, offset)
		l.add(s.tag, sample)
		same := false
		if all.table.bits() {
			same = data[offset/8]>>(offset%8)&1 == s.words[0]
		} else {
			same = s.tag.same(s.words, data[2*offset:2*(offset+s.tag.register.width)])
		}
		if !same && err == nil {
			err = fmt.Errorf("modbus: the device did not take the value of %s: it reads back as %v", s.tag.config.Name, s.result.After)
		}
	})
	l.flush()
	return err
}

// eachOf calls f for every setting with the data of all and where it begins.
func (c *command) eachOf(data []byte, all span, f func(s *setting, data []byte, offset int)) {
	for _, s := range c.group {
		f(s, data, s.tag.register.address-all.address)
	}
}

// sendGroup writes the words of all settings.
func (c *command) sendGroup(ctx context.Context, all span, before []byte) error {
	u := c.unit
	switch first := &c.group[0].tag.register; {
	case all.table == Coil:
		packed := make([]byte, (all.count+7)/8)
		for i, s := range c.group {
			packed[i/8] |= s.words[0] << (i % 8)
		}
		return u.link.client.writeCoils(ctx, u.id, all, packed)
	case first.part():
		m := mask{keep: 0xffff}
		for _, s := range c.group {
			one := s.tag.register.mask(s.words)
			m.keep &= one.keep
			m.set = m.set&one.keep | one.set
		}
		return c.sendMask(ctx, all.address, before, m)
	}
	var words []byte
	for _, s := range c.group {
		words = append(words, s.words...)
	}
	return u.link.client.writeRegisters(ctx, u.id, all.address, words)
}

// readSpan reads registers or coils; the result is the caller's.
func (c *command) readSpan(ctx context.Context, s span) ([]byte, error) {
	data, err := c.unit.link.client.read(ctx, c.unit.id, s)
	c.unit.link.count(c.unit, err)
	return bytes.Clone(data), err
}

// mayWrite refuses a write that comes too soon after the last one.
func (t *tag) mayWrite(now time.Time) error {
	if wait := t.config.WriteInterval; wait > 0 && !t.wrote.IsZero() && now.Sub(t.wrote) < wait {
		return refuse("tag %s was written %v ago, and is written every %v at most", t.config.Name, now.Sub(t.wrote).Round(time.Millisecond), wait)
	}
	return nil
}

// valueOf decodes a value before or after a write; null if the device holds none.
func (t *tag) valueOf(data []byte, offset int) Value {
	v, _, err := t.decode(data, offset)
	if err != nil && v.IsNull() {
		return Value{}
	}
	return v
}

// sendMask changes some bits of a register: with function 22, which the device
// does in one step. One that does not know it gets, if the configuration says
// so, the register as it was just read with those bits changed, which undoes
// what the device changed in between.
func (c *command) sendMask(ctx context.Context, address int, before []byte, m mask) error {
	u := c.unit
	if !u.noMask {
		err := u.link.client.maskRegister(ctx, u.id, address, m)
		if !isException(err, illegalFunction) {
			return err
		}
		if !u.config.ReadModifyWrite {
			return fmt.Errorf("modbus: part of a register is written with function 22, which the device does not know: %w; see read_modify_write", err)
		}
		u.noMask = true
	}
	word := binary.BigEndian.Uint16(before)&m.keep | m.set
	return u.link.client.writeRegister(ctx, u.id, address, word)
}
