package bridge

import (
	"cmp"
	"slices"
	"time"

	"forebay/storage"
)

// A bridge has a queue for each order and priority that its rules use: a lane. Each lane is a consumer of the log and
// strict within itself, so that all that holds for one queue holds for each of them. A message is in one lane only: the
// broker asks placeOf when the message comes.

// order is the way in which a lane gives out its messages.
type order byte

// The orders of lanes. The numbers are part of packet identifiers: they must not change.
const (
	strict  order = 0 // as they came
	live    order = 1 // live-first: what came while the link was there
	backlog order = 2 // live-first: what came while it was not
	latest  order = 3 // of each topic the latest message only
	orders        = 5 // with one to spare
)

var orderNames = [orders]string{"strict", "live", "backlog", "latest", ""}

// priority says which lanes go first. The numbers are part of packet identifiers: they must not change.
type priority byte

const (
	normal     priority = 0
	high       priority = 1
	low        priority = 2
	priorities          = 3
)

var priorityNames = [priorities]string{"normal", "high", "low"}

const (
	// idsPerLane is how many packet identifiers belong to one lane. Lanes have ranges of their own, and keep them
	// whatever the configuration, so that two messages in flight never share one, not even across a restart.
	idsPerLane = 4096
	// controlIDs is the first of the packet identifiers that belong to no lane: for SUBSCRIBE.
	controlIDs = 1 + orders*priorities*idsPerLane
	// maxWindow bounds how far what is in flight in one lane may spread, in numbers: what may have been sent in a former
	// life is told from what cannot have been by it.
	maxWindow = 4000
	// maxSpread is how far above the oldest message a number may be that was sent in a former life. A crash takes back
	// the acknowledgements of about a second, see storage.Cursor.Ack, and with them the oldest.
	maxSpread = 1 << 17
)

// lane is one queue of a bridge. All but its constants is owned by Run.
type lane struct {
	// Constant after Attach.
	order    order
	priority priority
	cursor   *storage.Cursor

	flown    []uint64 // numbers sent on this link, ascending; those done go when they come to the front
	released []uint64 // the same for those that were released before this link
	// unreleased are to be released when their packet identifier is free. A crash takes back the acknowledgements of the
	// last moment, which may be more than there are identifiers.
	unreleased []uint64
	sentHigh   uint64 // numbers up to this one may have been sent in the present session of the upstream
	dupHigh    uint64 // of those, the highest that can be unacknowledged: sent with DUP
	openHigh   uint64 // the same with room for acknowledgements that a crash has taken back: see bound
	first      bool   // nothing has been read since the last rewind
	dry        bool   // it has nothing that may go in this round

	held    storage.Entry // next to be sent, when holding
	holding bool
	newest  newestOfTopics // of a lane of the order latest
}

func newLane(o order, p priority, cursor *storage.Cursor) *lane {
	return &lane{order: o, priority: p, cursor: cursor, sentHigh: cursor.Recovered(), first: true}
}

// queueName is the name of the lane's queue; that of the first is empty.
func queueName(o order, p priority) string {
	if o == strict && p == normal {
		return ""
	}
	return priorityNames[p] + "." + orderNames[o]
}

// parseQueueName is the reverse of queueName.
func parseQueueName(name string) (o order, p priority, ok bool) {
	for p := range priority(priorities) {
		for o := range order(orders) {
			if orderNames[o] != "" && queueName(o, p) == name {
				return o, p, true
			}
		}
	}
	return 0, 0, false
}

// slot tells lanes apart in what is stored and on the wire.
func (a *lane) slot() byte { return byte(a.priority)*orders + byte(a.order) }

// packetID returns the packet identifier of the message with number n.
func (a *lane) packetID(n uint64) uint16 {
	return uint16(1 + int(a.slot())*idsPerLane + int(n%idsPerLane))
}

// sortLanes puts those that go first to the front: backlogs come last, for they are what has lost its hurry.
func sortLanes(lanes []*lane) {
	rank := func(a *lane) int {
		r := [priorities]int{high: 0, normal: 1, low: 2}[a.priority]*orders + [orders]int{live: 0, latest: 1, strict: 2}[a.order]
		if a.order == backlog {
			r += priorities * orders
		}
		return r
	}
	slices.SortStableFunc(lanes, func(a, b *lane) int { return cmp.Compare(rank(a), rank(b)) })
}

// rewind begins again with the oldest message that is neither acknowledged nor received. The flights are the caller's.
func (a *lane) rewind() {
	a.flown, a.released, a.unreleased = a.flown[:0], nil, nil
	a.holding, a.held, a.first = false, storage.Entry{}, true
	a.newest = newestOfTopics{}
	a.cursor.Rewind()
}

// read returns the next entry of the cursor.
func (a *lane) read() (storage.Entry, bool) {
	e, ok := a.cursor.Next()
	if ok && a.first {
		a.first, a.dupHigh, a.openHigh = false, min(a.sentHigh, e.N+maxWindow-1), min(a.sentHigh, e.N+maxSpread-1)
	}
	return e, ok
}

// peek returns the message that is next, which is the lane's until advance.
func (a *lane) peek() (*storage.Entry, bool) {
	if a.order == latest {
		a.collect()
		return a.newest.front()
	}
	if !a.holding {
		a.held, a.holding = a.read()
	}
	return &a.held, a.holding
}

// advance lets go of the message that peek returned.
func (a *lane) advance() {
	if a.order == latest {
		a.newest.pop()
		return
	}
	a.holding, a.held = false, storage.Entry{}
}

// repeated reports whether n may have been sent before in the present session.
func (a *lane) repeated(n uint64) bool { return n <= a.dupHigh }

// sent notes that n is in flight.
func (a *lane) sent(n uint64) {
	a.flown = append(a.flown, n)
	a.sentHigh = max(a.sentHigh, n)
}

// aged reports whether e belongs to what has piled up, rather than to what is just coming.
func (a *lane) aged(e *storage.Entry, now time.Time) bool {
	return a.order == backlog || now.UnixMilli()-e.Time > backlogAge.Milliseconds()
}

// bound reports whether e, which is not in flight, may have an exchange open at the upstream, which must come to its
// end: a later message with its packet identifier would be taken for a repetition.
func (a *lane) bound(e *storage.Entry) bool { return e.Options&3 == 2 && e.N <= a.openHigh }
