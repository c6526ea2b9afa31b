// Package packet is the MQTT codec, for server and client alike, and the rules of topics: every control packet of
// MQTT 3.1, 3.1.1 and 5.0, both ways. It has no sockets, clocks, logs or policy. Statement numbers are those of the
// OASIS standards MQTT 5.0 and, where they differ, 3.1.1.
//
// [Next] takes one packet off a byte stream; the Decode methods read its body in place; the Append methods write
// whole packets in their shortest form. What Decode accepts, Append writes and Decode reads back as the same value.
// A PUBLISH is decoded and appended without allocation, any other packet too once its lists have grown.
//
// # Buffers
//
// Everything decoded aliases the bytes it was decoded from: it is valid as long as they are, and whoever keeps it
// copies it. Append never keeps what it is given. In a decoded packet a string that may be absent is nil then, and
// not nil, though perhaps empty, when it was there.
//
// # Errors
//
// Every error is an *[Error] and final for the connection: it has the reason code for CONNACK or DISCONNECT and the
// number of the broken rule. Reading checks everything about a packet that needs no knowledge of the connection. Left
// to the caller is what does: which side may send which packet (a client sends no subscription identifier in PUBLISH
// [MQTT-3.3.4-6], a server no session expiry in DISCONNECT [MQTT-3.14.2-2]), the limits agreed in CONNECT and CONNACK,
// and which client identifiers are acceptable.
//
// Deliberately lenient towards 3.1: the DUP flag of PUBREL, SUBSCRIBE and UNSUBSCRIBE is accepted and ignored, so are
// the bits of CONNECT and CONNACK that had no meaning then; a user name or password may be missing in spite of its
// flag. Before 5.0 the remaining length may take more bytes than it needs, which only 5.0 forbids.
//
// # Concurrency
//
// The package starts no goroutines and has no locks or state; a packet value belongs to one goroutine at a time.
package packet
