package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"
)

// An RTU frame (Modbus serial §2.5.1): unit, function, data, CRC with the low
// byte first. It has no length and no transaction identifier; its end is a
// silence of 3.5 characters.
const (
	rtuFrameSize     = 256 // the longest
	rtuExceptionSize = 5
	rtuReadOverhead  = 5 // unit, function, byte count, CRC
)

// lateFactor × timeout, at least lateMinimum, is how long after a request that
// found no answer the answer may still come. Devices and serial servers that
// queue requests answer seconds late.
const (
	lateFactor  = 10
	lateMinimum = 10 * time.Second
)

// errDamaged is the ErrTimeout of a unit that is there: what came has the form of
// the answer, but its checksum is wrong.
var errDamaged = fmt.Errorf("%w: what came was damaged", ErrTimeout)

// damageQuiet is how long nothing may come behind a damaged answer before the
// right one is not waited for any more.
const damageQuiet = 50 * time.Millisecond

// rtuTransport carries RTU frames over a serial port or a TCP connection.
//
// RTU answers do not say which request they answer, so a late answer to one
// read looks like the answer to the next read of as many registers. Therefore
// the transport remembers every request that found no answer; before it sends
// one that the late answer would fit, it reads another quantity from the same
// unit and throws the answer away. As a unit answers in order, nothing older
// can come after that. Send must not be called concurrently.
type rtuTransport struct {
	lifeline

	// Constant after newRTUTransport.
	timeout time.Duration
	line    rtuLine

	// Owned by the caller of Send.
	buf    [2 * rtuFrameSize]byte
	unread []byte              // received since the request, a part of buf
	late   map[byte][]lateness // by unit: answers that may still come; no list is empty
	echo   bool                // the line returns what we send before the answer
}

// lateness is one answer that did not come in time.
type lateness struct {
	function byte
	length   int
	until    time.Time // it is not expected any more then
}

// rtuLine is the timing of a serial line.
type rtuLine struct {
	char    time.Duration // one character on the wire; 0 when unknown
	silence time.Duration // between two frames
}

// newRTULine returns the timing at a line speed; 0 for RTU over TCP.
func newRTULine(baud int) rtuLine {
	// Modbus serial §2.5.1.1: eleven bits per character; above 19200 bit/s the
	// silence is fixed.
	if baud == 0 {
		return rtuLine{silence: 1750 * time.Microsecond}
	}
	char := 11 * time.Second / time.Duration(baud)
	if baud > 19200 {
		return rtuLine{char, 1750 * time.Microsecond}
	}
	return rtuLine{char, char * 7 / 2}
}

// newRTUTransport returns a transport over what open opens. timeout limits each
// answer, its time on the wire not counted.
func newRTUTransport(open func(context.Context) (stream, error), line rtuLine, timeout time.Duration) *rtuTransport {
	return &rtuTransport{
		lifeline: lifeline{open: open},
		timeout:  timeout,
		line:     line,
		late:     make(map[byte][]lateness),
	}
}

// Send writes one request frame and returns the answer that belongs to it; the
// answer is valid until the next Send. connect must have succeeded before.
func (t *rtuTransport) Send(request []byte) ([]byte, error) {
	answer := answerTo(request)
	if answer.read && t.mayComeLate(answer) {
		if err := t.resynchronise(request, answer); err != nil {
			return nil, err
		}
	}
	return t.exchange(request, answer)
}

// mayComeLate reports whether a late answer could be taken for answer.
func (t *rtuTransport) mayComeLate(answer rtuAnswer) bool {
	if len(t.late[answer.unit]) == 0 {
		return false
	}
	now := time.Now()
	kept := t.late[answer.unit][:0]
	for _, l := range t.late[answer.unit] {
		if now.Before(l.until) {
			kept = append(kept, l)
		}
	}
	t.late[answer.unit] = kept
	if len(kept) == 0 {
		delete(t.late, answer.unit)
	}
	return t.expectsLate(answer)
}

// expectsLate is mayComeLate without forgetting what is too old.
func (t *rtuTransport) expectsLate(answer rtuAnswer) bool {
	for _, l := range t.late[answer.unit] {
		if l.function == answer.function && l.length == answer.length {
			return true
		}
	}
	return false
}

// resynchronise reads a quantity that no late answer has, and so learns that
// the unit has answered everything before.
func (t *rtuTransport) resynchronise(request []byte, answer rtuAnswer) error {
	probe, ok := t.distinctRead(request, answer)
	if !ok {
		return fmt.Errorf("modbus: %w: waiting for late answers to pass", ErrTimeout)
	}
	frame, err := t.exchange(probe, answerTo(probe))
	if err != nil {
		return err
	}
	if frame[1] == answer.function {
		return nil // exchange has forgotten the late ones
	}
	// An exception has no quantity: it may be a late one itself. Silence for
	// another timeout says that it was not.
	if err := t.listen(t.timeout); err != nil {
		return err
	}
	delete(t.late, answer.unit)
	return nil
}

// distinctRead makes a read like request of another quantity, preferably a
// part of what request reads, whose answer differs in length from every one
// that may still come.
func (t *rtuTransport) distinctRead(request []byte, answer rtuAnswer) (probe []byte, ok bool) {
	address := int(binary.BigEndian.Uint16(request[2:]))
	asked := int(binary.BigEndian.Uint16(request[4:]))
	step, most := 1, maxRegisters
	if answer.function <= 2 {
		step, most = 8, maxBits // eight bits are one byte of the answer
	}
	try := func(quantity int) bool {
		probe = binary.BigEndian.AppendUint16(bytes.Clone(request[:4]), uint16(quantity))
		probe = appendCRC(probe)
		return !t.expectsLate(answerTo(probe))
	}
	for quantity := asked - step; quantity > 0; quantity -= step {
		if try(quantity) {
			return probe, true
		}
	}
	for quantity := asked + step; quantity <= most && address+quantity <= 65536; quantity += step {
		if try(quantity) {
			return probe, true
		}
	}
	return nil, false
}

// exchange writes a request to a silent line and waits for its answer.
func (t *rtuTransport) exchange(request []byte, answer rtuAnswer) ([]byte, error) {
	s := t.stream()
	if s == nil {
		return nil, fmt.Errorf("modbus: %w", errLost)
	}
	if err := t.listen(t.line.silence); err != nil {
		return nil, err
	}
	onWire := time.Duration(len(request)+answer.length) * t.line.char
	deadline := time.Now().Add(t.timeout + onWire)
	if err := s.SetWriteDeadline(deadline); err != nil {
		return nil, t.lost(err)
	}
	if _, err := s.Write(request); err != nil {
		return nil, t.lost(err)
	}
	if err := s.SetReadDeadline(deadline); err != nil {
		return nil, t.lost(err)
	}
	frame, err := t.await(s, request, answer, deadline)
	switch {
	case err != nil:
		return nil, err
	case frame == nil:
		return nil, t.timedOut(answer)
	case frame[1] == answer.function:
		delete(t.late, answer.unit)
	case len(t.late[answer.unit]) > 0:
		// The exception may belong to an earlier request; then the answer to
		// this one is still to come.
		t.remember(answer)
	}
	return frame, nil
}

// listen discards what arrives until the line has been silent for d.
func (t *rtuTransport) listen(d time.Duration) error {
	s := t.stream()
	if s == nil {
		return fmt.Errorf("modbus: %w", errLost)
	}
	t.unread = nil
	giveUp := time.Now().Add(d + t.timeout)
	heard := 0
	defer func() { t.skipped(heard, 0) }()
	for time.Now().Before(giveUp) {
		if err := s.SetReadDeadline(time.Now().Add(d)); err != nil {
			return t.lost(err)
		}
		n, err := s.Read(t.buf[:])
		heard += n
		if isTimeout(err) {
			return nil
		} else if err != nil {
			return t.lost(err)
		}
	}
	return fmt.Errorf("modbus: %w: the line is never silent", ErrTimeout)
}

// await reads until the answer is complete; frame is nil at the deadline.
func (t *rtuTransport) await(s stream, request []byte, answer rtuAnswer, deadline time.Time) (frame []byte, err error) {
	heard := false // our own request
	for {
		heard = heard || t.skipEcho(request, answer)
		if frame, before := answer.find(t.unread, false); frame != nil {
			t.skipped(before, len(t.unread)-before-len(frame))
			return frame, nil
		}
		if len(t.unread) > rtuFrameSize {
			t.unread = t.unread[len(t.unread)-rtuFrameSize:]
		}
		if answer.damaged(t.unread) {
			// It came, so there is no need to wait for the deadline.
			if quiet := time.Now().Add(damageQuiet); quiet.Before(deadline) {
				if err := s.SetReadDeadline(quiet); err != nil {
					return nil, t.lost(err)
				}
			}
		}
		n := copy(t.buf[:], t.unread)
		m, err := s.Read(t.buf[n:])
		t.unread = t.buf[:n+m]
		switch {
		case m > 0:
		case isTimeout(err):
			frame, before := answer.find(t.unread, true)
			if frame != nil {
				t.skipped(before, len(t.unread)-before-len(frame))
			}
			return frame, nil
		case err != nil:
			return nil, t.lost(err)
		}
	}
}

// skipped counts what came before and behind an answer.
func (t *rtuTransport) skipped(before, behind int) {
	switch {
	case before > 0 && t.expectsAny():
		t.tally.late++
	case before > 0:
		t.tally.stray++
	}
	if behind > 0 {
		t.tally.stray++
	}
}

// expectsAny reports whether any answer may still come late.
func (t *rtuTransport) expectsAny() bool {
	for _, l := range t.late {
		if len(l) > 0 {
			return true
		}
	}
	return false
}

// skipEcho drops our own request from the beginning of what came back: some
// RS-485 adapters hear themselves. The answer to a read differs from the
// request, so the first read teaches that there is an echo; the answer to a
// write of one register is its very image, so there the knowledge is needed.
func (t *rtuTransport) skipEcho(request []byte, answer rtuAnswer) (heard bool) {
	if !bytes.HasPrefix(t.unread, request) {
		return false
	}
	if answer.read {
		t.echo = true
	}
	if t.echo {
		t.unread = t.unread[len(request):]
	}
	return t.echo
}

// timedOut remembers that answer may come late and says what came instead.
func (t *rtuTransport) timedOut(answer rtuAnswer) error {
	t.remember(answer)
	if len(t.unread) == 0 {
		return fmt.Errorf("modbus: %w: %v", ErrTimeout, t.timeout)
	}
	if answer.damaged(t.unread) {
		t.tally.crc++
		return fmt.Errorf("modbus: %w", errDamaged)
	}
	t.tally.stray++
	return fmt.Errorf("modbus: %w: %v (%d bytes came that are not the answer of unit %d)", ErrTimeout, t.timeout, len(t.unread), answer.unit)
}

// remember notes that answer may still come. The answer to a write needs no
// note: it repeats what was written.
func (t *rtuTransport) remember(answer rtuAnswer) {
	if !answer.read {
		return
	}
	until := time.Now().Add(max(lateMinimum, lateFactor*t.timeout))
	known := t.late[answer.unit]
	for i := range known {
		if known[i].function == answer.function && known[i].length == answer.length {
			known[i].until = until
			return
		}
	}
	t.late[answer.unit] = append(known, lateness{answer.function, answer.length, until})
}

// rtuAnswer describes the one frame, besides the exception, that answers a
// request.
type rtuAnswer struct {
	unit, function byte
	length         int     // of the frame
	read           bool    // functions 1 to 4
	start          [8]byte // what the frame begins with, begins bytes of it
	begins         int
	// measure tells how long the frame is that buf begins, len(buf)+1 while it
	// cannot be known, when not its request says that; else nil.
	measure func(buf []byte) int
}

// answerTo returns what answers an encoded request: Modbus §6.
func answerTo(request []byte) rtuAnswer {
	a := rtuAnswer{unit: request[0], function: request[1]}
	switch a.function {
	case 1, 2:
		count := (int(binary.BigEndian.Uint16(request[4:])) + 7) / 8
		a.length, a.read = rtuReadOverhead+count, true
		a.begin(a.unit, a.function, byte(count))
	case 3, 4:
		count := 2 * int(binary.BigEndian.Uint16(request[4:]))
		a.length, a.read = rtuReadOverhead+count, true
		a.begin(a.unit, a.function, byte(count))
	case 5, 6, 15, 16: // address and value, or address and quantity, come back
		a.length = 8
		a.begin(request[:6]...)
	case 22: // address and both masks come back
		a.length = 10
		a.begin(request[:8]...)
	case reportServerID:
		a.length, a.measure = rtuFrameSize, serverIDLength
		a.begin(a.unit, a.function)
	case encapsulated: // the kind and the read code come back
		a.length, a.measure = rtuFrameSize, identificationLength
		a.begin(request[:4]...)
	default:
		panic(fmt.Sprintf("BUG: modbus: RTU answer to function %d is not known", a.function))
	}
	return a
}

func (a *rtuAnswer) begin(bytes ...byte) { a.begins = copy(a.start[:], bytes) }

// find returns the first frame in buf that is the answer or its exception, with
// a good CRC, or nil; the bytes before it are noise. While something may still
// grow into the answer it gives nil, so that bytes inside are not taken for a
// frame; with final set it does not wait. frame aliases buf.
func (a *rtuAnswer) find(buf []byte, final bool) (frame []byte, before int) {
	for i := 0; i+1 < len(buf); i++ {
		rest := buf[i:]
		length := a.candidate(rest)
		switch {
		case length == 0:
		case length <= len(rest) && checkCRC(rest[:length]):
			return rest[:length:length], i
		case length > len(rest) && !final:
			return nil, 0
		}
	}
	return nil, 0
}

// damaged reports whether buf has something in it that has the form of the
// answer.
func (a *rtuAnswer) damaged(buf []byte) bool {
	for i := 0; i+1 < len(buf); i++ {
		if length := a.candidate(buf[i:]); length > 0 && length <= len(buf)-i {
			return true
		}
	}
	return false
}

// candidate returns the length of the frame that buf may be the beginning of, 0
// when it is not one.
func (a *rtuAnswer) candidate(buf []byte) int {
	if buf[0] == a.unit && buf[1] == a.function|0x80 { // Modbus §7
		return rtuExceptionSize
	}
	n := min(len(buf), a.begins)
	if !bytes.Equal(buf[:n], a.start[:n]) {
		return 0
	}
	if a.measure == nil {
		return a.length
	}
	if length := a.measure(buf); length <= rtuFrameSize {
		return length
	}
	return 0
}

// crc16 is the checksum of RTU frames: Modbus serial §6.2.2.
func crc16(data []byte) uint16 {
	crc := uint16(0xffff)
	for _, b := range data {
		crc ^= uint16(b)
		for range 8 {
			carry := crc & 1
			crc >>= 1
			if carry != 0 {
				crc ^= 0xa001
			}
		}
	}
	return crc
}

func appendCRC(frame []byte) []byte { return appendChecksum(frame, 0) }

// appendChecksum appends the CRC of the frame that starts at begin of buf.
func appendChecksum(buf []byte, begin int) []byte {
	return binary.LittleEndian.AppendUint16(buf, crc16(buf[begin:]))
}

func checkCRC(frame []byte) bool {
	n := len(frame) - 2
	return binary.LittleEndian.Uint16(frame[n:]) == crc16(frame[:n])
}
