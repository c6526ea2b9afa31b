package modbus

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestMoreTypesBothWays(t *testing.T) {
	tests := []struct {
		name  string
		tag   TagConfig
		words string
		want  string // as JSON
	}{
		{"float16", TagConfig{Type: "float16"}, "4d60", "21.5"},
		{"float16 BADC", TagConfig{Type: "float16", Order: "BADC"}, "604d", "21.5"},
		{"float16 as the device means it", TagConfig{Type: "float16"}, "2e66", "0.1"},
		{"float16 greatest", TagConfig{Type: "float16"}, "fbff", "-65500"},
		{"float16 least", TagConfig{Type: "float16"}, "0001", "6e-08"},
		{"int8 high", TagConfig{Type: "int8", Byte: "high"}, "ff12", "-1"},
		{"uint8 high of swapped bytes", TagConfig{Type: "uint8", Byte: "high", Order: "BADC"}, "12ff", "255"},
		{"bits 4 to 6", TagConfig{Bit: new(4), BitCount: 3}, "ffaf", "2"},
		{"bits with texts", TagConfig{Bit: new(14), BitCount: 2, Enum: map[string]string{"2": "auto"}}, "8001", `"auto"`},
		{"bytes", TagConfig{Type: "bytes", Count: 2}, "00ff 10a0", `"00ff10a0"`},
		{"bytes BADC", TagConfig{Type: "bytes", Count: 2, Order: "BADC"}, "ff00 a010", `"00ff10a0"`},
		{"unix32", TagConfig{Type: "unix32"}, "6923 0f80", `"2025-11-23T13:43:28Z"`},
		{"unix32 beyond 2038", TagConfig{Type: "unix32", Order: "CDAB"}, "ffff ffff", `"2106-02-07T06:28:15Z"`},
		{"unix64", TagConfig{Type: "unix64"}, "0000 0000 6923 0f80", `"2025-11-23T13:43:28Z"`},
		{"Latin-1", TagConfig{Type: "string", Count: 1, Encoding: "latin-1"}, "b043", `"°C"`},
		{"UTF-8 that is Latin-1 too", TagConfig{Type: "string", Count: 2, Encoding: "latin-1"}, "c2b0 4320", `"Â°C"`},
		{"ASCII", TagConfig{Type: "string", Count: 2, Encoding: "ascii"}, "4142 4344", `"ABCD"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tag := testTag(t, test.tag)
			words := hexBytes(t, test.words)
			value, quality, err := tag.decode(words, 0)
			if got := string(value.AppendJSON(nil)); got != test.want || quality != Good || err != nil {
				t.Fatalf("decode: %s %v %v; want %s", got, quality, err, test.want)
			}
			var back any
			if err := json.Unmarshal([]byte(test.want), &back); err != nil {
				t.Fatal(err)
			}
			encoded, err := tag.encode(back)
			if err != nil {
				t.Fatal(err)
			}
			if tag.register.part() {
				m := tag.register.mask(encoded)
				encoded[0], encoded[1] = words[0]&byte(m.keep>>8)|byte(m.set>>8), words[1]&byte(m.keep)|byte(m.set)
			}
			if text, _ := back.(string); string(encoded) != string(words) && !strings.HasSuffix(text, "°C") {
				t.Errorf("encode: % x; want % x", encoded, words)
			}
			if !tag.same(encoded, words) && test.name != "UTF-8 that is Latin-1 too" {
				t.Errorf("% x is not the same as % x", encoded, words)
			}
		})
	}
}

func TestMoreTypesOneWay(t *testing.T) {
	bits := map[string]string{"0": "running", "3": "fault", "15": `a "b"`}
	tests := []struct {
		name    string
		tag     TagConfig
		words   string
		want    string
		quality Quality
	}{
		{"bits", TagConfig{Bits: bits}, "8001", `{"running":true,"fault":false,"a \"b\"":true}`, Good},
		{"bits of 32", TagConfig{Type: "uint32", Order: "CDAB", Bits: map[string]string{"31": "x"}}, "0000 8000", `{"x":true}`, Good},
		{"bits without a value", TagConfig{Bits: bits, Invalid: []string{"0xffff"}}, "ffff", "null", Bad},
		{"datetime", TagConfig{Type: "datetime"}, "07ea 0002 001c 0017 003b 0000", `"2026-02-28T23:59:00"`, Good},
		{"no such day", TagConfig{Type: "datetime"}, "07ea 0002 001d 0017 003b 0000", "null", Bad},
		{"no date at all", TagConfig{Type: "datetime"}, "0000 0000 0000 0000 0000 0000", "null", Bad},
		{"datetime of junk", TagConfig{Type: "datetime"}, "ffff ffff ffff ffff ffff ffff", "null", Bad},
		{"unix64 beyond all years", TagConfig{Type: "unix64"}, "0001 0000 0000 0000", "null", Bad},
		{"unix64 of junk", TagConfig{Type: "unix64"}, "ffff ffff ffff ffff", "null", Bad},
		{"unix not set", TagConfig{Type: "unix32", Invalid: []string{"0"}}, "0000 0000", "null", Bad},
		{"half NaN", TagConfig{Type: "float16"}, "7e01", "null", Bad},
		{"half infinite", TagConfig{Type: "float16"}, "fc00", "null", Bad},
		{"scale behind", TagConfig{Type: "int16", ScaleRegister: new(1)}, "00d7 ffff", "21.5", Good},
		{"scale behind a gap", TagConfig{Type: "uint32", ScaleRegister: new(4)}, "0001 0000 dead beef 0002", "6553600", Good},
		{"scale before", TagConfig{Address: new(2), Type: "int16", ScaleRegister: new(0)}, "fffe 0000 fff6", "-0.1", Good},
		{"scale of 0 is exact", TagConfig{Type: "uint64", ScaleRegister: new(4)}, "ffff ffff ffff ffff 0000", "18446744073709551615", Good},
		{"scale with scale and offset", TagConfig{Type: "int16", Scale: new(0.1), Offset: -40, ScaleRegister: new(1)}, "1388 ffff", "10", Good},
		{"scale of a float", TagConfig{Type: "float32", ScaleRegister: new(2)}, "3dcc cccd 0003", "100", Good},
		{"scale not set", TagConfig{Type: "int16", ScaleRegister: new(1)}, "00d7 8000", "null", Bad},
		{"scale of junk", TagConfig{Type: "int16", ScaleRegister: new(1)}, "00d7 000b", "null", Bad},
		{"no value beside a scale", TagConfig{Type: "int16", ScaleRegister: new(1), Invalid: []string{"0x8000"}}, "8000 ffff", "null", Bad},
		{"clamp inside", TagConfig{Type: "int16", Clamp: []float64{0, 100}}, "0064", "100", Good},
		{"clamp below", TagConfig{Type: "int16", Clamp: []float64{0, 100}}, "ffff", "0", Uncertain},
		{"clamp above, scaled", TagConfig{Type: "int16", Scale: new(0.1), Clamp: []float64{0, 50.5}}, "01fa", "50.5", Uncertain},
		{"not ASCII", TagConfig{Type: "string", Count: 1, Encoding: "ascii"}, "b043", "null", Bad},
		{"not UTF-8", TagConfig{Type: "string", Count: 1, Encoding: "utf-8"}, "b043", "null", Bad},
		{"UTF-8", TagConfig{Type: "string", Count: 2, Encoding: "utf-8"}, "c2b0 4300", `"°C"`, Good},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			value, quality, err := testTag(t, test.tag).decode(hexBytes(t, test.words), 0)
			if got := string(value.AppendJSON(nil)); got != test.want || quality != test.quality {
				t.Errorf("%s %v; want %s %v", got, quality, test.want, test.quality)
			}
			if (err == nil) != (quality == Good) {
				t.Errorf("quality %v with error %v", quality, err)
			}
		})
	}
}

func TestMoreTypesRefuse(t *testing.T) {
	tests := []struct {
		name  string
		tag   TagConfig
		value any
	}{
		{"too large for float16", TagConfig{Type: "float16"}, 65520},
		{"too large for the bits", TagConfig{Bit: new(4), BitCount: 3}, 8},
		{"too large for the byte", TagConfig{Type: "int8", Byte: "high"}, 128},
		{"too few bytes", TagConfig{Type: "bytes", Count: 2}, "0011"},
		{"no digits", TagConfig{Type: "bytes", Count: 1}, "xyzw"},
		{"no time", TagConfig{Type: "unix32"}, "yesterday"},
		{"before 1970", TagConfig{Type: "unix32"}, "1969-12-31T23:59:59Z"},
		{"beyond all years", TagConfig{Type: "unix64"}, json.Number("253402300800")},
		{"not ASCII", TagConfig{Type: "string", Count: 2, Encoding: "ascii"}, "°C"},
		{"not Latin-1", TagConfig{Type: "string", Count: 4, Encoding: "latin-1"}, "Ω"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			words, err := testTag(t, test.tag).encode(test.value)
			if _, ok := errors.AsType[*RefusedError](err); !ok {
				t.Errorf("encode %v: % x, %v", test.value, words, err)
			}
		})
	}
}

// The total of a counter outlives roll-overs; a device that loses its count is
// no roll-over.
func TestTotal(t *testing.T) {
	tests := []struct {
		name string
		tag  TagConfig
		step []string // registers, then what they give
	}{
		{"uint16", TagConfig{Counter: true}, []string{
			"fff0", "65520 uncertain", "fff5", "65525 good", "0003", "65539 good", "0003", "65539 good", "fff0", "131056 good", "0000", "131072 good"}},
		{"began again", TagConfig{Counter: true}, []string{
			"0064", "100 uncertain", "0002", "102 uncertain", "0005", "105 good"}},
		{"scaled", TagConfig{Counter: true, Scale: new(0.1)}, []string{
			"ffff", "6553.5 uncertain", "0000", "6553.6 good"}},
		{"bcd16", TagConfig{Type: "bcd16", Counter: true}, []string{
			"9999", "9999 uncertain", "0001", "10001 good", "00a0", "null bad", "0002", "10002 good"}},
		{"uint32", TagConfig{Type: "uint32", Counter: true}, []string{
			"ffff ffff", "4294967295 uncertain", "0000 0001", "4294967297 good"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tag := testTag(t, test.tag)
			for i := 0; i < len(test.step); i += 2 {
				value, quality, _ := tag.decode(hexBytes(t, test.step[i]), 0)
				if got := fmt.Sprint(value, " ", quality); got != test.step[i+1] {
					t.Errorf("%s: %s; want %s", test.step[i], got, test.step[i+1])
				}
			}
		})
	}
}

// pythonTable prints, for every type and order, numbers and the registers that
// Python's struct packs them into.
const pythonTable = `
import random, struct
random.seed(1)
formats = {"int16":"h","uint16":"H","int32":"i","uint32":"I","int64":"q","uint64":"Q","float16":"e","float32":"f","float64":"d"}
for name, c in formats.items():
    size = struct.calcsize(c)
    for order in "ABCD", "CDAB", "BADC", "DCBA":
        for i in range(25):
            raw = random.randbytes(size)
            if i < 3:
                raw = [bytes(size), b"\xff" * size, b"\x80" + bytes(size - 1)][i]
            value = struct.unpack(">" + c, raw)[0]
            if value != value or value in (float("inf"), float("-inf")) or value == 0 and raw[0]:
                continue
            words = [raw[k:k+2] for k in range(0, size, 2)]
            if order in ("CDAB", "DCBA"): words.reverse()
            if order in ("BADC", "DCBA"): words = [w[::-1] for w in words]
            print(name, order, b"".join(words).hex(), repr(value))
`

func TestAgainstPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	out, err := exec.Command(python, "-c", pythonTable).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < 500 {
		t.Fatalf("only %d lines", len(lines))
	}
	for _, line := range lines {
		fields := strings.Fields(line)
		tag := testTag(t, TagConfig{Type: fields[0], Order: fields[1]})
		words := hexBytes(t, fields[2])
		value, quality, err := tag.decode(words, 0)
		if err != nil || quality != Good {
			t.Errorf("%s: %v %v", line, quality, err)
			continue
		}
		switch fields[0] {
		case "float16", "float32", "float64":
			// The shortest decimal differs from Python's, the number must not.
			got, _ := value.Number()
			want := floatBits(parse(fields[3]), tag.register.size)
			if floatBits(got, tag.register.size) != want || math.Signbit(got) != math.Signbit(parse(fields[3])) {
				t.Errorf("%s: %v", line, value)
			}
		default:
			if value.String() != fields[3] {
				t.Errorf("%s: %v", line, value)
			}
		}
		for _, number := range []string{fields[3], value.String()} {
			encoded, err := tag.encode(json.Number(number))
			if err != nil || string(encoded) != string(words) {
				t.Errorf("%s: encode %s: % x %v", line, number, encoded, err)
			}
		}
	}
}

func TestMoreTypesValidate(t *testing.T) {
	tests := []struct {
		name, want string
		tag        TagConfig
	}{
		{"byte of 16 bits", "byte", TagConfig{Byte: "high"}},
		{"byte unknown", "byte", TagConfig{Type: "int8", Byte: "middle"}},
		{"bit_count alone", "bit", TagConfig{BitCount: 3}},
		{"bit_count too large", "bit_count", TagConfig{Bit: new(14), BitCount: 3}},
		{"bits of a float", "bits", TagConfig{Type: "float32", Bits: map[string]string{"0": "a"}}},
		{"bits beyond", "bits", TagConfig{Bits: map[string]string{"16": "a"}}},
		{"bits named alike", "bits", TagConfig{Bits: map[string]string{"1": "a", "2": "a"}}},
		{"bits writable", "writable", TagConfig{Bits: map[string]string{"1": "a"}, Writable: true}},
		{"datetime writable", "writable", TagConfig{Type: "datetime", Writable: true}},
		{"encoding unknown", "encoding", TagConfig{Type: "string", Count: 1, Encoding: "ebcdic"}},
		{"encoding of a number", "encoding", TagConfig{Encoding: "ascii"}},
		{"bytes without count", "count", TagConfig{Type: "bytes"}},
		{"scale_register of a text", "scale_register", TagConfig{Type: "string", Count: 1, ScaleRegister: new(9)}},
		{"scale_register in the value", "scale_register", TagConfig{Type: "uint32", ScaleRegister: new(1)}},
		{"scale_register far away", "count", TagConfig{ScaleRegister: new(125)}},
		{"scale_register writable", "writable", TagConfig{ScaleRegister: new(1), Writable: true}},
		{"clamp of one", "clamp", TagConfig{Clamp: []float64{1}}},
		{"clamp upside down", "clamp", TagConfig{Clamp: []float64{1, 0}}},
		{"clamp of a text", "clamp", TagConfig{Type: "string", Count: 1, Clamp: []float64{0, 1}}},
		{"counter of a float", "counter", TagConfig{Type: "float32", Counter: true}},
		{"counter of 64 bits", "counter", TagConfig{Type: "uint64", Counter: true}},
		{"counter writable", "writable", TagConfig{Counter: true, Writable: true}},
		{"deadband of a time", "deadband", TagConfig{Type: "unix32", Deadband: "1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.tag.Name, test.tag.Register = "x", "holding"
			if test.tag.Address == nil {
				test.tag.Address = new(0)
			}
			c := &Config{Links: []LinkConfig{{Name: "l", TCP: "plc.example", Units: []UnitConfig{{Name: "u", Unit: new(1), Tags: []TagConfig{test.tag}}}}}}
			c.SetDefaults()
			var got []string
			c.Validate(func(path, problem string) { got = append(got, path+": "+problem) })
			if len(got) != 1 || !strings.HasPrefix(got[0], "links[0].units[0].tags[0]."+test.want+":") {
				t.Errorf("%q; want one problem of %s", got, test.want)
			}
		})
	}
}
