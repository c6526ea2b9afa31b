package core_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"forebay/broker/brokertest"
	"forebay/broker/core"
	"forebay/broker/packet"
)

// The queue of a session is live while its client is connected and has been sent all there is.
func TestQueueIsLiveWhileItsClientKeepsUp(t *testing.T) {
	b := newBench(core.Config{Inflight: 2})
	sub := b.connect("connect s v4", "subscribe 1 t:1")
	queue := b.log.Queue("session/s")
	check := func(when string, want bool) {
		t.Helper()
		if queue.Live != want {
			t.Errorf("%s: live %v", when, queue.Live)
		}
	}
	check("connected", true) // its packet identifiers begin at 2
	pub := b.connect("connect p v4 clean")
	b.send(pub, "publish t q1 id=1 =a")
	check("one in flight", true)
	b.send(pub, "publish t q1 id=2 =b")
	check("as many in flight as may be", false)
	b.send(sub, "puback 2")
	check("one acknowledged", true)
	b.send(pub, "publish t q1 id=3 =c")
	b.send(pub, "publish t q1 id=4 =d")
	b.send(sub, "puback 3")
	check("more waits than was acknowledged", false)
	b.send(sub, "puback 4")
	b.send(sub, "puback 5")
	check("all acknowledged", true)
	b.core.Lost(sub, "gone")
	check("away", false)
	sub = b.connect("connect s v4")
	check("back", true)
	b.core.Drain(packet.ReasonServerShuttingDown)
	check("at the end", false)
	b.core.Lost(sub, "gone")
}

// A reader that does not take its output is not live until it has.
func TestQueueOfSlowReaderIsNotLive(t *testing.T) {
	b := newBench(core.Config{})
	sub := b.connect("connect s v4", "subscribe 1 t:1")
	queue := b.log.Queue("session/s")
	pub := b.connect("connect p v4 clean")
	p, _ := brokertest.Parse("publish t q1 id=1 =hello", pub.Version())
	p = append([]byte{p[0], 0xFF, 0x7F}, append(p[2:], bytes.Repeat([]byte("x"), 16383-(len(p)-2))...)...)
	for range 8 {
		b.receive(pub, p)
		b.core.Flush(func(*core.Conn) {})
	}
	if queue.Live {
		t.Error("live with a full output")
	}
	b.write(sub)
	b.round()
	if !queue.Live {
		t.Error("not live after it has taken everything")
	}
}

// A client that acknowledges later than the log waits is not one that keeps up, until it is much faster again: its
// publishers would wait for nothing.
func TestQueueOfLateClientIsNotLive(t *testing.T) {
	b := newBench(core.Config{MaxAckDelay: 100 * time.Millisecond})
	sub := b.connect("connect s v4", "subscribe 1 t:1")
	queue := b.log.Queue("session/s")
	pub := b.connect("connect p v4 clean")
	id := 1
	// exchange publishes a message, lets some time pass, and acknowledges it.
	exchange := func(took time.Duration) {
		b.send(pub, fmt.Sprintf("publish t q1 id=%d =x", id))
		b.now = b.now.Add(took)
		b.core.Tick(b.now)
		id++
		b.send(sub, fmt.Sprintf("puback %d", id))
	}
	for _, step := range []struct {
		took time.Duration
		live bool
	}{
		{10 * time.Millisecond, true}, {100 * time.Millisecond, true}, {150 * time.Millisecond, false}, {90 * time.Millisecond, false},
		{150 * time.Millisecond, false}, {20 * time.Millisecond, true}, {90 * time.Millisecond, true},
	} {
		if exchange(step.took); queue.Live != step.live {
			t.Errorf("acknowledged after %v: live %v", step.took, queue.Live)
		}
	}
	// One that does not acknowledge at all is found out by the next message.
	b.send(pub, "publish t q1 id=20 =x")
	b.now = b.now.Add(150 * time.Millisecond)
	b.core.Tick(b.now)
	b.send(pub, "publish t q1 id=21 =x")
	if queue.Live {
		t.Error("live without an acknowledgement")
	}
	// Being back is no proof.
	b.core.Lost(sub, "gone")
	sub = b.connect("connect s v4")
	for n := id + 1; n <= id+2; n++ {
		b.send(sub, fmt.Sprintf("puback %d", n))
	}
	if !queue.Live {
		t.Error("not live after prompt acknowledgements")
	}
}
