package bridge

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

const (
	// filtersPerSubscribe bounds one SUBSCRIBE; some clouds take no more than eight.
	filtersPerSubscribe = 8
	// A message that the broker had no room for is offered up to maxOffers times, retryRefused apart.
	retryRefused = time.Second
	maxOffers    = 5
)

// inboundState is where the exchange of an inbound QoS 2 packet identifier stands.
type inboundState byte

const (
	offered   inboundState = iota // with the broker, not safe yet
	taken                         // safe with its row: PUBREC may leave, repetitions are not delivered
	releasing                     // PUBREL came, the removal of the row is on its way to the disk
)

// inboundID is an inbound QoS 2 packet identifier in use.
type inboundID struct {
	state inboundState
	wants *answer // offered: the answer that waits for the broker
}

// answer is a PUBACK or PUBREC that is owed to the upstream. Answers leave in the order of their PUBLISHes
// [MQTT-4.6.0-2], [MQTT-4.6.0-3]. Owned by Run.
type answer struct {
	kind    packet.Type
	id      uint16
	ready   bool
	silent  bool // do not answer: the message is to come again
	reason  packet.Reason
	message *Message // to be offered again; nil while the broker has it, and when ready
	tries   int      // offers so far
}

// result is what the broker said about a message.
type result struct {
	answer  *answer
	message *Message
	tries   int
	err     error
}

// downlink brings messages from the upstream to the broker. It lives as long as Run does.
type downlink struct {
	// Constant.
	name     string // of the bridge; also Message.Origin
	clientID string
	broker   Broker
	log      Log
	rules    topicMap
	hops     hops
	accounts *accounts
	safety   *safety
	wake     func() // tells Run that results wait; must not block

	// Owned by Run.
	known      bool // the store knows a session of this client identifier
	subscribed bool // all of rules have been granted in the present session
	inbound    map[uint16]*inboundID
	answers    []*answer // of the present link, in order
	open       int       // messages of QoS 1 and 2 the broker has not answered
	retry      time.Time // when refused messages are offered again; zero: there are none
	pending    map[uint16][]int
	topic      []byte // scratch
	publish    packet.Publish

	mu      sync.Mutex
	results []result // guarded by mu
}

// Rows of storage.Bridges: bridge's name, 0, 's' → client identifier of the session; bridge's name, 0, 'i', two bytes
// packet identifier → 1.
func (d *downlink) sessionKey() []byte { return append([]byte(d.name), 0, 's') }

func (d *downlink) inboundKey(id uint16) []byte {
	return binary.BigEndian.AppendUint16(append([]byte(d.name), 0, 'i'), id)
}

// restore reads the rows of this bridge.
func (d *downlink) restore() error {
	session, prefix := d.sessionKey(), append([]byte(d.name), 0, 'i')
	err := d.log.Each(storage.Bridges, func(key, value []byte) error {
		if bytes.Equal(key, session) {
			d.known = string(value) == d.clientID
		} else if id, ok := bytes.CutPrefix(key, prefix); ok {
			if len(id) != 2 {
				return fmt.Errorf("bridge: stored packet identifier of %d bytes", len(id))
			}
			d.inbound[binary.BigEndian.Uint16(id)] = &inboundID{state: taken}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("bridge: %s: read stored session: %w", d.name, err)
	}
	return nil
}

// resume begins a link. When the upstream has no session, what is known of the old one is removed, durably, before
// anything of the new one can arrive; the error is that of the store or ctx.
func (d *downlink) resume(ctx context.Context, l *link, wait <-chan struct{}) error {
	clear(d.answers)
	d.answers, d.retry = d.answers[:0], time.Time{}
	clear(d.pending)
	for id, in := range d.inbound {
		if in.state == offered && in.wants.message != nil {
			delete(d.inbound, id) // the broker had no room, nothing is stored: it comes again
		}
	}
	if l.peer.sessionPresent && d.known {
		return nil
	}
	// A message that is still on its way into the log would bring its row after the removal.
	for d.open > 0 {
		select {
		case <-wait:
			d.settle(l)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	r := storage.Record{Time: l.now.UnixMilli(), Changes: []storage.Change{
		{Table: storage.Bridges, Key: d.sessionKey(), Value: []byte(d.clientID)}}}
	for id := range d.inbound {
		r.Changes = append(r.Changes, storage.Change{Table: storage.Bridges, Key: d.inboundKey(id)})
	}
	seq, err := d.log.Append(&r)
	if err == nil {
		err = d.log.WaitSafe(ctx, seq)
	}
	if err != nil {
		return fmt.Errorf("bridge: write session: %w", err)
	}
	clear(d.inbound)
	d.known, d.subscribed = true, false
	return nil
}

// subscribe gathers SUBSCRIBE for all rules, unless the session upstream has them from this process already: a
// repetition would bring retained messages again. What the upstream has said not to offer is not asked for; it is
// returned as by onSuback.
func (d *downlink) subscribe(l *link, f *forwarder) (refused []string) {
	if len(d.rules) == 0 || d.subscribed {
		return nil
	}
	d.subscribed = true // until a SUBACK says otherwise
	for first := 0; first < len(d.rules); first += filtersPerSubscribe {
		s := packet.Subscribe{PacketID: uint16(controlIDs + first/filtersPerSubscribe)}
		var rules []int
		for i := first; i < min(first+filtersPerSubscribe, len(d.rules)); i++ {
			text := d.rules[i].filter.text
			if why := l.peer.lacks(text); why != 0 {
				d.subscribed = false
				refused = append(refused, refusedFilter(text, why))
				continue
			}
			s.Subscriptions = append(s.Subscriptions, packet.Subscription{
				Filter: []byte(text), QoS: d.rules[i].qos,
				NoLocal:           !isShared(text), // [MQTT-3.8.3-4]
				RetainAsPublished: true,
				RetainHandling:    1, // retained messages only when the subscription is new
			})
			rules = append(rules, i)
		}
		if len(rules) == 0 {
			continue // [MQTT-3.8.3-2]
		}
		d.pending[s.PacketID] = rules
		f.flights[s.PacketID] = flight{expect: packet.SUBACK}
		l.expect()
		l.gathering = s.Append(l.gathering, l.peer.version)
	}
	return refused
}

// lacks returns the reason that a SUBSCRIBE with a filter would be refused with, by what CONNACK says; 0: none.
// §3.2.2.3.11, §3.2.2.3.13.
func (p *peer) lacks(filter string) packet.Reason {
	switch {
	case !p.shared && isShared(filter):
		return packet.ReasonSharedSubscriptionsNotSupported
	case !p.wildcards && strings.ContainsAny(filter, "+#"):
		return packet.ReasonWildcardSubscriptionsNotSupported
	}
	return 0
}

func refusedFilter(filter string, reason packet.Reason) string {
	return fmt.Sprintf("%s: %s (0x%02x)", filter, strings.ToLower(reason.String()), byte(reason))
}

// onSuback returns the filters that the upstream refused, each with the reason in words.
func (d *downlink) onSuback(l *link, f *forwarder, a *packet.Suback) (refused []string, err error) {
	rules, ok := d.pending[a.PacketID]
	if !ok {
		return nil, &brokenError{"SUBACK without a SUBSCRIBE"}
	}
	if len(a.Reasons) != len(rules) {
		return nil, &brokenError{"SUBACK with the wrong number of reasons"} // [MQTT-3.8.4-6]
	}
	delete(d.pending, a.PacketID)
	delete(f.flights, a.PacketID)
	l.answered()
	for i, reason := range a.Reasons {
		if reason >= 0x80 {
			d.subscribed = false
			refused = append(refused, refusedFilter(d.rules[rules[i]].filter.text, reason))
		}
	}
	return refused, nil
}

// onPublish takes the message from the upstream in d.publish, which is valid during the call only.
func (d *downlink) onPublish(l *link) error {
	p := &d.publish
	if p.TopicAlias != 0 {
		return &packet.Error{Reason: packet.ReasonTopicAliasInvalid, Statement: "MQTT-3.1.2-27", Detail: "a topic alias, and we allow none"}
	}
	if p.QoS == 2 && d.repeated(l, p.PacketID) {
		d.flush(l)
		return nil
	}
	m, r := d.message(p)
	if p.QoS == 0 {
		if m != nil {
			d.broker.Publish(m, d.countRefused)
			d.accounts.received.Add(1)
		}
		return nil
	}
	a := &answer{kind: packet.PUBACK, id: p.PacketID}
	if p.QoS == 2 {
		a.kind = packet.PUBREC
	}
	d.answers = append(d.answers, a)
	if m == nil {
		// Nothing of a QoS 2 message that no rule wants is stored: if it comes again, it is not wanted again.
		a.ready = true
		if p.QoS == 2 {
			d.inbound[p.PacketID] = &inboundID{state: taken}
		}
		d.flush(l)
		return nil
	}
	if p.QoS == 2 {
		d.inbound[p.PacketID] = &inboundID{state: offered, wants: a}
		m.Changes = []storage.Change{{Table: storage.Bridges, Key: d.inboundKey(p.PacketID), Value: []byte{1}}} // D2
	}
	m.QoS = min(p.QoS, r.qos)
	d.offer(a, m)
	return nil
}

// repeated answers a QoS 2 PUBLISH whose packet identifier is in use: it has been delivered, or is about to be.
func (d *downlink) repeated(l *link, id uint16) bool {
	in, ok := d.inbound[id]
	if !ok {
		return false
	}
	if in.state == offered && slices.Contains(d.answers, in.wants) {
		return true // sent twice on one link, which is against the rules: the answer is on its way
	}
	a := &answer{kind: packet.PUBREC, id: id, ready: in.state != offered}
	if in.state == offered {
		a.message, a.tries, in.wants = in.wants.message, in.wants.tries, a
		if a.message != nil && d.retry.IsZero() {
			d.retry = l.now.Add(retryRefused)
		}
	}
	d.answers = append(d.answers, a)
	return true
}

// message copies p as the first matching rule maps it; nil if none does or p goes in circles, which is counted.
func (d *downlink) message(p *packet.Publish) (*Message, *rule) {
	to, r, v := d.rules.apply(d.topic[:0], p.Topic)
	d.topic = to
	switch v {
	case unmatched:
		d.accounts.drop(dropNoRule, p.Topic)
		return nil, nil
	case unusable:
		d.accounts.drop(dropTopic, p.Topic)
		return nil, nil
	}
	if !d.hops.next(&p.PublishProperties) {
		d.accounts.drop(dropLoop, p.Topic)
		return nil, nil
	}
	m := &Message{Topic: string(to), Payload: bytes.Clone(p.Payload), Retain: p.Retain, Origin: d.name, Properties: p.PublishProperties}
	q := &m.Properties
	q.TopicAlias, q.SubscriptionIDs = 0, nil
	q.ContentType, q.ResponseTopic, q.Correlation = bytes.Clone(q.ContentType), bytes.Clone(q.ResponseTopic), bytes.Clone(q.Correlation)
	q.UserProperties = slices.Clone(q.UserProperties)
	for i, u := range q.UserProperties {
		q.UserProperties[i] = packet.UserProperty{Name: bytes.Clone(u.Name), Value: bytes.Clone(u.Value)}
	}
	return m, r
}

// offer hands m to the broker; settle takes what it says.
func (d *downlink) offer(a *answer, m *Message) {
	a.message = nil
	a.tries++
	tries := a.tries
	d.open++
	d.broker.Publish(m, func(err error) {
		d.mu.Lock()
		d.results = append(d.results, result{a, m, tries, err})
		first := len(d.results) == 1
		d.mu.Unlock()
		if first {
			d.wake()
		}
	})
}

// countRefused is the done of a QoS 0 message; it is called by the broker's goroutine.
func (d *downlink) countRefused(err error) {
	if err != nil {
		d.accounts.drop(dropRefused, nil)
	}
}

// settle takes what the broker has said and gathers the answers that may leave.
func (d *downlink) settle(l *link) {
	d.mu.Lock()
	results := d.results
	d.results = nil
	d.mu.Unlock()
	for _, r := range results {
		d.open--
		d.decide(l, r)
	}
	d.flush(l)
}

// decide applies one result.
func (d *downlink) decide(l *link, r result) {
	a := r.answer
	in := d.inbound[a.id]
	if a.kind == packet.PUBREC {
		a = in.wants // of this link, if the message has come again meanwhile
	}
	if r.err == nil {
		a.ready = true
		d.accounts.received.Add(1)
		if a.kind == packet.PUBREC {
			in.state, in.wants = taken, nil
		}
		return
	}
	reason := refusal(r.err)
	if reason == packet.ReasonSuccess || reason == packet.ReasonServerBusy && r.tries < maxOffers {
		a.message, a.tries = r.message, r.tries
		if d.retry.IsZero() {
			d.retry = l.now.Add(retryRefused)
		}
		return
	}
	if reason == packet.ReasonServerBusy {
		reason = packet.ReasonQuotaExceeded
	}
	a.ready = true
	if l.peer.version == packet.V5 {
		a.reason = reason // D5
	} else {
		a.silent = reason == packet.ReasonQuotaExceeded // it may be taken when it comes again
	}
	d.accounts.drop(dropRefused, []byte(r.message.Topic))
	if a.kind == packet.PUBREC {
		delete(d.inbound, a.id)
	}
}

// refusal sorts the broker's refusals by what the upstream is told: "Server busy" stands for a message that is to be
// offered again first, success for saying nothing as long as it lasts.
func refusal(err error) packet.Reason {
	var full *storage.FullError
	var broken *packet.Error
	switch {
	case errors.Is(err, storage.ErrFailed), errors.Is(err, storage.ErrClosed):
		return packet.ReasonSuccess // D4
	case errors.As(err, &full):
		return packet.ReasonQuotaExceeded
	case errors.As(err, &broken) && broken.Reason == packet.ReasonTopicNameInvalid:
		return packet.ReasonTopicNameInvalid
	case errors.As(err, &broken):
		return packet.ReasonImplementationSpecificError
	}
	return packet.ReasonServerBusy
}

// offerAgain hands over once more what the broker had no room for.
func (d *downlink) offerAgain(l *link) {
	if d.retry.IsZero() || l.now.Before(d.retry) {
		return
	}
	d.retry = time.Time{}
	// What a former link left behind is not in answers: it comes again, or finds its message in repeated.
	for _, a := range d.answers {
		if m := a.message; m != nil {
			d.offer(a, m)
		}
	}
}

// flush gathers the answers at the front that are ready.
func (d *downlink) flush(l *link) {
	n := 0
	for n < len(d.answers) && d.answers[n].ready {
		if a := d.answers[n]; !a.silent {
			l.ack(a.kind, a.id, a.reason)
		}
		n++
	}
	d.answers = slices.Delete(d.answers, 0, n)
}

// onPubrel ends the exchange of an inbound QoS 2 message.
func (d *downlink) onPubrel(l *link, id uint16) error {
	in, ok := d.inbound[id]
	if !ok {
		l.ack(packet.PUBCOMP, id, packet.ReasonPacketIdentifierNotFound)
		return nil
	}
	if in.state == offered {
		return &brokenError{"PUBREL before PUBREC"}
	}
	// Should the removal be lost in a crash after PUBCOMP, the next message with this identifier would be taken for
	// a repetition: PUBCOMP waits for the disk.
	seq, err := d.log.Append(&storage.Record{Time: l.now.UnixMilli(), Changes: []storage.Change{
		{Table: storage.Bridges, Key: d.inboundKey(id)}}})
	if err != nil {
		return fmt.Errorf("bridge: remove packet identifier: %w", err)
	}
	in.state = releasing
	d.safety.add(promise{seq: seq, kind: complete, id: id, on: l})
	return nil
}

// keep sends the PUBCOMP that p allows, if the PUBREL came on this link. The upstream may have asked on two: what the
// first removed, the second has found removed, and its PUBCOMP is owed all the same.
func (d *downlink) keep(l *link, p promise) {
	in, ok := d.inbound[p.id]
	if ok && in.state != releasing {
		return // answered, and in use again
	}
	delete(d.inbound, p.id)
	if p.on == l {
		l.ack(packet.PUBCOMP, p.id, packet.ReasonSuccess)
	}
}
