package modbus

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"slices"
	"sync"
	"time"
)

// Written is one write that reached a [Simulator].
type Written struct {
	// ID is the unit ID that was asked.
	ID byte
	// Reading is the tag as it is now. Its Tag is nil where no tag is; then the
	// registers, or the bit as a value, are those that were written.
	Reading
}

// Simulator is a Modbus TCP server in place of the devices of links: it serves
// their units by unit ID, with values that move slowly, each within what its
// type holds. Writable tags keep still, and so does every tag once it was
// written. Every address of all four tables of a unit exists; a unit that is
// not configured is answered for as by a gateway, with exception 11.
type Simulator struct {
	// Constant after NewSimulator.
	units map[byte]*simulated
	wrote func(Written)

	// mu makes one step of a write and what is told of it, or of a movement. It
	// is held before that of a Server.
	mu sync.Mutex
}

// simulated is one unit of a Simulator.
type simulated struct {
	// Constant after NewSimulator.
	server *Server

	tags []*movement // guarded by mu of the Simulator
}

// movement is a tag whose value moves.
type movement struct {
	*tag
	link  *LinkConfig
	unit  *UnitConfig
	phase time.Duration
	still bool
}

// The movement of simulated values.
const (
	// simulatorStep is the time between two changes.
	simulatorStep = 250 * time.Millisecond
	// simulatorPeriod is how long a value takes to come back to where it was.
	simulatorPeriod = 40 * time.Second
)

// NewSimulator makes a simulator of links that are part of a valid
// configuration. Units with the same ID cannot be told apart by one server; two
// of them on different links are an error. wrote is called, one call at a time,
// after each write, before it is answered.
func NewSimulator(links []LinkConfig, wrote func(Written)) (*Simulator, error) {
	s := &Simulator{units: make(map[byte]*simulated), wrote: wrote}
	owners := make(map[byte]string)
	for i := range links {
		for _, u := range newLink(&links[i], nil).units {
			if owner, taken := owners[u.id]; taken && owner != links[i].Name {
				return nil, fmt.Errorf("modbus: unit %d is on link %s and on link %s: simulate one of them", u.id, owner, links[i].Name)
			}
			owners[u.id] = links[i].Name
			if s.units[u.id] == nil {
				s.units[u.id] = &simulated{server: NewServer()}
			}
			s.units[u.id].add(u)
		}
	}
	s.Move(0)
	return s, nil
}

// add takes the tags of u and sets those that keep still.
func (s *simulated) add(u *unit) {
	for _, t := range u.tags {
		m := &movement{tag: t, link: u.link.config, unit: u.config, still: t.config.Writable}
		m.phase = time.Duration(len(s.tags)) * simulatorPeriod / 7 // so that neighbours differ
		s.tags = append(s.tags, m)
		if m.still {
			s.put(m, m.first())
		}
	}
}

// first is what a writable tag begins with: a value it could have been given.
func (m *movement) first() []byte {
	for _, limit := range []*float64{m.config.Min, m.config.Max} {
		if limit == nil {
			continue
		}
		if words, err := m.encode(*limit); err == nil {
			return words
		}
	}
	return m.at(0)
}

// at returns what a tag holds at a time, as encode does.
func (m *movement) at(elapsed time.Duration) []byte {
	turn := float64(elapsed+m.phase) / float64(simulatorPeriod)
	wave := math.Sin(2 * math.Pi * turn)
	r := &m.register
	switch {
	case r.kind == typeString:
		return m.text()
	case r.kind == typeBytes || r.kind == typeDateTime:
		return make([]byte, 2*r.width)
	case len(r.enum) > 0:
		keys := make([]uint64, 0, len(r.enum))
		for raw := range r.enum {
			keys = append(keys, raw)
		}
		slices.Sort(keys)
		return r.encoded(keys[int(turn*float64(len(keys)))%len(keys)])
	case r.kind == typeBool:
		return r.encoded(bit(wave >= 0))
	case r.kind == typeFloat:
		return r.encoded(floatBits(math.Round((50+20*wave)*100)/100, r.size))
	}
	raw := uint64(500 + 200*wave)
	if r.size < 16 {
		raw = uint64(50+20*wave) & (1<<r.size - 1)
	}
	if r.kind == typeBCD {
		raw = toBCD(raw)
	}
	return r.encoded(raw)
}

// text is the name of the tag, as much of it as fits.
func (m *movement) text() []byte {
	for name := m.config.Name; ; name = name[:len(name)-1] {
		if words, err := m.register.encodeString(name); err == nil {
			return words
		}
	}
}

// put stores words, in the form of encode.
func (s *simulated) put(m *movement, words []byte) {
	r := &m.register
	address := uint16(r.address)
	switch {
	case r.table.bits():
		s.server.SetBit(r.table, address, words[0] != 0)
	case r.part():
		change := r.mask(words)
		s.server.SetRegister(r.table, address, s.server.Register(r.table, address)&change.keep|change.set)
	default:
		values := make([]uint16, len(words)/2)
		for i := range values {
			values[i] = binary.BigEndian.Uint16(words[2*i:])
		}
		s.server.SetRegisters(r.table, address+uint16(r.first), values...)
	}
}

// Move sets the values to those of a time since the beginning. Serve does it.
func (s *Simulator) Move(elapsed time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.units {
		for _, m := range u.tags {
			if !m.still {
				u.put(m, m.at(elapsed))
			}
		}
	}
}

// Serve serves the units and moves their values until ctx ends; then it closes
// listener and all connections and returns nil when its goroutines are gone. An
// error of the listener ends it earlier.
func (s *Simulator) Serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var moving sync.WaitGroup
	defer moving.Wait()
	defer cancel()
	moving.Go(func() {
		tick := time.NewTicker(simulatorStep)
		defer tick.Stop()
		for began := time.Now(); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				s.Move(time.Since(began))
			}
		}
	})
	return serve(ctx, listener, s.Answer)
}

// Answer executes one request PDU (function code and data) to a unit and
// returns the response PDU, which may be an exception.
func (s *Simulator) Answer(unit byte, request []byte) []byte {
	u := s.units[unit]
	if u == nil {
		function := byte(0)
		if len(request) > 0 {
			function = request[0]
		}
		return []byte{function | 0x80, gatewayTarget}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := u.server.Answer(request)
	if written, ok := writtenBy(request); ok && answer[0] == request[0] {
		u.tell(unit, written, s.wrote)
	}
	return answer
}

// writtenBy returns what an accepted request has written.
func writtenBy(request []byte) (s span, ok bool) {
	if len(request) < 5 {
		return span{}, false
	}
	s = span{HoldingRegister, int(binary.BigEndian.Uint16(request[1:])), 1}
	switch request[0] {
	case 5:
		s.table = Coil
	case 15:
		s.table, s.count = Coil, int(binary.BigEndian.Uint16(request[3:]))
	case 16:
		s.count = int(binary.BigEndian.Uint16(request[3:]))
	case 6, 22:
	default:
		return span{}, false
	}
	return s, true
}

// tell reports every tag that a write has touched, and where there is none the
// registers or coils themselves.
func (s *simulated) tell(unit byte, written span, wrote func(Written)) {
	end := written.address + written.count
	tagged := make(map[int]bool)
	for _, m := range s.tags {
		r := &m.register
		if r.table != written.table || r.address >= end || r.end() <= written.address {
			continue
		}
		m.still = true
		for a := r.address; a < r.end(); a++ {
			tagged[a] = true
		}
		wrote(Written{unit, s.reading(m)})
	}
	for a := written.address; a < end; a++ {
		if tagged[a] {
			continue
		}
		r := Reading{Table: written.table, Address: a, Sample: Sample{Time: time.Now(), Quality: Good}}
		if r.Table.bits() {
			r.Value = BoolValue(s.server.Bit(r.Table, uint16(a)))
		} else {
			r.Registers = []uint16{s.server.Register(r.Table, uint16(a))}
			r.Value = UintValue(uint64(r.Registers[0]))
		}
		wrote(Written{unit, r})
	}
}

// reading decodes a tag as a client would.
func (s *simulated) reading(m *movement) Reading {
	r := Reading{Table: m.register.table, Address: m.register.address}
	r.Link, r.Unit, r.Tag, r.Time = m.link, m.unit, m.config, time.Now()
	if r.Table.bits() {
		r.Value, r.Quality, r.Err = m.register.decodeBit(s.server.Bit(r.Table, uint16(r.Address)))
		return r
	}
	var words []byte
	for i := range m.register.width {
		word := s.server.Register(r.Table, uint16(r.Address+i))
		r.Registers = append(r.Registers, word)
		words = binary.BigEndian.AppendUint16(words, word)
	}
	r.Value, r.Quality, r.Err = m.decode(words, 0)
	return r
}
