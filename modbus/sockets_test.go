package modbus_test

import (
	"math"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// How devices treat connections, with real sockets.
func TestConnectionsDiffer(t *testing.T) {
	tests := []struct {
		name string
		// serve treats the nth connection, from 1; more is false when no other is
		// accepted while this one is open.
		serve func(s *modbustest.Slave, n int32, conn *net.TCPConn)
	}{
		{"resets instead of closing", func(s *modbustest.Slave, _ int32, conn *net.TCPConn) {
			if err := conn.SetLinger(0); err == nil {
				time.AfterFunc(30*time.Millisecond, func() { _ = conn.Close() }) // the test does not care how
			}
			s.ServeTCPConn(conn)
		}},
		{"accepts and hangs, at first", func(s *modbustest.Slave, n int32, conn *net.TCPConn) {
			if n > 2 {
				s.ServeTCPConn(conn)
			}
		}},
		{"closes when it is idle", func(s *modbustest.Slave, _ int32, conn *net.TCPConn) {
			if err := conn.SetReadDeadline(time.Now().Add(25 * time.Millisecond)); err == nil {
				s.ServeTCPConn(conn)
			}
		}},
		{"refuses a second connection", func(s *modbustest.Slave, _ int32, conn *net.TCPConn) {
			s.ServeTCPConn(conn)
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = listener.Close() }) // ends the loop below
			slave := modbustest.New()
			var accepted, open atomic.Int32
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					n := accepted.Add(1)
					if open.Add(1) > 1 && test.name == "refuses a second connection" {
						t.Error("there was a second connection")
					}
					go func() {
						defer open.Add(-1)
						test.serve(slave, n, conn.(*net.TCPConn))
					}()
				}
			}()
			cfg := tcp(fast(unit("plc", 1, unitTags(slave, 3, 100)...)))
			cfg.Links[0].TCP, cfg.Links[0].Timeout = listener.Addr().String(), 200*time.Millisecond
			r := start(t, cfg, nil)
			r.waitFor(t, "values keep coming", func(samples []modbus.Sample, _ []modbus.UnitState) bool {
				good := 0
				for _, s := range samples {
					if s.Quality == modbus.Good {
						good++
					}
				}
				return good > 60
			})
			r.stop()
			r.noWrongValue(t)
		})
	}
}

func FuzzRecall(f *testing.F) {
	f.Add(1, 2, 3, 4, 5)
	f.Add(-1, math.MaxInt, -5, math.MaxInt, math.MinInt)
	f.Fuzz(func(t *testing.T, good, refused, cut, address, count int) {
		slave := modbustest.New()
		cfg := tcp(unit("plc", 1, row(slave, 0, 10)...))
		cfg.SetDefaults()
		p, err := modbus.New(cfg, discard(), newTicks(time.Now(), time.Second))
		if err != nil {
			t.Fatal(err)
		}
		p.Recall([]modbus.LearnedUnit{{
			Link: "line", Unit: "plc", Registers: modbus.Sizes{Good: good, Refused: refused},
			Cuts:  []modbus.Cut{{Table: modbus.HoldingRegister, Address: cut}},
			Holes: []modbus.Hole{{Table: modbus.HoldingRegister, Address: address, Count: count}},
		}})
	})
}
