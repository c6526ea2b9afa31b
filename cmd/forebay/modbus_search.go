package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"forebay/modbus"
)

// The settings of serial lines that are tried, the usual ones first.
var (
	searchBauds    = []int{9600, 19200, 38400, 115200, 57600, 4800, 2400, 1200}
	searchParities = []string{"even", "none", "odd"}
)

// searchSettings asks the units with one setting of the line after the other,
// until some answer. connect makes a client for the setting.
func (s *scanner) searchSettings(ctx context.Context, cmd *cobra.Command, ids []int, connect func() (*modbus.Client, error)) error {
	if !s.isSerial() {
		return usage(cmd, "--search: only a serial port of this machine has settings to search: give --rtu or --ascii DEVICE")
	}
	for _, flag := range []string{"baud", "parity"} {
		if cmd.Flags().Changed(flag) {
			return usage(cmd, "--search tries all: leave --%s out", flag)
		}
	}
	settings := 0
	for _, s.baud = range searchBauds {
		for _, s.parity = range searchParities {
			settings++
			s.asked, s.note = 0, fmt.Sprintf("%d Bd, parity %s: ", s.baud, s.parity)
			client, err := connect()
			if err != nil {
				return err
			}
			err = s.search(ctx, cmd, client, ids)
			client.Close()
			if err != nil {
				return err
			}
			if ctx.Err() != nil {
				return failed(cmd, errors.New("interrupted"))
			}
			if len(s.found) > 0 {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "the line has %d Bd, parity %s\n", s.baud, s.parity)
				return errors.Join(err, s.sum(cmd))
			}
		}
	}
	return failed(cmd, fmt.Errorf("none of %d units answers on %s with any of %d settings: check power, wiring (A and B exchanged?) and --timeout", len(ids), s, settings))
}
