package edge

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// reader goes through the tree of a configuration file beside the types it is
// meant for. It reports what does not fit, leaves that out, and returns the
// rest with sizes and times as numbers, environment variables put in and paths
// made absolute, so that decoding it into those types cannot fail.
type reader struct {
	*problems
	source

	texts map[string]string // scalars as they are written, see layout
	files []File
	// tainted has the paths that were reported, and those that were probably
	// meant, so that "unknown key adress" is not followed by "addresses:
	// missing".
	tainted map[string]bool
}

// refuse reports a problem and leaves the value out.
func (r *reader) refuse(path, format string, args ...any) any {
	r.add(path, format, args...)
	r.tainted[path] = true
	return nil
}

func (r *reader) isTainted(path string) bool {
	for path != "" {
		if r.tainted[path] {
			return true
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return false
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// value returns what of v fits t, nil if nothing does. A missing value (null)
// is nil as well: a key whose list is commented out means its default.
func (r *reader) value(v any, t reflect.Type, path string) any {
	if v == nil {
		return nil
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == durationType:
		return r.duration(v, path)
	case reflect.PointerTo(t).Implements(textType):
		return r.custom(v, t, path)
	}
	switch t.Kind() {
	case reflect.Struct:
		return r.table(v, t, path)
	case reflect.Slice:
		return r.list(v, t, path)
	case reflect.Map:
		return r.mapping(v, t, path)
	case reflect.String:
		return r.text(v, path)
	case reflect.Bool:
		if b, ok := v.(bool); ok {
			return b
		}
		return r.refuse(path, "must be true or false, not %s", kindOf(v))
	case reflect.Float32, reflect.Float64:
		return r.float(v, path)
	default:
		return r.integer(v, t, path)
	}
}

// table reads the keys of a struct.
func (r *reader) table(v any, t reflect.Type, path string) any {
	m, ok := v.(map[string]any)
	if !ok {
		return r.refuse(path, "must be a group of keys (%s), not %s", strings.Join(keysOf(t), ", "), kindOf(v))
	}
	known := fieldsOf(t)
	out := make(map[string]any, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		at := join(path, key)
		field, ok := known[key]
		if !ok {
			r.unknown(key, at, path, t)
			continue
		}
		if value := r.value(m[key], field, at); value != nil {
			out[key] = value
		}
	}
	return out
}

func (r *reader) unknown(key, at, path string, t reflect.Type) {
	known := keysOf(t)
	if near := nearest(key, known); near != "" {
		r.refuse(at, "unknown key; did you mean %s?", near)
		r.tainted[join(path, near)] = true
		return
	}
	r.refuse(at, "unknown key; known here: %s", strings.Join(known, ", "))
}

func (r *reader) list(v any, t reflect.Type, path string) any {
	items, ok := v.([]any)
	if !ok {
		return r.refuse(path, "must be a list, not %s; write [ … ] or one - per line", kindOf(v))
	}
	// Items that do not fit are kept as zero values, or the paths of those
	// behind them would be wrong in the messages that follow.
	out := make([]any, 0, len(items))
	for i, item := range items {
		at := fmt.Sprintf("%s[%d]", path, i)
		if item == nil {
			r.refuse(at, "is empty; fill it in or remove it")
		}
		value := r.value(item, t.Elem(), at)
		if value == nil {
			value = reflect.Zero(t.Elem()).Interface()
		}
		out = append(out, value)
	}
	return out
}

func (r *reader) mapping(v any, t reflect.Type, path string) any {
	m, ok := v.(map[string]any)
	if !ok {
		return r.refuse(path, "must be pairs of key and value, not %s", kindOf(v))
	}
	out := make(map[string]any, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if value := r.value(m[key], t.Elem(), join(path, key)); value != nil {
			out[key] = value
		}
	}
	return out
}

// text reads a string. A number will do, as it is written: reference: 00001.
func (r *reader) text(v any, path string) any {
	var s string
	switch v := v.(type) {
	case string:
		s = v
	case int, int64, uint64, time.Time:
		s = fmt.Sprint(v)
	case float64:
		s = strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return r.refuse(path, "must be text, not %s; put it in quotes", kindOf(v))
	}
	if written, ok := r.texts[path]; ok {
		s = written
	}
	s, ok := r.expand(s, path)
	if !ok {
		return nil
	}
	if isFile(path) && s != "" {
		if !filepath.IsAbs(s) {
			s = filepath.Join(r.dir, s)
		}
		if path != "storage.path" && path != "api.socket" {
			r.files = append(r.files, File{Path: path, Name: s})
		}
	}
	return s
}

var environment = regexp.MustCompile(`\{env:([^{}]*)\}`)

// expand puts environment variables in.
func (r *reader) expand(s, path string) (string, bool) {
	ok := true
	if strings.Contains(environment.ReplaceAllLiteralString(s, ""), "{env:") {
		r.refuse(path, "{env: has no closing brace; write {env:NAME}")
		return "", false
	}
	s = environment.ReplaceAllStringFunc(s, func(found string) string {
		name := environment.FindStringSubmatch(found)[1]
		value, set := r.getenv(name)
		if !set {
			r.refuse(path, "the environment variable %q is not set; set it, or for a service in its unit file", name)
			ok = false
		}
		return value
	})
	return s, ok
}

// isFile says whether the value at path names a file.
func isFile(path string) bool {
	parent, key := "", path
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		parent, key = path[:i], path[i+1:]
	}
	switch key {
	case "certificate", "key", "ca", "client_ca":
		return strings.HasSuffix(parent, "tls")
	}
	return strings.HasSuffix(key, "_file") || path == "storage.path" || path == "api.socket"
}

func (r *reader) duration(v any, path string) any {
	s, ok := v.(string)
	if !ok {
		if f, isNumber := number(v); isNumber && f == 0 {
			return time.Duration(0)
		}
		return r.refuse(path, "must be a time with its unit, such as 500ms, 30s or 24h, not %s", kindOf(v))
	}
	// Messages show what is written, never what an environment variable holds.
	expanded, ok := r.expand(s, path)
	if !ok {
		return nil
	}
	d, err := time.ParseDuration(expanded)
	if err != nil {
		return r.refuse(path, "%q is not a time; write a number and ms, s, m or h, such as 500ms, 30s or 24h", s)
	}
	if d < 0 {
		return r.refuse(path, "%q is negative; write it without the minus sign", s)
	}
	return d
}

// custom lets a type of a part read its own text.
func (r *reader) custom(v any, t reflect.Type, path string) any {
	s, ok := r.text(v, path).(string)
	if !ok {
		return nil
	}
	value, ok := reflect.New(t).Interface().(encoding.TextUnmarshaler)
	if !ok {
		panic("BUG: edge: " + t.String() + " is no TextUnmarshaler")
	}
	if err := value.UnmarshalText([]byte(s)); err != nil {
		return r.refuse(path, "%v", err)
	}
	return s
}

func (r *reader) float(v any, path string) any {
	f, ok := number(v)
	if !ok {
		return r.refuse(path, "must be a number, not %s", kindOf(v))
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return r.refuse(path, "must be a finite number")
	}
	return f
}

func (r *reader) integer(v any, t reflect.Type, path string) any {
	isSize := slices.ContainsFunc([]string{"_size", "_bytes", ".bytes_per_second"}, func(end string) bool { return strings.HasSuffix(path, end) })
	if s, ok := v.(string); ok && isSize {
		expanded, ok := r.expand(s, path)
		if !ok {
			return nil
		}
		n, err := parseSize(expanded)
		if err != nil {
			return r.refuse(path, "%q %v", s, err)
		}
		v = n
	}
	f, ok := number(v)
	switch {
	case !ok && isSize:
		return r.refuse(path, "must be a size such as 512KiB, 64MiB or 2GiB, not %s", kindOf(v))
	case !ok || f != math.Trunc(f) || math.Abs(f) > 1<<62:
		return r.refuse(path, "must be a whole number, not %s", kindOf(v))
	}
	n := wide(v)
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if reflect.Zero(t).OverflowInt(n) {
			return r.refuse(path, "%d is too large", n)
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if n < 0 {
			return r.refuse(path, "must not be negative")
		}
		if reflect.Zero(t).OverflowUint(uint64(n)) {
			return r.refuse(path, "%d is too large", n)
		}
	default:
		panic("BUG: edge: configuration field of type " + t.String() + " at " + path)
	}
	return n
}

// number gives the value of any of the number types that the formats yield.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// wide gives a number that is known to be whole and below 2^62.
func wide(v any) int64 {
	switch v := v.(type) {
	case int:
		return int64(v)
	case int64:
		return v
	case uint64:
		return int64(v)
	case float64:
		return int64(v)
	}
	panic(fmt.Sprintf("BUG: edge: %T is no number", v))
}

var sizeUnits = map[string]int64{"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

// parseSize reads 512, 512KiB, 64MiB, 2GiB or 1TiB.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	factor, ok := sizeUnits[strings.TrimSpace(s[len(digits):])]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("is not a size; write a whole number and KiB, MiB, GiB or TiB, such as 512KiB or 2GiB")
	}
	if n < 0 {
		return 0, errors.New("is negative; write it without the minus sign")
	}
	if err != nil || n > (1<<62)/factor {
		return 0, errors.New("is too large")
	}
	return n * factor, nil
}

// kindOf names what a value is, in the words of someone who writes
// configurations. It never shows the value, which may be a secret.
func kindOf(v any) string {
	switch v := v.(type) {
	case map[string]any:
		return "a group of keys"
	case []any:
		return "a list"
	case string:
		if v == "" {
			return "an empty text"
		}
		return "text"
	case bool:
		return "true or false"
	case int, int64, uint64:
		return "a number"
	case float64:
		if v != math.Trunc(v) {
			return "a fraction"
		}
		return "a number"
	}
	return "a date"
}

// fieldsOf returns the keys of a configuration struct and their types.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type, t.NumField())
	for f := range t.Fields() {
		tag, rest, _ := strings.Cut(f.Tag.Get("mapstructure"), ",")
		switch {
		case strings.Contains(rest, "squash"):
			maps.Copy(fields, fieldsOf(f.Type))
		case f.IsExported() && tag != "-":
			if tag == "" {
				tag = strings.ToLower(f.Name)
			}
			fields[tag] = f.Type
		}
	}
	return fields
}

func keysOf(t reflect.Type) []string { return slices.Sorted(maps.Keys(fieldsOf(t))) }

// nearest returns the known key that key was probably meant to be, "" if none
// is near: fewer than half of its letters differ.
func nearest(key string, known []string) string {
	best, distance := "", math.MaxInt
	for _, k := range known {
		if d := editDistance(key, k); d < distance && 2*d < max(len(key), len(k)) {
			best, distance = k, d
		}
	}
	return best
}

// editDistance is Levenshtein's: how many letters to insert, delete or replace.
func editDistance(a, b string) int {
	if len(a) > 64 {
		return math.MaxInt / 2 // no key of ours is near it
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
