package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Reloads that add, change and remove everything that can be, one after the
// other, while others ask for the status and orders come at the same time, end
// with what the last file says, and with a stop that is clean.
func TestReloadsWhileOthersAsk(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "forebay.yaml")
	const head = `site: mill
storage: {path: store}
broker: {listeners: [{address: "127.0.0.1:0", anonymous: true}]}
`
	nowhere := closedPort(t)
	files := []string{
		head + "log: {level: error}\n",
		head + fmt.Sprintf(`
bridges:
  - {name: a, addresses: ["mqtt://%s"], up: [{filter: "a/#"}]}
modbus: {links: [{name: l, tcp: %q, units: [{name: u, unit: 1, tags: [{name: t, register: coil, address: 1, writable: true}]}]}]}
`, nowhere, nowhere),
		head + fmt.Sprintf(`
bridges:
  - {name: b, addresses: ["mqtt://%s"], up: [{filter: "b/#"}]}
  - {name: a, addresses: ["mqtt://%s"], up: [{filter: "#"}]}
modbus: {links: [{name: l, tcp: %q, units: [{name: u, unit: 2, tags: [{name: t, register: coil, address: 1}]}]}]}
`, nowhere, nowhere, nowhere),
	}
	put := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(files[0])
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Level = new(slog.LevelVar)
	log := &lockedBuffer{}
	g, err := Open(cfg, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: cfg.Level})))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()

	var asking sync.WaitGroup
	over := make(chan struct{})
	for range 3 {
		asking.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				if _, err := g.Report(t.Context()); err != nil {
					t.Errorf("Report: %v", err)
					return
				}
				g.readiness(t.Context())
				if _, err := g.ForgetBridge(t.Context(), "nobody"); !errors.Is(err, errNoQueue) {
					t.Errorf("ForgetBridge: %v", err)
				}
			}
		})
	}
	for i := range 30 {
		put(files[i%len(files)])
		if _, err := g.Reload(t.Context()); err != nil {
			t.Fatalf("reload %d: %v", i, err)
		}
	}
	r, err := g.Report(t.Context())
	if err != nil || len(r.Bridges) != 2 || r.Bridges[0].Name != "b" || len(r.Modbus.Links) != 1 || r.Modbus.Links[0].Units[0].Unit != 2 {
		t.Errorf("at the end: %v %+v %+v", err, r.Bridges, r.Modbus)
	}
	close(over)
	asking.Wait()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v\n%s", err, log)
	}
	if _, err := g.Reload(t.Context()); !errors.Is(err, ErrStopping) {
		t.Errorf("a reload after the end: %v", err)
	}
	if strings.Contains(log.String(), "ended by itself") {
		t.Error(log)
	}
}
