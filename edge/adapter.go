package edge

import (
	"errors"
	"fmt"

	"forebay/bridge"
	"forebay/broker"
	"forebay/storage"
)

// consumerPrefix begins the names that attachments of the broker have in the
// store.
const consumerPrefix = "bridge/"

// localBroker is the broker as a bridge sees it: bridge.Broker.
type localBroker struct {
	server *broker.Server
}

func (l *localBroker) Publish(m *bridge.Message, done func(error)) {
	l.server.Publish(&broker.Message{
		Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain,
		Properties: m.Properties, Origin: m.Origin, Changes: m.Changes,
	}, func(err error) {
		if errors.Is(err, broker.ErrClosed) {
			err = fmt.Errorf("%w: %w", storage.ErrClosed, err)
		}
		done(err)
	})
}

func (l *localBroker) Attach(a bridge.Attachment) ([]*storage.Cursor, error) {
	to := broker.Attachment{Name: a.Name, Limits: a.Limits, Queues: a.Queues, Live: a.Live, Place: func(topic []byte) broker.Place {
		return broker.Place(a.Place(topic))
	}}
	for _, f := range a.Filters {
		to.Filters = append(to.Filters, broker.AttachFilter{Filter: f, MaxQoS: 2, NoLocal: true})
	}
	return l.server.AttachQueues(to)
}

func (l *localBroker) Queues(name string) []string { return l.server.Queues(name) }

func (l *localBroker) Resort() {
	_ = l.server.Resort() // it fails when the broker has ended: nothing comes any more
}
