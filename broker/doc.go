// Package broker is the MQTT server: listeners, the event loop around package core, users and access files, and the
// way in for messages from inside the process.
//
// # Promise
//
// A PUBACK or PUBREC leaves when the message is safe for every durable consumer that it matched (D1 of the design);
// so does the done of [Server.Publish]. Sessions, subscriptions, retained messages and what waits for sessions are in
// the log, and [New] fills the broker from it. One client, whatever it sends or does not read, costs the others
// nothing but its share of the machine.
//
// # Goroutines
//
// [Server.Run] is the loop: one goroutine that owns the core, the listeners and all plain sockets, so that none of
// them needs a lock. It does not wait for disks, names, passwords or logs; the few hashes of a SCRAM exchange are its
// own. Beside it run, and are gone when Run
// returns: two that check passwords if there is a password file; one that writes log lines; one that looks for changes of
// the files of users, access and certificates; and two for each TLS or WebSocket connection, which hand bytes to the loop
// and take them from it, at most one batch at a time, and one that closes it; and now and then one that gives memory back
// after many connections have come.
//
// Everybody else reaches the loop through its inbox (inbox.go), which is bounded. The functions that the loop calls,
// the done of Publish and the Live of an [Attachment], must not block.
//
// # Locks
//
// inbox.mu and feed.mu, which protect a few slices, and guard.mu. None is held while another is taken, or while anything
// else is called; the log may hold its own lock while it takes inbox.mu to say that a queue has more. Server.reloading is
// held for a whole Reload and logins.heavy for a whole hash; inbox.mu is taken under the first. The loop takes neither.
//
// # Errors
//
// New returns every problem of files and addresses at once. Run returns nil after a stop that was asked for; anything
// else is a bug or a kernel without epoll, and after it the process should start anew: the log has what was promised.
// A panic met by one client's packet closes that client, is logged and counted in [Stats]; it ends Run when its text
// begins with BUG: or when it comes from elsewhere.
//
// # Deviations
//
// From Mosquitto's access files: a subscription of which the client may read nothing at all is refused, Mosquitto
// accepts it; deny wins over the patterns of everybody too, there over topic lines only; a client with a will that it
// may not publish is not let in, and the will is checked once more when it is published, as there. And a username that
// nobody has checked is none: its client is anonymous to the access file.
package broker
