package modbus

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// validTag is a tag without problems.
func validTag(name string) TagConfig {
	return TagConfig{Name: name, Register: "holding", Address: new(100)}
}

// validConfig is a configuration without problems.
func validConfig() Config {
	return Config{Links: []LinkConfig{
		{Name: "line1", TCP: "192.0.2.10", Units: []UnitConfig{{Name: "press4", Unit: new(1), Tags: []TagConfig{validTag("a"), validTag("b")}}}},
		{Name: "line2", RTU: &SerialConfig{Port: "/dev/ttyUSB0"}, Units: []UnitConfig{{Name: "press4", Unit: new(1), Tags: []TagConfig{validTag("a")}}}},
	}}
}

// problemsOf validates and returns "path: problem" lines.
func problemsOf(c *Config) []string {
	var all []string
	c.SetDefaults()
	c.Validate(func(path, problem string) { all = append(all, path+": "+problem) })
	return all
}

func TestDefaults(t *testing.T) {
	c := validConfig()
	c.Links[0].Units[0].Interval = 5 * time.Second
	c.Links[0].Units[0].Tags[1].Interval = time.Minute
	c.Links[0].Units[0].Tags[1].QoS = new(0)
	c.SetDefaults()
	u := c.Links[0].Units[0]
	got := strings.TrimSpace(fmt.Sprintln(c.Links[0].Timeout, u.Topic, u.Payload, *u.QoS, *u.Retain, u.MaxRegisters, u.MaxBits, u.MaxGap,
		u.Tags[0].Interval, u.Tags[1].Interval, *u.Tags[0].QoS, *u.Tags[1].QoS, u.Tags[0].Order, *u.Tags[0].Scale, *c.Links[1].RTU))
	want := "1s modbus/{link}/{unit}/{tag} json 1 false 125 2000 0 5s 1m0s 1 0 ABCD 1 {/dev/ttyUSB0 19200 even 1 8 <nil>}"
	if got != want {
		t.Errorf("defaults:\n%s; want\n%s", got, want)
	}
	if p := problemsOf(&c); p != nil {
		t.Errorf("problems of a valid configuration: %q", p)
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	const link, unit, tag = "links[0]", "links[0].units[0]", "links[0].units[0].tags[0]"
	edit := func(f func(*TagConfig)) func(*Config) {
		return func(c *Config) { f(&c.Links[0].Units[0].Tags[0]) }
	}
	tests := []struct {
		name    string
		change  func(*Config)
		problem string // beginning of the only problem
	}{
		{"no name", func(c *Config) { c.Links[0].Name = "" }, link + ".name: missing"},
		{"name twice", func(c *Config) { c.Links[1].Name = "line1" }, "links[1].name: \"line1\" is the name of another link"},
		{"unit name twice", func(c *Config) {
			u := c.Links[0].Units[0]
			c.Links[0].Units = append(c.Links[0].Units, u)
		}, "links[0].units[1].name: \"press4\" is"},
		{"tag name twice", func(c *Config) { c.Links[0].Units[0].Tags[1].Name = "a" }, "links[0].units[0].tags[1].name: \"a\" is"},
		{"control character", edit(func(t *TagConfig) { t.Name = "a\n" }), tag + ".name: "},
		{"no transport", func(c *Config) { c.Links[0].TCP = "" }, link + ": 0 transports"},
		{"two transports", func(c *Config) { c.Links[0].RTUOverTCP = "192.0.2.1:4001" }, link + ": 2 transports"},
		{"address without host", func(c *Config) { c.Links[0].TCP = ":502" }, link + ".tcp: \":502\" is not an address"},
		{"port out of range", func(c *Config) { c.Links[0].TCP = "plc:99999" }, link + ".tcp: \"99999\" is not a port"},
		{"no serial port", func(c *Config) { c.Links[1].RTU.Port = "" }, "links[1].rtu.port: missing"},
		{"baud", func(c *Config) { c.Links[1].RTU.Baud = 1 }, "links[1].rtu.baud: 1 is out of range"},
		{"parity", func(c *Config) { c.Links[1].RTU.Parity = "E" }, "links[1].rtu.parity: \"E\" is not known: use none, even, odd"},
		{"data bits", func(c *Config) { c.Links[1].RTU.DataBits = 7 }, "links[1].rtu.data_bits: 7: RTU frames need 8"},
		{"serial port twice", func(c *Config) {
			other := c.Links[1]
			other.Name = "line3"
			c.Links = append(c.Links, other)
		}, "links[2].rtu.port: /dev/ttyUSB0 is the port of link line2"},
		{"more than the line carries", func(c *Config) {
			c.Links[1].RTU.Baud = 1200
			c.Links[1].Units[0].Tags[0].Type, c.Links[1].Units[0].Tags[0].Count = "string", 100
		}, "links[1].rtu.baud: 1 reads at 1200 baud take 2.0 times the time their intervals give them: read tag a of unit press4 (every 1s) 2.6 times less often, or use a faster line"},
		{"broadcast", func(c *Config) { c.Links[1].Units[0].Unit = new(0) }, "links[1].units[0].unit: 0 is the broadcast"},
		{"timeout", func(c *Config) { c.Links[0].Timeout = time.Hour }, link + ".timeout: 1h0m0s is out of range"},
		{"TLS without TCP", func(c *Config) { c.Links[1].TLS = &TLSConfig{} }, "links[1].tls: only tcp can be secured"},
		{"certificate without key", func(c *Config) { c.Links[0].TLS = &TLSConfig{Certificate: "a"} }, link + ".tls: certificate and key"},
		{"ASCII with 6 data bits", func(c *Config) { c.Links[1].ASCII, c.Links[1].RTU = c.Links[1].RTU, nil; c.Links[1].ASCII.DataBits = 6 }, "links[1].ascii.data_bits: 6 is out of range"},
		{"RTS", func(c *Config) { c.Links[1].RTU.RS485 = &RS485Config{RTSOnSend: "up"} }, "links[1].rtu.rs485.rts_on_send: \"up\" is not known"},
		{"RS-485 delay", func(c *Config) { c.Links[1].RTU.RS485 = &RS485Config{DelayAfterSend: time.Second} }, "links[1].rtu.rs485.delay_after_send: 1s is out of range"},
		{"request_delay", func(c *Config) { c.Links[0].RequestDelay = time.Minute }, link + ".request_delay: 1m0s is out of range"},
		{"connections", func(c *Config) { c.Links[0].Connections = 17 }, link + ".connections: 17 is out of range"},
		{"connections of a port", func(c *Config) { c.Links[1].Connections = 2 }, "links[1].connections: a serial port is opened once"},
		{"in_flight of a port", func(c *Config) { c.Links[1].InFlight = 2 }, "links[1].in_flight: only frames of tcp and udp"},
		{"in_flight with a delay", func(c *Config) { c.Links[0].InFlight = 2; c.Links[0].RequestDelay = time.Second }, link + ".in_flight: request_delay keeps"},
		{"in_flight with a close", func(c *Config) { c.Links[0].InFlight = 2; c.Links[0].CloseAfterRequest = true }, link + ".in_flight: close_after_request leaves"},
		{"no units", func(c *Config) { c.Links[0].Units = nil }, link + ".units: missing"},
		{"no unit ID", func(c *Config) { c.Links[0].Units[0].Unit = nil }, unit + ".unit: missing"},
		{"unit ID", func(c *Config) { c.Links[0].Units[0].Unit = new(256) }, unit + ".unit: 256 is out of range"},
		{"interval", func(c *Config) { c.Links[0].Units[0].Interval = time.Millisecond; c.Links[0].Units[0].Tags = nil }, unit + ".interval: 1ms is out of range"},
		{"interval of a week", edit(func(t *TagConfig) { t.Interval = 168 * time.Hour }), tag + ".interval: 168h0m0s is out of range"},
		{"align", edit(func(t *TagConfig) { t.Align = 7 * time.Minute }), tag + ".align: 7m0s: use a divisor of 24h"},
		{"align of an interval", edit(func(t *TagConfig) { t.Align, t.Interval = 15*time.Minute, time.Minute }), tag + ".align: interval is 1m0s"},
		{"max_registers", func(c *Config) { c.Links[0].Units[0].MaxRegisters = 126 }, unit + ".max_registers: 126 is out of range: 1 to 125"},
		{"payload", func(c *Config) { c.Links[0].Units[0].Payload = "xml" }, unit + ".payload: \"xml\" is not known"},
		{"unknown register", edit(func(t *TagConfig) { t.Register = "hold" }), tag + ".register: \"hold\" is not known"},
		{"no register", edit(func(t *TagConfig) { t.Register = "" }), tag + ".register: missing"},
		{"no address", edit(func(t *TagConfig) { t.Address = nil }), tag + ".address: missing"},
		{"address out of range", edit(func(t *TagConfig) { t.Address = new(400101) }), tag + ".address: 400101 is out of range"},
		{"past the end", edit(func(t *TagConfig) { t.Address = new(65535); t.Type = "int32" }), tag + ".address: 65535 with 2 registers"},
		{"reference and address", edit(func(t *TagConfig) { t.Register = ""; t.Reference = "40101" }), tag + ".reference: both"},
		{"reference and other register", edit(func(t *TagConfig) { t.Register = "coil"; t.Address = nil; t.Reference = "40101" }), tag + ".reference: 40101 is in the holding table"},
		{"reference of no table", edit(func(t *TagConfig) { t.Register = ""; t.Address = nil; t.Reference = "50101" }), tag + ".reference: \"50101\" is not"},
		{"unknown type", edit(func(t *TagConfig) { t.Type = "real" }), tag + ".type: \"real\" is not known"},
		{"float coil", edit(func(t *TagConfig) { t.Register = "coil"; t.Type = "float32" }), tag + ".type: a coil is one bit"},
		{"unknown order", edit(func(t *TagConfig) { t.Order = "ACBD" }), tag + ".order: \"ACBD\" is not known"},
		{"string without count", edit(func(t *TagConfig) { t.Type = "string" }), tag + ".count: 0: a string or bytes need"},
		{"count of a number", edit(func(t *TagConfig) { t.Count = 2 }), tag + ".count: only a string"},
		{"count above the unit's maximum", func(c *Config) {
			c.Links[0].Units[0].MaxRegisters = 16
			c.Links[0].Units[0].Tags[0].Type, c.Links[0].Units[0].Tags[0].Count = "string", 20
		}, tag + ".count: the value has 20 registers"},
		{"bit 16", edit(func(t *TagConfig) { t.Bit = new(16) }), tag + ".bit: 16 is out of range"},
		{"bit of a float", edit(func(t *TagConfig) { t.Bit = new(1); t.Type = "float32" }), tag + ".bit: the bits of a register are"},
		{"bit of a coil", edit(func(t *TagConfig) { t.Register = "coil"; t.Bit = new(1) }), tag + ".bit: a coil is a bit already"},
		{"scale 0", edit(func(t *TagConfig) { t.Scale = new(0.0) }), tag + ".scale: 0 would"},
		{"scaled bool", edit(func(t *TagConfig) { t.Type = "bool"; t.Scale = new(2.0) }), tag + ".scale: only numbers"},
		{"inverted number", edit(func(t *TagConfig) { t.Invert = true }), tag + ".invert: only a bool"},
		{"invalid out of range", edit(func(t *TagConfig) { t.Invalid = []string{"65536"} }), tag + ".invalid: \"65536\" is not a raw number"},
		{"enum key", edit(func(t *TagConfig) { t.Enum = map[string]string{"x": "y"} }), tag + ".enum: \"x\" is not a raw number"},
		{"deadband", edit(func(t *TagConfig) { t.Deadband = "1 percent" }), tag + ".deadband: \"1 percent\" is not a deadband"},
		{"deadband of a bool", edit(func(t *TagConfig) { t.Type = "bool"; t.Deadband = "1" }), tag + ".deadband: only numbers"},
		{"max_interval", edit(func(t *TagConfig) { t.MinInterval = time.Minute; t.MaxInterval = time.Second }), tag + ".max_interval: 1s is shorter"},
		{"qos", edit(func(t *TagConfig) { t.QoS = new(3) }), tag + ".qos: 3 is out of range"},
		{"writable input", edit(func(t *TagConfig) { t.Register = "input"; t.Writable = true }), tag + ".writable: the input table"},
		{"min above max", edit(func(t *TagConfig) { t.Writable = true; t.Min, t.Max = new(2.0), new(1.0) }), tag + ".min: min 2 is greater than max 1"},
		{"limits of what is not written", edit(func(t *TagConfig) { t.Min = new(2.0) }), tag + ".min: min and max limit writes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := validConfig()
			test.change(&c)
			problems := slices.DeleteFunc(problemsOf(&c), func(p string) bool {
				return strings.Contains(p, ".tags: missing") // where a test removes them
			})
			if len(problems) != 1 || !strings.HasPrefix(problems[0], test.problem) {
				t.Errorf("problems: %q; want one: %s", problems, test.problem)
			}
		})
	}
}

func TestValidateReportsAllAtOnce(t *testing.T) {
	c := validConfig()
	c.Links[0].TCP = ""
	c.Links[0].Units[0].Tags[0].Type = "real"
	c.Links[0].Units[0].Tags[1].Address = nil
	c.Links[1].RTU.StopBits = 3
	if got := problemsOf(&c); len(got) != 4 {
		t.Errorf("%d problems: %q; want 4", len(got), got)
	}
	if _, err := New(c, nil, nil); err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("New: %v; want four lines", err)
	}
}

func TestReferences(t *testing.T) {
	for reference, want := range map[string]string{
		"40101": "holding 100", "400101": "holding 100", "465536": "holding 65535", "40001": "holding 0",
		"30001": "input 0", "300001": "input 0", "10001": "discrete 0", "100001": "discrete 0",
		"00001": "coil 0", "000001": "coil 0", "09999": "coil 9998", "065536": "coil 65535",
		"1": "", "9999": "",
		"40000": "", "400000": "", "465537": "", "20001": "", "": "", "4x0101": "", "-1": "", "4000001": "", "٤٠١٠١": "",
	} {
		table, address, err := parseReference(reference)
		got := fmt.Sprintf("%v %d", table, address)
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%q: %q; want %q", reference, got, want)
		}
	}
}
