package bridge

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

// BenchmarkDrain forwards a backlog of 200-byte messages of QoS 1 to an upstream in this process that acknowledges
// each batch that it reads with one write.
func BenchmarkDrain(b *testing.B) {
	log, err := storage.Open(storage.Config{Path: b.TempDir(), MaxSize: 8 << 30}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	broker := newLocalBroker(b, log)
	cfg := testConfig("mqtt://" + listener.Addr().String())
	br, err := New(cfg, Environment{Site: "s", Broker: broker, Log: log, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	if err := br.Attach(); err != nil {
		b.Fatal(err)
	}
	message := packet.Publish{QoS: 1, Topic: []byte("plant/press4/temperature"), Payload: make([]byte, 200)}
	for i := range b.N {
		broker.send(message)
		if i%10000 == 0 {
			if err := log.WaitSafe(b.Context(), log.Stats().Appended); err != nil {
				b.Fatal(err)
			}
		}
	}
	all := make(chan struct{})
	go func() {
		for {
			nc, err := listener.Accept()
			if err != nil {
				return
			}
			acknowledgeAll(nc, b.N, all)
		}
	}()
	b.ReportAllocs()
	b.ResetTimer()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- br.Run(ctx) }()
	<-all
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "msg/s")
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

// acknowledgeAll serves one connection; it closes all after count messages.
func acknowledgeAll(nc net.Conn, count int, all chan<- struct{}) {
	defer nc.Close()
	buf, n, seen := make([]byte, 256<<10), 0, 0
	var out []byte
	var p packet.Publish
	for {
		got, err := nc.Read(buf[n:])
		if err != nil {
			return
		}
		n += got
		used := 0
		for {
			f, size, err := packet.Next(buf[used:n], packet.V5, 0)
			if err != nil || size == 0 {
				break
			}
			used += size
			switch {
			case f.Type() == packet.CONNECT:
				out = (&packet.Connack{}).Append(out, packet.V5)
			case f.Type() == packet.PUBLISH && p.Decode(f, packet.V5) == nil:
				out = (&packet.Ack{Type: packet.PUBACK, PacketID: p.PacketID}).Append(out, packet.V5)
				if seen++; seen == count {
					close(all)
				}
			}
		}
		n = copy(buf, buf[used:n])
		if _, err := nc.Write(out); err != nil {
			return
		}
		out = out[:0]
	}
}
