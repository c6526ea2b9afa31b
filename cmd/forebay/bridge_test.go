package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBridgeExplain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "forebay.yaml")
	const text = `site: plant7
bridges:
- name: cloud
  addresses: [mqtts://cloud.example.com]
  up:
  - {filter: plant/+/raw, topic: nothing, exclude: [plant/press4/#]}
  - {filter: "plant/{rest:rest}", topic: "sites/{site}/{rest}", lift: 1, retain: drop, order: live-first, expiry: 1h}
  - {filter: "#"}
  down:
  - {filter: "cmd/#", topic: "{1}"}
- name: second
  addresses: [mqtt://other.example.com]
  down: [{filter: "plant/#", topic: "in/{1}", qos: 1}]
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, int) {
		var out, errs bytes.Buffer
		code := execute(args, &out, &errs)
		return out.String() + errs.String(), code
	}
	got, code := run("bridge", "explain", "plant/press4/raw", "--config", file)
	const want = `bridge cloud
  published here on plant/press4/raw
    goes up as sites/plant7/press4/raw
    QoS 0 as 1, 1 as 1, 2 as 2; retained never
    order live-first, priority normal, expires after 1h0m0s
    up[0]  plant/+/raw        excludes it with plant/press4/#
    up[1]  plant/{rest:rest}  decides
    up[2]  #                  matches too, but up[1] comes first
  arriving from the upstream on plant/press4/raw
    is not asked for: no rule matches
    down[0]  cmd/#  does not match
bridge second
  published here on plant/press4/raw
    stays here: no rule matches
  arriving from the upstream on plant/press4/raw
    comes down as in/press4/raw
    QoS 0 as 0, 1 as 1, 2 as 1; retained as published
    down[0]  plant/#  decides
`
	if got != want || code != exitOK {
		t.Errorf("exit code %d, got\n%s\nwant\n%s", code, got, want)
	}
	if got, code := run("bridge", "explain", "a/+", "-c", file); code != exitUsage || !strings.Contains(got, "is no topic of a message") {
		t.Errorf("exit code %d: %s", code, got)
	}
	if got, code := run("bridge", "explain", "a", "-c", filepath.Join(t.TempDir(), "none.yaml")); code != exitConfig {
		t.Errorf("exit code %d: %s", code, got)
	}
	if got, code := run("check", file); code != exitOK || strings.Contains(got, "mind:") {
		t.Errorf("exit code %d: %s", code, got)
	}
}
