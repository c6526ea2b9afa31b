package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What an uplink has been through can be asked for while it is away.
func TestBridgeHistory(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	file := filepath.Join(dir, "gw.yaml")
	text := fmt.Sprintf(`site: plant
storage: {path: data}
api: {socket: %s}
broker: {listeners: [{address: "127.0.0.1:0", anonymous: true}]}
bridges: [{name: cloud, addresses: ["mqtt://127.0.0.1:%d"], up: [{filter: "#"}]}]
`, socket, freePort(t))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	gateway := start(t, forebay(t), "run", "-c", file)
	gateway.wait("cannot connect to the upstream")
	ask := func(want int, args ...string) string {
		t.Helper()
		p := start(t, forebay(t), append(append([]string{"bridge"}, args...), "--socket", socket)...)
		if code := p.exitCode(); code != want {
			t.Errorf("%q ends with %d, want %d:\n%s", args, code, want, p.tail())
		}
		return p.output()
	}
	for _, all := range [][]string{{"outages"}, {"outages", "cloud"}} {
		if got := ask(0, all...); !strings.Contains(got, "cloud ") || !strings.Contains(got, "still") || !strings.Contains(got, "connection refused") {
			t.Errorf("%q prints\n%s", all, got)
		}
	}
	if got := ask(0, "outages", "--json"); !strings.HasPrefix(got, `{"cloud":[{"from":"2`) {
		t.Errorf("JSON: %s", got)
	}
	if got := ask(0, "dead-letters", "cloud"); !strings.HasPrefix(got, "GIVEN UP") || strings.Contains(got, "\n") {
		t.Errorf("dead letters: %s", got)
	}
	if got := ask(1, "dead-letters", "clout"); !strings.Contains(got, "no bridge of that name") {
		t.Errorf("dead letters of an unknown bridge: %s", got)
	}
}
