package edge

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"forebay/bridge"
	"forebay/broker"
	"forebay/modbus"
	"forebay/storage"
)

// Report is the whole gateway as GET /v1/status tells it. It holds no secrets.
type Report struct {
	Version string          `json:"version"`
	Site    string          `json:"site"`
	Config  string          `json:"config,omitempty"` // the file
	Started time.Time       `json:"started"`
	Uptime  int64           `json:"uptime_seconds"`
	Ready   bool            `json:"ready"` // as /readyz
	Broker  BrokerReport    `json:"broker"`
	Bridges []bridge.Status `json:"bridges"` // as on $SYS/forebay/bridges/<name>
	Modbus  ModbusReport    `json:"modbus"`
	Storage StorageReport   `json:"storage"`
}

// BrokerReport is what the broker counts, since the start.
type BrokerReport struct {
	Listeners        []string          `json:"listeners"`
	Clients          int               `json:"clients"` // connected
	MaxClients       int               `json:"max_clients"`
	Sessions         int               `json:"sessions"` // those of absent clients included
	Subscriptions    int               `json:"subscriptions"`
	Retained         int               `json:"retained"`
	RetainedBytes    int64             `json:"retained_bytes"`
	MessagesReceived uint64            `json:"messages_received"` // PUBLISH
	MessagesSent     uint64            `json:"messages_sent"`
	MessagesRefused  uint64            `json:"messages_refused"`
	MessagesDropped  map[string]uint64 `json:"messages_dropped"` // by cause; what the store drops is with its consumers
	ClientsRefused   map[string]uint64 `json:"clients_refused"`  // by cause: those that a limit or a password keeps out
	ClientsSlowed    uint64            `json:"clients_slowed"`   // how often one was not read for a while
	PacketsReceived  uint64            `json:"packets_received"` // of every type
	PacketsSent      uint64            `json:"packets_sent"`
	BytesReceived    uint64            `json:"bytes_received"`
	BytesSent        uint64            `json:"bytes_sent"`
	QueuedBytes      int               `json:"queued_bytes"`   // in memory, for clients
	LoginsFailed     uint64            `json:"logins_failed"`  // with a wrong password or an unknown user
	LoginsDelayed    uint64            `json:"logins_delayed"` // refused unseen after failed ones
	Panics           int               `json:"panics"`         // bugs that closed one connection
	StateLost        uint64            `json:"state_lost"`
}

// ModbusReport is what the pollers find.
type ModbusReport struct {
	Links          []LinkReport `json:"links"`
	Samples        uint64       `json:"samples"`         // published and safe
	SamplesRefused uint64       `json:"samples_refused"` // by the broker, and so lost
}

// LinkReport is one Modbus link; the counters are those of modbus.LinkStats.
type LinkReport struct {
	Name       string       `json:"name"`
	Up         bool         `json:"up"`
	Requests   uint64       `json:"requests"`
	Timeouts   uint64       `json:"timeouts"`
	Exceptions uint64       `json:"exceptions"`
	Failures   uint64       `json:"failures"`
	Late       uint64       `json:"late"`
	Stray      uint64       `json:"stray"`
	CRC        uint64       `json:"crc"`
	Reconnects uint64       `json:"reconnects"`
	Missed     uint64       `json:"missed"`
	Samples    uint64       `json:"samples"`
	Writes     uint64       `json:"writes"`
	Units      []UnitReport `json:"units"`
}

// UnitReport is one device. State is empty before its first answer or failure.
type UnitReport struct {
	Name  string     `json:"name"`
	Unit  int        `json:"unit"`
	Tags  int        `json:"tags"`
	State string     `json:"state,omitempty"`
	Since *time.Time `json:"since,omitempty"`
	Error string     `json:"error,omitempty"`

	// The counters are those of modbus.UnitCounters.
	Requests   uint64          `json:"requests"`
	Timeouts   uint64          `json:"timeouts"`
	Failures   uint64          `json:"failures"`
	Late       uint64          `json:"late"`
	Stray      uint64          `json:"stray"`
	CRC        uint64          `json:"crc"`
	Exceptions map[byte]uint64 `json:"exceptions,omitempty"` // by code
	// Learned is about its reads.
	Learned *modbus.LearnedUnit `json:"learned,omitempty"`
}

// StorageReport is the store.
type StorageReport struct {
	Path      string            `json:"path"`
	Bytes     int64             `json:"bytes"` // of all files
	MaxBytes  int64             `json:"max_bytes"`
	Segments  int               `json:"segments"`
	Damaged   int               `json:"damaged"`           // files set aside, since the store was made
	HighWater uint64            `json:"high_water"`        // how often it came near max_bytes, since the start
	Refused   map[string]uint64 `json:"refused,omitempty"` // records, by limit, since the start
	Error     string            `json:"error,omitempty"`   // why the store has failed

	// Consumers are all bridges, the commands, and of the sessions those for
	// which most waits, at most maxSessions. Sessions is the sum of all of them.
	Consumers []ConsumerReport `json:"consumers"`
	Sessions  SessionsReport   `json:"sessions"`
}

// ConsumerReport is one queue of the store.
type ConsumerReport struct {
	Name      string            `json:"name"` // bridge/<name> or session/<client identifier>
	Count     int64             `json:"count"`
	Bytes     int64             `json:"bytes"`
	Oldest    *time.Time        `json:"oldest,omitempty"`     // arrival
	Dropped   map[string]uint64 `json:"dropped,omitempty"`    // by cause, since the consumer was made
	HighWater uint64            `json:"high_water,omitempty"` // how often it came near a limit, since the start
	Orphan    bool              `json:"orphan,omitempty"`     // its bridge is not in the configuration any more
}

// SessionsReport sums up what waits for sessions.
type SessionsReport struct {
	Queues int   `json:"queues"`
	Count  int64 `json:"count"`
	Bytes  int64 `json:"bytes"`
}

// maxSessions bounds the sessions in a report.
const maxSessions = 50

// Report asks every part. It waits for the broker's loop, or for the end of
// ctx.
func (g *Gateway) Report(ctx context.Context) (Report, error) {
	s, err := g.Status(ctx)
	if err != nil {
		return Report{}, err
	}
	g.mu.Lock()
	r := Report{Version: g.cfg.Version, Config: g.cfg.source, Ready: g.ready}
	orphans := g.orphans()
	path := g.cfg.Storage.Path
	g.mu.Unlock()
	r.Site, r.Started, r.Uptime = s.Site, s.Since, int64(time.Since(s.Since)/time.Second)
	r.Broker = brokerReport(s.Broker, g.Addrs())
	if r.Bridges = s.Bridges; r.Bridges == nil {
		r.Bridges = []bridge.Status{} // [] in JSON, not null
	}
	links := linkReports(s.Links, s.Units, g.telemetry.unitStates())
	addLearned(links, s.Learned)
	r.Modbus = ModbusReport{Links: links, Samples: s.Samples, SamplesRefused: s.SamplesRefused}
	r.Storage = g.storageReport(path, orphans)
	r.Ready = r.Ready && r.Storage.Error == ""
	return r, nil
}

func brokerReport(st broker.Stats, listeners []string) BrokerReport {
	return BrokerReport{
		Listeners: listeners, Clients: st.Clients, MaxClients: st.MaxClients, Sessions: st.Sessions,
		Subscriptions: st.Subscriptions, Retained: st.Retained, RetainedBytes: st.RetainedBytes,
		MessagesReceived: st.Received, MessagesSent: st.Sent, MessagesRefused: st.Refused,
		MessagesDropped: map[string]uint64{
			"slow": st.DroppedSlow, "too-large": st.DroppedTooLarge, "expired": st.DroppedExpired,
			"full": st.DroppedFull, "denied": st.DroppedDenied, "will": st.DroppedWills, "retained": st.DroppedRetained,
		},
		ClientsRefused: map[string]uint64{
			"connections": st.RefusedFull, "address": st.RefusedAddress, "password": st.LoginsFailed, "guessing": st.LoginsDelayed,
		},
		ClientsSlowed:   st.Slowed,
		PacketsReceived: st.PacketsReceived, PacketsSent: st.PacketsSent,
		BytesReceived: st.BytesReceived, BytesSent: st.BytesSent,
		QueuedBytes: st.MemoryBytes, LoginsFailed: st.LoginsFailed, LoginsDelayed: st.LoginsDelayed, Panics: st.Panics, StateLost: st.StateLost,
	}
}

func linkReports(stats []modbus.LinkStats, units []modbus.UnitStats, states []modbus.UnitState) []LinkReport {
	all := make([]LinkReport, 0, len(stats))
	for _, st := range stats {
		l := LinkReport{
			Name: st.Link.Name, Up: st.Up, Requests: st.Requests, Timeouts: st.Timeouts,
			Exceptions: st.Exceptions, Failures: st.Failures, Late: st.Late, Stray: st.Stray, CRC: st.CRC, Reconnects: st.Reconnects,
			Missed: st.Missed, Samples: st.Samples, Writes: st.Writes, Units: []UnitReport{},
		}
		for _, of := range units {
			if of.Link == st.Link {
				l.Units = append(l.Units, unitReport(&of, states))
			}
		}
		all = append(all, l)
	}
	return all
}

func unitReport(of *modbus.UnitStats, states []modbus.UnitState) UnitReport {
	u := UnitReport{
		Name: of.Unit.Name, Unit: *of.Unit.Unit, Tags: len(of.Unit.Tags), Requests: of.Requests, Timeouts: of.Timeouts,
		Failures: of.Failures, Late: of.Late, Stray: of.Stray, CRC: of.CRC, Exceptions: of.Exceptions,
	}
	at := slices.IndexFunc(states, func(s modbus.UnitState) bool { return s.Unit == of.Unit })
	if at < 0 {
		return u
	}
	s := states[at]
	u.State, u.Since = string(s.State), &s.Since
	if s.Err != nil {
		u.Error = s.Err.Error()
	}
	return u
}

// addLearned adds what is known of the reads of units to the reports of links.
func addLearned(links []LinkReport, learned []modbus.LearnedUnit) {
	for i := range links {
		for j := range links[i].Units {
			link, u := links[i].Name, &links[i].Units[j]
			at := slices.IndexFunc(learned, func(l modbus.LearnedUnit) bool { return l.Link == link && l.Unit == u.Name })
			if at >= 0 {
				u.Learned = &learned[at]
			}
		}
	}
}

func (g *Gateway) storageReport(path string, orphans []string) StorageReport {
	st := g.store.Stats()
	r := StorageReport{
		Path: path, Bytes: st.Disk, MaxBytes: st.MaxSize, Segments: st.Segments,
		Damaged: st.Damaged, HighWater: st.HighWater, Refused: st.Refused, Consumers: []ConsumerReport{},
	}
	if st.Err != nil {
		r.Error = st.Err.Error()
	}
	var sessions []ConsumerReport
	for _, name := range g.store.Consumers() {
		// One by one: the store's lock is not to be held for thousands of them.
		q, ok := g.store.ConsumerStats(name)
		if !ok {
			continue // removed meanwhile
		}
		c := consumerReport(name, q)
		if strings.HasPrefix(name, consumerPrefix) {
			bridgeName, _ := bridgeOf(name)
			c.Orphan = slices.Contains(orphans, bridgeName)
			r.Consumers = append(r.Consumers, c)
			continue
		}
		r.Sessions.Queues++
		r.Sessions.Count += c.Count
		r.Sessions.Bytes += c.Bytes
		if c.Count > 0 {
			sessions = append(sessions, c)
		}
	}
	slices.SortStableFunc(sessions, func(a, b ConsumerReport) int { return cmp.Compare(b.Bytes, a.Bytes) })
	r.Consumers = append(r.Consumers, sessions[:min(len(sessions), maxSessions)]...)
	return r
}

func consumerReport(name string, q storage.CursorStats) ConsumerReport {
	c := ConsumerReport{Name: name, Count: q.Count, Bytes: q.Bytes, Dropped: q.Dropped, HighWater: q.HighWater}
	if q.Count > 0 && q.Oldest > 0 {
		oldest := time.UnixMilli(q.Oldest).UTC()
		c.Oldest = &oldest
	}
	return c
}
