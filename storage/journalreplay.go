package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
)

// replayJournal applies what the journal has behind the checkpoint and the
// segments, and keeps it in r.rest for the segment g. What stands in segments
// is complete up to the highest Seq in them.
func (r *recovery) replayJournal(g *segment) {
	l, old := r.log, r.journal
	if !old.found && r.old.found {
		l.log.Warn("storage: journal is missing; if it held anything, that is lost", slog.String("file", journalName))
		r.damage = true
	}
	covered := l.seq
	follows := !r.census // else there is no telling what was before the first
	r.from, r.rowsFrom = max(r.from, covered), max(r.rowsFrom, covered)
	var p piece
	for _, group := range old.groups {
		if group.last <= covered {
			continue
		}
		if group.after > covered && follows && old.err == nil {
			old.err = &CorruptError{File: journalName, Offset: -1, Err: fmt.Errorf("nothing readable between record %d and %d", covered, group.after)}
		}
		r.damage = r.damage || old.err != nil
		if err := r.applyChunk(g, group.frames); err != nil && old.err == nil {
			old.err = &CorruptError{File: journalName, Offset: -1, Err: err}
		}
		p.frames = appendBehind(p.frames, group.frames, r.from)
		covered, follows = group.last, true
		l.seq = max(l.seq, covered)
		if len(p.frames) >= pieceSize {
			r.keep(p.frames)
			p = piece{}
		}
	}
	r.damage = r.damage || old.err != nil
	r.keep(p.frames)
	if old.broken && old.err == nil {
		// Nothing that was acknowledged, unless the disk has damaged it since.
		l.log.Warn("storage: the last group of the journal is not whole: the power went while it was written, or it is damaged; it is left out",
			slog.String("file", journalName), slog.Uint64("behind", uint64(covered)))
	}
	if old.err != nil {
		l.damaged++
		l.log.Warn("storage: journal is damaged, set aside; what could be read is delivered", slog.Any("err", old.err))
	}
}

func (r *recovery) keep(frames []byte) {
	if len(frames) > 0 {
		seq, _ := binary.Uvarint(frames[frameHeader:])
		r.rest = append(r.rest, piece{Seq(seq), frames})
	}
}

// appendBehind appends the frames that are about records above from, up to the
// first that is damaged.
func appendBehind(b, frames []byte, from Seq) []byte {
	for len(frames) > 0 {
		typ, body, rest, err := nextFrame(frames)
		if err != nil || typ == frameMessage && parseMessage(body).check() != nil {
			return b
		}
		if seq, n := binary.Uvarint(body); n > 0 && Seq(seq) > from {
			b = append(b, frames[:len(frames)-len(rest)]...)
		}
		frames = rest
	}
	return b
}

// writeSegment begins the segment of this start, with what only the journal had.
func (r *recovery) writeSegment() error {
	l := r.log
	w, err := createSegment(l.dir, l.current.id, r.header)
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	size := w.size
	l.current.filled = 0
	for i := 0; i < len(r.rest) && err == nil; i++ {
		err = guard(func() (err error) {
			size, err = w.commit(r.rest[i : i+1])
			return err
		})
		l.current.filled += int64(len(r.rest[i].frames))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("storage: spill the journal: %w", err), w.close(), l.dir.remove(segmentName(l.current.id)))
	}
	l.w, l.current.writer, l.current.size = w, w, size
	l.diskSegments += size
	return nil
}

// openJournal makes the journal ready: the old one, emptied, or a new one if it
// is missing, damaged or of another size.
func (r *recovery) openJournal() error {
	l, old := r.log, r.journal
	half := l.tune.half
	if old.err != nil {
		if err := l.dir.rename(journalName, journalName+badSuffix); err != nil {
			l.log.Warn("storage: damaged journal is not kept", slog.Any("err", err))
		}
	}
	var err error
	if old.found && old.err == nil && old.half == half {
		l.journal, err = openJournal(l.dir, journalName, half)
	} else {
		l.journal, err = newJournal(l.dir, half)
	}
	if errors.Is(err, syscall.ENOSPC) {
		// It matters for speed only: every group goes to a segment.
		l.log.Warn("storage: no room for the journal; working without it until the next start", slog.Any("err", err))
		l.journal, err = nil, nil
	}
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	l.diskRest = l.state.size + l.dir.reserve
	if l.journal != nil {
		l.journal.last = l.seq
		l.journalDisk = journalSize(half)
		l.diskRest += l.journalDisk
	}
	return nil
}
