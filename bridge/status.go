package bridge

import (
	"encoding/json"
	"maps"
	"sync"
	"time"

	"forebay/storage"
)

// State says what the link to the upstream is worth.
type State string

// The states.
const (
	Connecting State = "connecting" // not connected yet, trying
	Up         State = "up"         // connected, and acknowledgements come
	Degraded   State = "degraded"   // connected, but Status.LastError says what is wrong: slow, refusing for now, a canary missing
	Stalled    State = "stalled"    // connected or lately connected, but the upstream did not acknowledge
	Down       State = "down"       // not connected; Status.LastError says why
)

// Status describes a bridge. Its JSON is what is published on $SYS/forebay/bridges/<name>.
type Status struct {
	Name      string            `json:"name"`
	State     State             `json:"state"`
	Since     time.Time         `json:"since"`             // of the state
	Address   string            `json:"address,omitempty"` // connected or tried last
	Protocol  string            `json:"protocol,omitempty"`
	Backlog   Backlog           `json:"backlog"`
	Forwarded uint64            `json:"forwarded"`         // messages acknowledged by the upstream (QoS 0: sent) since start
	Received  uint64            `json:"received"`          // downlink messages taken since start
	Dropped   map[string]uint64 `json:"dropped,omitempty"` // by cause; the queue's since it was created, others since start
	Refused   map[string]uint64 `json:"refused,omitempty"` // not taken from their publishers because the queue was full, by limit; since start
	LastError string            `json:"last_error,omitempty"`

	DeadLetters int          `json:"dead_letters,omitempty"` // of the dropped, those kept to be looked at
	Lanes       []LaneStatus `json:"lanes,omitempty"`        // of a bridge that has more than one

	Rates  Rates         `json:"rates"`
	Canary *CanaryStatus `json:"canary,omitempty"` // of a bridge that has one
}

// Backlog is what waits for the upstream.
type Backlog struct {
	Count  int64      `json:"count"`
	Bytes  int64      `json:"bytes"`
	Oldest *time.Time `json:"oldest,omitempty"` // arrival of the oldest

	// ETA is in how many seconds nothing will wait any more if it goes on as it does; 0: unknown, or nothing waits.
	// Lanes have none.
	ETA int64 `json:"eta_seconds,omitempty"`
}

// CanaryStatus describes the messages to ourselves.
type CanaryStatus struct {
	Back   *time.Time `json:"back,omitempty"` // when one came back last
	Trip   float64    `json:"trip_seconds"`   // how long that took
	Misses uint64     `json:"misses"`         // that did not come back in time, since start
}

// LaneStatus is a part of the backlog: of the rules with one order and priority.
type LaneStatus struct {
	Name string `json:"name"` // such as high.strict or normal.backlog
	Backlog
}

func backlogOf(q storage.CursorStats) Backlog {
	b := Backlog{Count: q.Count, Bytes: q.Bytes}
	if q.Count > 0 && q.Oldest > 0 {
		oldest := time.UnixMilli(q.Oldest)
		b.Oldest = &oldest
	}
	return b
}

func (b *Bridge) laneStatus() []LaneStatus {
	lanes := b.lanes.Load()
	if lanes == nil || len(*lanes) < 2 {
		return nil
	}
	var all []LaneStatus
	for _, a := range *lanes {
		all = append(all, LaneStatus{priorityNames[a.priority] + "." + orderNames[a.order], backlogOf(a.cursor.Stats())})
	}
	return all
}

// stateBox is the part of Status that changes with the link.
type stateBox struct {
	mu sync.Mutex

	// Guarded by mu.
	state     State
	since     time.Time
	address   string
	protocol  string
	lastError string
	rates     Rates
	eta       int64
	canary    *CanaryStatus // never changed, only replaced
}

// set changes the state and reports whether it is another than before. An empty why keeps the last error, Up clears
// it.
func (s *stateBox) set(state State, why string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if why != "" || state == Up {
		s.lastError = why
	}
	if s.state == state {
		return false
	}
	s.state, s.since = state, time.Now()
	return true
}

// at notes the address that is tried or served, and the protocol once it is known.
func (s *stateBox) at(address, protocol string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.address, s.protocol = address, protocol
}

// Status returns a snapshot. It may be called from any goroutine, before, while and after Run.
func (b *Bridge) Status() Status {
	s := Status{Name: b.cfg.Name, Forwarded: b.accounts.forwarded.Load(), Received: b.accounts.received.Load(), Dropped: b.dropped(),
		DeadLetters: b.letters.count()}
	b.box.mu.Lock()
	s.State, s.Since, s.Address, s.Protocol, s.LastError = b.box.state, b.box.since, b.box.address, b.box.protocol, b.box.lastError
	s.Rates, s.Canary = b.box.rates, b.box.canary
	eta := b.box.eta
	b.box.mu.Unlock()
	q := b.queueStats()
	s.Backlog, s.Refused = backlogOf(q), q.Refused
	if q.Count > 0 {
		s.Backlog.ETA = eta
	}
	s.Lanes = b.laneStatus()
	return s
}

// measure brings rates, ETA and canary of the status up to date. Run's goroutine only.
func (b *Bridge) measure(now time.Time) {
	b.meter.look(now, b.accounts.forwarded.Load(), b.accounts.received.Load(), b.queueStats().Count)
	var canary *CanaryStatus
	if c := b.canary; len(c.topic) > 0 {
		canary = &CanaryStatus{Trip: c.trip.Seconds(), Misses: c.misses}
		if !c.back.IsZero() {
			back := c.back.Round(0)
			canary.Back = &back
		}
	}
	b.box.mu.Lock()
	defer b.box.mu.Unlock()
	b.box.rates, b.box.eta, b.box.canary = b.meter.rates(), b.meter.eta(), canary
}

// dropped gathers the drops by cause from the places that count them.
func (b *Bridge) dropped() map[string]uint64 {
	counts := b.accounts.snapshot()
	if offline, overflow := b.live.dropped(); offline+overflow > 0 {
		counts[dropOffline], counts[dropOverflow] = offline, overflow
	}
	for cause, n := range b.queueStats().Dropped {
		counts[cause] += n
	}
	maps.DeleteFunc(counts, func(_ string, n uint64) bool { return n == 0 })
	return counts
}

// setState changes the state and, if it is another than before, tells the broker's subscribers.
func (b *Bridge) setState(state State, why string) {
	if !b.box.set(state, why) {
		return
	}
	connected := "0"
	if state == Up || state == Degraded {
		connected = "1"
	}
	if connected != b.toldConnected {
		b.toldConnected = connected
		b.tell("$SYS/broker/connection/"+b.cfg.Name+"/state", []byte(connected))
	}
	b.tellStatus()
}

// tellStatus publishes the status unless it is what was published last. Run's goroutine only.
func (b *Bridge) tellStatus() {
	text, err := json.Marshal(b.Status())
	if err != nil {
		panic("BUG: bridge: status: " + err.Error())
	}
	if string(text) == b.told {
		return
	}
	b.told = string(text)
	b.tell("$SYS/forebay/bridges/"+b.cfg.Name, text)
}

// tell publishes a retained message about the bridge itself. Should the broker have no room, the next one says more.
func (b *Bridge) tell(topic string, payload []byte) {
	b.env.Broker.Publish(&Message{Topic: topic, Payload: payload, Retain: true}, func(error) {})
}
