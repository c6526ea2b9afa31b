package core

import (
	"time"

	"forebay/broker/packet"
)

// Core is the broker as a state machine. See the package comment for the order of calls.
type Core struct {
	cfg    Config
	log    Log
	events Events
	now    time.Time
}

// Events tells the owner of the core what happened, for its log lines and its credentials files. All are called in
// the loop and must not block; of the core they may call only [Core.LoginResult].
type Events interface {
	// Login asks whether the client may connect. The answer is a call of [Core.LoginResult], during Login or later;
	// until then the connection is [Conn.Paused]. hasUsername tells an absent username from an empty one; password is
	// valid during the call only, nil if absent.
	Login(conn *Conn, username string, hasUsername bool, password []byte)
	// Connected: the client has been accepted (its CONNACK may still wait for the disk).
	Connected(conn *Conn)
	// Disconnected: the connection of an accepted client is at its end, whoever ended it.
	Disconnected(conn *Conn, reason packet.Reason, why string)
	// Refused: a connection ended before its client was accepted.
	Refused(conn *Conn, reason packet.Reason, why string)
}

// ConnInfo is what the transport knows about a connection. The core hands it on and reads nothing but Anonymous,
// which is for the answer to Login.
type ConnInfo struct {
	Remote    string // address and port
	Listener  string
	Anonymous bool // the listener accepts clients without a username
}

// Inject is a message published from inside the process: telemetry, a bridge's downlink, $SYS.
type Inject struct {
	packet.Publish        // Topic, Payload, QoS, Retain and the properties without alias and identifiers
	Origin         string // the attachment it came through, which does not get it back; or empty
	// Done, if set, is called in the loop once: with nil when a device would get its PUBACK now (D1), or with the
	// reason why not. It may be called before Publish returns.
	Done func(err error)
}

// Attachment is a durable consumer that is no session: a bridge.
type Attachment struct {
	Name    string
	QueueID uint32 // the consumer in the log that gets the messages with QoS 1 and 2
	Filters []AttachFilter
	// Live is called in the loop for each message with QoS 0; it must not block, and copies what it keeps.
	Live func(p *packet.Publish)
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
	return &Core{cfg: cfg, log: log, events: events, now: now}
}

// Restore takes one row of a state table as it was durable. key and value are not kept. A row that cannot be read is
// an error and changes nothing: the caller reports it and goes on (D7).
func (c *Core) Restore(t Table, key, value []byte) error { return nil }

// Restored ends the restoring, also when there was nothing to restore: it opens the queues of the sessions and starts
// the clocks of session expiry and wills. queues are the names of all consumers in the log; those of sessions that
// do not exist are removed.
func (c *Core) Restored(queues []string) error { return nil }

// Accept makes a connection of a transport that has just been opened.
func (c *Core) Accept(info ConnInfo) *Conn { return &Conn{core: c, info: info} }

// Receive handles the whole packets at the front of b and returns how many bytes that were; nothing of b is kept.
// The caller keeps the rest and gives it again, with more behind it. When conn is closing or lost, all of b is
// consumed. It stops early when conn becomes [Conn.Paused].
func (c *Core) Receive(conn *Conn, b []byte) (consumed int) { return len(b) }

// Lost says that the transport of conn is gone, or that its owner has closed it because of [Conn.Closing]; it must be
// called for every connection once, and is the last use of conn.
func (c *Core) Lost(conn *Conn, why string) {}

// Tick tells the time. It is called every round of the loop, at least once a second, before Receive.
func (c *Core) Tick(now time.Time) {}

// Durable says that all records up to seq are on stable storage.
func (c *Core) Durable(seq uint64) {}

// LogFailed says that nothing more will become durable (D4): what waits is never acknowledged, its publishers are
// closed; QoS 0, and QoS 1 and 2 without durable consumers, go on.
func (c *Core) LogFailed(err error) {}

// QueueReady says that Next of the queue with that ID may return an entry again.
func (c *Core) QueueReady(queue uint32) {}

// LoginResult is the answer to [Events.Login]. reason is for the client when ok is false.
func (c *Core) LoginResult(conn *Conn, ok bool, reason packet.Reason) {}

// SetAuthorizer replaces the authorizer; subscriptions that exist stay.
func (c *Core) SetAuthorizer(a Authorizer) {}

// Publish publishes a message from inside the process. Nothing of p is kept but Done. It may have any topic name
// that is valid, those of $SYS included.
func (c *Core) Publish(p *Inject) {}

// Attach registers the filters of an attachment; an earlier one of that name is replaced. The filters must be valid
// and the queue open.
func (c *Core) Attach(a Attachment) error { return nil }

// Detach ends an attachment; its queue is its owner's. It is not an error if there is none.
func (c *Core) Detach(name string) {}

// Flush ends a round: it fetches what queues have for clients with room, and calls write once for every connection
// that has something new in [Conn.Pending], is new in [Conn.Closing], or is not [Conn.Paused] any more. write may call
// Wrote and Lost, and for a connection that is not paused any more Receive with the bytes that were kept; what those
// cause is flushed in the same call.
func (c *Core) Flush(write func(*Conn)) {}

// FlushDue reports that a connection has collected a whole chunk of output in this round, so that it is better to
// Flush before the next Receive than at the end of the round.
func (c *Core) FlushDue() bool { return false }

// Busy reports that work was left for the next round: the loop should not sleep before it.
func (c *Core) Busy() bool { return false }

// Drain begins the end: connections are read no more, and each is closed (5.0: with DISCONNECT and reason, usually
// [packet.ReasonServerShuttingDown]) as soon as the acknowledgements it waits for have left. Sessions and wills stay
// as they are in the log, for the next start.
func (c *Core) Drain(reason packet.Reason) {}

// Stats returns the counters and sizes.
func (c *Core) Stats() Stats { return Stats{} }

// Stats are the core's counters, since New, and its present sizes.
type Stats struct {
	Connections, Sessions, Subscriptions, Retained int
	RetainedBytes                                  int64
	MemoryBytes                                    int // output and queues in memory

	Received, Sent uint64 // PUBLISH packets from and to clients
	Refused        uint64 // PUBLISH packets refused: full, not authorised, invalid topic

	// Messages for live clients that were dropped, by cause. What the log drops it counts itself.
	DroppedSlow     uint64 // QoS 0, the reader was too slow
	DroppedTooLarge uint64 // larger than the client accepts
	DroppedExpired  uint64
	DroppedWills    uint64 // the log was full or had failed
	DroppedRetained uint64 // QoS 0 retained messages not kept: no room
}
