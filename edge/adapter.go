package edge

import (
	"context"
	"errors"
	"strings"
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

// attachmentName is the name of an attachment whose name in the store is given:
// bridges are known by the latter.
func attachmentName(consumer string) string { return strings.TrimPrefix(consumer, consumerPrefix) }

func (l *localBroker) Publish(m *bridge.Message, done func(error)) {
	l.server.Publish(&broker.Message{
		Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain,
		Properties: m.Properties, Origin: attachmentName(m.Origin),
	}, func(err error) {
		if err != nil || len(m.Changes) == 0 {
			done(refusal(err))
			return
		}
		l.keep(m.Changes, done)
	})
}

// keep writes the rows that belong to a message which is safe already.
//
// BUG(edge): the broker has no way in for rows, so they are not in the same
// record as the message: a gateway that is killed between the two takes a
// command of QoS 2 twice.
func (l *localBroker) keep(rows []storage.Change, done func(error)) {
	seq, err := l.store.Append(&storage.Record{Time: time.Now().UnixMilli(), Changes: rows})
	if err != nil {
		done(err)
		return
	}
	// Ends with the store: WaitSafe returns when it fails or is closed.
	go func() { done(l.store.WaitSafe(context.Background(), seq)) }()
}

// refusal words an error of the broker as bridges know it.
func refusal(err error) error {
	switch {
	case errors.Is(err, broker.ErrBusy):
		return errors.Join(&storage.FullError{Limit: "waiting"}, err)
	case errors.Is(err, broker.ErrClosed):
		return errors.Join(storage.ErrClosed, err)
	}
	return err
}

func (l *localBroker) Attach(name string, limits storage.Limits, filters []bridge.Filter, live func(*packet.Publish)) (*storage.Cursor, error) {
	a := broker.Attachment{Name: attachmentName(name), Limits: limits, Live: live}
	for _, f := range filters {
		a.Filters = append(a.Filters, broker.AttachFilter{Filter: f.Filter, MaxQoS: f.MaxQoS, Lift: f.Lift, NoLocal: f.NoLocal})
	}
	return l.server.Attach(a)
}

func (l *localBroker) Detach(name string) {
	// Both fail only when the gateway is stopping; the queue is then found,
	// and reported, at the next start.
	_ = l.server.Detach(attachmentName(name))
	_, _ = l.store.RemoveConsumer(name)
}
