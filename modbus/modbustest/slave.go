package modbustest

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"forebay/modbus"
)

// Request is one request that reached the slave.
type Request struct {
	// Number counts the requests of the slave from 1.
	Number int
	Unit   byte
	// PDU is function code and data.
	PDU []byte
}

// Function returns the function code.
func (r Request) Function() byte { return r.PDU[0] }

// Address returns the first address of the request.
func (r Request) Address() int { return int(binary.BigEndian.Uint16(r.PDU[1:])) }

// Count returns the quantity of a read.
func (r Request) Count() int { return int(binary.BigEndian.Uint16(r.PDU[3:])) }

// Fault is what the slave does wrong with one answer. Its zero value is a
// correct answer.
type Fault struct {
	// Delay passes before the answer; requests that arrive meanwhile wait. With
	// Aside only those to the same unit do, as on a bus with several devices.
	Delay time.Duration
	Aside bool
	// Drop sends no answer.
	Drop bool
	// Exception is sent instead of the answer when it is not 0.
	Exception byte
	// Mangle changes the complete frame just before it is sent.
	Mangle func(frame []byte) []byte
	// Pieces sends the frame in parts of this many bytes, PieceDelay apart.
	Pieces     int
	PieceDelay time.Duration
	// Twice sends the frame again.
	Twice bool
	// Close ends the connection, after the answer or, with Drop, without it.
	Close bool
}

// Slave answers requests from a register image, with faults.
type Slave struct {
	// Image holds the registers; every address exists.
	Image *modbus.Server
	// Fault, if not nil, is asked for each request. It may be called from
	// several goroutines, one per connection.
	Fault func(Request) Fault

	// Forget keeps no list of the requests, only their number.
	Forget bool

	mu       sync.Mutex
	number   int                // guarded by mu
	requests []Request          // guarded by mu
	busy     map[byte]time.Time // guarded by mu: by unit, until when it is aside
}

// New returns a slave with all registers zero and no faults.
func New() *Slave { return &Slave{Image: modbus.NewServer()} }

// Requests returns all requests received so far.
func (s *Slave) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// answer makes the response PDU and tells what to do wrong with it.
func (s *Slave) answer(unit byte, pdu []byte) ([]byte, Fault) {
	s.mu.Lock()
	s.number++
	r := Request{Number: s.number, Unit: unit, PDU: pdu}
	if !s.Forget {
		s.requests = append(s.requests, r)
	}
	s.mu.Unlock()
	var f Fault
	if s.Fault != nil {
		f = s.Fault(r)
	}
	s.order(unit, &f)
	if f.Exception != 0 {
		return []byte{pdu[0] | 0x80, f.Exception}, f
	}
	return s.Image.Answer(pdu), f
}

// order has a unit answer in the order it was asked.
func (s *Slave) order(unit byte, f *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	free := s.busy[unit]
	if !f.Aside && !free.After(now) {
		return
	}
	f.Aside = true
	f.Delay += max(0, free.Sub(now)) + time.Microsecond
	if s.busy == nil {
		s.busy = make(map[byte]time.Time)
	}
	s.busy[unit] = now.Add(f.Delay)
}

// send writes a frame as the fault wants it; more is false when the connection
// is to end.
func send(w io.Writer, frame []byte, f Fault) (more bool) {
	if f.Aside {
		delay := f.Delay
		f.Aside, f.Delay = false, 0
		time.AfterFunc(delay, func() { send(w, frame, f) })
		return true
	}
	time.Sleep(f.Delay)
	if f.Drop {
		return !f.Close
	}
	if f.Mangle != nil {
		frame = f.Mangle(frame)
	}
	if f.Twice {
		frame = append(frame, frame...)
	}
	piece := len(frame)
	if f.Pieces > 0 {
		piece = f.Pieces
	}
	for len(frame) > 0 {
		n := min(piece, len(frame))
		if _, err := w.Write(frame[:n]); err != nil {
			return false
		}
		if frame = frame[n:]; len(frame) > 0 {
			time.Sleep(f.PieceDelay)
		}
	}
	return !f.Close
}

// ServeTCP answers every connection of the listener until it is closed.
func (s *Slave) ServeTCP(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go s.ServeTCPConn(conn)
	}
}

// ServeTCPConn answers Modbus TCP on one connection, reading no further request
// before the last is answered, until it ends; then it closes it.
func (s *Slave) ServeTCPConn(conn io.ReadWriteCloser) {
	defer func() { _ = conn.Close() }() // the test does not care how it ends
	var header [7]byte
	for {
		if _, err := io.ReadFull(conn, header[:]); err != nil {
			return
		}
		pdu := make([]byte, max(1, int(binary.BigEndian.Uint16(header[4:]))-1))
		if _, err := io.ReadFull(conn, pdu); err != nil {
			return
		}
		answer, fault := s.answer(header[6], pdu)
		frame := append([]byte(nil), header[:]...)
		binary.BigEndian.PutUint16(frame[4:], uint16(len(answer)+1))
		if !send(conn, append(frame, answer...), fault) {
			return
		}
	}
}

// ServeRTU answers RTU frames on a line until it ends; then it closes it. It
// answers any unit, so that one slave can be many devices.
func (s *Slave) ServeRTU(line io.ReadWriteCloser) {
	defer func() { _ = line.Close() }() // the test does not care how it ends
	for {
		unit, pdu, err := readRTU(line)
		if err != nil {
			return
		}
		answer, fault := s.answer(unit, pdu)
		if !send(line, AppendCRC(append([]byte{unit}, answer...)), fault) {
			return
		}
	}
}

// ServeASCII is ServeRTU with ASCII frames.
func (s *Slave) ServeASCII(line io.ReadWriteCloser) {
	defer func() { _ = line.Close() }() // the test does not care how it ends
	in := bufio.NewReader(line)
	for {
		frame, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		request, err := hex.DecodeString(strings.Trim(string(frame), ":\r\n"))
		if err != nil || len(request) < 6 {
			return
		}
		answer, fault := s.answer(request[0], request[1:len(request)-1])
		if !send(line, ASCII(append([]byte{request[0]}, answer...)), fault) {
			return
		}
	}
}

// ASCII makes an ASCII frame of unit, function and data.
func ASCII(content []byte) []byte {
	sum := byte(0)
	for _, b := range content {
		sum -= b
	}
	return fmt.Appendf(nil, ":%X%02X\r\n", content, sum)
}

// readRTU reads one request, trusting its own length: tests send no noise to
// the slave.
func readRTU(line io.Reader) (unit byte, pdu []byte, err error) {
	frame := make([]byte, 7, 256)
	if _, err := io.ReadFull(line, frame); err != nil {
		return 0, nil, err
	}
	rest := 1
	switch frame[1] {
	case 15, 16:
		rest = int(frame[6]) + 2
	case 22:
		rest = 3
	}
	frame = frame[:7+rest]
	if _, err := io.ReadFull(line, frame[7:]); err != nil {
		return 0, nil, err
	}
	return frame[0], frame[1 : len(frame)-2], nil
}

// AppendCRC appends the checksum of an RTU frame.
func AppendCRC(frame []byte) []byte {
	crc := uint16(0xffff)
	for _, b := range frame {
		crc ^= uint16(b)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ 0xa001
			} else {
				crc >>= 1
			}
		}
	}
	return binary.LittleEndian.AppendUint16(frame, crc)
}
