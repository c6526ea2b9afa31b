package bridge

import (
	"bytes"

	"forebay/broker/packet"
	"forebay/storage"
)

// The bounds of what a lane of the order latest holds in memory. Beyond them messages wait in the store, unread, and
// are compared when their turn comes.
const (
	maxTopics     = 10_000
	maxTopicBytes = 16 << 20 // of messages
)

// newestOfTopics holds the latest unsent message of each topic, in order of their numbers. Messages are copied: each
// would hold on to the piece of the log that it was read with.
type newestOfTopics struct {
	topics map[string]*waiting
	turns  []turn // ascending by n; those whose message has been superseded are skipped
	bytes  int

	publish packet.Publish // scratch
}

type waiting struct {
	topic string
	entry storage.Entry
}

// turn is the place of a message in the order; it is void when w has another number by now.
type turn struct {
	n uint64
	w *waiting
}

// front returns the next message.
func (q *newestOfTopics) front() (*storage.Entry, bool) {
	for ; len(q.turns) > 0; q.turns = q.turns[1:] {
		if t := q.turns[0]; t.w.entry.N == t.n {
			return &t.w.entry, true
		}
	}
	return nil, false
}

// pop removes what front returned.
func (q *newestOfTopics) pop() {
	w := q.turns[0].w
	q.turns = q.turns[1:]
	q.bytes -= len(w.entry.Message)
	if q.topics[w.topic] == w {
		delete(q.topics, w.topic)
	}
}

// put adds e, the latest so far. It returns the number of the message that this one takes the place of.
func (q *newestOfTopics) put(e storage.Entry) (superseded uint64, ok bool) {
	if q.topics == nil {
		q.topics = map[string]*waiting{}
	}
	var topic []byte
	if f, n, err := packet.Next(e.Message, packet.V5, 0); err == nil && n > 0 && q.publish.Decode(f, packet.V5) == nil {
		topic = q.publish.Topic
	}
	w := q.topics[string(topic)]
	if ok = w != nil && topic != nil; ok {
		superseded = w.entry.N
		q.bytes -= len(w.entry.Message)
		e.Message = append(w.entry.Message[:0], e.Message...)
	} else {
		w = &waiting{topic: string(topic)}
		q.topics[w.topic] = w
		e.Message = bytes.Clone(e.Message)
	}
	e.Extra = nil
	w.entry = e
	q.bytes += len(e.Message)
	if len(q.turns) > 2*len(q.topics)+1000 {
		q.tidy()
	}
	q.turns = append(q.turns, turn{e.N, w})
	return superseded, ok
}

// tidy drops the turns that are void.
func (q *newestOfTopics) tidy() {
	kept := q.turns[:0]
	for _, t := range q.turns {
		if t.w.entry.N == t.n {
			kept = append(kept, t)
		}
	}
	clear(q.turns[len(kept):])
	q.turns = kept
}

// collect reads what has come into a lane of the order latest and lets go of what it makes superfluous. It is called
// with and without a link. What has been sent on another link may be superseded too: there is no QoS 2 here, whose
// exchange would have to come to its end.
func (a *lane) collect() {
	for len(a.newest.topics) < maxTopics && a.newest.bytes < maxTopicBytes {
		e, ok := a.read()
		if !ok {
			return
		}
		if old, ok := a.newest.put(e); ok {
			a.cursor.Drop(dropSuperseded, old)
		}
	}
}
