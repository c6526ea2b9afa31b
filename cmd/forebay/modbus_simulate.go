package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/edge"
	"forebay/modbus"
)

func newModbusSimulate() *cobra.Command {
	listen, link := "", ""
	var faults modbus.Faults
	cmd := &cobra.Command{
		Use:   "simulate FILE",
		Short: "stand in for the devices of a configuration",
		Long: `Serve the tags of a gateway's configuration as Modbus TCP, so that a gateway or a
SCADA system can be tried before there is a device. Values move slowly; writable
ones keep still, and so does everything that was written. What is written is
printed. Units are told apart by their IDs. Ctrl-C ends it.

--late, --drop, --exception, --wrong-unit and --twice make bad devices of them, to
see what a gateway makes of that; --every 3 has every third answer wrong.`,
		Example: `  forebay modbus simulate forebay.yaml
  forebay modbus simulate forebay.yaml --late 3s --every 5
  forebay modbus read input 0 --tcp 127.0.0.1:1502`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			links, err := chooseLinks(cmd, args[0], link)
			if err != nil {
				return err
			}
			if err := checkFaults(cmd, &faults); err != nil {
				return err
			}
			return simulate(cmd, links, listen, faults)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:1502", "where to listen: `ADDRESS:PORT`")
	addFaults(cmd, &faults)
	cmd.Flags().StringVar(&link, "link", "", "simulate only the link of this `NAME`")
	return cmd
}

func addFaults(cmd *cobra.Command, f *modbus.Faults) {
	flags := cmd.Flags()
	flags.IntVar(&f.Every, "every", 1, "which answers are wrong: each, or every `N`th")
	flags.DurationVar(&f.Late, "late", 0, "answer this much too late: a `TIME` such as 3s")
	flags.BoolVar(&f.Drop, "drop", false, "do not answer")
	flags.Uint8Var(&f.Exception, "exception", 0, "answer with the exception `CODE`")
	flags.BoolVar(&f.WrongUnit, "wrong-unit", false, "answer as another unit")
	flags.BoolVar(&f.Twice, "twice", false, "answer twice")
}

func checkFaults(cmd *cobra.Command, f *modbus.Faults) error {
	switch {
	case f.Every < 1:
		return usage(cmd, "--every: %d is out of range: 1 makes each answer wrong", f.Every)
	case f.Late < 0 || f.Late > time.Minute:
		return usage(cmd, "--late: %v is out of range: 0 to 1m", f.Late)
	}
	return nil
}

// chooseLinks returns the links of a configuration, or the one of the name.
func chooseLinks(cmd *cobra.Command, file, name string) ([]modbus.LinkConfig, error) {
	cfg, err := edge.Load(file)
	if err != nil {
		return nil, err
	}
	links := cfg.Modbus.Links
	if len(links) == 0 {
		return nil, usage(cmd, "%s has no links under modbus: name a configuration that has some", file)
	}
	if name == "" {
		return links, nil
	}
	var names []string
	for i, l := range links {
		if l.Name == name {
			return links[i : i+1], nil
		}
		names = append(names, l.Name)
	}
	return nil, usage(cmd, "--link: %s has no link %q: use %s", file, name, strings.Join(names, ", "))
}

func simulate(cmd *cobra.Command, links []modbus.LinkConfig, address string, faults modbus.Faults) error {
	out := cmd.OutOrStdout()
	var unprinted error
	simulator, err := modbus.NewSimulator(links, func(w modbus.Written) {
		if unprinted == nil {
			unprinted = printWritten(out, w)
		}
	})
	if err != nil {
		return usage(cmd, "%s with --link NAME", strings.TrimPrefix(err.Error(), "modbus: "))
	}
	simulator.Misbehave(faults)
	if _, _, err := net.SplitHostPort(address); err != nil {
		return usage(cmd, "--listen: %q is not an address: write ADDRESS:PORT, for example 127.0.0.1:1502", address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return failed(cmd, fmt.Errorf("%w: choose another address with --listen", err))
	}
	ctx, cancel := withInterrupt()
	defer cancel()
	if err := errors.Join(printUnits(out, links), printListening(out, listener)); err != nil {
		return errors.Join(err, listener.Close())
	}
	err = simulator.Serve(ctx, listener)
	return errors.Join(err, unprinted)
}

func printListening(out io.Writer, listener net.Listener) error {
	_, err := fmt.Fprintf(out, "listening on %s; Ctrl-C ends\n", listener.Addr())
	return err
}

// printUnits says who is simulated.
func printUnits(out io.Writer, links []modbus.LinkConfig) error {
	var err error
	for _, l := range links {
		units := slices.Clone(l.Units)
		slices.SortStableFunc(units, func(a, b modbus.UnitConfig) int { return *a.Unit - *b.Unit })
		for _, u := range units {
			tags := "tags"
			if len(u.Tags) == 1 {
				tags = "tag"
			}
			_, e := fmt.Fprintf(out, "unit %d: %s of link %s, %d %s\n", *u.Unit, u.Name, l.Name, len(u.Tags), tags)
			err = errors.Join(err, e)
		}
	}
	return err
}

// printWritten says what a client has written.
func printWritten(out io.Writer, w modbus.Written) error {
	name := "no tag"
	if w.Tag != nil {
		name = w.Unit.Name + "/" + w.Tag.Name
	}
	raw := ""
	if w.Registers != nil {
		raw = ": " + words("0x%04x", w.Registers)
	}
	_, err := fmt.Fprintf(out, "%s  unit %d %s = %s (%s %d%s)\n", clock(w.Time), w.ID, name, valueText(w.Reading), w.Table, w.Address, raw)
	return err
}
