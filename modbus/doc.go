// Package modbus polls Modbus devices over TCP, TLS, UDP and serial lines with
// RTU or ASCII frames, also behind serial servers, and writes to them, on a
// schedule ([Poller]) or by hand ([Client]); for trials it plays devices
// ([Simulator]). It knows registers and time; it knows no MQTT.
//
// # What it promises
//
//   - A value that leaves this package with quality good was carried by a
//     complete answer to the very request that asked for it: right
//     transaction, unit, function and length. A late, doubled or foreign
//     answer is discarded, whatever the transport.
//   - A failed read is a [Sample] with quality bad and an error; the last good
//     value is never repeated as if it were new.
//   - A value that has not been read for more than two intervals becomes stale.
//   - A device that is dead, slow or talks nonsense costs its neighbours on
//     the same link a bounded share of the link's time.
//   - One unreadable register does not take the others of its block with it.
//     What a device refuses is learned ([LearnedUnit]): its largest read, borders
//     that no read may cross, and holes.
//   - Every deadline of the schedule is met or counted as missed. Reads keep
//     their phase, or, when they are aligned to the clock on the wall, its.
//   - Only tags marked writable are written, within their limits, and every
//     write is read back. Who asks by hand ([Poller.Ask]) may write anything.
//   - A [TagServer] serves a value only while it is good and of now; all else is
//     an exception.
//
// Statements cited as "Modbus §n" are those of the MODBUS Application Protocol
// Specification V1.1b3, "Modbus serial §n" those of MODBUS over Serial Line
// V1.02.
//
// # Known limits
//
//   - A device that is asked several things at once (in_flight) and answers one
//     with the transaction identifier of another is believed.
//   - An RTU or ASCII device that sends the same answer twice with a pause in
//     between is not told from one that answers the next request of equal length.
//     Doubled frames without a pause are. Nor is one that answers its requests
//     in another order than it got them, or later than ten timeouts.
//   - A part of a register in a device without function 22 is written, with
//     read_modify_write, by writing the whole register as it was read just before.
//   - The total of a counter with roll-over begins anew at every start, and
//     misses what a counter does in an outage beyond one roll-over.
//   - A counter that the device changes between two registers of one answer
//     arrives torn; no client can see that.
//
// # Goroutines
//
// [Poller.Run] starts one goroutine per connection. It owns the connection or
// port, the read plan and the state of the units that share it; nobody else
// touches them. [Poller.Write], [Poller.ReadNow] and [Poller.Ask] hand what they want to that
// goroutine, which does it between two reads. The methods of [Sink] are called
// from these goroutines, several at a time for several links. Run returns when
// all of them are gone.
//
// A [Client] has no goroutine: its requests are made by whoever calls it, one at
// a time. A [Simulator] has one for each connection and one that moves the
// values, a [TagServer] one for each connection.
//
// # Locks
//
// Each transport has one mutex, held only to exchange the open connection so
// that the end of Run can close it under a blocked read. The statistics are
// atomic. A Simulator's lock is taken before that of a [Server], and each tag of a
// [TagServer] has one for its last sample; no others ever
// nest.
//
// # Errors
//
// [ExceptionError]: the device answered and refused. [ErrTimeout]: it did not
// answer in time; after a write the effect is unknown. [ErrDown]: there is no
// connection or no port, nothing was sent. [RefusedError]: a write that was not
// sent because the tag, its limits, the command's age or the unit's absence
// forbid it.
package modbus
