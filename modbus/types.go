package modbus

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// numeric reports whether the value is a number, before it is given a text.
func (r *register) numeric() bool {
	switch r.kind {
	case typeInt, typeUint, typeFloat, typeBCD:
		return true
	}
	return false
}

// part reports whether the value is less than its register.
func (r *register) part() bool {
	return r.bit != noBit || (r.kind == typeInt || r.kind == typeUint) && r.size < 16
}

// mask returns how to change the register to words, in the form of encode, of a
// value that is a part of it. It is in the byte order of the wire.
func (r *register) mask(words []byte) mask {
	which := uint16(1<<r.size-1) << r.shift
	if r.bit != noBit {
		which = 1 << r.bit
	}
	if r.swapBytes {
		which = which<<8 | which>>8
	}
	m := mask{keep: ^which}
	switch {
	case r.bit == noBit:
		m.set = binary.BigEndian.Uint16(words)
	case words[0] != 0:
		m.set = which
	}
	return m
}

// flag is one named bit.
type flag struct {
	bit  int
	name []byte // as JSON
}

// decodeFlags makes an object of the named bits, in their order.
func (r *register) decodeFlags(raw uint64) Value {
	object := []byte{'{'}
	for i, f := range r.flags {
		if i > 0 {
			object = append(object, ',')
		}
		object = append(append(object, f.name...), ':')
		object = strconv.AppendBool(object, raw>>f.bit&1 != 0)
	}
	return ObjectValue(string(append(object, '}')))
}

// powerLimit is the largest power of ten that SunSpec knows.
const powerLimit = 10

// power returns the power of ten in the scale register, 0 without one.
func (r *register) power(words []byte) (int, error) {
	if r.exponent == noWord {
		return 0, nil
	}
	power := int(int16(r.word(words, r.exponent)))
	if power < -powerLimit || power > powerLimit {
		return 0, fmt.Errorf("the scale register holds %#04x, which is no power of ten", uint16(power))
	}
	return power, nil
}

var errClamped = errors.New("outside of clamp: the limit stands for it")

// clamped puts a number inside its limits.
func (r *register) clamped(v Value) (Value, Quality, error) {
	if r.clamp == nil {
		return v, Good, nil
	}
	switch number, _ := v.Number(); {
	case number < r.clamp[0]:
		return FloatValue(r.clamp[0]), Uncertain, errClamped
	case number > r.clamp[1]:
		return FloatValue(r.clamp[1]), Uncertain, errClamped
	}
	return v, Good, nil
}

// lastUnix is the last second of the year 9999, behind which RFC 3339 has no
// times.
const lastUnix = 253402300799

// decodeUnix makes a time of the seconds since 1970.
func decodeUnix(raw uint64) (Value, Quality, error) {
	if raw > lastUnix {
		return Value{}, Bad, fmt.Errorf("%#x seconds since 1970 are no time", raw)
	}
	return TextValue(time.Unix(int64(raw), 0).UTC().Format(time.RFC3339)), Good, nil
}

// unixSeconds makes seconds since 1970 of a time in RFC 3339; anything else it
// returns as it is.
func unixSeconds(value any) any {
	text, ok := value.(string)
	if !ok {
		return value
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(text))
	if err != nil {
		return value
	}
	return at.Unix()
}

// decodeDateTime makes a time without a zone of six registers.
func (r *register) decodeDateTime(words []byte) (Value, Quality, error) {
	n := make([]int, r.words)
	for i := range n {
		n[i] = int(r.word(words, i))
	}
	at := time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], 0, time.UTC)
	const layout = "2006-01-02T15:04:05"
	// Date makes 1 March of 29 February in most years.
	written := fmt.Sprintf("%04d-%02d-%02dT%02d:%02d:%02d", n[0], n[1], n[2], n[3], n[4], n[5])
	if n[0] == 0 || at.Format(layout) != written {
		return Value{}, Bad, fmt.Errorf("not a date and time: %v", n)
	}
	return TextValue(written), Good, nil
}

// The encodings of a string.
const (
	encodingASCII  = "ascii"
	encodingUTF8   = "utf-8"
	encodingLatin1 = "latin-1"
)

// decodeString cuts the text at the first NUL and drops the spaces that pad it.
// Without an encoding it takes what is not UTF-8 for Latin-1.
func (r *register) decodeString(words []byte) (Value, Quality, error) {
	chars := r.inOrder(words)
	if i := slices.Index(chars, 0); i >= 0 {
		chars = chars[:i]
	}
	text := strings.TrimRight(string(chars), " ")
	switch r.encoding {
	case encodingASCII:
		if !ascii(text) {
			return Value{}, Bad, errors.New("the text is not ASCII")
		}
	case encodingUTF8:
		if !utf8.ValidString(text) {
			return Value{}, Bad, errors.New("the text is not UTF-8")
		}
	case encodingLatin1:
		text = fromLatin1(text)
	default:
		if !utf8.ValidString(text) {
			text = fromLatin1(text)
		}
	}
	return TextValue(text), Good, nil
}

// inOrder returns the bytes of a text or of raw bytes, their order undone.
func (r *register) inOrder(words []byte) []byte {
	chars := make([]byte, 0, len(words))
	for i := range r.width {
		w := r.word(words, i)
		if !r.charPerRegister {
			chars = append(chars, byte(w>>8))
		}
		chars = append(chars, byte(w))
	}
	return chars
}

// encodeText returns the bytes of a text in the encoding of the register.
func (r *register) encodeText(text string) (string, error) {
	switch {
	case r.encoding == encodingASCII && !ascii(text):
		return "", refuse("%q is not ASCII", text)
	case r.encoding != encodingLatin1:
		return text, nil
	}
	var chars []byte
	for _, c := range text {
		if c > 0xff {
			return "", refuse("%q is not in Latin-1", c)
		}
		chars = append(chars, byte(c))
	}
	return string(chars), nil
}

// encodeBytes takes hexadecimal digits for all registers.
func (r *register) encodeBytes(value any) ([]byte, error) {
	chars, err := hex.DecodeString(fmt.Sprint(value))
	if err != nil || len(chars) != 2*r.width {
		return nil, refuse("%v is not %d bytes: write %d hexadecimal digits", value, 2*r.width, 4*r.width)
	}
	words := make([]byte, len(chars))
	for i := range r.width {
		r.putWord(words, i, binary.BigEndian.Uint16(chars[2*i:]))
	}
	return words, nil
}

func ascii(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool { return c >= utf8.RuneSelf })
}

func fromLatin1(text string) string {
	runes := make([]rune, 0, len(text))
	for i := range len(text) {
		runes = append(runes, rune(text[i]))
	}
	return string(runes)
}

// bitsFloat returns the float of that size with these bits.
func bitsFloat(raw uint64, size int) float64 {
	switch size {
	case 16:
		return fromHalf(uint16(raw))
	case 32:
		return float64(math.Float32frombits(uint32(raw)))
	}
	return math.Float64frombits(raw)
}

// floatBits returns the bits of the float of that size nearest to f.
func floatBits(f float64, size int) uint64 {
	switch size {
	case 16:
		return uint64(toHalf(f))
	case 32:
		return uint64(math.Float32bits(float32(f)))
	}
	return math.Float64bits(f)
}

// fromHalf returns the value of a float of 16 bits: IEEE 754 binary16, a sign,
// five bits of exponent and ten of fraction.
func fromHalf(h uint16) float64 {
	exponent, fraction := int(h>>10&0x1f), float64(h&0x3ff)
	var f float64
	switch exponent {
	case 0:
		f = math.Ldexp(fraction, -24)
	case 0x1f:
		f = math.Inf(1)
		if fraction != 0 {
			f = math.NaN()
		}
	default:
		f = math.Ldexp(1024+fraction, exponent-25)
	}
	if h&0x8000 != 0 {
		return -f
	}
	return f
}

// toHalf returns the float of 16 bits nearest to f, the even one of two.
func toHalf(f float64) uint16 {
	var sign uint16
	if math.Signbit(f) {
		sign, f = 0x8000, -f
	}
	_, exponent := math.Frexp(f)
	exponent = max(exponent+14, 1) // biased; below 1 the fraction is not normalised
	switch {
	case math.IsNaN(f):
		return 0x7e00
	case f == 0:
		return sign
	case math.IsInf(f, 0) || exponent > 30:
		return sign | 0x7c00
	}
	// Counting in units of the last place carries into the exponent by itself,
	// up to infinity.
	units := uint16(math.RoundToEven(math.Ldexp(f, 25-exponent)))
	return sign | (uint16(exponent-1)<<10 + units)
}

// shortestFloat returns the shortest decimal, as d.ddde±dd, that names f among
// the floats of that size.
func shortestFloat(f float64, size int) string {
	if size != 16 {
		return strconv.FormatFloat(f, 'e', -1, size)
	}
	text := ""
	for digits := range 5 { // five name every one of them
		text = strconv.FormatFloat(f, 'e', digits, 64)
		if g, err := strconv.ParseFloat(text, 64); err == nil && toHalf(g) == toHalf(f) {
			break
		}
	}
	return text
}

// compileByte finds the byte of its register that an 8-bit number is.
func (t *TagConfig) compileByte(at scope, r *register) {
	switch {
	case t.Byte == "":
	case r.size != 8 || t.BitCount != 0:
		at.problem("byte", "only an int8 or uint8 is one byte of its register")
	case t.Byte == "high":
		r.shift = 8
	default:
		at.oneOf("byte", t.Byte, "low", "high")
	}
}

// compileFlags makes the named bits ready.
func (t *TagConfig) compileFlags(at scope, r *register) {
	if len(t.Bits) == 0 {
		return
	}
	if r.kind != typeUint || r.size < 16 || r.size > 32 || t.Enum != nil || r.scaled() {
		at.problem("bits", "only a uint16 or uint32 without enum and scale is a set of named bits")
		return
	}
	names := make(map[string]bool)
	for _, key := range slices.Sorted(maps.Keys(t.Bits)) {
		n, err := strconv.Atoi(key)
		name, jsonErr := json.Marshal(t.Bits[key])
		switch {
		case err != nil || n < 0 || n >= r.size:
			at.problem("bits", "%q is not a bit: 0 (least significant) to %d", key, r.size-1)
		case jsonErr != nil || t.Bits[key] == "" || names[t.Bits[key]]:
			at.problem("bits", "bit %d needs a name of its own", n)
		default:
			r.flags = append(r.flags, flag{n, name})
		}
		names[t.Bits[key]] = true
	}
	slices.SortFunc(r.flags, func(a, b flag) int { return a.bit - b.bit })
	r.kind = typeFlags
}

func (t *TagConfig) compileClamp(at scope, r *register) {
	switch {
	case len(t.Clamp) == 0:
	case !r.numeric() || r.enum != nil:
		at.problem("clamp", "only numbers without enum are clamped")
	case len(t.Clamp) != 2 || !finite(t.Clamp[0]) || !finite(t.Clamp[1]) || t.Clamp[0] >= t.Clamp[1]:
		at.problem("clamp", "write the least and the greatest value, such as [0, 100]")
	default:
		r.clamp = t.Clamp
	}
}

// compileScaleRegister makes one range of the value and its scale, so that both
// are in one answer.
func (t *TagConfig) compileScaleRegister(at scope, r *register) {
	if t.ScaleRegister == nil {
		return
	}
	scale := *t.ScaleRegister
	switch {
	case r.table.bits() || !r.numeric() || r.kind == typeBCD || r.enum != nil:
		at.problem("scale_register", "only integers and floats without enum have a scale")
		return
	case scale < 0 || scale > 65535:
		at.problem("scale_register", "%d is out of range: 0 to 65535", scale)
		return
	case scale >= r.address && scale < r.end():
		at.problem("scale_register", "%d is a register of the value itself", scale)
		return
	}
	begin, end := min(r.address, scale), max(r.end(), scale+1)
	r.first, r.exponent = r.address-begin, scale-begin
	r.address, r.width = begin, end-begin
}
