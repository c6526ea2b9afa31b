package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"forebay/broker/packet"
)

// demoClient is an MQTT 5.0 connection, as small as the demo's devices and the
// observer at the cloud need it: one session, no reconnecting.
type demoClient struct {
	conn     net.Conn
	onPacket func(packet.Frame) error // called by read for every packet

	mu sync.Mutex // held while one packet is written
}

// dialDemo connects. Packets that arrive go to onPacket once read is called.
func dialDemo(ctx context.Context, address, clientID string) (*demoClient, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	c := &demoClient{conn: conn}
	connect := packet.Connect{Version: packet.V5, CleanStart: true, ClientID: []byte(clientID)}
	accepted := false
	c.onPacket = func(f packet.Frame) error {
		var ack packet.Connack
		if err := ack.Decode(f, packet.V5); err != nil {
			return err
		}
		if ack.Reason != packet.ReasonSuccess {
			return fmt.Errorf("demo: %s is refused: %v", clientID, ack.Reason)
		}
		accepted = true
		return errDemoPause
	}
	if err = c.send(connect.Append(nil)); err == nil {
		err = c.read(ctx)
	}
	if !accepted {
		return nil, errors.Join(fmt.Errorf("demo: connect %s: %w", clientID, err), conn.Close())
	}
	return c, nil
}

// errDemoPause makes read return without an error.
var errDemoPause = errors.New("demo: enough for now")

func (c *demoClient) send(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.conn.Write(b); err != nil {
		return fmt.Errorf("demo: send: %w", err)
	}
	return nil
}

// read hands packets to onPacket until ctx ends (nil), onPacket returns an
// error, or the connection breaks.
func (c *demoClient) read(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		// Ends the Read below; if that fails, so does the Read.
		_ = c.conn.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	var buf []byte
	chunk := make([]byte, 16<<10)
	for {
		f, n, err := packet.Next(buf, packet.V5, 0)
		if err != nil {
			return err
		}
		if n > 0 {
			err := c.onPacket(f)
			buf = buf[:copy(buf, buf[n:])]
			if errors.Is(err, errDemoPause) && len(buf) == 0 {
				return nil
			}
			if err != nil {
				return err
			}
			continue
		}
		n, err = c.conn.Read(chunk)
		buf = append(buf, chunk[:n]...)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("demo: the broker has closed the connection")
		default:
			return fmt.Errorf("demo: receive: %w", err)
		}
	}
}

// run reads until ctx ends, and leaves politely.
func (c *demoClient) run(ctx context.Context) error {
	err := c.read(ctx)
	if err == nil {
		err = c.send((&packet.Disconnect{}).Append(nil, packet.V5))
	}
	return errors.Join(err, c.conn.Close())
}

// demoDevice publishes numbers and remembers which were acknowledged.
type demoDevice struct {
	// Constant after newDemoDevice.
	topic  string
	qos    byte
	client *demoClient

	mu          sync.Mutex
	next        uint64            // guarded by mu: the number to be sent next, from 0
	outstanding map[uint16]uint64 // guarded by mu: sent, not acknowledged, by packet identifier
	unfinished  int               // guarded by mu: QoS 2 without PUBCOMP
	refused     map[uint64]bool   // guarded by mu: never acknowledged
}

// demoWindow is how many messages of a device may be unacknowledged.
const demoWindow = 20

func newDemoDevice(ctx context.Context, address, name string, qos byte) (*demoDevice, error) {
	client, err := dialDemo(ctx, address, name)
	if err != nil {
		return nil, err
	}
	d := &demoDevice{
		topic: "plant/" + name + "/count", qos: qos, client: client,
		outstanding: map[uint16]uint64{}, refused: map[uint64]bool{},
	}
	client.onPacket = d.onPacket
	return d, nil
}

// publish sends the next number unless too many are unacknowledged.
func (d *demoDevice) publish() error {
	d.mu.Lock()
	id := uint16(d.next%65535 + 1)
	_, taken := d.outstanding[id]
	if taken || len(d.outstanding)+d.unfinished >= demoWindow {
		d.mu.Unlock()
		return nil
	}
	number := d.next
	d.next++
	d.outstanding[id] = number
	d.mu.Unlock()
	p := packet.Publish{Topic: []byte(d.topic), Payload: fmt.Appendf(nil, `{"number":%d}`, number), QoS: d.qos, PacketID: id}
	return d.client.send(p.Append(nil, packet.V5))
}

func (d *demoDevice) onPacket(f packet.Frame) error {
	switch f.Type() {
	case packet.PUBACK, packet.PUBREC, packet.PUBCOMP:
	case packet.DISCONNECT:
		return errors.New("demo: the gateway has disconnected a device")
	default:
		return nil
	}
	var ack packet.Ack
	if err := ack.Decode(f, packet.V5); err != nil {
		return err
	}
	d.mu.Lock()
	number, known := d.outstanding[ack.PacketID]
	switch {
	case f.Type() == packet.PUBCOMP:
		d.unfinished--
	case known && ack.Reason >= 0x80:
		d.refused[number] = true
		delete(d.outstanding, ack.PacketID)
	case known:
		delete(d.outstanding, ack.PacketID)
		if f.Type() == packet.PUBREC {
			d.unfinished++
		}
	}
	d.mu.Unlock()
	if f.Type() == packet.PUBREC && ack.Reason < 0x80 {
		return d.client.send((&packet.Ack{Type: packet.PUBREL, PacketID: ack.PacketID}).Append(nil, packet.V5))
	}
	return nil
}

// acknowledged is how many numbers were acknowledged: PUBACK or PUBREC.
func (d *demoDevice) acknowledged() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.next - uint64(len(d.outstanding)) - uint64(len(d.refused))
}

// idle reports that everything that was sent has been answered.
func (d *demoDevice) idle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.outstanding) == 0 && d.unfinished == 0
}

// promised is how many of the numbers from the given one on were acknowledged.
func (d *demoDevice) promised(from uint64) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := max(d.next, from) - from
	for _, number := range d.outstanding {
		if number >= from {
			n--
		}
	}
	for number := range d.refused {
		if number >= from {
			n--
		}
	}
	return n
}

// isPromised reports whether a number was acknowledged.
func (d *demoDevice) isPromised(number uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, waiting := range d.outstanding {
		if waiting == number {
			return false
		}
	}
	return number < d.next && !d.refused[number]
}
