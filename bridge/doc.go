// Package bridge connects the local broker with one upstream MQTT broker: it is a durable consumer of the log with an
// MQTT client attached. Several upstreams are several Bridges.
//
// # Promise
//
// Up: a message of QoS 1 or 2 that the broker acknowledged to a device leaves the queue only when the upstream has
// acknowledged it, or when a stated policy dropped it, which is counted by cause and logged once per episode. QoS 1
// may be repeated after a broken connection. QoS 2 arrives once: the packet identifier is computed from the message's
// lane and number, "PUBREC received" is durable before PUBREL, and nothing is repeated but after a reconnect. Messages
// keep their order, except that one refused for the moment (quota, busy) may be overtaken by those in flight behind it,
// and as the rules ask.
//
// The rules' orders and priorities are made of lanes: consumers of the log, each strict within itself, each with packet
// identifiers of its own. One message in sixteen is taken out of turn, so that no lane starves. The broker puts a message into one lane when it comes (placeOf); live-first has two, one for what
// comes while the link is there and one for the rest. A lane that no rule uses any more is sent as the rules of today say.
// QoS 0 takes a bounded buffer while the upstream is connected and is dropped and counted otherwise.
//
// A message that the upstream can never take (too large for it, refused with a reason that will not pass) is dropped,
// so that the others can go on, counted, and kept as a dead letter: a row of storage.Bridges with the reason and the
// beginning of the payload, of which there are 256 at most. Refusals that pass (quota, rate, busy) make it wait.
// One over which a server of 5.0 ends the link, with a reason that only a PUBLISH can have, is found by sending those
// that were in flight one at a time.
//
// Down: a message of QoS 1 or 2 is acknowledged upstream only after the local broker has it safe. The packet
// identifiers of inbound QoS 2 are rows of the table storage.Bridges, written in the same record as the message and
// removed, durably, before PUBCOMP, so that a restart of the gateway does not let a command through twice.
//
// The upstream session outlives connections and processes. That it exists, and under which client identifier, is durable
// too: when the store does not know it, a first connection removes whatever session the upstream has, for the packet
// identifiers in it mean nothing here, and a second one begins the session that is to last.
//
// The link is up when the upstream acknowledges, degraded when it is late, refuses for the moment or a canary is
// missing, stalled when it has not acknowledged anything that was due for ack_timeout, or two canaries were lost: then the
// link is given up for a new one, which has to prove itself. Without QoS 1 or 2 and without a canary, an upstream
// that falls silent is left 10 s after the keep alive has passed; one that still answers PINGREQ cannot be told from one
// that works.
//
// Each time without a link is one row of storage.Bridges for a year (Outage), with what it meant for the messages. One
// during which the gateway stops goes on when it starts again.
//
// Attach comes before the broker lets devices in; from then on every matching message is kept, whether Run runs or not.
//
// # Goroutines
//
// Run's goroutine owns everything: connecting, the cursor, what is in flight, the output. While Run lasts one more
// goroutine waits for the disk on its behalf (safety), and each connection has a reader and a writer. The reader
// lends its buffer to the owner and waits for it to come back; the writer owns the buffer it was given until it hands it
// back. The broker calls in from its own goroutine at three places, none of which waits: live (QoS 0 to send), done
// (a downlink message is safe) and the cursor's notification.
//
// While a link serves, one more goroutine may try a second connection (scout): to prove new credentials, to renew a
// password before it expires, to return to the first address. It uses what is constant in the Bridge and hands its
// connection over; Run waits for it before anything else connects.
//
// # The way to the upstream
//
// An address is reached straight or through a proxy, from the interface or address in Config.Bind, then through TLS and a
// WebSocket as its scheme says; Config.ConnectTimeout bounds all of it together. MQTT 5.0 is tried first, then, where
// messages come down, 3.1.1 with the bridge bit, then 3.1.1. Nothing that a peer says leads out of the configuration: HTTP
// redirects are not followed, and a server reference only to hosts that Config.RedirectHosts or Config.Addresses allow,
// with the same scheme and the same checks of TLS, three times at most.
//
// Credentials are read at every attempt. Those that an upstream accepted last are remembered while the process runs, and
// shown again when newer ones are refused or cannot be read.
//
// Messages do not go in circles: no-local upstream and here, the bridge bit, and a count of the times it came down (hops). FindLoops
// tells what rules alone show.
//
// # Returning together
//
// When an upstream goes, all of its N gateways lose it in the same second. Each waits a time between 0 and a bound before
// each attempt, all times alike, and the bound doubles from reconnect.min (a) to reconnect.max (m); it becomes a again only
// after a connection that lasted 30 s.
//
// An upstream that is back at once sees N attempts within a: N/a in a second. With k failures behind them the bound is
// a·2^k, after log2(m/a) of them it is m for good. From then on a gateway tries every m/2 on average, and since their
// phases are random all of them together try 2N/m times a second, at any time: also in the second in which the upstream
// returns. There is no wave to ride out, the last gateway is back after m, and the mean after m/3: a look at a random
// moment falls into a long wait more often than into a short one, and finds a third of m remaining.
//
// An upstream that takes people in and drops them after h sees N/(m/2+h), for such connections do not reset the bound. One
// that can take c in a second and refuses the others, by 0x97 or any other way, is asked at most 2N/m times a second and
// fills nearly all of c until fewer are left than it could take.
//
// With N = 100,000, a = 1 s and m = 60 s, as fleet_test.go shows with this very code: 3,333 attempts a second by arithmetic,
// 3,304 at the peak of the return after an outage of ten minutes, everybody back within 60 s; an upstream that takes 1,000
// a second has them all after 139 s, where 100 s is the least. But a cut of a moment brings all 100,000 in one second: a = 1
// s is right for a few hundred gateways. Who runs a fleet on an upstream that takes c connections a second sets reconnect.min
// to N/c and reconnect.max to 2N/c or more: with 3,334 a second, 30 s and 60 s. Where the gateway has a second address each
// attempt asks both.
//
// # Locks
//
// Six: liveBuffer.mu, downlink.mu, accounts.mu, ledger.mu and stateBox.mu are leaves that are never held while calling out;
// letters.mu is held while a row is given to the store, which does not wait.
//
// # Errors
//
// New returns what is wrong with the configuration or the stored rows. Run returns nil after its context ended, or
// why the bridge could not be attached; everything else is a state of the link: it is logged once per episode, shown in
// Status, and tried again.
//
// BUG(bridge): an upstream that speaks 3.1.1 cannot be told why a downlink message was refused. When a local queue is
// full the message stays unacknowledged and comes again with the next connection; until then it takes one place of the
// upstream's window.
//
// BUG(bridge): session state is kept per bridge, not per address. Addresses that are unrelated brokers, instead of
// nodes of one, may repeat or drop QoS 2 messages that were half way when the connection moved.
//
// BUG(bridge): an upstream that speaks 3.1.1 and ends the link over a message, instead of acknowledging it, is offered
// the message again for ever: nothing tells it from an upstream that fails, or from another client with our name. The log
// says so after a few times.
//
// BUG(bridge): what comes into a lane of the order live-first while the link is there but slower than the messages
// come is sent in order: live data are ahead of the outage, not ahead of themselves.
//
// Statement numbers are those of MQTT 5.0 unless 3.1.1 is named.
package bridge
