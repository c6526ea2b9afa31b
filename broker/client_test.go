package broker

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"forebay/broker/packet"
)

// patience is how long a test waits for what must come. It is never part of a verdict but "it did not come".
const patience = 20 * time.Second

// client is a device: it sends what it is told and reads one packet at a time.
type client struct {
	t       testing.TB
	conn    net.Conn
	version packet.Version
	buf     []byte // what was read and not yet taken
	frame   int    // bytes at the front of buf that belong to the frame handed out last
	early   []message
}

func dial(t testing.TB, address net.Addr, v packet.Version) *client {
	t.Helper()
	conn, err := net.DialTimeout(address.Network(), address.String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the test may have closed it already
	return &client{t: t, conn: conn, version: v}
}

func (c *client) send(b []byte) {
	c.t.Helper()
	if err := c.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// next returns the next packet, valid until the next call.
func (c *client) next() (packet.Frame, error) {
	c.buf = c.buf[:copy(c.buf, c.buf[c.frame:])]
	c.frame = 0
	for {
		// Next checks for CONNECT when it knows no version, so a client always names its own.
		f, n, err := packet.Next(c.buf, c.version, 0)
		if err != nil || n > 0 {
			c.frame = n
			return f, err
		}
		if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return f, err
		}
		var chunk [16 << 10]byte
		n, err = c.conn.Read(chunk[:])
		c.buf = append(c.buf, chunk[:n]...)
		if n == 0 && err != nil {
			return f, err
		}
	}
}

// expect returns the next packet, which must be of one of those types. A PUBREL is answered on the way.
func (c *client) expect(want ...packet.Type) packet.Frame {
	c.t.Helper()
	for {
		f, err := c.next()
		if err != nil {
			c.t.Fatalf("waiting for %v: %v", want, err)
		}
		if slices.Contains(want, f.Type()) {
			return f
		}
		if f.Type() != packet.PUBREL {
			c.t.Fatalf("got %v % x, want %v", f.Type(), f.Whole, want)
		}
		var rel packet.Ack
		if err := rel.Decode(f, c.version); err != nil {
			c.t.Fatal(err)
		}
		c.send((&packet.Ack{Type: packet.PUBCOMP, PacketID: rel.PacketID}).Append(nil, c.version))
	}
}

// expectClosed reads until the server has closed, and returns the last DISCONNECT's reason, if there was one.
func (c *client) expectClosed() packet.Reason {
	c.t.Helper()
	var reason packet.Reason
	for {
		f, err := c.next()
		if err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				c.t.Fatal("the server did not close the connection")
			}
			return reason
		}
		if f.Type() == packet.DISCONNECT {
			var d packet.Disconnect
			if err := d.Decode(f, c.version); err != nil {
				c.t.Fatal(err)
			}
			reason = d.Reason
		}
	}
}

func (c *client) connect(p packet.Connect) packet.Connack {
	c.t.Helper()
	p.Version = c.version
	c.send(p.Append(nil))
	var ack packet.Connack
	if err := ack.Decode(c.expect(packet.CONNACK), c.version); err != nil {
		c.t.Fatal(err)
	}
	return ack
}

// login connects and fails the test unless it is let in.
func (c *client) login(p packet.Connect) packet.Connack {
	c.t.Helper()
	ack := c.connect(p)
	if ack.Reason != packet.ReasonSuccess {
		c.t.Fatalf("CONNACK %v", ack.Reason)
	}
	return ack
}

func (c *client) subscribe(filter string, qos byte) {
	c.t.Helper()
	s := packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: []byte(filter), QoS: qos}}}
	c.send(s.Append(nil, c.version))
	var ack packet.Suback
	for {
		f := c.expect(packet.SUBACK, packet.PUBLISH)
		if f.Type() == packet.PUBLISH { // the server may begin before SUBACK
			c.early = append(c.early, c.take(f))
			continue
		}
		if err := ack.Decode(f, c.version); err != nil {
			c.t.Fatal(err)
		}
		break
	}
	if len(ack.Reasons) != 1 || ack.Reasons[0] != packet.Reason(qos) {
		c.t.Fatalf("SUBACK %v for QoS %d", ack.Reasons, qos)
	}
}

func (c *client) publish(p packet.Publish) { c.t.Helper(); c.send(p.Append(nil, c.version)) }

// deliver publishes and goes through the whole handshake of its QoS.
func (c *client) deliver(p packet.Publish) {
	c.t.Helper()
	c.publish(p)
	switch p.QoS {
	case 1:
		c.expectAck(packet.PUBACK, p.PacketID)
	case 2:
		c.expectAck(packet.PUBREC, p.PacketID)
		c.send((&packet.Ack{Type: packet.PUBREL, PacketID: p.PacketID}).Append(nil, c.version))
		c.expectAck(packet.PUBCOMP, p.PacketID)
	}
}

func (c *client) expectAck(want packet.Type, id uint16) {
	c.t.Helper()
	var ack packet.Ack
	if err := ack.Decode(c.expect(want), c.version); err != nil {
		c.t.Fatal(err)
	}
	if ack.PacketID != id || ack.Reason >= 0x80 {
		c.t.Fatalf("%v of %d: %v, want packet identifier %d", want, ack.PacketID, ack.Reason, id)
	}
}

// receive takes the next PUBLISH and acknowledges it. The message is the caller's.
func (c *client) receive() message {
	c.t.Helper()
	if len(c.early) > 0 {
		m := c.early[0]
		c.early = c.early[1:]
		return m
	}
	return c.take(c.expect(packet.PUBLISH))
}

func (c *client) take(f packet.Frame) message {
	c.t.Helper()
	var p packet.Publish
	if err := p.Decode(f, c.version); err != nil {
		c.t.Fatal(err)
	}
	m := message{string(p.Topic), string(p.Payload), p.QoS, p.Retain, p.Dup}
	id := p.PacketID
	switch p.QoS {
	case 1:
		c.send((&packet.Ack{Type: packet.PUBACK, PacketID: id}).Append(nil, c.version))
	case 2:
		c.send((&packet.Ack{Type: packet.PUBREC, PacketID: id}).Append(nil, c.version))
	}
	return m
}

func (c *client) disconnect() {
	c.t.Helper()
	c.send((&packet.Disconnect{}).Append(nil, c.version))
	if err := c.conn.Close(); err != nil {
		c.t.Fatal(err)
	}
}

// message is a PUBLISH as a subscriber saw it.
type message struct {
	topic, payload string
	qos            byte
	retain, dup    bool
}

func (m message) String() string {
	return fmt.Sprintf("%s=%q qos %d retain %v dup %v", m.topic, m.payload, m.qos, m.retain, m.dup)
}
