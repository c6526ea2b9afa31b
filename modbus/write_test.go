package modbus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// writableTags are the tags that the write tests write.
func writableTags() []modbus.TagConfig {
	tags := []modbus.TagConfig{
		{Name: "setpoint", Register: "holding", Address: new(200), Type: "int16", Min: new(0.0), Max: new(100.0)},
		{Name: "flow", Register: "holding", Address: new(300), Type: "float32", Order: "CDAB"},
		{Name: "pump", Register: "coil", Address: new(3)},
		{Name: "valve", Register: "holding", Address: new(400), Bit: new(4)},
		{Name: "high", Register: "holding", Address: new(401), Type: "int8", Byte: "high"},
		{Name: "field", Register: "holding", Address: new(401), Bit: new(2), BitCount: 3, Order: "BADC"},
		{Name: "mode", Register: "holding", Address: new(500), Enum: map[string]string{"0": "off", "3": "auto"}},
	}
	for i := range tags {
		tags[i].Writable = true
	}
	return append(tags, holding("readonly", 600))
}

func TestWrite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Image.SetRegister(modbus.HoldingRegister, 400, 0xff00)
		r := start(t, tcp(unit("plc", 1, writableTags()...)), toTCP(slave))
		pass(100 * time.Millisecond)
		for _, write := range []struct {
			tag   string
			value any
			want  string // before and after
		}{
			{"setpoint", 50.0, "0 50"},
			{"setpoint", 51, "50 51"},
			{"flow", 21.5, "0 21.5"},
			{"pump", true, "false true"},
			{"valve", true, "false true"},
			{"high", -2, "0 -2"},
			{"field", 5, "7 5"}, // in the byte just written
			{"mode", "auto", "off auto"},
		} {
			result, err := r.poller.Write(r.ctx, "line", "plc", write.tag, write.value)
			if got := fmt.Sprint(result.Before, result.After); got != write.want || err != nil {
				t.Errorf("%s = %v: %s %v; want %s", write.tag, write.value, got, err, write.want)
			}
			samples := r.of(write.tag)
			if last := samples[len(samples)-1]; last.Value != result.After {
				t.Errorf("%s: the last sample is %v, not what was written", write.tag, last.Value)
			}
		}
		if got := slave.Image.Register(modbus.HoldingRegister, 400); got != 0xff10 {
			t.Errorf("the bit's register is %#x; want the other bits untouched", got)
		}
		if got := slave.Image.Register(modbus.HoldingRegister, 401); got != 0xf600 {
			t.Errorf("the register of byte and field is %#x", got)
		}
		if got := slave.Image.Register(modbus.HoldingRegister, 301); got != 0x41ac {
			t.Errorf("the second word of the float is %#x", got)
		}
	})
}

func TestWriteRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		r := start(t, tcp(unit("plc", 1, writableTags()...)), toTCP(slave))
		pass(100 * time.Millisecond)
		old, cancel := context.WithCancel(r.ctx)
		cancel()
		for _, write := range []struct {
			name            string
			ctx             context.Context
			link, unit, tag string
			value           any
		}{
			{"too large", r.ctx, "line", "plc", "setpoint", 101},
			{"too small", r.ctx, "line", "plc", "setpoint", -1},
			{"not writable", r.ctx, "line", "plc", "readonly", 1},
			{"not a number", r.ctx, "line", "plc", "setpoint", "hot"},
			{"no such link", r.ctx, "nowhere", "plc", "setpoint", 1},
			{"no such unit", r.ctx, "line", "nobody", "setpoint", 1},
			{"no such tag", r.ctx, "line", "plc", "nothing", 1},
			{"too old", old, "line", "plc", "setpoint", 1},
		} {
			_, err := r.poller.Write(write.ctx, write.link, write.unit, write.tag, write.value)
			if _, ok := errors.AsType[*modbus.RefusedError](err); !ok {
				t.Errorf("%s: %v", write.name, err)
			}
		}
		for _, request := range slave.Requests() {
			if f := request.Function(); f > 4 {
				t.Errorf("function %d was sent", f)
			}
		}
		r.stop()
		if _, err := r.poller.Write(t.Context(), "line", "plc", "setpoint", 1); err == nil {
			t.Error("a stopped poller wrote")
		}
	})
}

func TestWriteThatFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			if r.Function() == 6 {
				return modbustest.Fault{Exception: 4}
			}
			// The device says yes to the float and does nothing.
			return modbustest.Fault{Mangle: func(frame []byte) []byte {
				if r.Function() == 16 {
					slave.Image.SetRegisters(modbus.HoldingRegister, 300, 0, 0)
				}
				return frame
			}, Drop: r.Function() == 5}
		}
		r := start(t, tcp(unit("plc", 1, writableTags()...)), toTCP(slave))
		pass(100 * time.Millisecond)
		_, err := r.poller.Write(r.ctx, "line", "plc", "setpoint", 5)
		if refusal, ok := errors.AsType[*modbus.ExceptionError](err); !ok || refusal.Code != 4 || refusal.Function != 6 {
			t.Errorf("refused by the device: %v", err)
		}
		result, err := r.poller.Write(r.ctx, "line", "plc", "flow", 5)
		if err == nil || result.After.String() != "0" {
			t.Errorf("ignored by the device: %v, after %v", err, result.After)
		}
		if _, err := r.poller.Write(r.ctx, "line", "plc", "pump", true); !errors.Is(err, modbus.ErrTimeout) {
			t.Errorf("unanswered: %v", err)
		}
	})
}

func TestWriteOfUnknownEffectIsNoRefusal(t *testing.T) {
	for name, fault := range map[string]func(modbustest.Request, int) modbustest.Fault{
		"gone after the write": func(r modbustest.Request, _ int) modbustest.Fault {
			return modbustest.Fault{Close: r.Function() == 6}
		},
		"gone instead of an answer": func(r modbustest.Request, _ int) modbustest.Fault {
			return modbustest.Fault{Drop: r.Function() == 6, Close: r.Function() == 6}
		},
		"acknowledged": func(r modbustest.Request, _ int) modbustest.Fault {
			if r.Function() == 6 {
				return modbustest.Fault{Exception: 5}
			}
			return modbustest.Fault{}
		},
		"unreadable after the write": func(_ modbustest.Request, writes int) modbustest.Fault {
			if writes > 0 {
				return modbustest.Fault{Exception: 4}
			}
			return modbustest.Fault{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				slave := modbustest.New()
				var writes, dials atomic.Int32
				slave.Fault = func(r modbustest.Request) modbustest.Fault {
					f := fault(r, int(writes.Load()))
					if r.Function() == 6 {
						writes.Add(1)
					}
					return f
				}
				r := start(t, tcp(unit("plc", 1, writableTags()...)), func(string) net.Conn {
					if dials.Add(1) > 1 {
						return nil
					}
					return toTCP(slave)("")
				})
				pass(100 * time.Millisecond)
				_, err := r.poller.Write(r.ctx, "line", "plc", "setpoint", 7)
				_, refused := errors.AsType[*modbus.RefusedError](err)
				_, exception := errors.AsType[*modbus.ExceptionError](err)
				if err == nil || refused || exception || errors.Is(err, modbus.ErrDown) {
					t.Errorf("error %v says that nothing was written", err)
				}
				if n := writes.Load(); n != 1 {
					t.Errorf("the write was sent %d times", n)
				}
			})
		})
	}
}

func TestWriteToADeviceThatLacksFunctions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Image.SetRegister(modbus.HoldingRegister, 400, 0x0001)
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			if f := r.Function(); f == 22 || f == 6 && r.Address() == 200 {
				return modbustest.Fault{Exception: 1}
			}
			return modbustest.Fault{}
		}
		device := unit("plc", 1, writableTags()...)
		device.ReadModifyWrite = true
		strict := unit("strict", 2, holding("whole", 1), modbus.TagConfig{Name: "valve", Register: "holding", Address: new(400), Bit: new(5), Writable: true})
		r := start(t, tcp(device, strict), toTCP(slave))
		pass(100 * time.Millisecond)
		if _, err := r.poller.Write(r.ctx, "line", "plc", "setpoint", 7); err != nil {
			t.Errorf("without function 6: %v", err)
		}
		_, err := r.poller.Write(r.ctx, "line", "strict", "valve", true)
		if _, ok := errors.AsType[*modbus.ExceptionError](err); !ok || slave.Image.Register(modbus.HoldingRegister, 400) != 1 {
			t.Errorf("without read_modify_write: %v", err)
		}
		if _, err := r.poller.Write(r.ctx, "line", "plc", "valve", true); err != nil {
			t.Errorf("without function 22: %v", err)
		}
		if got := slave.Image.Register(modbus.HoldingRegister, 400); got != 0x0011 {
			t.Errorf("the bit's register is %#x", got)
		}
	})
}

func TestWriteToADeviceThatClosesAfterEachAnswer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }() // ends ServeTCP
	slave := modbustest.New()
	slave.Fault = func(modbustest.Request) modbustest.Fault { return modbustest.Fault{Close: true} }
	go slave.ServeTCP(listener)
	cfg := tcp(fast(unit("plc", 1, writableTags()...)))
	cfg.Links[0].TCP = listener.Addr().String()
	cfg.Links[0].Timeout = 5 * time.Second
	r := start(t, cfg, nil)
	r.waitFor(t, "the unit is polled a second time", func(samples []modbus.Sample, _ []modbus.UnitState) bool {
		return len(samples) > 12
	})
	for i := range 50 {
		if _, err := r.poller.Write(r.ctx, "line", "plc", "setpoint", i); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
}

func TestWriteToAnAbsentUnit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Fault = func(r modbustest.Request) modbustest.Fault { return modbustest.Fault{Drop: r.Unit == 2} }
		r := start(t, tcp(unit("here", 1, holding("a", 1)), unit("away", 2, writableTags()...)), toTCP(slave))
		pass(time.Minute)
		begin := time.Now()
		_, err := r.poller.Write(r.ctx, "line", "away", "setpoint", 7)
		if _, ok := errors.AsType[*modbus.RefusedError](err); !ok || time.Since(begin) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

func TestWriteWithoutADevice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, tcp(unit("plc", 1, writableTags()...)), func(string) net.Conn { return nil })
		pass(time.Second)
		if _, err := r.poller.Write(r.ctx, "line", "plc", "setpoint", 7); !errors.Is(err, modbus.ErrDown) {
			t.Error(err)
		}
	})
}

func TestWritesDoNotStopTheReading(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Fault = func(modbustest.Request) modbustest.Fault {
			return modbustest.Fault{Delay: 50 * time.Millisecond}
		}
		r := start(t, rtu(unit("plc", 1, writableTags()...)), toRTU(slave))
		ctx, cancel := context.WithCancel(r.ctx)
		ended := make(chan struct{}, 3)
		for range cap(ended) {
			go func() {
				for ctx.Err() == nil {
					// Errors do not matter: the commands only have to keep coming.
					_, _ = r.poller.Write(ctx, "line", "plc", "setpoint", 7)
				}
				ended <- struct{}{}
			}()
		}
		pass(time.Minute)
		cancel()
		for range cap(ended) {
			<-ended
		}
		if n := len(r.of("readonly")); n < 30 {
			t.Errorf("%d reads in a minute of writing", n)
		}
		if writes := r.poller.Stats()[0].Writes; writes < 100 {
			t.Errorf("%d writes in a minute", writes)
		}
	})
}
