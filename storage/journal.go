package storage

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// The journal is one file, written in full when it is made, so that a group
// costs one write and one fdatasync and no change of the file's size. It has two
// halves: while one takes groups, what the other holds is spilled to a segment.
//
//	| header, 4 KiB | header again, 4 KiB | first half | second half |
//
//	header: magic 16 | version u32 | CRC u32 | id u64 | bytes of one half u64 | zeros to 64
//	group:  magic 4 | CRC u32 | id u64 | epoch u64 | number u32 | length u32 | after u64 | last u64 | record frames
//
// FORMAT.md says what they mean.
const (
	journalName    = "journal"
	journalMagic   = "forebay journal\x00"
	groupMagic     = "FBJG"
	journalPage    = 4096 // everything begins at a multiple of it
	journalStart   = 2 * journalPage
	journalHeader  = 64
	groupHeader    = 48
	journalHalf    = 4 << 20
	minJournalHalf = 16 << 10
	maxJournalHalf = 64 << 20  // that a file may say it has
	maxJournaled   = 256 << 10 // groups from this size on go straight to a segment
)

// journalFile is what the journal does to its file; tests put one in between
// that can be cut.
type journalFile interface {
	io.WriterAt
	Sync() error // of what was written, not of times
	Close() error
}

type osJournal struct{ *os.File }

func (f osJournal) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// journal is the file that groups are written to. It is owned by Open, then by
// the committer, then by Close.
type journal struct {
	dir    *directory
	file   journalFile
	id     uint64
	half   int64  // bytes of one half
	active int64  // the half that takes groups: 0 or 1
	at     int64  // where in it the next one goes
	epoch  uint64 // counts the times that a half was begun
	number uint32 // of the next group in it
	last   Seq    // of the last group, here or in a segment
	buf    []byte
}

func journalSize(half int64) int64 { return journalStart + 2*half }

// wholePages rounds n up to whole pages.
func wholePages(n int64) int64 { return (n + journalPage - 1) / journalPage * journalPage }

// newJournal makes the file: written in full, synced, and only then named.
func newJournal(dir *directory, half int64) (*journal, error) {
	if err := dir.step("create", journalName); err != nil {
		return nil, err
	}
	name := journalName + newSuffix
	err := writeZeros(dir.file(name), journalSize(half))
	var j *journal
	if err == nil {
		j, err = openJournal(dir, name, half)
	}
	if err == nil {
		if err = dir.rename(name, journalName); err != nil {
			err = errors.Join(err, j.file.Close())
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create journal: %w", err), dir.remove(name))
	}
	return j, nil
}

// openJournal opens an existing file of the right size for writing and makes it
// empty.
func openJournal(dir *directory, name string, half int64) (*journal, error) {
	open := dir.journal
	if open == nil {
		open = func(name string) (journalFile, error) {
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			return osJournal{f}, err
		}
	}
	file, err := open(dir.file(name))
	if err != nil {
		return nil, err
	}
	j := &journal{dir: dir, file: file, half: half, epoch: 1}
	if err := j.clear(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return j, nil
}

// clear gives the file a new id, which makes all groups in it invalid. Each
// header is within one sector: a cut leaves the old or the new id in each of
// the two, and both are right, as all that the journal held is in a checkpoint.
func (j *journal) clear() error {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	j.id = binary.LittleEndian.Uint64(id[:])
	b := make([]byte, journalStart)
	putJournalHeader(b, j.id, j.half)
	copy(b[journalPage:], b[:journalHeader])
	return j.write(b, 0)
}

func (j *journal) write(b []byte, at int64) error {
	if err := j.dir.step("journal", journalName); err != nil {
		return err
	}
	if _, err := j.file.WriteAt(b, at); err != nil {
		return err
	}
	if err := j.file.Sync(); err != nil {
		return err
	}
	return j.dir.step("journaled", journalName)
}

// direct reports whether a group of that many bytes goes straight to a segment.
func (j *journal) direct(size int64) bool {
	return size >= min(maxJournaled, j.half/4)
}

// fits reports whether the half in use has room for it.
func (j *journal) fits(size int64) bool { return j.at+wholePages(groupHeader+size) <= j.half }

// begin goes on with the given half; what was in it is not needed any more.
func (j *journal) begin(half int64) {
	j.active, j.at, j.number = half, 0, 0
	j.epoch++
}

// commit makes the records of one group durable.
func (j *journal) commit(chunks []*chunk, last Seq) error {
	b := append(j.buf[:0], make([]byte, groupHeader)...)
	for _, ch := range chunks {
		b = append(b, ch.out...)
	}
	putGroupHeader(b, &journalGroup{epoch: j.epoch, number: j.number, after: j.last, last: last}, j.id)
	need := int(wholePages(int64(len(b))))
	end := len(b)
	b = slices.Grow(b, need-end)[:need]
	clear(b[end:])
	if err := j.write(b, journalStart+j.active*j.half+j.at); err != nil {
		return err
	}
	j.buf = b
	j.at += int64(len(b))
	j.number++
	j.last = last
	return nil
}

func (j *journal) close() error { return j.file.Close() }

func putJournalHeader(b []byte, id uint64, half int64) {
	copy(b, journalMagic)
	binary.LittleEndian.PutUint32(b[16:], formatVersion)
	binary.LittleEndian.PutUint64(b[24:], id)
	binary.LittleEndian.PutUint64(b[32:], uint64(half))
	binary.LittleEndian.PutUint32(b[20:], headerSum(b))
}

// headerSum leaves out the four bytes where it stands itself.
func headerSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:20], castagnoli), castagnoli, b[24:journalHeader])
}

// journalGroup is a group as it was read.
type journalGroup struct {
	epoch  uint64
	number uint32
	after  Seq    // of the group before: there is nothing durable between
	last   Seq    // the group covers all up to it
	frames []byte // aliases what was read
}

// putGroupHeader fills in the first bytes of b, which is header and frames.
func putGroupHeader(b []byte, g *journalGroup, id uint64) {
	copy(b, groupMagic)
	binary.LittleEndian.PutUint64(b[8:], id)
	binary.LittleEndian.PutUint64(b[16:], g.epoch)
	binary.LittleEndian.PutUint32(b[24:], g.number)
	binary.LittleEndian.PutUint32(b[28:], uint32(len(b)-groupHeader))
	binary.LittleEndian.PutUint64(b[32:], uint64(g.after))
	binary.LittleEndian.PutUint64(b[40:], uint64(g.last))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
}

// parseGroup reads the group that b begins with.
func parseGroup(b []byte, id uint64) (g journalGroup, ok bool) {
	if len(b) < groupHeader || string(b[:4]) != groupMagic || binary.LittleEndian.Uint64(b[8:]) != id {
		return g, false
	}
	n := uint64(binary.LittleEndian.Uint32(b[28:]))
	if n > uint64(len(b)-groupHeader) {
		return g, false
	}
	b = b[:groupHeader+int(n)]
	if crc32.Checksum(b[8:], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return g, false
	}
	g = journalGroup{
		epoch: binary.LittleEndian.Uint64(b[16:]), number: binary.LittleEndian.Uint32(b[24:]),
		after: Seq(binary.LittleEndian.Uint64(b[32:])), last: Seq(binary.LittleEndian.Uint64(b[40:])),
		frames: b[groupHeader:],
	}
	return g, g.after < g.last
}

// parseJournalHeader reads one of the two headers.
func parseJournalHeader(b []byte) (id uint64, half int64, err error) {
	if len(b) < journalHeader || string(b[:16]) != journalMagic {
		return 0, 0, &CorruptError{File: journalName, Offset: -1, Err: errors.New("not a journal")}
	}
	// Every version keeps the checksum where it is, so that a damaged header
	// does not pass for a newer one.
	if headerSum(b) != binary.LittleEndian.Uint32(b[20:]) {
		return 0, 0, &CorruptError{File: journalName, Offset: 0, Err: errors.New("checksum does not match")}
	}
	if v := binary.LittleEndian.Uint32(b[16:]); v > formatVersion {
		return 0, 0, &VersionError{File: journalName, Version: v, Known: formatVersion}
	}
	size := binary.LittleEndian.Uint64(b[32:])
	if size < minJournalHalf || size > maxJournalHalf || size%journalPage != 0 {
		return 0, 0, &CorruptError{File: journalName, Offset: 0, Err: fmt.Errorf("halves of %d bytes", size)}
	}
	return binary.LittleEndian.Uint64(b[24:]), int64(size), nil
}

// oldJournal is what could be read of the journal of the run before.
type oldJournal struct {
	found  bool
	half   int64
	groups []journalGroup // of the two latest epochs, in order; some may be missing
	broken bool           // behind them another was begun, which is not valid
	err    error          // the file is damaged; there may be groups nevertheless
}

// readJournal reads the whole file. The error returned says that it must not be
// touched.
func readJournal(dir *directory) (*oldJournal, error) {
	o := &oldJournal{}
	if err := dir.step("open", journalName); err != nil {
		return nil, fmt.Errorf("storage: read journal: %w", err)
	}
	f, err := os.Open(dir.file(journalName))
	if errors.Is(err, os.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return nil, fmt.Errorf("storage: read journal: %w", err)
	}
	o.found = true
	b, err := io.ReadAll(io.LimitReader(f, journalSize(maxJournalHalf)))
	if err := errors.Join(err, f.Close()); err != nil {
		if transient(err) {
			return nil, fmt.Errorf("storage: read journal: %w", err)
		}
		o.err = &CorruptError{File: journalName, Offset: int64(len(b)), Err: err}
	}
	if err := o.parse(b); err != nil {
		return nil, fmt.Errorf("storage: read journal: %w", err)
	}
	return o, nil
}

// parse finds the groups in the bytes of a file. The error is a *VersionError.
func (o *oldJournal) parse(b []byte) error {
	id, half, err := parseJournalHeader(b)
	if err != nil && len(b) >= journalPage {
		id2, half2, err2 := parseJournalHeader(b[journalPage:])
		if err2 == nil {
			id, half, err, o.err = id2, half2, nil, err
		}
	}
	var newer *VersionError
	if errors.As(err, &newer) {
		return err
	}
	if err != nil {
		o.err = err
		return nil
	}
	o.half = half
	if size := journalSize(half); int64(len(b)) < size && o.err == nil {
		o.err = &CorruptError{File: journalName, Offset: int64(len(b)), Err: fmt.Errorf("%d bytes, should have %d", len(b), size)}
	}
	latest := uint64(0)
	var broken []journalGroup
	for i := range int64(2) {
		from := min(journalStart+i*half, int64(len(b)))
		groups, invalid := findGroups(b[from:min(from+half, int64(len(b)))], id)
		o.groups, broken = append(o.groups, groups...), append(broken, invalid...)
		if len(groups) > 0 {
			latest = max(latest, groups[0].epoch)
		}
	}
	// A half is begun anew when all that was in it is in a segment: only the
	// half in use and the one before it can have something of worth.
	o.groups = slices.DeleteFunc(o.groups, func(g journalGroup) bool { return g.epoch+1 < latest })
	slices.SortFunc(o.groups, inOrder)
	for _, g := range broken {
		o.broken = o.broken || len(o.groups) == 0 || inOrder(g, o.groups[len(o.groups)-1]) > 0
	}
	return nil
}

func inOrder(a, b journalGroup) int {
	return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.number, b.number))
}

// findGroups returns the groups of the latest epoch in one half, wherever they
// are. Behind the last there may be some of an earlier epoch, and the one being
// written when the power went. Of those that begin and are not valid it returns
// epoch and number.
func findGroups(b []byte, id uint64) (groups, broken []journalGroup) {
	for len(b) >= groupHeader {
		step := int64(journalPage)
		if g, ok := parseGroup(b, id); ok {
			step = wholePages(groupHeader + int64(len(g.frames)))
			if len(groups) > 0 && g.epoch > groups[0].epoch {
				groups = groups[:0]
			}
			if len(groups) == 0 || g.epoch == groups[0].epoch {
				groups = append(groups, g)
			}
		} else if string(b[:4]) == groupMagic && binary.LittleEndian.Uint64(b[8:]) == id {
			broken = append(broken, journalGroup{epoch: binary.LittleEndian.Uint64(b[16:]), number: binary.LittleEndian.Uint32(b[24:])})
		}
		b = b[min(step, int64(len(b))):]
	}
	return groups, broken
}
