package core

import (
	"math"

	"forebay/broker/packet"
)

// ack is one answer that must not overtake those before it, nor the disk: PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK,
// UNSUBACK, CONNACK, or (kind 0) the end of the connection.
type ack struct {
	seq    uint64 // leaves when this is durable
	kind   packet.Type
	reason packet.Reason
	id     uint16
	body   []byte // the encoded packet, for the three rare ones
}

// ackQueue is the ordered queue of answers of one connection, empty unless something waits for the disk.
type ackQueue struct {
	waiting []ack // from head on
	head    int
}

// len may be asked of a nil queue.
func (q *ackQueue) len() int {
	if q == nil {
		return 0
	}
	return len(q.waiting) - q.head
}

func (q *ackQueue) push(a ack) {
	if q.head > 0 && len(q.waiting) == cap(q.waiting) {
		n := copy(q.waiting, q.waiting[q.head:])
		clear(q.waiting[n:])
		q.waiting, q.head = q.waiting[:n], 0
	}
	q.waiting = append(q.waiting, a)
}

func (q *ackQueue) pop() ack {
	a := q.waiting[q.head]
	q.waiting[q.head] = ack{}
	if q.head++; q.head == len(q.waiting) {
		q.waiting, q.head = q.waiting[:0], 0
		if cap(q.waiting) > 64 {
			q.waiting = nil
		}
	}
	return a
}

// maxWaitingAcks is how many answers may wait for the disk before the connection is not read any more. 5.0 clients
// stop at their receive maximum; older ones know no such thing.
const maxWaitingAcks = 4096

// answer sends a when everything before it has left and its record is durable. The order of acknowledgements is that
// of what they acknowledge [MQTT-4.6.0-2] [MQTT-4.6.0-3] [MQTT-4.6.0-4].
func (conn *Conn) answer(a ack) {
	if conn.over {
		return
	}
	c := conn.core
	if conn.acks.len() == 0 && a.seq <= c.durable {
		conn.sendAnswer(&a)
		return
	}
	if conn.acks == nil {
		conn.acks = &ackQueue{}
	}
	conn.acks.push(a)
	if !conn.waiting {
		conn.waiting = true
		c.waiting = append(c.waiting, conn)
	}
}

// release sends the answers that are due.
func (conn *Conn) release() {
	paused := conn.Paused()
	for !conn.over && conn.acks.len() > 0 && conn.acks.waiting[conn.acks.head].seq <= conn.core.durable {
		a := conn.acks.pop()
		conn.sendAnswer(&a)
	}
	if conn.over {
		return
	}
	if conn.core.draining && conn.acks.len() == 0 {
		conn.close(conn.core.drainReason, "shutting down")
		return
	}
	if paused && !conn.Paused() {
		conn.core.touch(conn)
	}
}

// sendAnswer puts a into the output.
func (conn *Conn) sendAnswer(a *ack) {
	switch a.kind {
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		out := &conn.core.ackOut
		out.Type, out.PacketID, out.Reason = a.kind, a.id, a.reason
		conn.writeAck(out)
		// The client's quota grows with PUBACK, PUBCOMP, and a PUBREC that refuses [MQTT-3.3.4-7].
		if a.kind == packet.PUBACK || a.kind == packet.PUBCOMP || a.kind == packet.PUBREC && a.reason >= 0x80 {
			conn.unacked = max(conn.unacked-1, 0)
		}
	case packet.CONNACK:
		conn.writePacket(a.body)
		conn.open()
	case packet.SUBACK, packet.UNSUBACK:
		conn.writePacket(a.body)
	case 0:
		why := a.reason.String()
		if text := refusals[a.reason]; text != nil {
			why = string(text)
		}
		conn.close(a.reason, why)
	}
}

// refuse ends the connection without another answer, once the earlier ones have left. It is how a 3.x client learns
// that its message was not taken, 3.1.1 [MQTT-4.8.0-2].
func (conn *Conn) refuse(reason packet.Reason) {
	conn.ending = true
	conn.answer(ack{reason: reason})
}

// Durable says that all records up to seq are on stable storage.
func (c *Core) Durable(seq uint64) {
	if seq <= c.durable || c.failed != nil {
		return
	}
	c.durable = seq
	// A connection that gets its CONNACK now may append and wait again, so the list is taken first.
	waiting := c.waiting
	c.waiting = c.spareWaiting[:0]
	for _, conn := range waiting {
		conn.waiting = false
		conn.release()
		if !conn.over && conn.acks.len() > 0 && !conn.waiting {
			conn.waiting = true
			c.waiting = append(c.waiting, conn)
		}
	}
	clear(waiting)
	c.spareWaiting = waiting[:0]
	c.releaseDone()
}

// done is an Inject.Done that waits for the disk.
type done struct {
	seq  uint64
	call func(error)
}

// releaseDone calls those whose records are durable. They stand in the order of their records.
func (c *Core) releaseDone() {
	due := 0
	for due < len(c.dones) && c.dones[due].seq <= c.durable {
		due++
	}
	if due == 0 {
		return
	}
	// What they call may publish again.
	calls := append([]done(nil), c.dones[:due]...)
	n := copy(c.dones, c.dones[due:])
	clear(c.dones[n:])
	c.dones = c.dones[:n]
	for _, d := range calls {
		d.call(nil)
	}
}

// LogFailed says that nothing more will become durable (D4): what waits is never acknowledged, its publishers are
// closed; QoS 0, and QoS 1 and 2 without durable consumers, go on.
func (c *Core) LogFailed(err error) {
	if c.failed != nil {
		return
	}
	c.failed = err
	waiting := c.waiting
	c.waiting = nil
	for _, conn := range waiting {
		conn.waiting = false
		if conn.over || conn.acks.len() == 0 {
			continue
		}
		if !conn.established {
			conn.reject(packet.ReasonServerUnavailable, "the store has failed")
			continue
		}
		conn.close(packet.ReasonImplementationSpecificError, "the store has failed")
	}
	dones := c.dones
	c.dones = nil
	for _, d := range dones {
		d.call(err)
	}
}

// append is Log.Append, unless the log has failed.
func (c *Core) append(r *Record) (uint64, error) {
	if c.failed != nil {
		return 0, c.failed
	}
	seq, err := c.log.Append(r)
	if err != nil {
		return 0, err
	}
	if c.accessSeq == math.MaxUint64 {
		c.accessSeq = seq - 1 // what was there before this run was routed under rules that nobody knows
	}
	c.appended = seq
	return seq, nil
}
