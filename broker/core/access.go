package core

import "math"

// Access says how much of what a filter matches a client may receive.
type Access byte

const (
	AccessNone Access = iota // no topic: the subscription is refused
	AccessSome               // each topic is asked for, see Authorizer.MayReceive
	AccessAll                // every topic that the filter matches
)

// Authorizer decides what an authenticated client may do. user is empty for an anonymous client. It is asked in the
// loop, so it must not block; topic and filter are valid during the call only.
type Authorizer interface {
	// MayPublish is asked once per connection and topic, as long as the topic does not change.
	MayPublish(clientID, user string, topic []byte) bool
	// MaySubscribe is asked once per filter of a SUBSCRIBE, and once more for each subscription after a change.
	MaySubscribe(clientID, user string, filter []byte) Access
	// MayReceive is asked when a route is made: once per subscription with AccessSome and topic, until a subscription
	// or the authorizer changes; and for each message that was waiting when the authorizer changed.
	MayReceive(clientID, user string, topic []byte) bool
}

// SetAuthorizer replaces the authorizer; nil allows everything. Subscriptions that exist stay: what their client may not
// read any more is left out, of what waits for it already too.
func (c *Core) SetAuthorizer(a Authorizer) {
	c.cfg.Authorizer = a
	c.accessChanges++
	if c.accessSeq != math.MaxUint64 {
		c.accessSeq = c.appended
	}
	c.router.generation++ // what connections and routes remember is outdated
}

// maySee reports whether the client of a session's subscription may read a topic that its filter matches. The
// answer about the whole filter is kept with the subscription.
func (c *Core) maySee(sub *subscription, topic []byte) bool {
	a, s := c.cfg.Authorizer, sub.session
	if a == nil {
		return true
	}
	if sub.accessAsked != c.accessChanges {
		sub.access, sub.accessAsked = a.MaySubscribe(s.clientID, s.username, []byte(sub.filter)), c.accessChanges
	}
	return sub.access == AccessAll || sub.access == AccessSome && a.MayReceive(s.clientID, s.username, topic)
}

// setUser says as whom a client has logged in to its session. Another user than before has other rights.
func (s *session) setUser(c *Core, username string) {
	if s.username == username {
		return
	}
	s.username = username
	s.accessSeq = c.appended
	if s.subscriptions.len() == 0 {
		return
	}
	for sub := range s.subscriptions.all() {
		sub.accessAsked = 0
	}
	c.router.generation++
}

// authorised returns the number of the access rules under which an entry of the queue was put there; 0 if they have
// changed since, or may have while the process was not there.
func (s *session) authorised(c *Core, e *Entry) uint32 {
	if e.Seq <= max(c.accessSeq, s.accessSeq) {
		return 0
	}
	return c.accessChanges
}

// maySend reports whether a stored message may still go to the client of a connection.
func (conn *Conn) maySend(m *stored, topic []byte) bool {
	c := conn.core
	if m.access == c.accessChanges || c.cfg.Authorizer == nil {
		return true
	}
	return c.cfg.Authorizer.MayReceive(conn.clientID, conn.session.username, topic)
}
