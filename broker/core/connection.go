package core

import "forebay/broker/packet"

// Conn is one connection, a stream of bytes each way. Its methods are called by the loop only.
type Conn struct {
	// Data is for the owner of the transport.
	Data any

	core *Core
	info ConnInfo
}

// Info returns what Accept was given.
func (conn *Conn) Info() ConnInfo { return conn.info }

// ClientID returns the client identifier, empty before CONNECT.
func (conn *Conn) ClientID() string { return "" }

// Username returns the username of CONNECT, empty if there was none.
func (conn *Conn) Username() string { return "" }

// Version returns the protocol version, 0 before CONNECT.
func (conn *Conn) Version() packet.Version { return 0 }

// Pending returns what is to be written, in order. It is valid until the next call of any method of the Core or Conn.
func (conn *Conn) Pending() [][]byte { return nil }

// Wrote says that the first n bytes of Pending have left.
func (conn *Conn) Wrote(n int) {}

// Closing reports that the transport is to be closed once Pending is empty, or at once if it cannot be written.
func (conn *Conn) Closing() bool { return false }

// Paused reports that the core takes nothing from this connection for now: its login is under way, its CONNACK waits
// for the disk, or too many of its acknowledgements do. The loop need not read it. The end of the pause shows as a
// call in [Core.Flush]; the bytes that Receive has left are then given to it again.
func (conn *Conn) Paused() bool { return false }
