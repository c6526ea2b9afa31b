package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Client reads and writes the units of one link by hand, with no schedule, for
// someone who stands in front of a device. A request is made when it is asked
// for, and once; only a read is made again when the connection turns out to have
// been closed since the last one. Its methods must not be called concurrently.
type Client struct {
	// Constant after NewClient.
	link *link
}

// NewClient prepares a client for a link whose defaults are set. Everything
// wrong with it is returned, joined; so is a unit whose tags do not fit into one
// read. The client keeps cfg: nobody may change what it refers to afterwards.
// Nothing is opened yet.
func NewClient(cfg LinkConfig) (*Client, error) {
	whole := &Config{Links: []LinkConfig{cfg}}
	if err := whole.problems(); err != nil {
		return nil, err
	}
	own := &whole.Links[0]
	l := newLink(own, newClient(own))
	l.log, l.sink = slog.New(slog.DiscardHandler), nobody{}
	for _, u := range l.units {
		if n := len(u.blocks); n != 1 {
			return nil, fmt.Errorf("modbus: the values of unit %d need %d requests, but only one is made, of at most %d registers or %d bits: ask for fewer",
				u.id, n, u.config.MaxRegisters, u.config.MaxBits)
		}
	}
	return &Client{link: l}, nil
}

// nobody is the sink of a link that is used by hand.
type nobody struct{}

func (nobody) Samples([]Sample)    {}
func (nobody) UnitState(UnitState) {}

// Reading is one tag as it was read, with what it was read from.
type Reading struct {
	Sample
	// Table and Address are where the tag begins.
	Table   Table
	Address int
	// Registers are those of the tag as on the wire; nil for a coil or discrete
	// input.
	Registers []uint16
}

// Read reads all tags of Units[n] with one request and returns them in their
// order. took is the time from the request to the answer, connecting not
// counted; it is set for an exception too. Errors are those of the package.
// When ctx ends the client is closed for good.
func (c *Client) Read(ctx context.Context, n int) (readings []Reading, took time.Duration, err error) {
	release := context.AfterFunc(ctx, c.link.client.transport.stop)
	defer release()
	u := c.link.units[n]
	if _, err := c.link.client.connect(ctx, false); err != nil {
		return nil, 0, err
	}
	b := u.blocks[0]
	begin := time.Now()
	data, err := c.link.client.read(ctx, u.id, b.span)
	now := time.Now()
	took = now.Sub(begin)
	if err != nil {
		return nil, took, err
	}
	for _, t := range u.tags {
		offset := t.register.address - b.address
		words := data
		if !t.register.table.bits() {
			words = data[2*offset : 2*(offset+t.register.width)]
			offset = 0
		}
		readings = append(readings, c.reading(t, words, offset, now))
	}
	return readings, took, nil
}

// reading decodes a tag, which stands offset bits or words behind the beginning
// of data.
func (c *Client) reading(t *tag, data []byte, offset int, now time.Time) Reading {
	r := Reading{Table: t.register.table, Address: t.register.address}
	r.Link, r.Tag, r.Time = c.link.config, t.config, now
	r.Value, r.Quality, r.Err = t.decode(data, offset)
	if !r.Table.bits() {
		for word := data; len(word) > 1; word = word[2:] {
			r.Registers = append(r.Registers, binary.BigEndian.Uint16(word))
		}
	}
	return r
}

// Write writes value, as [Poller.Write] takes it, to the first tag of Units[n]:
// it reads the registers, writes and reads them back. before and after are nil
// when that read did not happen or failed.
//
// A *RefusedError means that the tag does not take the value, and that nothing
// was sent. After an *ExceptionError or ErrDown nothing was written; after any
// other error the effect is unknown or not the one wanted, unless before is nil:
// then nothing was written either. When ctx ends the client is closed for good.
func (c *Client) Write(ctx context.Context, n int, value any) (before, after *Reading, err error) {
	release := context.AfterFunc(ctx, c.link.client.transport.stop)
	defer release()
	u := c.link.units[n]
	t := u.tags[0]
	if !t.config.Writable {
		return nil, nil, refuse("tag %s is not writable", t.config.Name)
	}
	if _, err := t.encode(value); err != nil {
		return nil, nil, err
	}
	if _, err := c.link.client.connect(ctx, true); err != nil {
		return nil, nil, err
	}
	w := &command{ctx: ctx, unit: u, tag: t, value: value, answered: make(chan struct{})}
	w.execute(ctx)
	read := func(data []byte) *Reading {
		if data == nil {
			return nil
		}
		r := c.reading(t, data, 0, w.result.Time)
		return &r
	}
	if w.unread != nil {
		return nil, nil, w.unread
	}
	return read(w.before), read(w.after), w.err
}

// Close closes the connection or port. It may be called from any goroutine, and
// again.
func (c *Client) Close() { c.link.client.transport.stop() }

// Answered tells from the outcome of a request whether the unit itself
// answered: with what was asked for, or with an exception. A gateway that says
// that the unit does not answer is no answer.
func Answered(err error) bool {
	refusal, refused := errors.AsType[*ExceptionError](err)
	return err == nil || refused && refusal.Code != gatewayPath && refusal.Code != gatewayTarget
}

// Series returns count tags like t, each in the registers behind those of the
// last, named by their addresses. Of a tag that cannot be understood it returns
// that alone, for Validate to say what is wrong.
func (t TagConfig) Series(count int) []TagConfig {
	sound := true
	r := t.compile(scope{"", func(string, string) { sound = false }})
	if !sound {
		return []TagConfig{t}
	}
	tags := make([]TagConfig, 0, min(count, maxBits))
	for i := range count {
		next := t
		next.Register, next.Reference = r.table.String(), ""
		next.Address = new(r.address + i*r.width)
		next.Name = fmt.Sprintf("%s %d", r.table, *next.Address)
		tags = append(tags, next)
	}
	return tags
}
