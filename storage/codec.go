package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A chunk is what one commit adds to a segment: the value of one key.
//
//	+-------+----------------+-----------+---------+---------+---
//	| FBCK  | length of what | first seq | index   | record  | …
//	|       | follows, u32   | u64       | frame   | frame   |
//	+-------+----------------+-----------+---------+---------+---
//
// A frame is type (u8, 0 is invalid), length of the body (u32), CRC-32C of
// type, length and body (u32), body. Integers of fixed width are little endian,
// all others are varints as encoding/binary writes them. FORMAT.md describes
// the bodies.
const (
	chunkMagic  = "FBCK"
	chunkHeader = 16
	frameHeader = 9
)

// The types of frames.
const (
	frameIndex   = 1 // who has deliveries in the chunk
	frameMessage = 2 // a Record
	frameCreate  = 3 // a consumer came
	frameRemove  = 4 // a consumer went
	frameMarks   = 5 // what consumers did with their entries
	frameCensus  = 6 // all consumers at the start of a segment
)

// The kinds of marks.
const (
	markAck      = 1
	markReceived = 2
	markDropped  = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errShort = errors.New("ends too early")

// beginFrame reserves the header of a frame; endFrame fills it in.
func beginFrame(b []byte, typ byte) []byte {
	return append(b, typ, 0, 0, 0, 0, 0, 0, 0, 0)
}

func endFrame(b []byte, start int) []byte {
	h := b[start:]
	binary.LittleEndian.PutUint32(h[1:], uint32(len(h)-frameHeader))
	binary.LittleEndian.PutUint32(h[5:], frameSum(h[:5], h[frameHeader:]))
	return b
}

func frameSum(head, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, body)
}

// nextFrame splits the first frame off b and checks it. The body aliases b.
func nextFrame(b []byte) (typ byte, body, rest []byte, err error) {
	if len(b) < frameHeader {
		return 0, nil, nil, errShort
	}
	typ = b[0]
	n := uint64(binary.LittleEndian.Uint32(b[1:]))
	if typ == 0 {
		return 0, nil, nil, errors.New("frame of type 0")
	}
	if n > uint64(len(b)-frameHeader) {
		return 0, nil, nil, errShort
	}
	body, rest = b[frameHeader:frameHeader+int(n)], b[frameHeader+int(n):]
	if frameSum(b[:5], body) != binary.LittleEndian.Uint32(b[5:]) {
		return 0, nil, nil, errors.New("checksum does not match")
	}
	return typ, body, rest, nil
}

// parser takes fields off the front of a body. After the first that is not
// there, err is set and all others are zero.
type parser struct {
	b   []byte
	err error
}

func (p *parser) uint() uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.fail(errShort)
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *parser) int() int64 {
	v, n := binary.Varint(p.b)
	if n <= 0 {
		p.fail(errShort)
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *parser) byte() byte {
	if len(p.b) == 0 {
		p.fail(errShort)
		return 0
	}
	v := p.b[0]
	p.b = p.b[1:]
	return v
}

// bytes takes n bytes; they alias the body.
func (p *parser) bytes(n uint64) []byte {
	if n > uint64(len(p.b)) {
		p.fail(errShort)
		return nil
	}
	v := p.b[:n:n]
	p.b = p.b[n:]
	return v
}

// count takes a number of things of at least size bytes each, so that a
// damaged count cannot make anybody allocate more than the body is long.
func (p *parser) count(size int) int {
	n := p.uint()
	if n > uint64(len(p.b)/size) {
		p.fail(errShort)
		return 0
	}
	return int(n)
}

func (p *parser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
	p.b = nil
}

func (p *parser) spans() spans {
	k := p.count(2)
	s := make(spans, 0, k)
	for range k {
		first := p.uint()
		s = append(s, span{first, first + p.uint()})
	}
	if p.err == nil && !s.valid() {
		p.fail(errors.New("intervals out of order"))
	}
	if p.err != nil {
		return nil
	}
	return s
}

func appendSpans(b []byte, s spans) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	for _, e := range s {
		b = binary.AppendUvarint(b, e.first)
		b = binary.AppendUvarint(b, e.last-e.first)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// message is a frameMessage taken apart up to its deliveries, which must be
// read in order with delivery, then the changes with change, then the rest is
// the message.
type message struct {
	seq        Seq
	time       int64
	size       int // of the message
	deliveries int
	changes    int
	p          parser
}

func parseMessage(body []byte) message {
	m := message{p: parser{b: body}}
	m.seq = Seq(m.p.uint())
	m.time = m.p.int()
	size := m.p.uint()
	if size > uint64(len(m.p.b)) {
		m.p.fail(errShort)
		return m
	}
	m.size = int(size)
	m.deliveries = m.p.count(4)
	return m
}

// delivery is one delivery of a message, with its number.
type delivery struct {
	consumer ConsumerID
	n        uint64
	options  byte
	hold     bool
	extra    []byte
}

func (m *message) delivery() delivery {
	d := delivery{consumer: ConsumerID(m.p.uint()), n: m.p.uint(), options: m.p.byte()}
	x := m.p.uint()
	d.hold = x&1 != 0
	d.extra = m.p.bytes(x >> 1)
	return d
}

func appendDelivery(b []byte, d *Delivery, n uint64) []byte {
	b = binary.AppendUvarint(b, uint64(d.Consumer))
	b = binary.AppendUvarint(b, n)
	b = append(b, d.Options)
	x := uint64(len(d.Extra)) << 1
	if d.Hold {
		x |= 1
	}
	b = binary.AppendUvarint(b, x)
	return append(b, d.Extra...)
}

// change reads one table change; the slices alias the body.
func (m *message) change() Change {
	c := Change{Table: Table(m.p.byte())}
	c.Key = m.p.bytes(m.p.uint())
	if v := m.p.uint(); v > 0 {
		c.Value = m.p.bytes(v - 1)
	}
	return c
}

func appendChange(b []byte, c *Change) []byte {
	b = append(b, byte(c.Table))
	b = binary.AppendUvarint(b, uint64(len(c.Key)))
	b = append(b, c.Key...)
	if c.Value == nil {
		return binary.AppendUvarint(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Value))+1)
	return append(b, c.Value...)
}

// share is what one chunk or segment holds for one consumer.
type share struct {
	consumer ConsumerID
	first    uint64
	last     uint64
}

func parseIndex(body []byte) ([]share, error) {
	p := parser{b: body}
	s := make([]share, p.count(3))
	for i := range s {
		s[i] = share{consumer: ConsumerID(p.uint()), first: p.uint()}
		s[i].last = s[i].first + p.uint()
	}
	return s, p.err
}

func appendIndex(b []byte, s []share) []byte {
	start := len(b)
	b = beginFrame(b, frameIndex)
	b = binary.AppendUvarint(b, uint64(len(s)))
	for _, e := range s {
		b = binary.AppendUvarint(b, uint64(e.consumer))
		b = binary.AppendUvarint(b, e.first)
		b = binary.AppendUvarint(b, e.last-e.first)
	}
	return endFrame(b, start)
}

// appendChunk writes header, index and the frames of a chunk.
func appendChunk(b []byte, first Seq, index []share, frames []byte) []byte {
	start := len(b)
	b = append(b, chunkMagic...)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(first))
	b = appendIndex(b, index)
	b = append(b, frames...)
	binary.LittleEndian.PutUint32(b[start+4:], uint32(len(b)-start-chunkHeader))
	return b
}

// splitChunk checks the header and the index of a chunk. frames aliases b.
func splitChunk(b []byte) (first Seq, index []share, frames []byte, err error) {
	if len(b) < chunkHeader || string(b[:4]) != chunkMagic {
		return 0, nil, nil, errors.New("no chunk begins here")
	}
	if n := binary.LittleEndian.Uint32(b[4:]); uint64(n) != uint64(len(b)-chunkHeader) {
		return 0, nil, nil, fmt.Errorf("chunk of %d bytes in a value of %d", n, len(b))
	}
	first = Seq(binary.LittleEndian.Uint64(b[8:]))
	typ, body, frames, err := nextFrame(b[chunkHeader:])
	if err != nil {
		return 0, nil, nil, fmt.Errorf("index of chunk: %w", err)
	}
	if typ != frameIndex {
		return 0, nil, nil, errors.New("chunk without index")
	}
	index, err = parseIndex(body)
	return first, index, frames, err
}

// check reads all of a message's parts and reports the first that is wrong.
func (m message) check() error {
	for range m.deliveries {
		m.delivery()
	}
	m.changes = m.p.count(3)
	for range m.changes {
		m.change()
	}
	if m.p.err == nil && len(m.p.b) != m.size {
		return fmt.Errorf("message of %d bytes where %d are said", len(m.p.b), m.size)
	}
	return m.p.err
}
