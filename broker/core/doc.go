// Package core is the broker as a state machine: MQTT 3.1, 3.1.1 and 5.0, without sockets, files, clocks, locks or
// goroutines. In go the bytes of connections, the time, and how far the log is durable; out come bytes, closes and
// records. One goroutine, the loop, calls everything, so a conversation can be replayed exactly: see testdata.
//
// # The order of calls
//
// New, Restore for every row, Restored once; then, round after round: Tick, any number of Accept, Receive, Lost,
// Durable, QueueReady, LoginResult, AuthResult, Publish, and at the end Flush. Nothing of the core may be called from within its
// callbacks (Log, Events, Authorizer, Attachment.Live), but LoginResult from Login, AuthResult
// from Authenticate, and Publish from Inject.Done.
//
// # What it promises
//
// The rules D1 to D6 of the design. A message is one record, appended before anybody gets it: a refusal is one for
// all. PUBACK, PUBREC, PUBCOMP, PUBREL, SUBACK, UNSUBACK and CONNACK stand in one queue per connection and leave in
// order, each when its record is durable; everything else goes on meanwhile. A session with an expiry keeps its
// messages to the client in the log, and their packet identifiers are their running numbers there; while the client
// keeps up, its acknowledgement of a QoS 1 message may make the disk unnecessary (D1). A session without an expiry
// keeps in memory what its client has no room for, and its numbers.
//
// Every memory is bounded by Config. A reader that is too slow loses QoS 0 messages (counted), gets QoS 1 and 2 later
// if its session is in the log, and is disconnected if it is not. No packet of a client can make the core panic, hang
// or grow beyond its limits: see FuzzConversation.
//
// # Errors
//
// What a client does wrong ends its connection with the reason (5.0) or without a word; the statement that it broke is
// in the text that Events gets. A log without room is refused to the publisher: 0x97, or before 5.0 the end of the
// connection without acknowledgement. A log that has failed is told by LogFailed and is final (D4).
//
// # Choices where the standard leaves one
//
//   - A message for a shared subscription goes to one member, in turn: to one that is connected and has room if there is
//     any, else to one that is connected, else it waits in the queue of a session in the log; with QoS 0, or without such
//     a session, it is lost to that subscription. Once it has been given to a session it stays there, whatever becomes of
//     the connection, and goes with the session when that ends (4.8.2 asks for no more with QoS 2, and leaves it to us
//     with QoS 1). Clients before 5.0 may use $share/ too.
//   - A client that allows topic aliases gets at most 32, for topics that come again.
//   - Topics that begin with $ are the server's. A client that publishes to one gets 0x90, and before 5.0, like for a
//     topic it is not authorised for, an acknowledgement (3.1.1 [MQTT-3.3.5-2]); the message goes nowhere and is counted.
//   - Overlapping subscriptions of a client are one delivery, with the highest QoS and all identifiers, of which 256 at
//     most are sent.
//   - A 3.x session that is not clean ends when its client has been away for Config.SessionExpiry.
//   - A session that a power failure has cut off waits for its client as long as keep alive would have; then its will
//     goes out. That holds for sessions without expiry too: their will, and nothing else of them, is kept in the log.
//   - After a restart every message in a queue may have been sent before, and goes out with DUP.
//   - A retained message with QoS 0 reaches the log within ten seconds; those of $SYS never do.
//   - A bridge of 3.x (protocol level + 128) gets messages with their retain flag, and not its own.
//   - A client whose maximum packet size leaves no room for CONNACK is refused, one without room for a SUBACK disconnected.
package core
