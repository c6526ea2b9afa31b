package modbus

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Table is one of the four tables of the Modbus data model: Modbus §4.3.
type Table uint8

// The tables of a device.
const (
	Coil Table = iota
	DiscreteInput
	InputRegister
	HoldingRegister
)

// String returns the word used in the configuration.
func (t Table) String() string {
	return [...]string{"coil", "discrete", "input", "holding"}[t&3]
}

// bits reports whether the table holds single bits, not registers.
func (t Table) bits() bool { return t == Coil || t == DiscreteInput }

// dataType is how the bytes of a register tag are read.
type dataType uint8

const (
	typeBool dataType = iota
	typeInt
	typeUint
	typeFloat
	typeBCD
	typeString
	typeBytes
	typeUnix     // seconds since 1970
	typeDateTime // six registers: year to second
	typeFlags    // named bits
)

const (
	noBit  = -1 // the tag is not a single bit
	noWord = -1 // there is no scale register
)

// register is a tag made ready: where its words are and what they mean. It is
// immutable.
type register struct {
	table   Table
	address int // of the first register that is read
	width   int // registers that are read, or 1 for a coil or discrete input
	kind    dataType
	size    int // significant bits of a number: 1 to 16, 32 or 64
	bit     int // 0 to 15, or noBit
	shift   int // where in its register a number of fewer than 16 bits begins

	// With a scale register more is read than the value.
	first    int // of the words of the value
	words    int // of the value
	exponent int // the word that holds the power of ten, or noWord

	swapWords       bool
	swapBytes       bool
	charPerRegister bool
	encoding        string // of a string: "" tells UTF-8 and Latin-1 apart
	invert          bool

	scale, offset float64
	decimals      int               // decimal places that scale and offset can add
	invalid       []uint64          // as decode sees them: sign-extended, BCD not undone
	enum          map[uint64]string // likewise; 0 and 1 of a bool
	flags         []flag            // by bit
	clamp         []float64         // least and most; nil: no limits
}

// end is the first address behind the register.
func (r *register) end() int { return r.address + r.width }

// scaled reports whether a raw number is not its own value.
func (r *register) scaled() bool { return r.scale != 1 || r.offset != 0 }

// decodeBit makes a value of one coil or discrete input.
func (r *register) decodeBit(on bool) (Value, Quality, error) {
	on = on != r.invert
	if r.enum == nil {
		return BoolValue(on), Good, nil
	}
	var raw uint64
	if on {
		raw = 1
	}
	return r.enumValue(raw, BoolValue(on))
}

// decode makes a value of the words of the register, two bytes each as on the
// wire; there are exactly width of them.
func (r *register) decode(words []byte) (Value, Quality, error) {
	if len(words) != 2*r.width {
		panic("BUG: modbus: decode was given " + strconv.Itoa(len(words)) + " bytes")
	}
	switch r.kind {
	case typeString:
		return r.decodeString(words)
	case typeBytes:
		return TextValue(hex.EncodeToString(r.inOrder(words))), Good, nil
	case typeDateTime:
		return r.decodeDateTime(words)
	}
	raw := r.rawBits(words)
	if r.kind == typeBool {
		if r.bit != noBit {
			raw = raw >> r.bit & 1
		}
		return r.decodeBit(raw != 0)
	}
	if r.kind == typeInt {
		raw = signExtend(raw, r.size)
	}
	if slices.Contains(r.invalid, raw) {
		return Value{}, Bad, errNoValue
	}
	power, err := r.power(words)
	if err != nil {
		return Value{}, Bad, err
	}
	number := raw
	switch r.kind {
	case typeFloat:
		return r.decodeFloat(raw, power)
	case typeUnix:
		return decodeUnix(raw)
	case typeFlags:
		return r.decodeFlags(raw), Good, nil
	case typeBCD:
		var ok bool
		if number, ok = fromBCD(raw); !ok {
			return Value{}, Bad, fmt.Errorf("not BCD: %#x", raw)
		}
	}
	if r.enum != nil {
		return r.enumValue(raw, r.integerValue(number, 0))
	}
	return r.clamped(r.integerValue(number, power))
}

var errNoValue = errors.New("the device says it has no value")

// rawBits returns the number in the words that were read, with the word and byte
// order undone, zero-extended.
func (r *register) rawBits(words []byte) uint64 {
	var raw uint64
	for i := range r.words {
		at := i
		if r.swapWords {
			at = r.words - 1 - i
		}
		raw = raw<<16 | uint64(r.word(words, r.first+at))
	}
	if r.size < 16 {
		raw = raw >> r.shift & (1<<r.size - 1)
	}
	return raw
}

// word returns word i with its byte order undone.
func (r *register) word(words []byte, i int) uint16 {
	if r.swapBytes {
		return binary.LittleEndian.Uint16(words[2*i:])
	}
	return binary.BigEndian.Uint16(words[2*i:])
}

// integerValue applies scale, power of ten and offset to an integer. Without
// them it is exact at any size.
func (r *register) integerValue(raw uint64, power int) Value {
	scaled := r.scaled() || power != 0
	switch {
	case !scaled && r.kind == typeInt:
		return IntValue(int64(raw))
	case !scaled:
		return UintValue(raw)
	case r.kind == typeInt:
		return FloatValue(r.engineering(float64(int64(raw)), 0, power))
	}
	return FloatValue(r.engineering(float64(raw), 0, power))
}

// decodeFloat makes a value of the bits of a float.
func (r *register) decodeFloat(raw uint64, power int) (Value, Quality, error) {
	f := bitsFloat(raw, r.size)
	switch {
	case math.IsNaN(f):
		return Value{}, Bad, errors.New("the device sent NaN")
	case math.IsInf(f, 0):
		return Value{}, Bad, errors.New("the device sent an infinite value")
	}
	// The shortest decimal that names this float is what the device means: the
	// float32 nearest to 0.1 is 0.1, not 0.10000000149011612.
	shortest := shortestFloat(f, r.size)
	f, err := strconv.ParseFloat(shortest, 64)
	if err != nil {
		panic("BUG: modbus: a formatted float does not parse: " + shortest)
	}
	if r.scaled() || power != 0 {
		f = r.engineering(f, decimalPlaces(shortest), power)
		if math.IsInf(f, 0) {
			return Value{}, Bad, errors.New("the scaled value is too large for a float64")
		}
	}
	return r.clamped(FloatValue(f))
}

// engineering applies scale, power of ten and offset to raw, which has the given
// number of decimal places. The exact result has no more places than raw, scale
// and power together or offset have, so rounding to them undoes the error of
// binary arithmetic: 215 × 0.1 is 21.5.
func (r *register) engineering(raw float64, places, power int) float64 {
	v := raw * r.scale
	if power < 0 {
		v /= math.Pow10(-power) // a negative power would be inexact
		places -= power
	} else {
		v *= math.Pow10(power)
	}
	v += r.offset
	places += r.decimals
	// Beyond 17 significant digits a float64 has nothing to round.
	if math.IsInf(v, 0) || places > 300 {
		return v
	}
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(v, 'f', places, 64), 64)
	if err != nil {
		panic("BUG: modbus: a formatted float does not parse: " + err.Error())
	}
	return rounded
}

// decimalPlaces counts the places behind the point of a number written as
// d.ddde±dd.
func decimalPlaces(e string) int {
	mantissa, exponent, _ := strings.Cut(e, "e")
	_, fraction, _ := strings.Cut(mantissa, ".")
	x, err := strconv.Atoi(exponent)
	if err != nil {
		panic("BUG: modbus: not in exponent form: " + e)
	}
	return max(0, len(fraction)-x)
}

// enumValue turns a raw number into its text.
func (r *register) enumValue(raw uint64, number Value) (Value, Quality, error) {
	if text, ok := r.enum[raw]; ok {
		return TextValue(text), Good, nil
	}
	return number, Uncertain, fmt.Errorf("no text for %v in enum", number)
}

// putWords stores a raw number as words in the order of the device.
func (r *register) putWords(raw uint64) []byte {
	words := make([]byte, 2*r.words)
	for i := r.words - 1; i >= 0; i-- {
		at := i
		if r.swapWords {
			at = r.words - 1 - i
		}
		r.putWord(words, at, uint16(raw))
		raw >>= 16
	}
	return words
}

func (r *register) putWord(words []byte, i int, w uint16) {
	if r.swapBytes {
		binary.LittleEndian.PutUint16(words[2*i:], w)
		return
	}
	binary.BigEndian.PutUint16(words[2*i:], w)
}

// signExtend copies the sign bit of a size-bit number through the high bits.
func signExtend(raw uint64, size int) uint64 {
	shift := 64 - size
	return uint64(int64(raw<<shift) >> shift)
}

// fromBCD reads one decimal digit per four bits.
func fromBCD(raw uint64) (n uint64, ok bool) {
	for shift := 60; shift >= 0; shift -= 4 {
		digit := raw >> shift & 0xf
		if digit > 9 {
			return 0, false
		}
		n = n*10 + digit
	}
	return n, true
}

// toBCD is the inverse of fromBCD for n of up to 16 digits.
func toBCD(n uint64) uint64 {
	var raw uint64
	for shift := 0; n > 0; shift += 4 {
		raw |= n % 10 << shift
		n /= 10
	}
	return raw
}
