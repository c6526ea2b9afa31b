package modbus

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Validate reports every problem of a configuration whose defaults are set:
// path is where, relative to the modbus section (links[0].units[1].name),
// problem what is wrong and how to mend it. It changes nothing.
func (c *Config) Validate(report func(path, problem string)) {
	names := make(map[string]bool)
	ports := make(map[string]string) // link by serial port
	for i := range c.Links {
		l := &c.Links[i]
		sound := true
		at := scope{fmt.Sprintf("links[%d]", i), func(path, problem string) {
			sound = false
			report(path, problem)
		}}
		at.name(names, l.Name, "link")
		l.validate(at)
		port := l.serial()
		if port == nil {
			continue
		}
		if other, taken := ports[port.Port]; taken && port.Port != "" {
			at.problem(l.serialKey()+".port", "%s is the port of link %s already: put all its units into one link", port.Port, other)
		}
		ports[port.Port] = l.Name
		if sound {
			l.validateLoad(at)
		}
	}
	if c.Server != nil {
		c.Server.validate(scope{"server", report}, c.Links)
	}
}

// validateLoad refuses what a serial line cannot carry even if every device
// answered at once. Everything else about the link is valid.
func (l *LinkConfig) validateLoad(at scope) {
	plan := l.Plan()
	if load := Load(plan); load > 1 {
		at.problem(l.serialKey()+".baud", "%d reads at %d baud take %.1f times the time their intervals give them: %s, or use a faster line", len(plan), l.serial().Baud, load, relief(plan))
	}
}

// problems returns everything Validate reports as one error, or nil.
func (c *Config) problems() error {
	var all []error
	c.Validate(func(path, problem string) {
		all = append(all, fmt.Errorf("modbus: %s: %s", path, problem))
	})
	return errors.Join(all...)
}

// scope reports problems of one item of the configuration.
type scope struct {
	path   string
	report func(path, problem string)
}

func (s scope) problem(key, format string, args ...any) {
	s.report(s.path+"."+key, fmt.Sprintf(format, args...))
}

// name checks a name and remembers it in names, those already taken.
func (s scope) name(names map[string]bool, name, what string) {
	switch {
	case name == "":
		s.problem("name", "missing: every %s needs a name", what)
		return
	case strings.TrimSpace(name) != name || strings.ContainsFunc(name, unicode.IsControl):
		s.problem("name", "%q begins or ends with a space or holds a control character", name)
	case names[name]:
		s.problem("name", "%q is the name of another %s here: names must differ", name, what)
	}
	names[name] = true
}

// oneOf checks a word against the words allowed.
func (s scope) oneOf(key, word string, allowed ...string) {
	if !slices.Contains(allowed, word) {
		s.problem(key, "%q is not known: use %s", word, strings.Join(allowed, ", "))
	}
}

func (s scope) between(key string, n, low, high int) {
	if n < low || n > high {
		s.problem(key, "%d is out of range: %d to %d", n, low, high)
	}
}

func (s scope) atLeast(key string, d, least time.Duration) {
	if d < least {
		s.problem(key, "%v is too short: at least %v", d, least)
	}
}

func (u *UnitConfig) validate(at scope, serial bool) {
	switch {
	case u.Unit == nil:
		at.problem("unit", "missing: the unit ID of the device, a number up to 255")
	case *u.Unit < 0 || *u.Unit > 255:
		at.problem("unit", "%d is out of range: 0 to 255", *u.Unit)
	case serial && *u.Unit == 0:
		// Modbus serial §2.2: nobody answers the broadcast address.
		at.problem("unit", "0 is the broadcast address of a serial line, no device answers it: use 1 to 255")
	}
	at.within("interval", u.Interval, minInterval, maxInterval)
	at.align(u.Align)
	at.between("max_registers", u.MaxRegisters, 1, maxRegisters)
	at.between("max_bits", u.MaxBits, 1, maxBits)
	at.between("max_gap", u.MaxGap, 0, maxBits)
	at.oneOf("payload", u.Payload, PayloadJSON, PayloadRaw, PayloadGroup)
	at.between("expire_after", u.ExpireAfter, 0, 1000)
	at.qos(u.QoS)
	if len(u.Tags) == 0 {
		at.problem("tags", "missing: a unit without tags is not read")
	}
	names := make(map[string]bool)
	for k := range u.Tags {
		in := scope{fmt.Sprintf("%s.tags[%d]", at.path, k), at.report}
		in.name(names, u.Tags[k].Name, "tag")
		u.Tags[k].validate(in, u)
	}
}

// Limits of the interval between two reads of a tag.
const (
	minInterval = 10 * time.Millisecond
	maxInterval = 24 * time.Hour
)

func (s scope) align(align time.Duration) {
	if align != 0 && (align < time.Second || align > maxInterval || maxInterval%align != 0) {
		s.problem("align", "%v: use a divisor of 24h from 1s on, such as 15m or 1h", align)
	}
}

func (s scope) qos(qos *int) {
	if qos != nil {
		s.between("qos", *qos, 0, 2)
	}
}

func (t *TagConfig) validate(at scope, u *UnitConfig) {
	r := t.compile(at)
	if t.Counter && ((r.kind != typeUint && r.kind != typeBCD) || r.size == 64 || r.enum != nil || r.exponent != noWord) {
		at.problem("counter", "only a uint8, uint16, uint32, bcd16 or bcd32 without enum and scale_register rolls over")
	}
	if most := u.MaxRegisters; !r.table.bits() && r.width > most {
		at.problem("count", "the value has %d registers, but max_registers of the unit is %d: a value is never read in two parts", r.width, most)
	}
	at.within("interval", t.Interval, minInterval, maxInterval)
	at.align(t.Align)
	if t.Align > 0 && t.Interval != t.Align {
		at.problem("align", "interval is %v: give one of them", t.Interval)
	}
	at.atLeast("min_interval", t.MinInterval, 0)
	at.atLeast("max_interval", t.MaxInterval, 0)
	if t.MaxInterval > 0 && t.MaxInterval < t.MinInterval {
		at.problem("max_interval", "%v is shorter than min_interval %v", t.MaxInterval, t.MinInterval)
	}
	if _, err := parseDeadband(t.Deadband); err != nil {
		at.problem("deadband", "%v", err)
	} else if t.Deadband != "" && (!r.numeric() || r.enum != nil) {
		at.problem("deadband", "only numbers have a deadband: use on_change")
	}
	at.qos(t.QoS)
	if u.Payload == PayloadGroup && t.QoS != nil && u.QoS != nil && *t.QoS != *u.QoS {
		at.problem("qos", "the unit publishes groups, of which only it has a qos")
	}
	if u.Payload == PayloadGroup && t.Retain != nil && *t.Retain {
		at.problem("retain", "a group has only the values of one read: retained, it would hide those of the others")
	}
	if u.ExpireAfter > 0 && t.MaxInterval == 0 && (t.OnChange || t.Deadband != "") {
		at.problem("max_interval", "missing: with expire_after a value that does not change has to be published again before it expires")
	}
	t.validateWrite(at, r)
}

func (t *TagConfig) validateWrite(at scope, r register) {
	if t.Writable {
		switch {
		case r.table == DiscreteInput || r.table == InputRegister:
			at.problem("writable", "the %s table cannot be written: only coils and holding registers can", r.table)
		case r.kind == typeFlags || r.kind == typeDateTime:
			at.problem("writable", "this kind of value can only be read")
		case r.exponent != noWord:
			at.problem("writable", "a value with a scale_register cannot be written: its scale may change meanwhile")
		case t.Counter:
			at.problem("writable", "a counter with roll-over cannot be written")
		}
	}
	if (t.Min != nil || t.Max != nil) && !t.Writable {
		at.problem("min", "min and max limit writes, but the tag is not writable")
	}
	if (t.Min != nil || t.Max != nil) && !r.numeric() {
		at.problem("min", "only numbers have min and max")
	}
	if (t.Step != 0 || t.WriteInterval != 0 || t.Arm != "") && !t.Writable {
		at.problem("writable", "step, write_interval and arm restrict writes, but the tag is not writable")
	}
	if t.Step < 0 || !finite(t.Step) || t.Step != 0 && (!r.numeric() || r.enum != nil) {
		at.problem("step", "only a number without enum has a step, which is positive")
	}
	if t.Min != nil && t.Max != nil && *t.Min > *t.Max {
		at.problem("min", "min %v is greater than max %v", *t.Min, *t.Max)
	}
}

// deadband holds a number back while it is near the last one passed on.
type deadband struct {
	width    float64 // absolute, or a fraction of the last value
	relative bool
}

// parseDeadband reads "0.2" or "1%"; "" is no deadband.
func parseDeadband(s string) (deadband, error) {
	if s == "" {
		return deadband{}, nil
	}
	number, percent := strings.CutSuffix(s, "%")
	width, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || math.IsNaN(width) || math.IsInf(width, 0) || width < 0 {
		return deadband{}, fmt.Errorf("%q is not a deadband: write a number (0.2) or a percentage (1%%), not negative", s)
	}
	if percent {
		width /= 100
	}
	return deadband{width, percent}, nil
}
