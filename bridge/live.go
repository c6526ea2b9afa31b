package bridge

import (
	"sync"

	"forebay/broker/packet"
)

// liveLimit bounds the QoS 0 messages that wait for the upstream, in bytes as encoded.
const liveLimit = 1 << 20

// liveBuffer holds QoS 0 messages between the broker's goroutine and Run's: encoded one behind the other. It takes
// nothing while the link is away, for nobody wants those messages later.
type liveBuffer struct {
	wake func() // constant; tells Run that there is something. Must not block.

	mu       sync.Mutex
	open     bool
	waiting  []byte
	offline  uint64 // dropped because the link was away
	overflow uint64 // dropped because the buffer was full
}

// put copies p into the buffer or counts it as dropped. It is called by the broker's goroutine.
func (q *liveBuffer) put(p *packet.Publish) {
	m := *p
	m.Dup, m.QoS, m.PacketID, m.TopicAlias, m.SubscriptionIDs = false, 0, 0, 0, nil
	size := packet.PublishSize(&m, packet.V5)
	q.mu.Lock()
	first := false
	switch {
	case !q.open:
		q.offline++
	case len(q.waiting)+size > liveLimit:
		q.overflow++
	default:
		first = len(q.waiting) == 0
		q.waiting = m.Append(q.waiting, packet.V5)
	}
	q.mu.Unlock()
	if first {
		q.wake()
	}
}

// take returns what has gathered and continues with the buffer given.
func (q *liveBuffer) take(empty []byte) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	full := q.waiting
	q.waiting = empty[:0]
	return full
}

// setOpen says whether the link is there. What waits when it goes is dropped.
func (q *liveBuffer) setOpen(open bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open = open
	if open {
		return
	}
	for rest := q.waiting; len(rest) > 0; {
		_, n, err := packet.Next(rest, packet.V5, 0)
		if err != nil || n == 0 {
			panic("BUG: bridge: the live buffer holds what is no packet")
		}
		q.offline++
		rest = rest[n:]
	}
	q.waiting = q.waiting[:0]
}

// dropped returns the counters.
func (q *liveBuffer) dropped() (offline, overflow uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.offline, q.overflow
}
