package edge

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"forebay/modbus"
	"forebay/storage"
)

// learned keeps what the poller learns about devices across restarts, in the
// table Modbus: a row of JSON for each unit. Losing one costs some refused
// reads, so nobody waits for the disk.
type learned struct {
	// Constant after readLearned.
	store *storage.Log
	log   *slog.Logger

	mu    sync.Mutex
	units []modbus.LearnedUnit // guarded by mu
}

// readLearned reads the table. Like every reader it comes before the first
// Append. A row that cannot be read is left out: it is learned again.
func readLearned(store *storage.Log, log *slog.Logger) (*learned, error) {
	l := &learned{store: store, log: log}
	err := store.Each(storage.Modbus, func(key, value []byte) error {
		var u modbus.LearnedUnit
		if err := json.Unmarshal(value, &u); err != nil {
			log.Warn("what was learned about a modbus unit cannot be read; it is learned again", "unit", string(key), "err", err)
			return nil
		}
		l.units = append(l.units, u)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("edge: read what was learned about modbus units: %w", err)
	}
	return l, nil
}

// keep takes what was learned about one unit. It is called from the goroutines
// of the links.
func (l *learned) keep(u modbus.LearnedUnit) {
	l.mu.Lock()
	i := slices.IndexFunc(l.units, func(known modbus.LearnedUnit) bool { return known.Link == u.Link && known.Unit == u.Unit })
	if i < 0 {
		l.units = append(l.units, u)
	} else {
		l.units[i] = u
	}
	l.mu.Unlock()
	value, err := json.Marshal(u)
	if err == nil {
		row := storage.Change{Table: storage.Modbus, Key: []byte(u.Link + "/" + u.Unit), Value: value}
		_, err = l.store.Append(&storage.Record{Changes: []storage.Change{row}})
	}
	if err != nil {
		l.log.Warn("what was learned about a modbus unit is not kept", "link", u.Link, "unit", u.Unit, "err", err)
	}
}

// all returns what is known of every unit.
func (l *learned) all() []modbus.LearnedUnit {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.units)
}
