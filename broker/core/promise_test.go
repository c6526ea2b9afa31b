package core_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"forebay/broker/brokertest"
	"forebay/broker/core"
	"forebay/broker/packet"
)

// The promise, with clients that keep to the rules and power that fails at any moment: what was acknowledged arrives,
// QoS 2 arrives once, and first arrivals of one publisher and QoS are in order.
func TestPromiseThroughPowerFailures(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			for range 3000 {
				w.step()
			}
			w.settle()
			w.check()
		})
	}
}

// world has two publishers and two subscribers, whose own memory survives everything.
type world struct {
	t    *testing.T
	rnd  *rand.Rand
	core *core.Core
	log  *brokertest.Log
	now  time.Time
	pubs []*publisher
	subs []*subscriber
}

// device is a client with its connection, if it has one.
type device struct {
	w       *world
	name    string
	version packet.Version
	conn    *core.Conn
	up      bool // CONNACK has come
	in, out []byte
	handle  func(f packet.Frame)
	begin   func() // after CONNACK
}

// publisher sends numbered messages with QoS 1 and 2 and repeats what is not acknowledged, in order.
type publisher struct {
	device
	next     int
	ids      uint16
	inFlight []*outgoing
	acked    map[string]bool
}

type outgoing struct {
	text     string
	qos      byte
	id       uint16
	released bool // PUBREC has come
}

// subscriber notes what it gets, by the rules of QoS 2.
type subscriber struct {
	device
	subscribed bool
	got        []string
	known      map[uint16]bool // identifiers received and not released
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 9)), log: &brokertest.Log{}, now: time.Unix(1_800_000_000, 0)}
	w.boot()
	for i := range 2 {
		p := &publisher{acked: map[string]bool{}}
		p.device = device{w: w, name: fmt.Sprint("p", i), version: packet.V311 + packet.Version(i), handle: p.handle, begin: p.begin}
		w.pubs = append(w.pubs, p)
		s := &subscriber{known: map[uint16]bool{}}
		s.device = device{w: w, name: fmt.Sprint("s", i), version: packet.V311 + packet.Version(i), handle: s.handle, begin: s.begin}
		w.subs = append(w.subs, s)
		s.connect()
		for range 3 { // CONNACK waits for the disk, then SUBACK does
			w.round()
			w.commit()
		}
		w.round()
		if !s.subscribed {
			t.Fatal("not subscribed")
		}
	}
	return w
}

func (w *world) boot() {
	events := &accept{}
	w.core = core.New(core.Config{Inflight: 4, ReceiveMaximum: 8}, w.log, events, w.now)
	events.core = w.core
	if err := w.log.Restore(w.core); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) devices() []*device {
	var all []*device
	for i := range w.pubs {
		all = append(all, &w.pubs[i].device, &w.subs[i].device)
	}
	return all
}

func (w *world) step() {
	d := w.devices()[w.rnd.IntN(4)]
	switch n := w.rnd.IntN(100); {
	case n < 40:
		w.pubs[w.rnd.IntN(2)].publish()
	case n < 60:
		w.commit()
	case n < 90:
		w.round()
	case n < 96 && d.conn == nil:
		d.connect()
	case n < 98:
		d.lose()
	case n == 99 && w.rnd.IntN(3) == 0:
		w.log = w.log.Restart()
		w.boot()
		for _, d := range w.devices() {
			d.conn, d.up, d.in, d.out = nil, false, nil, nil
		}
	case n == 98:
		w.log.Full = !w.log.Full
	}
}

func (w *world) commit() {
	w.core.Durable(w.log.Commit())
	for _, q := range w.log.Queues() {
		w.core.QueueReady(q)
	}
}

// round lets the core and the devices talk until both are silent.
func (w *world) round() {
	for again := true; again; {
		w.core.Tick(w.now)
		w.core.Flush(func(conn *core.Conn) {
			d := conn.Data.(*device)
			for _, chunk := range conn.Pending() {
				d.in = append(d.in, chunk...)
			}
			n := 0
			for _, chunk := range conn.Pending() {
				n += len(chunk)
			}
			conn.Wrote(n)
		})
		again = w.core.Busy()
		for _, d := range w.devices() {
			again = d.turn() || again
		}
	}
}

// settle connects everybody and lets everything arrive.
func (w *world) settle() {
	w.log.Full = false
	for range 500 {
		for _, d := range w.devices() {
			if d.conn == nil {
				d.connect()
			}
		}
		w.round()
		w.commit()
		w.round()
	}
	for _, p := range w.pubs {
		if len(p.inFlight) > 0 {
			w.t.Fatalf("%s: %d messages are not acknowledged", p.name, len(p.inFlight))
		}
	}
}

func (w *world) check() {
	total := 0
	for _, s := range w.subs {
		count := map[string]int{}
		last := map[string]int{}
		for _, text := range s.got {
			if count[text]++; count[text] > 1 {
				if text[len(text)-1] == '2' {
					w.t.Errorf("%s got %s, which has QoS 2, %d times", s.name, text, count[text])
				}
				continue
			}
			var pub string
			var number, qos int
			if _, err := fmt.Sscanf(text, "%2s %d %d", &pub, &number, &qos); err != nil {
				w.t.Fatal(err)
			}
			stream := fmt.Sprint(pub, qos)
			if number < last[stream] {
				w.t.Errorf("%s got %s after number %d", s.name, text, last[stream])
			}
			last[stream] = number
		}
		for _, p := range w.pubs {
			total += len(p.acked)
			for text := range p.acked {
				if count[text] == 0 {
					w.t.Errorf("%s was acknowledged, and %s has not got it", text, s.name)
				}
			}
		}
	}
	if total < 100 {
		w.t.Errorf("only %d messages were acknowledged: the test shows nothing", total)
	}
}

func (d *device) connect() {
	d.conn = d.w.core.Accept(core.ConnInfo{})
	d.conn.Data = d
	p := packet.Connect{Version: d.version, ClientID: []byte(d.name)}
	if d.version == packet.V5 {
		p.Properties.SessionExpiry = 1000
	}
	d.send(p.Append(nil))
}

func (d *device) lose() {
	if d.conn != nil {
		d.w.core.Lost(d.conn, "lost")
	}
	d.conn, d.up, d.in, d.out = nil, false, nil, nil
}

func (d *device) send(b []byte) { d.out = append(d.out, b...) }

// turn reads what has come and hands over what is to go; true if anything moved.
func (d *device) turn() bool {
	if d.conn == nil {
		return false
	}
	moved := false
	for {
		f, n, err := packet.Next(d.in, d.version, 0)
		if err != nil {
			d.w.t.Fatal(err)
		}
		if n == 0 {
			break
		}
		moved = true
		switch f.Type() {
		case packet.CONNACK:
			d.up = true
			d.begin()
		case packet.DISCONNECT:
		default:
			d.handle(f)
		}
		d.in = d.in[n:]
	}
	if d.conn.Closing() {
		d.lose()
		return true
	}
	if len(d.out) > 0 && !d.conn.Paused() {
		n := d.w.core.Receive(d.conn, bytes.Clone(d.out))
		d.out = d.out[n:]
		moved = moved || n > 0
	}
	return moved
}

func (p *publisher) publish() {
	if !p.up || len(p.inFlight) >= 8 {
		return
	}
	p.next++
	p.ids = p.ids%20 + 1 // used again soon: a lost removal would show
	for slices.ContainsFunc(p.inFlight, func(o *outgoing) bool { return o.id == p.ids }) {
		p.ids = p.ids%20 + 1
	}
	qos := byte(1 + p.w.rnd.IntN(2))
	o := &outgoing{text: fmt.Sprintf("%s %d %d", p.name, p.next, qos), qos: qos, id: p.ids}
	p.inFlight = append(p.inFlight, o)
	p.transmit(o, false)
}

func (p *publisher) transmit(o *outgoing, dup bool) {
	if o.released {
		p.send((&packet.Ack{Type: packet.PUBREL, PacketID: o.id}).Append(nil, p.version))
		return
	}
	m := packet.Publish{Topic: []byte("t"), Payload: []byte(o.text), QoS: o.qos, PacketID: o.id, Dup: dup}
	p.send(m.Append(nil, p.version))
}

func (p *publisher) begin() {
	for _, o := range p.inFlight {
		p.transmit(o, true)
	}
}

func (p *publisher) handle(f packet.Frame) {
	var a packet.Ack
	if err := a.Decode(f, p.version); err != nil {
		p.w.t.Fatal(err)
	}
	i := slices.IndexFunc(p.inFlight, func(o *outgoing) bool { return o.id == a.PacketID })
	if i < 0 {
		return // of an earlier transmission
	}
	o := p.inFlight[i]
	switch {
	case a.Reason >= 0x80 && a.Type != packet.PUBCOMP: // refused
		p.inFlight = slices.Delete(p.inFlight, i, i+1)
	case a.Type == packet.PUBACK && o.qos == 1, a.Type == packet.PUBCOMP && o.released:
		p.acked[o.text] = true
		p.inFlight = slices.Delete(p.inFlight, i, i+1)
	case a.Type == packet.PUBREC && o.qos == 2:
		p.acked[o.text] = true
		o.released = true
		p.transmit(o, false)
	}
}

func (s *subscriber) begin() {
	if !s.subscribed {
		sub := packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: []byte("#"), QoS: 2}}}
		s.send(sub.Append(nil, s.version))
	}
}

func (s *subscriber) handle(f packet.Frame) {
	answer := func(t packet.Type, id uint16) {
		s.send((&packet.Ack{Type: t, PacketID: id}).Append(nil, s.version))
	}
	switch f.Type() {
	case packet.SUBACK:
		s.subscribed = true
	case packet.PUBREL:
		var a packet.Ack
		if err := a.Decode(f, s.version); err != nil {
			s.w.t.Fatal(err)
		}
		delete(s.known, a.PacketID)
		answer(packet.PUBCOMP, a.PacketID)
	case packet.PUBLISH:
		var m packet.Publish
		if err := m.Decode(f, s.version); err != nil {
			s.w.t.Fatal(err)
		}
		if m.QoS == 1 {
			s.got = append(s.got, string(m.Payload))
			answer(packet.PUBACK, m.PacketID)
			return
		}
		if !s.known[m.PacketID] {
			s.known[m.PacketID] = true
			s.got = append(s.got, string(m.Payload))
		}
		answer(packet.PUBREC, m.PacketID)
	}
}
