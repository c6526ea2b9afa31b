package core

import (
	"time"

	"forebay/broker/packet"
)

// pace slows a client that sends more than it may. What it sends is not refused: its connection is not read for a
// while, so that its own sending stalls.
//
// The two times are how far the client is ahead of its rate: each packet moves them by what it would take at that rate.
type pace struct {
	packets time.Duration // on the core's clock: when all packets so far would have been allowed
	bytes   time.Duration
	until   time.Duration // not read before
	slowed  bool          // in Core.slowed
}

const (
	// burst is how far a client may be ahead of its rate.
	burst = time.Second
	// longestPause bounds how long it is not read at one time.
	longestPause = time.Minute
	// pausePrecision is how often the pauses are looked through.
	pausePrecision = 50 * time.Millisecond
)

// Paced reports whether the rates of this connection are limited.
func (conn *Conn) Paced() bool { return conn.pace != nil }

// spend counts a packet that has come, and pauses the connection when it was one too many. Acknowledgements are
// counted by their bytes only: the client owes them.
func (conn *Conn) spend(f packet.Frame) {
	c, p := conn.core, conn.pace
	switch f.Type() {
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
	default:
		if rate := conn.info.MessageRate; rate > 0 {
			p.packets = max(p.packets, c.clock) + time.Second/time.Duration(rate)
		}
	}
	if rate := conn.info.ByteRate; rate > 0 {
		p.bytes = max(p.bytes, c.clock) + time.Duration(float64(len(f.Whole))/float64(rate)*float64(time.Second))
	}
	ahead := max(p.packets, p.bytes) - c.clock
	if ahead <= burst || conn.over {
		return
	}
	p.until = c.clock + min(ahead-burst, longestPause)
	p.slowed = true
	c.slowed = append(c.slowed, conn)
	c.nextSlowed = min(c.nextSlowed, p.until)
	c.stats.Slowed++
}

// hasten ends the pauses that are over.
func (c *Core) hasten() {
	if c.clock < c.nextSlowed {
		return
	}
	c.nextSlowed = never
	left := c.slowed[:0]
	for _, conn := range c.slowed {
		if conn.place >= 0 && c.clock < conn.pace.until {
			left = append(left, conn)
			c.nextSlowed = max(min(c.nextSlowed, conn.pace.until), c.clock+pausePrecision)
			continue
		}
		conn.pace.slowed = false
		c.touch(conn)
	}
	clear(c.slowed[len(left):])
	c.slowed = left
}
