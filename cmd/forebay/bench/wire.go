package bench

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"time"

	"forebay/broker/packet"
)

// answerTime is how long a broker may take over the answer to one packet before a benchmark gives up on it.
const answerTime = 10 * time.Second

// wire is one MQTT 3.1.1 connection of a load generator. It answers nothing by itself. It is for one goroutine.
type wire struct {
	conn net.Conn
	in   []byte // what has been read; in[at:] is still to be parsed
	at   int
	out  []byte // what the next flush writes
}

const wireBuffer = 64 << 10

// login is whom a load generator connects as.
type login struct {
	clientID           string
	username, password string
	lasting            bool // a session that outlives the connection
}

// connect opens a connection with dial and waits for CONNACK.
func connect(dial func() (net.Conn, error), who login) (*wire, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	w := &wire{conn: conn}
	c := packet.Connect{Version: packet.V311, CleanStart: !who.lasting, ClientID: []byte(who.clientID)}
	if who.username != "" {
		c.HasUsername, c.Username = true, []byte(who.username)
		c.HasPassword, c.Password = true, []byte(who.password)
	}
	w.out = c.Append(w.out)
	f, err := w.answer(packet.CONNACK)
	if err == nil && f.Body[1] != 0 {
		err = fmt.Errorf("the broker refuses the connection with code %d", f.Body[1])
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return w, nil
}

// subscribe waits for SUBACK. Messages that come before it are an error: nobody publishes yet.
func (w *wire) subscribe(qos byte, filters ...string) error {
	s := packet.Subscribe{PacketID: 1}
	for _, f := range filters {
		s.Subscriptions = append(s.Subscriptions, packet.Subscription{Filter: []byte(f), QoS: qos})
	}
	w.out = s.Append(w.out, packet.V311)
	f, err := w.answer(packet.SUBACK)
	if err != nil {
		return err
	}
	for _, code := range f.Body[2:] {
		if code != qos {
			return fmt.Errorf("the broker answers a subscription with %#02x", code)
		}
	}
	return nil
}

// barrier returns when the broker has taken everything that was written before.
func (w *wire) barrier() error {
	w.out = packet.AppendPingreq(w.out)
	_, err := w.answer(packet.PINGRESP)
	return err
}

// answer flushes and reads the packet that must come next.
func (w *wire) answer(want packet.Type) (packet.Frame, error) {
	if err := w.conn.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return packet.Frame{}, err
	}
	f, err := w.next()
	if err != nil {
		return packet.Frame{}, fmt.Errorf("waiting for %v: %w", want, err)
	}
	if f.Type() != want {
		return packet.Frame{}, fmt.Errorf("%v where %v was due", f.Type(), want)
	}
	return f, w.conn.SetReadDeadline(time.Time{})
}

// next returns the next packet, which is valid until the call after. Before it waits it flushes, so that the answers
// to what came in one read leave in one write.
func (w *wire) next() (packet.Frame, error) {
	for {
		f, n, err := packet.Next(w.in[w.at:], packet.V311, packet.MaxPacket)
		if err != nil {
			return f, err
		}
		if n > 0 {
			w.at += n
			return f, nil
		}
		if err := w.flush(); err != nil {
			return f, err
		}
		if w.in == nil {
			w.in = make([]byte, 0, wireBuffer)
		}
		w.in = w.in[:copy(w.in, w.in[w.at:])]
		w.at = 0
		if len(w.in) == cap(w.in) {
			return f, bufio.ErrBufferFull
		}
		got, err := w.conn.Read(w.in[len(w.in):cap(w.in)])
		if err != nil {
			return f, err
		}
		w.in = w.in[:len(w.in)+got]
	}
}

func (w *wire) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	_, err := w.conn.Write(w.out)
	w.out = w.out[:0]
	return err
}

// disconnect says goodbye and closes.
func (w *wire) disconnect() error {
	w.out = append(w.out, byte(packet.DISCONNECT)<<4, 0)
	return errors.Join(w.flush(), w.conn.Close())
}
