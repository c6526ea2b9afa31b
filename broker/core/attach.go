package core

import (
	"fmt"

	"forebay/broker/packet"
)

// attachment is a registered Attachment.
type attachment struct {
	Attachment
	subscriptions []*subscription
}

// Attach registers the filters of an attachment; an earlier one of that name is replaced. The filters must be valid
// and the queue open.
func (c *Core) Attach(a Attachment) error {
	for _, f := range a.Filters {
		if err := packet.CheckTopicFilter([]byte(f.Filter)); err != nil {
			return fmt.Errorf("core: attach %s: filter %q: %w", a.Name, f.Filter, err)
		}
		if f.MaxQoS > 2 || f.Lift > 2 {
			return fmt.Errorf("core: attach %s: filter %q: no such QoS", a.Name, f.Filter)
		}
	}
	c.Detach(a.Name)
	at := &attachment{Attachment: a}
	for _, f := range a.Filters {
		sub := &subscription{attachment: at, filter: f.Filter, qos: f.MaxQoS, lift: f.Lift}
		at.subscriptions = append(at.subscriptions, sub)
		c.router.add(nil, sub)
	}
	c.attachments[a.Name] = at
	return nil
}

// Resort makes the attachments with Place decide anew.
func (c *Core) Resort() { c.router.generation++ }

// Detach ends an attachment; its queue is its owner's. It is not an error if there is none.
func (c *Core) Detach(name string) {
	at := c.attachments[name]
	if at == nil {
		return
	}
	delete(c.attachments, name)
	for _, sub := range at.subscriptions {
		c.router.remove(sub)
	}
}
