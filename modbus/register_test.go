package modbus

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// hexBytes reads bytes written as "41ac 0000".
func hexBytes(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testTag makes a tag ready that has to be valid.
func testTag(t *testing.T, cfg TagConfig) *tag {
	t.Helper()
	if cfg.Register == "" {
		cfg.Register = "holding"
	}
	if cfg.Address == nil {
		cfg.Address = new(0)
	}
	r := cfg.compile(scope{"tag", func(path, problem string) { t.Fatalf("%s: %s", path, problem) }})
	return &tag{config: &cfg, register: r}
}

func TestRegisterBothWays(t *testing.T) {
	tests := []struct {
		name  string
		tag   TagConfig
		words string // as on the wire
		want  string // as JSON
	}{
		{"uint16", TagConfig{}, "ffff", "65535"},
		{"uint16 BADC", TagConfig{Order: "BADC"}, "0100", "1"},
		{"int16", TagConfig{Type: "int16"}, "fff6", "-10"},
		{"int16 least", TagConfig{Type: "int16"}, "8000", "-32768"},
		{"uint32 ABCD", TagConfig{Type: "uint32", Order: "ABCD"}, "0102 0304", "16909060"},
		{"uint32 CDAB", TagConfig{Type: "uint32", Order: "CDAB"}, "0304 0102", "16909060"},
		{"uint32 BADC", TagConfig{Type: "uint32", Order: "BADC"}, "0201 0403", "16909060"},
		{"uint32 DCBA", TagConfig{Type: "uint32", Order: "DCBA"}, "0403 0201", "16909060"},
		{"int32 ABCD", TagConfig{Type: "int32"}, "ffff fffe", "-2"},
		{"int32 CDAB", TagConfig{Type: "int32", Order: "CDAB"}, "fffe ffff", "-2"},
		{"uint64 ABCD", TagConfig{Type: "uint64"}, "0102 0304 0506 0708", "72623859790382856"},
		{"uint64 CDAB", TagConfig{Type: "uint64", Order: "CDAB"}, "0708 0506 0304 0102", "72623859790382856"},
		{"uint64 BADC", TagConfig{Type: "uint64", Order: "BADC"}, "0201 0403 0605 0807", "72623859790382856"},
		{"uint64 DCBA", TagConfig{Type: "uint64", Order: "DCBA"}, "0807 0605 0403 0201", "72623859790382856"},
		{"uint64 exact", TagConfig{Type: "uint64"}, "ffff ffff ffff ffff", "18446744073709551615"},
		{"int64 exact", TagConfig{Type: "int64"}, "8000 0000 0000 0001", "-9223372036854775807"},
		{"float32 ABCD", TagConfig{Type: "float32"}, "41ac 0000", "21.5"},
		{"float32 CDAB", TagConfig{Type: "float32", Order: "CDAB"}, "0000 41ac", "21.5"},
		{"float32 BADC", TagConfig{Type: "float32", Order: "BADC"}, "ac41 0000", "21.5"},
		{"float32 DCBA", TagConfig{Type: "float32", Order: "DCBA"}, "0000 ac41", "21.5"},
		{"float32 as the device means it", TagConfig{Type: "float32"}, "3dcc cccd", "0.1"},
		{"float64 ABCD", TagConfig{Type: "float64"}, "4035 8000 0000 0000", "21.5"},
		{"float64 CDAB", TagConfig{Type: "float64", Order: "CDAB"}, "0000 0000 8000 4035", "21.5"},
		{"float64 DCBA", TagConfig{Type: "float64", Order: "DCBA"}, "0000 0000 0080 3540", "21.5"},
		{"bcd16", TagConfig{Type: "bcd16"}, "1234", "1234"},
		{"bcd32", TagConfig{Type: "bcd32"}, "1234 5678", "12345678"},
		{"bcd32 CDAB", TagConfig{Type: "bcd32", Order: "CDAB"}, "5678 1234", "12345678"},
		{"string", TagConfig{Type: "string", Count: 3}, "4142 4300 0000", `"ABC"`},
		{"string BADC", TagConfig{Type: "string", Count: 2, Order: "BADC"}, "4241 4443", `"ABCD"`},
		{"string DCBA runs forward", TagConfig{Type: "string", Count: 2, Order: "DCBA"}, "4241 4443", `"ABCD"`},
		{"string char_per_register", TagConfig{Type: "string", Count: 3, Layout: "char_per_register"}, "0041 0042 0000", `"AB"`},
		{"scaled", TagConfig{Scale: new(0.1)}, "00d7", "21.5"},
		{"scaled, binary error", TagConfig{Scale: new(0.1)}, "0003", "0.3"},
		{"scaled by thousandths", TagConfig{Type: "int32", Scale: new(0.001)}, "ffff d8f1", "-9.999"},
		{"scaled with offset", TagConfig{Scale: new(0.01), Offset: -273.15}, "726c", "19.77"},
		{"scaled with offset near zero", TagConfig{Scale: new(0.01), Offset: -273.15}, "6ab4", "0.01"},
		{"scaled up", TagConfig{Scale: new(1000.0)}, "0007", "7000"},
		{"offset only", TagConfig{Type: "int16", Offset: -40}, "0041", "25"},
		{"float32 scaled", TagConfig{Type: "float32", Scale: new(0.1)}, "4357 0000", "21.5"},
		{"bit", TagConfig{Bit: new(3)}, "0008", "true"},
		{"bit of swapped bytes", TagConfig{Bit: new(0), Order: "BADC"}, "0100", "true"},
		{"bool register", TagConfig{Type: "bool"}, "0001", "true"},
		{"bool inverted", TagConfig{Type: "bool", Invert: true}, "0001", "false"},
		{"enum", TagConfig{Enum: map[string]string{"0": "off", "2": "running"}}, "0002", `"running"`},
		{"enum negative", TagConfig{Type: "int16", Enum: map[string]string{"-1": "fault"}}, "ffff", `"fault"`},
		{"enum of bcd", TagConfig{Type: "bcd16", Enum: map[string]string{"12": "twelve"}}, "0012", `"twelve"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tag := testTag(t, test.tag)
			words := hexBytes(t, test.words)
			value, quality, err := tag.register.decode(words)
			if got := string(value.AppendJSON(nil)); got != test.want || quality != Good || err != nil {
				t.Fatalf("decode: %s %v %v; want %s", got, quality, err, test.want)
			}
			var back any
			decoder := json.NewDecoder(strings.NewReader(test.want))
			decoder.UseNumber()
			if err := decoder.Decode(&back); err != nil {
				t.Fatal(err)
			}
			encoded, err := tag.encode(back)
			if err != nil {
				t.Fatalf("encode %s: %v", test.want, err)
			}
			if !tag.same(encoded, words) {
				t.Errorf("encode %s: % x; want % x", test.want, encoded, words)
			}
		})
	}
}

func TestRegisterWithoutValue(t *testing.T) {
	tests := []struct {
		name    string
		tag     TagConfig
		words   string
		want    string
		quality Quality
	}{
		{"int8 is the low byte", TagConfig{Type: "int8"}, "12ff", "-1", Good},
		{"uint8 is the low byte", TagConfig{Type: "uint8"}, "12ff", "255", Good},
		{"any bit makes a bool true", TagConfig{Type: "bool"}, "0100", "true", Good},
		{"invalid pattern", TagConfig{Type: "int16", Invalid: []string{"0x8000"}}, "8000", "null", Bad},
		{"invalid pattern in decimal", TagConfig{Type: "int16", Invalid: []string{"32768"}}, "8000", "null", Bad},
		{"invalid decimal", TagConfig{Type: "int16", Invalid: []string{"-32768"}}, "8000", "null", Bad},
		{"invalid uint32", TagConfig{Type: "uint32", Invalid: []string{"0xFFFFFFFF"}}, "ffff ffff", "null", Bad},
		{"invalid float", TagConfig{Type: "float32", Invalid: []string{"-9999"}}, "c61c 3c00", "null", Bad},
		{"invalid is raw, not scaled", TagConfig{Scale: new(0.1), Invalid: []string{"10"}}, "0064", "10", Good},
		{"NaN", TagConfig{Type: "float32"}, "7fc0 0000", "null", Bad},
		{"infinite", TagConfig{Type: "float64"}, "fff0 0000 0000 0000", "null", Bad},
		{"too large when scaled", TagConfig{Type: "float64", Scale: new(10.0)}, "7fef ffff ffff ffff", "null", Bad},
		{"not BCD", TagConfig{Type: "bcd16"}, "12a4", "null", Bad},
		{"enum without text", TagConfig{Enum: map[string]string{"1": "on"}}, "0005", "5", Uncertain},
		{"negative zero", TagConfig{Type: "float32"}, "8000 0000", "0", Good},
		{"smallest float", TagConfig{Type: "float32"}, "0000 0001", "1e-45", Good},
		{"Latin-1", TagConfig{Type: "string", Count: 2}, "b043 2020", `"°C"`, Good},
		{"string of junk is JSON", TagConfig{Type: "string", Count: 1}, "0122", `"\u0001\""`, Good},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			value, quality, err := testTag(t, test.tag).register.decode(hexBytes(t, test.words))
			if got := string(value.AppendJSON(nil)); got != test.want || quality != test.quality {
				t.Errorf("%s %v; want %s %v", got, quality, test.want, test.quality)
			}
			if (err == nil) != (quality == Good) {
				t.Errorf("quality %v with error %v", quality, err)
			}
		})
	}
}

func TestEncodeRefuses(t *testing.T) {
	tests := []struct {
		name  string
		tag   TagConfig
		value any
	}{
		{"too large for uint16", TagConfig{}, 65536},
		{"negative for uint16", TagConfig{}, -1},
		{"too large for uint64", TagConfig{Type: "uint64"}, "18446744073709551616"},
		{"too large for int16", TagConfig{Type: "int16"}, 32768.0},
		{"too large when scaled", TagConfig{Type: "int16", Scale: new(0.1)}, 3276.8},
		{"not whole", TagConfig{}, 21.5},
		{"above max", TagConfig{Max: new(100.0)}, json.Number("100.5")},
		{"below min", TagConfig{Min: new(5.0)}, 4},
		{"not a number", TagConfig{}, "warm"},
		{"NaN", TagConfig{Type: "float32"}, "NaN"},
		{"null", TagConfig{}, nil},
		{"object", TagConfig{}, map[string]any{"value": 1}},
		{"too large for float32", TagConfig{Type: "float32"}, 1e39},
		{"bcd of five digits", TagConfig{Type: "bcd16"}, 10000},
		{"negative bcd", TagConfig{Type: "bcd16"}, -1},
		{"number for a bool", TagConfig{Type: "bool"}, 2},
		{"null for a bool", TagConfig{Type: "bool"}, nil},
		{"text too long", TagConfig{Type: "string", Count: 1}, "ABC"},
		{"number for a text", TagConfig{Type: "string", Count: 1}, 7},
		{"huge exponent", TagConfig{}, json.Number("1e999999999")},
		{"enum text unknown", TagConfig{Enum: map[string]string{"1": "on"}}, "off"},
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

func TestEncodeAccepts(t *testing.T) {
	tests := []struct {
		name  string
		tag   TagConfig
		value any
		words string
	}{
		{"nearest step", TagConfig{Scale: new(0.1)}, 21.54, "00d7"},
		{"exponent", TagConfig{}, json.Number("1e3"), "03e8"},
		{"negative zero", TagConfig{}, json.Number("-0"), "0000"},
		{"number in words", TagConfig{}, " 12 ", "000c"},
		{"bool in words", TagConfig{Type: "bool"}, "on", "0001"},
		{"float64 that is whole", TagConfig{Type: "int16"}, -5.0, "fffb"},
		{"float32", TagConfig{Type: "float32"}, float32(0.1), "3dcc cccd"},
		{"number for an enum", TagConfig{Enum: map[string]string{"1": "on"}}, 1, "0001"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			words, err := testTag(t, test.tag).encode(test.value)
			if want := hexBytes(t, test.words); string(words) != string(want) || err != nil {
				t.Errorf("encode %v: % x, %v; want % x", test.value, words, err, want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("float32", "CDAB", 0.1, -40.0, []byte{0, 0, 0x41, 0xac})
	f.Add("uint64", "DCBA", 1.0, 0.0, []byte{1, 2, 3, 4, 5, 6, 7, 8})
	f.Add("bcd32", "ABCD", 1e-9, 0.0, []byte{0x12, 0x34, 0x56, 0x78})
	f.Add("string", "BADC", 1.0, 0.0, []byte{0xff, 0, 0x41, 0x42})
	f.Add("float16", "BADC", 0.01, 0.0, []byte{0x60, 0x4d})
	f.Add("unix64", "CDAB", 1.0, 0.0, []byte{0, 0, 0x69, 0x23, 0, 0, 0, 0})
	f.Add("datetime", "ABCD", 1.0, 0.0, []byte{7, 0xea, 0, 2, 0, 28, 0, 23, 0, 59, 0, 0})
	f.Add("bytes", "BADC", 1.0, 0.0, []byte{0xff, 0, 0x41, 0x42})
	f.Add("float64", "ABCD", 1e-300, 1e300, []byte{0x7f, 0xef, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, typ, order string, scale, offset float64, words []byte) {
		cfg := TagConfig{Register: "holding", Address: new(0), Type: typ, Order: order, Scale: &scale, Offset: offset}
		if typ == "string" || typ == "bytes" {
			cfg.Count, cfg.Scale, cfg.Offset = len(words)/2, nil, 0
		}
		valid := true
		r := cfg.compile(scope{"tag", func(string, string) { valid = false }})
		if !valid || len(words) < 2*r.width {
			return
		}
		value, quality, err := r.decode(words[:2*r.width])
		if (err == nil) != (quality == Good) || quality == Bad && !value.IsNull() {
			t.Errorf("%v %v %v", value, quality, err)
		}
		if !json.Valid(value.AppendJSON(nil)) {
			t.Errorf("not JSON: %s", value.AppendJSON(nil))
		}
	})
}
