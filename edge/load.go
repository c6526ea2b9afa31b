package edge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

const (
	// delimiter separates keys inside the reader. It must not occur in a key;
	// the usual dot occurs in host names and topics.
	delimiter = "::"

	// maxFile bounds a configuration file: some 5,000 tags.
	maxFile = 1 << 20
)

// Load reads a configuration from a .yaml, .yml, .toml or .json file, fills in
// the defaults and checks it. Relative paths in it become relative to its
// folder; {env:NAME} in a text becomes that environment variable.
//
// The error is a *ConfigError with every problem found. The files that the
// configuration names are not opened: see CheckFiles.
func Load(path string) (*Config, error) {
	format, ok := formats[strings.ToLower(filepath.Ext(path))]
	if !ok {
		return nil, refuse(path, "unknown kind of file; name it .yaml, .toml or .json")
	}
	b, err := readFile(path)
	if err != nil {
		return nil, refuse(path, err.Error())
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, refuse(path, "its folder is unknown: "+err.Error())
	}
	return parse(b, source{file: path, dir: dir, format: format, getenv: os.LookupEnv})
}

var formats = map[string]string{".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}

// source says where the bytes of a configuration come from.
type source struct {
	file   string // as the user named it, for messages
	dir    string // absolute: what relative paths are relative to
	format string // yaml, toml or json
	getenv func(name string) (string, bool)
}

func refuse(file, text string) error {
	return &ConfigError{File: file, Problems: []Problem{{Text: text}}}
}

func readFile(path string) (b []byte, err error) {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close() // nothing was written
		b, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("no such file; name another one, or copy an example there")
	case errors.Is(err, fs.ErrPermission):
		return nil, errors.New("may not be read by this user; change its owner or mode")
	case err != nil:
		var where *fs.PathError
		if errors.As(err, &where) {
			err = where.Err
		}
		return nil, fmt.Errorf("cannot be read: %w", err)
	case len(b) > maxFile:
		return nil, fmt.Errorf("larger than %d bytes; this is no configuration", maxFile)
	}
	return b, nil
}

// parse makes a configuration of the bytes of a file.
func parse(b []byte, src source) (*Config, error) {
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	switch {
	case len(bytes.TrimSpace(b)) == 0:
		return nil, refuse(src.file, "the file is empty; restore it, or copy an example there")
	case len(bytes.Trim(b, "\x00")) == 0:
		return nil, refuse(src.file, "the file holds only zero bytes, as after a power cut while it was saved; restore it")
	}
	l := layoutOf(src.format, b)
	p := &problems{lines: l.lines, list: l.list}
	if err := p.err(src.file); err != nil {
		return nil, err
	}

	v := viper.NewWithOptions(viper.KeyDelimiter(delimiter))
	v.SetConfigType(src.format)
	if err := v.ReadConfig(bytes.NewReader(b)); err != nil {
		if parse, ok := errors.AsType[viper.ConfigParseError](err); ok {
			err = parse.Unwrap()
		}
		return nil, &ConfigError{File: src.file, Problems: []Problem{decodeProblem(src.format, err)}}
	}

	r := &reader{problems: p, source: src, texts: l.texts, tainted: map[string]bool{}}
	raw := settings(v, l.lines)
	r.applyProfiles(raw)
	tree := r.value(raw, reflect.TypeFor[Config](), "")
	cfg := newConfig()
	if err := decode(tree, cfg); err != nil {
		// What the reader lets through fits the types, or was left out.
		p.add("", "cannot be understood: %v", err)
		return nil, p.err(src.file)
	}
	cfg.source, cfg.lines, cfg.files = src.file, l.lines, r.files
	cfg.SetDefaults()
	cfg.Validate(func(path, text string) {
		if !r.isTainted(path) {
			p.report(path, text)
		}
	})
	if err := p.err(src.file); err != nil {
		return nil, err
	}
	return cfg, nil
}

// settings returns what viper has read, with the empty groups that AllSettings leaves out: one under a misspelt name
// is a mistake to be told like any other.
func settings(v *viper.Viper, lines positions) map[string]any {
	tree := v.AllSettings()
	for path := range lines {
		if _, ok := tree[path]; !ok && path != "" && !strings.ContainsAny(path, ".[") {
			tree[path] = nil
		}
	}
	for key := range tree {
		tree[key] = v.Get(key)
	}
	return tree
}

// decodeProblem words an error of viper's decoder that layoutOf did not find.
func decodeProblem(format string, err error) Problem {
	if format == "yaml" {
		return yamlProblem(err)
	}
	return Problem{Text: "not " + strings.ToUpper(format) + ": " + err.Error()}
}

func decode(tree any, cfg *Config) error {
	d, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:      cfg,
		ErrorUnused: true,
		DecodeHook:  mapstructure.TextUnmarshallerHookFunc(),
	})
	if err != nil {
		panic("BUG: edge: no decoder: " + err.Error())
	}
	return d.Decode(tree)
}
