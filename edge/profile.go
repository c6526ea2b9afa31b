package edge

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/viper"
)

const (
	// profileDir is where the package puts the profiles that come with it.
	profileDir = "/usr/share/forebay/profiles"

	// maxProfile bounds a profile: a copy of it goes into each unit that has it.
	maxProfile = 64 << 10
)

// profile is the file of a kind of device: what a unit of that kind has in
// common with all others, its tags above all.
type profile struct {
	file  string
	tree  map[string]any
	texts map[string]string // see layout
}

// ownKeys are those that make one unit differ from another.
var ownKeys = []string{"name", "unit", "profile"}

// applyProfiles puts the profiles of the Modbus units into the tree of a
// configuration. What a unit says itself comes before what its profile says;
// its tags come first, and complete those of the same names.
func (r *reader) applyProfiles(tree map[string]any) {
	loaded := map[string]*profile{}
	bus, _ := tree["modbus"].(map[string]any)
	links, _ := bus["links"].([]any)
	for i, link := range links {
		group, _ := link.(map[string]any)
		units, _ := group["units"].([]any)
		for j, item := range units {
			unit, _ := item.(map[string]any)
			name, named := unit["profile"].(string)
			if !named || name == "" {
				continue // another kind of value is refused with all the others
			}
			at := fmt.Sprintf("modbus.links[%d].units[%d]", i, j)
			p := loaded[name]
			if p == nil {
				var err error
				if p, err = r.loadProfile(name); err != nil {
					r.refuse(at+".profile", "%v", err)
					r.tainted[at] = true
					continue
				}
				loaded[name] = p
			}
			r.files = append(r.files, File{Path: at + ".profile", Name: p.file})
			r.apply(p, unit, at)
		}
	}
}

var profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// loadProfile reads a profile: a path, or a name in the folder profiles beside
// the configuration or in that of the package.
func (r *reader) loadProfile(name string) (*profile, error) {
	files := []string{name}
	switch {
	case strings.ContainsRune(name, filepath.Separator):
		if !filepath.IsAbs(name) {
			files[0] = filepath.Join(r.dir, name)
		}
	case !profileName.MatchString(name):
		return nil, fmt.Errorf("%q is no name of a profile: write small letters, digits, ., - and _, or a path with a /", name)
	default:
		files = []string{filepath.Join(r.dir, "profiles", name+".yaml"), filepath.Join(profileDir, name+".yaml")}
	}
	for _, file := range files {
		info, err := os.Stat(file)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return nil, fmt.Errorf("%s cannot be reached: %s", file, reason(err))
		case !info.Mode().IsRegular() || info.Size() > maxProfile:
			return nil, fmt.Errorf("%s is no file of at most %d bytes", file, maxProfile)
		}
		return readProfile(file)
	}
	return nil, fmt.Errorf("there is no %s", strings.Join(files, " and no "))
}

func readProfile(file string) (*profile, error) {
	b, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return parseProfile(file, b)
}

func parseProfile(file string, b []byte) (*profile, error) {
	l := layoutOf("yaml", b)
	if len(l.list) > 0 {
		return nil, fmt.Errorf("%s:%d: %s: %s", file, l.list[0].Line, l.list[0].Path, l.list[0].Text)
	}
	v := viper.NewWithOptions(viper.KeyDelimiter(delimiter))
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(b)); err != nil {
		return nil, fmt.Errorf("%s: %s", file, decodeProblem("yaml", err).Text)
	}
	p := &profile{file, settings(v, l.lines), l.texts}
	for _, key := range ownKeys {
		if _, ok := p.tree[key]; ok {
			return nil, fmt.Errorf("%s: %s belongs to a unit, not to a profile", file, key)
		}
	}
	if tags, _ := p.tree["tags"].([]any); len(tags) == 0 {
		return nil, fmt.Errorf("%s has no tags", file)
	}
	return p, nil
}

// apply puts a profile into the unit at a path.
func (r *reader) apply(p *profile, unit map[string]any, at string) {
	for key, value := range p.tree {
		if _, own := unit[key]; !own && key != "tags" {
			unit[key] = value
			r.adopt(p, key, join(at, key))
		}
	}
	own, isList := unit["tags"].([]any)
	if unit["tags"] != nil && !isList {
		return // it is refused with all the others
	}
	tags, byName := slices.Clone(own), map[any]int{}
	for k, item := range own {
		if tag, ok := item.(map[string]any); ok && tag["name"] != nil {
			byName[fmt.Sprint(tag["name"])] = k
		}
	}
	listed, _ := p.tree["tags"].([]any)
	for k, item := range listed {
		from, ok := item.(map[string]any)
		if !ok {
			continue
		}
		to, known := byName[fmt.Sprint(from["name"])]
		if !known {
			to = len(tags)
			tags = append(tags, maps.Clone(from))
			r.adopt(p, fmt.Sprintf("tags[%d]", k), fmt.Sprintf("%s.tags[%d]", at, to))
			continue
		}
		tag := maps.Clone(tags[to].(map[string]any)) // byName has no others
		for key, value := range from {
			if _, own := tag[key]; !own {
				tag[key] = value
				r.adopt(p, fmt.Sprintf("tags[%d].%s", k, key), fmt.Sprintf("%s.tags[%d].%s", at, to, key))
			}
		}
		tags[to] = tag
	}
	unit["tags"] = tags
}

// adopt takes over how values are written in a profile, and notes for problems
// that they come from there.
func (r *reader) adopt(p *profile, from, to string) {
	if r.origins == nil {
		r.origins = map[string]string{}
	}
	r.origins[to] = p.file
	for path, text := range p.texts {
		rest, ok := strings.CutPrefix(path, from)
		if ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			r.texts[to+rest] = text
		}
	}
}
