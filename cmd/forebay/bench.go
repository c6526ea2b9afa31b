package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/cmd/forebay/bench"
)

func newBench() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "measure Forebay on this machine, beside others",
		Args:  arguments(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBenchBridge(), newBenchBroker(), newBenchModbus(), newBenchStore())
	return cmd
}

func newBenchBroker() *cobra.Command {
	o := bench.BrokerOptions{}
	var against, started []string
	var quick bool
	cmd := &cobra.Command{
		Use:   "broker",
		Short: "measure the broker beside Mosquitto and others",
		Long: `Start this program's broker and the Mosquitto that is installed, send both the
same traffic in turn, and print medians and ratios: messages per second,
processor time per message, latency, memory. Every message is numbered: what
is lost or repeated is told. Load and brokers share the machine's processors.`,
		Example: `  forebay bench broker --only p2p --only memory
  forebay bench broker --start 'mochi=./mochi {port}' --against other=127.0.0.1:1884,4711`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if quick {
				o.Rounds, o.Time = 1, 300*time.Millisecond
			}
			if o.Rounds < 1 || o.Time <= 0 {
				return usageError{errors.New("forebay bench broker: --rounds and --time must be more than 0")}
			}
			var err error
			if o.Targets, err = benchTargets(against, started); err != nil {
				return err
			}
			o.Say = func(format string, a ...any) { cmd.PrintErrf(format+"\n", a...) }
			if len(o.Targets) == 1 {
				o.Say("mosquitto is not installed (apt-get install mosquitto): measuring alone")
			}
			return bench.Broker(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.Rounds, "rounds", 5, "runs of each measurement, of which the median is printed")
	flags.DurationVar(&o.Time, "time", time.Second, "for how long each run publishes")
	flags.IntVar(&o.Payload, "payload", 100, "`bytes` of a message")
	flags.StringArrayVar(&o.Only, "only", nil, "measure only rows with this `word` in their name; may be repeated")
	flags.BoolVar(&quick, "quick", false, "one short run of each: to see that it works")
	flags.BoolVar(&o.JSON, "json", false, "print JSON")
	flags.StringArrayVar(&against, "against", nil, "also a broker that runs already, `NAME=HOST:PORT[,PID]`, which lets anybody or user bench in")
	flags.StringArrayVar(&started, "start", nil, "also a broker that is started by a command, `NAME=COMMAND`, with {port} and {dir}")
	return cmd
}

// benchTargets returns this program, Mosquitto if there is one, and what the flags name.
func benchTargets(against, started []string) ([]bench.Target, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	targets := []bench.Target{bench.Self(self)}
	if t, ok := bench.Mosquitto(); ok {
		targets = append(targets, t)
	}
	for _, text := range started {
		name, command, ok := strings.Cut(text, "=")
		if words := strings.Fields(command); ok && name != "" && len(words) > 0 {
			targets = append(targets, bench.Target{Name: name, Command: words})
			continue
		}
		return nil, usageError{fmt.Errorf("forebay bench broker: --start %q: want NAME=COMMAND", text)}
	}
	for _, text := range against {
		name, place, ok := strings.Cut(text, "=")
		address, pid, known := strings.Cut(place, ",")
		t := bench.Target{Name: name, Address: address}
		if known {
			if t.PID, err = strconv.Atoi(pid); err != nil {
				ok = false
			}
		}
		if _, _, err := net.SplitHostPort(address); err != nil || !ok || name == "" {
			return nil, usageError{fmt.Errorf("forebay bench broker: --against %q: want NAME=HOST:PORT or NAME=HOST:PORT,PID", text)}
		}
		targets = append(targets, t)
	}
	return targets, nil
}
