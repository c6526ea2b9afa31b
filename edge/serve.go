package edge

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// ErrReopen is returned by Run when the store has failed and its disk can be
// written again: nothing of the gateway runs any more, and another Open goes on
// with all that was acknowledged.
var ErrReopen = errors.New("edge: the store had failed and can be opened again")

// How long to wait between two looks at a store that has failed.
const (
	minReopen = time.Second
	maxReopen = 30 * time.Second
)

// Serve opens a gateway and runs it until ctx ends, as Open and Run do. When its
// store has failed and the disk can be written again (D4), it opens a new one in
// its place, as at a start: the store is checked and replayed, and clients, who
// have to connect anew, send again what was not acknowledged. What a reload has
// changed stays in force. opened is called
// with each gateway before it runs and a context that ends with it; it must not
// block, and may be nil.
func Serve(ctx context.Context, cfg *Config, log *slog.Logger, opened func(context.Context, *Gateway)) error {
	g, err := Open(cfg, log)
	if err != nil {
		return err
	}
	for {
		life, end := context.WithCancel(ctx)
		if opened != nil {
			opened(life, g)
		}
		err := g.Run(ctx)
		end()
		if !errors.Is(err, ErrReopen) {
			return err
		}
		since := g.failedAt
		cfg = g.cfg // what the last reload has put in force; nobody changes it any more
		if g, err = reopen(ctx, cfg, log); g == nil {
			return err
		}
		log.Info("the store is open again: messages that need it are acknowledged again", "after", time.Since(since).Round(time.Second))
	}
}

// reopen is Open, again and again. nil: ctx has ended.
func reopen(ctx context.Context, cfg *Config, log *slog.Logger) (*Gateway, error) {
	for wait := minReopen; ; wait = min(2*wait, maxReopen) {
		g, err := Open(cfg, log)
		if err == nil {
			return g, nil
		}
		log.Error("cannot be opened again yet; trying on", "err", err, "wait", wait)
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// awaitStore returns ErrReopen once the store has failed and its disk can be
// written again. Until then the broker serves what needs no disk.
func (g *Gateway) awaitStore(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-g.failed:
	}
	for wait := minReopen; ; wait = min(2*wait, maxReopen) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if err := g.store.Probe(); err == nil {
			return ErrReopen
		}
	}
}
