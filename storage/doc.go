// Package storage is the durable log, its cursors and the state tables. It
// keeps bytes and numbers and knows no MQTT.
//
// # Promises
//
// Append puts a record into the log: a message for any number of consumers,
// stored once, and table changes that become durable together with it. It
// never waits for the disk. When Safe has reached the record's Seq, it survives
// the death of the process and the loss of power. A record is there as a whole
// or not at all, and none is there without all before it.
//
// Each consumer has a Cursor, which hands out its messages in order and keeps
// what is acknowledged and received, in any order. Acknowledgements ride on a
// later commit, at most about a second later: a crash may bring back what was
// acknowledged just before, never what Received has made durable, and it never
// loses what was not acknowledged.
//
// A group of records goes to the journal, a file written in full beforehand, with
// one write and one fdatasync. From there it is spilled to a segment, a bbolt
// file, in the background: when half of the journal is full, with each
// checkpoint (every few seconds while there is something to say, so that the
// next start has little to do) and at Close. Until then it is in memory too.
// What all its consumers have acknowledged meanwhile never reaches a segment.
// Large groups go to the segment at once. Of the two halves one takes groups
// while the other is spilled; a group waits for a spill only when both are full.
//
// A segment file is removed when every cursor has passed it and a checkpoint
// says so. What little somebody still needs of an old one is copied into the
// current one within minutes, so that it can go; memory is bounded whatever the backlog. What is damaged is set aside
// (.bad), counted under CauseDamaged when its consumers come to it, and does
// not keep the process from starting.
//
// With Config.MaxAckDelay, a message without table changes and without Hold
// whose consumers are all live (Cursor.SetLive) waits that long for their
// acknowledgements, and is never written when they come in time. Anything that
// needs a commit meanwhile commits everything.
//
// A View tells what the log holds, message by message, without touching a cursor:
// Log.View while it runs, Inspect of files that nobody has open. Inspection.Check
// verifies every checksum, Repair makes a damaged store whole, Purge empties a
// queue.
//
// # Goroutines
//
// The committer (commitLoop) takes whatever waits, writes it as one group,
// advances Safe and tells. It starts a goroutine (turn) for each spill and the
// checkpoint that follows, of which there is one each at a time, so that commits
// do not wait for them. The reader (readLoop) fetches for cursors that lag
// behind the tail in memory. Close ends and awaits all of them.
//
// # Locks
//
// There is one, Log.mu. It is never held over disk I/O, a callback or anything
// that blocks. bbolt's own locks are taken without it.
//
// # Errors
//
// Full: *FullError, nothing of the record was taken; it works again when
// somebody has acknowledged. It is counted in Stats or CursorStats, and the log
// has one line when refusing or dropping begins and one when it is over (D5);
// likewise when a limit comes near. Messages are also refused while the disk has no
// room for the reserve, which is tried again every second.
// Stop: ErrFailed, a write or sync has failed, and only Close and Open help
// (D4), for which Probe tells when the time has come; ErrLocked and *VersionError at Open, which time does not cure. Ours:
// ErrClosed, and records beyond the package's limits.
//
// # Weaknesses
//
// BUG(storage): A consumer that never acknowledges keeps every segment of which
// it needs a sixteenth or more; give it limits.
//
// BUG(storage): Each Open writes the state file anew, so it takes time and flash
// in proportion to the rows of the tables.
//
// BUG(storage): After a restart, DropOldest and MaxAge spare as many of a
// consumer's messages as may have been sent before with QoS 2, sent or not.
//
// BUG(storage): Damage is found when a segment is read. Until then its messages
// count as waiting. All that stands in a segment whose tree of pages is broken
// counts as lost, even if some of it could be found by searching the file.
//
// BUG(storage): A last group of the journal that is damaged after it was synced
// looks like one that the power cut short. The log says so if its beginning can
// be read; how many messages are lost it cannot say.
package storage
