package storage

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/v1 anew")

// A store as version 1 wrote it must stay readable for ever.
func TestGolden(t *testing.T) {
	const golden = "testdata/v1"
	if *update {
		writeGolden(t, golden)
	}
	for _, name := range []string{"with state", "rebuilt"} {
		t.Run(name, func(t *testing.T) {
			dir := copyDir(t, golden)
			if name == "rebuilt" {
				remove(t, filepath.Join(dir, stateName))
			}
			l := openTest(t, dir, defaults())
			if got := l.Consumers(); len(got) != 2 || got[0] != "bridge cloud" || got[1] != "session x" {
				t.Fatalf("consumers %q", got)
			}
			c := mustConsumer(t, l, "bridge cloud", Limits{})
			got := drain(t, c, true)
			if messages(got) != "two four six" || got[0].N != 2 || got[0].Time != 1700000000002 || got[0].Options != 2 || string(got[0].Extra) != "x" {
				t.Errorf("bridge cloud: %+v", got)
			}
			if r := c.Released(); len(r) != 1 || r[0] != 3 {
				t.Errorf("released %v", r)
			}
			if d := c.Stats().Dropped; d["expired"] != 1 {
				t.Errorf("dropped %v", d)
			}
			if got := messages(drain(t, mustConsumer(t, l, "session x", Limits{}), true)); got != "two six" {
				t.Errorf("session x: %q", got)
			}
			rows := map[string]string{}
			if err := l.Each(Retained, func(k, v []byte) error { rows[string(k)] = string(v); return nil }); err != nil {
				t.Fatal(err)
			}
			if len(rows) != 1 || rows["topic"] != "value" {
				t.Errorf("rows %q", rows)
			}
			closeLog(t, l)
		})
	}
}

func writeGolden(t *testing.T, golden string) {
	t.Helper()
	dir := t.TempDir()
	tune := unhurried()
	tune.half = minJournalHalf
	l := openTest(t, dir, tune)
	c, x := mustConsumer(t, l, "bridge cloud", Limits{}), mustConsumer(t, l, "session x", Limits{})
	mustConsumer(t, l, "gone", Limits{})
	if _, err := l.RemoveConsumer("gone"); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, "one", c)
	_, err := l.Append(&Record{
		Time: 1700000000002, Message: []byte("two"),
		Deliveries: []Delivery{{Consumer: c.ID(), Options: 2, Extra: []byte("x"), Hold: true}, {Consumer: x.ID()}},
		Changes:    []Change{{Retained, []byte("topic"), []byte("value")}, {Retained, []byte("gone"), nil}},
	})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, "three", c)
	mustAppend(t, l, "four", c)
	mustSafe(t, l, mustAppend(t, l, "five", c))
	c.Ack(1)
	c.Drop("expired", 5)
	mustSafe(t, l, c.Received(3))
	closeLog(t, l)
	l = openTest(t, dir, tune)
	c, x = mustConsumer(t, l, "bridge cloud", Limits{}), mustConsumer(t, l, "session x", Limits{})
	mustSafe(t, l, mustAppend(t, l, "six", c, x))
	crashed := copyDir(t, dir) // with "six" in the journal only
	closeLog(t, l)
	dir = crashed
	if err := os.RemoveAll(golden); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(golden, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{stateName, segmentName(1), segmentName(2), journalName} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for name != journalName && len(b) > 4096 && b[len(b)-1] == 0 { // bbolt lets files grow ahead
			b = b[:len(b)-1]
		}
		b = append(b, make([]byte, (4096-len(b)%4096)%4096)...)
		if err := os.WriteFile(filepath.Join(golden, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
