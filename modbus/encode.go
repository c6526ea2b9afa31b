package modbus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// encode turns a value into what is written to the device: its words, or one
// byte, 0 or 1, for a coil or a bit. The error is a *RefusedError.
func (t *tag) encode(value any) ([]byte, error) {
	r := &t.register
	if text, ok := value.(string); ok && r.enum != nil {
		if raw, ok := r.rawOfText(text); ok {
			return r.encoded(raw), nil
		}
	}
	switch r.kind {
	case typeBool:
		on, err := asBool(value)
		if err != nil {
			return nil, err
		}
		return r.encoded(bit(on)), nil
	case typeString:
		return r.encodeString(value)
	case typeBytes:
		return r.encodeBytes(value)
	case typeUnix:
		value = unixSeconds(value)
	}
	text, err := asNumber(value)
	if err != nil {
		return nil, err
	}
	if err := t.checkLimits(text); err != nil {
		return nil, err
	}
	raw, err := r.rawOfNumber(text)
	if err != nil {
		return nil, err
	}
	if _, known := r.enum[raw]; r.enum != nil && !known {
		return nil, refuse("%s has no text in enum", text)
	}
	return r.encoded(raw), nil
}

// same reports whether data, read back, holds what words, from encode, asked
// for.
func (t *tag) same(words, data []byte) bool {
	r := &t.register
	switch {
	case r.table.bits():
		return data[0]&1 == words[0]
	case r.kind == typeBool && r.bit != noBit:
		return r.rawBits(data)>>r.bit&1 == uint64(words[0])
	case r.part():
		return r.rawBits(data) == r.rawBits(words)
	}
	return bytes.Equal(words, data)
}

// encoded returns what is written for a raw number. For bools the number is the
// value, before inversion.
func (r *register) encoded(raw uint64) []byte {
	if r.kind != typeBool {
		if r.part() {
			raw = raw & (1<<r.size - 1) << r.shift
		}
		return r.putWords(raw)
	}
	if r.invert {
		raw ^= 1
	}
	if r.table.bits() || r.bit != noBit {
		return []byte{byte(raw)}
	}
	return r.putWords(raw)
}

func bit(on bool) uint64 {
	if on {
		return 1
	}
	return 0
}

func (r *register) rawOfText(text string) (raw uint64, ok bool) {
	for raw, t := range r.enum {
		if t == text {
			return raw, true
		}
	}
	return 0, false
}

// asBool accepts true and false, 1 and 0, and the words for them.
func asBool(value any) (bool, error) {
	if on, ok := value.(bool); ok {
		return on, nil
	}
	switch strings.ToLower(fmt.Sprint(value)) {
	case "true", "1", "on":
		return true, nil
	case "false", "0", "off":
		return false, nil
	}
	return false, refuse("%v is not a bool: write true or false", value)
}

// asNumber returns the decimal text of a number.
func asNumber(value any) (string, error) {
	text := ""
	switch v := value.(type) {
	case string:
		text = strings.TrimSpace(v)
	case json.Number:
		text = v.String()
	case float64:
		text = strconv.FormatFloat(v, 'g', -1, 64)
	case float32:
		text = strconv.FormatFloat(float64(v), 'g', -1, 32)
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		text = fmt.Sprint(v)
	}
	if f, err := strconv.ParseFloat(text, 64); err != nil || !finite(f) {
		return "", refuse("%v is not a number", value)
	}
	return text, nil
}

// parse returns the float64 of a text that asNumber has checked.
func parse(text string) float64 {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic("BUG: modbus: number not checked: " + err.Error())
	}
	return f
}

func (t *tag) checkLimits(text string) error {
	v := parse(text)
	if low := t.config.Min; low != nil && v < *low {
		return refuse("%s is less than the minimum %v", text, *low)
	}
	if high := t.config.Max; high != nil && v > *high {
		return refuse("%s is more than the maximum %v", text, *high)
	}
	if step := t.config.Step; step > 0 {
		begin := 0.0
		if t.config.Min != nil {
			begin = *t.config.Min
		}
		steps := (v - begin) / step
		// Binary fractions are seldom exact: 0.3 is three steps of 0.1.
		if math.Abs(steps-math.Round(steps)) > 1e-9*max(1, math.Abs(steps)) {
			return refuse("%s is between two steps of %v from %v on", text, step, begin)
		}
	}
	return nil
}

// rawOfNumber undoes scale and offset. A scaled integer is rounded to the
// nearest step; an unscaled one has to be whole, and is exact at any size.
func (r *register) rawOfNumber(text string) (uint64, error) {
	if r.kind == typeFloat {
		return r.rawOfFloat((parse(text) - r.offset) / r.scale)
	}
	if !r.scaled() {
		if raw, ok := r.rawOfInteger(text); ok {
			return raw, nil
		}
	}
	f := (parse(text) - r.offset) / r.scale
	if r.scaled() {
		f = math.Round(f)
	}
	if f != math.Trunc(f) {
		return 0, refuse("%s is not a whole number", text)
	}
	raw, ok := r.rawOfInteger(strconv.FormatFloat(f+0, 'f', 0, 64)) // -0 + 0 is 0
	if !ok {
		return 0, refuse("%s does not fit %s", text, r.describe())
	}
	return raw, nil
}

// rawOfInteger reads an integer that fits the type.
func (r *register) rawOfInteger(text string) (raw uint64, ok bool) {
	if r.kind == typeInt {
		n, err := strconv.ParseInt(text, 10, r.size)
		return uint64(n), err == nil
	}
	n, err := strconv.ParseUint(text, 10, r.size)
	if err != nil || r.kind == typeUnix && n > lastUnix {
		return 0, false
	}
	if r.kind == typeBCD {
		n = toBCD(n)
		return n, n>>r.size == 0
	}
	return n, true
}

func (r *register) rawOfFloat(f float64) (uint64, error) {
	if raw := floatBits(f, r.size); finite(bitsFloat(raw, r.size)) {
		return raw, nil
	}
	return 0, refuse("%v does not fit %s", f, r.describe())
}

// describe names the type for a person.
func (r *register) describe() string {
	for name, typ := range dataTypes {
		if typ.kind == r.kind && typ.size == r.size {
			return name
		}
	}
	return fmt.Sprintf("%d bits", r.size)
}

// encodeString fills the rest of the registers with NULs.
func (r *register) encodeString(value any) ([]byte, error) {
	text, ok := value.(string)
	if !ok {
		return nil, refuse("%v is not a string", value)
	}
	room := 2 * r.width
	if r.charPerRegister {
		room = r.width
	}
	text, err := r.encodeText(text)
	if err != nil {
		return nil, err
	}
	if len(text) > room {
		return nil, refuse("the text has %d bytes, the registers hold %d", len(text), room)
	}
	words := make([]byte, 2*r.width)
	for i := range r.width {
		var w uint16
		if r.charPerRegister {
			w = uint16(byteAt(text, i))
		} else {
			w = uint16(byteAt(text, 2*i))<<8 | uint16(byteAt(text, 2*i+1))
		}
		r.putWord(words, i, w)
	}
	return words, nil
}

// byteAt returns byte i of text, NUL behind its end.
func byteAt(text string, i int) byte {
	if i < len(text) {
		return text[i]
	}
	return 0
}
