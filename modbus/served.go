package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// ServerConfig makes chosen tags readable by other Modbus TCP clients: they share
// a slow line through what was read from it last.
type ServerConfig struct {
	// Listen is where clients connect: host:port. Required.
	Listen string `mapstructure:"listen"`
	// Connections is how many clients may be connected at a time; more are
	// disconnected at once. Default 8, to 64.
	Connections int `mapstructure:"connections"`
	// Tags are what is served.
	Tags []ServedTagConfig `mapstructure:"tags"`
}

// ServedTagConfig is one tag that is served, and as which registers. Its value is
// served as it is published, in its engineering unit.
type ServedTagConfig struct {
	// Link, Unit and Tag name a tag. Required.
	Link string `mapstructure:"link"`
	Unit string `mapstructure:"unit"`
	Tag  string `mapstructure:"tag"`
	// Register, Address, Type, Order, Count, Scale and Offset are those of
	// TagConfig, for clients. Default of Type: float32 in registers, bool else.
	Register string   `mapstructure:"register"`
	Address  *int     `mapstructure:"address"`
	Type     string   `mapstructure:"type"`
	Order    string   `mapstructure:"order"`
	Count    int      `mapstructure:"count"`
	Scale    *float64 `mapstructure:"scale"`
	Offset   float64  `mapstructure:"offset"`
	// Writable lets clients write the tag, which has to be writable itself.
	// Default false.
	Writable bool `mapstructure:"writable"`
}

// maxServed bounds the connections of a server.
const maxServed = 64

func (c *ServerConfig) setDefaults() {
	setDefault(&c.Connections, 8)
	for i := range c.Tags {
		t := &c.Tags[i]
		if t.Register == "holding" || t.Register == "input" {
			setDefault(&t.Type, "float32")
		}
		setDefault(&t.Order, "ABCD")
		if t.Scale == nil {
			t.Scale = new(1.0)
		}
	}
}

// registers is how the tag looks to clients.
func (t *ServedTagConfig) registers() *TagConfig {
	c := &TagConfig{
		Name: t.Tag, Register: t.Register, Address: t.Address, Type: t.Type, Order: t.Order, Count: t.Count,
		Scale: t.Scale, Offset: t.Offset, Writable: t.Writable,
	}
	if t.Type == "string" {
		c.Layout = "packed"
	}
	return c
}

// validate reports what is wrong with a server; links are those that it may name.
func (c *ServerConfig) validate(at scope, links []LinkConfig) {
	if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "" {
		at.problem("listen", "%q is not an address and a port: write for example 0.0.0.0:502", c.Listen)
	}
	if c.Connections < 1 || c.Connections > maxServed {
		at.problem("connections", "%d is out of range: 1 to %d", c.Connections, maxServed)
	}
	if len(c.Tags) == 0 {
		at.problem("tags", "missing: the tags that are served")
	}
	owner := make(map[[2]int]int)
	for i := range c.Tags {
		t := &c.Tags[i]
		sound := true
		here := scope{fmt.Sprintf("%s.tags[%d]", at.path, i), func(path, problem string) {
			sound = false
			at.report(path, problem)
		}}
		t.validate(here, links)
		r := t.registers().compile(here)
		for a := r.address; sound && a < r.end(); a++ {
			if other, taken := owner[[2]int{int(r.table), a}]; taken {
				here.problem("address", "%s %d is that of tags[%d] already: give each its own", r.table, a, other)
				break
			}
			owner[[2]int{int(r.table), a}] = i
		}
	}
}

func (t *ServedTagConfig) validate(at scope, links []LinkConfig) {
	config := findTag(links, t.Link, t.Unit, t.Tag)
	switch {
	case config == nil:
		at.problem("tag", "there is no tag %q of unit %q on link %q: name one that is under links", t.Tag, t.Unit, t.Link)
	case t.Writable && !config.Writable:
		at.problem("writable", "the tag itself is not writable: make it so under links, or leave this out")
	case t.Writable && (t.Register == "input" || t.Register == "discrete"):
		at.problem("writable", "clients cannot write to %s: use holding or coil", t.Register)
	}
}

func findTag(links []LinkConfig, link, unit, tag string) *TagConfig {
	for i := range links {
		for j := range links[i].Units {
			for k := range links[i].Units[j].Tags {
				if t := &links[i].Units[j].Tags[k]; links[i].Name == link && links[i].Units[j].Name == unit && t.Name == tag {
					return t
				}
			}
		}
	}
	return nil
}

// TagServer serves tags as registers to Modbus TCP clients. Every unit ID reaches
// the same registers. A value is served while it is good: what could not be read,
// or was not read again in time, is refused, with exception 11 if its device does
// not answer or the value is old, and 4 if it answers but has no good value.
// Its methods may be called from any goroutine.
type TagServer struct {
	// Constant after NewTagServer.
	config *ServerConfig
	write  TagWriter
	served []*servedTag
}

// TagWriter writes a tag for a client, as Poller.Write does.
type TagWriter func(ctx context.Context, link, unit, tag string, value any) error

// servedTag is one tag of a TagServer.
type servedTag struct {
	// Constant after NewTagServer.
	config *ServedTagConfig
	tag    *tag // as clients see it

	mu     sync.Mutex
	last   Sample        // guarded by mu; its time is zero before the first
	maxAge time.Duration // guarded by mu: until it is old
}

// NewTagServer makes a server of a valid configuration. write may be nil if no
// tag is writable.
func NewTagServer(cfg *ServerConfig, write TagWriter) *TagServer {
	s := &TagServer{config: cfg, write: write}
	for i := range cfg.Tags {
		t := &cfg.Tags[i]
		s.served = append(s.served, &servedTag{config: t, tag: newTag(t.registers())})
	}
	return s
}

// Feed lets a poller tell the server of every value that it reads, also of those
// that are not published because they have not changed. It is called before Run.
func (p *Poller) Feed(s *TagServer) {
	for _, l := range p.links {
		for _, u := range l.units {
			for _, t := range u.tags {
				for _, served := range s.served {
					if c := served.config; c.Link == l.config.Name && c.Unit == u.config.Name && c.Tag == t.config.Name {
						t.served = append(t.served, served)
					}
				}
			}
		}
	}
}

// keep remembers a sample.
func (t *servedTag) keep(s *Sample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = *s
	// One read may be missed; the link finds out by its timeout that one is.
	t.maxAge = 2*s.Tag.Interval + 2*s.Link.Timeout
}

// words returns what clients read at now; code is the exception instead.
func (t *servedTag) words(now time.Time) (words []byte, code byte) {
	t.mu.Lock()
	last, maxAge := t.last, t.maxAge
	t.mu.Unlock()
	switch {
	case last.Time.IsZero(), last.Quality != Good && !Answered(last.Err), now.Sub(last.Time) > maxAge:
		return nil, gatewayTarget
	case last.Quality != Good:
		return nil, deviceFailure
	}
	words, err := t.tag.encode(last.Value.String())
	if err != nil {
		return nil, deviceFailure // no place for it in these registers
	}
	return words, 0
}

// deviceFailure is the exception of a device that cannot do what it is asked:
// Modbus §7.
const deviceFailure = 4

// Serve accepts clients until ctx ends; then it closes listener and all
// connections and returns nil when their goroutines are gone. An error of the
// listener ends it earlier.
func (s *TagServer) Serve(ctx context.Context, listener net.Listener) error {
	few := &fewConnections{Listener: listener, room: make(chan struct{}, s.config.Connections)}
	return serve(ctx, few, func(_ byte, request []byte) []byte { return s.Answer(ctx, request) })
}

// Answer executes one request PDU and returns the response PDU, which may be an
// exception. A write waits for the device.
func (s *TagServer) Answer(ctx context.Context, request []byte) []byte {
	err := CheckRequest(request)
	if refusal, ok := errors.AsType[*ExceptionError](err); ok {
		return []byte{refusal.Function | 0x80, refusal.Code}
	}
	answer, code := s.execute(ctx, request)
	if code != 0 {
		return []byte{request[0] | 0x80, code}
	}
	return answer
}

// execute runs a request that CheckRequest lets through; code is the exception.
func (s *TagServer) execute(ctx context.Context, request []byte) (answer []byte, code byte) {
	function := request[0]
	if function == 22 || function == reportServerID || function == encapsulated {
		return nil, illegalFunction
	}
	of := span{[...]Table{1: Coil, 2: DiscreteInput, 3: HoldingRegister, 4: InputRegister, 5: Coil, 6: HoldingRegister, 15: Coil, 16: HoldingRegister}[function],
		int(binary.BigEndian.Uint16(request[1:])), 1}
	if function != 5 && function != 6 {
		of.count = int(binary.BigEndian.Uint16(request[3:]))
	}
	if writing(function) {
		return s.take(ctx, of, request)
	}
	return s.give(of, function)
}

// give answers a read: every address has to belong to a tag, and every tag to be
// whole.
func (s *TagServer) give(of span, function byte) (answer []byte, code byte) {
	answer = make([]byte, 2+of.size())
	answer[0], answer[1] = function, byte(of.size())
	now, covered := time.Now(), 0
	for _, t := range s.served {
		r := &t.tag.register
		if r.table != of.table || r.address >= of.address+of.count || r.end() <= of.address {
			continue
		}
		if r.address < of.address || r.end() > of.address+of.count {
			return nil, illegalDataAddress
		}
		words, bad := t.words(now)
		if bad != 0 {
			return nil, bad
		}
		covered += r.width
		offset := r.address - of.address
		if of.table.bits() {
			answer[2+offset/8] |= words[0] << (offset % 8)
		} else {
			copy(answer[2+2*offset:], words)
		}
	}
	if covered != of.count {
		return nil, illegalDataAddress
	}
	return answer, 0
}

// take answers a write of one whole tag.
func (s *TagServer) take(ctx context.Context, of span, request []byte) (answer []byte, code byte) {
	for _, t := range s.served {
		r := &t.tag.register
		if r.table != of.table || r.address != of.address || r.width != of.count || !t.config.Writable {
			continue
		}
		value, quality, _ := t.tag.decode(written(request), 0)
		if quality != Good {
			return nil, illegalDataValue
		}
		err := s.write(ctx, t.config.Link, t.config.Unit, t.config.Tag, value.String())
		if err != nil {
			return nil, codeOf(err)
		}
		return request[:5], 0 // Modbus §6.5, §6.6, §6.11, §6.12: all begin so
	}
	return nil, illegalDataAddress
}

// written returns the data of a request that writes, as a read would give it.
func written(request []byte) []byte {
	switch request[0] {
	case 5:
		return []byte{request[3] & 1}
	case 6:
		return request[3:5]
	}
	return request[6:]
}

// codeOf is the exception that tells a client what became of its write.
func codeOf(err error) byte {
	if _, refused := errors.AsType[*RefusedError](err); refused {
		return illegalDataValue
	}
	if refusal, ok := errors.AsType[*ExceptionError](err); ok {
		return refusal.Code
	}
	if errors.Is(err, ErrDown) || errors.Is(err, ErrTimeout) {
		return gatewayTarget
	}
	return deviceFailure
}

// fewConnections closes connections for which there is no room.
type fewConnections struct {
	net.Listener
	room chan struct{}
}

// Accept returns the next connection that has room.
func (l *fewConnections) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.room <- struct{}{}:
			return &roomedConn{Conn: c, leave: sync.OnceFunc(func() { <-l.room })}, nil
		default:
			_ = c.Close() // nothing was said
		}
	}
}

type roomedConn struct {
	net.Conn
	leave func()
}

// Close gives the room back too.
func (c *roomedConn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}
