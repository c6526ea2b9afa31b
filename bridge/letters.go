package bridge

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"forebay/storage"
)

// The bounds of what is kept of dead letters, for each bridge.
const (
	maxLetters         = 256
	maxLetterBytes     = 256 << 10 // of rows
	maxLetterPayload   = 4 << 10
	maxLettersPerCause = 10 // in a second; more are counted only, lest an upstream that refuses everything wear out the flash
)

// DeadLetter is a message that the upstream can never take: it was dropped, so that those behind it can go on.
type DeadLetter struct {
	Time    time.Time `json:"time"`              // when it was given up
	Arrived time.Time `json:"arrived"`           // at this gateway
	Cause   string    `json:"cause"`             // as in Status.Dropped
	Detail  string    `json:"detail,omitempty"`  // the upstream's own words, or the limit; printable
	Topic   string    `json:"topic,omitempty"`   // the local one; empty if the message was too large to be kept at hand
	QoS     byte      `json:"qos"`               // as published
	Size    int       `json:"size"`              // of the payload, in bytes
	Payload []byte    `json:"payload,omitempty"` // its first 4 KiB; base64 in JSON
}

// letters keeps the latest dead letters as rows of storage.Bridges: bridge's name, 0, 'd', one byte lane, eight bytes
// number in it → JSON of a DeadLetter. A message that is given up twice, because the gateway died in between, has one row.
type letters struct {
	// Constant.
	name string
	log  Log

	// Owned by Run.
	second int64          // Unix time that written is of
	writes map[string]int // by cause

	mu    sync.Mutex
	kept  []letter // guarded by mu; oldest first
	bytes int      // guarded by mu; of rows
}

type letter struct {
	DeadLetter
	key  []byte
	size int // of the row
}

func letterPrefix(bridge string) []byte { return append([]byte(bridge), 0, 'd') }

// ReadDeadLetters returns the dead letters of a bridge that log holds, oldest first. Like storage.Log.Each it comes
// before anything is appended.
func ReadDeadLetters(log Rows, bridge string) ([]DeadLetter, error) {
	l := letters{name: bridge}
	if err := l.restore(log); err != nil {
		return nil, err
	}
	return l.list(), nil
}

// restore reads the rows of this bridge.
func (l *letters) restore(log Rows) error {
	prefix := letterPrefix(l.name)
	err := log.Each(storage.Bridges, func(key, value []byte) error {
		if !bytes.HasPrefix(key, prefix) {
			return nil
		}
		one := letter{key: bytes.Clone(key), size: len(key) + len(value)}
		if json.Unmarshal(value, &one.DeadLetter) != nil {
			return nil // of a version to come: this is history, the bridge must run
		}
		l.kept, l.bytes = append(l.kept, one), l.bytes+one.size
		return nil
	})
	if err != nil {
		return fmt.Errorf("bridge: %s: read dead letters: %w", l.name, err)
	}
	slices.SortStableFunc(l.kept, func(a, b letter) int { return a.Time.Compare(b.Time) })
	return nil
}

// list returns what is kept, oldest first. It may be called from any goroutine.
func (l *letters) list() []DeadLetter {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]DeadLetter, len(l.kept))
	for i := range l.kept {
		all[i] = l.kept[i].DeadLetter
	}
	return all
}

func (l *letters) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.kept)
}

// eachKey calls fn for the rows. Nothing else may use l meanwhile.
func (l *letters) eachKey(fn func(key []byte)) {
	for i := range l.kept {
		fn(l.kept[i].key)
	}
}

// keep writes d, which has number n in its lane, and forgets the oldest ones beyond the bounds. It does not wait for
// the disk: the row comes before the acknowledgement in the log that lets go of the message. A store that takes nothing
// keeps none; the message has been counted.
func (l *letters) keep(d DeadLetter, lane byte, n uint64) {
	if second := d.Time.Unix(); second != l.second || l.writes == nil {
		l.second, l.writes = second, map[string]int{}
	}
	if l.writes[d.Cause]++; l.writes[d.Cause] > maxLettersPerCause {
		return
	}
	d.Payload = bytes.Clone(d.Payload[:min(len(d.Payload), maxLetterPayload)])
	value, err := json.Marshal(d)
	if err != nil {
		panic("BUG: bridge: dead letter: " + err.Error())
	}
	one := letter{d, binary.BigEndian.AppendUint64(append(letterPrefix(l.name), lane), n), 0}
	one.size = len(one.key) + len(value)
	l.mu.Lock()
	defer l.mu.Unlock()
	kept, total := make([]letter, 0, len(l.kept)+1), one.size
	for _, other := range l.kept {
		if !bytes.Equal(other.key, one.key) {
			kept, total = append(kept, other), total+other.size
		}
	}
	kept = append(kept, one)
	changes := []storage.Change{{Table: storage.Bridges, Key: one.key, Value: value}}
	for len(kept) > maxLetters || total > maxLetterBytes && len(kept) > 1 {
		total -= kept[0].size
		changes = append(changes, storage.Change{Table: storage.Bridges, Key: kept[0].key})
		kept = kept[1:]
	}
	if _, err := l.log.Append(&storage.Record{Time: d.Time.UnixMilli(), Changes: changes}); err == nil {
		l.kept, l.bytes = kept, total
	}
}

// DeadLetters returns the latest messages that the upstream can never take, oldest first: at most 256. It may be
// called from any goroutine.
func (b *Bridge) DeadLetters() []DeadLetter { return b.letters.list() }
