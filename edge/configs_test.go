package edge

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// examples loads every file of the folder configs.
func examples(t *testing.T) map[string]*Config {
	t.Helper()
	dir := filepath.Join("..", "configs")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	loaded := map[string]*Config{}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		c, err := Load(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		loaded[e.Name()] = c
	}
	return loaded
}

func TestExamplesLoad(t *testing.T) {
	loaded := examples(t)
	for _, name := range []string{"forebay.yaml", "forebay.toml", "modbus-line.yaml", "aws-iot.yaml", "azure-iot-hub.yaml", "metered-uplink.yaml", "mosquitto-cloud.yaml"} {
		if loaded[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
}

// What the package installs is safe as it stands: nothing but this machine
// gets in, nothing goes out, and no file is missing.
func TestDefaultExamplesAreSafe(t *testing.T) {
	loaded := examples(t)
	for _, name := range []string{"forebay.yaml", "forebay.toml"} {
		c := loaded[name]
		if c == nil {
			t.Fatalf("%s does not load", name)
		}
		if len(c.Bridges) != 0 || len(c.Modbus.Links) != 0 {
			t.Errorf("%s: %d bridges and %d links are active", name, len(c.Bridges), len(c.Modbus.Links))
		}
		for _, l := range c.Broker.Listeners {
			if !strings.HasPrefix(l.Address, "127.0.0.1:") {
				t.Errorf("%s: listens on %s", name, l.Address)
			}
		}
		if err := c.CheckFiles(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.source, c.lines, c.files = "", nil, nil
	}
	if !reflect.DeepEqual(withoutEmpty(loaded["forebay.yaml"]), withoutEmpty(loaded["forebay.toml"])) {
		t.Errorf("forebay.yaml and forebay.toml differ:\n%+v\n%+v", loaded["forebay.yaml"], loaded["forebay.toml"])
	}
	// They say the defaults, so that what is read there is what holds.
	c := newConfig()
	c.SetDefaults()
	if !reflect.DeepEqual(loaded["forebay.yaml"], withoutEmpty(c)) {
		t.Errorf("forebay.yaml does not show the defaults:\n%+v\n%+v", loaded["forebay.yaml"], c)
	}
}

// withoutEmpty makes lists that are empty the same as those that are absent.
func withoutEmpty(c *Config) *Config {
	if len(c.Bridges) == 0 {
		c.Bridges = nil
	}
	if len(c.Modbus.Links) == 0 {
		c.Modbus.Links = nil
	}
	return c
}

// What is commented out in the examples as an example is one: with the #
// removed it loads, but for what it needs and does not have.
func TestCommentedExamplesLoad(t *testing.T) {
	for name, marks := range map[string][2]string{
		"forebay.yaml": {"bridges: []\n", "modbus:\n  links: []\n"},
		"forebay.toml": {"", ""},
	} {
		b, err := os.ReadFile(filepath.Join("..", "configs", name))
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if marks[0] != "" {
			text = strings.Replace(text, marks[0], "bridges:\n", 1)
			text = strings.Replace(text, marks[1], "modbus:\n  links:\n", 1)
		}
		c, err := loadText(t, name, uncomment(text))
		if err != nil {
			t.Errorf("%s without #:\n%v\n%s", name, err, uncomment(text))
			continue
		}
		if len(c.Bridges) != 1 || len(c.Modbus.Links) != 1 || c.Site != "pump-station-7" || len(c.Broker.Listeners) != 3 {
			t.Errorf("%s without #: %d bridges, %d links, site %s, %d listeners",
				name, len(c.Bridges), len(c.Modbus.Links), c.Site, len(c.Broker.Listeners))
		}
	}
}

// uncomment removes the # before settings. Before prose it is followed by one
// space.
func uncomment(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		body := strings.TrimLeft(line, " ")
		rest, ok := strings.CutPrefix(body, "#")
		if ok && (!strings.HasPrefix(rest, " ") || strings.HasPrefix(rest, "  ")) {
			lines[i] = line[:len(line)-len(body)] + rest
		}
	}
	return strings.Join(lines, "\n")
}

// The configuration that the README's tour tells a newcomer to write is one
// that works.
func TestReadmeTourLoads(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, begins := strings.Cut(string(readme), "   ```yaml\n")
	text, _, ends := strings.Cut(rest, "   ```\n")
	if !begins || !ends {
		t.Fatal("the README has no YAML in its tour any more")
	}
	var config strings.Builder
	for line := range strings.Lines(text) {
		config.WriteString(strings.TrimPrefix(line, "   "))
	}
	path := filepath.Join(t.TempDir(), "forebay.yaml")
	if err := os.WriteFile(path, []byte(config.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Bridges) != 1 || len(c.Modbus.Links) != 1 || len(c.Modbus.Links[0].Units[0].Tags) != 2 {
		t.Errorf("the tour loads as %s", c.Summary())
	}
}
