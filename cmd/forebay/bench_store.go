package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/cmd/forebay/bench"
)

func newBenchStore() *cobra.Command {
	var o bench.StoreOptions
	var backlog string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "store",
		Short: "measure the store on this disk, beside a plain file, bbolt and SQLite",
		Long: `Measure how fast messages become durable, what is written to the disk for them and
how fast a backlog drains, beside a plain file, bbolt and SQLite (if the program
sqlite3 is there), and print one table with medians, ratios and what they should
be. It takes some minutes and writes some gigabytes; --quick takes one short round.
The gateway may run meanwhile, but both will be slower.`,
		Example: `  forebay bench store --dir /var/lib/forebay
  forebay bench store --sync-delay 5ms`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Backlog, err = parseBytes(backlog); err != nil || o.Backlog < 1<<20 {
				return usage(cmd, "--backlog: %q is no size: write 128MiB, or 5GiB", backlog)
			}
			if o.SyncDelay < 0 || o.SyncDelay > time.Second {
				return usage(cmd, "--sync-delay: write a time up to 1s, such as 5ms")
			}
			return runBench(cmd, asJSON, o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Dir, "dir", os.TempDir(), "`DIRECTORY` on the disk to measure; what is made there is removed")
	f.DurationVar(&o.SyncDelay, "sync-delay", 0, "let every sync take `TIME` longer, as on flash memory: 5ms")
	f.StringVar(&backlog, "backlog", "128MiB", "`SIZE` of the backlog that is drained")
	f.BoolVar(&o.Quick, "quick", false, "one short round")
	f.BoolVar(&asJSON, "json", false, "print JSON, with every sample")
	return cmd
}

func runBench(cmd *cobra.Command, asJSON bool, o bench.StoreOptions) error {
	ctx, cancel := withInterrupt()
	defer cancel()
	show := progressOn(cmd.ErrOrStderr())
	o.Progress = func(what string) { show.show("%s", what) }
	table, err := bench.Store(ctx, o)
	show.clear()
	return printBench(ctx, cmd, table, asJSON, err)
}

// printBench prints a table, or why there is none.
func printBench(ctx context.Context, cmd *cobra.Command, table *bench.Table, asJSON bool, err error) error {
	switch {
	case ctx.Err() != nil:
		return failed(cmd, errors.New("interrupted"))
	case err != nil:
		return failed(cmd, err)
	case asJSON:
		return table.WriteJSON(cmd.OutOrStdout())
	}
	return table.WriteText(cmd.OutOrStdout())
}

// parseBytes reads a size such as 128MiB.
func parseBytes(s string) (int64, error) {
	var n int64
	var unit string
	if k, err := fmt.Sscanf(s, "%d%s", &n, &unit); k < 1 || k == 1 && err != nil && !strings.Contains(err.Error(), "EOF") {
		return 0, fmt.Errorf("%q is no size", s)
	}
	shift, ok := map[string]int{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[unit]
	if !ok || n < 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("%q is no size", s)
	}
	return n << shift, nil
}
