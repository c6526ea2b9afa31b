package main_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// The benchmark's own account of losses is what makes its figures worth something.
func TestBenchBrokerCountsAndCompares(t *testing.T) {
	program(t, "mosquitto")
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(forebay(t), "bench", "broker", "--quick", "--json", "--only", "p2p, QoS 1", "--only", "p2p, QoS 2", "--only", "idle",
		"--start", "broken=/bin/false")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var result struct {
		Rows []struct {
			Name    string
			Medians map[string]float64
			Budgets []struct{ Text string }
		}
		Notes []string
	}
	if err := json.Unmarshal(stdout.Bytes(), &result); err != nil {
		t.Fatal(err)
	}
	left := 0 // how often the one that cannot be started is told of
	for _, note := range result.Notes {
		if strings.HasPrefix(note, "LEFT OUT: broken: ") {
			left++
		}
		if strings.HasPrefix(note, "WRONG") {
			t.Errorf("messages were lost or repeated: %q", note)
		}
	}
	if left != 2 { // for the traffic, and for the memory
		t.Errorf("a broker that does not run is told of %d times: %q", left, result.Notes)
	}
	rows := map[string]bool{}
	for _, row := range result.Rows {
		rows[row.Name] = true
		if row.Medians["forebay"] <= 0 || row.Medians["mosquitto"] <= 0 || len(row.Budgets) != 1 {
			t.Errorf("%s: %v, budgets %v", row.Name, row.Medians, row.Budgets)
		}
	}
	for _, want := range []string{"p2p, QoS 1", "p2p, QoS 1, CPU", "p2p, QoS 2", "memory, idle"} {
		if !rows[want] {
			t.Errorf("no row %q in %s", want, &stdout)
		}
	}
}
