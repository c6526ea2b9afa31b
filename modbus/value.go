package modbus

import (
	"encoding/json"
	"math"
	"strconv"
)

// Kind is the kind of a Value.
type Kind uint8

// The kinds of a Value.
const (
	Null Kind = iota
	Bool
	Int
	Uint
	Float
	Text
	Object // named bits
)

// Value is the decoded value of a tag. The zero Value is null. Values are
// comparable with ==; a float is never NaN or infinite.
type Value struct {
	text string
	bits uint64
	kind Kind
}

// BoolValue returns a Value of kind Bool.
func BoolValue(b bool) Value {
	v := Value{kind: Bool}
	if b {
		v.bits = 1
	}
	return v
}

// IntValue returns a Value of kind Int.
func IntValue(i int64) Value { return Value{kind: Int, bits: uint64(i)} }

// UintValue returns a Value of kind Uint.
func UintValue(u uint64) Value { return Value{kind: Uint, bits: u} }

// FloatValue returns a Value of kind Float, or null for NaN and infinities,
// which have no place in JSON.
func FloatValue(f float64) Value {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return Value{}
	}
	if f == 0 {
		f = 0 // a negative zero would compare as a change and print as -0
	}
	return Value{kind: Float, bits: math.Float64bits(f)}
}

// TextValue returns a Value of kind Text.
func TextValue(s string) Value { return Value{kind: Text, text: s} }

// ObjectValue returns a Value of kind Object; object is the text of a JSON object.
func ObjectValue(object string) Value { return Value{kind: Object, text: object} }

// Kind tells what the value is.
func (v Value) Kind() Kind { return v.kind }

// IsNull reports whether there is no value.
func (v Value) IsNull() bool { return v.kind == Null }

// Number returns the value as a float64; ok is false for null, text and
// objects. A bool is 0 or 1. Integers beyond ±2^53 are rounded.
func (v Value) Number() (f float64, ok bool) {
	switch v.kind {
	case Bool, Uint:
		return float64(v.bits), true
	case Int:
		return float64(int64(v.bits)), true
	case Float:
		return math.Float64frombits(v.bits), true
	}
	return 0, false
}

// AppendText appends the value as plain text: 21.5, true, running; null for
// null, and of an object its JSON.
func (v Value) AppendText(dst []byte) []byte {
	switch v.kind {
	case Bool:
		return strconv.AppendBool(dst, v.bits != 0)
	case Int:
		return strconv.AppendInt(dst, int64(v.bits), 10)
	case Uint:
		return strconv.AppendUint(dst, v.bits, 10)
	case Float:
		return appendFloat(dst, math.Float64frombits(v.bits))
	case Text, Object:
		return append(dst, v.text...)
	}
	return append(dst, "null"...)
}

// AppendJSON appends the value as JSON. Integers are exact whatever their size.
func (v Value) AppendJSON(dst []byte) []byte {
	if v.kind != Text {
		return v.AppendText(dst)
	}
	quoted, err := json.Marshal(v.text)
	if err != nil {
		panic("BUG: modbus: a string has no JSON form: " + err.Error())
	}
	return append(dst, quoted...)
}

// String returns the value as AppendText writes it.
func (v Value) String() string { return string(v.AppendText(nil)) }

// appendFloat writes the shortest decimal that reads back as f, with an
// exponent only where digits would otherwise be lost in zeros.
func appendFloat(dst []byte, f float64) []byte {
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, f, format, -1, 64)
}
