package main_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"testing"
)

// One short round of everything: messages that are lost, repeated or late end it with an error.
func TestBenchBridgeMeasures(t *testing.T) {
	program(t, "mosquitto")
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(forebay(t), "bench", "bridge", "--quick", "--json", "--backlog", "2000")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var result struct {
		Rows []struct {
			Name    string
			Medians map[string]float64
		}
	}
	if err := json.Unmarshal(stdout.Bytes(), &result); err != nil {
		t.Fatal(err)
	}
	rows := map[string]map[string]float64{}
	for _, row := range result.Rows {
		rows[row.Name] = row.Medians
	}
	for _, name := range []string{
		"forward 100 B, upstream in 10 ms", "forward 100 B, CPU of broker and bridge", "drain to a Mosquitto", "upstream back to first message",
	} {
		if rows[name]["forebay"] <= 0 {
			t.Errorf("no figure for %q in %s", name, &stdout)
		}
	}
	// Each topic goes over the wire once only.
	if wire := rows["on the wire, 16 B payload, 5 topics"]; wire["forebay"] > 0.7*wire["mosquitto"] {
		t.Errorf("bytes of a message on the wire: %v", wire)
	}
}

func TestBenchBridgeUsage(t *testing.T) {
	code, out := run(t, forebay(t), "bench", "bridge", "--backlog", "3")
	if code != 2 {
		t.Errorf("exit code %d", code)
	}
	contains(t, out, "1000 or more")
}
