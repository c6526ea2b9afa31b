package storage

import (
	"log/slog"
	"time"
)

// OpenDelayed is Open for benchmarks: every sync takes that much longer, so that
// a fast disk behaves like flash memory. bbolt syncs twice in a transaction.
func OpenDelayed(cfg Config, log *slog.Logger, safe func(Seq, error), delay time.Duration) (*Log, error) {
	dir := &directory{path: cfg.Path}
	if delay > 0 {
		dir.before = func(step, _ string) error {
			switch step {
			case "journaled":
				time.Sleep(delay)
			case "committed", "checkpointed":
				time.Sleep(2 * delay)
			}
			return nil
		}
	}
	return open(cfg, log, safe, dir, defaults())
}
