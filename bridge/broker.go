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

	// Attach makes the bridge a durable consumer and returns the cursors of its queues: the one without a name and
	// those of a.Queues. A bridge never detaches itself, not even when it stops: only who removes it from the
	// configuration knows that nobody wants its messages any more. Entry.Options of the cursor has the QoS in its two
	// lowest bits, Entry.Message is an encoded PUBLISH of 5.0 with the retain flag as published.
	Attach(a Attachment) ([]*storage.Cursor, error)

	// Queues returns the queues that the store has under the name of an Attachment, the one without a name left out.
	Queues(name string) []string

	// Resort makes the broker ask Place again for topics that it has asked for before. It does not wait.
	Resort()
}

// Attachment is what makes a bridge a durable consumer.
type Attachment struct {
	Name    string   // also the Origin of the bridge's own messages, which it does not get
	Queues  []string // beside the one without a name
	Limits  storage.Limits
	Filters []string

	// Place is asked once for each topic that a filter matches, from a goroutine of the broker. It does not block and
	// keeps nothing of topic.
	Place func(topic []byte) Place

	// Live gets the messages of QoS 0, from a goroutine of the broker: it copies what it needs and does not block.
	Live func(p *packet.Publish)
}

// Place says into which queue a topic goes, with the QoS min(max(published, Lift), MaxQoS).
type Place struct {
	Not          bool // into none
	Queue        int  // 0: the one without a name, 1: Queues[0] …
	MaxQoS, Lift byte
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
