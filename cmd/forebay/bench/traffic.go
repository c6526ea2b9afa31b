package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"forebay/broker/packet"
)

// traffic is a pattern of publishers and subscribers.
type traffic struct {
	name        string
	publishers  int
	subscribers int
	qos         byte
	payload     int           // bytes, at least headSize
	inFlight    int           // messages of a publisher that are under way at once
	rate        int           // messages per second of all publishers together; 0: as fast as they are answered
	duration    time.Duration // for which is published
	each        bool          // publisher i to subscriber i, else all to all
	away        bool          // there is one subscriber, a lasting session that is not connected
}

// headSize is what every payload begins with: publisher, running number, nanoseconds since the start.
const headSize = 16

// Flow is what one run of a traffic pattern has shown.
type Flow struct {
	Messages   int64         `json:"messages"` // delivered; published where nobody subscribes
	Elapsed    time.Duration `json:"elapsed_ns"`
	CPU        time.Duration `json:"cpu_ns"`       // of the broker; 0: not known
	Lost       int64         `json:"lost"`         // gaps in the numbers that stayed
	Repeated   int64         `json:"repeated"`     // numbers that had been passed
	P50        time.Duration `json:"p50_ns"`       // to the reader, from the write, or from when a rate had it due
	P99        time.Duration `json:"p99_ns"`       //
	Oversleep  time.Duration `json:"oversleep_ns"` // the latest that a publisher of a rate was
	Unanswered string        `json:"error,omitempty"`
}

// run is one run of traffic against one broker.
type run struct {
	traffic
	broker *running
	start  time.Time
	end    time.Time

	publishers  []*publisher
	subscribers []*subscriber
	closing     atomic.Bool // connections end because we close them
	failed      atomic.Pointer[error]
}

// measure runs the traffic.
func (t traffic) measure(b *running) (Flow, error) {
	r := &run{traffic: t, broker: b}
	defer r.close()
	if err := r.open(); err != nil {
		return Flow{}, fmt.Errorf("bench: %s: %w", t.name, err)
	}
	before, cpuErr := b.cpu()
	var publishing, reading sync.WaitGroup
	r.start = time.Now()
	r.end = r.start.Add(t.duration)
	for _, s := range r.subscribers {
		reading.Go(func() { r.note(s.readAll()) })
	}
	for _, p := range r.publishers {
		publishing.Go(func() { r.note(p.publishAll()) })
	}
	publishing.Wait()
	elapsed := r.drain()
	flow := Flow{Elapsed: elapsed}
	if after, err := b.cpu(); err == nil && cpuErr == nil {
		flow.CPU = after - before
	}
	r.closing.Store(true)
	for _, s := range r.subscribers {
		// The error of closing a connection that we are done with says nothing.
		_ = s.conn.Close()
	}
	reading.Wait()
	r.add(&flow)
	return flow, nil
}

// note keeps the first error of a run: what happened to one connection while the others went on.
func (r *run) note(err error) {
	if err != nil && !r.closing.Load() {
		r.failed.CompareAndSwap(nil, &err)
	}
}

func (r *run) open() error {
	for i := range r.traffic.subscribers {
		if err := r.openSubscriber(i); err != nil {
			return err
		}
	}
	for i := range r.traffic.publishers {
		w, err := r.broker.login(login{clientID: fmt.Sprintf("bench-pub%d", i)})
		if err != nil {
			return err
		}
		r.publishers = append(r.publishers, newPublisher(r, i, w))
	}
	return nil
}

func (r *run) openSubscriber(i int) error {
	filter := fmt.Sprintf("%s+", benchTopics)
	if r.each {
		filter = topicOf(i)
	}
	w, err := r.broker.login(login{clientID: fmt.Sprintf("bench-sub%d", i), lasting: r.away})
	if err != nil {
		return err
	}
	if err := w.subscribe(r.qos, filter); err != nil {
		return err
	}
	if r.away {
		return w.disconnect()
	}
	r.subscribers = append(r.subscribers, &subscriber{wire: w, run: r, due: make([]uint32, r.traffic.publishers)})
	return nil
}

func topicOf(publisher int) string { return fmt.Sprintf("%sp%03d", benchTopics, publisher) }

// close drops what is still open, and the session that was away.
func (r *run) close() {
	for _, p := range r.publishers {
		_ = p.conn.Close() // done with it
	}
	for _, s := range r.subscribers {
		_ = s.conn.Close() // done with it
	}
	if r.away {
		if w, err := r.broker.login(login{clientID: "bench-sub0"}); err == nil { // clean: ends the session
			_ = w.disconnect() // done with it
		}
	}
}

// drain waits until the subscribers have everything, or nothing comes any more, and returns when the last came.
func (r *run) drain() time.Duration {
	var sent int64
	for _, p := range r.publishers {
		sent += int64(p.seq)
	}
	last := time.Since(r.start)
	got := int64(-1)
	for r.failed.Load() == nil {
		now := r.received()
		if now != got {
			got, last = now, time.Since(r.start)
		}
		if now >= sent*r.fanout() || time.Since(r.start)-last > 2*time.Second {
			break
		}
		time.Sleep(200 * time.Microsecond)
	}
	return last
}

// fanout is how many subscribers each message is for.
func (r *run) fanout() int64 {
	if r.each && len(r.subscribers) > 0 {
		return 1
	}
	return int64(len(r.subscribers))
}

func (r *run) received() (n int64) {
	for _, s := range r.subscribers {
		n += s.received.Load()
	}
	return n
}

// add fills in what the ends have counted. Everything has ended.
func (r *run) add(flow *Flow) {
	var all latencies
	var sent int64
	for _, p := range r.publishers {
		sent += int64(p.seq)
		flow.Oversleep = max(flow.Oversleep, p.oversleep)
	}
	for _, s := range r.subscribers {
		flow.Repeated += s.repeated
		all.add(&s.latencies)
	}
	flow.Messages = sent
	if len(r.subscribers) > 0 {
		flow.Messages = r.received()
		flow.Lost = sent*r.fanout() - flow.Messages + flow.Repeated
	}
	flow.P50, flow.P99 = all.at(0.50), all.at(0.99)
	if err := r.failed.Load(); err != nil {
		flow.Unanswered = (*err).Error()
	}
}

// publisher is one connection that publishes. Owned by its own goroutine, but for credit and passed.
type publisher struct {
	*wire
	run       *run
	block     []byte // ready PUBLISH packets
	size      int    // of one of them
	payloadAt int    // where in one of them the payload begins
	seq       uint32 // messages published
	oversleep time.Duration

	credit chan struct{}  // a token for every block that is under way
	passed []atomic.Int32 // subscribers that have had the block, in a ring
}

func newPublisher(r *run, index int, w *wire) *publisher {
	p := &publisher{wire: w, run: r}
	flight := 1
	if r.qos == 0 {
		flight = 4 // there is no other answer than what arrives
	}
	p.credit = make(chan struct{}, flight)
	p.passed = make([]atomic.Int32, flight)
	topic := []byte(topicOf(index))
	m := packet.Publish{Topic: topic, QoS: r.qos, Payload: make([]byte, r.payload)}
	binary.BigEndian.PutUint32(m.Payload, uint32(index))
	for i := range r.inFlight {
		if r.qos > 0 {
			m.PacketID = uint16(i + 1)
		}
		p.block = m.Append(p.block, packet.V311)
	}
	p.size = len(p.block) / r.inFlight
	p.payloadAt = p.size - r.payload
	return p
}

// publishAll publishes until the time is over, and returns when the broker has taken everything.
func (p *publisher) publishAll() error {
	if p.run.rate > 0 {
		return p.paced()
	}
	return p.flood()
}

// paced publishes at the rate of the run, each message when it is due, and all that have become due meanwhile at once.
func (p *publisher) paced() error {
	r := p.run
	apart := time.Duration(int64(time.Second) * int64(r.traffic.publishers) / int64(r.rate))
	index := binary.BigEndian.Uint32(p.block[p.payloadAt:])
	first := r.start.Add(apart * time.Duration(index) / time.Duration(r.traffic.publishers))
	for n := 0; ; {
		due := int(time.Since(first)/apart) + 1 - n
		if due <= 0 {
			if err := sleepUntil(first.Add(apart * time.Duration(n))); err != nil {
				return err
			}
			continue
		}
		p.oversleep = max(p.oversleep, time.Since(first.Add(apart*time.Duration(n))))
		due = min(due, r.inFlight)
		at := first.Add(apart * time.Duration(n)).Sub(r.start)
		if err := p.publish(due, at, apart); err != nil {
			return err
		}
		if n += due; time.Now().After(r.end) {
			return p.barrier()
		}
	}
}

// flood publishes as fast as it is answered.
func (p *publisher) flood() error {
	timeout := time.NewTimer(p.run.duration + answerTime)
	defer timeout.Stop()
	for time.Now().Before(p.run.end) {
		if len(p.run.subscribers) > 0 {
			select {
			case p.credit <- struct{}{}:
			case <-timeout.C:
				return errors.New("messages did not arrive")
			}
		}
		if err := p.publish(p.run.inFlight, time.Since(p.run.start), 0); err != nil {
			return err
		}
	}
	return p.barrier()
}

// publish sends the next n messages in one write and waits for what is due to the publisher. The first is stamped
// with the time at, each of the others later by apart.
func (p *publisher) publish(n int, at, apart time.Duration) error {
	for i := range n {
		head := p.block[i*p.size+p.payloadAt:]
		binary.BigEndian.PutUint32(head[4:], p.seq)
		binary.BigEndian.PutUint64(head[8:], uint64(at))
		at += apart
		p.seq++
	}
	if err := p.conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if _, err := p.conn.Write(p.block[:n*p.size]); err != nil {
		return err
	}
	for waiting := n * int(min(p.run.qos, 1)); waiting > 0; {
		f, err := p.next()
		if err != nil {
			return err
		}
		switch f.Type() {
		case packet.PUBREC:
			p.out = append(p.out, byte(packet.PUBREL)<<4|2, 2, f.Body[0], f.Body[1])
		case packet.PUBACK, packet.PUBCOMP:
			waiting--
		default:
			return fmt.Errorf("a publisher is sent %v", f.Type())
		}
	}
	return nil
}

// pass tells the publisher that one subscriber has had all of a block.
func (p *publisher) pass(block uint32) {
	subscribers := int32(p.run.fanout())
	if at := &p.passed[int(block)%len(p.passed)]; at.Add(1) == subscribers {
		at.Store(0)
		select {
		case <-p.credit:
		default: // a rate has no credit
		}
	}
}

// subscriber is one connection that reads, owned by its own goroutine, but for received.
type subscriber struct {
	*wire
	run       *run
	due       []uint32 // the number that comes next from each publisher
	repeated  int64
	latencies latencies

	received atomic.Int64
}

// readAll reads and answers until the connection ends.
func (s *subscriber) readAll() error {
	for {
		f, err := s.wire.next()
		if err != nil {
			return err
		}
		switch f.Type() {
		case packet.PUBLISH:
			err = s.take(f)
		case packet.PUBREL:
			s.out = append(s.out, byte(packet.PUBCOMP)<<4, 2, f.Body[0], f.Body[1])
		default:
			err = fmt.Errorf("a subscriber is sent %v", f.Type())
		}
		if err != nil {
			return err
		}
	}
}

// take counts one message.
func (s *subscriber) take(f packet.Frame) error {
	if len(f.Body) < headSize {
		return errors.New("a message that nobody published")
	}
	head := f.Body[len(f.Body)-s.run.payload:]
	index, seq := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:])
	if int(index) >= len(s.due) {
		return errors.New("a message that nobody published")
	}
	if qos := f.First >> 1 & 3; qos > 0 {
		id := packet.PublishIDOffset(f)
		s.out = append(s.out, byte(packet.PUBACK+packet.Type(qos-1))<<4, 2, f.Whole[id], f.Whole[id+1])
	}
	s.received.Add(1)
	s.latencies.take(time.Since(s.run.start) - time.Duration(binary.BigEndian.Uint64(head[8:])))
	next := &s.due[index]
	if seq < *next {
		s.repeated++
		return nil
	}
	size := uint32(s.run.inFlight)
	for block := *next / size; block < (seq+1)/size; block++ {
		s.run.publishers[index].pass(block)
	}
	*next = seq + 1
	return nil
}
