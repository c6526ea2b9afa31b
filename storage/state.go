package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	stateName = "state.db"

	littleWritten = 512 << 10 // bytes, which make no checkpoint worth its price
	maxRowBytes   = 1 << 20   // of table changes in memory, after which a checkpoint is due
)

var (
	bucketConsumers = []byte("consumers")
	bucketTables    = []byte("tables")
	keyPoint        = []byte("point")
)

// pointState is what the next checkpoint will be made of. Guarded by Log.mu.
type pointState struct {
	at      time.Time     // of the last
	written int64         // bytes, since: a log that spares the disk does so here too
	spare   bool          // a sealed segment is needed no more
	records int           // since, of groups that were written
	cursors []*Cursor     // changed since
	removed []ConsumerID  // since
	busy    chan struct{} // closed when the one under way has ended; nil: none is
}

func (p *pointState) dirty() bool {
	return p.written > 0 || p.records > 0 || len(p.cursors) > 0 || len(p.removed) > 0
}

// checkpoint is what the log says up to seq.
type checkpoint struct {
	seq       Seq
	nextID    ConsumerID
	current   uint32 // the segment that holds what comes after seq, or a later one
	damaged   int
	rows      map[string]row
	consumers map[ConsumerID][]byte // encoded; nil: removed
	segments  []uint32              // complete, and needed by somebody
	remove    []uint32              // needed by nobody once this is durable
}

// snapshot describes the state as of l.seq. l.mu is held, and everything up to
// l.seq is committed before the checkpoint is written.
func (l *Log) snapshot(now time.Time) *checkpoint {
	p := &checkpoint{seq: l.seq, nextID: l.nextID, current: l.current.id, damaged: l.damaged,
		rows: l.rows, consumers: make(map[ConsumerID][]byte, len(l.point.cursors))}
	for _, c := range l.point.cursors {
		c.changed = false
		if !c.removed {
			p.consumers[c.id] = c.encode(nil, true)
		}
	}
	for _, id := range l.point.removed {
		p.consumers[id] = nil
	}
	for id, g := range l.segments {
		switch {
		case !g.sealed:
		case g.users == 0:
			p.remove = append(p.remove, id)
		default:
			p.segments = append(p.segments, id)
		}
	}
	clear(l.point.cursors)
	l.rows, l.rowBytes = map[string]row{}, 0
	l.point = pointState{at: now, cursors: l.point.cursors[:0], busy: l.point.busy}
	return p
}

// writeCheckpoint makes p durable and removes the segments that it does without.
func (l *Log) writeCheckpoint(p *checkpoint) {
	err := l.dir.step("checkpoint", stateName)
	if err == nil {
		err = guard(func() error { return l.state.write(p) })
	}
	if err == nil {
		err = l.dir.step("checkpointed", stateName)
	}
	if err != nil {
		l.fail("write "+stateName, err)
	} else {
		for _, id := range p.remove {
			if err := l.dir.remove(segmentName(id)); err != nil {
				l.log.Warn("storage: drained segment stays", slog.String("file", segmentName(id)), slog.Any("err", err))
			}
		}
		if len(p.remove) > 0 {
			l.dir.keepReserve()
		}
	}
	l.mu.Lock()
	l.unreserved = !l.dir.reserved
	if err == nil {
		for _, id := range p.remove {
			l.diskSegments -= l.segments[id].size
			delete(l.segments, id)
		}
		l.diskRest = l.state.size + l.dir.reserve + l.journalDisk
	}
	close(l.point.busy)
	l.point.busy = nil
	l.mu.Unlock()
	if len(p.remove) > 0 {
		l.wakeReader()
	}
	l.kickCommitter()
}

// encode writes what is known of the consumer; parts are left out of a census.
func (c *Cursor) encode(b []byte, parts bool) []byte {
	b = appendString(b, c.name)
	b = binary.AppendUvarint(b, c.last)
	b = binary.AppendUvarint(b, c.low)
	b = appendSpans(b, c.done)
	b = appendSpans(b, c.received)
	b = appendCounts(b, c.dropped)
	if !parts {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(c.parts)))
	for i := range c.parts {
		p := &c.parts[i]
		for _, v := range []uint64{uint64(p.segment.id), p.first, p.last, uint64(p.count), uint64(p.bytes)} {
			b = binary.AppendUvarint(b, v)
		}
		b = binary.AppendVarint(b, p.oldest)
		b = binary.AppendVarint(b, p.newest)
	}
	return binary.AppendUvarint(b, c.held)
}

// decode is the inverse of encode. Parts name segments by number; segment
// finds or makes them.
func (c *Cursor) decode(p *parser, segment func(id uint32) *segment) error {
	c.name = string(p.bytes(p.uint()))
	c.last, c.low = p.uint(), p.uint()
	c.done, c.received = p.spans(), p.spans()
	if k := p.count(2); k > 0 {
		c.dropped = make(map[string]uint64, k)
		for range k {
			cause := string(p.bytes(p.uint()))
			c.dropped[cause] = p.uint()
		}
	}
	if segment != nil {
		for range p.count(7) {
			id := p.uint()
			e := part{first: p.uint(), last: p.uint(), count: int64(p.uint()), bytes: int64(p.uint()), oldest: p.int(), newest: p.int()}
			if p.err != nil || e.first > e.last || e.count <= 0 || e.bytes < 0 || id > 1<<32-1 {
				return errors.New("part of a consumer makes no sense")
			}
			e.segment = segment(uint32(id))
			e.segment.users++
			c.count += e.count
			c.bytes += e.bytes
			c.parts = append(c.parts, e)
		}
		c.held = c.last // what is not said may be
		if len(p.b) > 0 && p.err == nil {
			c.held = min(c.held, p.uint())
		}
	}
	if p.err == nil && (c.name == "" || len(c.name) > maxName || c.low > c.last) {
		return errors.New("consumer makes no sense")
	}
	return p.err
}

func (p *checkpoint) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(p.seq))
	b = binary.AppendUvarint(b, uint64(p.nextID))
	b = binary.AppendUvarint(b, uint64(p.current))
	b = binary.AppendUvarint(b, uint64(p.damaged))
	b = binary.AppendUvarint(b, uint64(len(p.segments)))
	for _, g := range p.segments {
		b = binary.AppendUvarint(b, uint64(g))
	}
	return b
}

func decodeCheckpoint(b []byte) (*checkpoint, error) {
	p := parser{b: b}
	c := &checkpoint{seq: Seq(p.uint()), nextID: ConsumerID(p.uint()), current: uint32(p.uint()), damaged: int(p.uint())}
	for range p.count(1) {
		c.segments = append(c.segments, uint32(p.uint()))
	}
	return c, p.err
}

// stateFile is the file with the tables and the consumers. Every value in it
// begins with the CRC-32C of key and rest: bbolt has none of its own. Each
// start writes a new one, so a damaged file is never written to.
type stateFile struct {
	db   *bolt.DB
	size int64 // bytes on disk as of the last write
}

func sealValue(key, value []byte) []byte {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
	return append(binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(value)), sum), value...)
}

func openValue(key, sealed []byte) ([]byte, error) {
	if len(sealed) < 4 {
		return nil, errShort
	}
	value := sealed[4:]
	if crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value) != binary.LittleEndian.Uint32(sealed) {
		return nil, errors.New("checksum does not match")
	}
	return value, nil
}

// createState writes a new state file with the rows that each gives and the
// checkpoint, and puts it in the place of the old one.
func createState(dir *directory, p *checkpoint, each func(put func(key string, value []byte) error) error) (*stateFile, error) {
	if err := dir.step("create", stateName); err != nil {
		return nil, err
	}
	db, err := dir.openBolt(stateName+newSuffix, &bolt.Options{})
	if err != nil { // half of the first pages may be there
		return nil, errors.Join(fmt.Errorf("storage: create state: %w", err), dir.remove(stateName+newSuffix))
	}
	s := &stateFile{db: db}
	err = db.Update(func(tx *bolt.Tx) error {
		h, err := tx.CreateBucket(bucketHeader)
		if err != nil {
			return err
		}
		for _, name := range [][]byte{bucketConsumers, bucketTables} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		if err := putHeader(h, stateMagic); err != nil {
			return err
		}
		tables := tx.Bucket(bucketTables)
		return each(func(key string, value []byte) error {
			return tables.Put([]byte(key), sealValue([]byte(key), value))
		})
	})
	if err == nil {
		err = s.write(p)
	}
	if err == nil {
		err = dir.rename(stateName+newSuffix, stateName)
	}
	if err != nil {
		// The file is of no use, and on a full disk its space is.
		return nil, errors.Join(fmt.Errorf("storage: create state: %w", err), db.Close(), dir.remove(stateName+newSuffix))
	}
	return s, nil
}

// write applies p in one transaction.
func (s *stateFile) write(p *checkpoint) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		h, tables, consumers := tx.Bucket(bucketHeader), tx.Bucket(bucketTables), tx.Bucket(bucketConsumers)
		for k, r := range p.rows {
			var err error
			if key := []byte(k); r.deleted {
				err = tables.Delete(key)
			} else {
				err = tables.Put(key, sealValue(key, r.value))
			}
			if err != nil {
				return err
			}
		}
		for id, value := range p.consumers {
			var err error
			if key := binary.BigEndian.AppendUint32(nil, uint32(id)); value == nil {
				err = consumers.Delete(key)
			} else {
				err = consumers.Put(key, sealValue(key, value))
			}
			if err != nil {
				return err
			}
		}
		s.size = tx.Size()
		return h.Put(keyPoint, sealValue(keyPoint, p.encode()))
	})
}

func (s *stateFile) each(t Table, fn func(key, value []byte) error) error {
	return s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketTables).Cursor()
		for k, v := c.Seek([]byte{byte(t)}); k != nil && k[0] == byte(t); k, v = c.Next() {
			value, err := openValue(k, v)
			if err != nil {
				return &CorruptError{File: stateName, Offset: -1, Err: err}
			}
			if err := fn(k[1:], value); err != nil {
				return err
			}
		}
		return nil
	})
}

// count adds the number of rows of each table to rows.
func (s *stateFile) count(rows map[Table]int) error {
	return s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketTables).ForEach(func(k, _ []byte) error {
			rows[Table(k[0])]++
			return nil
		})
	})
}

func (s *stateFile) close() error { return s.db.Close() }

// oldState is what could be read of the state file of the run before.
type oldState struct {
	found     bool        // a file was there
	point     *checkpoint // nil: unreadable
	consumers map[ConsumerID][]byte
	rows      map[string][]byte
	rowsAt    Seq // what the rows say is as of this record
	bad       int // rows that were damaged
	err       error
}

// readState reads all of the old state file into memory. Damage ends up in
// oldState.err; the error returned says that the file must not be touched.
func readState(dir *directory) (*oldState, error) {
	s := &oldState{consumers: map[ConsumerID][]byte{}, rows: map[string][]byte{}}
	if _, err := os.Stat(dir.file(stateName)); errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	s.found = true
	err := guard(func() error {
		db, err := openReadOnly(dir, stateName, readSomeAhead)
		if err != nil {
			return err
		}
		err = db.View(s.read)
		return errors.Join(err, db.Close())
	})
	var newer *VersionError
	if errors.As(err, &newer) || err != nil && transient(err) {
		return nil, fmt.Errorf("storage: read state: %w", err)
	}
	s.err = err
	return s, nil
}

func (s *oldState) read(tx *bolt.Tx) error {
	h, err := checkHeader(tx, stateName, stateMagic)
	if err != nil {
		return err
	}
	value, err := openValue(keyPoint, h.Get(keyPoint))
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	point, err := decodeCheckpoint(value)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	consumers, tables := tx.Bucket(bucketConsumers), tx.Bucket(bucketTables)
	if consumers == nil || tables == nil {
		return errors.New("a bucket is missing")
	}
	// Rows first: even if the consumers cannot be read they are worth having.
	s.rowsAt = point.seq
	err = tables.ForEach(func(k, v []byte) error {
		if value, err := openValue(k, v); err != nil || len(k) == 0 {
			s.bad++
		} else {
			s.rows[string(k)] = slices.Clone(value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = consumers.ForEach(func(k, v []byte) error {
		value, err := openValue(k, v)
		if err != nil || len(k) != 4 {
			return errors.New("a consumer is damaged")
		}
		s.consumers[ConsumerID(binary.BigEndian.Uint32(k))] = slices.Clone(value)
		return nil
	})
	if err != nil {
		return err
	}
	s.point = point
	return nil
}
