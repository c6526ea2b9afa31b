package bridge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

const (
	// A refusal for the moment pauses forwarding for a random part of pauseMin, doubling up to pauseMax.
	pauseMin = time.Second
	pauseMax = time.Minute
)

// Causes of drops that a bridge counts itself. A refusal is counted under the name of its reason code.
const (
	dropExpired = "expired"
	// dropSuperseded is the cause of what a later message on the same topic has replaced, as the rule asks.
	dropSuperseded = "superseded"
	dropTooLarge   = "too-large"
	dropTopic      = "topic-invalid"
	dropDamaged    = "damaged"
	dropOffline    = "qos0-offline"
	dropOverflow   = "qos0-overflow"
	dropGone       = "no-rule" // queued under rules that are gone
	dropRefused    = "down-refused"
	dropNoRule     = "down-unmatched"
)

// flight is a packet identifier in use towards the upstream.
type flight struct {
	lane    *lane // nil: SUBSCRIBE
	n       uint64
	expect  packet.Type // PUBACK, PUBREC or PUBCOMP; SUBACK; PUBREL: ours waits for the disk
	arrived int64       // Unix ms
	message []byte      // until PUBREC, should it be refused; nil beyond maxAtHand
	open    bool        // not in flight now, but its QoS 2 exchange may be open at the upstream
	buried  bool        // it has been dropped, only the exchange goes on
}

// forwarder sends from the lanes to the upstream and keeps the account of what is in flight. It lives as long as Run
// does, so that the account spans connections. Owned by Run.
type forwarder struct {
	// Constant.
	lanes    []*lane // in the order in which they are served
	rules    topicMap
	safety   *safety
	accounts *accounts
	letters  *letters

	flights  map[uint16]flight
	messages int      // of flights, those that count against the receive maximum
	full     bool     // see crowded
	atHand   int      // bytes of messages in flights
	buffers  [][]byte // for copies of messages, not in use

	turn     int // messages sent, and tried to; see fairness
	suspects int // see blame

	moved     bool // the upstream has acknowledged something on this link
	fruitless int  // links in a row on which it has not; see wonder

	resent    uint64 // transmissions that were repetitions
	lateUntil int64  // Unix ms; what came before counts as late; 0: nothing does
	late      uint64 // acknowledged messages that did, since somebody asked
	replay    replay
	stamps    *stamps

	received storage.Seq // of the last Received: PUBREL of a former link waits for it

	refused bool          // the upstream refused for the moment: nothing new until due
	reason  packet.Reason // when refused: why
	until   time.Time     // when refused and everything in flight is answered: start again
	pause   time.Duration // the last one

	publish packet.Publish // scratch
	topic   []byte         // scratch
}

func newForwarder(lanes []*lane, b *Bridge) *forwarder {
	return &forwarder{lanes: lanes, rules: b.up, safety: b.safety, accounts: b.accounts, letters: b.letters, stamps: &b.stamps,
		replay: newReplay(b.cfg.Replay), flights: map[uint16]flight{}}
}

// resume begins a link. It waits for the disk when messages were received on the link before and that is not durable
// yet; the error is that of the store or ctx.
func (f *forwarder) resume(ctx context.Context, l *link) error {
	clear(f.flights)
	f.messages, f.atHand, f.buffers, f.refused, f.pause, f.moved = 0, 0, nil, false, 0, false
	if err := f.safety.log.WaitSafe(ctx, f.received); err != nil {
		return fmt.Errorf("bridge: wait for the store: %w", err)
	}
	for _, a := range f.lanes {
		if !l.peer.sessionPresent {
			a.sentHigh = 0
		}
		a.rewind()
		f.release(l, a)
	}
	return nil
}

// end ends a link. What was in flight in a lane of the order latest may be superseded now.
func (f *forwarder) end() {
	for _, a := range f.lanes {
		if a.order == latest {
			a.rewind()
		}
	}
}

// release takes up the exchanges of a lane that have come as far as PUBREL.
func (f *forwarder) release(l *link, a *lane) {
	for _, n := range a.cursor.Released() {
		if !l.peer.sessionPresent {
			// The upstream has the message, its PUBREC said so, and has forgotten the exchange: it is finished.
			f.delivered(&flight{})
			a.cursor.Ack(n)
			continue
		}
		if _, used := f.flights[a.packetID(n)]; used {
			a.unreleased = append(a.unreleased, n)
			continue
		}
		f.releaseOne(l, a, n)
	}
}

// releaseOne repeats the PUBREL of a message.
func (f *forwarder) releaseOne(l *link, a *lane, n uint64) {
	f.depart(l, flight{lane: a, n: n, expect: packet.PUBCOMP})
	a.released = append(a.released, n)
	l.ack(packet.PUBREL, a.packetID(n), packet.ReasonSuccess) // [MQTT-4.4.0-1]
}

// depart notes that the upstream has to answer for g.
func (f *forwarder) depart(l *link, g flight) {
	g.open = false
	g.message = f.retain(g.message)
	f.flights[g.lane.packetID(g.n)] = g
	f.messages++
	l.expect()
}

// arrive ends the flight of a message.
func (f *forwarder) arrive(id uint16) {
	f.letGo(f.flights[id].message)
	delete(f.flights, id)
	f.messages--
}

// oldest returns the lowest number of a lane in flight.
func (f *forwarder) oldest(a *lane) (uint64, bool) {
	n, ok := f.front(a, &a.flown)
	if m, also := f.front(a, &a.released); also && (!ok || m < n) {
		return m, true
	}
	return n, ok
}

// front returns the first of list that is still in flight and removes those before it.
func (f *forwarder) front(a *lane, list *[]uint64) (uint64, bool) {
	for ; len(*list) > 0; *list = (*list)[1:] {
		n := (*list)[0]
		if g, ok := f.flights[a.packetID(n)]; ok && g.n == n {
			return n, true
		}
	}
	return 0, false
}

// fairness is how many messages go for one that a lane may send out of its turn: each lane has one of them in turn, so
// that none is starved by those before it.
const fairness = 16

// pull gathers messages until the receive maximum is reached, the batch is full, or nothing is left that may go now.
func (f *forwarder) pull(l *link) {
	if f.refused && !f.restart(l) || f.crowded(l.peer.window) {
		return
	}
	f.replay.blocked = false
	for _, a := range f.lanes {
		a.dry = false
	}
	for f.mayFly(l) && len(l.gathering) < fullBatch && f.sendOne(l) {
	}
	if f.suspects > 0 && f.messages == 0 && f.empty() {
		f.suspects = 0 // the others have expired
	}
}

// empty reports that nothing waits in any lane.
func (f *forwarder) empty() bool {
	return !slices.ContainsFunc(f.lanes, func(a *lane) bool { return a.cursor.Stats().Count > 0 })
}

// crowded reports whether the receive maximum was reached and less than an eighth of it is free again: where each
// acknowledgement comes alone, messages go by the batch all the same and do not cost a system call each.
func (f *forwarder) crowded(window int) bool {
	f.full = f.messages >= window || f.full && window-f.messages < window/8
	return f.full
}

// mayFly reports whether one more message may be in flight.
func (f *forwarder) mayFly(l *link) bool {
	if f.suspects > 0 {
		return l.due == 0 // one at a time, see blame
	}
	return f.messages < l.peer.window
}

// sendOne sends the next message, that of the first lane that has one. false: none may go now.
func (f *forwarder) sendOne(l *link) bool {
	if f.turn++; f.turn%fairness == 0 && f.sendFrom(l, f.lanes[f.turn/fairness%len(f.lanes)]) {
		return true
	}
	for _, a := range f.lanes {
		if f.sendFrom(l, a) {
			return true
		}
	}
	return false
}

// sendFrom sends the next message of a lane. false: it has none that may go now.
func (f *forwarder) sendFrom(l *link, a *lane) bool {
	if a.dry {
		return false
	}
	a.dry = true
	e, ok := a.peek()
	if !ok {
		return false
	}
	if _, used := f.flights[a.packetID(e.N)]; used {
		return false // never two in flight with the same packet identifier [MQTT-2.2.1-3]
	}
	if oldest, ok := f.oldest(a); ok && e.N >= oldest+maxWindow {
		return false
	}
	aged := a.aged(e, l.now)
	if aged && !f.replay.allows(l.now) {
		return false
	}
	a.dry = false
	before := len(l.gathering)
	f.send(l, a, e)
	if aged {
		f.replay.spend(len(l.gathering) - before)
	}
	a.advance()
	return true
}

// restart ends the pause after a refusal, once everything in flight has been answered and the time has come.
func (f *forwarder) restart(l *link) bool {
	if f.messages > 0 || l.now.Before(f.until) {
		return false
	}
	f.refused = false
	for _, a := range f.lanes {
		a.sentHigh = 0 // Nothing is open in the session: what was refused begins a new exchange.
		a.rewind()
	}
	return true
}

// send gathers one message or drops it.
func (f *forwarder) send(l *link, a *lane, e *storage.Entry) {
	p := &f.publish
	g := flight{lane: a, n: e.N, arrived: e.Time, message: e.Message, open: a.bound(e)}
	frame, _, err := packet.Next(e.Message, packet.V5, 0)
	if err == nil {
		err = p.Decode(frame, packet.V5)
	}
	if err != nil {
		f.bury(l, dropDamaged, nil, &g)
		return
	}
	r := f.address(l, &g)
	if r == nil || !f.inTime(l, a, e, r) {
		return
	}
	p.QoS = min(e.Options&3, l.peer.maxQoS) // [MQTT-3.2.2-11]
	p.Dup = a.repeated(e.N) && p.QoS > 0    // [MQTT-3.3.1-1], [MQTT-3.3.1-2]
	p.PacketID = 0
	if p.QoS > 0 {
		p.PacketID = a.packetID(e.N)
	}
	f.stamps.on(p, a.slot(), e.N, e.Time)
	size := packet.PublishSize(p, l.peer.version)
	if size > l.peer.maxPacket {
		f.bury(l, dropTooLarge, fmt.Appendf(nil, "the upstream takes %d bytes", l.peer.maxPacket), &g) // [MQTT-3.2.2-15]
		return
	}
	if !p.Dup {
		l.alias(p, size)
	}
	l.gathering = p.Append(l.gathering, l.peer.version)
	switch p.QoS {
	case 0:
		// The upstream offers no better: nothing will tell whether it arrived.
		f.delivered(&g)
		a.cursor.Ack(e.N)
		return
	case 1:
		g.expect = packet.PUBACK
	case 2:
		g.expect = packet.PUBREC
	}
	if p.Dup {
		f.resent++
	}
	f.depart(l, g)
	a.sent(e.N)
}

// delivered counts a message that the upstream has.
func (f *forwarder) delivered(g *flight) {
	f.cleared()
	f.accounts.forwarded.Add(1)
	if g.arrived < f.lateUntil {
		f.late++
	}
}

// address maps the topic and the retain flag and returns the rule, or lets go of the message and returns nil.
func (f *forwarder) address(l *link, g *flight) *rule {
	p := &f.publish
	mappedTo, r, v := f.rules.apply(f.topic[:0], p.Topic)
	f.topic = mappedTo
	switch v {
	case unmatched:
		f.bury(l, dropGone, nil, g)
		return nil
	case unusable:
		f.bury(l, dropTopic, nil, g)
		return nil
	}
	p.Topic = mappedTo
	p.Retain = r.retained(p.Retain) && l.peer.retain // [MQTT-3.2.2-14]
	p.TopicAlias, p.SubscriptionIDs = 0, nil         // [MQTT-3.3.4-6]
	return r
}

// retained applies the rule's retain policy.
func (r *rule) retained(published bool) bool {
	switch r.retain {
	case "drop":
		return false
	case "force":
		return true
	}
	return published
}

// inTime counts the message's expiry down, or that of its rule if it is less, or drops it when it has passed.
func (f *forwarder) inTime(l *link, a *lane, e *storage.Entry, r *rule) bool {
	p := &f.publish
	if r.expiry > 0 && (!p.HasExpiry || p.Expiry > r.expiry) {
		p.HasExpiry, p.Expiry = true, r.expiry
	}
	if !p.HasExpiry {
		return true
	}
	waited := max(0, l.now.UnixMilli()-e.Time) / 1000
	if waited < int64(p.Expiry) {
		p.Expiry -= uint32(waited) // [MQTT-3.3.2-6]
		return true
	}
	if a.bound(e) {
		p.Expiry = 1
		return true
	}
	a.cursor.Drop(dropExpired, e.N) // [MQTT-3.3.2-5]
	f.accounts.example(dropExpired, p.Topic)
	return false
}

// sendLive gathers the QoS 0 messages in batch.
func (f *forwarder) sendLive(l *link, batch []byte) {
	for len(batch) > 0 {
		p := &f.publish
		frame, n, err := packet.Next(batch, packet.V5, 0)
		if err == nil && n > 0 {
			err = p.Decode(frame, packet.V5)
		}
		if err != nil || n == 0 {
			panic("BUG: bridge: the live buffer holds what is no packet")
		}
		batch = batch[n:]
		local := p.Topic
		to, r, v := f.rules.apply(f.topic[:0], local)
		f.topic = to
		if v == unmatched {
			continue
		}
		if v == unusable {
			f.accounts.drop(dropTopic, local)
			continue
		}
		p.Topic, p.Retain = to, r.retained(p.Retain) && l.peer.retain
		f.stamps.on(p, 0, 0, l.now.UnixMilli())
		size := packet.PublishSize(p, l.peer.version)
		if size > l.peer.maxPacket {
			f.accounts.drop(dropTooLarge, local)
			continue
		}
		l.alias(p, size)
		l.gathering = p.Append(l.gathering, l.peer.version)
		f.accounts.forwarded.Add(1)
	}
}

// onAck takes a PUBACK, PUBREC or PUBCOMP.
func (f *forwarder) onAck(l *link, a *packet.Ack) error {
	g, ok := f.flights[a.PacketID]
	if !ok || g.expect == packet.SUBACK {
		return f.onStray(l, a)
	}
	f.moved = true
	switch {
	case a.Type == packet.PUBREC && (g.expect == packet.PUBREL || g.expect == packet.PUBCOMP):
		// Repeated by the upstream: our PUBREL answers, now or when the disk allows.
		if g.expect == packet.PUBCOMP {
			l.ack(packet.PUBREL, a.PacketID, packet.ReasonSuccess)
		}
		return nil
	case a.Type != g.expect:
		return &brokenError{fmt.Sprintf("%s where %s was due", a.Type, g.expect)}
	}
	l.answered()
	if a.Reason >= 0x80 && a.Type != packet.PUBCOMP {
		f.onRefusal(l, g, a)
		return nil
	}
	f.pause = 0
	if a.Type == packet.PUBREC {
		f.letGo(g.message)
		f.awaitRelease(&g)
		return nil
	}
	// PUBCOMP with "Packet Identifier not found" ends the exchange as well.
	if !g.buried {
		f.delivered(&g)
	}
	g.lane.cursor.Ack(g.n)
	f.arrive(a.PacketID)
	if i := slices.IndexFunc(g.lane.unreleased, func(n uint64) bool { return g.lane.packetID(n) == a.PacketID }); i >= 0 {
		n := g.lane.unreleased[i]
		g.lane.unreleased = slices.Delete(g.lane.unreleased, i, i+1)
		f.releaseOne(l, g.lane, n)
	}
	return nil
}

// awaitRelease notes durably that the upstream has g; PUBREL follows when that is so (D2).
func (f *forwarder) awaitRelease(g *flight) {
	seq, id := g.lane.cursor.Received(g.n), g.lane.packetID(g.n)
	f.received = max(f.received, seq)
	f.flights[id] = flight{lane: g.lane, n: g.n, arrived: g.arrived, expect: packet.PUBREL, buried: g.buried}
	f.safety.add(promise{seq: seq, kind: release, id: id, n: g.n})
}

// onStray takes an acknowledgement of nothing. A PUBREC must be led to its end, or the upstream keeps the packet
// identifier for ever.
func (f *forwarder) onStray(l *link, a *packet.Ack) error {
	if a.Type == packet.PUBREC && a.Reason < 0x80 {
		l.ack(packet.PUBREL, a.PacketID, packet.ReasonPacketIdentifierNotFound)
	}
	return nil
}

// onRefusal takes a PUBACK or PUBREC with a reason of 0x80 or more, which ends the exchange.
func (f *forwarder) onRefusal(l *link, g flight, a *packet.Ack) {
	f.arrive(a.PacketID)
	if !passing(a.Reason) {
		f.bury(l, causeOf(a.Reason), a.ReasonString, &g)
		f.cleared()
		return
	}
	if !f.refused {
		f.refused, f.reason = true, a.Reason
		f.pause = min(max(pauseMin, 2*f.pause), pauseMax)
		f.until = l.now.Add(f.pause/2 + rand.N(f.pause/2))
	}
}

// passing reports whether a refused message is worth another try.
func passing(r packet.Reason) bool {
	switch r {
	case packet.ReasonQuotaExceeded, packet.ReasonMessageRateTooHigh, packet.ReasonServerBusy,
		packet.ReasonServerUnavailable, packet.ReasonServerShuttingDown, packet.ReasonPacketIdentifierInUse,
		packet.ReasonReceiveMaximumExceeded:
		return true
	}
	return false
}

// causeOf is the cause under which a message refused for r is counted, such as "not-authorized".
func causeOf(r packet.Reason) string {
	return strings.ReplaceAll(strings.ToLower(r.String()), " ", "-")
}

// keep sends the PUBREL that p allows, unless the link it was for is gone: then resume has done so.
func (f *forwarder) keep(l *link, p promise) {
	g, ok := f.flights[p.id]
	if !ok || g.n != p.n || g.expect != packet.PUBREL {
		return
	}
	f.flights[p.id] = flight{lane: g.lane, n: g.n, arrived: g.arrived, expect: packet.PUBCOMP, buried: g.buried}
	l.expect()
	l.ack(packet.PUBREL, p.id, packet.ReasonSuccess)
}
