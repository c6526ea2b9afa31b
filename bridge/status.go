package bridge

import "time"

// State says what the link to the upstream is worth.
type State string

// The states.
const (
	Connecting State = "connecting" // not connected yet, trying
	Up         State = "up"         // connected, and acknowledgements come
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
	LastError string            `json:"last_error,omitempty"`
}

// Backlog is what waits for the upstream.
type Backlog struct {
	Count  int64      `json:"count"`
	Bytes  int64      `json:"bytes"`
	Oldest *time.Time `json:"oldest,omitempty"` // arrival of the oldest
}
