package core

import (
	"fmt"
	"strings"
	"time"
)

// restoredSession collects the rows of one client, which come in any order.
type restoredSession struct {
	row           bool // there is one in TableSessions
	durable       bool
	wasConnected  bool
	away          time.Duration // since the client left
	username      string
	expiry        uint32
	quiet         time.Duration
	will          *will
	subscriptions []*subscription
	inbound       []uint16
}

// restored returns the collection of a client.
func (c *Core) restored(clientID string) *restoredSession {
	if c.restoring == nil {
		c.restoring = map[string]*restoredSession{}
	}
	r := c.restoring[clientID]
	if r == nil {
		r = &restoredSession{}
		c.restoring[clientID] = r
	}
	return r
}

// Restore takes one row of a state table as it was durable. key and value are not kept. A row that cannot be read is
// an error and changes nothing: the caller reports it and goes on (D7).
func (c *Core) Restore(t Table, key, value []byte) error {
	switch t {
	case TableSessions:
		return c.restoreSession(string(key), value)
	case TableSubscriptions:
		return c.restoreSubscription(string(key), value)
	case TableRetained:
		return c.restoreRetained(string(key), value)
	case TableInbound:
		return c.restoreInbound(string(key), value)
	}
	return fmt.Errorf("core: restore: no table %d", t)
}

// Restored ends the restoring, also when there was nothing to restore: it opens the queues of the sessions and starts
// the clocks of session expiry and wills. queues are the names of all consumers in the log; those of sessions that
// do not exist are removed.
func (c *Core) Restored(queues []string) error {
	for clientID, r := range c.restoring {
		if !r.row {
			c.forget(clientID, r)
			continue
		}
		if err := c.restoreOne(clientID, r); err != nil {
			return err
		}
	}
	c.restoring = nil
	for _, name := range queues {
		clientID, ours := strings.CutPrefix(name, queuePrefix)
		if s := c.sessions[clientID]; !ours || s != nil && s.queue != nil {
			continue
		}
		if _, err := c.log.RemoveQueue(name); err != nil {
			return fmt.Errorf("core: remove queue %q: %w", name, err)
		}
	}
	return nil
}

// forget deletes rows that belong to no session: its own row could not be read. They must not become part of the next
// session of that client.
func (c *Core) forget(clientID string, r *restoredSession) {
	changes := []Change{{TableSessions, []byte(clientID), nil}}
	for _, sub := range r.subscriptions {
		changes = append(changes, Change{TableSubscriptions, rowKey(clientID, sub.filter), nil})
	}
	for _, id := range r.inbound {
		changes = append(changes, Change{TableInbound, inboundKey(clientID, id), nil})
	}
	if _, err := c.append(&Record{Time: c.wall, Changes: changes}); err != nil {
		c.stats.StateLost++
	}
}

// restoreOne makes the session of one client.
func (c *Core) restoreOne(clientID string, r *restoredSession) error {
	s := &session{
		clientID: clientID, username: r.username, expiry: r.expiry, quiet: r.quiet, will: r.will,
		left: c.clock - r.away, rowKept: true,
	}
	if r.durable {
		queue, _, err := c.log.OpenQueue(queueName(clientID))
		if err != nil {
			return fmt.Errorf("core: open the queue of a session: %w", err)
		}
		s.queue = queue
		s.sent = queue.Recovered()
		c.queues[queue.ID()] = s
		for _, sub := range r.subscriptions {
			c.router.add(s, sub)
		}
		for _, id := range r.inbound {
			s.receive(id)
		}
	}
	c.sessions[clientID] = s
	c.restoreWill(s, r.wasConnected)
	if !r.durable && s.will != nil {
		// The session is over, what is left of it is its will: it goes when the session "expires".
		s.expiry = uint32((s.willDue - c.clock) / time.Second)
	}
	c.due(s.end())
	return nil
}
