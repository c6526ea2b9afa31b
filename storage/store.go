package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Log is the durable log and the state tables. All its methods may be called
// from any goroutine.
type Log struct {
	// Constant after Open.
	cfg    Config
	dir    *directory
	log    *slog.Logger
	safeFn func(Seq, error)
	tune   tuning
	kick   chan struct{} // tells the committer to look again; capacity 1
	stop   chan struct{} // closed when the reader shall end
	wake   chan struct{} // tells the reader of requests; capacity 1
	ended  sync.WaitGroup

	// Owned by Open, then by the committer, then by Close.
	journal *journal // nil: there was no room to make it

	// Owned by the committer, and while spilling is not nil by the goroutine
	// that spills.
	w *writer // the current segment

	// Owned by the committer.
	told    bool      // that the log has failed
	aged    time.Time // when it last looked for messages too old
	looked  time.Time // when it last looked for episodes that are over
	retried time.Time // when it last tried to make the reserve

	// Owned by whoever writes the state file: Open, then the checkpoint
	// goroutine of which at most one exists.
	state *stateFile

	// Guarded by mu, which is never held over disk I/O or foreign code.
	mu            sync.Mutex
	closing       bool
	closed        bool
	failed        error // wraps ErrFailed
	seq           Seq   // the last one given out
	safe          Seq
	safeCh        chan struct{} // closed at the next advance of safe, if somebody waits
	nextID        ConsumerID
	cursors       map[string]*Cursor
	byID          map[ConsumerID]*Cursor
	rows          map[string]row // changed since the last checkpoint
	rowBytes      int
	open          []*chunk  // appended, not taken by the committer
	slab          []byte    // free space behind the last open chunk
	waiting       int64     // bytes in open and in the commit under way
	records       int       // appended since the committer took any
	urgent        bool      // something in open wants to be committed now
	deadline      time.Time // when marks must be committed; zero: no such time
	safeMoved     bool      // safe advanced and safeFn was not told
	marked        []*Cursor
	marksDue      bool // a mark waits that must become durable, not merely ride along
	tail          []*chunk
	tailSize      int
	segments      map[uint32]*segment
	current       *segment      // where open will go
	journaled     []*chunk      // in the journal only, in order; all are in the tail
	journaledSize int64         // bytes of their records
	spilling      chan struct{} // closed when the spill under way has ended; nil: none is
	requests      []*Cursor
	windows       int // bytes in the windows of all cursors
	point         pointState
	lazy          lazyState
	move          *move // nil: none is under way
	damaged       int
	diskRest      int64                   // bytes of the state file, the reserve and the journal
	journalDisk   int64                   // bytes of the journal, constant after Open
	diskSegments  int64                   // sum of segment.size
	unreserved    bool                    // there was no room for the reserve
	taken         []*Cursor               // scratch of appendLocked
	refused       map[string]uint64       // by FullError.Limit of the store
	episodes      map[episodeKey]*episode // under way
	fillingUp     bool                    // near MaxSize, and not well away from it since
	highWater     uint64                  // how often that has begun
	clock         clock
	notices       []notice // for the committer to write
}

// segment is what is known of one segment file without opening it. Guarded by
// Log.mu.
type segment struct {
	id     uint32
	size   int64 // bytes on disk; of the current one: as of the last commit
	filled int64 // bytes appended, committed or not
	last   Seq   // of the last record, once sealed
	sealed bool
	users  int     // cursors that still need something from it
	bad    bool    // set aside
	thin   bool    // little of it is needed
	stays  bool    // though it is thin: it cannot be moved
	writer *writer // while it is written to
}

// chunk is a run of records in the encoding of the file. While it is in the
// tail, cursors read from it directly.
type chunk struct {
	first     Seq
	buf       []byte    // frames; only ever appended to until the committer takes it
	cursors   []*Cursor // that have refs into it
	cost      int       // bytes of memory, the refs included
	out       []byte    // what the committer writes of buf: all, or less with MaxAckDelay; nil afterwards
	inSegment bool      // it may leave the tail
}

// row is a table change on its way to the state file.
type row struct {
	value   []byte
	deleted bool
}

// tuning are the sizes that tests make small.
type tuning struct {
	segment    int64
	slab       int
	tail       int
	windows    int // bytes that all windows may take together
	checkpoint time.Duration
	records    int // appended, after which a checkpoint is due
	marks      time.Duration
	half       int64         // of the journal
	rotate     int64         // a drained segment of this size is given up
	expire     time.Duration // between looks for segments whose messages are too old
	quiet      time.Duration // without refusals and drops, before an episode is over
	now        func() time.Time
	wall       func(now time.Time) int64 // what the wall clock says then, Unix ms
}

func defaults() tuning {
	return tuning{
		segment:    segmentSize,
		slab:       256 << 10,
		tail:       8 << 20,
		windows:    8 << 20,
		checkpoint: 5 * time.Second,
		records:    50_000,
		marks:      900 * time.Millisecond,
		half:       journalHalf,
		rotate:     1 << 20,
		expire:     time.Minute,
		quiet:      10 * time.Second,
		now:        time.Now,
		wall:       time.Time.UnixMilli,
	}
}

// reserved is how much of MaxSize is kept for what must be written so that
// space can come back: acknowledgements and checkpoints.
const reserved = 2 << 20

// Open locks the directory (ErrLocked if another process holds it), recovers
// what was appended before, and starts the committer. A damaged store opens;
// what was lost is logged and counted in Stats. A VersionError means the
// directory belongs to a newer program.
//
// safe is called from the committer goroutine, never with a lock held, after
// each advance of Safe; and once with a non-nil error when the log has failed
// (D4), after which it is not called again. It must not block. It may be nil.
func Open(cfg Config, log *slog.Logger, safe func(Seq, error)) (*Log, error) {
	return open(cfg, log, safe, &directory{path: cfg.Path}, defaults())
}

func open(cfg Config, log *slog.Logger, safe func(Seq, error), dir *directory, tune tuning) (*Log, error) {
	// A small store must rotate early, or drained space could not come back.
	tune.segment = min(tune.segment, max(cfg.MaxSize/8, 1<<20))
	tune.half = max(min(tune.half, cfg.MaxSize/32/journalPage*journalPage), minJournalHalf)
	dir.reserve = reserveSize + journalSize(tune.half)
	l := newLog(cfg, log, dir, tune)
	l.safeFn = safe
	if err := dir.openLocked(); err != nil {
		return nil, err
	}
	if err := l.recover(); err != nil {
		return nil, errors.Join(err, dir.close())
	}
	l.unreserved = !dir.reserved
	l.ended.Go(l.commitLoop)
	l.ended.Go(l.readLoop)
	return l, nil
}

func newLog(cfg Config, log *slog.Logger, dir *directory, tune tuning) *Log {
	return &Log{
		cfg: cfg, dir: dir, log: log, tune: tune,
		kick: make(chan struct{}, 1), wake: make(chan struct{}, 1), stop: make(chan struct{}),
		cursors: map[string]*Cursor{}, byID: map[ConsumerID]*Cursor{},
		rows: map[string]row{}, segments: map[uint32]*segment{},
		refused: map[string]uint64{}, episodes: map[episodeKey]*episode{},
	}
}

// Close commits everything waiting, writes a checkpoint and releases the
// directory. The error tells of a commit, sync or checkpoint that failed, now
// or before. Calling it again returns ErrClosed.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closing = true
	l.mu.Unlock()
	close(l.stop)
	l.kickCommitter()
	l.ended.Wait()

	l.mu.Lock()
	l.closed = true
	err := l.failed
	l.wakeWaiters()
	l.mu.Unlock()
	if l.journal != nil {
		if err == nil {
			err = l.journal.clear() // the checkpoint has it all
		}
		err = errors.Join(err, l.journal.close())
	}
	if l.w != nil {
		err = errors.Join(err, l.w.close())
	}
	return errors.Join(err, l.state.close(), l.dir.close())
}

func (l *Log) kickCommitter() {
	select {
	case l.kick <- struct{}{}:
	default: // it will look anyway
	}
}

// usable returns why nothing can be appended, or nil. l.mu is held.
func (l *Log) usable() error {
	switch {
	case l.closing:
		return ErrClosed
	case l.failed != nil:
		return l.failed
	}
	return nil
}

// wakeWaiters lets everybody in WaitSafe look again. l.mu is held.
func (l *Log) wakeWaiters() {
	if l.safeCh != nil {
		close(l.safeCh)
		l.safeCh = nil
	}
}

// Safe returns the highest Seq such that it and every record before it is on
// stable storage, or, with Config.MaxAckDelay, needs no storage any more.
func (l *Log) Safe() Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.safe
}

// WaitSafe waits until Safe has reached s. It returns the context's error,
// ErrFailed or ErrClosed when that will not be seen.
func (l *Log) WaitSafe(ctx context.Context, s Seq) error {
	for {
		l.mu.Lock()
		var err error
		switch {
		case l.safe >= s:
			l.mu.Unlock()
			return nil
		case l.failed != nil:
			err = l.failed
		case l.closed:
			err = ErrClosed
		case l.safeCh == nil:
			l.safeCh = make(chan struct{})
		}
		ch := l.safeCh
		l.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Each calls fn for every row of t as recovered by Open, in order of their
// keys, until fn returns an error, which it returns. Call it only before the
// first Append. Key and value are valid during the call only.
func (l *Log) Each(t Table, fn func(key, value []byte) error) error {
	return l.state.each(t, fn)
}

// OpenConsumer finds or creates the consumer of that name. Its creation is
// durable when Safe reaches the Seq (0 when it existed). There is one Cursor
// per consumer; calling it again returns the same Cursor with new limits,
// which count from now on. The name is 1 to 1024 bytes.
func (l *Log) OpenConsumer(name string, limits Limits) (*Cursor, Seq, error) {
	if len(name) == 0 || len(name) > maxName {
		return nil, 0, fmt.Errorf("storage: open consumer: name of %d bytes", len(name))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return nil, 0, err
	}
	if c := l.cursors[name]; c != nil {
		c.limits = limits
		return c, 0, nil
	}
	l.nextID++
	c := newCursor(l, l.nextID, name)
	c.limits = limits
	l.addCursor(c)
	return c, l.appendControl(frameCreate, c.id, name), nil
}

const maxName = 1024

// addCursor puts c where it is found. l.mu is held.
func (l *Log) addCursor(c *Cursor) {
	l.cursors[c.name], l.byID[c.id] = c, c
	l.touch(c)
}

// RemoveConsumer forgets the consumer of that name, durably when Safe reaches
// the Seq (0 when there was none). Its entries stop counting at once and its
// Cursor hands out nothing more. A later consumer of that name is a new one,
// with n from 1.
func (l *Log) RemoveConsumer(name string) (Seq, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return 0, err
	}
	c := l.cursors[name]
	if c == nil {
		return 0, nil
	}
	l.forget(c)
	return l.appendControl(frameRemove, c.id, ""), nil
}

// forget takes c out of everything. l.mu is held.
func (l *Log) forget(c *Cursor) {
	delete(l.cursors, c.name)
	delete(l.byID, c.id)
	l.point.removed = append(l.point.removed, c.id)
	c.removed = true
	for i := range c.parts {
		c.leave(c.parts[i].segment)
	}
	c.low, c.pos, c.refFirst = c.last, c.last, c.last+1
	c.parts, c.refs, c.refHead, c.done, c.received = nil, nil, 0, nil, nil
	c.count, c.bytes = 0, 0
	c.dropWindow()
}

// appendControl appends a record about consumer id. l.mu is held.
func (l *Log) appendControl(typ byte, id ConsumerID, name string) Seq {
	c := l.space(frameHeader + 4*binary.MaxVarintLen64 + len(name))
	start := len(c.buf)
	l.seq++
	b := beginFrame(c.buf, typ)
	b = binary.AppendUvarint(b, uint64(l.seq))
	b = binary.AppendUvarint(b, uint64(id))
	if typ == frameCreate {
		b = appendString(b, name)
	}
	c.buf = endFrame(b, start)
	l.grown(c, len(c.buf)-start)
	l.lazy.note(l, -1)
	l.urgent = true
	l.kickCommitter()
	return l.seq
}

// Consumers returns the names of all consumers, sorted.
func (l *Log) Consumers() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.cursors))
}

// Stats describes the store.
type Stats struct {
	Safe     Seq
	Appended Seq   // the last Seq given out
	Disk     int64 // bytes in the files of the store
	MaxSize  int64 // Config.MaxSize
	Segments int   // segment files, the current one included
	Damaged  int   // files set aside as damaged since the store was created
	Err      error // why the log has failed; nil while it has not

	HighWater uint64 // how often four fifths of MaxSize were reached since Open, having been under half of it before

	// Refused counts the records refused since Open because the store was
	// full, by FullError.Limit; those that a consumer refused are in
	// CursorStats.
	Refused map[string]uint64
}

// Stats returns a snapshot. The map is the caller's.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Stats{Safe: l.safe, Appended: l.seq, Disk: l.disk(), MaxSize: l.cfg.MaxSize, Damaged: l.damaged, Err: l.failed,
		HighWater: l.highWater, Refused: maps.Clone(l.refused)}
	for _, g := range l.segments {
		if g.size > 0 {
			s.Segments++
		}
	}
	return s
}

// disk returns the bytes that the files take. l.mu is held.
func (l *Log) disk() int64 { return l.diskRest + l.diskSegments }
