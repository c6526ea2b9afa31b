package storage

import (
	"errors"
	"log/slog"
	"os"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// window is what the reader has fetched ahead for a cursor that lags behind the
// tail. Guarded by Log.mu.
type window struct {
	entries []Entry
	head    int
	bytes   int    // of entries from head on
	end     uint64 // every waiting n up to it is in entries or was handed out or is lost
	asked   bool   // a request is queued or under way
	round   uint32 // changes when what a request under way brings is of no use any more
	at      place
}

// place is where the reader goes on for a cursor.
type place struct {
	segment uint32
	part    uint64 // first n of the consumer's part there
	chunk   Seq
	offset  int // into the frames of chunk
}

const (
	minWindow  = 4 << 10
	maxWindow  = 256 << 10
	entryCost  = 120 // bytes of memory beside message and extra
	openAtOnce = 4   // sealed segments that the reader keeps open
)

func (e *Entry) cost() int { return entryCost + len(e.Message) + len(e.Extra) }

// fromWindow takes n from the window and asks for more in good time. lost, if
// it is n or more: n up to it were expected and not found.
func (c *Cursor) fromWindow(n uint64) (e Entry, lost uint64, ok bool) {
	w := &c.window
	for w.head < len(w.entries) && w.entries[w.head].N < n {
		c.popWindow()
	}
	switch {
	case w.head < len(w.entries) && w.entries[w.head].N == n:
		e, ok = w.entries[w.head], true
		c.popWindow()
	case w.head < len(w.entries):
		return e, w.entries[w.head].N - 1, false
	case n <= w.end:
		return e, w.end, false
	}
	if w.bytes <= c.log.windowSize()/2 && max(w.end, n)+1 < c.refFirst || !ok {
		c.request()
	}
	return e, 0, ok
}

func (c *Cursor) popWindow() {
	w := &c.window
	cost := w.entries[w.head].cost()
	w.bytes -= cost
	c.log.windows -= cost
	w.entries[w.head] = Entry{}
	w.head++
	if w.head == len(w.entries) {
		w.entries, w.head = w.entries[:0], 0
	}
}

func (c *Cursor) dropWindow() {
	w := &c.window
	c.log.windows -= w.bytes
	*w = window{asked: w.asked, round: w.round + 1, end: c.pos}
}

func (c *Cursor) request() {
	if c.window.asked || c.removed {
		return
	}
	c.window.asked = true
	c.log.requests = append(c.log.requests, c)
	c.log.wakeReader()
}

func (l *Log) wakeReader() {
	select {
	case l.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// windowSize returns how many bytes one more fetch may bring.
func (l *Log) windowSize() int {
	return min(max((l.tune.windows-l.windows)/4, minWindow), maxWindow)
}

// reader is the state of readLoop, which owns it.
type reader struct {
	log  *Log
	open []*sealed // the one used last comes last
}

// readLoop serves the cursors' requests, one after the other.
func (l *Log) readLoop() {
	r := &reader{log: l}
	defer r.closeAll()
	for {
		select {
		case <-l.wake:
		case <-l.stop:
			return
		}
		r.closeGone()
		r.copyThin()
		for {
			l.mu.Lock()
			if len(l.requests) == 0 || l.closing {
				l.mu.Unlock()
				break
			}
			c := l.requests[0]
			l.requests = append(l.requests[:0], l.requests[1:]...)
			f := c.plan()
			l.mu.Unlock()
			if f != nil {
				r.fetch(f)
			}
			again := f != nil && f.retry
			l.mu.Lock()
			c.accept(f)
			notify := c.notify
			if !c.idle {
				notify = nil
			}
			c.idle = c.idle && notify == nil
			l.mu.Unlock()
			if notify != nil {
				notify()
			}
			if again {
				time.AfterFunc(time.Second, l.wakeReader)
				break
			}
		}
	}
}

// fetch is one request on its way.
type fetch struct {
	consumer ConsumerID
	segment  *segment
	writer   *writer // when the segment is still written to
	from     uint64
	until    uint64 // the last n that the segment may hold for the consumer on disk
	budget   int
	round    uint32
	at       place
	next     uint32 // the sealed segment that the consumer comes to after this one, or 0

	entries []Entry
	end     uint64
	retry   bool
}

// plan says what to read for c; nil: nothing. Log.mu is held.
func (c *Cursor) plan() *fetch {
	w := &c.window
	from := c.skip(max(w.end, c.pos) + 1)
	if c.removed || from >= c.refFirst {
		return nil
	}
	for i := range c.parts {
		p := &c.parts[i]
		if p.last < from {
			continue
		}
		f := &fetch{consumer: c.id, segment: p.segment, writer: p.segment.writer, from: max(from, p.first),
			until: min(p.last, c.refFirst-1), budget: c.log.windowSize(), round: w.round, at: w.at}
		if f.at.segment != p.segment.id || f.at.part != p.first {
			f.at = place{segment: p.segment.id, part: p.first}
		}
		if f.from > f.until {
			break
		}
		if i+1 < len(c.parts) && c.parts[i+1].segment.sealed {
			f.next = c.parts[i+1].segment.id
		}
		return f
	}
	// It waits, is not in memory and in no segment: accept lets it be lost.
	return &fetch{round: w.round, end: c.refFirst - 1}
}

// accept takes over what was fetched. Log.mu is held.
func (c *Cursor) accept(f *fetch) {
	w := &c.window
	w.asked = false
	if f == nil || c.removed || f.round != w.round {
		return
	}
	if f.retry {
		w.asked = true
		c.log.requests = append(c.log.requests, c)
	}
	if w.head > 0 {
		k := copy(w.entries, w.entries[w.head:])
		clear(w.entries[k:])
		w.entries, w.head = w.entries[:k], 0
	}
	for i := range f.entries {
		cost := f.entries[i].cost()
		w.bytes += cost
		c.log.windows += cost
	}
	w.entries = append(w.entries, f.entries...)
	w.end = max(w.end, f.end)
	w.at = f.at
}

// fetch reads. What cannot be read is missing from f.entries, and f.end passes
// over it.
func (r *reader) fetch(f *fetch) {
	if f.segment == nil {
		return
	}
	err := guard(func() error { return r.read(f) })
	if errors.Is(err, berrors.ErrDatabaseNotOpen) && f.writer != nil { // sealed a moment ago
		f.writer, f.entries = nil, nil
		err = guard(func() error { return r.read(f) })
	}
	if err == nil {
		return
	}
	l := r.log
	name := slog.String("file", segmentName(f.segment.id))
	r.close(f.segment.id)
	if transient(err) {
		l.log.Warn("storage: segment cannot be read now; trying again", name, slog.Any("err", err))
		f.retry, f.end = true, 0
		return
	}
	l.log.Warn("storage: segment is damaged, set aside; what could be read is delivered", name, slog.Any("err", err))
	f.end = f.until // what f.entries lacks will be found missing
	l.setAside(f.segment)
}

// transient tells errors about us from errors about the file.
func transient(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EACCES, syscall.EPERM, berrors.ErrTimeout} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// setAside renames a damaged segment, once. Cursors that still need it find
// nothing there and count what they lose.
func (l *Log) setAside(g *segment) {
	l.mu.Lock()
	rename := g.sealed && !g.bad
	if rename {
		g.bad = true
		l.damaged++
		l.point.written++ // the state has something to tell
	}
	l.mu.Unlock()
	if !rename {
		return
	}
	name := segmentName(g.id)
	if err := l.dir.rename(name, name+badSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		l.log.Warn("storage: damaged segment keeps its name", slog.String("file", name), slog.Any("err", err))
	}
}

func (r *reader) read(f *fetch) error {
	db, file, err := r.database(f)
	if err != nil {
		return err
	}
	return db.View(func(tx *bolt.Tx) error {
		if file != nil {
			defer releasePages(db, file.size)
		} else {
			defer releasePages(db, min(tx.Size(), segmentMapping))
		}
		f.end = f.until
		size, full := 0, false
		eachChunk(tx, f.at.chunk, func(first Seq, index []share, frames []byte, err error) bool {
			if f.at.chunk != first {
				f.at.offset = 0
			}
			if err == nil {
				if s, ok := shareOf(index, f.consumer); !ok || s.last < f.from {
					return true
				} else if s.first > f.until {
					return true // in the tail still, and the next fetch begins before it; or what is wanted is a copy
				}
			}
			f.at.chunk = first
			if err == nil {
				r.ahead(f, file, frames)
				size, full, err = f.scan(frames, size)
			}
			if err != nil {
				r.log.log.Warn("storage: part of a segment is damaged; it is passed over",
					slog.String("file", segmentName(f.segment.id)), slog.Uint64("seq", uint64(first)), slog.Any("err", err))
			}
			return !full
		})
		if full {
			f.end = f.entries[len(f.entries)-1].N
		} else {
			f.at.offset = 0 // entries above f.until may have been passed over
		}
		return nil
	})
}

func shareOf(index []share, id ConsumerID) (share, bool) {
	for _, s := range index {
		if s.consumer == id {
			return s, true
		}
	}
	return share{}, false
}

// scan takes the entries out of the frames of one chunk, from f.at.offset on.
// full: the budget is used up, and f.at is where to go on.
func (f *fetch) scan(frames []byte, size int) (int, bool, error) {
	b := frames[min(f.at.offset, len(frames)):]
	for len(b) > 0 {
		typ, body, rest, err := nextFrame(b)
		if err != nil {
			return size, false, err
		}
		if typ == frameMessage {
			full, err := f.take(body, &size)
			if err != nil || full {
				f.at.offset = len(frames) - len(b)
				return size, full, err
			}
		}
		b = rest
	}
	f.at.offset = len(frames)
	return size, false, nil
}

// take copies the consumer's entries out of one record.
func (f *fetch) take(body []byte, size *int) (full bool, err error) {
	m := parseMessage(body)
	var message []byte
	for range m.deliveries {
		d := m.delivery()
		if d.consumer != f.consumer || d.n < f.from || d.n > f.until || m.p.err != nil {
			continue
		}
		if m.size > len(body) {
			return false, errShort
		}
		if len(f.entries) > 0 && *size+m.size+len(d.extra) > f.budget {
			return true, nil
		}
		if message == nil {
			message = append(make([]byte, 0, m.size), body[len(body)-m.size:]...)
		}
		e := Entry{N: d.n, Seq: m.seq, Time: m.time, Options: d.options, Message: message, hold: d.hold}
		if len(d.extra) > 0 {
			e.Extra = append([]byte(nil), d.extra...)
		}
		f.entries = append(f.entries, e)
		*size += e.cost()
	}
	return false, m.p.err
}

// ahead lets the kernel read what f comes to next in frames, and behind them.
// file is nil when the segment is still written to: it is in the page cache.
func (r *reader) ahead(f *fetch, file *sealed, frames []byte) {
	if file == nil || !file.reading(frames[min(f.at.offset, len(frames)):], f.budget) || f.next == file.next {
		return
	}
	file.next = f.next
	r.log.dir.readAhead(segmentName(f.next))
}

// database returns the open segment of f. The second result is nil when it is
// still written to.
func (r *reader) database(f *fetch) (*bolt.DB, *sealed, error) {
	if f.writer != nil {
		return f.writer.db, nil, nil
	}
	id := f.segment.id
	for i, s := range r.open {
		if s.id == id {
			r.open = append(append(r.open[:i], r.open[i+1:]...), s)
			return s.db, s, nil
		}
	}
	if len(r.open) == openAtOnce {
		r.close(r.open[0].id)
	}
	s, err := openSealedAhead(r.log.dir, id)
	if err != nil {
		return nil, nil, err
	}
	r.open = append(r.open, s)
	return s.db, s, nil
}

func (r *reader) close(id uint32) {
	for i, s := range r.open {
		if s.id == id {
			if err := s.db.Close(); err != nil {
				r.log.log.Warn("storage: close of a segment read", slog.String("file", segmentName(id)), slog.Any("err", err))
			}
			r.open = append(r.open[:i], r.open[i+1:]...)
			return
		}
	}
}

// closeGone closes segments that were removed, so that their space comes back.
func (r *reader) closeGone() {
	var gone []uint32
	r.log.mu.Lock()
	for _, s := range r.open {
		if r.log.segments[s.id] == nil {
			gone = append(gone, s.id)
		}
	}
	r.log.mu.Unlock()
	for _, id := range gone {
		r.close(id)
	}
}

func (r *reader) closeAll() {
	for len(r.open) > 0 {
		r.close(r.open[0].id)
	}
}
