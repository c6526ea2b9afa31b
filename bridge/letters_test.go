package bridge

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

// A message that the upstream refused for good used to leave nothing but a counter.
func TestDeadLettersTellWhatWasRefusedAndWhy(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(1, "plant/a", "alarm")
	g.broker.send(packet.Publish{QoS: 1, Topic: []byte("plant/b"), Payload: make([]byte, 200)})
	g.broker.sendAll(2, "plant/c", "fine")
	c := u.welcome(false, packet.ConnackProperties{MaximumPacketSize: 150})
	c.want("PUBLISH 1 up/plant/a alarm #2", "PUBLISH 2 up/plant/c fine #4") // the large one does not block the queue
	c.send((&packet.Ack{Type: packet.PUBACK, PacketID: 2, Reason: packet.ReasonNotAuthorized, ReasonString: []byte("no\nsuch right")}).Append(nil, c.v))
	c.ack(packet.PUBREC, 4, 0)
	c.want("PUBREL 4")
	c.ack(packet.PUBCOMP, 4, 0)
	g.awaitStatus("two dead letters", func(s Status) bool { return s.DeadLetters == 2 && s.Backlog.Count == 0 && s.Forwarded == 1 })

	check := func(when string, got []DeadLetter) {
		t.Helper()
		var text []string
		for _, d := range got {
			text = append(text, fmt.Sprintf("%s %s %q %d %d", d.Cause, d.Topic, d.Detail, d.Size, len(d.Payload)))
			if d.Time.IsZero() || time.Since(d.Arrived) > time.Hour {
				t.Errorf("%s: times of %+v", when, d)
			}
		}
		want := `too-large plant/b "the upstream takes 150 bytes" 200 200, not-authorized plant/a "no such right" 5 5`
		if all := strings.Join(text, ", "); all != want {
			t.Errorf("%s: got %s\nwant %s", when, all, want)
		}
	}
	check("running", g.bridge.DeadLetters())
	g.stop()
	log, err := storage.Open(storage.Config{Path: g.dir, MaxSize: 64 << 20}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadDeadLetters(log, "cloud")
	if err != nil {
		t.Fatal(err)
	}
	check("read from the store", got)
	if other, err := ReadDeadLetters(log, "clou"); err != nil || len(other) > 0 {
		t.Errorf("of another bridge: %v, %v", other, err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	g.start()
	check("after a restart", g.bridge.DeadLetters())
}

func TestDeadLettersAreBounded(t *testing.T) {
	cfg := storage.Config{Path: t.TempDir(), MaxSize: 64 << 20}
	log, err := storage.Open(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	l := letters{name: "cloud", log: log}
	now := time.Unix(1, 0)
	for n := range uint64(3 * maxLetters) {
		now = now.Add(time.Second)
		for _, cause := range []string{"a", "b"} {
			l.keep(DeadLetter{Time: now, Cause: cause, Payload: make([]byte, n)}, 0, 2*n+uint64(cause[0]-'a'))
		}
	}
	rows, size := 0, 0
	newest := l.list()[l.count()-1]
	if newest.Cause != "b" || len(newest.Payload) != 3*maxLetters-1 {
		t.Errorf("the newest is %s with %d bytes", newest.Cause, len(newest.Payload))
	}
	// An upstream that refuses everything does not wear out the flash.
	before, known := log.Stats().Appended, l.count()
	for range 1000 {
		l.keep(DeadLetter{Time: now, Cause: "a"}, 0, 10000)
	}
	if n := log.Stats().Appended - before; n > maxLettersPerCause || l.count() > known+1 {
		t.Errorf("%d records in one second for one message, %d at hand before, %d now", n, known, l.count())
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if log, err = storage.Open(cfg, slog.New(slog.DiscardHandler), nil); err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	stored, err := ReadDeadLetters(log, "cloud")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range stored {
		rows++
		size += len(d.Payload)
	}
	if rows != l.count() || rows > maxLetters || size > maxLetterBytes || rows < 50 {
		t.Errorf("%d rows with %d bytes of payload in the store, %d at hand", rows, size, l.count())
	}
}

// RabbitMQ 3.10 ends the connection over every PUBLISH with QoS 2: with the queue standing still, the log must not say
// only that the bridge connects.
func TestMessageThatMayEndEveryLinkIsTold(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(2, "t", "the one")
	g.broker.sendAll(1, "t", "behind it")
	for i := range 2 * fruitlessLinks {
		c := u.welcome(i > 0, none)
		c.wantType(packet.PUBLISH)
		c.net.Close()
	}
	c := u.welcome(true, none)
	c.want("PUBLISH 2 dup up/t the one #2", "PUBLISH 1 dup up/t behind it #3")
	if n := g.lines.count("ends every connection without acknowledging anything"); n != 1 || g.lines.count("oldest=t") != 1 {
		t.Errorf("told %d times:\n%s", n, g.lines)
	}
	if len(g.bridge.DeadLetters()) != 0 {
		t.Error("a message was given up without a word from the upstream")
	}
}

// An upstream that ends the link over a message, instead of refusing it, would do so for ever: nothing behind the
// message would ever go.
func TestMessageThatEndsEveryLinkIsFound(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(1, "t", "a")
	g.broker.sendAll(2, "t", "the one")
	g.broker.sendAll(1, "t", "b", "c")
	bye := func(c *peerConn) {
		t.Helper()
		c.send((&packet.Disconnect{Reason: packet.ReasonPacketTooLarge}).Append(nil, c.v))
		c.wantEnd()
	}
	c := u.welcome(false, none)
	c.want("PUBLISH 1 up/t a #2", "PUBLISH 2 up/t the one #3", "PUBLISH 1 up/t b #4", "PUBLISH 1 up/t c #5")
	bye(c)
	c = u.welcome(true, none)
	c.want("PUBLISH 1 dup up/t a #2")
	c.wantNothing() // one at a time, and nothing else that could be to blame
	c.ack(packet.PUBACK, 2, 0)
	c.want("PUBLISH 2 dup up/t the one #3")
	bye(c)
	g.awaitStatus("a dead letter", func(s Status) bool { return s.Dropped["packet-too-large"] == 1 && s.DeadLetters == 1 })
	c = u.welcome(true, none)
	c.want("PUBREL 3") // the exchange may be open at the upstream
	g.broker.live(&packet.Publish{Topic: []byte("t"), Payload: []byte("waits")})
	c.ack(packet.PUBCOMP, 3, packet.ReasonPacketIdentifierNotFound)
	c.want("PUBLISH 1 dup up/t b #4")
	c.ack(packet.PUBACK, 4, 0)
	c.wantAnyOrder("PUBLISH 1 dup up/t c #5", "PUBLISH 0 up/t waits")
	c.ack(packet.PUBACK, 5, 0)
	g.awaitEmpty()
	if d := g.bridge.DeadLetters()[0]; string(d.Payload) != "the one" {
		t.Errorf("the wrong one was buried: %+v", d)
	}
}

// A QoS 2 message that cannot be sent again, because the limits of the upstream have changed meanwhile, leaves no
// exchange behind in which a later message with its packet identifier would be lost.
func TestDroppedQoS2LeavesNoOpenExchange(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	g.broker.sendAll(2, "t", "a message that is long")
	c := u.welcome(false, none)
	c.want("PUBLISH 2 up/t a message that is long #2")
	c.net.Close()
	c = u.welcome(true, packet.ConnackProperties{MaximumPacketSize: 20})
	c.want("PUBREL 2")
	c.ack(packet.PUBCOMP, 2, 0)
	g.awaitStatus("a dead letter", func(s Status) bool {
		return s.Dropped["too-large"] == 1 && s.DeadLetters == 1 && s.Backlog.Count == 0 && s.Forwarded == 0
	})
	g.broker.sendAll(2, "t", "b")
	c.want("PUBLISH 2 up/t b #3")
}

// The search for such a message ends when nothing is left of what was under suspicion.
func TestSearchForTheMessageThatEndsLinksComesToAnEnd(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, func(b *Bridge) { b.patience.goodbye = 0 })
	g.broker.sendAll(1, "t", "a", "b")
	c := u.welcome(false, none)
	c.want("PUBLISH 1 up/t a #2", "PUBLISH 1 up/t b #3")
	c.send((&packet.Disconnect{Reason: packet.ReasonPacketTooLarge}).Append(nil, c.v))
	c.wantEnd()
	c = u.welcome(true, none)
	c.want("PUBLISH 1 dup up/t a #2")
	g.broker.cursor.Drop("expired", 2) // b is not sent again
	c.ack(packet.PUBACK, 2, 0)
	g.awaitEmpty()
	g.broker.live(&packet.Publish{Topic: []byte("t"), Payload: []byte("live")})
	c.want("PUBLISH 0 up/t live")
}
