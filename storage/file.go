package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// directory is all that the store does to files, but for what bbolt does
// inside one. Each step that can fail or be cut goes through step first, so
// that a test can fail it or look at the directory as a crash would leave it.
type directory struct {
	path string
	lock *os.File

	// reserve is how many bytes the reserve file shall have.
	reserve int64

	// reserved: the reserve file is there. Owned by whoever writes the state.
	reserved bool

	// readOnly: nothing is changed. What would be is told to intends.
	readOnly bool
	intends  func(what string)

	// before is called with the name of each step and the file it is about;
	// an error fails the step. nil outside tests.
	before func(step, file string) error

	// bolt replaces bolt.Open for the files that are written to. nil outside
	// tests.
	bolt func(name string, options *bolt.Options) (*bolt.DB, error)

	// journal replaces opening the journal's file. nil outside tests.
	journal func(name string) (journalFile, error)
}

func (d *directory) step(step, file string) error {
	if d.before == nil {
		return nil
	}
	return d.before(step, file)
}

func (d *directory) file(name string) string { return filepath.Join(d.path, name) }

// openBolt makes a bbolt file, or opens it for writing.
func (d *directory) openBolt(name string, options *bolt.Options) (*bolt.DB, error) {
	options.Timeout = lockTimeout
	options.FreelistType = bolt.FreelistMapType
	options.NoStatistics = true
	if d.bolt != nil {
		return d.bolt(d.file(name), options)
	}
	return bolt.Open(d.file(name), 0o600, options)
}

// openLocked creates the directory if needed and locks it for this process.
func (d *directory) openLocked() error {
	if err := os.Mkdir(d.path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("storage: create directory: %w", err)
	}
	f, err := os.OpenFile(d.file("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("storage: open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close() // the error of the lock says more
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return d.lockedBy()
		}
		return fmt.Errorf("storage: lock %s: %w", d.path, err)
	}
	d.lock = f
	return nil
}

// close releases the lock.
func (d *directory) close() error { return d.lock.Close() }

// sync makes names created, renamed and removed durable.
func (d *directory) sync() error {
	if err := d.step("syncdir", d.path); err != nil {
		return err
	}
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close() // the error of the sync says more
		return err
	}
	return f.Close()
}

// rename gives a file its final name, durably.
func (d *directory) rename(from, to string) error {
	if d.readOnly {
		d.intends("rename " + from + " to " + to)
		return nil
	}
	if err := d.step("rename", to); err != nil {
		return err
	}
	if err := os.Rename(d.file(from), d.file(to)); err != nil {
		return err
	}
	return d.sync()
}

// remove unlinks a file; that it is gone already is no error. The name may come
// back after a power cut: whoever lists the directory must bear that.
func (d *directory) remove(name string) error {
	if d.readOnly {
		d.intends("remove " + name)
		return nil
	}
	if err := d.step("remove", name); err != nil {
		return err
	}
	if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

const (
	reserveName = "reserve"
	reserveSize = 1 << 20 // and as much as the journal, which Open must be able to spill

	besideReserve = 256 << 10 // bytes that must be free too, when it is made
	reserveRetry  = time.Second
)

// keepReserve holds back some of the disk, so that a store on a full one can
// still be opened and drained. That there is no room for it is no error: it is
// tried again when space has come back.
func (d *directory) keepReserve() {
	if d.reserved {
		return
	}
	if info, err := os.Stat(d.file(reserveName)); err == nil && info.Size() == d.reserve {
		d.reserved = true
		return
	}
	// Trying it must not take from a commit what is left.
	var fs syscall.Statfs_t
	if err := syscall.Statfs(d.path, &fs); err == nil && uint64(fs.Bsize)*fs.Bavail < uint64(d.reserve)+besideReserve {
		return
	}
	name := reserveName + newSuffix
	err := writeZeros(d.file(name), d.reserve)
	if err == nil {
		err = os.Rename(d.file(name), d.file(reserveName))
	}
	if err != nil {
		_ = d.remove(name) // Open removes it otherwise
		return
	}
	d.reserved = true
}

// retryReserve has the reserve made, if it could not be so far, by a goroutine
// that stands in for a checkpoint. l.mu is held.
func (l *Log) retryReserve(now time.Time) {
	if l.busy() != nil || now.Sub(l.retried) < reserveRetry {
		return
	}
	l.retried = now
	busy := make(chan struct{})
	l.point.busy = busy
	l.ended.Go(func() {
		l.dir.keepReserve()
		l.mu.Lock()
		l.unreserved = !l.dir.reserved
		l.point.busy = nil
		l.mu.Unlock()
		close(busy)
		l.kickCommitter()
	})
}

// writeZeros makes a file of so many zeros. They are written and synced: holes
// would take no blocks, and blocks that were merely allotted would have to be
// marked as written later.
func writeZeros(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	zeros := make([]byte, 64<<10)
	for at := int64(0); at < size && err == nil; at += int64(len(zeros)) {
		_, err = f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// useReserve gives the reserve up when err says that the disk is full, and
// reports whether it is worth trying again.
func (d *directory) useReserve(err error) bool {
	if !errors.Is(err, syscall.ENOSPC) {
		return false
	}
	d.reserved = false
	return os.Remove(d.file(reserveName)) == nil
}

// guard runs fn, which reads a file through a memory map. A page that cannot be
// read, and a panic of bbolt about what it found there, become errors.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("reading it panicked: %v", p)
		}
	}()
	return fn()
}
