package modbus

import "encoding/hex"

// An ASCII frame (Modbus serial §2.5.2), every byte but the first and the last
// two written as two hexadecimal digits:
//
//	+---+------+----------+------+-----+----+----+
//	| : | unit | function | data | LRC | CR | LF |
//	+---+------+----------+------+-----+----+----+
const asciiFrameSize = 513 // the longest

// asciiStream makes a line with ASCII frames look like one with RTU frames: what
// is written and read are whole RTU frames. So everything that the RTU transport
// knows about late answers and echoes holds for ASCII too. A frame whose LRC is
// wrong becomes one whose CRC is wrong; other damage is left out. Read and Write must not be called concurrently.
type asciiStream struct {
	// Constant after construction.
	stream
	tally *tally

	// Owned by the caller of Read and Write.
	inside bool   // a colon has come
	frame  []byte // the characters since the colon
	ready  []byte // RTU frames not yet read
	store  []byte // memory of ready
	out    []byte // memory for Write
	in     [256]byte
}

// Write sends an RTU frame as an ASCII frame.
func (a *asciiStream) Write(frame []byte) (int, error) {
	a.out = appendASCII(a.out[:0], frame[:len(frame)-2])
	if _, err := a.stream.Write(a.out); err != nil {
		return 0, err
	}
	return len(frame), nil
}

// Read waits for a whole frame and returns as much of it as p takes.
func (a *asciiStream) Read(p []byte) (int, error) {
	for len(a.ready) == 0 {
		n, err := a.stream.Read(a.in[:])
		a.ready = a.store[:0]
		for _, c := range a.in[:n] {
			a.take(c)
		}
		a.store = a.ready[:0]
		if err != nil && len(a.ready) == 0 {
			return 0, err // one that came with a frame comes again
		}
	}
	n := copy(p, a.ready)
	a.ready = a.ready[n:]
	return n, nil
}

// take adds one character; at the end of a good frame it is added to ready.
func (a *asciiStream) take(c byte) {
	switch {
	case c == ':': // Modbus serial §2.5.2.1: whatever was before, a frame begins
		a.inside, a.frame = true, a.frame[:0]
	case !a.inside:
	case c == '\n':
		a.inside = false
		begin := len(a.ready)
		decoded, damage := parseASCII(a.frame)
		a.ready = append(a.ready, decoded...)
		switch damage {
		case whole:
			a.ready = appendChecksum(a.ready, begin)
		case wrongSum:
			sum := ^crc16(decoded)
			a.ready = append(a.ready, byte(sum), byte(sum>>8))
		case noFrame:
			a.tally.crc++
		}
	case len(a.frame) == asciiFrameSize:
		a.inside = false
		a.tally.crc++
	default:
		a.frame = append(a.frame, c)
	}
}

// appendASCII appends the ASCII frame of unit, function and data.
func appendASCII(dst, content []byte) []byte {
	const digits = "0123456789ABCDEF" // upper case: Modbus serial §2.5.2
	dst = append(dst, ':')
	for _, b := range content {
		dst = append(dst, digits[b>>4], digits[b&15])
	}
	sum := lrc(content)
	return append(dst, digits[sum>>4], digits[sum&15], '\r', '\n')
}

// damage of an ASCII frame.
type damage int

const (
	whole    damage = iota
	wrongSum        // the digits are all there, but some are wrong
	noFrame
)

// parseASCII decodes, in place, what is between the colon and the line feed of a
// frame and returns unit, function and data, if there are any.
func parseASCII(frame []byte) (content []byte, d damage) {
	if len(frame) < 7 || frame[len(frame)-1] != '\r' {
		return nil, noFrame
	}
	n, err := hex.Decode(frame, frame[:len(frame)-1])
	if err != nil || n > rtuFrameSize-1 {
		return nil, noFrame
	}
	content = frame[:n-1]
	if frame[n-1] != lrc(content) {
		return content, wrongSum
	}
	return content, whole
}

// lrc is the checksum of ASCII frames: Modbus serial §6.2.1.
func lrc(content []byte) byte {
	sum := byte(0)
	for _, b := range content {
		sum += b
	}
	return -sum
}
