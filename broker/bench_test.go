package broker

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"forebay/broker/packet"
)

const (
	benchPayload = 100
	benchBlock   = 256 // messages written at once
	benchFlight  = 4   // blocks that may be under way, for every pair
)

// BenchmarkPairs is throughput from publishers to a subscriber each, over loopback. One operation is one message. The
// generator does as little as it can: it writes ready blocks and never decodes. cpu-µs/msg is that of the whole
// process, generator included.
func BenchmarkPairs(b *testing.B) {
	for _, qos := range []byte{0, 1} {
		b.Run(fmt.Sprintf("qos%d", qos), func(b *testing.B) { benchPairs(b, qos) })
	}
}

func benchPairs(b *testing.B, qos byte) {
	const pairs = 10
	g := start(b, anyPort())
	blocks := max(b.N/benchBlock/pairs, 1)
	ends := make(chan error, 2*pairs)
	var all []*benchPair
	for i := range pairs {
		all = append(all, newBenchPair(g, i, qos, qos))
	}
	before := cpuTime(b)
	b.ResetTimer()
	for _, p := range all {
		go func() { ends <- p.write(blocks) }()
		go func() { ends <- p.read(blocks) }()
	}
	for range 2 * pairs {
		if err := <-ends; err != nil {
			b.Error(err)
		}
	}
	b.StopTimer()
	done := float64(blocks * benchBlock * pairs)
	b.ReportMetric(done/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric((cpuTime(b)-before)*1e6/done, "cpu-µs/msg")
}

// BenchmarkDurable is what publishers get acknowledged while the session that their messages are for is away: every
// message is on disk before its PUBACK.
func BenchmarkDurable(b *testing.B) {
	for _, inFlight := range []int{1, benchBlock} {
		b.Run(fmt.Sprintf("inflight%d", inFlight), func(b *testing.B) { benchDurable(b, inFlight) })
	}
}

func benchDurable(b *testing.B, inFlight int) {
	const publishers = 10
	g := start(b, anyPort())
	away := dial(b, g.addr(), packet.V311)
	away.login(lasting("away"))
	away.subscribe("bench/#", 1)
	away.disconnect()
	blocks := max(b.N/inFlight/publishers, 1)
	ends := make(chan error, publishers)
	var all []*benchPair
	for i := range publishers {
		p := newBenchPair(g, i, 1, 0)
		p.block = p.block[:inFlight*p.size]
		p.window = make(chan struct{}, blocks) // nobody but the session is to be waited for
		all = append(all, p)
	}
	b.ResetTimer()
	for _, p := range all {
		go io.Copy(io.Discard, p.sub)
		go func() { ends <- p.write(blocks) }()
	}
	for range publishers {
		if err := <-ends; err != nil {
			b.Error(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(blocks*inFlight*publishers)/b.Elapsed().Seconds(), "msg/s")
}

// cpuTime returns the seconds of the processor that this process has used.
func cpuTime(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// benchPair is one publisher and its subscriber.
type benchPair struct {
	pub, sub net.Conn
	qos      byte
	block    []byte // benchBlock packets of the same size
	size     int    // of one packet
	window   chan struct{}
}

func newBenchPair(g *gateway, i int, qos, granted byte) *benchPair {
	topic := fmt.Appendf(nil, "bench/%02d", i)
	sub := g.client(packet.V311, fmt.Sprint("sub", i))
	sub.subscribe(string(topic), granted)
	pub := g.client(packet.V311, fmt.Sprint("pub", i))
	p := &benchPair{pub: pub.conn, sub: sub.conn, qos: qos, window: make(chan struct{}, benchFlight)}
	m := packet.Publish{Topic: topic, Payload: make([]byte, benchPayload), QoS: qos}
	for id := range uint16(benchBlock) {
		if qos > 0 {
			m.PacketID = id + 1
		}
		p.block = m.Append(p.block, packet.V311)
	}
	p.size = len(p.block) / benchBlock
	return p
}

// write writes the blocks, and for QoS 1 reads the PUBACK of each message.
func (p *benchPair) write(blocks int) error {
	messages := len(p.block) / p.size
	acks := make([]byte, 4*messages)
	for range blocks {
		p.window <- struct{}{}
		if _, err := p.pub.Write(p.block); err != nil {
			return err
		}
		if p.qos > 0 {
			if _, err := io.ReadFull(p.pub, acks); err != nil {
				return err
			}
			if acks[0] != byte(packet.PUBACK)<<4 || !bytes.Equal(acks[len(acks)-2:], []byte{byte(messages >> 8), byte(messages)}) {
				return fmt.Errorf("acknowledgements % x", acks[:8])
			}
		}
	}
	return nil
}

// read reads the blocks, and for QoS 1 acknowledges what each read has brought.
func (p *benchPair) read(blocks int) error {
	buf := make([]byte, 64<<10)
	var acks []byte
	inBlock, rest := 0, 0 // messages of the present block; bytes at the front of buf of an unfinished one
	for blocks > 0 {
		n, err := p.sub.Read(buf[rest:])
		if err != nil {
			return err
		}
		n += rest
		acks = acks[:0]
		at := 0
		for ; at+p.size <= n; at += p.size {
			if p.qos > 0 {
				id := at + 4 + len("bench/00") // behind the fixed header and the topic's length
				acks = append(acks, byte(packet.PUBACK)<<4, 2, buf[id], buf[id+1])
			}
			if inBlock++; inBlock == benchBlock {
				inBlock = 0
				blocks--
				<-p.window
			}
		}
		rest = copy(buf, buf[at:n])
		if len(acks) > 0 {
			if _, err := p.sub.Write(acks); err != nil {
				return err
			}
		}
	}
	return nil
}
