package modbus

import (
	"context"
	"encoding/binary"
	"net"
	"sync/atomic"
	"time"
)

// Faults is what a [Simulator] does wrong, for trying what a gateway makes of it.
// The zero value is a good device.
type Faults struct {
	// Every is which answers are wrong: 1 each, 3 every third. 0: none.
	Every int
	// Late is how long they are held back.
	Late time.Duration
	// Drop leaves them out.
	Drop bool
	// Exception is sent in their place when it is not 0.
	Exception byte
	// WrongUnit lets them come from the unit behind the one that was asked.
	WrongUnit bool
	// Twice sends them twice.
	Twice bool
}

// Misbehave makes the simulator do so from now on. It is called before Serve.
func (s *Simulator) Misbehave(f Faults) { s.faults = f }

// faultyListener lets the answers on its connections be wrong.
type faultyListener struct {
	net.Listener
	ctx    context.Context
	faults Faults
	count  atomic.Int64 // answers
}

// Accept returns a connection on which answers are wrong.
func (l *faultyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &faultyConn{c, l}, nil
}

type faultyConn struct {
	net.Conn
	of *faultyListener
}

// Write sends one frame, or what a bad device would send.
func (c *faultyConn) Write(frame []byte) (int, error) {
	f := &c.of.faults
	if f.Every == 0 || c.of.count.Add(1)%int64(f.Every) != 0 {
		return c.Conn.Write(frame)
	}
	sleep(c.of.ctx, f.Late)
	size := len(frame)
	if f.Drop {
		return size, nil
	}
	if f.Exception != 0 {
		frame = append(frame[:mbapSize], frame[mbapSize]|0x80, f.Exception)
		binary.BigEndian.PutUint16(frame[4:], 3)
	}
	if f.WrongUnit {
		frame[mbapSize-1]++
	}
	if f.Twice {
		frame = append(frame, frame...)
	}
	_, err := c.Conn.Write(frame)
	return size, err
}
