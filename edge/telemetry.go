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
	var order []*modbus.TagConfig
	states := map[string]bool{}
	t.mu.Lock()
	eachTag(links, func(link *modbus.LinkConfig, unit *modbus.UnitConfig, tag *modbus.TagConfig) {
		states[stateTopic(link, unit)] = true
		topics[tag] = cfg.tagTopic(link, unit, tag)
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
	t.topics, t.last, t.order = topics, last, order
	t.mu.Unlock()
	for _, topic := range gone {
		// An empty retained message removes the one there is [MQTT-3.3.1-6].
		t.server.Publish(&broker.Message{Topic: topic, QoS: 1, Retain: true}, t.published)
	}
}

// Samples publishes the samples of one read. It blocks while too many wait to
// become safe.
func (t *telemetry) Samples(samples []modbus.Sample) {
	for i := range samples {
		s := &samples[i]
		m := &broker.Message{
			Topic: t.remember(s), Payload: samplePayload(s),
			QoS: byte(*s.Tag.QoS), Retain: *s.Tag.Retain,
		}
		t.room <- struct{}{}
		t.server.Publish(m, func(err error) {
			<-t.room
			if err != nil {
				t.refused.Add(1)
			} else {
				t.samples.Add(1)
			}
			t.published(err)
		})
	}
	t.tellRefusals()
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
// about its units: a state that nobody keeps up to date would look like a
// present one.
func (t *telemetry) stopped(link *modbus.LinkConfig, now time.Time) {
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
	value := s.Value
	if s.Quality == modbus.Bad {
		value = modbus.Value{} // never the last good one as if it were new
	}
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
