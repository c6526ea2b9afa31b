package core

import (
	"sort"
	"time"

	"forebay/broker/packet"
)

// retained is the last message of a topic that was published to be kept.
type retained struct {
	topic     string
	publisher string // client identifier, for no local
	time      int64  // arrival, Unix ms
	qos       byte
	expires   int64  // Unix ms; 0: never
	body      []byte // an encoded 5.0 PUBLISH, as in Record
}

func (r *retained) size() int64 { return int64(len(r.topic) + len(r.body)) }

func (r *retained) expired(now int64) bool { return r.expires != 0 && r.expires <= now }

// expiresAt returns when a message that arrived at time (Unix ms) expires, 0 for never.
func expiresAt(p *packet.Publish, time int64) int64 {
	if !p.HasExpiry {
		return 0
	}
	return time + int64(p.Expiry)*1000
}

// retainedStore has the retained messages by topic, and in the order of topics, so that a long look at all of them can
// stop anywhere and go on behind the topic where it stopped. The order is kept in blocks of bounded length: an
// insertion moves little.
type retainedStore struct {
	byTopic  map[string]*retained
	blocks   [][]*retained // none is empty
	volatile int           // how many of them are never written to the log
	bytes    int64
	unsaved  map[string]struct{} // topics whose row is out of date: the message is newer, or gone
}

const blockLength = 512

// block returns the index of the block that has topic or would have it.
func (st *retainedStore) block(topic string) int {
	i := sort.Search(len(st.blocks), func(i int) bool { return st.blocks[i][0].topic > topic })
	return max(0, i-1)
}

// place returns the index in a block of the first topic not before topic.
func place(block []*retained, topic string) int {
	return sort.Search(len(block), func(i int) bool { return block[i].topic >= topic })
}

// put keeps r in the place of the message its topic had.
func (st *retainedStore) put(r *retained) {
	if st.byTopic == nil {
		st.byTopic = map[string]*retained{}
		st.unsaved = map[string]struct{}{}
	}
	st.bytes += r.size()
	old := st.byTopic[r.topic]
	st.byTopic[r.topic] = r
	if old == nil && volatile([]byte(r.topic)) {
		st.volatile++
	}
	if len(st.blocks) == 0 {
		st.blocks = [][]*retained{{r}}
		return
	}
	b := st.block(r.topic)
	block := st.blocks[b]
	i := place(block, r.topic)
	if old != nil {
		st.bytes -= old.size()
		block[i] = r
		return
	}
	block = append(block, nil)
	copy(block[i+1:], block[i:])
	block[i] = r
	st.blocks[b] = block
	if len(block) < blockLength {
		return
	}
	half := append(make([]*retained, 0, blockLength), block[blockLength/2:]...)
	clear(block[blockLength/2:])
	st.blocks[b] = block[:blockLength/2]
	st.blocks = append(st.blocks, nil)
	copy(st.blocks[b+2:], st.blocks[b+1:])
	st.blocks[b+1] = half
}

// remove forgets the message of a topic; it need not have one.
func (st *retainedStore) remove(topic string) {
	old := st.byTopic[topic]
	if old == nil {
		return
	}
	delete(st.byTopic, topic)
	st.bytes -= old.size()
	if volatile([]byte(topic)) {
		st.volatile--
	}
	b := st.block(topic)
	block := st.blocks[b]
	i := place(block, topic)
	copy(block[i:], block[i+1:])
	block[len(block)-1] = nil
	if st.blocks[b] = block[:len(block)-1]; len(block) == 1 {
		copy(st.blocks[b:], st.blocks[b+1:])
		st.blocks[len(st.blocks)-1] = nil
		st.blocks = st.blocks[:len(st.blocks)-1]
	}
}

// after returns the first message whose topic is not before from, or behind it if behind is set.
func (st *retainedStore) after(from string, behind bool) *retained {
	for b := st.block(from); b < len(st.blocks); b++ {
		block := st.blocks[b]
		i := place(block, from)
		if i < len(block) && behind && block[i].topic == from {
			i++
		}
		if i < len(block) {
			return block[i]
		}
	}
	return nil
}

// mayRetain reports whether there is room for a message of that size on the topic.
func (c *Core) mayRetain(topic []byte, size int) bool {
	if volatile(topic) {
		return true // ours, and few
	}
	bytes, count := c.retained.bytes+int64(size), len(c.retained.byTopic)-c.retained.volatile
	if old := c.retained.byTopic[string(topic)]; old != nil {
		bytes -= old.size()
	} else {
		count++
	}
	return count <= c.cfg.RetainedMessages && bytes <= c.cfg.RetainedBytes
}

// keep puts a published message into the store of retained ones [MQTT-3.3.1-5], or removes that of its topic
// [MQTT-3.3.1-6]; an empty message is never kept [MQTT-3.3.1-7]. saved: its row is in the log already.
func (c *Core) keep(pub *publication, saved bool) {
	topic := string(pub.p.Topic)
	if len(pub.p.Payload) == 0 {
		if c.retained.byTopic[topic] == nil {
			return
		}
		c.retained.remove(topic)
	} else {
		c.retained.put(&retained{
			topic: topic, publisher: pub.from, time: c.wall, qos: pub.p.QoS, expires: expiresAt(pub.p, c.wall),
			body: append([]byte(nil), c.encode(pub)...),
		})
	}
	switch {
	case saved:
		delete(c.retained.unsaved, topic)
	default:
		c.unsaved(topic)
	}
}

// unsaved notes that the row of a topic is out of date. While the log takes nothing, that many are noted and no more:
// the standard lets us forget a retained message of QoS 0.
func (c *Core) unsaved(topic string) {
	if !volatile([]byte(topic)) && c.failed == nil && len(c.retained.unsaved) < 2*c.cfg.RetainedMessages {
		c.retained.unsaved[topic] = struct{}{}
	}
}

// volatile reports that a topic's retained message is never written to the log: those of $SYS are about this run.
func volatile(topic []byte) bool {
	return len(topic) >= 5 && string(topic[:5]) == "$SYS/"
}

const (
	// saveInterval is how long a retained message of QoS 0 may wait to be written: the standard lets us discard it
	// at any time, and flash wears.
	saveInterval = 10 * time.Second
	// savedAtOnce bounds the rows of one record.
	savedAtOnce = 256
)

// saveRetained writes the rows that are out of date.
func (c *Core) saveRetained() {
	record := Record{Time: c.wall}
	c.workLeft = false
	for topic := range c.retained.unsaved {
		if len(record.Changes) == savedAtOnce {
			c.workLeft = true
			break
		}
		if r := c.retained.byTopic[topic]; r != nil {
			record.Changes = append(record.Changes, retainedRow(r))
		} else {
			record.Changes = append(record.Changes, Change{TableRetained, []byte(topic), nil})
		}
	}
	if len(record.Changes) == 0 {
		return
	}
	if _, err := c.append(&record); err != nil {
		c.workLeft = false
		return // they stay, and are tried again
	}
	for _, change := range record.Changes {
		delete(c.retained.unsaved, string(change.Key))
	}
	if len(c.retained.unsaved) == 0 {
		c.retained.unsaved = map[string]struct{}{} // a map never shrinks
	}
}

// sweepRetained drops expired messages, a slice at a time [MQTT-3.3.2-5].
func (c *Core) sweepRetained() {
	r := c.retained.after(c.sweptTopic, true)
	for range blockLength {
		if r == nil {
			c.sweptTopic = ""
			return
		}
		c.sweptTopic = r.topic
		next := c.retained.after(r.topic, true)
		if r.expired(c.wall) {
			c.forgetRetained(r)
		}
		r = next
	}
}

// forgetRetained drops an expired message.
func (c *Core) forgetRetained(r *retained) {
	c.retained.remove(r.topic)
	c.unsaved(r.topic)
	c.stats.DroppedExpired++
}

// retainedJob is a subscription whose retained messages are being sent. It goes on behind the topic where it stopped.
// A session with a queue gets first those that go through it, then those with QoS 0.
type retainedJob struct {
	sub      *subscription
	from     string
	behind   bool // the message of from has been dealt with
	queueing bool // it is at the first half
}

// stopRetained ends the job of a subscription.
func (s *session) stopRetained(sub *subscription) {
	for i := range s.retained {
		if s.retained[i].sub == sub {
			s.retained = append(s.retained[:i], s.retained[i+1:]...)
			return
		}
	}
}

// retainedSlice bounds how many retained messages are looked at before others get their turn.
const retainedSlice = 1024

// fetchRetained puts retained messages into the queue of a session, at most a slice. It returns the last record.
func (s *session) fetchRetained(c *Core) (seq uint64) {
	left := retainedSlice
	for i := range s.retained {
		job := &s.retained[i]
		for ; job.queueing && left > 0 && s.queue.Len() < maxRetainedQueued; left-- {
			c.work++
			r := c.nextRetained(job)
			if r == nil {
				*job = retainedJob{sub: job.sub}
			} else if c.matches(s, job.sub, r) && min(r.qos, job.sub.qos) > 0 {
				seq = max(seq, c.queueRetained(s, c.retainedMessage(r, job.sub)))
			}
		}
		if job.queueing {
			break
		}
	}
	return seq
}

// sendRetained sends retained messages to a session as long as it has room, at most a slice.
func (s *session) sendRetained(c *Core) {
	if s.queue != nil {
		s.fetchRetained(c)
	}
	for left := retainedSlice; len(s.retained) > 0 && s.takesRetained(); left-- {
		if left == 0 {
			c.wantPull(s)
			break
		}
		job := &s.retained[0]
		if job.queueing {
			// A slice is used up, or the queue is long: the next acknowledgement pulls too.
			if s.queue.Len() < maxRetainedQueued {
				c.wantPull(s)
			}
			break
		}
		c.work++
		r := c.nextRetained(job)
		if r == nil {
			s.retained = append(s.retained[:0], s.retained[1:]...)
			continue
		}
		if c.matches(s, job.sub, r) {
			c.sendRetainedNow(s, c.retainedMessage(r, job.sub))
		}
	}
	if len(s.retained) == 0 {
		s.retained = nil
	}
}

// maxRetainedQueued is how many entries the queue of a session may have before retained messages wait for it to drain.
const maxRetainedQueued = 10_000

// takesRetained reports that a retained message would be sent or queued now, not dropped. A session that has no room
// is pulled when it has, and that goes on here.
func (s *session) takesRetained() bool {
	conn := s.conn
	switch {
	case conn == nil || !conn.established:
		return false
	case conn.out.size >= chunkSize || conn.overBound():
		s.blocked = true
		return false
	}
	return s.backlog.len() == 0
}

// nextRetained returns the next message of a job, nil when there are no more.
func (c *Core) nextRetained(job *retainedJob) *retained {
	filter := job.sub.filter
	fixed := literal(filter)
	if fixed == len(filter) {
		if job.behind {
			return nil
		}
		job.behind = true
		return c.retained.byTopic[filter]
	}
	if !job.behind && job.from == "" {
		job.from = filter[:fixed]
		if fixed > 0 && filter[fixed:] == "#" {
			job.from = filter[:fixed-1] // a/# matches a too
		}
	}
	r := c.retained.after(job.from, job.behind)
	if r == nil {
		return nil
	}
	job.from, job.behind = r.topic, true
	if !(len(r.topic) >= fixed && r.topic[:fixed] == filter[:fixed]) && r.topic > filter[:fixed] {
		return nil // behind all that begin like the filter
	}
	return r
}

// literal returns how many bytes of a filter stand before the first wildcard.
func literal(filter string) int {
	for i := 0; i < len(filter); i++ {
		if filter[i] == '+' || filter[i] == '#' {
			return i
		}
	}
	return len(filter)
}

// matches reports whether a subscription gets r.
func (c *Core) matches(s *session, sub *subscription, r *retained) bool {
	switch {
	case !packet.Match([]byte(sub.filter), []byte(r.topic)):
		return false
	case r.expired(c.wall):
		c.forgetRetained(r)
		return false
	case sub.noLocal && r.publisher == s.clientID:
		return false
	case !c.maySee(sub, []byte(r.topic)):
		return false
	}
	return true
}

// retainedMessage is r as a new subscription gets it: with the retain flag, whatever its options say,
// 3.1.1 [MQTT-3.3.1-8].
func (c *Core) retainedMessage(r *retained, sub *subscription) stored {
	m := stored{body: r.body, time: r.time, options: min(r.qos, sub.qos) | OptionRetain, access: c.accessChanges}
	if sub.id != 0 {
		m.ids = []uint32{sub.id} // [MQTT-3.3.4-3]
	}
	return m
}

// sendRetainedNow sends a retained message that goes through no queue in the log.
func (c *Core) sendRetainedNow(s *session, m stored) {
	switch {
	case m.options&OptionQoS == 0:
		_ = s.conn.sendStored(&m, 0, 0) // what is too large or has expired has been counted
	case s.queue == nil:
		c.sendInMemory(s, m)
	}
}

// queueRetained appends a retained message for one session. Its time is now, so that it is not taken for an old entry
// of the queue; the expiry is what is left of it.
func (c *Core) queueRetained(s *session, m stored) uint64 {
	p := &c.storedOut
	if err := decodeMessage(p, m.body); err != nil {
		panic("BUG: core: a retained message cannot be read: " + err.Error())
	}
	if p.HasExpiry {
		p.Expiry = remaining(p.Expiry, m.time, c.wall)
	}
	c.encoded = p.Append(c.encoded[:0], packet.V5)
	seq, err := c.append(&Record{Time: c.wall, Message: c.encoded, Deliveries: []Delivery{{
		Consumer: s.queue.ID(), Options: m.options, Extra: appendIDs(nil, m.ids), Hold: m.options&OptionQoS == 2,
	}}})
	if err != nil {
		c.stats.DroppedRetained++
		return 0
	}
	c.wantPull(s)
	return seq
}
