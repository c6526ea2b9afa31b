package bridge

import (
	"errors"
	"time"

	"forebay/broker/packet"
)

const (
	// maxAtHand bounds the messages in flight that are kept for the dead letters, in bytes.
	maxAtHand = 4 << 20
	// maxCopied is the longest message that is copied. A short one would hold on to a piece of the log, which may be a
	// thousand times its size.
	maxCopied = 16 << 10
)

// retain returns the message, or a copy, for as long as it is in flight; nil if too much is kept already.
func (f *forwarder) retain(message []byte) []byte {
	if f.atHand+len(message) > maxAtHand {
		return nil
	}
	if len(message) <= maxCopied {
		var buf []byte
		if k := len(f.buffers) - 1; k >= 0 {
			buf, f.buffers = f.buffers[k][:0], f.buffers[:k]
		}
		message = append(buf, message...)
	}
	f.atHand += cap(message)
	return message
}

// letGo takes back what retain returned. It is valid until the next retain.
func (f *forwarder) letGo(message []byte) {
	f.atHand -= cap(message)
	if n := len(message); n > 0 && n <= maxCopied && f.atHand+cap(message) <= maxAtHand {
		f.buffers = append(f.buffers, message)
	}
}

// bury drops a message that the upstream can never take and keeps a dead letter of it. words may be nil.
func (f *forwarder) bury(l *link, cause string, words []byte, g *flight) {
	d := DeadLetter{Time: l.now, Arrived: time.UnixMilli(g.arrived), Cause: cause, Detail: printable(words)}
	var p packet.Publish
	if frame, n, err := packet.Next(g.message, packet.V5, 0); err == nil && n > 0 && p.Decode(frame, packet.V5) == nil {
		d.Topic, d.QoS, d.Size, d.Payload = string(p.Topic), p.QoS, len(p.Payload), p.Payload
	}
	f.letters.keep(d, g.lane.slot(), g.n)
	if g.open {
		f.finish(g)
		f.accounts.drop(cause, nil)
	} else {
		g.lane.cursor.Drop(cause, g.n)
	}
	example := d.Topic
	if d.Detail != "" {
		example += ": " + d.Detail
	}
	f.accounts.example(cause, []byte(example))
}

// finish leads the exchange of g, which has been dropped, to its end, as if PUBREC had come: the upstream may have seen
// the message on another link, and would take a later one with its packet identifier for a repetition. To an upstream
// that has not PUBREL is of an unknown identifier, which it answers.
func (f *forwarder) finish(g *flight) {
	end := *g
	end.message, end.buried = nil, true
	f.messages++
	g.lane.sent(g.n)
	f.awaitRelease(&end)
}

// aboutMessage reports whether a DISCONNECT for r can only be about a PUBLISH of ours.
func aboutMessage(r packet.Reason) bool {
	switch r {
	case packet.ReasonPacketTooLarge, packet.ReasonTopicNameInvalid, packet.ReasonPayloadFormatInvalid,
		packet.ReasonRetainNotSupported, packet.ReasonQoSNotSupported:
		return true
	}
	return false
}

// blame looks for the message that made the upstream end the link with err. An upstream that ends the link over a
// message instead of refusing it would do so for ever. All that was in flight is suspect then: on the links to come each
// of them is alone on its way, and the one over which another link ends is buried.
func (f *forwarder) blame(l *link, err error) {
	var gone *goneError
	if !errors.As(err, &gone) || !aboutMessage(gone.reason) {
		return
	}
	if f.suspects == 0 {
		f.suspects = f.messages
		return
	}
	for id, g := range f.flights {
		if g.expect != packet.PUBACK && g.expect != packet.PUBREC {
			continue
		}
		f.arrive(id)
		g.open = g.expect == packet.PUBREC
		f.bury(l, causeOf(gone.reason), []byte(gone.text), &g)
		f.cleared()
		return // there is one at most
	}
}

// cleared takes one of the suspects off the list.
func (f *forwarder) cleared() { f.suspects = max(0, f.suspects-1) }

// fruitlessLinks is after how many links in a row that the upstream has ended, with messages in flight and none
// acknowledged, it is told that one of them may be the reason.
const fruitlessLinks = 3

// wonder takes note of how the link ended, and returns the topic of the oldest message in flight when it is time to say
// that the upstream may be ending every link over a message. Nothing is buried: with no word from the upstream it may be
// the upstream that fails.
func (f *forwarder) wonder(err error) (topic string, tell bool) {
	if f.moved || !wordless(err) || len(f.flights) == 0 {
		f.fruitless = 0
		return "", false
	}
	if f.fruitless++; f.fruitless != fruitlessLinks {
		return "", false
	}
	for _, a := range f.lanes {
		n, ok := f.oldest(a)
		if !ok {
			continue
		}
		var p packet.Publish
		frame, size, err := packet.Next(f.flights[a.packetID(n)].message, packet.V5, 0)
		if err == nil && size > 0 && p.Decode(frame, packet.V5) == nil {
			topic = string(p.Topic)
		}
		break
	}
	return topic, true
}
