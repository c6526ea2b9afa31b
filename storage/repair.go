package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Repaired is what Repair has done.
type Repaired struct {
	Findings []Finding        // what was wrong
	SetAside []string         // files that have .bad behind their names now
	Lost     map[string]int64 // messages by consumer, counted as dropped for CauseDamaged
}

// Repair makes the store whole: it opens the log, which rebuilds a state that is
// damaged or missing from the log, reads every record, copies what is readable
// of a damaged segment into a new one, and counts for each consumer what is
// there. Damaged files stay, with .bad behind their names. It refuses what Open
// refuses; on any other error the store is as good as it was. progress is as in
// Check.
func Repair(cfg Config, progress func(done, total int64)) (*Repaired, error) {
	if err := isStore(cfg.Path); err != nil {
		return nil, err
	}
	before, err := badFiles(cfg.Path)
	if err != nil {
		return nil, err
	}
	heard := &findingsHandler{}
	l, err := Open(cfg, slog.New(heard), nil)
	if err != nil {
		return nil, err
	}
	done := &Repaired{Lost: map[string]int64{}}
	err = l.repair(done, progress)
	err = errors.Join(err, l.Close())
	for i := range heard.list {
		heard.list[i].Cure = "" // it is done
	}
	done.Findings = append(heard.list, done.Findings...)
	after, listErr := badFiles(cfg.Path)
	for name, changed := range after {
		if was, ok := before[name]; !ok || !was.Equal(changed) {
			done.SetAside = append(done.SetAside, name)
		}
	}
	return done, errors.Join(err, listErr)
}

// badFiles returns the files that were set aside, with the times of their last
// change.
func badFiles(path string) (map[string]time.Time, error) {
	v := View{Path: path}
	if err := v.listFiles(); err != nil {
		return nil, err
	}
	all := map[string]time.Time{}
	for _, f := range v.Bad {
		info, err := os.Stat((&directory{path: path}).file(f.Name))
		if err != nil {
			return nil, err
		}
		all[f.Name] = info.ModTime()
	}
	return all, nil
}

// presence is what can be read for one consumer.
type presence struct {
	numbers spans
	bytes   map[uint32]int64 // by segment
}

func (l *Log) repair(done *Repaired, progress func(done, total int64)) error {
	v, err := l.View()
	if err != nil {
		return err
	}
	v.running = false // nobody removes files meanwhile
	found := map[ConsumerID]*presence{}
	broken := map[string]bool{}
	w := walk{view: v, all: true, progress: progress,
		damage: func(f Finding) {
			f.Cure = ""
			broken[f.File] = true
			done.Findings = append(done.Findings, f)
		}}
	w.message = func(m *Held) error {
		for _, d := range m.Deliveries {
			p := found[d.id]
			if p == nil {
				p = &presence{bytes: map[uint32]int64{}}
				found[d.id] = p
			}
			p.numbers.add(d.N, d.N)
			p.bytes[w.segment] += int64(len(m.Message) + len(d.Extra))
		}
		return nil
	}
	if err := w.run(); err != nil {
		return err
	}
	var failed error // to be told when the rest is done
	for _, id := range v.ids {
		if broken[segmentName(id)] {
			failed = errors.Join(failed, l.salvage(id))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, c := range l.byID {
		p := found[id]
		if p == nil {
			p = &presence{}
		}
		if lost := c.recount(p); lost > 0 {
			done.Lost[c.name] = lost
		}
	}
	return failed
}

// recount makes the account of c that of what can be read, and returns how many
// messages are lost. Log.mu is held.
func (c *Cursor) recount(found *presence) (lost int64) {
	for i := 0; i < len(c.parts); i++ {
		p := c.parts[i]
		for n := c.skip(p.first); n <= p.last; n = c.skip(n + 1) {
			if !found.numbers.has(n) && c.ackLocked(n) {
				lost++
			}
		}
		if i == len(c.parts) || c.parts[i].segment != p.segment {
			i-- // nothing of it is left
			continue
		}
		bytes := found.bytes[p.segment.id]
		c.bytes += bytes - c.parts[i].bytes
		c.parts[i].bytes = bytes
	}
	if lost > 0 {
		c.countDrop(CauseDamaged, uint64(lost))
	}
	c.log.touch(c)
	return lost
}

// salvage writes what can be read of a damaged segment to a new file of that
// name; the old one is set aside. After an error it stays as it was.
func (l *Log) salvage(id uint32) error {
	l.mu.Lock()
	g, census := l.segments[id], l.census()
	l.mu.Unlock()
	name := segmentName(id)
	w, err := makeSegment(l.dir, id, census)
	if err != nil {
		return fmt.Errorf("storage: copy %s: %w", name, err)
	}
	chunks, err := w.copyReadable()
	err = errors.Join(err, w.close())
	if err == nil && chunks > 0 {
		err = os.Link(l.dir.file(name), l.dir.file(name+badSuffix))
		if errors.Is(err, syscall.EEXIST) {
			err = nil // that of an earlier repair is worth more
		}
	}
	if err != nil || chunks == 0 {
		if err = errors.Join(err, l.dir.remove(name+newSuffix)); err != nil {
			return fmt.Errorf("storage: copy %s: %w", name, err)
		}
		l.setAside(g)
		return nil
	}
	if err := l.dir.rename(name+newSuffix, name); err != nil {
		return fmt.Errorf("storage: copy %s: %w", name, err)
	}
	info, err := os.Stat(l.dir.file(name))
	if err != nil {
		return fmt.Errorf("storage: copy %s: %w", name, err)
	}
	l.mu.Lock()
	l.damaged++
	l.diskSegments += onDisk(info) - g.size
	g.size = onDisk(info)
	l.mu.Unlock()
	return nil
}

// copyReadable copies the chunks of the file that has the name of w. The error is
// one of writing.
func (w *writer) copyReadable() (chunks int, failed error) {
	// That reading breaks off is what the copy is made for.
	_ = guard(func() error {
		db, err := openSealed(w.dir, w.id)
		if err != nil {
			return err
		}
		err = db.View(func(tx *bolt.Tx) error {
			eachChunk(tx, 0, func(first Seq, _ []share, frames []byte, err error) bool {
				if frames = readable(frames); err == nil && len(frames) > 0 {
					_, failed = w.commit([]piece{{first, frames}})
					chunks++
				}
				return failed == nil
			})
			return nil
		})
		return errors.Join(err, db.Close())
	})
	return chunks, failed
}

// readable returns the frames of a chunk that are whole.
func readable(frames []byte) []byte {
	var b []byte
	// What is damaged has been reported.
	_ = eachFrame(frames, func(typ byte, body []byte) error {
		if typ != frameMessage || parseMessage(body).check() == nil {
			start := len(b)
			b = endFrame(append(beginFrame(b, typ), body...), start)
		}
		return nil
	})
	return b
}
