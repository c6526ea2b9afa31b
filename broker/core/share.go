package core

import "forebay/broker/packet"

// share is a shared subscription of 5.0 (4.8.2): the sessions that have subscribed to the same filter under the same
// name. Each message goes to one of them. It has no state beyond its members and whose turn it is, and is gone with
// the last of them.
type share struct {
	node    *node
	hash    bool // the filter goes on with #
	place   int  // in node.more.shares
	members []*subscription
	turn    int // who is asked first for the next message
}

// splitShared is packet.SplitShared for the filters of subscriptions: one that is not well-formed is not shared.
func splitShared(filter string) (name, pattern string, shared bool) {
	if len(filter) == 0 || filter[0] != '$' {
		return "", filter, false // nearly all
	}
	a, b, shared, err := packet.SplitShared([]byte(filter))
	if err != nil || !shared {
		return "", filter, false
	}
	return string(a), string(b), true
}

// join makes sub, of s, a member of the shared subscription of its filter.
func (r *router) join(s *session, sub *subscription, pattern string) {
	sh := r.shares[sub.filter]
	if sh == nil {
		sh = &share{}
		sh.node, sh.hash = r.reach(pattern)
		at := sh.node.grow()
		sh.place = len(at.shares)
		at.shares = append(at.shares, sh)
		if r.shares == nil {
			r.shares = map[string]*share{}
		}
		r.shares[sub.filter] = sh
	}
	sub.share, sub.place = sh, int32(len(sh.members))
	sh.members = append(sh.members, sub)
	sub.alone = &target{session: s, qos: sub.qos, retainAsPublished: sub.retainAsPublished}
	if sub.id != 0 {
		sub.alone.ids = []uint32{sub.id}
	}
}

// part takes sub out of its shared subscription.
func (r *router) part(sub *subscription) {
	sh := sub.share
	last := len(sh.members) - 1
	sh.members[sub.place] = sh.members[last]
	sh.members[sub.place].place = sub.place
	sh.members[last] = nil
	sh.members = sh.members[:last]
	if last > 0 {
		return
	}
	delete(r.shares, sub.filter)
	at := sh.node.more
	last = len(at.shares) - 1
	at.shares[sh.place] = at.shares[last]
	at.shares[sh.place].place = sh.place
	at.shares[last] = nil
	at.shares = at.shares[:last]
	sh.node.prune()
}

// share adds the shared subscriptions of a node to the route.
func (r *route) share(n *node, hash bool) {
	if n.more == nil {
		return
	}
	for _, sh := range n.more.shares {
		if sh.hash == hash {
			r.shared = append(r.shared, sh)
		}
	}
}

// choose picks one member of every shared subscription that the message goes to, before anything is stored: a record
// names its consumers. A session may be chosen several times, and gets what it has subscribed to by itself besides, each
// with the identifier of its subscription [MQTT-3.3.4-5]. From now on the message is that session's: it completes it
// [MQTT-4.8.2-4], nobody else gets it when the session ends [MQTT-4.8.2-5] or its client refuses it [MQTT-4.8.2-6].
func (c *Core) choose(pub *publication) {
	c.chosen = c.chosen[:0]
	for _, sh := range pub.route.shared {
		c.work += len(sh.members)
		if sub := c.pick(sh, pub.p); sub != nil {
			c.chosen = append(c.chosen, sub.alone)
		}
	}
	pub.chosen = c.chosen
}

// pick returns the member that gets a message, of those that may read it: in turn, the first that is connected and has room; else the
// first that is connected; else, for a message that can wait, the first whose session is in the log. It is nil when
// there is none: then the message is lost to this subscription, as it would be to a session that is not there.
func (c *Core) pick(sh *share, p *packet.Publish) *subscription {
	best, rank := -1, 0
	for i := range sh.members {
		at := (sh.turn + i) % len(sh.members)
		if r := sh.members[at].rank(p.QoS); r > rank && c.maySee(sh.members[at], p.Topic) {
			if best, rank = at, r; r == ready {
				break
			}
		}
	}
	if best < 0 {
		return nil
	}
	sh.turn = best + 1
	return sh.members[best]
}

// How well a member of a shared subscription can take a message.
const (
	absent = iota // it would not get it
	asleep        // its client is away, and the log keeps it
	behind        // its client is connected, and has others to take first
	ready
)

// rank returns how well the session can take a message of that QoS now.
func (sub *subscription) rank(qos byte) int {
	s, conn := sub.session, sub.session.conn
	qos = min(qos, sub.qos)
	if conn == nil || !conn.established || conn.ending {
		if qos > 0 && s.queue != nil {
			return asleep
		}
		return absent
	}
	switch {
	case conn.overBound():
		return behind
	case qos > 0 && (s.flights.count >= int(conn.inflight) || s.backlog.len() > 0 || s.queue != nil && !s.live):
		return behind
	}
	return ready
}
