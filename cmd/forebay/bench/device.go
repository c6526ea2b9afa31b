package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// disk counts what is written to the file system of a directory.
type disk struct {
	dir  string
	stat string // of the block device; empty: what this process writes is counted
	name string // of the device or, if it is not known, the kind of the file system
}

func newDisk(dir string) (*disk, error) {
	var s unix.Stat_t
	if err := unix.Stat(dir, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	d := &disk{dir: dir}
	device := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(s.Dev)), unix.Minor(uint64(s.Dev)))
	if _, err := os.Stat(device + "/stat"); err == nil {
		d.stat = device + "/stat"
		if name, err := filepath.EvalSymlinks(device); err == nil {
			d.name = filepath.Base(name)
		}
		return d, nil
	}
	var f unix.Statfs_t
	if err := unix.Statfs(dir, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	d.name = fmt.Sprintf("file system of type %#x", uint32(f.Type))
	if f.Type == unix.TMPFS_MAGIC {
		d.name = "tmpfs, where a sync costs nothing"
	}
	return d, nil
}

// source says what the numbers are.
func (d *disk) source() string {
	if d.stat == "" {
		return fmt.Sprintf("Bytes written are what this process gave to the %s; no block device is known.", d.name)
	}
	return fmt.Sprintf("Bytes written are what reached %s, by whomever: nobody else should be using it.", d.name)
}

// written returns the bytes written so far, what is still on its way included.
func (d *disk) written() (int64, error) {
	f, err := os.Open(d.dir)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(unix.Syncfs(int(f.Fd())), f.Close()); err != nil {
		return 0, err
	}
	if d.stat == "" {
		return ownWrites()
	}
	b, err := os.ReadFile(d.stat)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 7 {
		return 0, fmt.Errorf("%s: %q", d.stat, b)
	}
	sectors, err := strconv.ParseInt(fields[6], 10, 64)
	return sectors * 512, err
}

// ownWrites returns what this process has caused to be written.
func ownWrites() (int64, error) { return number("/proc/self/io", "write_bytes:") }

// resident returns the memory of this process that is not a page of a file, which
// the kernel could take away.
func resident() (int64, error) {
	n, err := number("/proc/self/status", "RssAnon:")
	return n << 10, err
}

// number finds the number behind a word in a file of the kernel.
func number(file, word string) (int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == word {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s: no %s", file, word)
}

// forget takes the files under dir out of the page cache.
func forget(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	})
}
