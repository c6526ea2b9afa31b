package storage

import (
	"encoding/binary"
	"slices"
)

// pieceSize is about how much one transaction of a spill writes: more would hold
// up the journal's syncs on a slow disk.
const pieceSize = 1 << 20

// piece is a run of records on its way into a segment, one chunk there.
type piece struct {
	first  Seq
	frames []byte
}

// settled says what its consumers had acknowledged at some moment.
type settled map[ConsumerID]settledCursor

type settledCursor struct {
	low  uint64
	done spans
}

// note adds what the cursors with messages in ch have acknowledged. Log.mu is
// held.
func (s settled) note(ch *chunk) {
	for _, c := range ch.cursors {
		if _, ok := s[c.id]; !ok {
			s[c.id] = settledCursor{c.low, slices.Clone(c.done)}
		}
	}
}

// has reports whether everybody has acknowledged a message. What is received
// only must stay: the n of a record that is not there counts as acknowledged. m
// is left behind its deliveries.
func (s settled) has(m *message) bool {
	all := true
	for range m.deliveries {
		d := m.delivery()
		if c, ok := s[d.consumer]; !ok || d.n > c.low && !c.done.has(d.n) {
			all = false
		}
	}
	return all
}

// keep appends to b those frames of out that must be written; of a message that
// everybody has acknowledged only its changes.
func (s settled) keep(b, out []byte) []byte {
	for len(out) > 0 {
		end := frameHeader + int(binary.LittleEndian.Uint32(out[1:]))
		frame := out[:end]
		out = out[end:]
		if frame[0] != frameMessage || s == nil {
			b = append(b, frame...)
			continue
		}
		m := parseMessage(frame[frameHeader:])
		if !s.has(&m) {
			b = append(b, frame...)
			continue
		}
		changes := m.p.b[:len(m.p.b)-m.size]
		if m.p.count(3) == 0 {
			continue
		}
		start := len(b)
		b = beginFrame(b, frameMessage)
		b = binary.AppendUvarint(b, uint64(m.seq))
		b = binary.AppendVarint(b, m.time)
		b = append(b, 0, 0) // neither message nor deliveries
		b = endFrame(append(b, changes...), start)
	}
	return b
}

// lastSeq returns the highest Seq in some frames that this process encoded, or 0.
func lastSeq(frames []byte) Seq {
	var last uint64
	for len(frames) > 0 {
		seq, _ := binary.Uvarint(frames[frameHeader:])
		last = max(last, seq)
		frames = frames[frameHeader+int(binary.LittleEndian.Uint32(frames[1:])):]
	}
	return Seq(last)
}

// appendMark appends a record that says nothing but its Seq. What is written to
// a segment at once ends with the Seq up to which it is complete, so that
// recovery can tell whether a group of the journal follows it.
func appendMark(b []byte, s Seq) []byte {
	start := len(b)
	b = beginFrame(b, frameMarks)
	b = binary.AppendUvarint(b, uint64(s))
	return endFrame(append(b, 0), start)
}

// spill moves chunks that the journal holds, which cover all up to the record
// last, into the segment of g. It leaves out what its consumers had acknowledged
// when g was taken: g, which is durable, says so, or a record before it does.
func (l *Log) spill(g *group, chunks []*chunk, last Seq) error {
	var p piece
	for i, ch := range chunks {
		if p.first == 0 {
			p.first = ch.first
		}
		p.frames = g.settled.keep(p.frames, ch.out)
		end := i+1 == len(chunks)
		if end && lastSeq(p.frames) < last {
			p.frames = appendMark(p.frames, last)
		}
		if len(p.frames) == 0 || !end && len(p.frames)+len(chunks[i+1].out) <= pieceSize {
			continue
		}
		if err := l.put(g, []piece{p}); err != nil {
			return err
		}
		p = piece{frames: p.frames[:0]}
	}
	l.mu.Lock()
	l.spilled(g, chunks)
	l.mu.Unlock()
	return nil
}

// put writes to the segment of g in one transaction.
func (l *Log) put(g *group, pieces []piece) error {
	var size int64
	err := guard(func() (err error) {
		size, err = l.w.commit(pieces)
		return err
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	for _, p := range pieces {
		g.put += int64(len(p.frames))
	}
	l.diskSegments += size - g.segment.size
	g.segment.size = size
	l.mu.Unlock()
	return nil
}

// spilled lets chunks leave memory. l.mu is held.
func (l *Log) spilled(g *group, chunks []*chunk) {
	var size int64
	for _, ch := range chunks {
		size += int64(len(ch.out))
		ch.inSegment, ch.out = true, nil
	}
	l.journaled = slices.Delete(l.journaled, 0, len(chunks))
	l.journaledSize -= size
	if g.segment == l.current {
		g.segment.filled -= max(size-g.put, 0) // it has not been written there
	}
	l.moved()
	l.evictTail()
}

// putDirect writes the chunks of g, and before them what the journal holds, to
// the segment. The journal ends with the record before. Acknowledgements of its
// messages may be in g, so none of these is left out.
func (l *Log) putDirect(g *group, before Seq) error {
	l.mu.Lock()
	behind := slices.Clone(l.journaled)
	l.mu.Unlock()
	if err := l.spill(g, behind, before); err != nil {
		return err
	}
	var pieces []piece
	last := Seq(0)
	for _, ch := range g.chunks {
		if len(ch.out) > 0 {
			pieces = append(pieces, piece{ch.first, ch.out})
			last = lastSeq(ch.out)
		}
	}
	if last < g.last {
		pieces = append(pieces, piece{g.last, appendMark(nil, g.last)})
	}
	return l.put(g, pieces)
}

// seal ends the segment of g and begins the next.
func (l *Log) seal(g *group) error {
	if !g.seal {
		return nil
	}
	err := l.w.close()
	l.mu.Lock()
	g.segment.writer = nil
	l.mu.Unlock()
	if err != nil {
		l.log.Warn("storage: close of a full segment", "err", err)
	}
	w, err := createSegment(l.dir, g.next.id, g.census)
	l.w = w
	if err != nil {
		return err
	}
	l.mu.Lock()
	g.next.writer, g.next.size = w, w.size
	l.diskSegments += w.size
	l.mu.Unlock()
	return nil
}

// turn is what follows the commit of g in the background: the spill, then the
// checkpoint that relies on it.
func (l *Log) turn(g *group) {
	err := l.spill(g, g.behind, g.last)
	if err == nil {
		err = l.seal(g)
	}
	if err != nil {
		l.fail("write "+segmentName(g.segment.id), err)
	}
	l.mu.Lock()
	close(l.spilling)
	l.spilling = nil
	if err != nil && g.point != nil {
		close(l.point.busy)
		l.point.busy = nil
	}
	l.mu.Unlock()
	l.kickCommitter()
	if err == nil && g.point != nil {
		l.writeCheckpoint(g.point)
	}
}
