package storage

import (
	"errors"
	"fmt"
	"os"
)

// probeName is removed by the next Open if a crash leaves it.
const probeName = "probe" + newSuffix

// Probe tries whether the disk would take again what an Open and some work
// after it write: a file beside the others, some MiB long, is written, synced
// and removed. It is meant for a log that has failed, before Close and Open,
// and changes nothing about the log itself (D4). It waits for the disk.
func (l *Log) Probe() error {
	if err := l.dir.probe(l.dir.reserve + 2*growth); err != nil {
		return fmt.Errorf("storage: probe: %w", err)
	}
	return nil
}

func (d *directory) probe(size int64) error {
	if err := d.step("probe", probeName); err != nil {
		return err
	}
	err := writeZeros(d.file(probeName), size)
	if errors.Is(err, os.ErrNotExist) {
		return err // not even the directory is there
	}
	return errors.Join(err, d.remove(probeName))
}
