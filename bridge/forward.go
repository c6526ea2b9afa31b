package bridge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

const (
	// maxWindow bounds how far what is in flight may spread, in numbers: less than the 65,535 packet identifiers, so
	// that those just below the oldest are free for SUBSCRIBE.
	maxWindow = 65000

	// A refusal for the moment pauses forwarding for a random part of pauseMin, doubling up to pauseMax.
	pauseMin = time.Second
	pauseMax = time.Minute
)

// Causes of drops that a bridge counts itself. A refusal is counted under the name of its reason code.
const (
	dropExpired  = "expired"
	dropTooLarge = "too-large"
	dropTopic    = "topic-invalid"
	dropDamaged  = "damaged"
	dropOffline  = "qos0-offline"
	dropOverflow = "qos0-overflow"
	dropRefused  = "down-refused"
	dropNoRule   = "down-unmatched"
)

// packetID returns the packet identifier of the message with number n.
func packetID(n uint64) uint16 { return uint16(n%65535) + 1 }

// flight is a packet identifier in use towards the upstream.
type flight struct {
	n      uint64
	expect packet.Type // PUBACK, PUBREC or PUBCOMP; SUBACK; PUBREL: ours waits for the disk
}

// forwarder sends from the cursor to the upstream and keeps the account of what is in flight. It lives as long as Run
// does, so that the account spans connections. Owned by Run.
type forwarder struct {
	// Constant.
	cursor   *storage.Cursor
	rules    topicMap
	safety   *safety
	accounts *accounts
	hops     hops

	flights  map[uint16]flight
	order    []uint64 // numbers sent on this link, ascending; those done go when they come to the front
	released []uint64 // the same for those that were released before this link
	messages int      // of flights, those that count against the receive maximum
	sentHigh uint64   // numbers up to this one may have been sent in the present session of the upstream
	dupHigh  uint64   // of those, the highest that can be unacknowledged: sent with DUP
	first    bool     // nothing has been pulled on this link

	held    storage.Entry // next to be sent, when holding
	holding bool

	received storage.Seq // of the last Received: PUBREL of a former link waits for it

	refused bool          // the upstream refused for the moment: nothing new until due
	reason  packet.Reason // when refused: why
	until   time.Time     // when refused and everything in flight is answered: start again
	pause   time.Duration // the last one

	publish packet.Publish // scratch
	topic   []byte         // scratch
}

func newForwarder(cursor *storage.Cursor, rules topicMap, s *safety, a *accounts) *forwarder {
	return &forwarder{cursor: cursor, rules: rules, safety: s, accounts: a,
		flights: map[uint16]flight{}, sentHigh: cursor.Recovered()}
}

// resume begins a link. It waits for the disk when messages were received on the link before and that is not durable
// yet; the error is that of the store or ctx.
func (f *forwarder) resume(ctx context.Context, l *link) error {
	clear(f.flights)
	f.order, f.released, f.messages, f.holding, f.refused, f.pause = f.order[:0], nil, 0, false, false, 0
	f.first = true
	if err := f.safety.log.WaitSafe(ctx, f.received); err != nil {
		return fmt.Errorf("bridge: wait for the store: %w", err)
	}
	for _, n := range f.cursor.Released() {
		if !l.peer.sessionPresent {
			// The upstream has the message, its PUBREC said so, and has forgotten the exchange: it is finished.
			f.accounts.forwarded.Add(1)
			f.cursor.Ack(n)
			continue
		}
		f.depart(l, n, packet.PUBCOMP)
		f.released = append(f.released, n)
		l.ack(packet.PUBREL, packetID(n), packet.ReasonSuccess) // [MQTT-4.4.0-1]
	}
	if !l.peer.sessionPresent {
		f.sentHigh = 0
	}
	f.cursor.Rewind()
	return nil
}

// depart notes that the upstream has to answer for n.
func (f *forwarder) depart(l *link, n uint64, expect packet.Type) {
	f.flights[packetID(n)] = flight{n, expect}
	f.messages++
	l.expect()
}

// arrive ends the flight of a message.
func (f *forwarder) arrive(id uint16) {
	delete(f.flights, id)
	f.messages--
}

// oldest returns the lowest number in flight.
func (f *forwarder) oldest() (uint64, bool) {
	n, ok := f.front(&f.order)
	if m, also := f.front(&f.released); also && (!ok || m < n) {
		return m, true
	}
	return n, ok
}

// front returns the first of list that is still in flight and removes those before it.
func (f *forwarder) front(list *[]uint64) (uint64, bool) {
	for ; len(*list) > 0; *list = (*list)[1:] {
		n := (*list)[0]
		if g, ok := f.flights[packetID(n)]; ok && g.n == n && g.expect != packet.SUBACK {
			return n, true
		}
	}
	return 0, false
}

// freeIDs returns count packet identifiers that no message uses now or in this session's past that is open: those just
// below the oldest.
func (f *forwarder) freeIDs(count int) []uint16 {
	base, ok := f.oldest()
	if !f.holding {
		f.held, f.holding = f.cursor.Next()
	}
	if f.holding && (!ok || f.held.N < base) {
		base, ok = f.held.N, true
	}
	if !ok {
		base = f.sentHigh + 1
	}
	ids := make([]uint16, 0, count)
	for n := base + 65535 - 1; len(ids) < count; n-- {
		if _, used := f.flights[packetID(n)]; !used {
			ids = append(ids, packetID(n))
		}
	}
	return ids
}

// pull gathers messages until the receive maximum is reached, the batch is full, or nothing is left.
func (f *forwarder) pull(l *link) {
	if f.refused && !f.restart(l) {
		return
	}
	for f.messages < l.peer.window && len(l.gathering) < fullBatch {
		if !f.holding {
			if f.held, f.holding = f.cursor.Next(); !f.holding {
				return
			}
		}
		n := f.held.N
		if f.first {
			f.first, f.dupHigh = false, min(f.sentHigh, n+maxWindow-1)
		}
		if _, used := f.flights[packetID(n)]; used {
			return // never two in flight with the same packet identifier [MQTT-2.2.1-3]
		}
		if oldest, ok := f.oldest(); ok && n >= oldest+maxWindow {
			return
		}
		f.send(l, &f.held)
		f.holding, f.held = false, storage.Entry{}
	}
}

// restart ends the pause after a refusal, once everything in flight has been answered and the time has come.
func (f *forwarder) restart(l *link) bool {
	if f.messages > 0 || l.now.Before(f.until) {
		return false
	}
	// Nothing is open in the session: what was refused begins a new exchange.
	f.refused, f.sentHigh, f.dupHigh, f.order = false, 0, 0, f.order[:0]
	f.holding, f.held = false, storage.Entry{}
	f.cursor.Rewind()
	return true
}

// send gathers one message or drops it.
func (f *forwarder) send(l *link, e *storage.Entry) {
	p := &f.publish
	frame, _, err := packet.Next(e.Message, packet.V5, 0)
	if err == nil {
		err = p.Decode(frame, packet.V5)
	}
	if err != nil {
		f.drop(dropDamaged, e.N, nil)
		return
	}
	again := e.N <= f.dupHigh
	if !f.address(l, e) || !f.inTime(l, e, again) || !f.hop(e, again) {
		return
	}
	p.QoS = min(e.Options&3, l.peer.maxQoS) // [MQTT-3.2.2-11]
	p.Dup = again && p.QoS > 0              // [MQTT-3.3.1-1], [MQTT-3.3.1-2]
	p.PacketID = 0
	if p.QoS > 0 {
		p.PacketID = packetID(e.N)
	}
	if !f.fits(l) {
		f.drop(dropTooLarge, e.N, p.Topic) // [MQTT-3.2.2-15]
		return
	}
	l.gathering = p.Append(l.gathering, l.peer.version)
	switch p.QoS {
	case 0:
		// The upstream offers no better: nothing will tell whether it arrived.
		f.accounts.forwarded.Add(1)
		f.cursor.Ack(e.N)
		return
	case 1:
		f.depart(l, e.N, packet.PUBACK)
	case 2:
		f.depart(l, e.N, packet.PUBREC)
	}
	f.order = append(f.order, e.N)
	f.sentHigh = max(f.sentHigh, e.N)
}

// address maps the topic and the retain flag, or lets go of the message.
func (f *forwarder) address(l *link, e *storage.Entry) bool {
	p := &f.publish
	local := p.Topic
	mappedTo, r, v := f.rules.apply(f.topic[:0], local)
	f.topic = mappedTo
	switch v {
	case unmatched:
		f.cursor.Ack(e.N) // excluded, or queued by rules that are gone
		return false
	case unusable:
		f.drop(dropTopic, e.N, local)
		return false
	}
	p.Topic = mappedTo
	p.Retain = r.retained(p.Retain) && l.peer.retain // [MQTT-3.2.2-14]
	p.TopicAlias, p.SubscriptionIDs = 0, nil         // [MQTT-3.3.4-6]
	return true
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

// inTime counts the message's expiry down, or drops it when it has passed.
func (f *forwarder) inTime(l *link, e *storage.Entry, again bool) bool {
	p := &f.publish
	if !p.HasExpiry {
		return true
	}
	waited := max(0, l.now.UnixMilli()-e.Time) / 1000
	if waited < int64(p.Expiry) {
		p.Expiry -= uint32(waited) // [MQTT-3.3.2-6]
		return true
	}
	if again && e.Options&3 == 2 {
		// The exchange may be half way: it must end, or the upstream would take a later message with this packet
		// identifier for a repetition.
		p.Expiry = 1
		return true
	}
	f.drop(dropExpired, e.N, p.Topic) // [MQTT-3.3.2-5]
	return false
}

func (f *forwarder) drop(cause string, n uint64, topic []byte) {
	f.cursor.Drop(cause, n)
	f.accounts.example(cause, topic)
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
		if !f.hops.next(&p.PublishProperties) {
			f.accounts.drop(dropLoop, local)
			continue
		}
		if !f.fits(l) {
			f.accounts.drop(dropTooLarge, local)
			continue
		}
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
		seq := f.cursor.Received(g.n)
		f.received = max(f.received, seq)
		f.flights[a.PacketID] = flight{g.n, packet.PUBREL}
		f.safety.add(promise{seq: seq, kind: release, id: a.PacketID, n: g.n})
		return nil
	}
	// PUBCOMP with "Packet Identifier not found" ends the exchange as well.
	f.accounts.forwarded.Add(1)
	f.cursor.Ack(g.n)
	f.arrive(a.PacketID)
	return nil
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
		f.cursor.Drop(causeOf(a.Reason), g.n)
		f.accounts.example(causeOf(a.Reason), a.ReasonString)
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
	f.flights[p.id] = flight{g.n, packet.PUBCOMP}
	l.expect()
	l.ack(packet.PUBREL, p.id, packet.ReasonSuccess)
}
