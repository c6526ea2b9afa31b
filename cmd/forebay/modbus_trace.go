package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"forebay/modbus"
)

func newModbusTrace() *cobra.Command {
	d := &device{}
	listen := ""
	cmd := &cobra.Command{
		Use:   "trace",
		Short: "stand between a client and a device and show what passes",
		Long: `Listen for Modbus TCP clients, pass their requests on to a device, and print each
with its time, the answer and what both mean. The device may be on a serial line
or behind a gateway: then clients on the network reach it too, for as long as this
runs. Ctrl-C ends it.

To see what another tool sends and gets, give it --trace.`,
		Example: `  forebay modbus trace --listen 127.0.0.1:1503 --tcp 192.0.2.10
  forebay modbus trace --listen 0.0.0.0:1502 --rtu /dev/ttyUSB0`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return trace(cmd, d, listen) },
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:1503", "where clients connect: `ADDRESS:PORT`")
	d.addTo(cmd)
	return cmd
}

func trace(cmd *cobra.Command, d *device, address string) error {
	d.unit, d.trace = 1, false // no unit is asked but those that clients name
	client, err := d.client(cmd, d.unitConfig(anyTag()))
	if err != nil {
		return err
	}
	defer client.Close()
	out := cmd.OutOrStdout()
	client.Trace(func(e modbus.Exchange) { printExchange(out, e) })
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return failed(cmd, fmt.Errorf("%w: choose another address with --listen", err))
	}
	ctx, cancel := withInterrupt()
	defer cancel()
	if err := printListening(out, listener); err != nil {
		return errors.Join(err, listener.Close())
	}
	return client.Pass(ctx, listener)
}

// printExchange prints a request and what came of it.
func printExchange(out io.Writer, e modbus.Exchange) {
	answer := fmt.Sprintf("% x  %s", e.Answer, modbus.DescribeAnswer(e.Request, e.Answer))
	if e.Err != nil {
		answer = strings.TrimPrefix(e.Err.Error(), "modbus: ")
	}
	for _, skipped := range []struct {
		what string
		n    uint64
	}{{"late", e.Late}, {"stray", e.Stray}, {"damaged", e.Damaged}} {
		if skipped.n > 0 {
			answer += fmt.Sprintf(" (and %s: %d)", skipped.what, skipped.n)
		}
	}
	// Who cannot be told is not there any more.
	_, _ = fmt.Fprintf(out, "%s > unit %d: % x  %s\n%s < unit %d: %s\n",
		clock(e.Began), e.Unit, e.Request, modbus.DescribeRequest(e.Request), clock(e.Began.Add(e.Took)), e.Unit, answer)
}
