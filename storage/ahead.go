package storage

import (
	"os"
	"reflect"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// bbolt maps its files with MADV_RANDOM, so that each page not yet in the page
// cache would be its own wait for the disk, and each one read would stay in our
// memory until the file is closed. So we have the kernel read ahead of the
// reader, and give the pages back after each fetch.
const (
	aheadOf   = 4 << 20   // bytes that are read ahead
	aheadStep = 128 << 10 // of one request: kernels cut a larger one short
)

// sealed is an open segment that is read in order.
type sealed struct {
	id    uint32
	db    *bolt.DB
	file  *os.File // of db, which closes it
	size  int64    // of the file, and no more than is mapped
	ahead int64    // bytes of the file that the kernel was asked for
	next  uint32   // the segment whose beginning it was asked for, or 0
}

// openSealedAhead opens a segment for reading in order. As with openSealed,
// nothing in it is trusted.
func openSealedAhead(dir *directory, id uint32) (*sealed, error) {
	s := &sealed{id: id}
	db, err := openSegment(dir, id, func(f *os.File) {
		s.file = f
		s.size = sizeOf(f)
		s.ahead = readAhead(f, 0, min(s.size, aheadOf))
	})
	if err != nil {
		return nil, err
	}
	s.db = db
	s.size = min(s.size, sizeOf(s.file)) // bbolt has mapped what it was between
	return s, nil
}

// sizeOf returns 0 if it cannot be told.
func sizeOf(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// reading says that n bytes at value, which is in the map of the file, are read
// next. It reports whether the end of the file is near. It is called within a
// transaction, as the map may move otherwise.
func (s *sealed) reading(value []byte, n int) (end bool) {
	if len(value) == 0 {
		return false
	}
	start := s.db.Info().Data
	at := reflect.ValueOf(value).Pointer()
	if at < start || int64(at-start) >= s.size {
		return false // it is a copy of a small value
	}
	offset := int64(at - start)
	s.ahead = max(s.ahead, readAhead(s.file, max(s.ahead, offset), min(s.size, offset+aheadOf)))
	page := uintptr(os.Getpagesize())
	from := at &^ (page - 1)
	// One call in place of a fault for each page or few. Kernels before 5.14 do
	// not know it, and a page that cannot be read is found by who needs it.
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, min(at-from+uintptr(min(n, len(value))), start+uintptr(s.size)-from), unix.MADV_POPULATE_READ)
	return offset+aheadOf >= s.size
}

// readAhead has the kernel read f from the offset at to the offset end, which it
// returns. A refusal costs only speed.
func readAhead(f *os.File, at, end int64) int64 {
	for ; at < end; at += aheadStep {
		_ = unix.Fadvise(int(f.Fd()), at, min(aheadStep, end-at), unix.FADV_WILLNEED)
	}
	return end
}

// readSomeAhead is for a file of which it is not known what is needed: the
// kernel reads as much as it thinks fit. A refusal costs only speed.
func readSomeAhead(f *os.File) { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_WILLNEED) }

// readAhead is that of the beginning of a file that is going to be opened.
func (d *directory) readAhead(name string) {
	f, err := os.Open(d.file(name))
	if err != nil {
		return
	}
	readAhead(f, 0, aheadOf)
	_ = f.Close() // nothing was written
}

// releasePages takes the pages of a file of bbolt that were read out of our
// memory; those in the page cache stay there. So much must be mapped, or pages
// that are none of the file's would go. It is called within a transaction. A
// refusal costs only memory.
func releasePages(db *bolt.DB, size int64) {
	if size > 0 {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, db.Info().Data, uintptr(size), unix.MADV_DONTNEED)
	}
}
