package storage

import "time"

// Seq numbers the appended records of this process's life and before,
// ascending. It is never 0.
type Seq uint64

// ConsumerID names a consumer in Deliveries. It is never reused.
type ConsumerID uint32

// Table is one of the tables kept beside the messages. The store does not look
// inside their keys and values; the numbers are part of the file format.
type Table byte

// The tables.
const (
	Sessions      Table = 1
	Subscriptions Table = 2
	Retained      Table = 3
	InboundIDs    Table = 4
	Statistics    Table = 5
	Bridges       Table = 6
	Modbus        Table = 7
)

// Limits of one record; an Append beyond them is refused with an error.
const (
	MaxMessage    = 256<<20 + 64<<10 // bytes of Record.Message: the largest MQTT packet and some
	MaxExtra      = 1024             // bytes of Delivery.Extra
	MaxKey        = 16 << 10         // bytes of Change.Key
	MaxDeliveries = 1 << 20          // deliveries, and changes, of one record
)

// Record is what Append takes. The store copies what it needs: nothing of it is
// kept, so the caller may reuse every slice.
type Record struct {
	Time       int64      // arrival, Unix ms
	Message    []byte     // opaque; stored once however many deliveries there are
	Deliveries []Delivery // who gets it; empty: Message is not stored
	Changes    []Change   // table changes that become durable together with it
}

// Delivery hands a record's message to one consumer.
type Delivery struct {
	Consumer ConsumerID
	Options  byte   // opaque to the store (the broker: QoS, retain flag)
	Extra    []byte // opaque, usually empty, at most MaxExtra bytes
	Hold     bool   // Next hands it out only once it is durable (QoS 2, D2)
}

// Change sets or deletes one row.
type Change struct {
	Table Table
	Key   []byte // 1 to MaxKey bytes
	Value []byte // nil: delete; empty: a row with an empty value
}

// Entry is what Cursor.Next hands out.
type Entry struct {
	N       uint64 // the consumer's running number, from 1; the packet identifier is N mod 65535 + 1
	Seq     Seq    // of its record: durable once Log.Safe has reached it
	Time    int64  // arrival, Unix ms
	Options byte
	Extra   []byte // immutable, valid as long as it is referenced
	Message []byte // immutable, valid as long as it is referenced

	hold bool // Delivery.Hold
}

// Policy says what Append does when a consumer has reached a limit of bytes or
// count.
type Policy byte

// The policies.
const (
	Reject     Policy = iota // the whole record is refused with a FullError
	DropOldest               // the consumer's oldest unread entries go, and are counted; see Limits
	DropNewest               // the new message is not delivered to this consumer, and is counted
)

// Limits of one consumer. Zero fields set no limit.
//
// Entries with Hold that Next may have handed out, in this life or before, are
// dropped neither for age nor for room: their packet identifiers may be open at
// the peer. When nothing else can go, the new message does.
//
// When a consumer begins to refuse or drop, one line in the log says so, and
// one when it has had room again for a while. Likewise when four fifths of a
// limit are reached, and when it is under half of each again.
type Limits struct {
	MaxBytes int64         // of messages and extras waiting, acknowledged ones not counted
	MaxCount int64         // of messages waiting
	MaxAge   time.Duration // older ones are dropped when their turn comes, and counted as "age"; see clock for a clock that is set
	WhenFull Policy
}

// The causes that the store itself counts drops under; see CursorStats.
const (
	CauseFull    = "full"    // a limit was reached, and the policy says drop
	CauseAge     = "age"     // older than Limits.MaxAge
	CauseDamaged = "damaged" // could not be read back
)
