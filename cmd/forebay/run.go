package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"forebay/edge"
)

const defaultConfig = "/etc/forebay/forebay.yaml"

func newRun() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "run the gateway in the foreground",
		Long: `Run the gateway in the foreground. SIGTERM and SIGINT drain and stop it
within 10 seconds; a second one stops it at once. SIGHUP does what forebay
reload does.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return run(file) },
	}
	cmd.Flags().StringVarP(&file, "config", "c", defaultConfig, "configuration `FILE`: YAML, TOML or JSON by its ending")
	return cmd
}

func run(file string) error {
	cfg, err := edge.Load(file)
	if err != nil {
		return err
	}
	cfg.Version, cfg.Level = version, new(slog.LevelVar)
	cfg.Level.Set(cfg.Log.Slog())
	log := slog.New(newHandler(os.Stderr, cfg.Level, underJournal(os.Stderr)))
	log.Info("forebay starts", "version", version, "config", file, "site", cfg.Site, "storage", cfg.Storage.Path)
	// A file that is missing now may concern one bridge only: it says so when
	// it needs the file, and tries again.
	if missing, ok := errors.AsType[*edge.ConfigError](cfg.CheckFiles()); ok {
		for _, p := range missing.Problems {
			log.Warn("config: "+p.Text, "path", p.Path)
		}
	}
	ctx, cancel := untilSignal(log)
	defer cancel()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // from now on one ends nothing
	defer signal.Stop(hangups)
	var attending sync.WaitGroup
	defer attending.Wait()
	err = edge.Serve(ctx, cfg, log, func(ctx context.Context, g *edge.Gateway) {
		attending.Go(func() { attend(ctx, g, log) })
		attending.Go(func() { reloadAtHangup(ctx, hangups, g, log) })
	})
	cancel()
	if err != nil {
		return err
	}
	log.Info("forebay has stopped")
	return nil
}

// untilSignal returns a context that ends with the first SIGTERM or SIGINT. The
// second one ends the process.
func untilSignal(log *slog.Logger) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		select {
		case s := <-signals:
			log.Info("forebay stops: draining", "signal", s.String())
			stopping(log)
			cancel()
		case <-ctx.Done():
		}
		// Until the process ends, which may take the drain.
		s := <-signals
		log.Warn("forebay stops at once", "signal", s.String())
		os.Exit(exitFailure)
	}()
	return ctx, cancel
}

// reloadAtHangup reloads the configuration at each SIGHUP until ctx ends.
func reloadAtHangup(ctx context.Context, hangups <-chan os.Signal, g *edge.Gateway, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		_, err := g.Reload(ctx)
		if wrong, ok := errors.AsType[*edge.ConfigError](err); ok {
			for _, line := range wrong.Lines() {
				log.Error("config: " + line)
			}
			log.Error("reload: the configuration was not taken; the one before goes on")
		} else if err != nil {
			log.Error("reload failed", "err", err)
		}
	}
}
