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
within 10 seconds; a second one stops it at once.`,
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
	cfg.Version = version
	log := slog.New(newHandler(os.Stderr, cfg.Log.Slog(), underJournal(os.Stderr)))
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
	var attending sync.WaitGroup
	defer attending.Wait()
	err = edge.Serve(ctx, cfg, log, func(ctx context.Context, g *edge.Gateway) {
		attending.Go(func() { attend(ctx, g, log) })
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
