package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Names, magic and version of the files; FORMAT.md has the pages.
const (
	segmentMagic   = "forebay segment"
	stateMagic     = "forebay state"
	formatVersion  = 1
	segmentSuffix  = ".seg"
	newSuffix      = ".new"
	badSuffix      = ".bad"
	segmentSize    = 32 << 20
	maxWaiting     = 16 << 20 // bytes appended and not committed yet, beyond which Append refuses
	growth         = 2 << 20  // bytes that a segment grows by
	segmentMapping = 2 * segmentSize
	lockTimeout    = time.Second // for bbolt's own lock; ours on the directory comes first
)

var (
	bucketHeader = []byte("header")
	bucketChunks = []byte("chunks")
	keyMagic     = []byte("magic")
	keyVersion   = []byte("version")
	keyCensus    = []byte("census")
	keyChunk     = []byte("c")
)

func segmentName(id uint32) string { return fmt.Sprintf("%08d%s", id, segmentSuffix) }

// segmentID reads the number out of a file name.
func segmentID(name string) (uint32, bool) {
	s, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(s) != 8 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n > 0
}

func seqKey(s Seq) []byte { return binary.BigEndian.AppendUint64(nil, uint64(s)) }

// putHeader and checkHeader write and read what every file of ours begins with.
func putHeader(b *bolt.Bucket, magic string) error {
	if err := b.Put(keyMagic, []byte(magic)); err != nil {
		return err
	}
	return b.Put(keyVersion, binary.BigEndian.AppendUint32(nil, formatVersion))
}

func checkHeader(tx *bolt.Tx, file, magic string) (*bolt.Bucket, error) {
	b := tx.Bucket(bucketHeader)
	if b == nil || string(b.Get(keyMagic)) != magic {
		return nil, &CorruptError{File: file, Offset: -1, Err: fmt.Errorf("not a %s file", magic)}
	}
	v := b.Get(keyVersion)
	if len(v) != 4 {
		return nil, &CorruptError{File: file, Offset: -1, Err: errors.New("no version")}
	}
	if n := binary.BigEndian.Uint32(v); n > formatVersion {
		return nil, &VersionError{File: file, Version: n, Known: formatVersion}
	}
	return b, nil
}

// writer appends to the current segment. It is owned by whoever spills: Open, then
// the committer or, while Log.spilling says so, the goroutine that it started.
type writer struct {
	dir  *directory
	id   uint32
	db   *bolt.DB
	size int64  // bytes on disk when it was created
	buf  []byte // the chunks of one commit, until it has ended
}

// createSegment makes a new segment. The file has its name only when it is
// whole, so that a crash leaves at most a .new file, which Open removes.
func createSegment(dir *directory, id uint32, census []byte) (*writer, error) {
	w, err := makeSegment(dir, id, census)
	if err != nil {
		return nil, err
	}
	name := segmentName(id)
	if err := dir.rename(name+newSuffix, name); err != nil {
		// The file is of no use, and on a full disk its space is.
		return nil, errors.Join(fmt.Errorf("create segment: %w", err), w.close(), dir.remove(name+newSuffix))
	}
	return w, nil
}

// makeSegment makes a segment whose file does not have its name yet.
func makeSegment(dir *directory, id uint32, census []byte) (*writer, error) {
	name := segmentName(id)
	if err := dir.step("create", name); err != nil {
		return nil, err
	}
	db, err := dir.openBolt(name+newSuffix, &bolt.Options{NoFreelistSync: true, InitialMmapSize: segmentMapping})
	if err != nil { // half of the first pages may be there
		return nil, errors.Join(fmt.Errorf("create segment: %w", err), dir.remove(name+newSuffix))
	}
	db.AllocSize = growth // the default would let the file run 16 MB ahead
	w := &writer{dir: dir, id: id, db: db}
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket(bucketHeader)
		if err != nil {
			return err
		}
		if err := putHeader(b, segmentMagic); err != nil {
			return err
		}
		if err := b.Put(keyCensus, census); err != nil {
			return err
		}
		_, err = tx.CreateBucket(bucketChunks)
		w.size = tx.Size()
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create segment: %w", err), db.Close(), dir.remove(name+newSuffix))
	}
	return w, nil
}

// commit makes the pieces durable, all or none. It returns the bytes that the
// segment takes on disk.
func (w *writer) commit(pieces []piece) (size int64, err error) {
	if err := w.dir.step("commit", segmentName(w.id)); err != nil {
		return 0, err
	}
	// bbolt refers to the values until the transaction ends: each has its own
	// part of the buffer.
	need := 0
	indexes := make([][]share, len(pieces))
	for i, p := range pieces {
		indexes[i] = indexOf(p.frames)
		need += chunkHeader + frameHeader + 32*len(indexes[i]) + 16 + len(p.frames)
	}
	if cap(w.buf) < need || cap(w.buf) > 4*need+1<<20 {
		w.buf = make([]byte, 0, need)
	}
	buf := w.buf[:0]
	err = w.db.Update(func(tx *bolt.Tx) error {
		all := tx.Bucket(bucketChunks)
		all.FillPercent = 1 // keys only ever come at the end
		for i, p := range pieces {
			start := len(buf)
			buf = appendChunk(buf, p.first, indexes[i], p.frames)
			b, err := all.CreateBucket(seqKey(p.first))
			if err != nil {
				return err
			}
			if err := b.Put(keyChunk, buf[start:len(buf):len(buf)]); err != nil {
				return err
			}
		}
		size = tx.Size()
		return nil
	})
	if err == nil {
		err = w.dir.step("committed", segmentName(w.id))
	}
	return size, err
}

func (w *writer) close() error { return w.db.Close() }

// indexOf lists the consumers in frames that this process encoded, with their
// first and last n. Nothing is checked: the checksums were computed a moment ago.
func indexOf(frames []byte) []share {
	var index []share
	at := map[ConsumerID]int{}
	i := 0 // of the consumer before, who is mostly the next as well
	for len(frames) > 0 {
		end := frameHeader + int(binary.LittleEndian.Uint32(frames[1:]))
		if frames[0] == frameMessage {
			b := frames[frameHeader:end]
			for range 3 { // Seq, time, length
				_, b = takeUvarint(b)
			}
			deliveries, b := takeUvarint(b)
			for range deliveries {
				var id, n, extra uint64
				id, b = takeUvarint(b)
				n, b = takeUvarint(b)
				extra, b = takeUvarint(b[1:])
				b = b[extra>>1:]
				if i == len(index) || index[i].consumer != ConsumerID(id) {
					var ok bool
					if i, ok = at[ConsumerID(id)]; !ok {
						i = len(index)
						at[ConsumerID(id)] = i
						index = append(index, share{consumer: ConsumerID(id), first: n})
					}
				}
				// Copies may stand behind what is newer, see move.
				index[i].first, index[i].last = min(index[i].first, n), max(index[i].last, n)
			}
		}
		frames = frames[end:]
	}
	return index
}

// takeUvarint takes a number off b, which begins with one.
func takeUvarint(b []byte) (uint64, []byte) {
	if b[0] < 0x80 {
		return uint64(b[0]), b[1:]
	}
	v, n := binary.Uvarint(b)
	return v, b[n:]
}

// openSealed opens a segment for reading. Nothing in it is trusted: use it
// inside guard only.
func openSealed(dir *directory, id uint32) (*bolt.DB, error) {
	return openSegment(dir, id, readSomeAhead)
}

func openSegment(dir *directory, id uint32, opened func(*os.File)) (*bolt.DB, error) {
	name := segmentName(id)
	db, err := openReadOnly(dir, name, opened)
	if err != nil {
		return nil, err
	}
	err = db.View(func(tx *bolt.Tx) error {
		_, err := checkHeader(tx, name, segmentMagic)
		if err == nil && tx.Bucket(bucketChunks) == nil {
			err = &CorruptError{File: name, Offset: -1, Err: errors.New("no chunks")}
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// openReadOnly calls opened with the file before bbolt reads it.
func openReadOnly(dir *directory, name string, opened func(*os.File)) (*bolt.DB, error) {
	if err := dir.step("open", name); err != nil {
		return nil, err
	}
	return bolt.Open(dir.file(name), 0, &bolt.Options{
		ReadOnly:     true,
		Timeout:      lockTimeout,
		NoStatistics: true,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(filepath.Clean(name), flag, mode)
			if err == nil {
				opened(f)
			}
			return f, err
		},
	})
}

// eachChunk calls fn for the chunks from the one that begins with Seq from on.
// A chunk that is damaged is given with an error in place of frames.
func eachChunk(tx *bolt.Tx, from Seq, fn func(first Seq, index []share, frames []byte, err error) (more bool)) {
	all := tx.Bucket(bucketChunks)
	c := all.Cursor()
	for k, _ := c.Seek(seqKey(from)); k != nil; k, _ = c.Next() {
		var (
			first  Seq
			index  []share
			frames []byte
			err    error
		)
		if b := all.Bucket(k); b == nil || len(k) != 8 {
			err = errors.New("not a chunk")
		} else if first, index, frames, err = splitChunk(b.Get(keyChunk)); err == nil && first != Seq(binary.BigEndian.Uint64(k)) {
			err = errors.New("chunk under a wrong key")
		}
		if len(k) == 8 {
			first = Seq(binary.BigEndian.Uint64(k))
		}
		if !fn(first, index, frames, err) {
			return
		}
	}
}
