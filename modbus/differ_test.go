package modbus_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// Devices differ. Each case is one way in which a device misbehaves; another,
// on the same link, does not.

// oddity is a way to misbehave.
type oddity struct {
	name string
	// fault is what the device does with a request that arrives over a kind of
	// line: tcp, rtu or ascii.
	fault func(kind string, r modbustest.Request) modbustest.Fault
	// kinds on which it can happen; empty: all.
	kinds string
	// most is whether most of its values are good all the same.
	most bool
	// blocks is whether the line is its own for as long as it likes.
	blocks bool
}

// content returns unit, function and data of a frame.
func content(kind string, frame []byte) []byte {
	switch kind {
	case "tcp":
		return slices.Clone(frame[6:])
	case "rtu":
		return slices.Clone(frame[:len(frame)-2])
	}
	b, err := hex.DecodeString(string(frame[1 : len(frame)-4]))
	if err != nil {
		panic(err)
	}
	return b
}

// frameOf makes a frame with the header of another.
func frameOf(kind string, like, content []byte) []byte {
	switch kind {
	case "tcp":
		frame := append(slices.Clone(like[:6]), content...)
		binary.BigEndian.PutUint16(frame[4:], uint16(len(content)))
		return frame
	case "rtu":
		return modbustest.AppendCRC(slices.Clone(content))
	}
	return modbustest.ASCII(content)
}

// changed makes a fault that changes what an answer says; its checksum is right.
func changed(kind string, change func(content []byte) []byte) modbustest.Fault {
	return modbustest.Fault{Mangle: func(frame []byte) []byte {
		return frameOf(kind, frame, change(content(kind, frame)))
	}}
}

// always is a fault that does not depend on the request.
func always(f modbustest.Fault) func(string, modbustest.Request) modbustest.Fault {
	return func(string, modbustest.Request) modbustest.Fault { return f }
}

// sometimes is one request in four, without a pattern.
func sometimes(f modbustest.Fault) func(string, modbustest.Request) modbustest.Fault {
	return func(_ string, r modbustest.Request) modbustest.Fault {
		if uint32(r.Number)*2654435761>>30 == 0 {
			return f
		}
		return modbustest.Fault{}
	}
}

// raw is a fault that changes the frame itself.
func raw(change func(frame []byte) []byte) modbustest.Fault { return modbustest.Fault{Mangle: change} }

func oddities() []oddity {
	stale := make(map[string][]byte) // by kind: the answer before
	list := []oddity{
		{name: "answers in 300 ms", fault: always(modbustest.Fault{Delay: 300 * time.Millisecond}), most: true},
		{name: "answers in 3 s", fault: always(modbustest.Fault{Delay: 3 * time.Second, Aside: true})},
		{name: "answers in 3 s sometimes", fault: sometimes(modbustest.Fault{Delay: 3 * time.Second, Aside: true})},
		{name: "answers in 1.1 s sometimes", fault: sometimes(modbustest.Fault{Delay: 1100 * time.Millisecond, Aside: true})},
		{name: "blocks for 3 s", fault: always(modbustest.Fault{Delay: 3 * time.Second}), blocks: true},
		{name: "blocks for 3 s sometimes", fault: sometimes(modbustest.Fault{Delay: 3 * time.Second}), blocks: true},
		{name: "is silent", fault: always(modbustest.Fault{Drop: true})},
		{name: "is silent sometimes", fault: sometimes(modbustest.Fault{Drop: true})},
		{name: "closes after each answer", fault: always(modbustest.Fault{Close: true}), most: true},
		{name: "closes instead of an answer", fault: sometimes(modbustest.Fault{Drop: true, Close: true}), most: true},
		{name: "answers twice", fault: always(modbustest.Fault{Twice: true}), most: true},
		{name: "answers in pieces", fault: always(modbustest.Fault{Pieces: 1, PieceDelay: 10 * time.Millisecond}), most: true},
		{name: "truncates", fault: always(raw(func(f []byte) []byte { return f[:len(f)-3] }))},
		{name: "truncates sometimes", fault: sometimes(raw(func(f []byte) []byte { return f[:len(f)-3] }))},
		{name: "damages sometimes", kinds: "rtu", fault: sometimes(raw(func(f []byte) []byte { f[len(f)-4] ^= 1; return f })), most: true},
		{name: "damages sometimes", kinds: "ascii", fault: sometimes(raw(func(f []byte) []byte { f[len(f)-5] ^= 1; return f })), most: true},
		{name: "damages", kinds: "rtu", fault: always(raw(func(f []byte) []byte { f[len(f)-4] ^= 1; return f }))},
		{name: "damages what it is", kinds: "rtu ascii", fault: sometimes(raw(func(f []byte) []byte { f[2] ^= 1; return f }))},
		{name: "hears noise before", kinds: "rtu ascii", fault: always(raw(func(f []byte) []byte { return append([]byte{0, 0xff, 0x80}, f...) })), most: true},
		{name: "hears noise behind", kinds: "rtu ascii", fault: always(raw(func(f []byte) []byte { return append(f, 0, 0xff) })), most: true},
		{name: "is another unit", fault: func(kind string, _ modbustest.Request) modbustest.Fault {
			return changed(kind, func(c []byte) []byte { c[0] = 77; return c })
		}},
		{name: "answers for its neighbour", fault: func(kind string, _ modbustest.Request) modbustest.Fault {
			return changed(kind, func(c []byte) []byte { c[0] = 2; return c })
		}},
		{name: "is another function", fault: func(kind string, _ modbustest.Request) modbustest.Fault {
			return changed(kind, func(c []byte) []byte { c[1] = 4; return c })
		}},
		{name: "gives one register less", fault: func(kind string, _ modbustest.Request) modbustest.Fault {
			return changed(kind, func(c []byte) []byte { c[2] -= 2; return c[:len(c)-2] })
		}},
		{name: "gives one register more", fault: func(kind string, _ modbustest.Request) modbustest.Fault {
			return changed(kind, func(c []byte) []byte { c[2] += 2; return append(c, 0, 1) })
		}},
		{name: "lies about its length", fault: func(kind string, _ modbustest.Request) modbustest.Fault {
			return changed(kind, func(c []byte) []byte { c[2] += 2; return c })
		}},
		{name: "repeats the answer before", fault: func(kind string, _ modbustest.Request) modbustest.Fault {
			return raw(func(f []byte) []byte {
				before := stale[kind]
				stale[kind] = slices.Clone(f)
				return append(slices.Clone(before), f...)
			})
		}, kinds: "tcp", most: true},
		{name: "speaks without being asked", fault: func(kind string, _ modbustest.Request) modbustest.Fault {
			return raw(func(f []byte) []byte {
				return append(f, frameOf(kind, append([]byte{0xff, 0xff}, f[2:]...), []byte{9, 3, 2, 0xde, 0xad})...)
			})
		}, most: true},
		{name: "is not Modbus", kinds: "tcp", fault: always(raw(func(f []byte) []byte { f[3] = 1; return f }))},
		{name: "has a length of 0", kinds: "tcp", fault: always(raw(func(f []byte) []byte { f[4], f[5] = 0, 0; return f }))},
		{name: "has a length of 65535", kinds: "tcp", fault: always(raw(func(f []byte) []byte { f[4], f[5] = 0xff, 0xff; return f }))},
		{name: "knows function 3 not", fault: always(modbustest.Fault{Exception: 1})},
	}
	for _, code := range []byte{2, 3, 4, 5, 6, 8, 10, 11, 99} {
		list = append(list, oddity{name: fmt.Sprintf("exception %d", code), fault: always(modbustest.Fault{Exception: code})})
	}
	return list
}

func TestDevicesDiffer(t *testing.T) {
	for _, kind := range []string{"tcp", "rtu", "ascii"} {
		for _, odd := range oddities() {
			if odd.kinds == "" || strings.Contains(odd.kinds, kind) {
				t.Run(kind+"/"+odd.name, func(t *testing.T) { testOddity(t, kind, 1, odd) })
			}
			if kind == "tcp" && (odd.kinds == "" || strings.Contains(odd.kinds, kind)) {
				t.Run("tcp in flight/"+odd.name, func(t *testing.T) { testOddity(t, kind, 4, odd) })
			}
		}
	}
}

func testOddity(t *testing.T, kind string, inFlight int, odd oddity) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		var healed atomic.Bool
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			if r.Unit == 2 || healed.Load() {
				return modbustest.Fault{Delay: 5 * time.Millisecond}
			}
			return odd.fault(kind, r)
		}
		units := []modbus.UnitConfig{
			unit("odd", 1, append(unitTags(slave, 3, 100), row(slave, 300, 20)...)...),
			unit("plain", 2, unitTags(slave, 3, 200)...),
		}
		cfg, dial := tcp(units...), toTCP(slave)
		switch kind {
		case "rtu":
			cfg, dial = rtu(units...), toRTU(slave)
		case "ascii":
			cfg, dial = ascii(units...), toASCII(slave)
		}
		cfg.Links[0].InFlight = inFlight
		r := start(t, cfg, dial)
		pass(time.Minute)
		// Two thirds: who does not answer costs a timeout now and then.
		if n := len(r.of("r201")); n < 38 && !odd.blocks {
			t.Errorf("the neighbour was read %d times in a minute", n)
		}
		good := 0
		for _, s := range r.of("r101") {
			if s.Quality == modbus.Good {
				good++
			}
		}
		if odd.most && good < 35 {
			t.Errorf("its values were good %d times in a minute", good)
		}
		healed.Store(true)
		recovery := time.Minute
		if strings.Contains("exception 2 exception 3", odd.name) {
			recovery = 5*time.Minute + 10*time.Second // holes are tried rarely
		}
		pass(recovery)
		begin := time.Now()
		pass(20 * time.Second)
		for _, tag := range []string{"r100", "r101", "r102", "r300", "r319"} {
			samples := slices.DeleteFunc(r.of(tag), func(s modbus.Sample) bool { return s.Time.Before(begin) })
			if n := len(samples); n < 19 || strings.Contains(text(samples), "bad") {
				t.Errorf("%s after the repair: %s", tag, text(samples))
			}
		}
		r.noWrongValue(t)
	})
}

// The same on serial ports, as far as it concerns bytes and not time. All at once:
// it is real time that passes.
func TestDevicesDifferOnASerialPort(t *testing.T) {
	var rigs []*rig
	var asked [100]atomic.Int32
	for i, odd := range oddities() {
		r, n := (*rig)(nil), &asked[i]
		switch {
		case odd.kinds != "" && !strings.Contains(odd.kinds, "rtu"),
			strings.HasPrefix(odd.name, "blocks"), strings.HasPrefix(odd.name, "answers in 3"),
			strings.Contains(odd.name, "close"), strings.HasPrefix(odd.name, "exception"):
		default:
			port := filepath.Join(t.TempDir(), "ttyUSB0")
			slave := modbustest.New()
			slave.Fault = func(r modbustest.Request) modbustest.Fault {
				if n.Add(1) > 3 {
					return modbustest.Fault{}
				}
				return odd.fault("rtu", r)
			}
			serialTo(t, slave, port)
			cfg := serial(port, fast(unit("plc", 1, unitTags(slave, 3, 100)...)))
			cfg.Links[0].Timeout = 100 * time.Millisecond
			r = start(t, cfg, nil)
		}
		rigs = append(rigs, r)
	}
	for i, odd := range oddities() {
		r := rigs[i]
		if r == nil {
			continue
		}
		r.waitFor(t, odd.name+": all values are good in the end", func(samples []modbus.Sample, states []modbus.UnitState) bool {
			return asked[i].Load() > 8 && lastIs("r100", modbus.Good)(samples, states) &&
				lastIs("r101", modbus.Good)(samples, states) && lastIs("r102", modbus.Good)(samples, states)
		})
		r.stop()
		r.noWrongValue(t)
	}
}

func TestUnitIDsOfGateways(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		var units []modbus.UnitConfig
		for i, id := range []int{0, 1, 100, 225, 247, 255} {
			units = append(units, unit(fmt.Sprint("u", id), id, unitTags(slave, 1, 100+10*i)...))
		}
		r := start(t, tcp(units...), toTCP(slave))
		pass(2 * time.Second)
		if good := r.noWrongValue(t); good < 12 {
			t.Errorf("%d good samples", good)
		}
	})
}
