package core

import "errors"

// Log is what the core needs of durable storage. None of its methods waits for the disk: they return the number
// whose arrival in [Core.Durable] means that the effect is on stable storage. Numbers ascend; 0 needs no waiting.
type Log interface {
	// Append copies r; nothing of it is kept. All of r becomes durable at once or nothing does. When a consumer whose
	// policy is to reject is full, or the store is, nothing has been appended and the error wraps [ErrFull]. Any other
	// error means that the log has failed or is closed.
	Append(r *Record) (seq uint64, err error)

	// OpenQueue finds or creates the consumer of that name ("session/" and the client identifier). seq is 0 if it
	// existed. After a Next that returned false, whoever implements Log calls [Core.QueueReady] with the queue's ID,
	// in the loop, when there may be more; spurious calls do no harm.
	OpenQueue(name string) (q Queue, seq uint64, err error)

	// RemoveQueue forgets the consumer and all that waits for it. The Queue is not used any more.
	RemoveQueue(name string) (seq uint64, err error)
}

// Queue is one durable consumer's place in the log. None of its methods waits for the disk.
type Queue interface {
	ID() uint32
	// Next returns the next entry in order of N that is neither acknowledged nor received; false: none in memory now.
	Next() (Entry, bool)
	// Ack says that n is done. Any order, within 65,535 of the oldest that is not.
	Ack(n uint64)
	// Received says that PUBREC has arrived for n: its body is done, n is not.
	Received(n uint64) (seq uint64)
	// Released returns the n that are received and not acknowledged, ascending.
	Released() []uint64
	// Rewind makes Next start again at the oldest entry that is neither acknowledged nor received.
	Rewind()
	// Recovered returns the highest n that existed when the log was opened.
	Recovered() uint64
	// Drop is Ack for an entry that was not delivered, counted under cause.
	Drop(cause string, n uint64)
	// SetLive says whether the client is connected, keeps up and is prompt: then the log may wait a little for its acknowledgement
	// before it makes a QoS 1 message durable, and need not at all once that has come (D1). False at first.
	SetLive(live bool)
	// Len returns the number of entries that are not acknowledged.
	Len() int64
}

// ErrFull is wrapped by [Log.Append] when a consumer or the store has no room and the policy is to say so.
var ErrFull = errors.New("core: the log is full")

// Record is the unit of durability. A Message is an encoded 5.0 PUBLISH: no topic alias, no subscription
// identifiers, Retain as its publisher set it, QoS at least 1 and a packet identifier of 1 that means nothing. How it
// is to be delivered stands in the Options of each Delivery.
type Record struct {
	Time       int64  // arrival, Unix ms
	Message    []byte // nil: the record has changes only
	Deliveries []Delivery
	Changes    []Change
}

// Delivery names one consumer of a record's message.
type Delivery struct {
	Consumer uint32 // Queue.ID
	Options  byte   // see OptionQoS and OptionRetain
	Extra    []byte // subscription identifiers, as variable byte integers; ≤ 1024 bytes
	Hold     bool   // Queue.Next hands it out only once it is durable
}

// The bits of Delivery.Options and Entry.Options.
const (
	OptionQoS    byte = 0x03 // the QoS of the delivery, 1 or 2
	OptionRetain byte = 0x04 // deliver with the retain flag set
)

// Change is one change of a state table. Value nil deletes the row; an existing row never has an empty value.
type Change struct {
	Table      Table
	Key, Value []byte
}

// Table numbers the state tables.
type Table byte

// The state tables. What their rows hold is the core's own business.
const (
	TableSessions      Table = 1 // key: client identifier
	TableSubscriptions Table = 2 // key: client identifier, 0, filter
	TableRetained      Table = 3 // key: topic
	TableInbound       Table = 4 // key: client identifier, 0, packet identifier
)

// Entry is one message of a queue.
type Entry struct {
	N       uint64 // the queue's running number; the packet identifier is N mod 65535 + 1
	Seq     uint64
	Time    int64 // arrival, Unix ms
	Options byte
	Extra   []byte
	Message []byte // as in Record; immutable, valid as long as it is referenced
}
