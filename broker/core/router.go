package core

import "bytes"

// router finds who gets a topic. Subscriptions stand in a tree of topic levels; what a walk through it yields for one
// topic is a route, kept in a cache. Every change of the tree makes all routes outdated by advancing generation.
type router struct {
	root       node
	generation uint64
	count      int               // subscriptions of sessions
	shares     map[string]*share // by filter, $share and all

	maySee  func(sub *subscription, topic []byte) bool // constant; nil: everyone may read everything
	walking []byte                                     // the topic of the route under construction

	cache        map[string]*route
	cacheBytes   int // of topics
	cacheTargets int
	swept        uint64 // generation at the last forgetOutdated
}

// The bounds of the cache. Beyond one of them it begins anew.
const (
	maxCachedRoutes  = 16_384
	maxCachedBytes   = 2 << 20
	maxCachedTargets = 1 << 18
)

// node is one level of the tree.
type node struct {
	parent   *node
	level    string
	children map[string]*node // by level, without wildcards
	plus     *node
	here     []*subscription // filters that end with this level
	more     *more           // nil: nothing
}

// more is what few nodes have.
type more struct {
	below  []*subscription // filters that go on with #
	shares []*share        // shared subscriptions of either kind
}

// subscription is one filter of a session or an attachment.
type subscription struct {
	session    *session
	attachment *attachment // instead of session
	filter     string

	qos               byte // of an attachment: the maximum
	lift              byte // of an attachment
	noLocal           bool
	retainAsPublished bool
	retainHandling    byte
	access            Access // what the client may read of it, see accessAsked
	hash              bool   // in node.more.below, not in node.here
	id                uint32 // 0: none
	accessAsked       uint32 // Core.accessChanges when access was found out; 0: never

	place int32 // in the list of the node or share
	node  *node
	share *share  // instead of node and hash, which are those of the share
	alone *target // what a member of a share gets when it is chosen
}

// add puts a new subscription of s (or of sub.attachment, s being nil) into the tree.
func (r *router) add(s *session, sub *subscription) {
	if _, pattern, shared := splitShared(sub.filter); shared && s != nil {
		r.join(s, sub, pattern)
	} else {
		sub.node, sub.hash = r.reach(sub.filter)
		list := sub.node.list(sub)
		sub.place = int32(len(*list))
		*list = append(*list, sub)
	}
	r.generation++
	if s != nil {
		sub.session = s
		s.subscriptions.add(sub)
		r.count++
	}
}

// reach returns the place of a filter in the tree, which is made if need be. hash: the filter goes on with #.
func (r *router) reach(filter string) (n *node, hash bool) {
	n = &r.root
	rest := filter
	for {
		level, more := rest, false
		for i := 0; i < len(rest); i++ {
			if rest[i] == '/' {
				level, rest, more = rest[:i], rest[i+1:], true
				break
			}
		}
		if level == "#" {
			return n, true
		}
		n = n.child(level)
		if !more {
			return n, false
		}
	}
}

// remove takes a subscription out of the tree, and of its session.
func (r *router) remove(sub *subscription) {
	r.forget(sub)
	if sub.session != nil {
		sub.session.subscriptions.remove(sub)
	}
}

// forget takes a subscription out of the tree only: its session is at its end.
func (r *router) forget(sub *subscription) {
	if sub.share != nil {
		r.part(sub)
	} else {
		list := sub.node.list(sub)
		last := len(*list) - 1
		(*list)[sub.place] = (*list)[last]
		(*list)[sub.place].place = sub.place
		(*list)[last] = nil
		*list = (*list)[:last]
		sub.node.prune()
	}
	r.generation++
	if sub.session != nil {
		r.count--
	}
}

// child returns the node of a level below n and makes it if there is none.
func (n *node) child(level string) *node {
	if level == "+" {
		if n.plus == nil {
			n.plus = &node{parent: n, level: level}
		}
		return n.plus
	}
	child := n.children[level]
	if child == nil {
		child = &node{parent: n, level: level}
		if n.children == nil {
			n.children = map[string]*node{}
		}
		n.children[level] = child
	}
	return child
}

// prune takes n, and what is above it, out of the tree if nothing is left of it.
func (n *node) prune() {
	for ; n.parent != nil && n.empty(); n = n.parent {
		n.parent.drop(n)
	}
}

func (n *node) drop(child *node) {
	if child == n.plus {
		n.plus = nil
		return
	}
	delete(n.children, child.level)
}

func (n *node) empty() bool {
	return len(n.children) == 0 && n.plus == nil && len(n.here) == 0 &&
		(n.more == nil || len(n.more.below) == 0 && len(n.more.shares) == 0)
}

// grow returns n.more, which is made if need be.
func (n *node) grow() *more {
	if n.more == nil {
		n.more = &more{}
	}
	return n.more
}

func (n *node) list(sub *subscription) *[]*subscription {
	if sub.hash {
		return &n.grow().below
	}
	return &n.here
}

// route is what one topic leads to. Who is connected is not part of it.
type route struct {
	generation uint64
	memory     []target // sessions in memory
	queued     []target // sessions with a queue
	attached   []attachedTarget
	shared     []*share // one member of each
}

// target is what one session gets of a topic. Its overlapping subscriptions are one delivery, with the highest QoS and
// all identifiers [MQTT-3.3.4-2] [MQTT-3.3.4-4].
type target struct {
	session           *session
	qos               byte
	retainAsPublished bool
	ids               []uint32
	// own is what the session gets of its own messages: differs if a subscription has no local [MQTT-3.8.3-3].
	own *target
	// nothing: it gets none of them.
	nothing bool
}

// attachedTarget is what an attachment gets of a topic.
type attachedTarget struct {
	attachment *attachment
	queue      uint32
	qos        byte // the maximum
	lift       byte
}

// empty reports that nobody gets the topic.
func (r *route) empty() bool { return r.size() == 0 }

// find returns the route of a topic: the subscriptions whose filter matches it, and no other [MQTT-3.3.2-3].
func (r *router) find(topic []byte) *route {
	found := r.cache[string(topic)]
	if found != nil && found.generation == r.generation {
		return found
	}
	if found == nil {
		found = r.remember(topic)
	}
	r.cacheTargets -= found.size()
	found.memory, found.queued, found.attached = found.memory[:0], found.queued[:0], found.attached[:0]
	found.shared = found.shared[:0]
	found.generation = r.generation
	// A wildcard does not match a first level with $ [MQTT-4.7.2-1].
	r.walking = topic
	r.walk(&r.root, topic, found, len(topic) > 0 && topic[0] == '$')
	r.walking = nil
	found.place(topic)
	r.cacheTargets += found.size()
	return found
}

func (r *route) size() int { return len(r.memory) + len(r.queued) + len(r.attached) + len(r.shared) }

// remember makes a place in the cache.
func (r *router) remember(topic []byte) *route {
	if r.cache == nil || len(r.cache) >= maxCachedRoutes || r.cacheBytes+len(topic) > maxCachedBytes || r.cacheTargets > maxCachedTargets {
		r.cache = map[string]*route{}
		r.cacheBytes, r.cacheTargets = 0, 0
	}
	found := &route{}
	r.cache[string(topic)] = found
	r.cacheBytes += len(topic)
	return found
}

// forgetOutdated drops routes that a change has made useless: they hold on to sessions that are gone.
func (r *router) forgetOutdated() {
	if r.swept == r.generation {
		return
	}
	r.swept = r.generation
	for topic, found := range r.cache {
		if found.generation != r.generation {
			delete(r.cache, topic)
			r.cacheBytes -= len(topic)
			r.cacheTargets -= found.size()
		}
	}
}

// walk adds what matches rest below n. Its depth is that of the tree, which TopicLevels bounds.
func (r *router) walk(n *node, rest []byte, found *route, system bool) {
	if n.more != nil && !system {
		for _, sub := range n.more.below { // # stands for the level above it too (4.7.1.2)
			r.collect(found, sub)
		}
		found.share(n, true)
	}
	if rest == nil {
		found.share(n, false)
		for _, sub := range n.here {
			r.collect(found, sub)
		}
		return
	}
	level, next := rest, []byte(nil)
	if i := bytes.IndexByte(rest, '/'); i >= 0 {
		level, next = rest[:i], rest[i+1:] // an empty level behind the last slash is not nil
	}
	if child := n.children[string(level)]; child != nil {
		r.walk(child, next, found, false)
	}
	if n.plus != nil && !system {
		r.walk(n.plus, next, found, false)
	}
}

// collect merges one matching subscription into the route.
func (r *router) collect(found *route, sub *subscription) {
	if sub.attachment != nil {
		found.attach(sub)
		return
	}
	if r.maySee != nil && !r.maySee(sub, r.walking) {
		return
	}
	s := sub.session
	list := &found.memory
	if s.queue != nil {
		list = &found.queued
	}
	if s.mark >= len(*list) || (*list)[s.mark].session != s {
		s.mark = len(*list)
		*list = append(*list, target{session: s, nothing: true})
	}
	t := &(*list)[s.mark]
	switch {
	case sub.noLocal && t.own == nil && !t.nothing:
		own := *t
		own.ids = append([]uint32(nil), t.ids...)
		t.own = &own
	case sub.noLocal && t.own == nil:
		t.own = &target{session: s, nothing: true}
	case !sub.noLocal && t.own != nil:
		t.own.merge(sub)
	}
	t.merge(sub)
}

// merge adds one subscription to what the session gets.
func (t *target) merge(sub *subscription) {
	t.nothing = false
	t.qos = max(t.qos, sub.qos)
	t.retainAsPublished = t.retainAsPublished || sub.retainAsPublished
	if sub.id != 0 && len(t.ids) < maxDeliveredIDs {
		t.ids = append(t.ids, sub.id)
	}
}

// maxDeliveredIDs bounds the subscription identifiers of one delivery: as variable byte integers they must fit into
// Delivery.Extra.
const maxDeliveredIDs = 256

// attach merges a matching filter of an attachment: the one that gives the highest QoS.
func (r *route) attach(sub *subscription) {
	for i := range r.attached {
		if t := &r.attached[i]; t.attachment == sub.attachment {
			t.qos, t.lift = max(t.qos, sub.qos), max(t.lift, min(sub.lift, sub.qos))
			return
		}
	}
	r.attached = append(r.attached, attachedTarget{attachment: sub.attachment, queue: sub.attachment.QueueID, qos: sub.qos, lift: min(sub.lift, sub.qos)})
}

// place asks the attachments that decide for themselves.
func (r *route) place(topic []byte) {
	kept := r.attached[:0]
	for _, t := range r.attached {
		if t.attachment.Place != nil {
			p, ok := t.attachment.Place(topic)
			if !ok {
				continue
			}
			t.queue, t.qos, t.lift = p.QueueID, p.MaxQoS, min(p.Lift, p.MaxQoS)
		}
		kept = append(kept, t)
	}
	r.attached = kept
}
