package main_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"forebay/broker/packet"
)

// listener subscribes with a session that lasts and receives as the standard
// demands: a QoS 2 message counts when its identifier is new, and the identifier is in use until
// PUBREL. (mosquitto_sub cannot be the judge: when the connection breaks under its PUBCOMP it
// drops the message it was about to deliver.)
type listener struct {
	name    string // of the place, for messages
	port    int
	filter  string
	strange bool // the broker is a Mosquitto, see judge

	mu    sync.Mutex
	got   []arrival
	grown chan struct{}   // closed and replaced at every arrival
	conn  net.Conn        // the present connection
	done  bool            // the test is over
	open  map[uint16]bool // owned by run: QoS 2 identifiers in use
}

// arrival is one message as it came.
type arrival struct {
	topic, payload string
	dup            bool
}

// listen starts a listener and returns when its subscription stands.
func listen(t *testing.T, l *listener) *listener {
	t.Helper()
	l.grown, l.open = make(chan struct{}), make(map[uint16]bool)
	subscribed, ended := make(chan struct{}), make(chan struct{})
	granted := sync.OnceFunc(func() { close(subscribed) })
	go func() {
		defer close(ended)
		for !l.over() {
			// Whatever ends a connection, the next one goes on.
			_ = l.connection(granted)
			<-time.After(10 * time.Millisecond)
		}
	}()
	t.Cleanup(func() {
		l.mu.Lock()
		l.done = true
		if l.conn != nil {
			l.conn.Close()
		}
		l.mu.Unlock()
		<-ended
	})
	select {
	case <-subscribed:
	case <-time.After(patience):
		t.Fatalf("no subscription at the %s", l.name)
	}
	return l
}

func (l *listener) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

// connection receives until it breaks.
func (l *listener) connection(granted func()) error {
	conn, in, present, err := dialSession(l.port, "judge")
	if err != nil {
		return err
	}
	defer conn.Close()
	l.mu.Lock()
	l.conn = conn
	l.mu.Unlock()
	if l.over() {
		return nil
	}
	if !present {
		clear(l.open)
		s := packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: []byte(l.filter), QoS: 2}}}
		if _, err := conn.Write(s.Append(nil, packet.V311)); err != nil {
			return err
		}
	}
	for {
		frame, err := readFrame(in)
		if err != nil {
			return err
		}
		var answer []byte
		switch frame.Type() {
		case packet.SUBACK:
			granted()
		case packet.PUBLISH:
			answer, err = l.onPublish(frame)
		case packet.PUBREL:
			var a packet.Ack
			err = a.Decode(frame, packet.V311)
			delete(l.open, a.PacketID)
			answer = (&packet.Ack{Type: packet.PUBCOMP, PacketID: a.PacketID}).Append(nil, packet.V311)
		}
		if err != nil {
			return err
		}
		if _, err := conn.Write(answer); err != nil {
			return err
		}
	}
}

func (l *listener) onPublish(frame packet.Frame) ([]byte, error) {
	var p packet.Publish
	if err := p.Decode(frame, packet.V311); err != nil {
		return nil, err
	}
	if p.QoS < 2 || !l.open[p.PacketID] {
		l.mu.Lock()
		l.got = append(l.got, arrival{string(p.Topic), string(p.Payload), p.Dup})
		close(l.grown)
		l.grown = make(chan struct{})
		l.mu.Unlock()
	}
	switch p.QoS {
	case 1:
		return (&packet.Ack{Type: packet.PUBACK, PacketID: p.PacketID}).Append(nil, packet.V311), nil
	case 2:
		l.open[p.PacketID] = true
		return (&packet.Ack{Type: packet.PUBREC, PacketID: p.PacketID}).Append(nil, packet.V311), nil
	}
	return nil, nil
}

// wait waits for a payload.
func (l *listener) wait(t *testing.T, payload string) {
	t.Helper()
	deadline := time.After(patience)
	for at := 0; ; {
		l.mu.Lock()
		for ; at < len(l.got); at++ {
			if l.got[at].payload == payload {
				l.mu.Unlock()
				return
			}
		}
		grown := l.grown
		l.mu.Unlock()
		select {
		case <-grown:
		case <-deadline:
			t.Fatalf("%q does not arrive at the %s", payload, l.name)
		}
	}
}

// dialSession connects with a 3.1.1 session that lasts; present says whether it was there before.
func dialSession(port int, clientID string) (conn net.Conn, in *bufio.Reader, present bool, err error) {
	conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, nil, false, err
	}
	in = bufio.NewReader(conn)
	hello := packet.Connect{Version: packet.V311, ClientID: []byte(clientID)}
	var welcome packet.Connack
	if _, err = conn.Write(hello.Append(nil)); err == nil {
		var frame packet.Frame
		if frame, err = readFrame(in); err == nil {
			err = welcome.Decode(frame, packet.V311)
		}
	}
	if err == nil && welcome.Reason != packet.ReasonSuccess {
		err = fmt.Errorf("CONNACK %v", welcome.Reason)
	}
	if err != nil {
		conn.Close()
	}
	return conn, in, welcome.SessionPresent, err
}

// readFrame reads one packet.
func readFrame(in *bufio.Reader) (packet.Frame, error) {
	for n := 2; ; n++ {
		head, err := in.Peek(n)
		if err != nil {
			return packet.Frame{}, err
		}
		if head[n-1]&0x80 != 0 && n < 5 {
			continue
		}
		size := n
		for i, x := range head[1:] {
			size += int(x&0x7f) << (7 * i)
		}
		whole, err := in.Peek(size)
		if err != nil {
			return packet.Frame{}, err
		}
		frame, _, err := packet.Next(bytes.Clone(whole), packet.V311, 0)
		if err != nil {
			return packet.Frame{}, err
		}
		_, err = in.Discard(size)
		return frame, err
	}
}
