package core

import (
	"math"
	"time"

	"forebay/broker/packet"
)

// Core is the broker as a state machine. See the package comment for the order of calls.
type Core struct {
	// Constant after New.
	cfg       Config // but for Authorizer
	noDoor    Door   // of connections without one
	log       Log
	events    Events
	start     time.Time
	startWall int64 // Unix ms

	// Time, as Tick told it.
	clock      time.Duration // since start
	wall       int64         // Unix ms
	nextSweep  time.Duration
	nextSave   time.Duration
	nextSlowed time.Duration // nobody in slowed may go on before
	nextDue    time.Duration // no session has anything to do before

	// State.
	conns         []*Conn
	sessions      map[string]*session
	queues        map[uint32]*session
	attachments   map[string]*attachment
	router        router
	retained      retainedStore
	sweptTopic    string
	durable       uint64 // all records up to it are on stable storage
	failed        error  // the log has
	draining      bool
	drainReason   packet.Reason
	assigned      uint64 // client identifiers
	memoryWaiting int    // bytes of all backlogs
	accessChanges uint32 // how often the authorizer was set, from 1 on
	accessSeq     uint64 // records up to it were routed under earlier access rules
	appended      uint64 // the latest record
	stats         Stats
	restoring     map[string]*restoredSession // nil after Restored

	// Work for Durable and Flush; the spares are the other half of a pair that is swapped.
	waiting, spareWaiting []*Conn // have answers that wait for the disk
	dones                 []done
	touched, spareTouched []*Conn
	pulls, sparePulls     []*session
	condemned             []condemned
	resting               []*Conn // have used up the round
	slowed                []*Conn // have used up more than their rate allows
	work, pulled          int     // in this round, see roundWork
	flushDue              bool
	sweepOn               bool // sweepConnections has stopped in the middle
	expireOn              bool // expire has
	workLeft              bool

	// Memory that is used again and again.
	pool        chunkPool
	pending     [][]byte
	scratch     []byte
	in          packet.Publish
	storedOut   packet.Publish
	injected    packet.Publish
	ackIn       packet.Ack
	ackOut      packet.Ack
	subscribe   packet.Subscribe
	unsubscribe packet.Unsubscribe
	pub         publication
	chosen      []*target // of shared subscriptions, see choose
	record      Record
	encoded     []byte       // by encode
	encodedOf   *publication // what it is
	forms       [8]form
	formed      uint8 // which forms the present publication has, a bit for each
	shared      []byte
	ids         []uint32
}

// Events tells the owner of the core what happened, for its log lines and its credentials files. All are called in
// the loop and must not block; of the core they may call only [Core.LoginResult], [Core.AuthResult] and
// [Conn.ForgetUsername].
type Events interface {
	// Login asks whether the client may connect. The answer is a call of [Core.LoginResult], during Login or later;
	// until then the connection is [Conn.Paused]. hasUsername tells an absent username from an empty one; password is
	// valid during the call only, nil if absent.
	Login(conn *Conn, username string, hasUsername bool, password []byte)
	// Authenticate is Login for a client with an authentication method, step by step. The answer is a call of
	// [Core.AuthResult], during Authenticate or later; until it has come the connection is paused, but in a
	// re-authentication.
	Authenticate(conn *Conn, step AuthStep)
	// Connected: the client has been accepted (its CONNACK may still wait for the disk).
	Connected(conn *Conn)
	// Disconnected: the connection of an accepted client is at its end, whoever ended it.
	Disconnected(conn *Conn, reason packet.Reason, why string)
	// Refused: a connection ended before its client was accepted.
	Refused(conn *Conn, reason packet.Reason, why string)
}

// Door is what all connections through one listener have in common. It is constant.
type Door struct {
	Listener string
	// MessageRate and ByteRate are how many packets and bytes of them the client may send in a second; 0: any.
	MessageRate int
	ByteRate    int64
	Anonymous   bool // the listener accepts clients without a username
}

// ConnInfo is what the transport knows about a connection. The core hands it on, and reads User and the rates.
type ConnInfo struct {
	Remote string // address and port
	*Door         // nil: nothing is known of it
	// User is who the client is, as the transport has found out: its username, whatever it says itself. Empty: the
	// transport does not know.
	User string
}

// Inject is a message published from inside the process: telemetry, a bridge's downlink, $SYS.
type Inject struct {
	packet.Publish        // Topic, Payload, QoS, Retain and the properties without alias and identifiers
	Origin         string // the attachment it came through, which does not get it back; or empty
	// Changes are rows of tables that are not the core's: they become durable in the same record as the message, and
	// Done waits for them whatever the QoS. With a refusal none of them is made.
	Changes []Change
	// Done, if set, is called in the loop once: with nil when a device would get its PUBACK now (D1), or with the
	// reason why not. It may be called before Publish returns.
	Done func(err error)
}

// Attachment is a durable consumer that is no session: a bridge.
type Attachment struct {
	Name    string
	QueueID uint32 // the consumer in the log that gets the messages with QoS 1 and 2
	Filters []AttachFilter
	// Live is called in the loop for each message with QoS 0. It copies what it keeps, must not block, and must not
	// call the Core. p.QoS is that of the publisher.
	Live func(p *packet.Publish)
	// Place, if set, decides about each topic that a filter matches, in place of QueueID and of the filters' QoS; false:
	// the attachment does not get it. It is called in the loop, its answer is kept until Resort, it must not block, and
	// must not call the Core or keep topic.
	Place func(topic []byte) (Place, bool)
}

// Place is where an attachment wants a topic, and how.
type Place struct {
	QueueID uint32
	MaxQoS  byte
	Lift    byte
}

// AttachFilter is one filter of an attachment. A message that matches several goes to the attachment once, with the
// highest of their QoS.
type AttachFilter struct {
	Filter  string
	MaxQoS  byte // the QoS is min(max(that of the message, Lift), MaxQoS)
	Lift    byte
	NoLocal bool // messages whose Origin is this attachment's name are not sent back; those never are
}

// New returns a core without connections. Restore and Restored come next, before anything else.
func New(cfg Config, log Log, events Events, now time.Time) *Core {
	cfg.SetDefaults()
	c := &Core{
		cfg: cfg, log: log, events: events, start: now, startWall: now.UnixMilli(), wall: now.UnixMilli(),
		nextSave: saveInterval, nextDue: never, nextSlowed: never, accessChanges: 1, accessSeq: math.MaxUint64,
		sessions: map[string]*session{}, queues: map[uint32]*session{}, attachments: map[string]*attachment{},
	}
	c.router.maySee = c.maySee
	return c
}

// Tick tells the time. It is called every round of the loop, at least once a second, before Receive.
func (c *Core) Tick(now time.Time) {
	c.clock = max(c.clock, now.Sub(c.start))
	c.wall = now.UnixMilli()
	c.rest()
	c.hasten()
	if c.sweepOn {
		c.sweepConnections()
	}
	if c.clock >= c.nextSweep {
		c.nextSweep = c.clock + time.Second
		c.sweepConnections()
		c.sweepRetained()
		c.router.forgetOutdated()
	}
	c.expire()
	if c.clock >= c.nextSave || c.workLeft {
		c.nextSave = c.clock + saveInterval
		c.saveRetained()
	}
}

// endCost is what the end of a session counts as work: its will, its rows.
const endCost = 50

// sweepConnections closes those that have been silent for too long, as many as the round has room for.
func (c *Core) sweepConnections() {
	c.sweepOn = false
	for _, conn := range c.conns {
		if c.RoundFull() {
			c.sweepOn = true
			return
		}
		if conn.over {
			continue
		}
		silent := c.clock - conn.seen
		switch {
		case conn.Paused():
			conn.seen = c.clock // it is we who do not listen
		case conn.version == 0 && silent >= c.cfg.ConnectTimeout:
			conn.end(packet.ReasonUnspecifiedError, "no CONNECT in time")
		case conn.login != nil && silent >= c.cfg.ConnectTimeout:
			conn.authFailed(packet.ReasonNotAuthorized) // it is silent in the midst of its authentication
		case conn.quiet > 0 && silent >= conn.quiet:
			conn.close(packet.ReasonKeepAliveTimeout, "keep alive timeout") // [MQTT-3.1.2-22]
		}
		if conn.over {
			c.work += endCost
		}
	}
}

// Flush ends a round: it fetches what queues have for clients with room, and calls write once for every connection
// that has something new in [Conn.Pending], is new in [Conn.Closing], or is not [Conn.Paused] any more. write may call
// Wrote and Lost, and for a connection that is not paused any more Receive with the bytes that were kept; what those
// cause is flushed in the same call.
func (c *Core) Flush(write func(*Conn)) {
	for len(c.condemned) > 0 {
		last := c.condemned[len(c.condemned)-1]
		c.condemned = c.condemned[:len(c.condemned)-1]
		last.conn.close(last.reason, "too slow: its queue is full")
	}
	pulls := c.pulls
	c.pulls = c.sparePulls[:0]
	for i, s := range pulls {
		if c.pulled >= roundWork {
			c.pulls = append(c.pulls, pulls[i:]...)
			break
		}
		s.pulling = false
		work := c.work
		s.pull(c)
		c.pulled += c.work - work
		c.work = work
	}
	clear(pulls)
	c.sparePulls = pulls[:0]
	c.flushDue = false
	for len(c.touched) > 0 {
		touched := c.touched
		c.touched = c.spareTouched[:0]
		for _, conn := range touched {
			conn.touched = false
			conn.out.fresh = 0
			if conn.place >= 0 {
				write(conn)
			}
		}
		clear(touched)
		c.spareTouched = touched[:0]
	}
}

// FlushDue reports that a connection has collected a whole chunk of output in this round, so that it is better to
// Flush before the next Receive than at the end of the round.
func (c *Core) FlushDue() bool { return c.flushDue }

// Busy reports that work was left for the next round: the loop should not sleep before it.
func (c *Core) Busy() bool {
	return len(c.pulls) > 0 || len(c.touched) > 0 || len(c.condemned) > 0 || len(c.resting) > 0 || c.workLeft ||
		c.sweepOn || c.expireOn
}

// Drain begins the end: connections are read no more, and each is closed (5.0: with DISCONNECT and reason, usually
// [packet.ReasonServerShuttingDown], or with Config.ServerReference) as soon as the acknowledgements it waits for have left. Sessions and wills stay
// as they are in the log, for the next start.
func (c *Core) Drain(reason packet.Reason) {
	if c.draining {
		return
	}
	for c.failed == nil && len(c.retained.unsaved) > 0 {
		before := len(c.retained.unsaved)
		c.saveRetained()
		if len(c.retained.unsaved) == before {
			break
		}
	}
	c.workLeft = false
	refusal := packet.ReasonServerUnavailable
	if c.cfg.ServerReference != "" {
		reason, refusal = packet.ReasonUseAnotherServer, packet.ReasonUseAnotherServer
	}
	c.draining, c.drainReason = true, reason
	for _, conn := range c.conns {
		if conn.acks.len() > 0 && c.failed == nil {
			continue
		}
		if conn.established {
			conn.close(reason, "shutting down")
		} else {
			conn.reject(refusal, "shutting down")
		}
	}
}

// Stats returns the counters and sizes.
func (c *Core) Stats() Stats {
	st := c.stats
	st.PacketsSent += st.Sent // on their way they are counted once
	st.Connections, st.Sessions, st.Subscriptions = len(c.conns), len(c.sessions), c.router.count
	for _, sh := range c.router.shares {
		st.SharedSubscriptions += len(sh.members)
	}
	st.Retained, st.RetainedBytes = len(c.retained.byTopic), c.retained.bytes
	st.MemoryBytes = c.memory()
	return st
}

// Dropped is the sum of all causes.
func (s *Stats) Dropped() uint64 {
	return s.DroppedSlow + s.DroppedTooLarge + s.DroppedExpired + s.DroppedFull + s.DroppedDenied + s.DroppedWills + s.DroppedRetained
}

// Stats are the core's counters, since New, and its present sizes.
type Stats struct {
	Connections, Sessions, Subscriptions, Retained int
	SharedSubscriptions                            int // of Subscriptions
	RetainedBytes                                  int64
	MemoryBytes                                    int // output and queues in memory

	PacketsReceived, PacketsSent uint64 // of every type, from and to clients
	Received, Sent               uint64 // PUBLISH packets from and to clients
	ReceivedPayload, SentPayload uint64 // bytes of their payloads
	Refused                      uint64 // PUBLISH packets refused: full, not authorised, invalid topic

	Slowed uint64 // how often a client was not read for a while, because it had sent too much

	// Messages for live clients that were dropped, by cause. What the log drops it counts itself.
	DroppedSlow     uint64 // QoS 0, the reader was too slow
	DroppedTooLarge uint64 // larger than the client accepts
	DroppedExpired  uint64
	DroppedFull     uint64 // QoS 0 that an attachment lifts, and the log had no room; live clients got it
	DroppedDenied   uint64 // waited for a client that may not read its topic any more
	DroppedWills    uint64 // not authorised any more, or not taken by the log
	DroppedRetained uint64 // QoS 0 not kept, or not queued for a new subscription: no room

	// Changes of sessions that nobody waits for (their end, a client's departure) and that the log did not take.
	StateLost uint64
}
