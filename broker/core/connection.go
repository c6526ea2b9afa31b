package core

import (
	"math"
	"time"

	"forebay/broker/packet"
)

// Conn is one connection, a stream of bytes each way. Its methods are called by the loop only.
type Conn struct {
	// Data is for the owner of the transport.
	Data any

	// Constant after Accept.
	core *Core
	info ConnInfo

	// Constant after CONNECT.
	clientID    string
	username    string
	quiet       time.Duration
	version     packet.Version // 0 before it
	bridge      bool           // 3.x: the level was sent with 0x80 added
	assigned    bool           // the client identifier is ours
	curt        bool           // 5.0: the client wants no reason strings
	maxPacket   uint32         // the largest packet the client accepts
	inflight    int32          // how many QoS 1 and 2 messages it may have unacknowledged
	askedExpiry uint32

	// What an idle connection has no use for is made when it is needed: there are thousands of them.
	place       int32           // in Core.conns; -1 after Lost
	unacked     int32           // QoS 1 and 2 messages from the client that it has no final answer for
	established bool            // CONNACK has left
	resting     bool            // in Core.resting: it has used up the round
	ending      bool            // no packet is taken any more, a close is in the queue of answers
	over        bool            // closed: only output is left
	touched     bool            // in Core.touched
	waiting     bool            // in Core.waiting
	login       *packet.Connect // until it is decided about: a copy of its own
	auth        *authState      // nil: no authentication method
	session     *session        // from LoginResult until the connection is over
	seen        time.Duration   // when the client was last heard of
	pace        *pace           // nil: it may send as fast as it likes
	aliases     *aliases        // nil: none are set, and the client allows none
	latest      *latest         // nil: it has published nothing
	out         output
	acks        *ackQueue // nil: none has ever waited
}

// latest is the topic of a client's latest PUBLISH and what is known about it.
type latest struct {
	topic   []byte
	route   *route // nil: not allowed, or not known any more
	verdict packet.Reason
}

// Info returns what Accept was given.
func (conn *Conn) Info() ConnInfo { return conn.info }

// ClientID returns the client identifier, empty before CONNECT.
func (conn *Conn) ClientID() string { return conn.clientID }

// Username returns the username of CONNECT, empty if there was none.
func (conn *Conn) Username() string { return conn.username }

// ForgetUsername makes the client an anonymous one: nobody has checked the username that it gave. For Events.Login.
func (conn *Conn) ForgetUsername() { conn.username = "" }

// Version returns the protocol version, 0 before CONNECT.
func (conn *Conn) Version() packet.Version { return conn.version }

// Closing reports that the transport is to be closed once Pending is empty, or at once if it cannot be written.
func (conn *Conn) Closing() bool { return conn.over }

// Paused reports that the core takes nothing from this connection for now: its login is being decided, its CONNACK waits
// for the disk, too many of its acknowledgements do, its messages went to so many that others have their turn first,
// it has sent more than its rate allows, or the core is draining. The loop need not read it. The end of
// the pause shows as a call in [Core.Flush]; the bytes that Receive has left are then given to it again.
func (conn *Conn) Paused() bool {
	if conn.over {
		return false
	}
	return conn.deciding() || conn.session != nil && !conn.established ||
		conn.ending || conn.resting || conn.pace != nil && conn.pace.slowed || conn.core.draining || conn.acks.len() >= maxWaitingAcks
}

// Accept makes a connection of a transport that has just been opened.
func (c *Core) Accept(info ConnInfo) *Conn {
	conn := &Conn{core: c, info: info, place: int32(len(c.conns)), seen: c.clock, maxPacket: math.MaxUint32}
	if conn.info.Door == nil {
		conn.info.Door = &c.noDoor
	}
	if info := conn.info; info.MessageRate > 0 || info.ByteRate > 0 {
		conn.pace = &pace{}
	}
	c.conns = append(c.conns, conn)
	if c.draining {
		conn.end(packet.ReasonServerShuttingDown, "shutting down")
	}
	return conn
}

// Receive handles the whole packets at the front of b and returns how many bytes that were; nothing of b is kept.
// The caller keeps the rest and gives it again, with more behind it. When conn is closing or lost, all of b is
// consumed. It stops early when conn becomes [Conn.Paused].
func (c *Core) Receive(conn *Conn, b []byte) (consumed int) {
	for !conn.over && !conn.Paused() {
		f, n, err := packet.Next(b[consumed:], conn.version, c.cfg.PacketSize) // [MQTT-3.2.2-15]
		if err != nil {
			conn.fail(err)
			break
		}
		if n == 0 {
			return consumed
		}
		consumed += n
		c.stats.PacketsReceived++
		conn.seen = c.clock
		if err := conn.onPacket(f); err != nil {
			conn.fail(err)
		}
		if conn.Paced() {
			conn.spend(f)
		}
		if c.RoundFull() && !conn.over {
			conn.resting = true
			c.resting = append(c.resting, conn)
		}
		if conn.readsNothing() {
			conn.close(packet.ReasonQuotaExceeded, "does not read its answers")
		}
	}
	if conn.over {
		return len(b) // nothing behind a refusal is looked at [MQTT-3.1.4-6]
	}
	return consumed
}

// roundWork is how much is done in a round before what remains has to wait for the next: a publisher to thousands of
// subscribers, a subscription to all retained messages, thousands of clients that come back to full queues must not
// make everybody else wait for all of it. The unit is a delivery, or a look at a retained message or a session; this
// many take less than a millisecond or two. What waits for sessions has a share of its own: a flood of live messages must
// not starve them.
const roundWork = 10_000

// RoundFull reports that this round, which ends with the next Tick, has had its share of work: what can wait should.
func (c *Core) RoundFull() bool { return c.work >= roundWork }

// rest ends the rest of connections: a new round begins.
func (c *Core) rest() {
	c.work, c.pulled = 0, 0
	for _, conn := range c.resting {
		conn.resting = false
		c.touch(conn)
	}
	clear(c.resting)
	c.resting = c.resting[:0]
}

// onPacket is the one switch over packet types. An error is a *packet.Error and ends the connection.
func (conn *Conn) onPacket(f packet.Frame) error {
	if !conn.established {
		if err := conn.beforeConnack(f); err != nil {
			return err
		}
	}
	switch f.Type() {
	case packet.CONNECT:
		return conn.onConnect(f)
	case packet.PUBLISH:
		return conn.onPublish(f)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		a := &conn.core.ackIn
		if err := a.Decode(f, conn.version); err != nil {
			return err
		}
		switch a.Type {
		case packet.PUBACK:
			return conn.onPuback(a)
		case packet.PUBREC:
			return conn.onPubrec(a)
		case packet.PUBREL:
			conn.onPubrel(a)
		case packet.PUBCOMP:
			return conn.onPubcomp(a)
		}
		return nil
	case packet.SUBSCRIBE:
		return conn.onSubscribe(f)
	case packet.UNSUBSCRIBE:
		return conn.onUnsubscribe(f)
	case packet.PINGREQ:
		conn.writePacket(packet.AppendPingresp(conn.core.scratch[:0])) // [MQTT-3.12.4-1]
		return nil
	case packet.DISCONNECT:
		return conn.onDisconnect(f)
	case packet.AUTH:
		return conn.onAuth(f)
	case packet.CONNACK, packet.SUBACK, packet.UNSUBACK, packet.PINGRESP:
		return &packet.Error{Reason: packet.ReasonProtocolError, Detail: f.Type().String() + " from a client"}
	}
	return &packet.Error{Reason: packet.ReasonMalformedPacket, Detail: "reserved packet type"}
}

// fail ends the connection because of an error in what the client sent [MQTT-4.13.1-1].
func (conn *Conn) fail(err error) {
	reason, why := whyOf(err)
	if conn.established {
		conn.close(reason, why)
		return
	}
	conn.reject(reason, why)
}

// close ends the connection of an accepted client from our side: DISCONNECT with the reason for 5.0
// [MQTT-4.13.2-1], then the end of the stream. The will is published, or waits for its delay.
func (conn *Conn) close(reason packet.Reason, why string) {
	if conn.over {
		return
	}
	// A server sends DISCONNECT only with a reason of 0x80 or more, and not before CONNACK [MQTT-3.14.0-1].
	if conn.version == packet.V5 && conn.established && reason >= 0x80 {
		conn.tellDisconnect(reason, why)
	}
	conn.end(reason, why)
}

// Disconnect ends a connection for a reason of its owner's: with DISCONNECT where the client can be told.
func (c *Core) Disconnect(conn *Conn, reason packet.Reason, why string) {
	if conn.established {
		conn.close(reason, why)
		return
	}
	conn.reject(reason, why)
}

// end makes the connection over: nothing is taken from it, nothing new is sent to it [MQTT-3.14.4-1], and the transport
// closes it [MQTT-3.14.4-2].
func (conn *Conn) end(reason packet.Reason, why string) {
	if conn.over {
		return
	}
	c := conn.core
	conn.over = true
	conn.login = nil
	conn.acks = nil
	conn.aliases, conn.latest = nil, nil
	c.touch(conn)
	if conn.session == nil {
		c.events.Refused(conn, reason, why)
		return
	}
	c.events.Disconnected(conn, reason, why)
	s := conn.session
	conn.session = nil
	c.leave(s)
}

// Lost says that the transport of conn is gone, or that its owner has closed it because of [Conn.Closing]; it must be
// called for every connection once, and is the last use of conn.
func (c *Core) Lost(conn *Conn, why string) {
	if conn.place < 0 {
		return
	}
	conn.end(packet.ReasonUnspecifiedError, why)
	conn.discard()
	last := len(c.conns) - 1
	c.conns[conn.place] = c.conns[last]
	c.conns[conn.place].place = conn.place
	c.conns[last] = nil
	c.conns = c.conns[:last]
	conn.place = -1
}

// onDisconnect is the orderly end [MQTT-3.14.4-3].
func (conn *Conn) onDisconnect(f packet.Frame) error {
	var d packet.Disconnect
	if err := d.Decode(f, conn.version); err != nil {
		return err
	}
	s := conn.session
	if s == nil {
		conn.end(d.Reason, "disconnected by the client during its authentication")
		return nil
	}
	if d.HasSessionExpiry {
		if conn.askedExpiry == 0 && d.SessionExpiry != 0 {
			return &packet.Error{Reason: packet.ReasonProtocolError, Detail: "DISCONNECT sets a session expiry after CONNECT had none"}
		}
		s.expiry = conn.core.capExpiry(d.SessionExpiry)
	}
	if d.Reason == packet.ReasonNormalDisconnection {
		s.will = nil // [MQTT-3.1.2-10] [MQTT-3.14.4-3]
	}
	conn.end(d.Reason, "disconnected by the client")
	return nil
}

// touch puts conn among those of the next Flush.
func (c *Core) touch(conn *Conn) {
	if !conn.touched {
		conn.touched = true
		c.touched = append(c.touched, conn)
	}
}
