package packet

// Frame is one whole control packet as it stood on the wire. The slices alias the input of [Next].
type Frame struct {
	First byte   // byte 1: type and flags
	Body  []byte // what follows the remaining length
	Whole []byte // all of it
}

// Type returns the control packet type.
func (f Frame) Type() Type { return Type(f.First >> 4) }

// Next takes one packet off the front of b. n is the number of bytes it took; n == 0 and err == nil mean that b
// ends before the packet does: read more. v is the version of the connection, 0 before CONNECT, when nothing but
// CONNECT is accepted. max is the largest whole packet accepted, in bytes (0: [MaxPacket]).
//
// Next checks what can be seen from the fixed header, as soon as it can be seen: the type, its flags, the form of
// the remaining length, and max before the body has arrived. The error is an *Error; nothing behind it can be read.
// Next does not allocate unless it fails.
func Next(b []byte, v Version, max uint32) (f Frame, n int, err error) {
	panic("BUG: packet: not built")
}
