package bridge

import (
	"time"

	"forebay/broker/packet"
)

const (
	// fullBatch is when gathering more output is left for the next round.
	fullBatch = 128 << 10
	// clogged is when an upstream that does not read is not read either, so that our answers cannot pile up.
	clogged = 1 << 20
	// keptBuffer is the largest output buffer that is used again.
	keptBuffer = 512 << 10

	// With crowd messages in flight input is read no sooner than ripening after the last: acknowledgements that come one
	// by one, as Mosquitto sends them, would each wake three goroutines, and one more message in flight is worth nothing.
	crowd    = 1000
	ripening = time.Millisecond
)

// link is a connection as its owner, Run's goroutine, sees it: the output being gathered and the clocks. All of it is
// owned by Run.
type link struct {
	*conn
	now       time.Time // of this round
	gathering []byte    // output of this round, and what the writer has not taken yet
	spare     []byte    // an empty buffer

	aliases map[string]uint16 // of topics; see alias

	sent     time.Time // last output given to the writer
	heard    time.Time // last input
	readAt   time.Time // input is left alone until then; see crowd
	pinged   time.Time // PINGREQ that has not been answered; zero: none
	progress time.Time // last acknowledgement, or when the first of those due became due
	due      int       // packets sent that the upstream must acknowledge
	proven   bool      // an acknowledgement has come on this link
	refused  bool      // the upstream has asked for a pause, which is logged, and has acknowledged nothing since
}

// expect counts a packet that the upstream must acknowledge.
func (l *link) expect() {
	if l.due == 0 {
		l.progress = l.now
	}
	l.due++
}

// answered counts an acknowledgement that was due.
func (l *link) answered() {
	l.due--
	l.progress = l.now
	l.proven = true
}

// ack gathers a PUBACK, PUBREC, PUBREL or PUBCOMP.
func (l *link) ack(t packet.Type, id uint16, reason packet.Reason) {
	a := packet.Ack{Type: t, PacketID: id, Reason: reason}
	l.gathering = a.Append(l.gathering, l.peer.version)
}

// handed notes that the writer has taken what was gathered.
func (l *link) handed() {
	l.gathering, l.spare = l.spare[:0], nil
	l.sent = l.now
}

// regain takes a buffer back from the writer.
func (l *link) regain(buf []byte) {
	if cap(buf) <= keptBuffer {
		l.spare = buf
	}
}

// probe gathers a PINGREQ when the link has been silent in either direction for the keep alive, and returns an error
// when one has not been answered.
func (l *link) probe(patience time.Duration) error {
	if !l.pinged.IsZero() {
		if l.now.Sub(l.pinged) >= patience {
			return errNoPong
		}
		return nil
	}
	// Towards the upstream [MQTT-3.1.2-20] asks for less than the keep alive between packets; ours begins the probe
	// after three quarters, so that a late timer or a slow writer does not break it.
	if l.now.Sub(l.sent) >= l.peer.keepAlive*3/4 || l.now.Sub(l.heard) >= l.peer.keepAlive {
		l.gathering = packet.AppendPingreq(l.gathering)
		l.pinged = l.now
	}
	return nil
}

// nextProbe is when probe has something to do.
func (l *link) nextProbe(patience time.Duration) time.Time {
	if !l.pinged.IsZero() {
		return l.pinged.Add(patience)
	}
	return earlier(l.sent.Add(l.peer.keepAlive*3/4), l.heard.Add(l.peer.keepAlive))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
