package bridge

import (
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

func TestOutagesAreAccountedFor(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, func(b *Bridge) { b.patience.status = 5 * time.Millisecond })
	c := u.welcome(false, none)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	if n := len(g.bridge.Outages()); n != 0 {
		t.Errorf("%d outages before there was one", n)
	}
	g.broker.sendAll(1, "t", "sent before")
	c.want("PUBLISH 1 up/t sent before #2")
	address := u.listener.Addr().String()
	u.listener.Close()
	c.net.Close()
	g.awaitStatus("an outage", func(Status) bool { return len(g.bridge.Outages()) == 1 })
	from := g.bridge.Outages()[0].From

	// The gateway is stopped and started during the outage, which stays one.
	g.stop()
	g.start()
	g.awaitStatus("down", func(s Status) bool { return s.State == Down })
	// Times are kept in milliseconds: these came clearly before the outage is over, and "later" clearly after.
	for _, text := range []string{"a", "b"} {
		g.broker.sendAt(packet.Publish{QoS: 1, Topic: []byte("t"), Payload: []byte(text)}, from.Add(-time.Second))
	}
	g.broker.sendAt(packet.Publish{QoS: 1, Topic: []byte("t"), PublishProperties: packet.PublishProperties{HasExpiry: true, Expiry: 1}}, time.Now().Add(-time.Hour))
	g.broker.live(&packet.Publish{Topic: []byte("t")})
	u = newUpstreamAt(t, address)
	c = u.welcome(true, none)
	c.want("PUBLISH 1 dup up/t sent before #2")
	g.awaitStatus("the end of the outage", func(Status) bool { return g.bridge.Outages()[0].To != nil })
	g.broker.sendAt(packet.Publish{QoS: 1, Topic: []byte("t"), Payload: []byte("later")}, time.Now().Add(time.Minute))
	for _, id := range []uint16{2, 3, 4, 6} {
		c.ack(packet.PUBACK, id, 0)
	}
	g.awaitStatus("the backlog to be gone", func(Status) bool { return g.bridge.Outages()[0].Drained != nil })
	check := func(when string, all []Outage) {
		t.Helper()
		if len(all) != 1 {
			t.Fatalf("%s: %d outages, want 1", when, len(all))
		}
		o := all[0]
		// What was sent before the link broke may have been sent on the first link of this life: see Recovered.
		if !o.From.Equal(from) || o.To.Before(o.From) || o.Drained.Before(*o.To) || o.Buffered != 4 || o.Sent != 3 || o.Resent != 1 ||
			o.Expired != 1 || len(o.Dropped) != 1 || o.Dropped["qos0-offline"] != 1 || o.Why != "the upstream closed the connection" {
			t.Errorf("%s: %+v, want from %v", when, o, from)
		}
	}
	check("running", g.bridge.Outages())
	g.broker.await("the topic", func(got []Message) bool {
		var all []Outage
		for _, m := range got {
			if m.Topic == "$SYS/forebay/bridges/cloud/outages" && m.Retain {
				if err := json.Unmarshal(m.Payload, &all); err != nil {
					t.Fatal(err)
				}
			}
		}
		return len(all) == 1 && all[0].Drained != nil && all[0].Sent == 3
	})
	g.stop()
	log, err := storage.Open(storage.Config{Path: g.dir, MaxSize: 64 << 20}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	stored, err := ReadOutages(log, "cloud")
	if err != nil {
		t.Fatal(err)
	}
	check("stored", stored)
}

func TestOutagesAreBounded(t *testing.T) {
	cfg := storage.Config{Path: t.TempDir(), MaxSize: 64 << 20}
	log, err := storage.Open(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	g := ledger{name: "cloud", log: log}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	outage := func() {
		g.begin(now, "why", nil)
		now = now.Add(time.Minute)
		g.end(now, 1, 0)
		g.close(now, true)
	}
	for range maxOutages + 20 {
		outage()
	}
	if n := len(g.list()); n != maxOutages {
		t.Errorf("%d outages kept", n)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if log, err = storage.Open(cfg, slog.New(slog.DiscardHandler), nil); err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	all, err := ReadOutages(log, "cloud")
	if err != nil || len(all) != maxOutages {
		t.Errorf("%d outages stored, %v", len(all), err)
	}
	now = now.Add(outagesKept + time.Hour)
	g.log = log
	outage()
	if n := len(g.list()); n != 1 {
		t.Errorf("%d outages after a year", n)
	}
}

func TestMeter(t *testing.T) {
	var m meter
	now := time.Unix(0, 0)
	forwarded, waiting := uint64(0), int64(10_000)
	for range 60 {
		m.look(now, forwarded, 7, waiting)
		now = now.Add(time.Second)
		forwarded += 100
		waiting -= 50 // 50 come while 100 go
	}
	if r := m.rates(); r.Forwarded != 100 || r.Received != 0 {
		t.Errorf("rates %+v", r)
	}
	if eta := m.eta(); eta < 138 || eta > 143 {
		t.Errorf("%d s for %v messages at 50 a second", eta, m.waiting)
	}
	m.begin()
	m.look(now, forwarded, 7, waiting)
	m.look(now.Add(time.Second), forwarded, 7, waiting+5)
	if eta := m.eta(); eta != 0 {
		t.Errorf("%d s for a backlog that grows", eta)
	}
}
