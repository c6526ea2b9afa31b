// Package edge puts the gateway together: it reads the configuration, starts
// and stops the parts in the right order, and carries what passes between
// them that is neither MQTT nor Modbus alone: samples become messages
// (telemetry.go), messages on …/set become register writes (command.go), those
// on …/get reads (demand.go).
//
// # Promises
//
// Load reports every problem of a file at once, each with its path in the
// configuration, and never panics or grows without bound on any bytes. A
// configuration that Load returned has its defaults filled in and has been
// checked; the files it names (certificates, passwords) are looked at only by
// CheckFiles and by the parts that use them.
//
// Open starts storage, broker, bridges and Modbus in that order, and Run stops
// them in the reverse order within DrainTime. A bridge or a Modbus link that
// cannot come up says so in the log and is tried again; it never stops the
// rest. The broker failing ends Run with an error.
//
// When a write or sync of the store has failed, the broker goes on with what
// needs no disk. Once the disk can be written again, Run stops everything and
// Serve opens it anew: the clients connect again and repeat what was not
// acknowledged, and the log has one line for each of the two moments (D4).
//
// A command on <topic>/set is written to the device at most once: it is
// acknowledged to the log before the write begins. Retained and expired
// commands are refused.
//
// # Goroutines
//
// Run owns one goroutine for each part (the broker's loop, each bridge, the
// poller, the commands, the topics of $SYS), and the commands one for each link; it returns when
// all of them have ended. The parts call back from goroutines of their own: the
// poller into telemetry, the broker's loop when a message is safe, which never
// blocks or logs.
//
// # Locks
//
// A Config is immutable once Load has returned it. telemetry.mu guards the
// last samples; nothing is called while it is held. The demonstration has a
// leaf lock in each of its parts.
//
// # Errors
//
// A *ConfigError is the operator's to mend; every other error is the
// machine's (disk, port in use) and names the part that failed.
package edge
