package bridge

import (
	"context"
	"log/slog"
)

// Environment is what a bridge lives in. All fields are required.
type Environment struct {
	Site   string // replaces {site}
	Broker Broker
	Log    Log
	Logger *slog.Logger
}

// Bridge connects the local broker with one upstream. Status may be called from any goroutine.
type Bridge struct{}

// New checks cfg, on which SetDefaults has been called, and reads what the store knows about the bridge. It must be
// called before anything is appended to the log (see storage.Log.Each).
func New(cfg Config, env Environment) (*Bridge, error) { return &Bridge{}, nil }

// Attach makes the bridge a durable consumer: from its return on every matching message is kept for the upstream.
// Call it after New and before the broker lets clients in. Run does it if it has not been done.
func (b *Bridge) Attach() error { return nil }

// Run connects and serves until ctx ends. It never detaches: messages go on being kept. Call it once. It returns when
// all its goroutines are gone.
func (b *Bridge) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Status returns a snapshot. It may be called from any goroutine, before, while and after Run.
func (b *Bridge) Status() Status { return Status{} }
