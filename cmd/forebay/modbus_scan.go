package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/modbus"
)

// scanPause passes between two units, for whoever else uses the line.
const scanPause = 20 * time.Millisecond

// scanner is the tool that looks for units.
type scanner struct {
	device
	units, probe string
	addresses    string
	settings     bool

	found []string // the units that answered
	asked int
	total int
	note  string // before what the progress says
}

func newModbusScan() *cobra.Command {
	s := &scanner{}
	cmd := &cobra.Command{
		Use:   "scan",
		Short: "find the units on a bus or behind a gateway",
		Long: `Ask one unit ID after the other for one register or bit. Every unit that answers
is printed; a refusal is an answer too, but not a gateway's word that nobody is
there. Ctrl-C ends the search with what was found.

Each unit that is missing costs the timeout: on a serial port of this machine
200ms is mostly enough; behind a gateway it has to be longer than the gateway's
own, or units that answer are missed.

With --search the baud rate and the parity of a serial port are searched too: few
units make that fast. With --addresses the addresses are searched that one unit
has: a read that is refused is parted until the guilty address is found.

The exit code is 1 if no unit answers.`,
		Example: `  forebay modbus scan --rtu /dev/ttyUSB0 --baud 19200 --timeout 200ms
  forebay modbus scan --tcp 192.0.2.10 --units 1-32,255 --probe input:0
  forebay modbus scan --rtu /dev/ttyUSB0 --search --units 1-5 --timeout 200ms
  forebay modbus scan --tcp 192.0.2.10 --units 1 --addresses holding:0-999`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd) },
	}
	s.addTo(cmd)
	cmd.Flags().StringVar(&s.units, "units", "1-247", "which unit `IDS`: 1-247, or 1,5,10-20")
	cmd.Flags().StringVar(&s.probe, "probe", "holding:0", "what to read: `TABLE:ADDRESS` with coil, discrete, input or holding")
	cmd.Flags().BoolVar(&s.settings, "search", false, "try all usual baud rates and parities")
	cmd.Flags().StringVar(&s.addresses, "addresses", "", "find the addresses of one unit: `TABLE:FROM-TO`, such as holding:0-999")
	return cmd
}

func (s *scanner) run(cmd *cobra.Command) error {
	ids, err := parseUnits(s.units)
	if err != nil {
		return usage(cmd, "--units: %v", err)
	}
	if s.addresses != "" {
		return s.searchAddresses(cmd, ids)
	}
	table, address, ok := strings.Cut(s.probe, ":")
	if !ok || table == "" {
		return usage(cmd, "--probe: %q is not TABLE:ADDRESS: write for example holding:0", s.probe)
	}
	tag, rest, err := place(cmd, []string{table, address})
	if err == nil {
		err = nothingLeft(cmd, rest)
	}
	if err != nil {
		return err
	}
	units := make([]modbus.UnitConfig, 0, len(ids))
	for _, id := range ids {
		units = append(units, modbus.UnitConfig{Name: fmt.Sprint("unit ", id), Unit: &id, Tags: []modbus.TagConfig{tag}})
	}
	ctx, cancel := withInterrupt()
	defer cancel()
	s.total = len(ids)
	if s.settings {
		return s.searchSettings(ctx, cmd, ids, func() (*modbus.Client, error) { return s.client(cmd, units...) })
	}
	client, err := s.client(cmd, units...)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := s.search(ctx, cmd, client, ids); err != nil {
		return err
	}
	return s.sum(cmd)
}

// search asks one unit after the other until ctx ends.
func (s *scanner) search(ctx context.Context, cmd *cobra.Command, client *modbus.Client, ids []int) error {
	progress := progressOn(cmd.ErrOrStderr())
	defer progress.clear()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for i, id := range ids {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		s.unit = id
		progress.show("%sunit %d, %d of %d asked, %d found", s.note, id, s.asked, s.total, len(s.found))
		readings, took, err := client.Read(ctx, i)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, modbus.ErrDown) {
			progress.clear()
			return errors.Join(failed(cmd, s.explain(ctx, err)), s.partial(cmd))
		}
		s.asked++
		if modbus.Answered(err) {
			progress.clear()
			s.found = append(s.found, strconv.Itoa(id))
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "unit %d: %s, in %s\n", id, answer(readings, err), milliseconds(took)); err != nil {
				return err
			}
		}
		pause.Reset(scanPause)
	}
	return nil
}

// answer says what a unit answered.
func answer(readings []modbus.Reading, err error) string {
	if err != nil {
		return strings.TrimPrefix(err.Error(), "modbus: ")
	}
	return fmt.Sprintf("%s %d is %s", readings[0].Table, readings[0].Address, valueText(readings[0]))
}

// sum says what was found in all.
func (s *scanner) sum(cmd *cobra.Command) error {
	if len(s.found) > 0 {
		return s.partial(cmd)
	}
	return failed(cmd, fmt.Errorf("none of %s answers on %s: check power%s, and --timeout", s.scope(), s, s.serialAdvice()))
}

// partial says what was found so far.
func (s *scanner) partial(cmd *cobra.Command) error {
	if len(s.found) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%d of %s: %s\n", len(s.found), s.scope(), strings.Join(s.found, ", "))
	return err
}

// scope says how many units were asked.
func (s *scanner) scope() string {
	if s.asked < s.total {
		return fmt.Sprintf("%d units asked (%d were to be)", s.asked, s.total)
	}
	return fmt.Sprintf("%d units", s.total)
}

// parseUnits reads unit IDs such as 1-247 or 1,5,10-20.
func parseUnits(text string) ([]int, error) {
	var ids []int
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			high = low
		}
		from, err := strconv.ParseUint(low, 10, 8)
		to, errTo := strconv.ParseUint(high, 10, 8)
		if err != nil || errTo != nil {
			return nil, fmt.Errorf("%q is not a unit ID or a range of them: write numbers from 0 to 255, for example 1-247 or 1,5,10-20", part)
		}
		if from > to {
			return nil, fmt.Errorf("%q ends before it begins: write %s-%s", part, high, low)
		}
		for id := from; id <= to; id++ {
			ids = append(ids, int(id))
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// progress is a line on a terminal that is written over and over; elsewhere it
// is nothing.
type progress struct{ out io.Writer }

func progressOn(out io.Writer) progress {
	if f, ok := out.(*os.File); ok && isTerminal(f) {
		return progress{out}
	}
	return progress{io.Discard}
}

func (p progress) show(format string, args ...any) {
	// A terminal that is gone misses nothing.
	_, _ = fmt.Fprintf(p.out, "\r"+format+"\x1b[K", args...)
}

func (p progress) clear() { p.show("") }
