package main

import (
	"os"

	"github.com/spf13/cobra"

	"forebay/cmd/forebay/bench"
)

func newBenchModbus() *cobra.Command {
	var o bench.ModbusOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "modbus",
		Short: "measure polling, beside libmodbus",
		Long: `Measure how fast registers are read over one TCP connection, beside the client of
libmodbus (if gcc and libmodbus-dev are installed), what a gateway with 200
devices uses, how many values a second it publishes, and how much of a serial
line's rate is used, on a simulated wire. One table is printed, with medians,
ratios and what they should be. It takes some minutes; --quick takes one short
round.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Self, err = os.Executable(); err != nil {
				return err
			}
			ctx, cancel := withInterrupt()
			defer cancel()
			show := progressOn(cmd.ErrOrStderr())
			o.Progress = func(what string) { show.show("%s", what) }
			table, err := bench.Modbus(ctx, o)
			show.clear()
			return printBench(ctx, cmd, table, asJSON, err)
		},
	}
	cmd.Flags().BoolVar(&o.Quick, "quick", false, "one short round")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with every sample")
	return cmd
}
