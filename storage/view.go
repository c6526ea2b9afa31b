package storage

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// View is what the store held at one moment: Log.View makes one of a
// running log, Inspect of the files of one that nobody has open.
type View struct {
	Path      string
	Consumers []ConsumerView // by name
	Rows      map[Table]int  // of a running log: as of its last checkpoint
	Journal   JournalView
	Segments  []FileView // that somebody needs, or that are written to
	Bad       []FileView // damaged and set aside
	Disk      int64      // bytes on disk of all files of the store
	Damaged   int        // files set aside since the store was created, those not there any more included

	// Findings is what the next start would mend or lose; empty for a running
	// log, which has done it.
	Findings []Finding

	log    *Log
	held   map[ConsumerID]*holding
	tail   [][]byte // frames that are in no segment
	behind Seq      // the segments have all below it, the tail the rest
	ids    []uint32 // of Segments

	running bool // files come and go
}

// ConsumerView is what waits for one consumer.
type ConsumerView struct {
	Name     string
	Count    int64             // messages neither acknowledged, received nor dropped
	Bytes    int64             // of them; see CursorStats
	Oldest   time.Time         // arrival of the oldest; zero when none waits
	Received int64             // QoS 2 messages whose exchange is not complete
	Dropped  map[string]uint64 // by cause since the consumer was created
}

// JournalView describes the journal.
type JournalView struct {
	Bytes int64 // on disk; 0: there is none
	Holds int64 // bytes of records that are in no segment yet
}

// FileView is one file of the store.
type FileView struct {
	Name  string
	Bytes int64 // on disk
}

// Finding is one thing that is wrong with the files of a store.
type Finding struct {
	File    string // its name in the directory; empty: the store as a whole
	Problem string // what is wrong, where, and what it costs
	Cure    string // what to do, or what happens by itself
}

// holding is what one consumer has done with its numbers.
type holding struct {
	name     string
	low      uint64
	last     uint64
	done     spans
	received spans
}

// has reports whether n waits.
func (h *holding) has(n uint64) bool {
	return h != nil && n > h.low && n <= h.last && !h.done.has(n) && !h.received.has(n)
}

// Held is a message that waits for somebody.
type Held struct {
	Seq        Seq
	Time       int64 // arrival, Unix ms
	Message    []byte
	Deliveries []HeldDelivery // those that wait; one at least
}

// HeldDelivery is one consumer that a message waits for.
type HeldDelivery struct {
	Consumer string
	N        uint64
	Options  byte
	Extra    []byte

	id ConsumerID
}

// View describes the log as it is now. It reads no messages and may be
// called at any time.
func (l *Log) View() (*View, error) {
	v := &View{Rows: map[Table]int{}, running: true}
	if err := l.state.count(v.Rows); err != nil {
		return nil, err
	}
	l.mu.Lock()
	v.take(l)
	v.Journal.Holds = l.journaledSize
	if len(l.tail) > 0 {
		v.behind = l.tail[0].first
	} else if len(l.open) > 0 {
		v.behind = l.open[0].first
	}
	for _, ch := range slices.Concat(l.tail, l.open) {
		v.tail = append(v.tail, ch.buf)
	}
	l.mu.Unlock()
	return v, v.listFiles()
}

// take copies what l knows in memory. Log.mu is held, or nobody else has l.
func (v *View) take(l *Log) {
	v.Path, v.log, v.Damaged, v.behind = l.dir.path, l, l.damaged, l.seq+1
	v.held = make(map[ConsumerID]*holding, len(l.byID))
	for id, c := range l.byID {
		v.held[id] = &holding{c.name, c.low, c.last, slices.Clone(c.done), slices.Clone(c.received)}
		of := ConsumerView{Name: c.name, Count: c.count, Bytes: c.bytes,
			Received: int64(c.received.total()), Dropped: maps.Clone(c.dropped)}
		if ms := c.oldest(); c.count > 0 {
			of.Oldest = time.UnixMilli(ms)
		}
		v.Consumers = append(v.Consumers, of)
	}
	slices.SortFunc(v.Consumers, func(a, b ConsumerView) int { return strings.Compare(a.Name, b.Name) })
	for id, g := range l.segments {
		if !g.bad && (g.users > 0 || g == l.current) {
			v.ids = append(v.ids, id)
		}
	}
	slices.Sort(v.ids)
}

// listFiles fills in what the directory says.
func (v *View) listFiles() error {
	entries, err := os.ReadDir(v.Path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		f := FileView{e.Name(), onDisk(info)}
		v.Disk += f.Bytes
		id, isSegment := segmentID(f.Name)
		switch {
		case strings.HasSuffix(f.Name, badSuffix):
			v.Bad = append(v.Bad, f)
		case f.Name == journalName:
			v.Journal.Bytes = f.Bytes
		case isSegment && slices.Contains(v.ids, id):
			v.Segments = append(v.Segments, f)
		}
	}
	return nil
}

// Each calls fn for every message that waits for one of the consumers, all of
// them if none is named, in the order of their arrival but for what has been
// moved from old segments, until fn returns an error, which it returns. What is damaged is passed over. The Held and all it
// refers to are valid during the call only. Of a running log, messages that were
// not safe yet when the View was made, or are acknowledged since, may be left
// out. The log does not wait for fn.
func (v *View) Each(fn func(*Held) error, consumers ...string) error {
	return (&walk{view: v, message: fn, only: consumers}).run()
}

// onDisk returns the bytes that a file takes: bbolt lets files grow ahead of
// what is in them.
func onDisk(info fs.FileInfo) int64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512
	}
	return info.Size()
}
