package bridge

import (
	"log/slog"
	"testing"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

// FuzzUpstream gives a bridge with messages in flight whatever an upstream might send. It must neither panic nor
// answer out of proportion.
func FuzzUpstream(f *testing.F) {
	ack := func(t packet.Type, id uint16, r packet.Reason) []byte {
		return (&packet.Ack{Type: t, PacketID: id, Reason: r}).Append(nil, packet.V5)
	}
	join := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	f.Add(join(ack(packet.PUBACK, 2, 0), ack(packet.PUBREC, 3, 0), ack(packet.PUBCOMP, 3, 0)))
	f.Add(join(ack(packet.PUBREC, 3, 0x97), ack(packet.PUBACK, 2, 0x87), ack(packet.PUBACK, 9, 0)))
	f.Add(join((&packet.Publish{QoS: 2, PacketID: 5, Topic: []byte("down/x")}).Append(nil, packet.V5),
		(&packet.Publish{QoS: 2, PacketID: 5, Topic: []byte("down/x")}).Append(nil, packet.V5), ack(packet.PUBREL, 5, 0), ack(packet.PUBREL, 6, 0)))
	f.Add(join((&packet.Publish{QoS: 1, PacketID: 1, Topic: []byte("other")}).Append(nil, packet.V5),
		(&packet.Publish{Topic: []byte("down/y"), Payload: []byte("z")}).Append(nil, packet.V5)))
	f.Add((&packet.Suback{PacketID: 1, Reasons: []packet.Reason{0x87}}).Append(nil, packet.V5))
	f.Add((&packet.Suback{PacketID: 65535, Reasons: []packet.Reason{1}}).Append(nil, packet.V5))
	f.Add((&packet.Disconnect{Reason: packet.ReasonServerMoved, ServerReference: []byte("x")}).Append(nil, packet.V5))
	f.Add([]byte{0xd0, 0x00, 0x20, 0x03, 0x00, 0x00, 0x00})

	log, err := storage.Open(storage.Config{Path: f.TempDir(), MaxSize: 64 << 20}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { log.Close() })
	cfg := testConfig("mqtt://host")
	cfg.Down = []DownRule{{Filter: "down/#"}}
	cfg.SetDefaults()
	broker := newLocalBroker(f, log)
	broker.setRefuse(func(m *Message) error { return &storage.FullError{} })
	b, err := New(cfg, Environment{Site: "s", Broker: broker, Log: log, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	if err := b.Attach(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		broker.sendAll(1, "t", "x")
		broker.sendAll(1, "t", "y")
		b.safety = newSafety(log)
		b.down.safety, b.down.inbound, b.down.subscribed = b.safety, map[uint16]*inboundID{}, false
		b.forward = newForwarder(*b.lanes.Load(), b)
		now := time.Now()
		l := &link{conn: &conn{peer: peer{version: packet.V5, window: 100, maxPacket: packet.MaxPacket, maxQoS: 2, retain: true, keepAlive: time.Minute}}, now: now}
		if err := b.forward.resume(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		clear(b.down.pending)
		b.down.answers = nil
		b.down.subscribe(l, b.forward)
		b.forward.pull(l)
		before := len(l.gathering)
		used, err := b.receive(l, input)
		if used > len(input) || err == nil && used < len(input) && len(input)-used >= 5 && completeFrame(input[used:]) {
			t.Fatalf("used %d of %d", used, len(input))
		}
		b.down.settle(l)
		if grown := len(l.gathering) - before; grown > 8*len(input) {
			t.Fatalf("%d bytes brought %d of answers", len(input), grown)
		}
		for id, g := range b.forward.flights {
			if g.lane != nil && g.lane.packetID(g.n) != id {
				t.Fatalf("identifier %d is used for message %d", id, g.n)
			}
		}
		a := b.forward.lanes[0]
		for n, ok := b.forward.oldest(a); ok; n, ok = b.forward.oldest(a) {
			broker.cursor.Ack(n)
			b.forward.arrive(a.packetID(n))
		}
	})
}

func completeFrame(b []byte) bool {
	_, n, err := packet.Next(b, packet.V5, maxInbound)
	return err == nil && n > 0
}
