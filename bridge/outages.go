package bridge

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"forebay/storage"
)

// The bounds of the ledger of outages, for each bridge.
const (
	maxOutages  = 1000
	outagesKept = 366 * 24 * time.Hour
	outagesTold = 20 // on the topic
	// outageLook is how often the numbers are looked at while the account of an outage is open.
	outageLook = time.Second
)

// Outage is one time without a link to the upstream, and what it meant for the messages.
type Outage struct {
	From time.Time `json:"from"`
	// To is when the link was back; nil: it is not.
	To *time.Time `json:"to,omitempty"`
	// Drained is when nothing waited any more that came before To; nil: something does, or the next outage came before.
	Drained *time.Time `json:"drained,omitempty"`
	Why     string     `json:"why"` // of its beginning

	Buffered int64             `json:"buffered"`          // messages that waited at To
	Sent     uint64            `json:"sent"`              // of those that came before To, acknowledged by the upstream since
	Resent   uint64            `json:"resent"`            // transmissions since To that were repetitions
	Expired  uint64            `json:"expired"`           // too old by their own, their rule's or the queue's measure, since From
	Dropped  map[string]uint64 `json:"dropped,omitempty"` // for another cause, since From
}

// ledger keeps the outages of a bridge as rows of storage.Bridges: bridge's name, 0, 'o', eight bytes From in Unix ms →
// JSON of an outageRow. A row is written when an outage begins, when the link is back, and when its account is closed.
type ledger struct {
	// Constant.
	name string
	log  Log

	// Owned by Run.
	open    bool              // the last has no To yet
	counted bool              // the account of the last is not closed
	before  map[string]uint64 // drops by cause at its From
	resent  uint64            // repetitions before its To

	mu  sync.Mutex
	all []Outage // guarded by mu; oldest first
}

// outageRow is what is stored of an Outage.
type outageRow struct {
	Outage
	Before map[string]uint64 `json:"before,omitempty"` // drops by cause at From
}

func outagePrefix(bridge string) []byte { return append([]byte(bridge), 0, 'o') }

func (g *ledger) key(o *Outage) []byte {
	return binary.BigEndian.AppendUint64(outagePrefix(g.name), uint64(o.From.UnixMilli()))
}

// ReadOutages returns the outages of a bridge that log holds, oldest first. Like storage.Log.Each it comes before
// anything is appended.
func ReadOutages(log Rows, bridge string) ([]Outage, error) {
	g := ledger{name: bridge}
	if err := g.restore(log); err != nil {
		return nil, err
	}
	return g.all, nil
}

// restore reads the rows of this bridge. An outage during which the gateway stopped goes on.
func (g *ledger) restore(log Rows) error {
	prefix := outagePrefix(g.name)
	var rows []outageRow
	err := log.Each(storage.Bridges, func(key, value []byte) error {
		if !bytes.HasPrefix(key, prefix) {
			return nil
		}
		var r outageRow
		if json.Unmarshal(value, &r) != nil || len(key) != len(prefix)+8 {
			return nil // of a version to come: this is history, the bridge must run
		}
		rows = append(rows, r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("bridge: %s: read outages: %w", g.name, err)
	}
	slices.SortFunc(rows, func(a, b outageRow) int { return a.From.Compare(b.From) })
	for _, r := range rows {
		g.all = append(g.all, r.Outage)
	}
	if k := len(rows); k > 0 && rows[k-1].To == nil {
		g.open, g.counted, g.before = true, true, rows[k-1].Before
	}
	return nil
}

// eachKey calls fn for the rows. Nothing else may use g meanwhile.
func (g *ledger) eachKey(fn func(key []byte)) {
	for i := range g.all {
		fn(g.key(&g.all[i]))
	}
}

// list returns a copy, oldest first. It may be called from any goroutine.
func (g *ledger) list() []Outage {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := append([]Outage{}, g.all...) // JSON has [] for none
	for i := range all {
		all[i].Dropped = maps.Clone(all[i].Dropped)
	}
	return all
}

// begin notes that there is no link since from, unless that is known. dropped are the drops so far.
func (g *ledger) begin(from time.Time, why string, dropped map[string]uint64) {
	if g.open {
		return
	}
	g.open, g.counted, g.before = true, true, dropped
	o := Outage{From: from.Round(0), Why: why}
	var gone []Outage
	g.mu.Lock()
	for len(g.all) >= maxOutages || len(g.all) > 0 && from.Sub(g.all[0].From) > outagesKept {
		gone, g.all = append(gone, g.all[0]), g.all[1:]
	}
	g.all = append(g.all, o)
	g.mu.Unlock()
	g.write(&o, gone)
}

// end notes that the link is back. It reports whether that is news.
func (g *ledger) end(now time.Time, buffered int64, resent uint64) bool {
	if !g.open {
		return false
	}
	g.open, g.resent = false, resent
	g.change(func(o *Outage) {
		now := now.Round(0)
		o.To, o.Buffered = &now, buffered
	})
	return true
}

// returned is when the last link came back, if the account of the outage before is not closed; zero otherwise.
func (g *ledger) returned() time.Time {
	if g.open || !g.counted {
		return time.Time{}
	}
	return *g.all[len(g.all)-1].To // only Run changes it
}

// account brings the last outage up to date. sent are messages that came before its To and were acknowledged since the
// last call.
func (g *ledger) account(sent, resent uint64, dropped map[string]uint64) {
	o := &g.all[len(g.all)-1]
	g.mu.Lock()
	defer g.mu.Unlock()
	o.Sent += sent
	if !g.open {
		o.Resent = resent - g.resent
	}
	o.Expired, o.Dropped = 0, nil
	for cause, n := range dropped {
		if n >= g.before[cause] { // less: counted since the start of this life only
			n -= g.before[cause]
		}
		switch {
		case n == 0:
		case cause == dropExpired || cause == storage.CauseAge:
			o.Expired += n
		default:
			if o.Dropped == nil {
				o.Dropped = map[string]uint64{}
			}
			o.Dropped[cause] = n
		}
	}
}

// close ends the account of the last outage. drained: nothing waits any more that came before its To.
func (g *ledger) close(now time.Time, drained bool) {
	g.counted = false
	g.change(func(o *Outage) {
		if now := now.Round(0); drained {
			o.Drained = &now
		}
	})
}

// change changes the last outage and writes it.
func (g *ledger) change(fn func(*Outage)) {
	g.mu.Lock()
	o := &g.all[len(g.all)-1]
	fn(o)
	g.mu.Unlock()
	g.write(o, nil)
}

// write stores o, which only Run changes, and removes the rows that are gone. It does not wait for the disk. A store
// that takes nothing has other worries.
func (g *ledger) write(o *Outage, gone []Outage) {
	value, err := json.Marshal(outageRow{*o, g.before})
	if err != nil {
		panic("BUG: bridge: outage: " + err.Error())
	}
	changes := []storage.Change{{Table: storage.Bridges, Key: g.key(o), Value: value}}
	for i := range gone {
		if key := g.key(&gone[i]); !bytes.Equal(key, changes[0].Key) {
			changes = append(changes, storage.Change{Table: storage.Bridges, Key: key})
		}
	}
	_, _ = g.log.Append(&storage.Record{Time: time.Now().UnixMilli(), Changes: changes}) // see above
}

// outageBegins notes that there is no link since from.
func (b *Bridge) outageBegins(from time.Time, why string) {
	if b.ledger.open {
		return
	}
	b.closeOutage(from, false)
	b.ledger.begin(from, why, b.dropped())
	b.tellOutages()
}

// outageEnds notes that the link is back.
func (b *Bridge) outageEnds(now time.Time) {
	if b.ledger.end(now, b.queueStats().Count, b.forward.resent) {
		b.forward.lateUntil, b.forward.late = now.UnixMilli(), 0
		b.accountOutage(now)
		b.tellOutages()
	}
}

// accountOutage brings the account of the last outage up to date, if it is open.
func (b *Bridge) accountOutage(now time.Time) {
	returned := b.ledger.returned()
	if returned.IsZero() {
		return
	}
	b.ledger.account(b.forward.late, b.forward.resent, b.dropped())
	b.forward.late = 0
	if q := b.queueStats(); q.Count == 0 || q.Oldest > returned.UnixMilli() {
		b.closeOutage(now, true)
	}
}

// closeOutage ends the account of the last outage, if it is open and the link came back.
func (b *Bridge) closeOutage(now time.Time, drained bool) {
	if b.ledger.returned().IsZero() {
		return
	}
	b.ledger.account(b.forward.late, b.forward.resent, b.dropped())
	b.ledger.close(now, drained)
	b.forward.lateUntil, b.forward.late = 0, 0
	b.tellOutages()
}

// tellOutages publishes the last outages.
func (b *Bridge) tellOutages() {
	all := b.ledger.list()
	text, err := json.Marshal(all[max(0, len(all)-outagesTold):])
	if err != nil {
		panic("BUG: bridge: outages: " + err.Error())
	}
	b.tell("$SYS/forebay/bridges/"+b.cfg.Name+"/outages", text)
}

// Outages returns the outages of the last year, oldest first: at most 1000. It may be called from any goroutine.
func (b *Bridge) Outages() []Outage { return b.ledger.list() }
