package broker

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

// A session that ends takes its queue with it, and a later one of the same name starts anew.
func TestEndedSessionLeavesNothingInTheStore(t *testing.T) {
	dir := t.TempDir()
	g := open(t, dir, anyPort()).run()
	first := dial(t, g.addr(), packet.V5)
	first.login(lasting("device"))
	first.subscribe("t", 1)
	first.disconnect()
	pub := g.client(packet.V5, "pub")
	pub.deliver(packet.Publish{Topic: []byte("t"), Payload: []byte("for the first"), QoS: 1, PacketID: 1})
	if !slices.Contains(g.store.Consumers(), "session/device") {
		t.Errorf("consumers %q lack the session", g.store.Consumers())
	}

	g.client(packet.V5, "device").disconnect() // clean start, no expiry
	g.settled("one client", func(s Stats) bool { return s.Connections == 1 && s.Sessions == 1 })
	if c := g.store.Consumers(); slices.Contains(c, "session/device") {
		t.Errorf("consumers %q have a session that has ended", c)
	}

	third := dial(t, g.addr(), packet.V5)
	if third.login(lasting("device")).SessionPresent {
		t.Error("the ended session is present")
	}
	third.subscribe("t", 1)
	pub.deliver(packet.Publish{Topic: []byte("t"), Payload: []byte("for the third"), QoS: 1, PacketID: 2})
	if m := third.receive(); m.payload != "for the third" {
		t.Errorf("got %v", m)
	}
	third.disconnect()
	pub.deliver(packet.Publish{Topic: []byte("t"), Payload: []byte("while away"), QoS: 1, PacketID: 3})
	g.stop()
	g = open(t, dir, anyPort()).run()
	third = dial(t, g.addr(), packet.V5)
	third.login(lasting("device"))
	if m := third.receive(); m.payload != "while away" {
		t.Errorf("got %v", m)
	}
}

// D1: PUBACK, PUBREC and done wait for the disk; nothing else does.
func TestAcknowledgementsWaitForTheDisk(t *testing.T) {
	g := start(t, anyPort())
	keeper := dial(t, g.addr(), packet.V5)
	keeper.login(lasting("keeper"))
	keeper.subscribe("kept", 2)
	keeper.disconnect()
	pub := g.client(packet.V5, "pub")
	g.deaf.Store(true)
	pub.publish(packet.Publish{Topic: []byte("kept"), QoS: 1, PacketID: 1})
	pub.publish(packet.Publish{Topic: []byte("kept"), QoS: 2, PacketID: 2})
	done := make(chan error, 1)
	g.Publish(&Message{Topic: "kept", QoS: 1}, func(err error) { done <- err })
	g.settled("what was published", func(s Stats) bool { return s.Received == 2 })
	if err := g.store.WaitSafe(t.Context(), g.store.Stats().Appended); err != nil {
		t.Fatal(err)
	}
	pub.send(packet.AppendPingreq(nil))
	pub.expect(packet.PINGRESP) // and no acknowledgement before it
	select {
	case err := <-done:
		t.Errorf("done with %v before the disk", err)
	default:
	}
	g.deaf.Store(false)
	g.Safe(g.store.Safe(), nil)
	pub.expectAck(packet.PUBACK, 1)
	pub.expectAck(packet.PUBREC, 2)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// onDisk reports whether a text is in a file of the store.
func onDisk(t *testing.T, dir, text string) bool {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(text)) {
			return true
		}
	}
	return false
}

// D1: while a durable session is connected and acknowledges in time, its QoS 1 messages do not touch the disk; when it
// does not acknowledge, goes, or has more in flight than it takes, they do, and the publisher is acknowledged then.
func TestLiveSessionSparesTheDisk(t *testing.T) {
	dir := t.TempDir()
	// The delay is longer than this test may take.
	g := openStore(t, anyPort(), storage.Config{Path: dir, MaxAckDelay: time.Hour}).run()
	sub := dial(t, g.addr(), packet.V5)
	p := lasting("sub")
	p.Properties.ReceiveMaximum = 2
	sub.login(p)
	sub.subscribe("t", 1)
	pub := g.client(packet.V5, "pub")
	const messages = 20
	written := 0
	for i := range messages {
		payload := fmt.Sprintf("in time %d.", i)
		pub.publish(packet.Publish{Topic: []byte("t"), Payload: []byte(payload), QoS: 1, PacketID: 1})
		if m := sub.receive(); m.payload != payload { // and acknowledges
			t.Fatalf("got %v", m)
		}
		pub.expectAck(packet.PUBACK, 1)
		if onDisk(t, dir, payload) {
			written++
		}
	}
	// The store's checkpoint, every few seconds, writes what it finds under way: on a slow machine that may be one or two.
	if written > messages/2 {
		t.Fatalf("%d of %d messages are on the disk", written, messages)
	}

	hold := func() *packet.Ack { // takes a message and keeps its acknowledgement
		t.Helper()
		var m packet.Publish
		if err := m.Decode(sub.expect(packet.PUBLISH), sub.version); err != nil {
			t.Fatal(err)
		}
		return &packet.Ack{Type: packet.PUBACK, PacketID: m.PacketID}
	}
	pub.publish(packet.Publish{Topic: []byte("t"), Payload: []byte("held."), QoS: 1, PacketID: 1})
	held := hold()
	pub.send(packet.AppendPingreq(nil))
	pub.expect(packet.PINGRESP) // no PUBACK: nobody has the message, nor has the disk
	// As many as it takes are in flight now: it does not keep up, and the disk is asked at once.
	pub.publish(packet.Publish{Topic: []byte("t"), Payload: []byte("the last it takes."), QoS: 1, PacketID: 2})
	last := hold()
	pub.publish(packet.Publish{Topic: []byte("t"), Payload: []byte("one too many."), QoS: 1, PacketID: 3})
	for id := range uint16(3) {
		pub.expectAck(packet.PUBACK, id+1)
	}
	for _, payload := range []string{"held.", "the last it takes.", "one too many."} {
		if !onDisk(t, dir, payload) {
			t.Errorf("%q was acknowledged by nobody and is not on the disk", payload)
		}
	}
	sub.send(held.Append(nil, sub.version))
	sub.send(last.Append(nil, sub.version))
	if m := sub.receive(); m.payload != "one too many." {
		t.Fatalf("got %v", m)
	}

	// It goes: what it has not acknowledged is safe at once.
	pub.publish(packet.Publish{Topic: []byte("t"), Payload: []byte("left behind."), QoS: 1, PacketID: 4})
	hold()
	if err := sub.conn.Close(); err != nil {
		t.Fatal(err)
	}
	pub.expectAck(packet.PUBACK, 4)
	if !onDisk(t, dir, "left behind.") {
		t.Error("the message is not on the disk")
	}
	sub = dial(t, g.addr(), packet.V5)
	sub.login(p)
	if m := sub.receive(); m.payload != "left behind." || !m.dup {
		t.Fatalf("got %v", m)
	}
}

// A session that reads and does not acknowledge delays a publisher by max_ack_delay and no more.
func TestLiveSessionThatDoesNotAcknowledge(t *testing.T) {
	dir := t.TempDir()
	g := openStore(t, anyPort(), storage.Config{Path: dir, MaxAckDelay: 50 * time.Millisecond}).run()
	sub := dial(t, g.addr(), packet.V5)
	sub.login(lasting("sub"))
	sub.subscribe("t", 1)
	pub := g.client(packet.V5, "pub")
	for i := range uint16(3) {
		payload := fmt.Sprintf("number %d.", i)
		pub.publish(packet.Publish{Topic: []byte("t"), Payload: []byte(payload), QoS: 1, PacketID: i + 1})
		sub.expect(packet.PUBLISH)
		pub.expectAck(packet.PUBACK, i+1)
		if !onDisk(t, dir, payload) {
			t.Errorf("%q was acknowledged by nobody and is not on the disk", payload)
		}
	}
}

// D5: a full store refuses, it does not acknowledge and drop.
func TestFullStoreRefuses(t *testing.T) {
	g := openSized(t, t.TempDir(), anyPort(), 8<<20).run()
	away := dial(t, g.addr(), packet.V5)
	away.login(lasting("away"))
	away.subscribe("t", 1)
	away.disconnect()
	pub := g.client(packet.V5, "pub")
	old := dial(t, g.addr(), packet.V311)
	old.login(packet.Connect{ClientID: []byte("old"), CleanStart: true})
	for range 2000 {
		pub.publish(packet.Publish{Topic: []byte("t"), Payload: make([]byte, 16<<10), QoS: 1, PacketID: 1})
		var ack packet.Ack
		if err := ack.Decode(pub.expect(packet.PUBACK), packet.V5); err != nil {
			t.Fatal(err)
		}
		if ack.Reason == packet.ReasonSuccess {
			continue
		}
		if ack.Reason != packet.ReasonQuotaExceeded {
			t.Errorf("PUBACK %v, want %v", ack.Reason, packet.ReasonQuotaExceeded)
		}
		old.publish(packet.Publish{Topic: []byte("t"), Payload: make([]byte, 16<<10), QoS: 1, PacketID: 1})
		old.expectClosed() // 3.1.1 has no other way to refuse
		pub.deliver(packet.Publish{Topic: []byte("other"), Payload: []byte("x"), QoS: 1, PacketID: 2})
		return
	}
	t.Error("a store of 8 MiB took 32 MB")
}

// D4: after a failure nothing is acknowledged that needs the disk, and everything else goes on.
func TestFailedStoreIsNotHidden(t *testing.T) {
	g := start(t, anyPort())
	keeper := dial(t, g.addr(), packet.V5)
	keeper.login(lasting("keeper"))
	keeper.subscribe("kept", 1)
	live := g.client(packet.V5, "live")
	live.subscribe("live", 1)
	g.Safe(0, errors.New("disk gone"))
	pub := g.client(packet.V5, "pub")
	pub.deliver(packet.Publish{Topic: []byte("live"), Payload: []byte("x"), QoS: 1, PacketID: 1})
	if m := live.receive(); m.payload != "x" {
		t.Errorf("got %v", m)
	}
	pub.publish(packet.Publish{Topic: []byte("kept"), Payload: []byte("x"), QoS: 1, PacketID: 2})
	for {
		f, err := pub.next()
		if err != nil {
			break // closed without an answer
		}
		var ack packet.Ack
		if f.Type() != packet.PUBACK {
			continue
		}
		if err := ack.Decode(f, packet.V5); err != nil {
			t.Fatal(err)
		}
		if ack.Reason < 0x80 {
			t.Errorf("PUBACK %v of a message that is nowhere", ack.Reason)
		}
		break
	}
	done := make(chan error, 1)
	g.Publish(&Message{Topic: "kept", QoS: 1}, func(err error) { done <- err })
	if err := <-done; err == nil {
		t.Error("a message from inside was said to be safe")
	}
}

// What was safe before Run nobody could tell the server: it asks.
func TestWhatWasSafeBeforeRunIsKnown(t *testing.T) {
	g := open(t, t.TempDir(), anyPort())
	cursor, err := g.Attach(Attachment{Name: "early", Filters: []AttachFilter{{Filter: "#", MaxQoS: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.store.WaitSafe(t.Context(), g.store.Safe()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	g.Publish(&Message{Topic: "t", Payload: []byte("x"), QoS: 1}, func(err error) { done <- err })
	g.run()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if e := next(t, cursor); e.Seq == storage.Seq(0) {
		t.Error("entry without a number")
	}
}
