package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// maxReceived bounds what one record may say to be received: MQTT has 65,535
// packet identifiers.
const maxReceived = 1 << 17

// noRefs is Cursor.refFirst while there is no tail.
const noRefs = 1<<64 - 1

// recovery is what Open knows while it rebuilds the state: the checkpoint, and
// behind it what the segments say.
type recovery struct {
	log      *Log
	old      *oldState
	from     Seq              // records up to it are in the cursors already
	rowsFrom Seq              // and in the rows
	damage   bool             // some of what is replayed could not be read
	census   bool             // there is no checkpoint: use those of the segments
	files    map[uint32]int64 // segments on disk, with their bytes
	last     uint32           // the highest segment number seen
	highest  Seq              // of the messages so far

	// What only the journal had, on its way into the segment that this start
	// begins, and what its header says.
	journal *oldJournal
	rest    []piece
	header  []byte
	full    bool // the disk is; the reserve was used
}

// recover reads what is there and writes the new state file. No other goroutine
// runs yet.
func (l *Log) recover() error {
	r := &recovery{log: l, files: map[uint32]int64{}}
	if err := r.replay(); err != nil {
		return err
	}
	if err := r.withReserve(r.writeSegment); err != nil {
		return err
	}
	if err := r.writeState(); err != nil {
		return errors.Join(err, l.w.close())
	}
	if err := errors.Join(l.restoreClock(), r.openJournal()); err != nil {
		if l.journal != nil {
			err = errors.Join(err, l.journal.close())
		}
		return errors.Join(err, l.w.close(), l.state.close())
	}
	return nil
}

// replay finds out what the files say. It writes nothing into them; some lose
// their names.
func (r *recovery) replay() (err error) {
	l := r.log
	if err := r.list(); err != nil {
		return fmt.Errorf("storage: list directory: %w", err)
	}
	if r.old, err = readState(l.dir); err != nil {
		return err
	}
	if r.journal, err = readJournal(l.dir); err != nil {
		return err
	}
	r.useState()
	if err := r.replayAll(); err != nil {
		return err
	}
	r.header = l.census()
	r.replayJournal(l.newSegment(r.last + 1))
	r.finish()
	return nil
}

// withReserve does fn, on a full disk a second time without the reserve.
func (r *recovery) withReserve(fn func() error) error {
	err := fn()
	if err != nil && r.log.dir.useReserve(err) {
		r.full = true
		r.log.log.Warn("storage: disk is full; using the reserve", slog.Any("err", err))
		err = fn()
	}
	return err
}

// list finds the segments and removes what a crash has left half made.
func (r *recovery) list() error {
	entries, err := os.ReadDir(r.log.dir.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasSuffix(name, newSuffix) {
			if err := r.log.dir.remove(name); err != nil {
				return err
			}
			continue
		}
		// A number that was set aside is not given out again either.
		id, ok := segmentID(strings.TrimSuffix(name, badSuffix))
		if !ok {
			continue
		}
		r.last = max(r.last, id)
		if strings.HasSuffix(name, badSuffix) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		r.files[id] = onDisk(info)
	}
	return nil
}

// useState fills the cursors from the old state file, or decides to rebuild.
func (r *recovery) useState() {
	l, old := r.log, r.old
	if old.point != nil && old.err == nil {
		if err := r.decodeConsumers(); err != nil {
			old.err, old.point = err, nil
			l.cursors, l.byID, l.segments = map[string]*Cursor{}, map[ConsumerID]*Cursor{}, map[uint32]*segment{}
		}
	}
	r.rowsFrom = old.rowsAt
	if old.bad > 0 {
		l.log.Warn("storage: rows of the state file are damaged and lost", slog.Int("rows", old.bad))
	}
	if old.point != nil && old.err == nil {
		p := old.point
		r.from, r.last = p.seq, max(r.last, p.current)
		l.seq, l.nextID, l.damaged = p.seq, p.nextID, p.damaged
		return
	}
	r.census = true
	if old.found {
		l.damaged++
		l.log.Warn("storage: state file is damaged, set aside; rebuilding it from the segments", slog.Any("err", old.err))
		if err := l.dir.rename(stateName, stateName+badSuffix); err != nil {
			l.log.Warn("storage: damaged state file keeps its name", slog.Any("err", err))
		}
	} else if len(r.files) > 0 {
		l.log.Warn("storage: state file is missing; rebuilding it from the segments")
	}
}

func (r *recovery) decodeConsumers() error {
	l, p := r.log, r.old.point
	for _, id := range p.segments {
		l.segments[id] = &segment{id: id, sealed: true}
	}
	for id, b := range r.old.consumers {
		c := newCursor(l, id, "")
		c.refFirst = noRefs
		err := c.decode(&parser{b: b}, func(id uint32) *segment {
			if l.segments[id] == nil {
				l.segments[id] = &segment{id: id, sealed: true}
			}
			return l.segments[id]
		})
		if err != nil {
			return fmt.Errorf("consumer %d: %w", id, err)
		}
		if l.cursors[c.name] != nil || id > p.nextID {
			return fmt.Errorf("consumer %d: %q is there twice", id, c.name)
		}
		c.pos = c.last
		l.addCursor(c)
	}
	return nil
}

// replayAll reads the segments that the checkpoint does not cover, and removes
// those that nobody needs.
func (r *recovery) replayAll() error {
	l := r.log
	var ids []uint32
	for id, size := range r.files {
		g := l.segments[id]
		if g != nil {
			g.size = size
		}
		switch {
		case r.census || id >= r.old.point.current:
			if g == nil {
				l.segments[id] = &segment{id: id, size: size, sealed: true}
			}
			ids = append(ids, id)
		case g == nil:
			// Its unlinking did not survive, or did not happen.
			if err := l.dir.remove(segmentName(id)); err != nil {
				return fmt.Errorf("storage: remove %s: %w", segmentName(id), err)
			}
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		if err := r.replaySegment(id); err != nil {
			return err
		}
	}
	return nil
}

// replaySegment applies what one segment says behind r.from.
func (r *recovery) replaySegment(id uint32) error {
	l, name, chunks := r.log, segmentName(id), 0
	g := l.segments[id]
	warn := func(text string, err error) {
		r.damage = true
		l.log.Warn("storage: "+text, slog.String("file", name), slog.Any("err", err))
	}
	err := guard(func() error {
		db, err := openSealed(l.dir, id)
		if err != nil {
			return err
		}
		err = db.View(func(tx *bolt.Tx) error {
			// Behind a segment that cannot be read, its list of consumers is all
			// that tells of those who came in there.
			later := r.damage && !r.census && id > r.old.point.current
			if census := tx.Bucket(bucketHeader).Get(keyCensus); r.census || later {
				if err := r.applyCensus(census); err != nil {
					warn("list of consumers in a segment is damaged", err)
				}
			}
			eachChunk(tx, r.from+1, func(_ Seq, _ []share, frames []byte, err error) bool {
				chunks++
				if err == nil {
					err = r.applyChunk(g, frames)
				}
				if err != nil {
					warn("part of a segment is damaged; it is passed over", err)
				}
				return true
			})
			return nil
		})
		return errors.Join(err, db.Close())
	})
	var newer *VersionError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &newer) || transient(err):
		return fmt.Errorf("storage: read %s: %w", name, err)
	case chunks > 0:
		warn("segment is damaged; what could be read is delivered", err)
	default:
		warn("segment is damaged, set aside", err)
		l.setAside(g)
	}
	return nil
}

// applyChunk applies the records of a chunk, up to the first that is damaged.
func (r *recovery) applyChunk(g *segment, frames []byte) error {
	for len(frames) > 0 {
		typ, body, rest, err := nextFrame(frames)
		if err != nil {
			return err
		}
		if err := r.apply(g, typ, body); err != nil {
			return err
		}
		frames = rest
	}
	return nil
}

func (r *recovery) apply(g *segment, typ byte, body []byte) error {
	l := r.log
	if typ == frameMessage {
		return r.applyMessage(g, body)
	}
	p := parser{b: body}
	seq := Seq(p.uint())
	if p.err != nil || seq <= r.from {
		return p.err
	}
	l.seq = max(l.seq, seq)
	switch typ {
	case frameCreate:
		id := ConsumerID(p.uint())
		name := string(p.bytes(p.uint()))
		if p.err != nil {
			return p.err
		}
		if name == "" || len(name) > maxName {
			return errors.New("consumer without a sensible name")
		}
		r.consumer(id, name)
	case frameRemove:
		id := ConsumerID(p.uint())
		if c := l.byID[id]; c != nil && p.err == nil {
			l.forget(c)
		}
	case frameMarks:
		return r.applyMarks(&p)
	default:
		// A later minor change may add types; what they say is not for us.
	}
	return p.err
}

// consumer finds or creates the consumer. In a rebuild one may be known by its
// number before its name is.
func (r *recovery) consumer(id ConsumerID, name string) *Cursor {
	l := r.log
	l.nextID = max(l.nextID, id)
	c := l.byID[id]
	if c == nil {
		c = newCursor(l, id, "")
		c.refFirst = noRefs
		l.byID[id] = c
	}
	if c.name == "" && name != "" {
		if before := l.cursors[name]; before != nil && before != c {
			l.forget(before)
		}
		c.name = name
		l.addCursor(c)
	}
	return c
}

func (r *recovery) applyMessage(g *segment, body []byte) error {
	l := r.log
	if err := parseMessage(body).check(); err != nil {
		return err
	}
	m := parseMessage(body)
	if m.seq <= r.from {
		return nil
	}
	l.seq = max(l.seq, m.seq)
	r.highest = max(r.highest, m.seq)
	for range m.deliveries {
		d := m.delivery()
		c := l.byID[d.consumer]
		if c == nil {
			if !r.census {
				continue // it was removed later in the same record's time
			}
			c = r.consumer(d.consumer, "")
		}
		if d.n <= c.pos {
			if r.census && m.seq < r.highest {
				c.applyCopy(g, d.n, int64(m.size+len(d.extra)), m.time)
			}
			continue
		}
		if d.n > c.pos+1 {
			r.gap(c, c.pos+1, d.n-1)
		}
		c.pos = d.n
		c.last = max(c.last, d.n)
		if d.hold {
			c.held = d.n
		}
		if c.skip(d.n) == d.n {
			c.wait(g, d.n, int64(m.size+len(d.extra)), m.time)
		}
		l.touch(c)
	}
	for range m.p.count(3) {
		if ch := m.change(); m.seq > r.rowsFrom && len(ch.Key) > 0 {
			l.setRow(ch.Table, ch.Key, ch.Value)
		}
	}
	return nil
}

// gap deals with n that no record has. They were acknowledged before they were
// written (see lazyState and settled), or stood in what is damaged or gone.
func (r *recovery) gap(c *Cursor, first, last uint64) {
	if from := max(first, c.low+1); r.damage && from <= last {
		if lost := last - from + 1 - c.done.count(from, last) - c.received.count(from, last); lost > 0 {
			c.countDrop(CauseDamaged, lost)
		}
	}
	for _, s := range c.received { // their PUBREL is still to come
		if s.last >= first && s.first <= last {
			if s.first > first {
				c.done.add(first, s.first-1)
			}
			first = s.last + 1
		}
	}
	if first <= last {
		c.done.add(first, last)
	}
	c.settleLow()
}

func (r *recovery) applyMarks(p *parser) error {
	for range p.count(3) {
		id, kind := ConsumerID(p.uint()), p.byte()
		c := r.log.byID[id]
		switch kind {
		case markAck, markReceived:
			s := p.spans()
			if kind == markReceived && s.total() > maxReceived {
				return errors.New("more received than can be in flight")
			}
			if c != nil && p.err == nil {
				c.replayMarks(s, kind)
			}
		case markDropped:
			for range p.count(2) {
				cause, k := string(p.bytes(p.uint())), p.uint()
				if c != nil && p.err == nil {
					c.countDrop(cause, k)
				}
			}
		default:
			return fmt.Errorf("mark of kind %d", kind)
		}
	}
	return p.err
}

// replayMarks does what Ack and Received did. c.pos is the highest n whose
// record was read; marks may be about later ones that were never written.
func (c *Cursor) replayMarks(s spans, kind byte) {
	for _, e := range s {
		for n := c.skip(e.first); n <= min(e.last, c.pos); n = c.skip(n + 1) {
			c.settle(n)
		}
		c.last = max(c.last, e.last)
		if kind == markReceived {
			for n := e.first; n <= e.last; n++ {
				if n > c.low && !c.done.has(n) {
					c.received.add(n, n)
				}
			}
			continue
		}
		for i := c.received.find(e.first); i < len(c.received) && c.received[i].first <= e.last; i = c.received.find(e.first) {
			c.received.remove(max(e.first, c.received[i].first))
		}
		c.done.add(e.first, e.last)
		c.settleLow()
	}
	c.log.touch(c)
}

// settleLow moves low over what is acknowledged above it.
func (c *Cursor) settleLow() {
	k := 0
	for k < len(c.done) && c.done[k].first <= c.low+1 {
		c.low = max(c.low, c.done[k].last)
		k++
	}
	c.done = slices.Delete(c.done, 0, k)
}

// applyCensus brings the consumers to what they were when a segment was begun.
func (r *recovery) applyCensus(frame []byte) error {
	typ, body, _, err := nextFrame(frame)
	if err != nil {
		return err
	}
	if typ != frameCensus {
		return fmt.Errorf("frame of type %d", typ)
	}
	l := r.log
	p := parser{b: body}
	l.nextID = max(l.nextID, ConsumerID(p.uint()))
	present := map[ConsumerID]bool{}
	for range p.count(7) {
		id := ConsumerID(p.uint())
		said := newCursor(l, id, "")
		if err := said.decode(&p, nil); err != nil {
			return err
		}
		if said.received.total() > maxReceived {
			return errors.New("more received than can be in flight")
		}
		present[id] = true
		c := r.consumer(id, said.name)
		c.last = max(c.last, said.last)
		for cause, k := range said.dropped { // what this start has counted is not in them
			if c.dropped == nil {
				c.dropped = map[string]uint64{}
			}
			c.dropped[cause] = max(c.dropped[cause], k)
		}
		if said.low > 0 {
			c.replayMarks(spans{{1, said.low}}, markAck)
		}
		c.replayMarks(said.done, markAck)
		c.replayMarks(said.received, markReceived)
	}
	for id, c := range l.byID {
		if !present[id] {
			l.forget(c)
		}
	}
	return p.err
}

// census describes all consumers for the header of a segment. Log.mu is held.
func (l *Log) census() []byte {
	b := beginFrame(nil, frameCensus)
	b = binary.AppendUvarint(b, uint64(l.nextID))
	b = binary.AppendUvarint(b, uint64(len(l.cursors)))
	for _, c := range l.cursors {
		b = binary.AppendUvarint(b, uint64(c.id))
		b = c.encode(b, false)
	}
	return endFrame(b, 0)
}

// finish makes the cursors ready for use.
func (r *recovery) finish() {
	l := r.log
	for id, c := range l.byID {
		if c.name == "" {
			l.log.Warn("storage: messages of a consumer whose name is lost are dropped",
				slog.Uint64("consumer", uint64(id)), slog.Int64("messages", c.count))
			l.forget(c)
			continue
		}
		c.pos, c.recovered, c.refFirst = c.low, c.last, c.last+1
		c.window = window{end: c.low}
		c.pinFormer()
		c.marks = marks{}
	}
	l.marked, l.marksDue, l.urgent, l.deadline = nil, false, false, time.Time{}
	l.safe = l.seq
	l.lazy.reset(l.seq)
	for _, g := range l.segments {
		l.diskSegments += g.size
	}
}

// writeState replaces the state file by one that covers all segments.
func (r *recovery) writeState() error {
	l := r.log
	for _, c := range l.cursors {
		l.touch(c)
	}
	l.point.removed = nil
	p := l.snapshot(l.tune.now())
	err := r.withReserve(func() (err error) {
		l.state, err = createState(l.dir, p, r.putRows)
		return err
	})
	if err != nil {
		return err
	}
	for _, id := range p.remove {
		if err := l.dir.remove(segmentName(id)); err != nil {
			return errors.Join(fmt.Errorf("storage: remove %s: %w", segmentName(id), err), l.state.close())
		}
		l.diskSegments -= l.segments[id].size
		delete(l.segments, id)
	}
	if !r.full {
		l.dir.keepReserve()
	}
	return nil
}

// putRows copies the rows of the old state file.
func (r *recovery) putRows(put func(key string, value []byte) error) error {
	for k, v := range r.old.rows {
		if err := put(k, v); err != nil {
			return err
		}
	}
	return nil
}
