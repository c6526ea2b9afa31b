package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/broker"
	"forebay/modbus"
)

// published records what is published and answers as told.
type published struct {
	mu       sync.Mutex
	messages []*broker.Message
	err      error // for every message
}

func (p *published) Publish(m *broker.Message, done func(error)) {
	p.mu.Lock()
	p.messages = append(p.messages, m)
	err := p.err
	p.mu.Unlock()
	if done != nil {
		done(err)
	}
}

func (p *published) take() []*broker.Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.messages
	p.messages = nil
	return all
}

// oneUnit is a valid configuration with one unit; more goes into the unit.
func oneUnit(t *testing.T, more string) *Config {
	t.Helper()
	c, err := loadText(t, "a.yaml", `
site: mill
modbus:
  links:
    - name: line1
      tcp: "127.0.0.1:502"
      units:
        - name: press4
          unit: 1
          topic: "{site}/{link}/{unit}/{tag}"
`+more+`
          tags:
            - {name: temperature, register: holding, address: 0, type: float32}
            - {name: alarm, register: coil, address: 0, qos: 2, retain: true}
            - {name: setpoint, register: holding, address: 10, type: int16, writable: true}
`)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSamplePayload(t *testing.T) {
	at := time.Date(2026, 11, 22, 1, 2, 3, 45_678_901, time.FixedZone("", 3600))
	broken := errors.New(`exception 2: "illegal" address`)
	tests := []struct {
		name      string
		sample    modbus.Sample
		json, raw string
	}{
		{"float", modbus.Sample{Value: modbus.FloatValue(21.5), Quality: modbus.Good},
			`{"value":21.5,"quality":"good","time":"2026-11-22T00:02:03.045Z"}`, "21.5"},
		{"bool", modbus.Sample{Value: modbus.BoolValue(true), Quality: modbus.Good},
			`{"value":true,"quality":"good","time":"2026-11-22T00:02:03.045Z"}`, "true"},
		{"large integer", modbus.Sample{Value: modbus.UintValue(1<<64 - 1), Quality: modbus.Good},
			`{"value":18446744073709551615,"quality":"good","time":"2026-11-22T00:02:03.045Z"}`, "18446744073709551615"},
		{"text", modbus.Sample{Value: modbus.TextValue(`a "b"`), Quality: modbus.Good},
			`{"value":"a \"b\"","quality":"good","time":"2026-11-22T00:02:03.045Z"}`, `a "b"`},
		{"no value", modbus.Sample{Quality: modbus.Good},
			`{"value":null,"quality":"good","time":"2026-11-22T00:02:03.045Z"}`, ""},
		{"uncertain", modbus.Sample{Value: modbus.IntValue(-3), Quality: modbus.Uncertain, Err: errors.New("odd")},
			`{"value":-3,"quality":"uncertain","time":"2026-11-22T00:02:03.045Z","error":"odd"}`, "-3"},
		{"bad", modbus.Sample{Quality: modbus.Bad, Err: broken},
			`{"value":null,"quality":"bad","time":"2026-11-22T00:02:03.045Z","error":"exception 2: \"illegal\" address"}`, ""},
		// Whatever the poller says, a bad sample has no value.
		{"bad with a value", modbus.Sample{Value: modbus.IntValue(7), Quality: modbus.Bad, Err: errors.New("x")},
			`{"value":null,"quality":"bad","time":"2026-11-22T00:02:03.045Z","error":"x"}`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.sample.Time = at
			for payload, want := range map[string]string{modbus.PayloadJSON: tt.json, modbus.PayloadRaw: tt.raw} {
				tt.sample.Unit = &modbus.UnitConfig{Payload: payload}
				got := samplePayload(&tt.sample)
				if string(got) != want {
					t.Errorf("%s: %s, want %s", payload, got, want)
				}
				if payload == modbus.PayloadJSON && !json.Valid(got) {
					t.Errorf("no JSON: %s", got)
				}
			}
		})
	}
}

// telemetryOf expects samples from the links of a configuration.
func telemetryOf(cfg *Config, server publisher, log *slog.Logger) *telemetry {
	tel := newTelemetry(server, log)
	var links []*modbus.LinkConfig
	for i := range cfg.Modbus.Links {
		links = append(links, &cfg.Modbus.Links[i])
	}
	tel.arrange(cfg, links)
	return tel
}

// A sample goes to the topic of its template with the QoS and retain flag of
// its tag.
func TestTelemetryPublishes(t *testing.T) {
	cfg := oneUnit(t, "          qos: 0")
	server := &published{}
	tel := telemetryOf(cfg, server, slog.New(slog.DiscardHandler))
	link := &cfg.Modbus.Links[0]
	unit := &link.Units[0]
	at := time.UnixMilli(1_000_000)
	tel.Samples([]modbus.Sample{
		{Link: link, Unit: unit, Tag: &unit.Tags[0], Value: modbus.FloatValue(1.5), Quality: modbus.Good, Time: at},
		{Link: link, Unit: unit, Tag: &unit.Tags[1], Quality: modbus.Bad, Err: errors.New("gone"), Time: at},
	})
	tel.UnitState(modbus.UnitState{
		Link: link, Unit: unit, State: modbus.Degraded, Since: at, Err: errors.New("gone"),
		Counters: modbus.UnitCounters{Requests: 9, Late: 2, Exceptions: map[byte]uint64{11: 1, 2: 3}},
	})
	got := server.take()
	if len(got) != 3 {
		t.Fatalf("%d messages, want 3", len(got))
	}
	want := []broker.Message{
		{Topic: "mill/line1/press4/temperature", QoS: 0, Payload: []byte(`{"value":1.5,"quality":"good","time":"1970-01-01T00:16:40.000Z"}`)},
		{Topic: "mill/line1/press4/alarm", QoS: 2, Retain: true, Payload: []byte(`{"value":null,"quality":"bad","time":"1970-01-01T00:16:40.000Z","error":"gone"}`)},
		{Topic: "modbus/line1/press4/state", QoS: 1, Retain: true, Payload: []byte(`{"state":"degraded","since":"1970-01-01T00:16:40.000Z","error":"gone","counters":{"request":9,"late":2,"exception_2":3,"exception_11":1}}`)},
	}
	for i, m := range got {
		w := want[i]
		if m.Topic != w.Topic || m.QoS != w.QoS || m.Retain != w.Retain || !bytes.Equal(m.Payload, w.Payload) {
			t.Errorf("message %d: %s %s qos %d retain %v, want %s %s qos %d retain %v",
				i, m.Topic, m.Payload, m.QoS, m.Retain, w.Topic, w.Payload, w.QoS, w.Retain)
		}
	}
	// A stopped gateway knows nothing of its units.
	tel.stopped(link, at)
	const stopped = `{"state":"offline","since":"1970-01-01T00:16:40.000Z","error":"it is not polled any more","counters":{"request":9,"late":2,"exception_2":3,"exception_11":1}}`
	if got := server.take(); len(got) != 1 || got[0].Topic != want[2].Topic || !got[0].Retain || string(got[0].Payload) != stopped {
		t.Errorf("at the end: %v, want %s on %s", got, stopped, want[2].Topic)
	}
	tags := tel.tags()
	if tags[0].Value != "1.5" || tags[0].Quality != "good" || tags[1].Error != "gone" || tags[2].Quality != "" {
		t.Errorf("status: %+v", tags)
	}
	if tel.samples.Load() != 2 || tel.refused.Load() != 0 {
		t.Errorf("%d samples, %d refused, want 2 and 0", tel.samples.Load(), tel.refused.Load())
	}
}

// Samples that the broker refuses are counted, and told once for each episode.
func TestTelemetryTellsRefusals(t *testing.T) {
	cfg := oneUnit(t, "")
	server := &published{}
	var log bytes.Buffer
	tel := telemetryOf(cfg, server, slog.New(slog.NewTextHandler(&log, nil)))
	link := &cfg.Modbus.Links[0]
	unit := &link.Units[0]
	one := []modbus.Sample{{Link: link, Unit: unit, Tag: &unit.Tags[0], Quality: modbus.Good, Value: modbus.IntValue(1)}}
	for _, err := range []error{nil, broker.ErrBusy, broker.ErrBusy, nil, nil, broker.ErrBusy} {
		server.err = err
		tel.Samples(one)
	}
	if lost, again := strings.Count(log.String(), "samples are lost"), strings.Count(log.String(), "kept again"); lost != 2 || again != 1 {
		t.Errorf("told %d losses and %d recoveries, want 2 and 1:\n%s", lost, again, &log)
	}
	if tel.samples.Load() != 3 || tel.refused.Load() != 3 {
		t.Errorf("%d samples, %d refused, want 3 and 3", tel.samples.Load(), tel.refused.Load())
	}
}

// The values of one read make one message, on the topic without the tag.
func TestTelemetryPublishesGroups(t *testing.T) {
	cfg, err := loadText(t, "a.yaml", `
site: mill
modbus:
  links:
    - name: line1
      tcp: "127.0.0.1:502"
      units:
        - {name: press4, unit: 1, payload: group, qos: 0, expire_after: 3, interval: 500ms, tags: [
            {name: temperature, register: holding, address: 0},
            {name: "a \"b\"", register: holding, address: 1, max_interval: 10s},
            {name: level, register: holding, address: 2}]}
`)
	if err != nil {
		t.Fatal(err)
	}
	server := &published{}
	tel := telemetryOf(cfg, server, slog.New(slog.DiscardHandler))
	link := &cfg.Modbus.Links[0]
	unit := &link.Units[0]
	at := time.UnixMilli(1_000_000)
	samples := []modbus.Sample{
		{Value: modbus.FloatValue(21.5), Quality: modbus.Good},
		{Value: modbus.IntValue(7), Quality: modbus.Stale, Err: errors.New(`"late"`)},
		{Value: modbus.IntValue(-1), Quality: modbus.Uncertain, Err: errors.New("odd")},
	}
	for i := range samples {
		samples[i].Link, samples[i].Unit, samples[i].Tag, samples[i].Time = link, unit, &unit.Tags[i], at
	}
	tel.Samples(samples)
	tel.Samples(samples[:1])
	got := server.take()
	want := []string{
		`{"time":"1970-01-01T00:16:40.000Z","values":{"temperature":21.5,"a \"b\"":null,"level":-1},` +
			`"problems":{"a \"b\"":{"quality":"stale","error":"\"late\""},"level":{"quality":"uncertain","error":"odd"}}}`,
		`{"time":"1970-01-01T00:16:40.000Z","values":{"temperature":21.5}}`,
	}
	if len(got) != len(want) {
		t.Fatalf("%d messages, want %d", len(got), len(want))
	}
	for i, m := range got {
		if string(m.Payload) != want[i] || m.Topic != "modbus/line1/press4" || m.QoS != 0 || !json.Valid(m.Payload) {
			t.Errorf("%s qos %d: %s; want %s", m.Topic, m.QoS, m.Payload, want[i])
		}
	}
	// As long as the longest-lived of them; then half a second three times, in
	// whole seconds.
	if a, b := got[0].Properties, got[1].Properties; a.Expiry != 30 || b.Expiry != 2 {
		t.Errorf("expire after %d and %d seconds, want 30 and 2", a.Expiry, b.Expiry)
	}
	if tel.samples.Load() != 4 {
		t.Errorf("%d samples, want 4", tel.samples.Load())
	}
}

func TestGroupsAreChecked(t *testing.T) {
	for text, want := range map[string]string{
		`topic: "{site}/{tag}/x", tags: [{name: a, register: holding, address: 0}]`:                     "end in /{tag}",
		`topic: "modbus/l/u/state/{tag}", tags: [{name: a, register: holding, address: 0}]`:             "gives the topic",
		`retain: true, tags: [{name: a, register: holding, address: 0}]`:                                "retained, it would hide",
		`tags: [{name: a, register: holding, address: 0, qos: 2}]`:                                      "only it has a qos",
		`expire_after: 2, tags: [{name: a, register: holding, address: 0, on_change: true}]`:            "max_interval: missing",
		`topic: "modbus/x/{tag}", expire_after: 9999, tags: [{name: a, register: holding, address: 0}]`: "expire_after: 9999 is out of range",
	} {
		_, err := loadText(t, "a.yaml", "modbus: {links: [{name: l, tcp: 127.0.0.1, units: [{name: u, unit: 1, payload: group, "+text+"}]}]}")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %s", text, err, want)
		}
	}
}

// A retained value that nobody keeps up to date any more says so; that of a tag
// that is gone is removed.
func TestRetainedValuesDoNotLookLive(t *testing.T) {
	cfg := oneUnit(t, "          retain: true")
	server := &published{}
	tel := telemetryOf(cfg, server, slog.New(slog.DiscardHandler))
	link := &cfg.Modbus.Links[0]
	unit := &link.Units[0]
	at := time.UnixMilli(1_000_000)
	tel.Samples([]modbus.Sample{
		{Link: link, Unit: unit, Tag: &unit.Tags[0], Value: modbus.FloatValue(1.5), Quality: modbus.Good, Time: at},
		{Link: link, Unit: unit, Tag: &unit.Tags[1], Quality: modbus.Bad, Err: errors.New("gone"), Time: at},
	})
	server.take()
	tel.stopped(link, at)
	const stale = `{"value":null,"quality":"stale","time":"1970-01-01T00:16:40.000Z","error":"it is not polled any more"}`
	if got := server.take(); len(got) != 1 || got[0].Topic != "mill/line1/press4/temperature" || string(got[0].Payload) != stale || !got[0].Retain {
		t.Errorf("at the end: %v", got)
	}
	tel.arrange(cfg, nil)
	removed := map[string]bool{}
	for _, m := range server.take() {
		if m.Retain && len(m.Payload) == 0 {
			removed[m.Topic] = true
		}
	}
	if len(removed) != 3 || !removed["mill/line1/press4/temperature"] {
		t.Errorf("removed: %v, want the topics of all three tags", removed)
	}
}
