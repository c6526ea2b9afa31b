package edge

import (
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"forebay/bridge"
	"forebay/modbus"
)

// samplesOf reads a text of metrics as Prometheus does: each metric once, with
// its help and type before its values, and no value twice.
func samplesOf(t *testing.T, text string) map[string]float64 {
	t.Helper()
	const name = `[a-zA-Z_:][a-zA-Z0-9_:]*`
	metricLine := regexp.MustCompile(`^(` + name + `)(\{(?:` + name + `="(?:[^"\\\n]|\\["\\n])*",?)+\})? (\S+)$`)
	values := map[string]float64{}
	kinds := map[string]string{}
	current := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		words := strings.SplitN(line, " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			if current = words[2]; kinds[current] != "" {
				t.Errorf("%s comes twice", current)
			}
		case strings.HasPrefix(line, "# TYPE "):
			if kinds[words[2]] = words[3]; words[2] != current {
				t.Errorf("%q does not follow its help", line)
			}
			if words[3] == "counter" != strings.HasSuffix(words[2], "_total") {
				t.Errorf("%s is a %s", words[2], words[3])
			}
		default:
			m := metricLine.FindStringSubmatch(line)
			if m == nil || m[1] != current || kinds[current] == "" {
				t.Fatalf("no value of %s: %q", current, line)
			}
			value, err := strconv.ParseFloat(m[3], 64)
			if _, twice := values[m[1]+m[2]]; err != nil || twice {
				t.Errorf("%q: %v, twice: %v", line, err, twice)
			}
			values[m[1]+m[2]] = value
		}
	}
	return values
}

// Texts that come from a configuration or a peer cannot break the format.
func TestMetricsOfAnything(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	oldest := now.Add(-90 * time.Second)
	odd := "a\"b\\c\nd{}"
	r := Report{
		Version: odd, Started: now,
		Bridges: []bridge.Status{
			{Name: "cloud", State: bridge.Stalled, Backlog: bridge.Backlog{Count: 3, Bytes: 1 << 40, Oldest: &oldest}, Dropped: map[string]uint64{odd: 7, "age": 1}},
			{Name: "other", State: bridge.Up},
		},
		Modbus:  ModbusReport{Links: []LinkReport{{Name: odd, Up: true, Requests: 5, Units: []UnitReport{{Name: "u", State: "online"}, {Name: "silent"}}}}},
		Storage: StorageReport{Error: "broken", Consumers: []ConsumerReport{{Name: "bridge/gone", Count: 9, Orphan: true}, {Name: "session/x", Count: 1}}},
	}
	got := samplesOf(t, string(metricsOf(&r, now)))
	const escaped = `a\"b\\c\nd{}`
	for name, want := range map[string]float64{
		`forebay_ready`:                                                             0,
		`forebay_storage_failed`:                                                    1,
		`forebay_bridge_queue_messages{bridge="cloud"}`:                             3,
		`forebay_bridge_queue_bytes{bridge="cloud"}`:                                1 << 40,
		`forebay_bridge_queue_oldest_age_seconds{bridge="cloud"}`:                   90,
		`forebay_bridge_queue_oldest_age_seconds{bridge="other"}`:                   0,
		`forebay_bridge_state{bridge="cloud",state="stalled"}`:                      1,
		`forebay_bridge_state{bridge="cloud",state="up"}`:                           0,
		`forebay_bridge_dropped_total{bridge="cloud",cause="` + escaped + `"}`:      7,
		`forebay_modbus_requests_total{link="` + escaped + `"}`:                     5,
		`forebay_modbus_unit_state{link="` + escaped + `",unit="u",state="online"}`: 1,
		`forebay_storage_orphan_messages{bridge="gone"}`:                            9,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v (%v), want %v", name, value, ok, want)
		}
	}
	for name := range got {
		if strings.Contains(name, "silent") || strings.Contains(name, "session/x") {
			t.Errorf("%s should not be there", name)
		}
	}
}

// The metrics of a running gateway have the numbers of its status.
func TestMetricsOfARunningGateway(t *testing.T) {
	plc, address := startPLC(t)
	plc.SetRegister(modbus.InputRegister, 3, 271)
	g := runGateway(t, filepath.Join(t.TempDir(), "store"), Config{
		API:     APIConfig{Listen: "127.0.0.1:0"},
		Bridges: []bridge.Config{cloudBridge("dead", closedPort(t))},
		Modbus:  modbus.Config{Links: []modbus.LinkConfig{plcLink("line1", address)}},
	})
	at := subscribe(t, g.address, "plant/#")
	at.wait("plant/line1/level", contains("271"))
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	eventually(t, func() bool {
		code, body := get(t, client, "GET", g.lookAt()+"/metrics")
		if code != 200 {
			t.Fatalf("%d %s", code, body)
		}
		m := samplesOf(t, body)
		return m["forebay_broker_clients"] == 1 && m["forebay_ready"] == 1 && m[`forebay_bridge_queue_messages{bridge="dead"}`] > 0 &&
			m[`forebay_modbus_link_up{link="line1"}`] == 1 && m["forebay_modbus_samples_published_total"] > 0 &&
			m["process_resident_memory_bytes"] > 1<<20 && m["go_memstats_heap_alloc_bytes"] > 0 && m["process_open_fds"] > 3
	})
}
