// Package core is the broker as a state machine: MQTT 3.1, 3.1.1 and 5.0, without sockets, files, clocks, locks or
// goroutines. In go the bytes of connections, the time, and how far the log is durable; out come bytes, closes and
// records. One goroutine, the loop, calls everything, so a conversation can be replayed exactly: see testdata.
//
// # The order of calls
//
// New, Restore for every row, Restored once; then, round after round: Tick, any number of Accept, Receive, Lost,
// Durable, QueueReady, LoginResult, AuthResult, Publish, and at the end Flush. Nothing of the core may be called from within its
// callbacks (Log, Events, Authorizer, Attachment.Live, Attachment.Place), but LoginResult from Login, AuthResult
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
//   - A subscription of which the client may read some topics only is accepted, and the others are left out of it; also
//     of what waited for the client when the rules changed. What has been sent with QoS 2 is finished.
//   - Overlapping subscriptions of a client are one delivery, with the highest QoS and all identifiers, of which 256 at
//     most are sent.
//   - A 3.x session that is not clean ends when its client has been away for Config.SessionExpiry.
//   - A session that a power failure has cut off waits for its client as long as keep alive would have; then its will
//     goes out. That holds for sessions without expiry too: their will, and nothing else of them, is kept in the log.
//   - After a restart every message in a queue may have been sent before, and goes out with DUP.
//   - A retained message with QoS 0 reaches the log within ten seconds; those of $SYS never do.
//   - A bridge of 3.x (protocol level + 128) gets messages with their retain flag, and not its own.
//   - A client whose maximum packet size leaves no room for CONNACK is refused, one without room for a SUBACK disconnected.
//
// # Statements that ask nothing of us
//
// All others are cited where they are obeyed, and shown by a transcript in testdata; a test sees to it.
//
// 5.0:
//
//   - They bind clients. 2.2.1-3, 3.1.2-20, 3.1.2-21, 3.2.2-4, 3.2.2-5, 3.2.2-11, 3.2.2-14, 3.2.2-17, 3.2.2-18, 3.2.2-21,
//     3.3.2-10, 3.3.4-8, 4.5.0-2.
//   - They are for servers without QoS 1 and 2, or without retained messages. 3.2.2-9, 3.2.2-10, 3.2.2-12, 3.2.2-13.
//   - We send no user properties but those of messages, and no reason string in AUTH. 3.2.2-20, 3.4.2-3, 3.5.2-3,
//     3.6.2-3, 3.7.2-3, 3.9.2-2, 3.11.2-2, 3.14.2-4, 3.15.2-2, 3.15.2-3.
//
// 3.1.1:
//
//   - They bind clients. 2.3.1-3, 3.1.3-7, 7.1.2-1.
//   - It is for servers without wildcards. 3.8.3-2.
//   - They are about whole implementations: the bridge is a client of its own, and no extension is needed. 7.0.0-1,
//     7.0.0-2.
package core

// BUG(core): Long work is cut between messages, not within one: a message for 100,000 connected clients goes to all of
// them in one round, and everybody else waits for some milliseconds. So it is with all filters of one SUBSCRIBE.
