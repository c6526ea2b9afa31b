package bridge

import (
	"testing"
	"time"

	"forebay/storage"
)

// rows is a table of the store.
type rows map[string][]byte

func (r rows) Each(t storage.Table, fn func(key, value []byte) error) error {
	for key, value := range r {
		if err := fn([]byte(key), value); err != nil {
			return err
		}
	}
	return nil
}

// sink is a store that takes everything.
type sink struct{ Log }

func (sink) Append(*storage.Record) (storage.Seq, error) { return 1, nil }

// Whatever the rows of the past hold, the bridge runs.
func FuzzStoredHistory(f *testing.F) {
	f.Add([]byte("12345678"), []byte(`{"from":"2026-11-22T00:00:00Z","why":"x","before":{"a":1}}`))
	f.Add([]byte("12345678"), []byte(`{"from":"2026-11-22T00:00:00Z","to":"2026-11-22T00:00:01Z","drained":"2026-11-22T00:00:01Z"}`))
	f.Add([]byte("123456789"), []byte(`{"time":"2026-11-22T00:00:00Z","cause":"too-large","payload":"AAAA"}`))
	f.Add([]byte{}, []byte(`null`))
	f.Add([]byte("x"), []byte(`{`))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		stored := rows{"cloud\x00o" + string(key): value, "cloud\x00d" + string(key): value}
		l := letters{name: "cloud", log: sink{}}
		if err := l.restore(stored); err != nil {
			t.Fatal(err)
		}
		l.keep(DeadLetter{Time: time.Unix(1, 0), Cause: "x"}, 0, 1)
		if l.count() == 0 {
			t.Error("a dead letter is not kept")
		}
		g := ledger{name: "cloud", log: sink{}}
		if err := g.restore(stored); err != nil {
			t.Fatal(err)
		}
		now := time.Unix(2, 0)
		g.begin(now, "why", map[string]uint64{"a": 1})
		if !g.end(now, 1, 0) || g.returned().IsZero() {
			t.Error("an outage that is over is not accounted for")
		}
		g.account(1, 1, map[string]uint64{"a": 5})
		g.close(now, true)
		if o := g.list(); len(o) == 0 || o[len(o)-1].Drained == nil {
			t.Errorf("outages %+v", o)
		}
	})
}
