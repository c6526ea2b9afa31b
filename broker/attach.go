package broker

import (
	"fmt"
	"strings"

	"forebay/broker/core"
	"forebay/broker/packet"
	"forebay/storage"
)

// AttachFilter is one filter of an Attachment.
type AttachFilter = core.AttachFilter

// Attachment is a durable consumer of messages that is no MQTT session: a bridge.
type Attachment struct {
	Name    string // its consumer in the log is "bridge/" and this
	Filters []AttachFilter
	Limits  storage.Limits // of each of its consumers

	// Live is called in the loop for each message with QoS 0. It must not block, and copies what it keeps. Messages
	// with QoS 1 and 2 are in the log.
	Live func(p *packet.Publish)

	// Queues names further consumers: "bridge/", Name, "#" and the queue's name. They need Place.
	Queues []string

	// Place, if set, decides about each topic that a filter matches, instead of the filters' QoS. It is called in the
	// loop, once for a topic until Resort, does not block, and keeps nothing of topic.
	Place func(topic []byte) Place
}

// Place says what becomes of a topic that an attachment's filters match.
type Place struct {
	Not    bool // the attachment does not get it
	Queue  int  // 0: the consumer without a queue's name, 1: Queues[0] …
	MaxQoS byte // as in AttachFilter
	Lift   byte
}

// consumer returns the name in the log of the attachment's queue; "" is the first.
func (a *Attachment) consumer(queue string) string {
	if queue == "" {
		return consumerPrefix + a.Name
	}
	return consumerPrefix + a.Name + queueMark + queue
}

// queueMark stands between the names of an attachment and of its queue.
const queueMark = "#"

// Attach opens the consumers of an attachment in the log and registers its filters; one of the same name is replaced.
// Messages published after Attach has returned are covered; called before Run, all are. The cursor, that of the
// consumer without a queue's name, is the caller's.
func (s *Server) Attach(a Attachment) (*storage.Cursor, error) {
	cursors, err := s.AttachQueues(a)
	if err != nil {
		return nil, err
	}
	return cursors[0], nil
}

// AttachQueues is Attach for an attachment with Queues: it returns the cursors of all, in order.
func (s *Server) AttachQueues(a Attachment) ([]*storage.Cursor, error) {
	for _, f := range a.Filters {
		if err := packet.CheckTopicFilter([]byte(f.Filter)); err != nil {
			return nil, fmt.Errorf("broker: attach %s: filter %q: %w", a.Name, f.Filter, err)
		}
		if f.MaxQoS > 2 || f.Lift > 2 {
			return nil, fmt.Errorf("broker: attach %s: filter %q: QoS is above 2", a.Name, f.Filter)
		}
	}
	var cursors []*storage.Cursor
	for _, queue := range append([]string{""}, a.Queues...) {
		cursor, _, err := s.store.OpenConsumer(a.consumer(queue), a.Limits)
		if err != nil {
			return nil, fmt.Errorf("broker: attach %s: %w", a.Name, err)
		}
		cursors = append(cursors, cursor)
	}
	attachment := core.Attachment{Name: a.Name, QueueID: uint32(cursors[0].ID()), Filters: a.Filters, Live: a.Live}
	if a.Place != nil {
		attachment.Place = func(topic []byte) (core.Place, bool) {
			p := a.Place(topic)
			return core.Place{QueueID: uint32(cursors[p.Queue].ID()), MaxQoS: p.MaxQoS, Lift: p.Lift}, !p.Not
		}
	}
	err := s.inbox.postCall(func() {
		if err := s.loop.core.Attach(attachment); err != nil {
			s.lines.Error("broker: attach failed", "name", attachment.Name, "err", err)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("broker: attach %s: %w", a.Name, err)
	}
	return cursors, nil
}

// Queues returns the names of the queues of an attachment that the log has, the one without a name left out.
func (s *Server) Queues(attachment string) []string {
	var queues []string
	for _, name := range s.store.Consumers() {
		if queue, ok := strings.CutPrefix(name, consumerPrefix+attachment+queueMark); ok {
			queues = append(queues, queue)
		}
	}
	return queues
}

// Resort lets every Place decide anew. It does not wait for the loop: until that has gone round, topics that were
// placed before go where they went.
func (s *Server) Resort() error {
	if err := s.inbox.postCall(func() { s.loop.core.Resort() }); err != nil {
		return fmt.Errorf("broker: resort: %w", err)
	}
	return nil
}

// Detach ends an attachment: Live is not called any more once Detach has returned and the loop has gone round. Its
// consumers in the log stay, with what waits in them.
func (s *Server) Detach(name string) error {
	if err := s.inbox.postCall(func() { s.loop.core.Detach(name) }); err != nil {
		return fmt.Errorf("broker: detach %s: %w", name, err)
	}
	return nil
}
