package edge

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// loadText loads a configuration from a file of the given name.
func loadText(t *testing.T, name, text string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

// The three formats say the same.
var sameInThreeFormats = map[string]string{
	"a.yaml": `
site: pump-7
log: {level: debug}
storage: {path: data, max_size: 64MiB, max_ack_delay: 0s}
broker:
  listeners:
    - {address: "127.0.0.1:1883", anonymous: true}
  limits: {connections: 50, packet_size: 512KiB, bytes_per_second: 64KiB, session_expiry: 24h}
bridges:
  - name: cloud
    addresses: ["mqtt://cloud.example.com:1883"]
    client_id: "{site}"
    username: gw7
    password_file: secrets/cloud
    keep_alive: 30s
    up: [{filter: "plant/#"}]
modbus:
  links:
    - name: line1
      tcp: "192.0.2.10:502"
      timeout: 500ms
      units:
        - name: press4
          unit: 1
          tags:
            - {name: temperature, register: holding, address: 100, type: float32, scale: 0.1, deadband: "1%"}
            - {name: mode, register: input, address: 7, invalid: ["65535"], enum: {"0": idle, "1": running}}
`,
	"a.toml": `
site = "pump-7"
[log]
level = "debug"
[storage]
path = "data"
max_size = "64MiB"
max_ack_delay = 0
[broker]
listeners = [{address = "127.0.0.1:1883", anonymous = true}]
limits = {connections = 50, packet_size = "512KiB", bytes_per_second = "64KiB", session_expiry = "24h"}
[[bridges]]
name = "cloud"
addresses = ["mqtt://cloud.example.com:1883"]
client_id = "{site}"
username = "gw7"
password_file = "secrets/cloud"
keep_alive = "30s"
[[bridges.up]]
filter = "plant/#"
[[modbus.links]]
name = "line1"
tcp = "192.0.2.10:502"
timeout = "500ms"
[[modbus.links.units]]
name = "press4"
unit = 1
[[modbus.links.units.tags]]
name = "temperature"
register = "holding"
address = 100
type = "float32"
scale = 0.1
deadband = "1%"
[[modbus.links.units.tags]]
name = "mode"
register = "input"
address = 7
invalid = [65535]
enum = {0 = "idle", 1 = "running"}
`,
	"a.json": `{
	"site": "pump-7",
	"log": {"level": "debug"},
	"storage": {"path": "data", "max_size": 67108864, "max_ack_delay": 0},
	"broker": {
		"listeners": [{"address": "127.0.0.1:1883", "anonymous": true}],
		"limits": {"connections": 50, "packet_size": "512KiB", "bytes_per_second": "64KiB", "session_expiry": "24h"}
	},
	"bridges": [{
		"name": "cloud", "addresses": ["mqtt://cloud.example.com:1883"], "client_id": "{site}",
		"username": "gw7", "password_file": "secrets/cloud", "keep_alive": "30s", "up": [{"filter": "plant/#"}]
	}],
	"modbus": {"links": [{
		"name": "line1", "tcp": "192.0.2.10:502", "timeout": "500ms",
		"units": [{"name": "press4", "unit": 1, "tags": [
			{"name": "temperature", "register": "holding", "address": 100, "type": "float32", "scale": 0.1, "deadband": "1%"},
			{"name": "mode", "register": "input", "address": 7, "invalid": [65535], "enum": {"0": "idle", "1": "running"}}
		]}]
	}]}
}`,
}

func TestLoadFormatsAgree(t *testing.T) {
	var first *Config
	for name, text := range sameInThreeFormats {
		c, err := loadText(t, name, text)
		if err != nil {
			t.Fatalf("%s:\n%v", name, err)
		}
		if dir := filepath.Dir(c.source); c.Storage.Path != filepath.Join(dir, "data") ||
			c.Bridges[0].PasswordFile != filepath.Join(dir, "secrets/cloud") {
			t.Errorf("%s: paths are not relative to its folder %s: %q %q", name, dir, c.Storage.Path, c.Bridges[0].PasswordFile)
		}
		c.Storage.Path, c.Bridges[0].PasswordFile = "", ""
		c.source, c.lines, c.files = "", nil, nil
		if first == nil {
			first = c
			continue
		}
		if !reflect.DeepEqual(c, first) {
			t.Errorf("%s differs:\n%+v\n%+v", name, c, first)
		}
	}
	if first.Site != "pump-7" || first.Log.Level != "debug" || first.Storage.MaxSize != 64<<20 || first.Storage.MaxAckDelay != 0 ||
		first.Broker.Limits.PacketSize != 512<<10 || first.Broker.Limits.ByteRate != 64<<10 || first.Broker.Limits.SessionExpiry != 24*time.Hour ||
		first.Bridges[0].KeepAlive != 30*time.Second || *first.Modbus.Links[0].Units[0].Tags[0].Scale != 0.1 ||
		first.Modbus.Links[0].Units[0].Tags[1].Enum["1"] != "running" {
		t.Errorf("not what is written: %+v", first)
	}
}

func TestLoadDefaults(t *testing.T) {
	c, err := loadText(t, "a.yml", "log: {level: info}\n")
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if c.Site != host || c.Log.Level != "info" || c.Storage.Path != "/var/lib/forebay" || c.Storage.MaxSize != 2<<30 ||
		c.Storage.MaxAckDelay != 100*time.Millisecond {
		t.Errorf("defaults: %+v", c)
	}
	if len(c.Broker.Listeners) != 1 || c.Broker.Listeners[0].Address != "127.0.0.1:1883" || !c.Broker.Listeners[0].Anonymous {
		t.Errorf("default listener: %+v", c.Broker.Listeners)
	}
}

// A key whose value is commented out means its default, in every format that
// can say so.
func TestLoadEmptyKeys(t *testing.T) {
	for name, text := range map[string]string{
		"a.yaml": "site: x\nstorage:\nbridges:\n  # - name: cloud\nmodbus:\n  links:\n",
		"a.json": `{"site": "x", "storage": null, "bridges": null, "modbus": {"links": []}}`,
		"a.toml": "site = \"x\"\nbridges = []\n[storage]\n[modbus]\n",
	} {
		c, err := loadText(t, name, text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(c.Bridges) != 0 || len(c.Modbus.Links) != 0 || c.Storage.Path != "/var/lib/forebay" {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestLoadProblems(t *testing.T) {
	const cloud = "bridges: [{name: cloud, addresses: ['mqtt://c.example.com'], up: [{filter: a}]}]\n"
	tests := []struct {
		name, file, text string
		want             []string // of each problem: line: path: text
	}{
		{"empty", "a.yaml", "", []string{"0: : the file is empty; restore it, or copy an example there"}},
		{"blank", "a.toml", " \n\n", []string{"0: : the file is empty; restore it, or copy an example there"}},
		{"zeros", "a.json", "\x00\x00\x00", []string{"0: : the file holds only zero bytes, as after a power cut while it was saved; restore it"}},
		{"comments", "a.yaml", "# site: x\n", []string{"0: : the file holds comments only; it needs at least one setting, for example log: {level: info}"}},
		{"toml comments", "a.toml", "# site\n", []string{"0: : the file holds comments only; it needs at least one setting, for example log = {level = \"info\"}"}},
		{"no configuration", "a.yaml", "- 1\n- 2\n", []string{"1: : not a configuration: it must begin with keys such as site: or broker:"}},
		{"json list", "a.json", "[]", []string{"1: : not a configuration: it must begin with keys such as site: or broker:"}},
		{"unknown kind", "a.ini", "x", []string{"0: : unknown kind of file; name it .yaml, .toml or .json"}},
		{"too large", "a.yaml", strings.Repeat("#", maxFile+1), []string{"0: : larger than 8388608 bytes; this is no configuration"}},

		{"misspelt and empty", "a.yaml", "log: {level: info}\nbrokers: {}\nbroker:\n  limit:\n", []string{
			"2: brokers: unknown key; did you mean broker?", "4: broker.limit: unknown key; did you mean limits?"}},
		{"misspelt and empty in a group", "a.toml", "[log]\n[broker.limit]\n", []string{
			"0: broker.limit: unknown key; did you mean limits?"}},
		{"cut yaml", "a.yaml", "site: x\nbroker:\n  listeners:\n    - {address: \"127.0.0.1:18", []string{
			"4: : not YAML: found unexpected end of stream; check indentation, brackets and quotes around this line"}},
		{"cut json", "a.json", "{\"site\": \"x\",\n\"log\": {", []string{"2: : the file ends in the middle; restore the rest"}},
		{"cut toml", "a.toml", "site = \"x\"\n[log]\nlevel = \"inf", []string{"3: : not TOML: basic string not terminated by \""}},
		{"wrong json", "a.json", "{\n\"site\": x}", []string{"2: : not JSON: invalid character 'x' looking for beginning of value"}},
		{"indentation", "a.yaml", "broker:\n  limits:\n   connections: 5\n  packet_size: 1\n listeners: []\n", []string{
			"4: : not YAML: did not find expected key; check indentation, brackets and quotes around this line"}},

		{"unknown key", "a.yaml", "bridges:\n  - name: cloud\n    adress: [\"mqtt://c.example.com\"]\n    up: [{filter: a}]\n", []string{
			"3: bridges[0].adress: unknown key; did you mean addresses?"}},
		{"unknown key in toml", "a.toml", "[log]\nlevl = \"info\"\n", []string{"0: log.levl: unknown key; did you mean level?"}},
		{"strange key", "a.yaml", "log: {colours: true}\n", []string{"1: log.colours: unknown key; known here: level"}},
		{"capitals", "a.yaml", "Site: x\nlog: {Level: info}\n", []string{
			"1: Site: keys are written in small letters: site", "2: log.Level: keys are written in small letters: level"}},
		{"capitals in toml", "a.toml", "[[bridges]]\nName = \"x\"\n", []string{"0: bridges[0].Name: keys are written in small letters: name"}},
		{"twice", "a.yaml", "site: a\nlog: {level: info}\nsite: b\n", []string{"3: site: given twice, first on line 1; keep one of them"}},
		{"twice in json", "a.json", "{\"site\": \"a\",\n\"site\": \"b\"}", []string{"2: site: given twice, first on line 1; keep one of them"}},
		{"delimiter", "a.yaml", "log::level: info\n", []string{"1: log::level: not a key; nest it instead of ::"}},

		{"kinds", "a.yaml", "site: [x]\nlog: info\nbroker:\n  listeners: 127.0.0.1:1883\n  limits:\n    connections: many\n    receive_maximum: 1.5\n", []string{
			"1: site: must be text, not a list; put it in quotes",
			"2: log: must be a group of keys (level), not text",
			"4: broker.listeners: must be a list, not text; write [ … ] or one - per line",
			"6: broker.limits.connections: must be a whole number, not text",
			"7: broker.limits.receive_maximum: must be a whole number, not a fraction",
		}},
		{"text is no boolean", "a.yaml", "site: true\nbroker: {listeners: [{address: ':0', anonymous: 'yes'}]}\n", []string{
			"1: site: must be text, not true or false; put it in quotes",
			"2: broker.listeners[0].anonymous: must be true or false, not text"}},
		{"empty item", "a.yaml", "broker:\n  listeners:\n    -\n", []string{"3: broker.listeners[0]: is empty; fill it in or remove it"}},
		{"sizes", "a.yaml", "storage:\n  max_size: 2 GB\nbroker: {limits: {packet_size: 1e40}}\n", []string{
			"2: storage.max_size: \"2 GB\" is not a size; write a whole number and KiB, MiB, GiB or TiB, such as 512KiB or 2GiB",
			"3: broker.limits.packet_size: must be a whole number, not a number"}},
		{"size out of range", "a.yaml", "storage: {max_size: 99999999999TiB}\n", []string{`1: storage.max_size: "99999999999TiB" is too large`}},
		{"durations", "a.yaml", "storage: {max_ack_delay: 100}\nbroker: {limits: {session_expiry: 7d}}\n", []string{
			"1: storage.max_ack_delay: must be a time with its unit, such as 500ms, 30s or 24h, not a number",
			`2: broker.limits.session_expiry: "7d" is not a time; write a number and ms, s, m or h, such as 500ms, 30s or 24h`}},
		{"negative duration", "a.toml", "storage = {max_ack_delay = \"-1s\"}\n", []string{`0: storage.max_ack_delay: "-1s" is negative; write it without the minus sign`}},
		{"environment", "a.yaml", "site: 'x-{env:FOREBAY_TEST_UNSET}'\n", []string{
			`1: site: the environment variable "FOREBAY_TEST_UNSET" is not set; set it, or for a service in its unit file`}},

		{"cut environment", "a.yaml", "site: '{env:HOME'\n", []string{"1: site: {env: has no closing brace; write {env:NAME}"}},
		{"level", "a.yaml", "log: {level: loud}\n", []string{`1: log.level: "loud" is no level; write debug, info, warn or error`}},
		{"site", "a.yaml", "site: a+b\n", []string{"1: site: cannot stand in a topic; leave out +, # and control characters"}},
		{"store too small", "a.yaml", "storage: {max_size: 1MiB}\n", []string{"1: storage.max_size: must be at least 8MiB"}},
		{"bridge names", "a.yaml", strings.Replace(cloud, "}]\n", "},\n {name: cloud, addresses: ['mqtt://d.example.com'], up: [{filter: b}]}]\n", 1), []string{
			`2: bridges[1].name: "cloud" is also the name of bridges[0]; give each its own`}},
		{"listeners", "a.yaml", "broker:\n  listeners:\n    - {address: '127.0.0.1:1883', anonymous: true}\n    - {address: '127.0.0.1:1883', anonymous: true}\n    - {address: '127.0.0.1', anonymous: true}\n", []string{
			"4: broker.listeners[1].address: already used by listeners[0]",
			"5: broker.listeners[2].address: must be host:port, such as 0.0.0.0:1883"}},
		{"listener on all interfaces", "a.yaml", "broker:\n  listeners:\n    - {address: '127.0.0.1:1883', anonymous: true}\n    - {address: '0.0.0.0:1883', anonymous: true}\n    - {address: '0.0.0.0:1884', anonymous: true}\n", []string{
			"4: broker.listeners[1].address: 0.0.0.0:1883 is taken by 127.0.0.1:1883 of listeners[0]; give one of them another port"}},
		{"topics", "a.yaml", `
modbus:
  links:
    - name: line1
      tcp: "127.0.0.1:502"
      units:
        - name: a
          unit: 1
          topic: "plant/{tagg}"
          tags: [{name: x, register: coil, address: 0}]
        - name: b
          unit: 2
          topic: "plant/x"
          tags:
            - {name: x, register: coil, address: 0}
            - {name: y, register: coil, address: 1}
`, []string{
			"9: modbus.links[0].units[0].topic: {tagg} is unknown; there are {site}, {link}, {unit} and {tag}",
			`16: modbus.links[0].units[1].tags[1].name: gives the topic "plant/x", as does modbus.links[0].units[1].tags[0].name; make them differ, for example with {tag} in the topic`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loadText(t, tt.file, tt.text)
			var refused *ConfigError
			if !errors.As(err, &refused) {
				t.Fatalf("err = %v, want a *ConfigError", err)
			}
			var got []string
			for _, p := range refused.Problems {
				got = append(got, strings.TrimSpace(strings.Join([]string{strconv.Itoa(p.Line), p.Path, p.Text}, ": ")))
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("problems:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestLoadMissingFile(t *testing.T) {
	for path, want := range map[string]string{
		filepath.Join(t.TempDir(), "none.yaml"): "no such file; name another one, or copy an example there",
		"/dev/null/x.yaml":                      "cannot be read: not a directory",
	} {
		_, err := Load(path)
		var refused *ConfigError
		if !errors.As(err, &refused) || err.Error() != path+": "+want {
			t.Errorf("Load(%s) = %v, want %s", path, err, want)
		}
	}
}

func TestConfigErrorLines(t *testing.T) {
	_, err := loadText(t, "gw.yaml", "site: x\nlog:\n  levl: info\nstorage: {max_size: 1}\n")
	if err == nil {
		t.Fatal("accepted")
	}
	file := err.(*ConfigError).File
	want := file + ":3: log.levl: unknown key; did you mean level?\n" + file + ":4: storage.max_size: must be at least 8MiB"
	if err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestLoadEnvironment(t *testing.T) {
	t.Setenv("FOREBAY_TEST_SITE", "mill")
	t.Setenv("FOREBAY_TEST_SIZE", "32MiB")
	t.Setenv("FOREBAY_TEST_SECRET", "hunter2")
	c, err := loadText(t, "a.yaml", "site: '{env:FOREBAY_TEST_SITE}-3'\nstorage: {path: '/var/{env:FOREBAY_TEST_SITE}', max_size: '{env:FOREBAY_TEST_SIZE}'}\n")
	if err != nil {
		t.Fatal(err)
	}
	if c.Site != "mill-3" || c.Storage.Path != "/var/mill" || c.Storage.MaxSize != 32<<20 {
		t.Errorf("%q %q %d", c.Site, c.Storage.Path, c.Storage.MaxSize)
	}
	// What a variable holds may be a secret, so messages show its name.
	_, err = loadText(t, "a.yaml", "storage: {max_ack_delay: '{env:FOREBAY_TEST_SECRET}', max_size: '{env:FOREBAY_TEST_SECRET}'}\n")
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "{env:FOREBAY_TEST_SECRET}") {
		t.Errorf("err = %v, want one that names the variable and not its value", err)
	}
}

// Manuals and patterns are written with leading zeros and in hexadecimal; a
// number in the file must not lose its form on the way to a text.
func TestLoadNumbersAsText(t *testing.T) {
	c, err := loadText(t, "a.yaml", `
site: 007
modbus:
  links:
    - name: 1
      tcp: "127.0.0.1:502"
      units:
        - {name: a, unit: 1, tags: [{name: x, reference: 00001}, {name: y, reference: 40001, type: int16, invalid: [0x8000, -1], deadband: 0.20}]}
`)
	if err != nil {
		t.Fatal(err)
	}
	tags := c.Modbus.Links[0].Units[0].Tags
	if c.Site != "007" || c.Modbus.Links[0].Name != "1" || tags[0].Reference != "00001" ||
		!reflect.DeepEqual(tags[1].Invalid, []string{"0x8000", "-1"}) || tags[1].Deadband != "0.20" {
		t.Errorf("%q %+v", c.Site, tags)
	}
}

func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"good": "x", "empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "a.yaml")
	load := func(passwd, acl, cloud string) error {
		t.Helper()
		text := "broker:\n  password_file: " + passwd + "\n  acl_file: " + acl +
			"\nbridges:\n  - name: c\n    addresses: ['mqtt://c.example.com']\n    up: [{filter: a}]\n    username: u\n    password_file: " + cloud + "\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(file)
		if err != nil {
			t.Fatalf("Load looks into files: %v", err)
		}
		return c.CheckFiles()
	}
	if err := load("good", "good", dir+"/good"); err != nil {
		t.Errorf("all is well, but: %v", err)
	}
	err := load("missing", "empty", dir)
	want := file + ":2: broker.password_file: " + dir + "/missing: no such file; put it there or correct the name\n" +
		file + ":3: broker.acl_file: " + dir + "/empty: is empty; fill it\n" +
		file + ":9: bridges[0].password_file: " + dir + ": is a folder; name a file in it"
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestUnreadableFile(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if got := fileProblem(name); got != "cannot be read by this user: permission denied" {
		t.Errorf("got %q", got)
	}
}

// Whatever the bytes, Load answers with a configuration that is complete or
// with problems that each fit on one line.
func FuzzLoad(f *testing.F) {
	for name, text := range sameInThreeFormats {
		f.Add(formats[filepath.Ext(name)], []byte(text))
	}
	f.Add("yaml", []byte("a: &a [*a]\n"))
	f.Add("yaml", []byte("site: &s x\nlog: {<<: {level: *s}}\n"))
	f.Add("yaml", []byte("? [1, 2]\n: x\n"))
	f.Add("yaml", []byte("bridges: [{name: 1}, 2, [3]]\nmodbus: {links: [{units: [{tags: [{enum: {1: x}}]}]}]}\n"))
	f.Add("toml", []byte("a.b.c = [[[{d = 1979-05-27}]]]\n"))
	f.Add("toml", []byte(strings.Repeat("[", 100)))
	f.Add("json", []byte(`{"broker": {"limits": {"packet_size": 1e300}}}`))
	f.Fuzz(func(t *testing.T, format string, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		switch format {
		case "yaml", "toml", "json":
		default:
			format = "yaml"
		}
		c, err := parse(b, source{file: "f", dir: "/d", format: format, getenv: func(string) (string, bool) { return "", false }})
		if err == nil {
			c.Validate(func(path, text string) { t.Errorf("accepted with %s: %s", path, text) })
			return
		}
		var refused *ConfigError
		if !errors.As(err, &refused) || len(refused.Problems) == 0 {
			t.Fatalf("err = %v, want a *ConfigError with problems", err)
		}
	})
}

// Rules that lead in circles are no error: they are told.
func TestLoopsAreTold(t *testing.T) {
	const text = "site: s\nbridges:\n- name: a\n  addresses: [mqtt://h]\n  up: [{filter: '#'}]\n  down: [{filter: 'cmd/#'}]\n" +
		"- name: b\n  addresses: [mqtt://h]\n  down: [{filter: 'x/#'}]\n"
	c, err := loadText(t, "loops.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	got := c.Loops()
	if len(got) != 2 || !strings.Contains(got[0], "bridges[0].up[0] and bridges[0].down[0]") || !strings.Contains(got[1], "bridges[0].up[0] and bridges[1].down[0]") {
		t.Errorf("loops %q", got)
	}
}
