package modbus_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// groupTags are neighbours of several kinds, and others that are none.
func groupTags() []modbus.TagConfig {
	tags := []modbus.TagConfig{
		{Name: "speed", Register: "holding", Address: new(10), Type: "int16", Max: new(100.0)},
		{Name: "ramp", Register: "holding", Address: new(11), Type: "float32", Order: "CDAB"},
		{Name: "mode", Register: "holding", Address: new(13), Enum: map[string]string{"1": "auto"}},
		{Name: "far", Register: "holding", Address: new(20)},
		{Name: "run", Register: "coil", Address: new(8)},
		{Name: "forward", Register: "coil", Address: new(9)},
		{Name: "bit3", Register: "holding", Address: new(30), Bit: new(3)},
		{Name: "field", Register: "holding", Address: new(30), Bit: new(4), BitCount: 4},
	}
	for i := range tags {
		tags[i].Writable = true
	}
	return append(tags, holding("readonly", 14))
}

func TestWriteAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Image.SetRegister(modbus.HoldingRegister, 30, 0xff00)
		r := start(t, tcp(unit("plc", 1, groupTags()...)), toTCP(slave))
		pass(100 * time.Millisecond)
		for _, write := range []struct {
			values    map[string]any
			functions string
			want      string
		}{
			{map[string]any{"mode": "auto", "speed": 50, "ramp": 21.5}, "[3 16 3]", "speed 0 50, ramp 0 21.5, mode 0 auto"},
			{map[string]any{"forward": true, "run": true}, "[1 15 1]", "run false true, forward false true"},
			{map[string]any{"forward": false, "run": true}, "[1 15 1]", "run true true, forward true false"},
			{map[string]any{"field": 9, "bit3": true}, "[3 22 3]", "bit3 false true, field 0 9"},
			{map[string]any{"far": 7}, "[3 16 3]", "far 0 7"},
		} {
			asked := len(slave.Requests())
			results, err := r.poller.WriteAll(r.ctx, "line", "plc", write.values)
			var got []string
			for _, w := range results {
				got = append(got, fmt.Sprint(w.Tag.Name, " ", w.Before, " ", w.After))
			}
			if strings.Join(got, ", ") != write.want || err != nil {
				t.Errorf("%v: %v %v; want %s", write.values, got, err, write.want)
			}
			var functions []byte
			for _, request := range slave.Requests()[asked:] {
				functions = append(functions, request.Function())
			}
			if fmt.Sprint(functions) != write.functions {
				t.Errorf("%v: functions %v; want %s", write.values, functions, write.functions)
			}
		}
		if got := slave.Image.Register(modbus.HoldingRegister, 30); got != 0xff98 {
			t.Errorf("the register of the parts is %#x", got)
		}
		samples := r.of("ramp")
		if last := samples[len(samples)-1]; last.Value.String() != "21.5" {
			t.Errorf("the last sample is %v, not what was written", last.Value)
		}
	})
}

// If one value of a group cannot be written none is.
func TestWriteAllRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		r := start(t, tcp(unit("plc", 1, groupTags()...)), toTCP(slave))
		pass(100 * time.Millisecond)
		for _, values := range []map[string]any{
			{},
			{"speed": 50, "nothing": 1},
			{"speed": 101, "ramp": 1},
			{"speed": 50, "mode": 7},
			{"speed": 50, "mode": "auto"}, // the ramp is between them
			{"speed": 50, "far": 1},
			{"speed": 50, "run": true},
			{"bit3": true, "far": 1},
			{"mode": "auto", "readonly": 1},
		} {
			_, err := r.poller.WriteAll(r.ctx, "line", "plc", values)
			if _, ok := errors.AsType[*modbus.RefusedError](err); !ok {
				t.Errorf("%v: %v", values, err)
			}
		}
		for _, request := range slave.Requests() {
			if f := request.Function(); f > 4 {
				t.Errorf("function %d was sent", f)
			}
		}
	})
}

// A device that takes a group only in part is found out.
func TestWriteAllIsReadBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		slave.Fault = func(r modbustest.Request) modbustest.Fault {
			if r.Function() == 16 {
				slave.Image.SetRegister(modbus.HoldingRegister, 10, 50)
				return modbustest.Fault{Mangle: func(frame []byte) []byte {
					slave.Image.SetRegister(modbus.HoldingRegister, 11, 0)
					slave.Image.SetRegister(modbus.HoldingRegister, 12, 0)
					return frame
				}}
			}
			return modbustest.Fault{}
		}
		r := start(t, tcp(unit("plc", 1, groupTags()...)), toTCP(slave))
		pass(100 * time.Millisecond)
		results, err := r.poller.WriteAll(r.ctx, "line", "plc", map[string]any{"speed": 50, "ramp": 1.5})
		_, refused := errors.AsType[*modbus.RefusedError](err)
		if err == nil || refused || !strings.Contains(err.Error(), "value of ramp") {
			t.Errorf("%v", err)
		}
		if len(results) != 2 || results[0].After.String() != "50" || results[1].After.String() != "0" {
			t.Errorf("%v", results)
		}
	})
}

func TestWriteRestrictions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slave := modbustest.New()
		tag := modbus.TagConfig{Name: "speed", Register: "holding", Address: new(10), Writable: true,
			Scale: new(0.1), Min: new(0.5), Step: 0.1, WriteInterval: 10 * time.Second}
		r := start(t, tcp(unit("plc", 1, tag)), toTCP(slave))
		pass(100 * time.Millisecond)
		write := func(value any) error {
			_, err := r.poller.Write(r.ctx, "line", "plc", "speed", value)
			return err
		}
		if err := write(0.75); err == nil || !strings.Contains(err.Error(), "between two steps") {
			t.Errorf("between steps: %v", err)
		}
		if err := write(0.8); err != nil {
			t.Errorf("on a step: %v", err)
		}
		pass(5 * time.Second)
		if err := write(0.9); err == nil || !strings.Contains(err.Error(), "every 10s at most") {
			t.Errorf("too soon: %v", err)
		}
		pass(5 * time.Second)
		if _, err := r.poller.WriteAll(r.ctx, "line", "plc", map[string]any{"speed": 0.9}); err != nil {
			t.Errorf("in time: %v", err)
		}
		if err := write(1); err == nil {
			t.Error("too soon after a group")
		}
		if got := slave.Image.Register(modbus.HoldingRegister, 10); got != 9 {
			t.Errorf("the register is %d", got)
		}
	})
}
