package edge

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"forebay/bridge"
	"forebay/broker"
	"forebay/storage"
)

func TestConsumerTitle(t *testing.T) {
	for name, want := range map[string]string{
		"bridge/cloud": "bridge cloud", "session/a/b": "session a/b", "bridge/modbus/commands": "modbus commands", "x": "x",
	} {
		if got := ConsumerTitle(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestFindConsumer(t *testing.T) {
	v := &storage.View{Consumers: []storage.ConsumerView{{Name: "bridge/cloud"}, {Name: "bridge/x"}, {Name: "session/x"}}}
	for given, want := range map[string]string{
		"bridge/cloud": "bridge/cloud", "bridge cloud": "bridge/cloud", "cloud": "bridge/cloud", "session x": "session/x",
	} {
		if got, err := FindConsumer(v, given); got != want || err != nil {
			t.Errorf("%s: %q, %v", given, got, err)
		}
	}
	if _, err := FindConsumer(v, "x"); err == nil || !strings.Contains(err.Error(), `"bridge x" and "session x"`) {
		t.Errorf("ambiguous: %v", err)
	}
	if _, err := FindConsumer(v, "y"); err == nil || !strings.Contains(err.Error(), `there are "bridge cloud", "bridge x", "session x"`) {
		t.Errorf("unknown: %v", err)
	}
}

func TestReportText(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	v := &storage.View{
		Path: "/var/lib/forebay", Disk: 3 << 30, Damaged: 1,
		Consumers: []storage.ConsumerView{
			{Name: "bridge/cloud", Count: 12, Bytes: 1536, Oldest: now.Add(-49*time.Hour - time.Minute), Dropped: map[string]uint64{"full": 3, "age": 1}},
			{Name: "bridge/old", Received: 2},
			{Name: "session/\x1b[2J"},
		},
		Rows:     map[storage.Table]int{storage.Sessions: 1, storage.Subscriptions: 2, storage.Retained: 3},
		Segments: []storage.FileView{{Name: "00000007.seg", Bytes: 1 << 20}, {Name: "00000008.seg", Bytes: 1 << 20}},
		Bad:      []storage.FileView{{Name: "00000003.seg.bad", Bytes: 100}},
		Journal:  storage.JournalView{Bytes: 8 << 20, Holds: 10},
		Findings: []storage.Finding{{File: "state.db", Problem: "is odd", Cure: "do this"}},
	}
	r := ReportStore(v, &Config{Bridges: []bridge.Config{{Name: "cloud"}}}, now)
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(b.String(), v.Consumers[0].Oldest.Local().Format("2006-01-02 15:04:05"), "WHEN")
	want := `/var/lib/forebay: 3.0 GiB on disk

CONSUMER           MESSAGES  BYTES    OLDEST                       NOTES
bridge cloud       12        1.5 KiB  WHEN (2d 1h)  dropped 1: age, dropped 3: full
bridge old         0         0 B      -                            not in the configuration, 2 of QoS 2 half done
"session \x1b[2J"  0         0 B      -

segments       2  2.0 MiB
journal           8.0 MiB  10 B of it in no segment yet
sessions       1
subscriptions  2
retained       3
set aside        100 B  00000003.seg.bad

state.db: is odd
    do this
`
	if text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}

// A running gateway tells what it holds, and its store goes on meanwhile.
func TestStoreOfRunningGateway(t *testing.T) {
	cfg := Config{Bridges: []bridge.Config{{Name: "cloud", Addresses: []string{"mqtt://127.0.0.1:1"}, Up: []bridge.UpRule{{Filter: "#"}}}}}
	g := runGateway(t, t.TempDir(), cfg)
	done := make(chan error, 1)
	g.server.Publish(&broker.Message{Topic: "a/b", Payload: []byte("21.5"), QoS: 1}, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r, err := g.StoreReport()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Consumers) != 1 || r.Consumers[0].Name != "bridge cloud" || r.Consumers[0].Messages != 1 || r.Consumers[0].Orphan || r.Disk == 0 {
		t.Errorf("%+v", r)
	}
	var b bytes.Buffer
	if err := g.StoreExport(&b, "cloud"); err != nil {
		t.Fatal(err)
	}
	var line struct {
		Consumers      []string
		Topic, Payload string
		QoS            int
		Time           time.Time
	}
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line.Topic != "a/b" || line.Payload != "21.5" || line.QoS != 1 ||
		len(line.Consumers) != 1 || line.Consumers[0] != "bridge cloud" || time.Since(line.Time) > time.Hour {
		t.Errorf("%v: %s", err, b.Bytes())
	}
	if err := g.StoreExport(&b, "nobody"); err == nil {
		t.Error("exported for nobody")
	}
}

// What is in the store need not be what the broker put there.
func FuzzExported(f *testing.F) {
	f.Add([]byte("\x32\x08\x00\x01a\x00\x01\x00hi"))
	f.Add([]byte("\x33\x08\x00\x01a\x00\x01\x00\xff\xfe"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, message []byte) {
		b, err := json.Marshal(exported(&storage.Held{Message: message}))
		if err != nil || !json.Valid(b) {
			t.Errorf("%s, %v", b, err)
		}
	})
}
