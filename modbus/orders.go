package modbus

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// The orders of the bytes of a value, in the order in which they are shown.
var orders = [...]string{"ABCD", "CDAB", "BADC", "DCBA"}

// Interpretations returns tags for everything that count registers from where t
// is could mean: count is 2 or 4; of t only the place counts. The registers of
// 16-bit values are told apart by their addresses. A table of bits, or a place
// that does not exist, gives one tag for Validate to judge.
func Interpretations(t TagConfig, count int) []TagConfig {
	place := TagConfig{Register: t.Register, Address: t.Address, Reference: t.Reference, Type: "uint16"}
	words := place.Series(count)
	if len(words) != count {
		return words
	}
	var all []TagConfig
	add := func(at TagConfig, typ, order string, registers int) {
		at.Type, at.Order, at.Count = typ, order, registers
		at.Name = fmt.Sprintf("%s %s %d", typ, order, *at.Address)
		all = append(all, at)
	}
	if count == 4 {
		for _, typ := range []string{"float64", "uint64", "int64"} {
			for _, order := range orders {
				add(words[0], typ, order, 0)
			}
		}
	}
	for i := 0; i < count; i += 2 {
		for _, typ := range []string{"float32", "uint32", "int32", "bcd32"} {
			for _, order := range orders {
				add(words[i], typ, order, 0)
			}
		}
	}
	for _, word := range words {
		for _, typ := range []string{"uint16", "int16", "bcd16"} {
			add(word, typ, "ABCD", 0)
			add(word, typ, "BADC", 0)
		}
	}
	add(words[0], "string", "ABCD", count)
	add(words[0], "string", "BADC", count)
	return all
}

// Plausibility says how likely it is that someone meant what was read: 0 means
// unlikely, and the higher of two numbers the likelier. It goes by what people
// measure: most numbers have a moderate size and few digits, and the registers
// of a text hold nothing but characters.
func (r Reading) Plausibility() int {
	if r.Quality != Good || allZero(r.Registers) {
		return 0 // zero is zero in every way of reading it
	}
	number, _ := r.Value.Number()
	size := math.Abs(number)
	width := len(r.Registers)
	switch typ := r.Tag.Type; {
	case typ == "string":
		return plausibleText(r.Value.String(), 2*width)
	case strings.HasPrefix(typ, "float"):
		return plausibleFloat(number, 16*width)
	case width == 1:
		return plausibleWord(typ, number)
	case strings.HasPrefix(typ, "bcd"):
		// Ten of sixteen digits are decimal: eight by chance are rare.
		if size >= 1e5 {
			return 3
		}
		return 0
	case size < 1<<24 && (number < 0 || strings.HasPrefix(typ, "uint")):
		// A positive number is the same with and without a sign.
		return 5
	}
	return 0
}

func allZero(words []uint16) bool {
	for _, w := range words {
		if w != 0 {
			return false
		}
	}
	return true
}

// plausibleText wants characters in all bytes, most of them letters and digits.
func plausibleText(text string, room int) int {
	if len(text) < room-1 { // one NUL or space may pad it
		return 0
	}
	usual := 0
	for _, c := range text {
		switch {
		case c < ' ' || c > '~':
			return 0
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == ' ' || c == '-' || c == '.':
			usual++
		}
	}
	if usual < len(text) {
		return 1
	}
	return 5
}

// plausibleFloat wants a moderate size; few digits make it likelier.
func plausibleFloat(f float64, bits int) int {
	size := math.Abs(f)
	if size < 1e-4 || size >= 1e7 {
		return 0
	}
	mantissa, _, _ := strings.Cut(strconv.FormatFloat(size, 'e', -1, 64), "e")
	if digits := len(mantissa); digits <= bits/8+2 { // the point counts as one
		return 6
	}
	return 4
}

// plausibleWord judges a single register: every number is possible, a small one
// likely.
func plausibleWord(typ string, number float64) int {
	switch {
	case typ == "uint16" && number > 0 && number <= 10000:
		return 2
	case typ == "int16" && number < 0 && number >= -1000:
		return 2
	}
	return 0
}
