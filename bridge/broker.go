package bridge

import (
	"context"

	"forebay/broker/packet"
	"forebay/storage"
)

// Broker is what a bridge needs of the local broker.
type Broker interface {
	// Publish hands one downlink message over; m and all it refers to belong to the broker until done. It does not wait
	// and may be called from any goroutine; messages of one goroutine keep their order. done is called once, from a
	// goroutine of the broker, when D1 would allow an acknowledgement, or with the refusal, in which case nothing of
	// the message was stored. It does not block.
	//
	// A bridge sorts the refusals. storage.ErrFailed and storage.ErrClosed: nothing is kept now, and nothing is
	// answered until it is. *storage.FullError: a queue is full, the upstream is told. *packet.Error: this message
	// never. Any other: busy for the moment, the message is offered a few times more.
	Publish(m *Message, done func(error))

	// Attach makes the bridge a durable consumer of filters under name, which is also the Origin of its messages.
	// live gets the messages of QoS 0, from a goroutine of the broker: it copies what it needs and does not block.
	// A bridge never detaches itself, not even when it stops: only who removes it from the configuration knows that
	// nobody wants its messages any more. Entry.Options of the cursor has the QoS in its two lowest bits,
	// Entry.Message is an encoded PUBLISH of 5.0 with the retain flag as published.
	Attach(name string, limits storage.Limits, filters []Filter, live func(p *packet.Publish)) (*storage.Cursor, error)
}

// Message is a message for the local broker.
type Message struct {
	Topic      string
	Payload    []byte
	QoS        byte
	Retain     bool
	Properties packet.PublishProperties
	Origin     string           // the name the bridge is attached under: the message is not sent back to it
	Changes    []storage.Change // rows that become durable in the same record as the message
}

// Filter is one filter of a bridge's durable consumer. A message goes to it at most once, with the QoS
// min(max(published, Lift), MaxQoS); of several matching filters the one that gives the highest QoS counts.
type Filter struct {
	Filter       string
	MaxQoS, Lift byte
	NoLocal      bool // not what the bridge itself published
}

// Rows are the tables of the store.
type Rows interface {
	Each(t storage.Table, fn func(key, value []byte) error) error
}

// Log is what a bridge needs of the store beside its cursor; *storage.Log has it.
type Log interface {
	Rows
	Append(r *storage.Record) (storage.Seq, error)
	Safe() storage.Seq
	WaitSafe(ctx context.Context, s storage.Seq) error
}
