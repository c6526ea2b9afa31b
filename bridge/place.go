package bridge

import (
	"fmt"
	"slices"

	"forebay/storage"
)

// lanesOf lists the lanes that rule r needs: of live-first the one for the link that is there comes first.
func lanesOf(r *UpRule) []laneName {
	p := priority(slices.Index(priorityNames[:], r.Priority))
	switch r.Order {
	case orderLiveFirst:
		return []laneName{{live, p}, {backlog, p}}
	case orderLatestOnly:
		return []laneName{{latest, p}}
	}
	return []laneName{{strict, p}}
}

// laneName tells lanes apart.
type laneName struct {
	order    order
	priority priority
}

// lanesNeeded lists the lanes that the rules need and those that the store still has, perhaps with messages in them.
// The one without a name is first, and there always.
func (b *Bridge) lanesNeeded() []laneName {
	names := []laneName{{strict, normal}}
	add := func(n laneName) {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	for i := range b.cfg.Up {
		for _, n := range lanesOf(&b.cfg.Up[i]) {
			add(n)
		}
	}
	for _, queue := range b.env.Broker.Queues(b.cfg.Name) {
		if o, p, ok := parseQueueName(queue); ok {
			add(laneName{o, p})
		} else {
			b.log.Warn("messages may wait in a queue that this version does not know; they are kept", "queue", queue)
		}
	}
	return names
}

// Attach makes the bridge a durable consumer: from its return on every matching message is kept for the upstream.
// Call it after New and before the broker lets clients in. Run does it if it has not been done.
func (b *Bridge) Attach() error {
	if b.lanes.Load() != nil {
		return nil
	}
	names := b.lanesNeeded()
	rules := b.up // Change makes new ones
	a := Attachment{Name: b.cfg.Name, Live: b.live.put,
		Place: func(topic []byte) Place { return placeOf(rules, topic, b.linked.Load()) },
		Limits: storage.Limits{MaxBytes: b.cfg.Queue.MaxSize, MaxCount: b.cfg.Queue.MaxCount, MaxAge: b.cfg.Queue.MaxAge,
			WhenFull: policies[b.cfg.Queue.WhenFull]}}
	for _, n := range names[1:] {
		a.Queues = append(a.Queues, queueName(n.order, n.priority))
	}
	b.liveFirst = false
	for i := range rules {
		r := &rules[i]
		a.Filters = append(a.Filters, r.filter.text)
		need := lanesOf(&b.cfg.Up[i])
		r.queue = slices.Index(names, need[0])
		r.away = slices.Index(names, need[len(need)-1])
		b.liveFirst = b.liveFirst || r.queue != r.away
	}
	cursors, err := b.env.Broker.Attach(a)
	if err != nil {
		return fmt.Errorf("bridge: attach %q: %w", b.cfg.Name, err)
	}
	var lanes []*lane
	for i, n := range names {
		cursors[i].SetNotify(func() { signal(b.more) })
		lanes = append(lanes, newLane(n.order, n.priority, cursors[i]))
	}
	sortLanes(lanes)
	b.lanes.Store(&lanes)
	b.drops.last = b.queueStats().Dropped
	b.forward = newForwarder(lanes, b)
	if b.predecessor != nil {
		b.forward.inherit(b.predecessor)
		b.predecessor = nil
	}
	return nil
}

// placeOf says into which lane a topic goes: the first rule that matches decides. It is called by the broker's goroutine.
func placeOf(rules topicMap, topic []byte, linked bool) Place {
	var got captures
	r := rules.find(topic, &got)
	if r == nil {
		return Place{Not: true}
	}
	p := Place{Queue: r.away, MaxQoS: r.qos, Lift: min(r.lift, r.qos)}
	if linked {
		p.Queue = r.queue
	}
	return p
}

// setLinked tells whether the link is there, for what comes from now on.
func (b *Bridge) setLinked(linked bool) {
	b.live.setOpen(linked)
	for _, a := range *b.lanes.Load() {
		a.cursor.SetLive(linked)
	}
	if b.linked.Store(linked); b.liveFirst {
		b.env.Broker.Resort()
	}
}

// collect lets the lanes that drop what is superseded do so while there is no link.
func (b *Bridge) collect() {
	for _, a := range *b.lanes.Load() {
		if a.order == latest {
			a.collect()
		}
	}
}

// queueStats is the sum of all lanes.
func (b *Bridge) queueStats() storage.CursorStats {
	sum := storage.CursorStats{Dropped: map[string]uint64{}}
	lanes := b.lanes.Load()
	if lanes == nil {
		return sum
	}
	for _, a := range *lanes {
		q := a.cursor.Stats()
		sum.Count += q.Count
		sum.Bytes += q.Bytes
		if q.Oldest > 0 && (sum.Oldest == 0 || q.Oldest < sum.Oldest) {
			sum.Oldest = q.Oldest
		}
		for cause, n := range q.Dropped {
			sum.Dropped[cause] += n
		}
		for limit, n := range q.Refused {
			if sum.Refused == nil {
				sum.Refused = map[string]uint64{}
			}
			sum.Refused[limit] += n
		}
	}
	return sum
}
