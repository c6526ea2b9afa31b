package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"forebay/cmd/forebay/bench"
)

func newBenchBridge() *cobra.Command {
	var o bench.BridgeOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "bridge",
		Short: "measure the bridge beside Mosquitto's",
		Long: `Start this program's broker with a bridge, and the Mosquitto that is installed with
its own, and print one table of medians with ratios and what they should be: how
fast both forward to an upstream that is 10 ms away, the bytes on the wire for a
message, the memory that a backlog takes, how fast it drains into a Mosquitto, and
how soon messages flow again when the upstream is back. It takes some minutes;
--quick takes one short round.`,
		Example: `  forebay bench bridge --only forward --only wire
  forebay bench bridge --backlog 10000000 --only memory`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Backlog < 1000 {
				return usage(cmd, "--backlog: write a number of messages, 1000 or more")
			}
			var err error
			if o.Self, err = os.Executable(); err != nil {
				return failed(cmd, err)
			}
			ctx, cancel := withInterrupt()
			defer cancel()
			show := progressOn(cmd.ErrOrStderr())
			o.Progress = func(what string) { show.show("%s", what) }
			table, err := bench.Bridge(ctx, o)
			show.clear()
			switch {
			case ctx.Err() != nil:
				return failed(cmd, errors.New("interrupted"))
			case err != nil:
				return failed(cmd, err)
			case asJSON:
				return table.WriteJSON(cmd.OutOrStdout())
			}
			return table.WriteText(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntVar(&o.Backlog, "backlog", 1_000_000, "`MESSAGES` that wait for the upstream")
	f.StringArrayVar(&o.Only, "only", nil, "measure only rows with this `WORD` in their name; may be repeated")
	f.BoolVar(&o.Quick, "quick", false, "one short round, with a small backlog")
	f.BoolVar(&asJSON, "json", false, "print JSON, with every sample")
	return cmd
}
