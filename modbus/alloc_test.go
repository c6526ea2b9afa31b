//go:build !race

package modbus

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"
)

// device is a stream at whose other end a device answers every read at once.
type device struct {
	mbap   bool
	answer []byte // what is still to be read
	buf    [300]byte
}

func (d *device) Write(request []byte) (int, error) {
	pdu := pduOf(request, d.mbap)
	size := 2 * int(binary.BigEndian.Uint16(pdu[3:]))
	out := append(d.buf[:0], request[:len(request)-len(pdu)-d.trailer()]...)
	out = append(out, pdu[0], byte(size))
	for i := range size {
		out = append(out, byte(i))
	}
	if d.mbap {
		binary.BigEndian.PutUint16(out[4:], uint16(3+size))
	} else {
		out = appendCRC(out)
	}
	d.answer = out
	return len(request), nil
}

func (d *device) trailer() int {
	if d.mbap {
		return 0
	}
	return 2
}

func (d *device) Read(p []byte) (int, error) {
	if len(d.answer) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(p, d.answer)
	d.answer = d.answer[n:]
	return n, nil
}

func (*device) Close() error                     { return nil }
func (*device) SetReadDeadline(time.Time) error  { return nil }
func (*device) SetWriteDeadline(time.Time) error { return nil }

// pollingLink is a link of one unit with a read of 125 registers.
func pollingLink(t testing.TB, kind string) *link {
	t.Helper()
	cfg := LinkConfig{Name: "line", TCP: "plc.example", Units: []UnitConfig{{Name: "plc", Unit: new(1)}}}
	if kind == "rtu" {
		cfg.TCP, cfg.RTUOverTCP = "", cfg.TCP
	}
	for i := range 125 {
		cfg.Units[0].Tags = append(cfg.Units[0].Tags, TagConfig{Name: fmt.Sprint(i), Register: "holding", Address: new(i), Scale: new(0.1)})
	}
	whole := Config{Links: []LinkConfig{cfg}}
	whole.SetDefaults()
	if err := whole.problems(); err != nil {
		t.Fatal(err)
	}
	own := &whole.Links[0]
	open := func(context.Context) (stream, error) { return &device{mbap: kind == "tcp"}, nil }
	c := newClient(own)
	switch transport := c.transport.(type) {
	case *tcpTransport:
		transport.open = open
	case *rtuTransport:
		transport.open = open
	}
	l := newLink(own, c)
	l.log, l.sink = slog.New(slog.DiscardHandler), nobody{}
	return l
}

func TestPollAllocatesNothing(t *testing.T) {
	for _, kind := range []string{"tcp", "rtu"} {
		l := pollingLink(t, kind)
		u := l.units[0]
		l.start(time.Now())
		poll := func() { l.poll(t.Context(), u, u.blocks[0]) }
		l.seen = true
		for range 10 {
			poll()
		}
		if n := l.counters.unit(); n.Requests != 10 || n.Timeouts+n.Failures != 0 {
			t.Fatalf("%s: %+v", kind, n)
		}
		if n := testing.AllocsPerRun(1000, poll); n > 0 {
			t.Errorf("%s: %v allocations for each read", kind, n)
		}
	}
}

func BenchmarkPoll(b *testing.B) {
	for _, kind := range []string{"tcp", "rtu"} {
		b.Run(kind, func(b *testing.B) {
			l := pollingLink(b, kind)
			l.seen = true
			u := l.units[0]
			l.start(time.Now())
			b.ReportAllocs()
			for b.Loop() {
				l.poll(b.Context(), u, u.blocks[0])
			}
			b.ReportMetric(125*float64(b.N)/b.Elapsed().Seconds(), "registers/s")
		})
	}
}
