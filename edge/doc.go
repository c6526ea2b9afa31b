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
// Reload reads the file again and changes only what differs: bridges, which keep
// their queues and sessions, Modbus links, and the level of the log. A file that
// is wrong, or asks for what needs a restart, changes nothing. What a bridge
// leaves behind that is removed stays until ForgetBridge.
//
// The control socket (api.go) lets its group ask for a Report and order a reload;
// the listener of api.listen shows metrics and health to whoever can reach it,
// and no name of a client. Neither shows a secret. When one cannot be opened the
// gateway serves without.
//
// modbus.server (served.go) shows chosen tags to other Modbus clients; a write by
// one of them, and one by hand through the control socket (apiask.go), leaves a
// line in the log.
//
// A command on <topic>/set is written to the device at most once: it is
// acknowledged to the log before the write begins. Retained and expired
// commands are refused.
// One that a client sends again with the same forebay-id is answered again, not
// written again, unless the gateway was started anew in between.
//
// # Goroutines
//
// Run owns one goroutine for each part (the broker's loop, each bridge, each
// Modbus link, the commands, the topics of $SYS, the Modbus server, the control socket) and one
// that waits for its end, and the commands one for each link; it returns when
// all of them have ended. Who asks through the API has a goroutine of package
// net/http, at most 64 on each listener. A reload runs in that of whoever asks
// for it, one at a time: it holds the token of Gateway.turn. The parts call back from goroutines of their own: the
// poller into telemetry, the broker's loop when a message is safe, which never
// blocks or logs.
//
// # Locks
//
// A Config is immutable once Load has returned it. Gateway.mu guards which parts
// there are; the store's lock and those of bridges, fieldbus and telemetry are
// taken while it is held, never the other way. fieldbus.mu is a leaf.
// telemetry.mu guards the
// last samples, commands.mu the commands that have an identifier; nothing is
// called while one is held. The demonstration has a
// leaf lock in each of its parts.
//
// # Errors
//
// A *ConfigError is the operator's to mend; every other error is the
// machine's (disk, port in use) and names the part that failed.
package edge
