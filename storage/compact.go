package storage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// A segment goes when nobody needs anything of it. Where messages for one
// consumer that is away are rare among those for others, few bytes would keep
// much disk. So what little is needed of an old segment is copied into the
// current one, as the records that it stood in, and the segment can go. A copy
// keeps its Seq and its n: whoever reads the log knows it from before, but for
// one who rebuilds the state from segments, see applyCopy.

const (
	thinness  = 16      // a segment is thin when less than that part of it is needed
	maxCopied = 1 << 20 // bytes; more is not few
)

// move is a segment on its way into another. Guarded by Log.mu, but for live,
// which is constant.
type move struct {
	from *segment
	live map[ConsumerID]spans // what was needed of it when it began
	to   *segment             // nil: it is still being read
	copy *chunk
}

// lookForThin begins to move the oldest segment that is thin, and was so the last
// time too. l.mu is held.
func (l *Log) lookForThin() {
	if l.move != nil || l.failed != nil || len(l.segments) < 2 {
		return
	}
	needed := map[*segment]int64{}
	for _, c := range l.cursors {
		for i := range c.parts {
			needed[c.parts[i].segment] += c.parts[i].bytes + c.parts[i].count*entryCost
		}
	}
	var oldest *segment
	for g, bytes := range needed {
		thin := g.sealed && !g.bad && !g.stays && bytes < min(g.size/thinness, maxCopied)
		if thin && g.thin && (oldest == nil || g.id < oldest.id) {
			oldest = g
		}
		g.thin = thin
	}
	if oldest == nil {
		return
	}
	l.move = &move{from: oldest, live: map[ConsumerID]spans{}}
	for _, c := range l.cursors {
		for i := range c.parts {
			if p := &c.parts[i]; p.segment == oldest {
				live := l.move.live[c.id]
				for n := c.skip(p.first); n <= p.last; n = c.skip(n + 1) {
					live.add(n, n)
				}
				l.move.live[c.id] = live
			}
		}
	}
	l.wakeReader()
}

// copyThin does what the reader has to do for a move.
func (r *reader) copyThin() {
	l := r.log
	l.mu.Lock()
	m := l.move
	l.mu.Unlock()
	if m == nil || m.to != nil {
		return
	}
	var records []record
	err := guard(func() (err error) {
		records, err = m.read(l.dir)
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || l.usable() != nil {
		// Whoever comes to read it will deal with what is damaged.
		m.from.stays = true
		l.move = nil
		return
	}
	if len(l.open) > 0 {
		l.closeChunk()
	}
	l.seq++
	l.lazy.note(l, -1)
	b := appendMark(nil, l.seq)
	for _, r := range records {
		b = append(b, r.frame...)
	}
	m.copy = &chunk{first: l.seq, buf: slices.Clip(b)}
	l.open = append(l.open, m.copy)
	l.grown(m.copy, len(m.copy.buf))
	m.to = l.current
	m.to.users++ // it must not go before the copy is used
	l.urgent = true
	l.kickCommitter()
}

// record is one that is needed of a segment, with nothing in it but that.
type record struct {
	seq   Seq
	frame []byte
}

// read returns the records that are needed of the segment in the order of their
// Seq, which is that of each consumer's n.
func (m *move) read(dir *directory) (records []record, err error) {
	db, err := openSealed(dir, m.from.id)
	if err != nil {
		return nil, err
	}
	missing := uint64(0)
	for _, s := range m.live {
		missing += s.total()
	}
	err = db.View(func(tx *bolt.Tx) (err error) {
		eachChunk(tx, 0, func(_ Seq, index []share, chunk []byte, e error) bool {
			if err = e; err == nil && m.wants(index) {
				var found uint64
				records, found, err = m.pick(records, chunk)
				missing -= found
			}
			return err == nil
		})
		return err
	})
	if err == nil && missing != 0 {
		err = errors.New("some of it is not there")
	}
	slices.SortFunc(records, func(a, b record) int { return cmp.Compare(a.seq, b.seq) })
	return records, errors.Join(err, db.Close())
}

func (m *move) wants(index []share) bool {
	for _, s := range index {
		if m.live[s.consumer].count(s.first, s.last) > 0 {
			return true
		}
	}
	return false
}

// pick appends what is needed of a chunk to records.
func (m *move) pick(records []record, chunk []byte) (_ []record, found uint64, err error) {
	for len(chunk) > 0 {
		typ, body, rest, err := nextFrame(chunk)
		if err != nil {
			return records, found, err
		}
		if chunk = rest; typ != frameMessage {
			continue
		}
		if err := parseMessage(body).check(); err != nil {
			return records, found, err
		}
		var live []delivery
		in := parseMessage(body)
		for range in.deliveries {
			if d := in.delivery(); m.live[d.consumer].has(d.n) {
				live = append(live, d)
			}
		}
		if len(live) == 0 {
			continue
		}
		found += uint64(len(live))
		b := beginFrame(nil, frameMessage)
		b = binary.AppendUvarint(b, uint64(in.seq))
		b = binary.AppendVarint(b, in.time)
		b = binary.AppendUvarint(b, uint64(in.size))
		b = binary.AppendUvarint(b, uint64(len(live)))
		for i := range live {
			d := &live[i]
			b = appendDelivery(b, &Delivery{Consumer: d.consumer, Options: d.options, Extra: d.extra, Hold: d.hold}, d.n)
		}
		b = append(b, 0) // no changes
		b = endFrame(append(b, body[len(body)-in.size:]...), 0)
		records = append(records, record{in.seq, b})
	}
	return records, found, nil
}

// moved lets the consumers read the copy once it can be read from its segment.
// l.mu is held.
func (l *Log) moved() {
	m := l.move
	if m == nil || m.copy == nil || !m.copy.inSegment {
		return
	}
	l.move = nil
	count := 0
	for id := range m.live {
		c := l.byID[id]
		if c == nil {
			continue
		}
		for i := range c.parts {
			if p := &c.parts[i]; p.segment == m.from {
				p.segment = m.to
				m.to.users++
				c.leave(m.from)
				count++
			}
		}
		c.dropWindow()
		l.touch(c)
	}
	m.to.users--
	l.aged = l.aged.Add(-l.tune.expire) // there may be more of them
	l.notices = append(l.notices, notice{level: slog.LevelDebug, text: "storage: what was still needed of an old segment has been moved",
		attrs: []slog.Attr{slog.String("file", segmentName(m.from.id)), slog.Int("consumers", count)}})
	l.kickCommitter()
}

// applyCopy says that n, which comes behind higher ones, waits in g. It was not
// acknowledged when the copy was made: if its own segment has gone it has been
// taken for acknowledged, see gap.
func (c *Cursor) applyCopy(g *segment, n uint64, size, arrival int64) {
	if c.received.has(n) || c.skip(n) == n {
		return // its segment is still there
	}
	if n <= c.low {
		if n < c.low {
			c.done.add(n+1, c.low)
		}
		c.low = n - 1
	} else {
		c.done.remove(n)
	}
	i, _ := slices.BinarySearchFunc(c.parts, n, func(p part, n uint64) int { return cmp.Compare(p.first, n) })
	c.parts = slices.Insert(c.parts, i, part{segment: g, first: n, last: n, count: 1, bytes: size, oldest: arrival, newest: arrival})
	g.users++
	c.count++
	c.bytes += size
	c.log.touch(c)
}
