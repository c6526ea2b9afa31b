package modbus

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// tables by their words in the configuration.
var tables = map[string]Table{
	"coil": Coil, "discrete": DiscreteInput, "input": InputRegister, "holding": HoldingRegister,
}

// dataTypes by their words in the configuration; size in bits.
var dataTypes = map[string]struct {
	kind dataType
	size int
}{
	"bool": {typeBool, 16},
	"int8": {typeInt, 8}, "int16": {typeInt, 16}, "int32": {typeInt, 32}, "int64": {typeInt, 64},
	"uint8": {typeUint, 8}, "uint16": {typeUint, 16}, "uint32": {typeUint, 32}, "uint64": {typeUint, 64},
	"float16": {typeFloat, 16}, "float32": {typeFloat, 32}, "float64": {typeFloat, 64},
	"bcd16": {typeBCD, 16}, "bcd32": {typeBCD, 32},
	"unix32": {typeUnix, 32}, "unix64": {typeUnix, 64}, "datetime": {typeDateTime, 96},
	"string": {typeString, 0}, "bytes": {typeBytes, 0},
}

const typeNames = "bool, int8, uint8, int16, uint16, int32, uint32, int64, uint64, float16, float32, float64, bcd16, bcd32, unix32, unix64, datetime, string or bytes"

// compile makes the register of a tag, reporting what does not fit together.
// The result is usable only when nothing was reported.
func (t *TagConfig) compile(at scope) register {
	r := register{bit: noBit, exponent: noWord, invert: t.Invert, scale: 1, width: 1}
	t.compilePlace(at, &r)
	t.compileType(at, &r)
	t.compileOrder(at, &r)
	t.compileScale(at, &r)
	t.compileInvalid(at, &r)
	t.compileEnum(at, &r)
	t.compileFlags(at, &r)
	t.compileClamp(at, &r)
	r.words = r.width
	t.compileScaleRegister(at, &r)
	if r.end() > 65536 {
		at.problem("address", "%d with %d registers reaches past the last address 65535", r.address, r.width)
	}
	return r
}

// compilePlace finds table and address.
func (t *TagConfig) compilePlace(at scope, r *register) {
	table, known := tables[t.Register]
	if t.Register != "" && !known {
		at.problem("register", "%q is not known: use coil, discrete, input or holding", t.Register)
	}
	r.table = table
	if t.Reference == "" {
		t.compileAddress(at, r)
		return
	}
	if t.Address != nil {
		at.problem("reference", "both address and reference given: give one of them")
	}
	byReference, address, err := parseReference(t.Reference)
	if err != nil {
		at.problem("reference", "%v", err)
		return
	}
	if known && table != byReference {
		at.problem("reference", "%s is in the %s table, but register says %s", t.Reference, byReference, table)
	}
	r.table, r.address = byReference, address
}

func (t *TagConfig) compileAddress(at scope, r *register) {
	if t.Register == "" {
		at.problem("register", "missing: coil, discrete, input or holding (or give a reference such as 40101)")
	}
	switch {
	case t.Address == nil:
		at.problem("address", "missing: the 0-based address of the first register (or give a reference such as 40101)")
	case *t.Address < 0 || *t.Address > 65535:
		at.problem("address", "%d is out of range: 0 to 65535 (40101 in a manual is address 100, or reference 40101)", *t.Address)
	default:
		r.address = *t.Address
	}
}

// parseReference reads an address as manuals print it.
func parseReference(s string) (Table, int, error) {
	bad := fmt.Errorf("%q is not a reference: write the table digit 0, 1, 3 or 4 and a number from 1 in four or five digits, for example 40101 or 400101", s)
	if s == "" || len(s) > 6 || strings.ContainsFunc(s, func(c rune) bool { return c < '0' || c > '9' }) {
		return 0, 0, bad
	}
	if len(s) < 5 {
		// An unquoted 00017 arrives here as 15.
		return 0, 0, fmt.Errorf("%q is too short for a reference: write that of a coil with all its zeros and in quotes, for example \"00017\"", s)
	}
	byDigit := map[byte]Table{'0': Coil, '1': DiscreteInput, '3': InputRegister, '4': HoldingRegister}
	table, ok := byDigit[s[0]]
	n, err := strconv.Atoi(s[1:])
	if !ok || err != nil || n < 1 || n > 65536 {
		return 0, 0, bad
	}
	return table, n - 1, nil
}

// compileType finds type and width.
func (t *TagConfig) compileType(at scope, r *register) {
	name := t.typeName(r.table)
	typ, known := dataTypes[name]
	if !known {
		at.problem("type", "%q is not known: use %s", name, typeNames)
		typ = dataTypes["uint16"]
	}
	r.kind, r.size = typ.kind, typ.size
	r.width = max(1, typ.size/16)
	if known && r.table.bits() && r.kind != typeBool {
		at.problem("type", "a %s is one bit, it cannot be %s: leave the type out or use bool", r.table, name)
		r.kind, r.width = typeBool, 1
	}
	if t.Bit != nil || t.BitCount != 0 {
		t.compileBit(at, r, name)
	}
	if t.Invert && r.kind != typeBool {
		at.problem("invert", "only a bool can be inverted: use scale -1 for a number")
	}
	t.compileByte(at, r)
	t.compileString(at, r)
}

// typeName is the type given, or the one that the rest implies.
func (t *TagConfig) typeName(table Table) string {
	switch {
	case t.Type != "":
		return t.Type
	case table.bits() || t.Bit != nil && t.BitCount == 0:
		return "bool"
	}
	return "uint16"
}

func (t *TagConfig) compileBit(at scope, r *register, name string) {
	switch {
	case r.table.bits():
		at.problem("bit", "a %s is a bit already: leave bit out", r.table)
		return
	case t.Bit == nil:
		at.problem("bit", "missing: bit_count needs the number of the lowest bit")
		return
	case *t.Bit < 0 || *t.Bit > 15:
		at.problem("bit", "%d is out of range: 0 (least significant) to 15", *t.Bit)
		return
	case r.kind != typeBool && !(r.kind == typeUint && r.size == 16):
		at.problem("bit", "the bits of a register are a bool or a number without a sign, not %s: leave the type out", name)
	}
	r.width = 1
	switch {
	case t.BitCount == 0:
		r.bit, r.kind, r.size = *t.Bit, typeBool, 16
	case t.BitCount < 2 || *t.Bit+t.BitCount > 16:
		at.problem("bit_count", "%d bits from bit %d on: at least 2, and none above bit 15", t.BitCount, *t.Bit)
	default:
		r.shift, r.kind, r.size = *t.Bit, typeUint, t.BitCount
	}
}

func (t *TagConfig) compileString(at scope, r *register) {
	if r.kind != typeString {
		if t.Layout != "" {
			at.problem("layout", "only a string has a layout")
		}
		if t.Encoding != "" {
			at.problem("encoding", "only a string has an encoding")
		}
	}
	switch {
	case r.kind != typeString && r.kind != typeBytes:
		if t.Count != 0 {
			at.problem("count", "only a string or bytes have a count: other types know their length")
		}
		return
	case t.Count < 1 || t.Count > maxRegisters:
		at.problem("count", "%d: a string or bytes need their number of registers, 1 to %d", t.Count, maxRegisters)
	default:
		r.width = t.Count
	}
	r.encoding = t.Encoding
	if t.Encoding != "" {
		at.oneOf("encoding", t.Encoding, encodingASCII, encodingUTF8, encodingLatin1)
	}
	switch t.Layout {
	case "packed", "":
	case "char_per_register":
		r.charPerRegister = true
	default:
		at.problem("layout", "%q is not known: use packed or char_per_register", t.Layout)
	}
}

func (t *TagConfig) compileOrder(at scope, r *register) {
	switch t.Order {
	case "ABCD", "":
	case "CDAB":
		r.swapWords = true
	case "BADC":
		r.swapBytes = true
	case "DCBA":
		r.swapWords, r.swapBytes = true, true
	default:
		at.problem("order", "%q is not known: use ABCD, CDAB, BADC or DCBA", t.Order)
	}
	switch r.kind {
	case typeString, typeBytes, typeDateTime:
		r.swapWords = false // these run from register to register
	}
}

func (t *TagConfig) compileScale(at scope, r *register) {
	if t.Scale != nil {
		r.scale = *t.Scale
	}
	r.offset = t.Offset
	if r.scale == 0 {
		at.problem("scale", "0 would make every value the same: leave scale out for 1")
	}
	if !finite(r.scale) {
		at.problem("scale", "not a finite number")
		r.scale = 1
	}
	if !finite(r.offset) {
		at.problem("offset", "not a finite number")
		r.offset = 0
	}
	if r.scaled() && (!r.numeric() || t.Enum != nil) {
		at.problem("scale", "only numbers without enum have scale and offset")
	}
	r.decimals = max(places(r.scale), places(r.offset))
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// places counts the decimal places of the shortest decimal that names f.
func places(f float64) int { return decimalPlaces(strconv.FormatFloat(f, 'e', -1, 64)) }

func (t *TagConfig) compileInvalid(at scope, r *register) {
	if len(t.Invalid) > 0 && !r.numeric() && r.kind != typeUnix {
		at.problem("invalid", "only numbers and Unix times have invalid values")
		return
	}
	for _, s := range t.Invalid {
		raw, err := r.parseRaw(s)
		if err != nil {
			at.problem("invalid", "%v", err)
			continue
		}
		r.invalid = append(r.invalid, raw)
	}
}

func (t *TagConfig) compileEnum(at scope, r *register) {
	if len(t.Enum) == 0 {
		return
	}
	if r.kind != typeBool && (r.kind == typeFloat || !r.numeric()) {
		at.problem("enum", "only integers and bools have texts")
		return
	}
	r.enum = make(map[uint64]string, len(t.Enum))
	for key, text := range t.Enum {
		raw, err := r.parseRaw(key)
		if err != nil {
			at.problem("enum", "%v", err)
			continue
		}
		r.enum[raw] = text
	}
}

// parseRaw reads a raw number as rawBits returns it, sign-extended for signed
// types. Hexadecimal is the bit pattern of the registers; decimal the number
// they stand for.
func (r *register) parseRaw(s string) (uint64, error) {
	size := r.size
	if r.kind == typeBool {
		size = 1
	}
	bad := fmt.Errorf("%q is not a raw number of this type (%d bits): write a decimal number or its registers as 0x…", s, size)
	if digits, isHex := strings.CutPrefix(strings.ToLower(s), "0x"); isHex {
		raw, err := strconv.ParseUint(digits, 16, size)
		if err != nil {
			return 0, bad
		}
		if r.kind == typeInt {
			raw = signExtend(raw, size)
		}
		return raw, nil
	}
	switch r.kind {
	case typeInt:
		if n, err := strconv.ParseInt(s, 10, size); err == nil {
			return uint64(n), nil
		}
		// YAML makes 32768 of 0x8000.
		n, err := strconv.ParseUint(s, 10, size)
		if err != nil {
			return 0, bad
		}
		return signExtend(n, size), nil
	case typeFloat:
		f, err := strconv.ParseFloat(s, max(size, 32))
		if err != nil {
			return 0, bad
		}
		return floatBits(f, size), nil
	}
	n, err := strconv.ParseUint(s, 10, size)
	if err != nil {
		return 0, bad
	}
	if r.kind == typeBCD {
		n = toBCD(n)
		if size < 64 && n>>size != 0 {
			return 0, bad
		}
	}
	return n, nil
}
