package main_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"forebay/broker/packet"
)

// message is one PUBLISH of a device that is not complete.
type message struct {
	n        int
	id       uint16
	released bool // PUBREC has come: only PUBREL may be sent again [MQTT-4.3.3-1]
}

// device publishes as the standard demands, over however many connections: the
// same identifiers in the same order with DUP after each, PUBREL where PUBREC
// was received. Of such a publisher the gateway must keep every message, in order, QoS 2 once.
type device struct {
	*account
	port     int
	next     int // number of the next message
	inflight []message
	book     *ledger
}

const deviceWindow = 20

// publish sends the messages below count.
func (d *device) publish(t *testing.T, count int) {
	gaveUp := time.Now().Add(patience)
	for d.next < count || len(d.inflight) > 0 {
		before := d.acknowledged()
		err := d.connection(count)
		if d.acknowledged() > before {
			gaveUp = time.Now().Add(patience)
		}
		if time.Now().After(gaveUp) {
			t.Errorf("%s: no progress: %v", d.name, err)
			return
		}
	}
}

// connection publishes until all is done or the connection breaks.
func (d *device) connection(count int) error {
	conn, in, present, err := dialSession(d.port, d.name)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	out := d.again(present)
	for {
		out = d.fill(out, count)
		if len(d.inflight) == 0 {
			_, err := conn.Write((&packet.Disconnect{}).Append(out, packet.V311))
			return err
		}
		if _, err := conn.Write(out); err != nil {
			return err
		}
		out = out[:0]
		frame, err := readFrame(in)
		if err != nil {
			return err
		}
		if out, err = d.onAnswer(out, frame); err != nil {
			return err
		}
	}
}

// again is what a connection begins with.
func (d *device) again(present bool) (out []byte) {
	if !present { // what was released is complete, the rest begins anew
		d.inflight = slices.DeleteFunc(d.inflight, func(m message) bool { return m.released })
	}
	for _, m := range d.inflight {
		if m.released {
			out = (&packet.Ack{Type: packet.PUBREL, PacketID: m.id}).Append(out, packet.V311)
			continue
		}
		out = d.appendPublish(out, m, present)
	}
	return out
}

// fill begins new messages while the window has room.
func (d *device) fill(out []byte, count int) []byte {
	for len(d.inflight) < deviceWindow && d.next < count {
		m := message{n: d.next, id: uint16(d.next%65535 + 1)}
		d.inflight = append(d.inflight, m)
		d.next++
		d.sent = d.next
		out = d.appendPublish(out, m, false)
	}
	return out
}

func (d *device) appendPublish(out []byte, m message, dup bool) []byte {
	p := packet.Publish{QoS: d.qos, Dup: dup, PacketID: m.id, Topic: []byte(d.topic), Payload: []byte(d.payload(m.n))}
	return p.Append(out, packet.V311)
}

// onAnswer takes an acknowledgement.
func (d *device) onAnswer(out []byte, frame packet.Frame) ([]byte, error) {
	var a packet.Ack
	if err := a.Decode(frame, packet.V311); err != nil {
		return out, err
	}
	at := slices.IndexFunc(d.inflight, func(m message) bool { return m.id == a.PacketID })
	if at < 0 {
		return out, fmt.Errorf("%v for %d, which is not in flight", a.Type, a.PacketID)
	}
	if a.Type != packet.PUBCOMP && !d.inflight[at].released {
		d.take(d.inflight[at].n)
		d.book.add(1)
	}
	if a.Type == packet.PUBREC {
		d.inflight[at].released = true
		return (&packet.Ack{Type: packet.PUBREL, PacketID: a.PacketID}).Append(out, packet.V311), nil
	}
	d.inflight = slices.Delete(d.inflight, at, at+1)
	return out, nil
}
