package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"forebay/broker"
	"forebay/modbus"
)

// publisher is what telemetry and commands need of the broker.
type publisher interface {
	Publish(m *broker.Message, done func(error))
}

// maxUnsafe bounds the samples that wait to become safe. Beyond it the poller
// is held up: reading less often is better than reading what cannot be kept.
const maxUnsafe = 4096

// telemetry turns what the poller finds into messages. It is the poller's
// modbus.Sink.
type telemetry struct {
	// Constant after newTelemetry.
	server publisher
	log    *slog.Logger

	room    chan struct{} // one token for each sample that is not safe yet
	samples atomic.Uint64 // safe
	refused atomic.Uint64 // by the broker

	mu       sync.Mutex
	topics   map[*modbus.TagConfig]string    // guarded by mu
	groups   map[*modbus.UnitConfig]string   // guarded by mu: the topics of units that publish groups
	order    []*modbus.TagConfig             // guarded by mu: as in the configuration
	states   []modbus.UnitState              // guarded by mu: the last of every unit
	last     map[*modbus.TagConfig]TagStatus // guarded by mu
	refusing error                           // guarded by mu: why samples are refused now; nil: they are not
	told     error                           // guarded by mu: what was logged of that
}

func newTelemetry(server publisher, log *slog.Logger) *telemetry {
	return &telemetry{server: server, log: log, room: make(chan struct{}, maxUnsafe)}
}

// arrange makes links, which cfg has, those that samples come from. What is
// retained about units that are not among them any more is removed.
func (t *telemetry) arrange(cfg *Config, links []*modbus.LinkConfig) {
	topics, last := map[*modbus.TagConfig]string{}, map[*modbus.TagConfig]TagStatus{}
	groups, retained := map[*modbus.UnitConfig]string{}, map[string]bool{}
	var order []*modbus.TagConfig
	states := map[string]bool{}
	t.mu.Lock()
	eachTag(links, func(link *modbus.LinkConfig, unit *modbus.UnitConfig, tag *modbus.TagConfig) {
		states[stateTopic(link, unit)] = true
		topics[tag] = cfg.tagTopic(link, unit, tag)
		groups[unit] = cfg.groupTopic(link, unit)
		if *tag.Retain {
			retained[topics[tag]] = true
		}
		order = append(order, tag)
		status, known := t.last[tag]
		if !known {
			status = TagStatus{Topic: topics[tag], Unit: tag.EngineeringUnit}
		}
		last[tag] = status
	})
	var gone []string
	t.states = slices.DeleteFunc(t.states, func(s modbus.UnitState) bool {
		topic := stateTopic(s.Link, s.Unit)
		if !states[topic] {
			gone = append(gone, topic)
		}
		return !slices.Contains(links, s.Link)
	})
	for tag, topic := range t.topics {
		if *tag.Retain && !retained[topic] {
			gone = append(gone, topic)
		}
	}
	t.topics, t.groups, t.last, t.order = topics, groups, last, order
	t.mu.Unlock()
	for _, topic := range gone {
		// An empty retained message removes the one there is [MQTT-3.3.1-6].
		t.server.Publish(&broker.Message{Topic: topic, QoS: 1, Retain: true}, t.published)
	}
}

// Samples publishes the samples of one read: one message for each, or one for
// all. It blocks while too many wait to become safe.
func (t *telemetry) Samples(samples []modbus.Sample) {
	if len(samples) > 0 && samples[0].Unit.Payload == modbus.PayloadGroup {
		t.publishGroup(samples)
	} else {
		for i := range samples {
			s := &samples[i]
			t.publish(t.remember(s), samplePayload(s), samples[i:i+1])
		}
	}
	t.tellRefusals()
}

// publishGroup publishes the samples of one read of a unit in one message.
func (t *telemetry) publishGroup(samples []modbus.Sample) {
	for i := range samples {
		t.remember(&samples[i])
	}
	t.mu.Lock()
	topic := t.groups[samples[0].Unit]
	t.mu.Unlock()
	t.publish(topic, groupPayload(samples), samples)
}

// publish publishes samples, of which the first says how.
func (t *telemetry) publish(topic string, payload []byte, samples []modbus.Sample) {
	s := &samples[0]
	m := &broker.Message{Topic: topic, Payload: payload, QoS: byte(*s.Tag.QoS), Retain: *s.Tag.Retain}
	life := time.Duration(0)
	for i := range samples {
		life = max(life, s.Unit.Lifetime(samples[i].Tag))
	}
	if life > 0 {
		m.Properties.HasExpiry, m.Properties.Expiry = true, uint32((life+time.Second-1)/time.Second)
	}
	count := uint64(len(samples))
	t.room <- struct{}{}
	t.server.Publish(m, func(err error) {
		<-t.room
		if err != nil {
			t.refused.Add(count)
		} else {
			t.samples.Add(count)
		}
		t.published(err)
	})
}

// UnitState publishes, retained, whether a unit answers.
func (t *telemetry) UnitState(s modbus.UnitState) {
	t.mu.Lock()
	i := slices.IndexFunc(t.states, func(known modbus.UnitState) bool { return known.Unit == s.Unit })
	if i < 0 {
		t.states = append(t.states, s)
	} else {
		t.states[i] = s
	}
	t.mu.Unlock()
	t.publishState(s)
}

// errStopped is the error of units that nobody asks any more.
var errStopped = errors.New("it is not polled any more")

// stopped takes back, when the poller of a link has ended, what is retained
// about its units: a state, or a value, that nobody keeps up to date would look
// like a present one.
func (t *telemetry) stopped(link *modbus.LinkConfig, now time.Time) {
	eachTag([]*modbus.LinkConfig{link}, func(_ *modbus.LinkConfig, unit *modbus.UnitConfig, tag *modbus.TagConfig) {
		t.mu.Lock()
		quality := t.last[tag].Quality
		t.mu.Unlock()
		if *tag.Retain && (quality == modbus.Good.String() || quality == modbus.Uncertain.String()) {
			t.Samples([]modbus.Sample{{Link: link, Unit: unit, Tag: tag, Quality: modbus.Stale, Time: now, Err: errStopped}})
		}
	})
	for _, s := range t.unitStates() {
		if s.Link == link {
			s.State, s.Since, s.Err = modbus.Offline, now, errStopped
			t.publishState(s)
		}
	}
}

// unitStates returns the last state of every unit that has one.
func (t *telemetry) unitStates() []modbus.UnitState {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.states)
}

func (t *telemetry) publishState(s modbus.UnitState) {
	payload := []byte(`{"state":"` + string(s.State) + `","since":`)
	payload = appendTime(payload, s.Since)
	if s.Err != nil {
		payload = append(append(payload, `,"error":`...), quoteJSON(s.Err.Error())...)
	}
	payload = appendCounters(payload, &s.Counters)
	m := &broker.Message{Topic: stateTopic(s.Link, s.Unit), Payload: append(payload, '}'), QoS: 1, Retain: true}
	t.server.Publish(m, t.published)
}

// published is called by the broker's loop: it does not log, which may block.
func (t *telemetry) published(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refusing = err
}

// tellRefusals logs once when samples begin to be refused and once when they
// are taken again.
func (t *telemetry) tellRefusals() {
	t.mu.Lock()
	now, told := t.refusing, t.told
	t.told = now
	t.mu.Unlock()
	switch {
	case now != nil && told == nil:
		t.log.Error("modbus: samples are lost: the broker refuses them", "err", now)
	case now == nil && told != nil:
		t.log.Info("modbus: samples are kept again", "lost", t.refused.Load())
	}
}

// remember keeps a sample for the status and returns its topic.
func (t *telemetry) remember(s *modbus.Sample) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	status := t.last[s.Tag]
	status.Value, status.Quality, status.Time, status.Error = s.Value.String(), s.Quality.String(), s.Time, ""
	if s.Err != nil {
		status.Error = s.Err.Error()
	}
	t.last[s.Tag] = status
	return t.topics[s.Tag]
}

// tags returns the last sample of every tag, in the order of the configuration.
func (t *telemetry) tags() []TagStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]TagStatus, 0, len(t.order))
	for _, tag := range t.order {
		all = append(all, t.last[tag])
	}
	return all
}

// samplePayload is what is published of a sample: JSON, or as raw the value
// alone, which is empty when there is none.
func samplePayload(s *modbus.Sample) []byte {
	value := publishable(s)
	if s.Unit.Payload == modbus.PayloadRaw {
		if value.IsNull() {
			return nil
		}
		return value.AppendText(nil)
	}
	b := value.AppendJSON([]byte(`{"value":`))
	b = fmt.Appendf(b, `,"quality":"%s","time":`, s.Quality)
	b = appendTime(b, s.Time)
	if s.Err != nil {
		b = append(append(b, `,"error":`...), quoteJSON(s.Err.Error())...)
	}
	return append(b, '}')
}

// publishable is the value of a sample as far as it may be published: never the
// last good one as if it were new.
func publishable(s *modbus.Sample) modbus.Value {
	if s.Quality == modbus.Bad || s.Quality == modbus.Stale {
		return modbus.Value{}
	}
	return s.Value
}

// groupPayload is what is published of the samples of one read of a unit: JSON
// with the time, the values, and what is to be said of those that are not good.
func groupPayload(samples []modbus.Sample) []byte {
	b := appendTime([]byte(`{"time":`), samples[0].Time)
	b = append(b, `,"values":{`...)
	problems := false
	for i := range samples {
		s := &samples[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, quoteJSON(s.Tag.Name)...), ':')
		b = publishable(s).AppendJSON(b)
		problems = problems || s.Quality != modbus.Good
	}
	b = append(b, '}')
	if !problems {
		return append(b, '}')
	}
	separator := `,"problems":{`
	for i := range samples {
		s := &samples[i]
		if s.Quality == modbus.Good {
			continue
		}
		b = append(append(b, separator...), quoteJSON(s.Tag.Name)...)
		b = fmt.Appendf(b, `:{"quality":"%s"`, s.Quality)
		if s.Err != nil {
			b = append(append(b, `,"error":`...), quoteJSON(s.Err.Error())...)
		}
		b = append(b, '}')
		separator = ","
	}
	return append(b, `}}`...)
}

// appendTime appends a time as JSON: UTC, with milliseconds.
func appendTime(b []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(b, `"2006-01-02T15:04:05.000Z"`)
}

func quoteJSON(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("BUG: edge: a string has no JSON form: " + err.Error())
	}
	return b
}
