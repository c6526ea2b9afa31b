package bridge

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"forebay/broker/packet"
)

// serve uses one connection until it breaks or ctx ends, when it takes leave and returns nil. The caller closes c.
func (b *Bridge) serve(ctx context.Context, c *conn) error {
	now := time.Now()
	l := &link{conn: c, now: now, sent: now, heard: now}
	err := b.resume(ctx, l)
	if err == nil {
		b.setLinked(true)
		err = b.rounds(ctx, l)
		b.setLinked(false)
		b.forward.blame(l, err)
		if topic, tell := b.forward.wonder(err); tell {
			b.log.Warn("the upstream ends every connection without acknowledging anything: perhaps over one of the messages in flight, whose QoS, size or topic it cannot take",
				"in_flight", b.forward.messages, "oldest", topic)
		}
		b.forward.end()
	}
	var broken *brokenError
	var malformed *packet.Error
	switch {
	case ctx.Err() != nil && (err == nil || errors.Is(err, context.Cause(ctx))):
		b.leave(l, packet.ReasonNormalDisconnection)
		return nil
	case errors.As(err, &broken):
		b.leave(l, packet.ReasonProtocolError)
	case errors.As(err, &malformed):
		b.leave(l, malformed.Reason) // as §4.13 has it for clients too
	}
	return err
}

// resume takes the session up where the last link left it.
func (b *Bridge) resume(ctx context.Context, l *link) error {
	if err := b.down.resume(ctx, l, b.settled); err != nil {
		return err
	}
	if err := b.stamps.prepare(ctx, b.env.Log, b.cfg.Name); err != nil {
		return err
	}
	if err := b.forward.resume(ctx, l); err != nil {
		return err
	}
	b.reportRefused(b.down.subscribe(l, b.forward))
	b.canary.begin(l, b.forward)
	b.box.at(l.address.text, l.peer.version.String())
	session := "new"
	if l.peer.sessionPresent {
		session = "resumed"
	}
	b.log.Info("connected to the upstream", "address", l.address.text, "protocol", l.peer.version, "session", session,
		"backlog", b.queueStats().Count, "away", time.Since(b.lostAt).Round(time.Second))
	b.outageEnds(l.now)
	b.meter.begin()
	b.lookAt = l.now // the backlog, as it is now, is what the ETA is reckoned from
	return nil
}

// reportRefused logs the subscriptions that the upstream does not grant.
func (b *Bridge) reportRefused(filters []string) {
	for _, why := range filters {
		b.log.Warn("the upstream refuses a subscription: nothing comes down through it", "filter", why)
	}
}

// rounds is the life of a link: gather what can be sent, then wait for whatever comes first. It returns nil when ctx
// has ended and everything is settled that could be within the time for it.
func (b *Bridge) rounds(ctx context.Context, l *link) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var leaveAt time.Time // when stopping
	stopping := ctx.Done()
	for {
		l.now = time.Now()
		if stopping != nil {
			b.gather(l)
		} else if b.idle() || !l.now.Before(leaveAt) {
			return nil
		}
		if err := b.check(ctx, l); err != nil {
			return err
		}
		timer.Reset(b.nextDue(l, leaveAt).Sub(l.now))

		var out chan<- []byte
		if len(l.gathering) > 0 {
			out = l.out
		}
		var in <-chan []byte
		if len(l.gathering) < clogged && len(b.down.answers) <= inboundWindow && !l.now.Before(l.readAt) {
			in = l.in
		}
		select {
		case out <- l.gathering:
			l.handed()
		case buf := <-l.written:
			l.regain(buf)
		case batch := <-in:
			used, err := b.receive(l, batch)
			if err != nil {
				return err
			}
			l.taken <- used
			if b.forward.messages >= crowd {
				l.readAt = l.now.Add(ripening)
			}
		case err := <-l.broken:
			return err
		case r := <-b.scout.done():
			if r.conn != nil {
				b.scout.found = r.conn
				return errSuperseded
			}
			b.scoutFailed(l, r.err)
		case <-b.more:
		case <-b.settled:
			b.down.settle(l)
		case err := <-b.safety.reached:
			if err := b.keep(l, err); err != nil {
				return err
			}
		case <-timer.C:
		case <-stopping:
			stopping, leaveAt = nil, l.now.Add(b.patience.goodbye)
		}
	}
}

// check looks at the clocks: what is overdue, what the link is worth, what the counters say.
func (b *Bridge) check(ctx context.Context, l *link) error {
	if err := l.probe(b.patience.ping); err != nil {
		return err
	}
	if l.due > 0 && l.now.Sub(l.progress) >= b.patience.ack {
		return errStalled
	}
	if b.forward.suspects == 0 {
		if err := b.canary.beat(l); err != nil {
			return err
		}
	}
	b.judge(l)
	b.reportRefusal(l)
	b.look(l.now)
	b.lookAround(ctx, l)
	return nil
}

// gather collects what can be sent.
func (b *Bridge) gather(l *link) {
	b.down.offerAgain(l)
	if len(l.gathering) >= fullBatch {
		return
	}
	searching := b.forward.suspects > 0
	if !searching { // else a message in flight could be blamed for one of these
		batch := b.live.take(b.spare)
		b.forward.sendLive(l, batch)
		b.spare = batch[:0]
	}
	b.forward.pull(l)
	if searching && b.forward.suspects == 0 {
		signal(b.more) // what has been held up
	}
}

// idle reports that nothing is half way.
func (b *Bridge) idle() bool {
	return b.forward.messages == 0 && b.down.open == 0 && len(b.safety.promises) == 0
}

// judge decides whether the link deserves to be called up.
func (b *Bridge) judge(l *link) {
	if b.suspect && (l.due > 0 && !l.proven || b.canary.awaited()) {
		return // the last one accepted everything and moved nothing
	}
	b.suspect = b.suspect && !l.proven
	if why := b.doubt(l); why != "" {
		b.setState(Degraded, why)
		return
	}
	b.setState(Up, "")
}

// doubt says what is wrong with a link that is up; empty: nothing.
func (b *Bridge) doubt(l *link) string {
	switch {
	case b.forward.refused:
		return "the upstream refuses messages for now: " + b.forward.reason.String()
	case l.due > 0 && l.now.Sub(l.progress) >= b.patience.ack/2:
		return "the upstream is slow to acknowledge"
	}
	return b.canary.doubt()
}

// reportRefusal logs the beginning and the end of pauses that the upstream asked for. They are over when it has
// acknowledged something again.
func (b *Bridge) reportRefusal(l *link) {
	now := b.forward.refused || l.refused && b.forward.pause > 0
	if now && !l.refused {
		b.log.Warn("the upstream refuses messages for now, they wait", "why", b.forward.reason)
	}
	if l.refused && !now {
		b.log.Info("the upstream takes messages again")
	}
	l.refused = now
}

// nextDue is when rounds has something to do even if nothing happens.
func (b *Bridge) nextDue(l *link, leaveAt time.Time) time.Time {
	next := earlier(earlier(b.lookAt, b.watch.at), l.nextProbe(b.patience.ping))
	if l.due > 0 {
		next = earlier(next, l.progress.Add(b.patience.ack))
		if half := l.progress.Add(b.patience.ack / 2); half.After(l.now) {
			next = earlier(next, half)
		}
	}
	if due := b.canary.due(); !due.IsZero() && b.forward.suspects == 0 {
		next = earlier(next, due)
	}
	if b.forward.refused && b.forward.messages == 0 {
		next = earlier(next, b.forward.until)
	}
	if b.forward.replay.blocked {
		next = earlier(next, b.forward.replay.due())
	}
	if !b.down.retry.IsZero() {
		next = earlier(next, b.down.retry)
	}
	if !leaveAt.IsZero() {
		next = earlier(next, leaveAt)
	}
	if l.readAt.After(l.now) {
		next = earlier(next, l.readAt)
	}
	return next
}

// keep does what the store now allows. err is the store's.
func (b *Bridge) keep(l *link, err error) error {
	promises := b.safety.take(err)
	if err != nil {
		return err
	}
	for _, p := range promises {
		switch p.kind {
		case release:
			b.forward.keep(l, p)
		case complete:
			b.down.keep(l, p)
		}
	}
	return nil
}

// receive takes the whole packets at the front of batch, which it does not keep, and returns their length.
func (b *Bridge) receive(l *link, batch []byte) (int, error) {
	l.heard = l.now
	used := 0
	for {
		f, n, err := packet.Next(batch[used:], l.peer.version, maxInbound)
		if err != nil || n == 0 {
			return used, err
		}
		if err := b.onPacket(l, f); err != nil {
			return used, err
		}
		used += n
	}
}

// onPublish takes a message from the upstream. f is valid during the call only.
func (b *Bridge) onPublish(l *link, f packet.Frame) error {
	p := &b.down.publish
	if err := p.Decode(f, l.peer.version); err != nil {
		return err
	}
	if b.canary.caught(l, p) {
		return nil
	}
	return b.down.onPublish(l)
}

// onPacket takes one packet. f is valid during the call only.
func (b *Bridge) onPacket(l *link, f packet.Frame) error {
	switch f.Type() {
	case packet.PUBLISH:
		return b.onPublish(l, f)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		a, err := decodeAck(f, l.peer.version)
		if err != nil {
			return err
		}
		if a.Type == packet.PUBREL {
			return b.down.onPubrel(l, a.PacketID)
		}
		return b.forward.onAck(l, &a)
	case packet.SUBACK:
		var a packet.Suback
		if err := a.Decode(f, l.peer.version); err != nil {
			return err
		}
		if a.PacketID == canaryID {
			return b.canary.onSuback(l, b.forward, &a)
		}
		refused, err := b.down.onSuback(l, b.forward, &a)
		b.reportRefused(refused)
		return err
	case packet.PINGRESP:
		l.pinged = time.Time{}
		return nil
	case packet.DISCONNECT:
		var d packet.Disconnect
		if err := d.Decode(f, l.peer.version); err != nil {
			return err
		}
		return &goneError{d.Reason, printable(d.ReasonString), printable(d.ServerReference)}
	}
	return &brokenError{f.Type().String() + " from a server, unasked"}
}

// decodeAck reads a PUBACK, PUBREC, PUBREL or PUBCOMP. A refusal for a reason that the standard does not list for the
// packet is a refusal all the same: ending the connection over it would bring the same message and answer again.
func decodeAck(f packet.Frame, v packet.Version) (packet.Ack, error) {
	var a packet.Ack
	err := a.Decode(f, v)
	if err == nil || v != packet.V5 || len(f.Body) < 3 || f.Body[2] < 0x80 {
		return a, err
	}
	if id := binary.BigEndian.Uint16(f.Body); id != 0 {
		return packet.Ack{Type: f.Type(), PacketID: id, Reason: packet.Reason(f.Body[2])}, nil
	}
	return a, err
}

// leave sends DISCONNECT behind what has been gathered, as far as that is possible in the time for it.
func (b *Bridge) leave(l *link, reason packet.Reason) {
	if reason == packet.ReasonNormalDisconnection || l.peer.version == packet.V5 {
		d := packet.Disconnect{Reason: reason}
		l.gathering = d.Append(l.gathering, l.peer.version)
	}
	timer := time.NewTimer(b.patience.goodbye)
	defer timer.Stop()
	for out := l.out; ; {
		select {
		case out <- l.gathering:
			out = nil
		case <-l.written:
			if out == nil {
				return
			}
		case <-l.broken:
			return
		case <-timer.C:
			return
		}
	}
}
