package core_test

import (
	"bytes"
	"testing"
	"time"

	"forebay/broker/brokertest"
	"forebay/broker/core"
	"forebay/broker/packet"
)

// A client that sends more than it may is not read for as long as its rate wants, to the message.
func TestRates(t *testing.T) {
	p, _ := brokertest.Parse("publish t =0123456789", packet.V311)
	for _, test := range []struct {
		name     string
		info     core.ConnInfo
		atOnce   int // messages taken before the pause
		inSecond int // in each second after it
	}{
		{"messages", core.ConnInfo{Door: &core.Door{MessageRate: 10}}, 10, 10},
		{"bytes", core.ConnInfo{Door: &core.Door{ByteRate: int64(10 * len(p))}}, 10, 10},
		{"the stricter one", core.ConnInfo{Door: &core.Door{MessageRate: 1000, ByteRate: int64(10 * len(p))}}, 10, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(core.Config{})
			sub := b.connect("connect s v4 clean", "subscribe 1 t:0")
			conn := b.core.Accept(test.info)
			b.send(conn, "connect p v4 clean keepalive=1")
			b.now = b.now.Add(time.Second) // what the CONNECT has taken is given back
			b.core.Tick(b.now)
			b.send(conn, "puback 7")
			b.got[sub] = nil
			rest := bytes.Repeat(p, 1000)
			// give feeds the core as a loop does, and returns how many messages it has taken.
			give := func(conn *core.Conn) int {
				n := b.core.Receive(conn, rest)
				rest = rest[n:]
				return n / len(p)
			}
			if n := give(conn); n < test.atOnce || n > test.atOnce+1 || !conn.Paused() {
				t.Fatalf("%d messages at once", n)
			}
			taken := 0
			for range 100 { // ten seconds
				b.now = b.now.Add(100 * time.Millisecond)
				b.core.Tick(b.now)
				b.core.Flush(func(c *core.Conn) {
					b.write(c)
					if c == conn && !c.Paused() {
						taken += give(conn)
					}
				})
			}
			if want := 10 * test.inSecond; taken < want-2 || taken > want+2 {
				t.Errorf("%d messages in ten seconds, want %d", taken, want)
			}
			if conn.Closing() {
				t.Error("it was taken for dead")
			}
			if st := b.core.Stats(); st.Slowed == 0 {
				t.Error("nothing is counted")
			}
		})
	}
}

// However far a client is ahead, there is an end to its pause.
func TestLongestPause(t *testing.T) {
	b := newBench(core.Config{})
	conn := b.core.Accept(core.ConnInfo{Door: &core.Door{ByteRate: 1024}})
	b.send(conn, "connect p v4 clean")
	b.receive(conn, (&packet.Publish{Topic: []byte("t"), Payload: make([]byte, 1<<20-100)}).Append(nil, packet.V311))
	if !conn.Paused() {
		t.Fatal("it goes on")
	}
	b.now = b.now.Add(61 * time.Second)
	b.core.Tick(b.now)
	if conn.Paused() {
		t.Error("it is still not read after a minute")
	}
	b.core.Lost(conn, "gone")
	b.core.Tick(b.now.Add(time.Hour))
}
