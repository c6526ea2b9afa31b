package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// walk goes through the records of a View in order.
type walk struct {
	view     *View
	only     []string                // consumers; empty: all
	all      bool                    // verify what nobody waits for as well
	message  func(*Held) error       // for what waits
	damage   func(Finding)           // may be nil
	progress func(done, total int64) // bytes of segments; may be nil

	segment uint32 // that is read; 0: the tail
	held    Held   // reused
	chunk   []byte // reused

	seen map[ConsumerID]spans // what has been found waiting: a record may be there as a copy too, see move
}

const cureSegment = "forebay store repair keeps what is readable and sets the file aside"

// run returns the first error of w.message, or one that says nothing about the
// files: no permission, too many open files.
func (w *walk) run() error {
	v := w.view
	total, done := int64(0), int64(0)
	sizes := map[string]int64{}
	for _, f := range v.Segments {
		sizes[f.Name] = f.Bytes
		total += f.Bytes
	}
	for _, w.segment = range v.ids {
		if err := w.readSegment(); err != nil {
			return err
		}
		done += sizes[segmentName(w.segment)]
		if w.progress != nil {
			w.progress(done, total)
		}
	}
	w.segment = 0
	for _, frames := range v.tail {
		if err := w.frames(0, frames); err != nil {
			return err
		}
	}
	return nil
}

// readSegment reads w.segment. Of a running log it may be written to meanwhile.
func (w *walk) readSegment() error {
	l := w.view.log
	l.mu.Lock()
	var live *bolt.DB
	g := l.segments[w.segment]
	if g != nil && g.writer != nil {
		live = g.writer.db
	}
	inTail := g != nil && g == l.current && live == nil // it has not been made yet
	l.mu.Unlock()
	if inTail {
		return nil
	}
	var from Seq
	var err error
	if live != nil {
		if from, err = w.chunks(live, 0); !errors.Is(err, berrors.ErrDatabaseNotOpen) {
			return err
		} // else it has been sealed, and is read like the others
	}
	var db *bolt.DB
	err = guard(func() (err error) {
		db, err = openSealed(l.dir, w.segment)
		return err
	})
	if err != nil {
		return w.judge(damaged{err})
	}
	_, err = w.chunks(db, from)
	return errors.Join(w.judge(err), db.Close())
}

// damaged is an error about a file, as opposed to those of w.message.
type damaged struct{ error }

func (d damaged) Unwrap() error { return d.error }

// judge makes a finding of an error about a segment.
func (w *walk) judge(err error) error {
	var about damaged
	var newer *VersionError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &about), errors.As(err, &newer), transient(err):
		return err
	case errors.Is(err, os.ErrNotExist):
		if w.view.running {
			return nil // drained and removed meanwhile
		}
		w.found("is missing", "put the file back if there is a copy of it; forebay store repair counts its messages as lost")
	default:
		w.found("cannot be read: "+about.Error(), cureSegment)
	}
	return nil
}

func (w *walk) found(problem, cure string) {
	if w.damage == nil {
		return
	}
	f := Finding{File: journalName, Problem: problem, Cure: cure}
	if w.segment > 0 {
		f.File = segmentName(w.segment)
	}
	w.damage(f)
}

// chunks goes through the chunks from the one with Seq from on. No transaction
// is open while w.message runs: it may take long, and the log must be able to
// close the file. It returns where to go on after an error.
func (w *walk) chunks(db *bolt.DB, from Seq) (Seq, error) {
	census := w.all
	for {
		var at Seq
		more := false
		err := guard(func() error {
			return db.View(func(tx *bolt.Tx) error {
				if census {
					w.census(tx)
					census = false
				}
				eachChunk(tx, from, func(first Seq, index []share, frames []byte, err error) bool {
					switch {
					case err != nil:
						w.found(fmt.Sprintf("chunk %d: %v: its messages are lost", first, err), cureSegment)
						return true
					case first >= w.view.behind:
						return false // the tail has it
					case !w.all && !w.wanted(index):
						return true
					}
					at, more, w.chunk = first, true, append(w.chunk[:0], frames...)
					return false
				})
				return nil
			})
		})
		if err != nil {
			return from, damaged{err}
		}
		if !more {
			return from, nil
		}
		if err := w.frames(at, w.chunk); err != nil {
			return from, err
		}
		from = at + 1
	}
}

// census checks what a rebuild of the state would begin with.
func (w *walk) census(tx *bolt.Tx) {
	typ, _, _, err := nextFrame(tx.Bucket(bucketHeader).Get(keyCensus))
	if err == nil && typ != frameCensus {
		err = fmt.Errorf("frame of type %d", typ)
	}
	if err != nil {
		w.found(fmt.Sprintf("list of consumers: %v: no message is lost by it", err), cureSegment)
	}
}

// wanted reports whether a chunk may have something that waits.
func (w *walk) wanted(index []share) bool {
	return slices.ContainsFunc(index, func(e share) bool {
		h := w.view.held[e.consumer]
		return h != nil && e.last > h.low && w.asked(h)
	})
}

func (w *walk) asked(h *holding) bool { return len(w.only) == 0 || slices.Contains(w.only, h.name) }

// frames goes through the records of one chunk. The error is that of w.message.
func (w *walk) frames(chunk Seq, frames []byte) error {
	var failed error
	err := eachFrame(frames, func(typ byte, body []byte) error {
		if typ != frameMessage || failed != nil {
			return nil
		}
		if err := parseMessage(body).check(); err != nil {
			return err
		}
		if w.waiting(body) {
			failed = w.message(&w.held)
		}
		return nil
	})
	if err != nil && failed == nil {
		w.found(fmt.Sprintf("chunk %d: %v: that record is lost", chunk, err), cureSegment)
	}
	return failed
}

// waiting fills w.held with a message, and reports whether it waits for one of
// the consumers asked for.
func (w *walk) waiting(body []byte) bool {
	m := parseMessage(body)
	if w.segment > 0 && m.seq >= w.view.behind {
		return false // the tail has it
	}
	w.held = Held{Seq: m.seq, Time: m.time, Message: body[len(body)-m.size:], Deliveries: w.held.Deliveries[:0]}
	asked := false
	for range m.deliveries {
		d := m.delivery()
		if h := w.view.held[d.consumer]; h.has(d.n) && w.first(d.consumer, d.n) {
			asked = asked || w.asked(h)
			w.held.Deliveries = append(w.held.Deliveries, HeldDelivery{h.name, d.n, d.options, d.extra, d.consumer})
		}
	}
	return asked
}

// first reports whether n has not been found before.
func (w *walk) first(id ConsumerID, n uint64) bool {
	seen := w.seen[id]
	if seen.has(n) {
		return false
	}
	seen.add(n, n)
	if w.seen == nil {
		w.seen = map[ConsumerID]spans{}
	}
	w.seen[id] = seen
	return true
}

// eachFrame calls fn for each frame. One that is damaged is passed over if
// another begins where it should end. It returns the first error, its own or
// that of fn.
func eachFrame(frames []byte, fn func(typ byte, body []byte) error) (first error) {
	for len(frames) > 0 {
		typ, body, rest, err := nextFrame(frames)
		if err == nil {
			err = fn(typ, body)
		} else {
			rest = resume(frames)
		}
		if first == nil {
			first = err
		}
		frames = rest
	}
	return first
}

// resume returns what follows a damaged frame if its length can be believed
// because a good one begins there; else nil.
func resume(frames []byte) []byte {
	if len(frames) < frameHeader {
		return nil
	}
	n := uint64(binary.LittleEndian.Uint32(frames[1:]))
	if n > uint64(len(frames)-frameHeader) {
		return nil
	}
	rest := frames[frameHeader+int(n):]
	if _, _, _, err := nextFrame(rest); err != nil {
		return nil
	}
	return rest
}
