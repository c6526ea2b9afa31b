package storage

import (
	"errors"
	"fmt"
)

var (
	// ErrFailed: a write or sync failed, and with it every later verb. Nothing
	// more is acknowledged until the log has been closed and opened again (D4).
	ErrFailed = errors.New("storage: log has failed")

	// ErrClosed: the log was closed by its owner.
	ErrClosed = errors.New("storage: log is closed")

	// ErrLocked: another process has the directory open.
	ErrLocked = errors.New("storage: directory is in use by another process")
)

// FullError says that a record was refused because of a limit. Nothing of the
// record was appended.
type FullError struct {
	Consumer string // the consumer that is full; empty: the store itself
	Limit    string // of the consumer "bytes" or "count"; of the store "store" (Config.MaxSize) or "waiting" (the disk does not keep up) or "disk" (it is nearly full)
}

func (e *FullError) Error() string {
	switch {
	case e.Limit == limitWaiting:
		return "storage: full: the disk does not keep up"
	case e.Limit == limitDisk:
		return "storage: full: the disk has no room for the reserve"
	case e.Consumer == "":
		return "storage: full: max_size of the store reached"
	}
	return fmt.Sprintf("storage: full: consumer %q reached its limit of %s", e.Consumer, e.Limit)
}

// CorruptError says that a file, or a part of it, is damaged.
type CorruptError struct {
	File   string
	Offset int64 // within the chunk or file where known, else -1
	Err    error
}

func (e *CorruptError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("storage: %s is damaged: %v", e.File, e.Err)
	}
	return fmt.Sprintf("storage: %s is damaged at %d: %v", e.File, e.Offset, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }

// VersionError says that a file was written by a newer Forebay. It is never
// touched.
type VersionError struct {
	File    string
	Version uint32 // of the file
	Known   uint32 // the newest that this program reads
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("storage: %s has format version %d, newer than %d that this program knows", e.File, e.Version, e.Known)
}
