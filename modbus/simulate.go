package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Server is a small Modbus TCP server: every address of all four tables exists
// and every unit ID reaches the same tables. It stands in for a device in
// demonstrations and tests. Its methods may be called from any goroutine.
type Server struct {
	mu        sync.Mutex
	bits      [2][]bool   // guarded by mu; coils, discrete inputs
	registers [2][]uint16 // guarded by mu; input, holding registers
}

// NewServer returns a server with all tables zero.
func NewServer() *Server {
	s := &Server{}
	for i := range 2 {
		s.bits[i] = make([]bool, 65536)
		s.registers[i] = make([]uint16, 65536)
	}
	return s
}

// SetRegister sets one register of InputRegister or HoldingRegister.
func (s *Server) SetRegister(t Table, address, value uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registerTable(t)[address] = value
}

// SetRegisters sets consecutive registers in one step: no client reads half of
// them. They wrap at the last address.
func (s *Server) SetRegisters(t Table, address uint16, values ...uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, v := range values {
		s.registerTable(t)[address+uint16(i)] = v
	}
}

// Register returns one register of InputRegister or HoldingRegister.
func (s *Server) Register(t Table, address uint16) uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registerTable(t)[address]
}

// SetBit sets one bit of Coil or DiscreteInput.
func (s *Server) SetBit(t Table, address uint16, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bitTable(t)[address] = on
}

// Bit returns one bit of Coil or DiscreteInput.
func (s *Server) Bit(t Table, address uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bitTable(t)[address]
}

func (s *Server) bitTable(t Table) []bool {
	if !t.bits() {
		panic("BUG: modbus: " + t.String() + " is not a table of bits")
	}
	return s.bits[t-Coil]
}

func (s *Server) registerTable(t Table) []uint16 {
	if t.bits() {
		panic("BUG: modbus: " + t.String() + " is not a table of registers")
	}
	return s.registers[t-InputRegister]
}

// Serve accepts connections until ctx ends, then closes listener and all
// connections and returns nil when their goroutines are gone. An error of the
// listener ends it earlier.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	return serve(ctx, listener, s.answerAny)
}

// ServeConn answers the requests of one connection until it ends, breaks the
// protocol or ctx ends, and closes it.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) {
	serveConn(ctx, conn, s.answerAny)
}

func (s *Server) answerAny(_ byte, request []byte) []byte { return s.Answer(request) }

// answerer executes one request PDU to a unit and returns the response PDU. It
// is called from several goroutines.
type answerer func(unit byte, request []byte) []byte

// serve is Serve for any answerer.
func serve(ctx context.Context, listener net.Listener, answer answerer) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	release := context.AfterFunc(ctx, func() {
		_ = listener.Close() // Accept reports what matters
	})
	defer release()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("modbus: accept: %w", err)
		}
		running.Go(func() { serveConn(ctx, conn, answer) })
	}
}

// idleLimit is how long a client may be silent before it is disconnected.
const idleLimit = 5 * time.Minute

// serveConn is ServeConn for any answerer.
func serveConn(ctx context.Context, conn net.Conn, respond answerer) {
	release := context.AfterFunc(ctx, func() {
		_ = conn.Close() // ends the read below
	})
	defer release()
	defer func() { _ = conn.Close() }() // a second close is harmless
	var header [mbapSize]byte
	for {
		if err := conn.SetDeadline(time.Now().Add(idleLimit)); err != nil {
			return
		}
		if _, err := io.ReadFull(conn, header[:]); err != nil {
			return
		}
		length := int(binary.BigEndian.Uint16(header[4:]))
		if binary.BigEndian.Uint16(header[2:]) != 0 || length < 2 || length > tcpFrameSize-mbapSize+1 {
			return
		}
		request := make([]byte, length-1)
		if _, err := io.ReadFull(conn, request); err != nil {
			return
		}
		answer := respond(header[6], request)
		frame := append([]byte(nil), header[:]...)
		binary.BigEndian.PutUint16(frame[4:], uint16(len(answer)+1))
		if _, err := conn.Write(append(frame, answer...)); err != nil {
			return
		}
	}
}

// Answer executes one request PDU (function code and data) and returns the
// response PDU, which may be an exception.
func (s *Server) Answer(request []byte) []byte {
	if len(request) == 0 {
		return []byte{0x80, illegalFunction}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	answer, err := s.execute(request[0], request[1:])
	if refusal, ok := errors.AsType[*ExceptionError](err); ok {
		return []byte{request[0] | 0x80, refusal.Code}
	}
	return append([]byte{request[0]}, answer...)
}

// execute runs one function; the caller holds mu. Every error is an
// *ExceptionError.
func (s *Server) execute(function byte, data []byte) ([]byte, error) {
	if len(data) < 4 {
		return nil, &ExceptionError{function, illegalDataValue}
	}
	address := int(binary.BigEndian.Uint16(data))
	value := binary.BigEndian.Uint16(data[2:])
	most := map[byte]int{1: maxBits, 2: maxBits, 3: maxRegisters, 4: maxRegisters, 15: 1968, 16: 123}
	if limit, counted := most[function]; counted {
		switch count := int(value); {
		case count < 1 || count > limit:
			return nil, &ExceptionError{function, illegalDataValue}
		case address+count > 65536:
			return nil, &ExceptionError{function, illegalDataAddress}
		}
	}
	switch function {
	case 1, 2:
		return packBits(s.bits[function-1][address : address+int(value)]), nil
	case 3, 4:
		words := []byte{byte(2 * value)}
		for _, w := range s.registers[4-function][address : address+int(value)] {
			words = binary.BigEndian.AppendUint16(words, w)
		}
		return words, nil
	case 5:
		if value != 0 && value != 0xff00 {
			return nil, &ExceptionError{function, illegalDataValue}
		}
		s.bits[0][address] = value != 0
		return data[:4], nil
	case 6:
		s.registers[1][address] = value
		return data[:4], nil
	case 15, 16, 22:
		return s.executeMany(function, address, data)
	}
	return nil, &ExceptionError{function, illegalFunction}
}

// executeMany runs the functions that write more than one value; address and
// count have been checked.
func (s *Server) executeMany(function byte, address int, data []byte) ([]byte, error) {
	count := int(binary.BigEndian.Uint16(data[2:]))
	size := map[byte]int{15: 5 + (count+7)/8, 16: 5 + 2*count, 22: 6}[function]
	if len(data) != size || function != 22 && int(data[4]) != size-5 {
		return nil, &ExceptionError{function, illegalDataValue}
	}
	switch function {
	case 15:
		for i := range count {
			s.bits[0][address+i] = data[5+i/8]>>(i%8)&1 != 0
		}
	case 16:
		for i := range count {
			s.registers[1][address+i] = binary.BigEndian.Uint16(data[5+2*i:])
		}
	case 22:
		keep, set := binary.BigEndian.Uint16(data[2:]), binary.BigEndian.Uint16(data[4:])
		s.registers[1][address] = s.registers[1][address]&keep | set&^keep
		return data, nil
	}
	return data[:4], nil
}

// packBits returns the byte count and the bits, first in the lowest bit:
// Modbus §6.1.
func packBits(bits []bool) []byte {
	packed := make([]byte, 1+(len(bits)+7)/8)
	packed[0] = byte(len(packed) - 1)
	for i, on := range bits {
		if on {
			packed[1+i/8] |= 1 << (i % 8)
		}
	}
	return packed
}
