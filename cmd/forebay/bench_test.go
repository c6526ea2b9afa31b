package main_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"testing"
)

// The benchmark's own account of losses is what makes its figures worth something.
func TestBenchBrokerCountsAndCompares(t *testing.T) {
	program(t, "mosquitto")
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(forebay(t), "bench", "broker", "--quick", "--json", "--only", "p2p, QoS 1", "--only", "p2p, QoS 2", "--only", "idle")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var result struct {
		Rows []struct {
			Name, Unit      string
			Medians, Ratios map[string]float64
		}
		Remarks []string
	}
	if err := json.Unmarshal(stdout.Bytes(), &result); err != nil {
		t.Fatal(err)
	}
	if len(result.Remarks) > 0 {
		t.Errorf("messages were lost or repeated: %q", result.Remarks)
	}
	rows := map[string]bool{}
	for _, row := range result.Rows {
		rows[row.Name] = true
		if row.Medians["forebay"] <= 0 || row.Medians["mosquitto"] <= 0 || row.Ratios["mosquitto"] <= 0 {
			t.Errorf("%s: %v, ratios %v", row.Name, row.Medians, row.Ratios)
		}
	}
	for _, want := range []string{"p2p, QoS 1", "p2p, QoS 1, CPU", "p2p, QoS 2", "memory, idle"} {
		if !rows[want] {
			t.Errorf("no row %q in %s", want, &stdout)
		}
	}
}
