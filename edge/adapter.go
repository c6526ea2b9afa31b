package edge

import (
	"errors"
	"fmt"

	"forebay/bridge"
	"forebay/broker"
	"forebay/broker/packet"
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

func (l *localBroker) Attach(name string, limits storage.Limits, filters []bridge.Filter, live func(*packet.Publish)) (*storage.Cursor, error) {
	a := broker.Attachment{Name: name, Limits: limits, Live: live}
	for _, f := range filters {
		a.Filters = append(a.Filters, broker.AttachFilter{Filter: f.Filter, MaxQoS: f.MaxQoS, Lift: f.Lift, NoLocal: f.NoLocal})
	}
	return l.server.Attach(a)
}
