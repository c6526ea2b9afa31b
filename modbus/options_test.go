package modbus_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// asked records when requests reach a slave, in a bubble.
type asked struct {
	mu sync.Mutex
	at []time.Time
}

func (a *asked) note() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = append(a.at, time.Now())
}

// since returns the times after begin.
func (a *asked) since(begin time.Time) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var d []time.Duration
	for _, t := range a.at {
		d = append(d, t.Sub(begin))
	}
	return fmt.Sprint(d)
}

func TestLinkKeepsItsPace(t *testing.T) {
	tests := []struct {
		name   string
		change func(*modbus.LinkConfig)
		want   string // when the requests come
		dials  int
	}{
		{"as fast as can be", func(*modbus.LinkConfig) {}, "[0s 10ms 500ms 1s]", 1},
		{"request_delay", func(l *modbus.LinkConfig) { l.RequestDelay = 40 * time.Millisecond }, "[0s 50ms 500ms 1s]", 1},
		{"connect_delay", func(l *modbus.LinkConfig) { l.ConnectDelay = 300 * time.Millisecond }, "[300ms 310ms 500ms 1s]", 1},
		{"close_after_request", func(l *modbus.LinkConfig) { l.CloseAfterRequest = true }, "[0s 10ms 500ms 1s]", 4},
		{"close_when_idle", func(l *modbus.LinkConfig) { l.CloseWhenIdle = 200 * time.Millisecond }, "[0s 10ms 500ms 1s]", 3},
		{"not idle for so long", func(l *modbus.LinkConfig) { l.CloseWhenIdle = 700 * time.Millisecond }, "[0s 10ms 500ms 1s]", 1},
	}
	for _, kind := range []string{"tcp", "rtu"} {
		for _, test := range tests {
			t.Run(kind+"/"+test.name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					var requests asked
					slave := modbustest.New()
					slave.Fault = func(modbustest.Request) modbustest.Fault {
						requests.note()
						return modbustest.Fault{Delay: 10 * time.Millisecond}
					}
					cfg, dial := tcp(unit("plc", 1, unitTags(slave, 2, 100)...)), toTCP(slave)
					if kind == "rtu" {
						cfg, dial = rtu(cfg.Links[0].Units...), toRTU(slave)
					}
					test.change(&cfg.Links[0])
					var dials atomic.Int32
					begin := time.Now()
					r := start(t, cfg, func(link string) net.Conn {
						dials.Add(1)
						return dial(link)
					})
					pass(1200 * time.Millisecond)
					got := requests.since(begin)
					if kind == "rtu" { // 1.75 ms of silence before each
						got = strings.NewReplacer("1.75ms", "0s", "13.5ms", "10ms", "53.5ms", "50ms", "301.75ms", "300ms", "313.5ms", "310ms", "501.75ms", "500ms", "1.00175s", "1s").Replace(got)
					}
					if got != test.want {
						t.Errorf("asked at %s; want %s", got, test.want)
					}
					if n := int(dials.Load()); n != test.dials {
						t.Errorf("%d connections; want %d", n, test.dials)
					}
					r.stop()
					r.noWrongValue(t)
					if got := r.statesOf("plc"); got != "online" {
						t.Errorf("states: %s", got)
					}
				})
			})
		}
	}
}

func TestConnectionsShareTheUnits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			if r.Unit == 1 {
				return modbustest.Fault{Drop: true}
			}
			return modbustest.Fault{Delay: 600 * time.Millisecond}
		}
		cfg := tcp(unit("dead", 1, unitTags(slave, 1, 100)...), unit("a", 2, unitTags(slave, 1, 200)...), unit("b", 3, unitTags(slave, 1, 300)...))
		cfg.Links[0].Connections = 3
		var dials atomic.Int32
		r := start(t, cfg, func(link string) net.Conn {
			dials.Add(1)
			return toTCP(slave)(link)
		})
		pass(10 * time.Second)
		// One after the other, three units of 600 ms would be read every 1.8 s.
		for _, tag := range []string{"r200", "r300"} {
			if n := len(r.of(tag)); n < 9 {
				t.Errorf("%s was read %d times in ten seconds", tag, n)
			}
		}
		r.noWrongValue(t)
		if stats := r.poller.Stats(); len(stats) != 1 || stats[0].Requests < 20 {
			t.Errorf("stats: %+v", stats)
		}
		if _, err := r.poller.Write(r.ctx, "line", "b", "r300", 1); err == nil || !strings.Contains(err.Error(), "not writable") {
			t.Errorf("a unit of the third connection: %v", err)
		}
		if _, err := r.poller.Write(r.ctx, "line", "c", "x", 1); err == nil || !strings.Contains(err.Error(), "link line has no unit c") {
			t.Errorf("a unit that is not there: %v", err)
		}
	})
}

// backwards is a device that answers the requests of a while in the wrong order,
// each with its own address, and some of them twice.
func backwards(conn io.ReadWriteCloser, most *atomic.Int32) {
	defer func() { _ = conn.Close() }() // the test does not care how it ends
	requests := make(chan []byte, 100)
	go func() {
		defer close(requests)
		for {
			frame := make([]byte, 12)
			if _, err := io.ReadFull(conn, frame); err != nil {
				return
			}
			requests <- frame
		}
	}()
	for frame := range requests {
		time.Sleep(20 * time.Millisecond)
		batch := [][]byte{frame}
		for len(requests) > 0 {
			batch = append(batch, <-requests)
		}
		most.Store(max(most.Load(), int32(len(batch))))
		slices.Reverse(batch)
		for i, request := range batch {
			answer := slices.Concat(request[:4], []byte{0, 5}, request[6:8], []byte{2}, request[8:10])
			if i%3 == 1 {
				answer = append(answer, answer...)
			}
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	}
}

func TestSeveralRequestsInFlight(t *testing.T) {
	for _, inFlight := range []int{1, 4, 16} {
		t.Run(fmt.Sprint(inFlight), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var tags []modbus.TagConfig
				for i := range 20 {
					tags = append(tags, holding(fmt.Sprintf("r%d", 10*i), 10*i))
				}
				cfg := tcp(unit("plc", 1, tags...))
				cfg.Links[0].InFlight = inFlight
				cfg.Links[0].Units[0].Interval = 100 * time.Millisecond
				var most atomic.Int32
				r := start(t, cfg, func(string) net.Conn {
					near, far := net.Pipe()
					go backwards(newLine(far), &most)
					return near
				})
				pass(10 * time.Second)
				r.stop()
				good := r.noWrongValue(t)
				// Alone, a request takes 20 ms; as many as are in flight take as long.
				if least := 490 * min(inFlight, 4); good < least {
					t.Errorf("%d values in ten seconds; want %d", good, least)
				}
				if n := int(most.Load()); n > inFlight {
					t.Errorf("%d requests were in flight; want %d at most", n, inFlight)
				}
				if strings.Contains(text(r.samples), "bad") {
					t.Error("some are bad")
				}
			})
		})
	}
}

func TestRequestsInFlightSurviveFaults(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			switch {
			case r.Number%29 == 7:
				return modbustest.Fault{Drop: true}
			case r.Number%37 == 9:
				return modbustest.Fault{Close: true}
			case r.Number%41 == 11:
				return modbustest.Fault{Delay: 1500 * time.Millisecond}
			case r.Number%43 == 13:
				return modbustest.Fault{Mangle: func(frame []byte) []byte {
					binary.BigEndian.PutUint16(frame, binary.BigEndian.Uint16(frame)-100)
					return frame
				}}
			}
			return modbustest.Fault{Delay: 5 * time.Millisecond}
		}
		cfg := tcp(unit("a", 1, unitTags(slave, 10, 100)...), unit("b", 2, unitTags(slave, 10, 300)...))
		cfg.Links[0].InFlight = 8
		r := start(t, cfg, toTCP(slave))
		pass(10 * time.Minute)
		r.stop()
		if good := r.noWrongValue(t); good < 3000 {
			t.Errorf("%d good samples", good)
		}
	})
}

func TestSerialPortTakenByAnotherProgram(t *testing.T) {
	port := filepath.Join(t.TempDir(), "ttyUSB0")
	slave := modbustest.New()
	serialTo(t, slave, port)
	first := start(t, serial(port, unit("plc", 1, unitTags(slave, 1, 100)...)), nil)
	first.waitFor(t, "the first has the port", lastIs("r100", modbus.Good))
	second := start(t, serial(port, unit("plc", 1, unitTags(slave, 1, 100)...)), nil)
	second.waitFor(t, "the second has not", lastIs("r100", modbus.Bad))
	if n := len(first.log.with("link down")); n != 0 {
		t.Error("the second took the port from the first")
	}
}

func TestPortWithoutRS485(t *testing.T) {
	port := filepath.Join(t.TempDir(), "ttyUSB0")
	slave := modbustest.New()
	serialTo(t, slave, port)
	cfg := serial(port, unit("plc", 1, unitTags(slave, 1, 100)...))
	cfg.Links[0].RTU.RS485 = &modbus.RS485Config{}
	r := start(t, cfg, nil)
	r.waitFor(t, "a line that is not switched is not used", lastIs("r100", modbus.Bad))
	if lines := r.log.with("cannot switch an RS-485 line"); len(lines) != 1 {
		t.Errorf("log: %q", lines)
	}
}
