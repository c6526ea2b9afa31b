package edge

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"forebay/bridge"
	"forebay/broker"
	"forebay/broker/packet"
	"forebay/modbus"
	"forebay/storage"
)

// Config is the configuration of a gateway. Load makes one; Open takes it and
// nobody changes it afterwards.
type Config struct {
	// Site names this gateway: {site} in topics and client identifiers. It may
	// stand in a topic name. Default: the host name.
	Site string `mapstructure:"site"`

	Log     LogConfig       `mapstructure:"log"`
	Storage storage.Config  `mapstructure:"storage"`
	Broker  broker.Config   `mapstructure:"broker"`
	Bridges []bridge.Config `mapstructure:"bridges"`
	Modbus  modbus.Config   `mapstructure:"modbus"`
	API     APIConfig       `mapstructure:"api"`

	// Level, if not nil, is set to Log.Level by Open and by every reload. It is
	// not read from the file.
	Level *slog.LevelVar `mapstructure:"-"`

	// Version is that of the program, for $SYS/broker/version. It is not read
	// from the file.
	Version string `mapstructure:"-"`

	// Set by Load.
	source string    // the file
	lines  positions // of its paths
	files  []File    // that it names
}

// LogConfig says what is logged.
type LogConfig struct {
	// Level is the least severe level that is logged: debug, info, warn or
	// error. Default: info.
	Level string `mapstructure:"level"`
}

var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

// Slog returns the level; info for a text that is none.
func (c LogConfig) Slog() slog.Level { return levels[c.Level] }

func (c *Config) applyLevel() {
	if c.Level != nil {
		c.Level.Set(c.Log.Slog())
	}
}

// File is a file that a configuration names.
type File struct {
	Path string // where in the configuration: bridges[0].tls.ca
	Name string // absolute
}

// newConfig returns what a file is decoded into: it holds the defaults of keys
// whose zero value has a meaning of its own.
func newConfig() *Config {
	return &Config{Storage: storage.Config{MaxAckDelay: 100 * time.Millisecond}}
}

// SetDefaults fills in whatever is zero and has a default.
func (c *Config) SetDefaults() {
	if c.Site == "" {
		// Without a host name a gateway still has to have a name.
		c.Site = "forebay"
		if name, err := os.Hostname(); err == nil && name != "" {
			c.Site = name
		}
	}
	if c.Log.Level == "" {
		c.Log.Level = "info"
	}
	c.Storage.SetDefaults()
	c.Broker.SetDefaults()
	for i := range c.Bridges {
		c.Bridges[i].SetDefaults()
	}
	c.Modbus.SetDefaults()
	c.API.SetDefaults()
}

// Validate reports every problem with its path. It expects SetDefaults to have
// been called, and changes nothing.
func (c *Config) Validate(report func(path, problem string)) {
	if err := packet.CheckTopicName([]byte(c.Site)); err != nil {
		report("site", "cannot stand in a topic; leave out +, # and control characters")
	}
	if _, ok := levels[c.Log.Level]; !ok {
		report("log.level", fmt.Sprintf("%q is no level; write debug, info, warn or error", c.Log.Level))
	}
	c.Storage.Validate(under("storage", report))
	c.Broker.Validate(under("broker", report))
	c.validateListeners(report)
	first := map[string]int{}
	for i := range c.Bridges {
		at := fmt.Sprintf("bridges[%d]", i)
		c.Bridges[i].Validate(under(at, report))
		name := c.Bridges[i].Name
		if j, twice := first[name]; twice && name != "" {
			report(at+".name", fmt.Sprintf("%q is also the name of bridges[%d]; give each its own", name, j))
		} else {
			first[name] = i
		}
	}
	c.Modbus.Validate(under("modbus", report))
	c.API.Validate(under("api", report))
	c.validateTopics(report)
}

// validateListeners finds listeners of which the kernel would let only one
// have its port: one is on all interfaces. (The same address twice is found by
// the broker.)
func (c *Config) validateListeners(report func(path, problem string)) {
	for i, l := range c.Broker.Listeners {
		for j, other := range c.Broker.Listeners[:i] {
			if l.Address != other.Address && overlap(l.Address, other.Address) {
				report(fmt.Sprintf("broker.listeners[%d].address", i),
					fmt.Sprintf("%s is taken by %s of listeners[%d]; give one of them another port", l.Address, other.Address, j))
			}
		}
	}
}

func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	everywhere := func(host string) bool { return host == "" || host == "::" }
	ipv4 := func(host string) bool { return !strings.Contains(host, ":") }
	if everywhere(hostA) || everywhere(hostB) {
		return true
	}
	return (hostA == "0.0.0.0" || hostB == "0.0.0.0") && ipv4(hostA) && ipv4(hostB)
}

// under puts prefix before the paths that a part reports.
func under(prefix string, report func(path, problem string)) func(path, problem string) {
	return func(path, problem string) { report(join(prefix, path), problem) }
}

// validateTopics checks what the topic templates of the Modbus units yield.
func (c *Config) validateTopics(report func(path, problem string)) {
	owner := map[string]string{}
	for i := range c.Modbus.Links {
		link := &c.Modbus.Links[i]
		for j := range link.Units {
			unit := &link.Units[j]
			at := fmt.Sprintf("modbus.links[%d].units[%d]", i, j)
			if unknown := unknownPlaceholder(unit.Topic); unknown != "" {
				report(at+".topic", unknown+" is unknown; there are {site}, {link}, {unit} and {tag}")
				continue
			}
			c.claim(stateTopic(link, unit), at+".name", owner, report)
			if group := c.groupTopic(link, unit); unit.Payload == modbus.PayloadGroup {
				if group == "" {
					report(at+".topic", "has to end in /{tag}, which the topic of the group goes without")
					continue
				}
				c.claim(group, at+".topic", owner, report)
			}
			for k := range unit.Tags {
				tag := &unit.Tags[k]
				path := fmt.Sprintf("%s.tags[%d].name", at, k)
				topic := c.tagTopic(link, unit, tag)
				if !c.claim(topic, path, owner, report) {
					continue
				}
				c.claim(topic+getSuffix, path, owner, report)
				if tag.Writable {
					c.claim(topic+setSuffix, path, owner, report)
				}
			}
		}
	}
}

// claim gives a topic to the setting at path. It reports a topic that is none
// or has an owner already.
func (c *Config) claim(topic, path string, owner map[string]string, report func(path, problem string)) bool {
	if err := packet.CheckTopicName([]byte(topic)); err != nil {
		report(path, fmt.Sprintf("gives the topic %q, which is none; leave out +, # and control characters", topic))
		return false
	}
	if strings.HasPrefix(topic, "$") {
		report(path, fmt.Sprintf("gives the topic %q; those with $ belong to the broker", topic))
		return false
	}
	if other, taken := owner[topic]; taken {
		report(path, fmt.Sprintf("gives the topic %q, as does %s; make them differ, for example with {tag} in the topic", topic, other))
		return false
	}
	owner[topic] = path
	return true
}

// CheckFiles opens every file that the configuration names (certificates, keys,
// passwords) and reports those that are missing, empty or not readable by this
// user. The error is a *ConfigError.
func (c *Config) CheckFiles() error {
	p := &problems{lines: c.lines}
	for _, f := range c.files {
		if text := fileProblem(f.Name); text != "" {
			p.add(f.Path, "%s: %s", f.Name, text)
		}
	}
	return p.err(c.source)
}

func fileProblem(name string) string {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file; put it there or correct the name"
	case err != nil:
		return "cannot be reached: " + reason(err)
	case info.IsDir():
		return "is a folder; name a file in it"
	case info.Mode().IsRegular() && info.Size() == 0:
		return "is empty; fill it"
	case !info.Mode().IsRegular():
		return "" // opening a pipe would take from it what is meant for its reader
	}
	f, err := os.Open(name)
	if err != nil {
		return "cannot be read by this user: " + reason(err)
	}
	if err := f.Close(); err != nil {
		return "cannot be read: " + reason(err)
	}
	return ""
}

// reason strips the file name, which the message already has.
func reason(err error) string {
	if where, ok := errors.AsType[*fs.PathError](err); ok {
		return where.Err.Error()
	}
	return err.Error()
}
