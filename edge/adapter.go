package edge

import (
	"context"
	"errors"
	"fmt"
	"time"

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
	store  *storage.Log
}

func (l *localBroker) Publish(m *bridge.Message, done func(error)) {
	l.server.Publish(&broker.Message{
		Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain,
		Properties: m.Properties, Origin: m.Origin,
	}, func(err error) {
		switch {
		case errors.Is(err, broker.ErrClosed):
			done(fmt.Errorf("%w: %w", storage.ErrClosed, err))
		case err != nil || len(m.Changes) == 0:
			done(err)
		default:
			l.keep(m.Changes, done)
		}
	})
}

// keep writes the rows that belong to a message which is safe already.
//
// BUG(edge): the broker has no way in for rows, so they are not in the same
// record as the message: a gateway that is killed between the two takes a
// downlink message of QoS 2 twice.
func (l *localBroker) keep(rows []storage.Change, done func(error)) {
	seq, err := l.store.Append(&storage.Record{Time: time.Now().UnixMilli(), Changes: rows})
	if err != nil {
		// The message has been published, so this is no refusal of it.
		done(fmt.Errorf("%w: %w", storage.ErrFailed, err))
		return
	}
	// Ends with the store: WaitSafe returns when it fails or is closed.
	go func() { done(l.store.WaitSafe(context.Background(), seq)) }()
}

func (l *localBroker) Attach(name string, limits storage.Limits, filters []bridge.Filter, live func(*packet.Publish)) (*storage.Cursor, error) {
	a := broker.Attachment{Name: name, Limits: limits, Live: live}
	for _, f := range filters {
		a.Filters = append(a.Filters, broker.AttachFilter{Filter: f.Filter, MaxQoS: f.MaxQoS, Lift: f.Lift, NoLocal: f.NoLocal})
	}
	return l.server.Attach(a)
}
