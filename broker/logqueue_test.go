package broker

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"
)

// heldHandler is a log that blocks until it is let go.
type heldHandler struct {
	slog.Handler
	letGo chan struct{}
	lines []string // complete once the queue has stopped
}

func (h *heldHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *heldHandler) Handle(_ context.Context, r slog.Record) error {
	<-h.letGo
	h.lines = append(h.lines, r.Message)
	return nil
}

func TestLogQueueNeverBlocksAndTellsWhatItLost(t *testing.T) {
	held := &heldHandler{letGo: make(chan struct{})}
	q := newLogQueue(held)
	q.start()
	logger := slog.New(q)
	logger.Info("first")
	for range 2 * maxLines {
		logger.Info("more") // would block here
	}
	close(held.letGo)
	q.stop()
	if held.lines[0] != "first" {
		t.Errorf("first line %q", held.lines[0])
	}
	if !slices.Contains(held.lines, "broker: log lines were lost because the log is slow") {
		t.Errorf("nothing tells of the lost lines among %d", len(held.lines))
	}
}

func TestPaceBoundsTheLinesOfASecond(t *testing.T) {
	var p pace
	now := time.Unix(1000, 0)
	allowed := 0
	for range 3 * linesPerSecond {
		if ok, _ := p.allow(now); ok {
			allowed++
		}
	}
	if allowed != linesPerSecond {
		t.Errorf("%d lines in one second, want %d", allowed, linesPerSecond)
	}
	if ok, suppressed := p.allow(now.Add(time.Second)); !ok || suppressed != 2*linesPerSecond {
		t.Errorf("next second: allowed %v, suppressed %d", ok, suppressed)
	}
	if _, suppressed := p.allow(now.Add(time.Second)); suppressed != 0 {
		t.Errorf("told twice: %d", suppressed)
	}
}
