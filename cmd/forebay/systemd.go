package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"forebay/edge"
)

// attend tells systemd that the gateway is ready, and from then on, as often
// as systemd asks for it, that it is alive. Both are said only after the
// broker's loop has answered, so that a loop that hangs gets the process
// restarted. It returns when ctx ends; without systemd at once.
func attend(ctx context.Context, g *edge.Gateway, log *slog.Logger) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd: the watchdog is off: WATCHDOG_USEC cannot be read", "err", err)
	}
	wait := limit
	if wait == 0 {
		wait = 30 * time.Second
	}
	if !alive(ctx, g, wait) {
		return // systemd waits for the word and gives up by its own limit
	}
	if told, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("systemd: cannot be told that the gateway is ready", "err", err)
		return
	} else if !told || limit == 0 {
		return
	}
	tick := time.NewTicker(limit / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if alive(ctx, g, limit/3) {
			if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil {
				log.Warn("systemd: cannot be told that the gateway is alive", "err", err)
			}
		}
	}
}

func alive(ctx context.Context, g *edge.Gateway, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return g.Alive(ctx) == nil
}

// stopping tells systemd that the gateway drains.
func stopping(log *slog.Logger) {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyStopping); err != nil {
		log.Warn("systemd: cannot be told that the gateway stops", "err", err)
	}
}
