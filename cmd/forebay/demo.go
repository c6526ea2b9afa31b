package main

import (
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"forebay/edge"
)

func newDemo() *cobra.Command {
	var options edge.DemoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "watch a gateway lose nothing while its uplink is cut",
		Long: `Run a simulated PLC, a few simulated devices, a stand-in cloud and the gateway
in one process. The uplink is cut every few seconds. What the gateway
acknowledged to the devices is compared with what arrived at the cloud.

The exit code is 1 if anything was lost or duplicated.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if options.For < 0 {
				return usageError{errors.New("forebay demo: --for must not be negative")}
			}
			options.Out = cmd.OutOrStdout()
			options.Terminal = isTerminal(os.Stdout) && !options.JSON
			ctx, cancel := untilSignal(slog.New(slog.DiscardHandler))
			defer cancel()
			return edge.Demo(ctx, options)
		},
	}
	cmd.Flags().DurationVar(&options.For, "for", 0, "end after this `TIME`, such as 30s; 0: at Ctrl-C")
	cmd.Flags().BoolVar(&options.JSON, "json", false, "print only a final account, as JSON")
	return cmd
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
