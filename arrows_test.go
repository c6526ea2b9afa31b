package forebay_test

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// arrows is the map of the house: which of our packages may import which. Test helpers live in packages of their own
// and only tests import them.
var arrows = map[string][]string{
	"cmd/forebay":       {"edge", "broker", "modbus", "storage", "cmd/forebay/bench"},
	"cmd/forebay/bench": {"modbus", "storage", "broker/packet"},
	"edge":              {"broker", "bridge", "modbus", "storage", "broker/packet"},
	"broker":            {"broker/core", "broker/packet", "storage"},
	"broker/core":       {"broker/packet"},
	"bridge":            {"broker/packet", "storage"},
	"modbus":            {},
	"storage":           {},
	"broker/packet":     {},
}

// helpers are the packages that only tests may import, with what they may import themselves.
var helpers = map[string][]string{
	"broker/brokertest":   {"broker", "broker/core", "broker/packet", "storage"},
	"modbus/modbustest":   {"modbus"},
	"storage/storagetest": {"storage"},
}

// foreign are packages of Go that a room must not import: what the state machine and the codec must do without.
var foreign = map[string][]string{
	"broker/core":   {"net", "os", "sync", "log", "log/slog"},
	"broker/packet": {"net", "os", "sync", "time", "log", "log/slog"},
}

// goPackage is what `go list -json` tells of one package.
type goPackage struct {
	ImportPath string
	Imports    []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	// The answer of go list is not among the files that go test compares before it repeats a cached verdict; the
	// directories that are read here are.
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// ours returns the name of a package in the house.
func ours(path string) (string, bool) { return strings.CutPrefix(path, "forebay/") }

func TestArrows(t *testing.T) {
	for _, p := range listPackages(t) {
		name, ok := ours(p.ImportPath)
		if !ok {
			continue // the module's root holds tests only
		}
		allowed, inHouse := arrows[name]
		helped, isHelper := helpers[name]
		if !inHouse && !isHelper {
			t.Errorf("package %s is not on the map of the house", name)
			continue
		}
		for _, path := range p.Imports {
			if to, ok := ours(path); ok && !slices.Contains(slices.Concat(allowed, helped), to) {
				t.Errorf("%s imports %s, which the map of the house does not draw", name, to)
			}
		}
	}
}

// Only direct imports count: nearly all of Go's own packages rest on sync and os.
func TestRoomsWithoutSocketsAndClocks(t *testing.T) {
	for _, p := range listPackages(t) {
		name, _ := ours(p.ImportPath)
		for _, path := range p.Imports {
			if slices.Contains(foreign[name], path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
}
