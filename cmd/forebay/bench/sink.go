package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"forebay/broker/packet"
)

// sink is an upstream that acknowledges at once and counts. Its figures may be read at any time.
type sink struct {
	messages atomic.Int64
	in, out  atomic.Int64 // bytes, of MQTT alone
	lost     atomic.Int64 // gaps in the publishers' numbers
	repeated atomic.Int64
	first    chan time.Time // when a message came that found it empty

	mu    sync.Mutex
	due   map[uint32]uint32 // guarded by mu: the next number of each publisher
	conns map[net.Conn]bool // guarded by mu
}

func newSink() *sink {
	return &sink{first: make(chan time.Time, 1), due: map[uint32]uint32{}, conns: map[net.Conn]bool{}}
}

// serve takes what connects to l until l is closed.
func (s *sink) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[conn] = true
		s.mu.Unlock()
		go func() {
			// How a connection ends is for its client to say; what is missing is seen in the numbers.
			_ = s.converse(conn)
			_ = conn.Close()
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
		}()
	}
}

// cut ends all connections.
func (s *sink) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		_ = conn.Close() // to end it is all that is wanted
	}
}

// converse serves one connection. All that came in one read is answered in one write.
func (s *sink) converse(conn net.Conn) error {
	buf, n := make([]byte, 4*wireBuffer), 0
	var out []byte
	version := packet.V5
	for {
		got, err := conn.Read(buf[n:])
		if err != nil {
			return err
		}
		s.in.Add(int64(got))
		n += got
		used := 0
		for {
			f, size, err := packet.Next(buf[used:n], version, packet.MaxPacket)
			if err != nil {
				return err
			}
			if size == 0 {
				break
			}
			used += size
			if out, err = s.answer(out, f, &version); err != nil {
				return err
			}
		}
		n = copy(buf, buf[used:n])
		s.out.Add(int64(len(out)))
		if _, err := conn.Write(out); err != nil {
			return err
		}
		out = out[:0]
	}
}

// answer appends the answer to a packet.
func (s *sink) answer(out []byte, f packet.Frame, version *packet.Version) ([]byte, error) {
	switch f.Type() {
	case packet.CONNECT:
		var c packet.Connect
		if err := c.Decode(f.Body); err != nil {
			return out, err
		}
		*version = c.Version
		ack := packet.Connack{}
		if c.Version == packet.V5 {
			ack.Properties.TopicAliasMaximum = 10 // as Mosquitto has it
		}
		return ack.Append(out, c.Version), nil
	case packet.PUBLISH:
		id := packet.PublishIDOffset(f)
		if f.First>>1&3 != 1 || len(f.Whole) < sinkHead {
			return out, errors.New("bench: a message that nobody published")
		}
		s.take(f.Whole[len(f.Whole)-sinkHead:])
		return append(out, byte(packet.PUBACK)<<4, 2, f.Whole[id], f.Whole[id+1]), nil
	case packet.PINGREQ:
		return packet.AppendPingresp(out), nil
	case packet.DISCONNECT:
		return out, io.EOF
	}
	return out, fmt.Errorf("bench: the upstream is sent %v", f.Type())
}

// sinkHead is what every payload for a sink ends with: publisher and running number.
const sinkHead = 8

func (s *sink) take(tail []byte) {
	index, seq := binary.BigEndian.Uint32(tail), binary.BigEndian.Uint32(tail[4:])
	s.mu.Lock()
	if next := s.due[index]; seq < next {
		s.repeated.Add(1)
	} else {
		s.lost.Add(int64(seq - next))
		s.due[index] = seq + 1
	}
	s.mu.Unlock()
	if s.messages.Add(1) == 1 {
		select {
		case s.first <- time.Now():
		default:
		}
	}
}

// forget makes the sink an empty one.
func (s *sink) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = map[uint32]uint32{}
	for _, n := range []*atomic.Int64{&s.messages, &s.in, &s.out, &s.lost, &s.repeated} {
		n.Store(0)
	}
	select {
	case <-s.first:
	default:
	}
}

// distant passes connections on to an address, each byte later by half of the round trip, until l is closed.
func distant(l net.Listener, to string, roundTrip time.Duration) {
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", to)
		if err != nil {
			_ = near.Close() // the client sees that nobody is there
			continue
		}
		go carry(near, far, roundTrip/2)
		go carry(far, near, roundTrip/2)
	}
}

// carry copies from one connection to another until either ends, which ends both.
func carry(from, to net.Conn, late time.Duration) {
	type parcel struct {
		due  time.Time
		data []byte
	}
	parcels := make(chan parcel, 4096)
	go func() {
		for p := range parcels {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.data); err != nil {
				_ = from.Close() // ends the loop below
			}
		}
		_ = to.Close()
	}()
	buf := make([]byte, wireBuffer)
	for {
		n, err := from.Read(buf)
		if err != nil {
			break
		}
		parcels <- parcel{time.Now().Add(late), append([]byte(nil), buf[:n]...)}
	}
	close(parcels)
}
