package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"forebay/modbus"
)

// writer is the tool that writes a value.
type writer struct {
	device
	format
}

func newModbusWrite() *cobra.Command {
	w := &writer{}
	cmd := &cobra.Command{
		Use:   "write REGISTER ADDRESS VALUE",
		Short: "write a register of a device and read it back",
		Long: `Read a value, write VALUE, read it back and print both. Nothing is asked first.
REGISTER is coil or holding, ADDRESS counts from 0 as on the wire. Instead of
both, a reference as manuals print it: 40101. Before a VALUE below zero, and
behind all options, there has to be a --.

The exit code is 1 if the device did not answer, refused or did not take the
value.`,
		Example: `  forebay modbus write holding 200 21.5 --type float32 --order CDAB --tcp 192.0.2.10
  forebay modbus write --type int16 --tcp 192.0.2.10 -- holding 201 -5
  forebay modbus write coil 3 on --rtu /dev/ttyUSB0 --unit 7`,
		RunE: func(cmd *cobra.Command, args []string) error { return w.run(cmd, args) },
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		// pflag takes -5 for the flag 5.
		if strings.Contains(err.Error(), "unknown shorthand flag: ") && strings.ContainsAny(err.Error(), "0123456789") {
			return usage(cmd, "a value below zero needs -- before the arguments: %s --tcp HOST -- REGISTER ADDRESS -5", cmd.CommandPath())
		}
		return usage(cmd, "%v", err)
	})
	w.device.addTo(cmd)
	w.addUnit(cmd)
	w.format.addTo(cmd)
	cmd.Flags().IntVar(&w.count, "count", 0, "`NUMBER` of registers of a string")
	return cmd
}

func (w *writer) run(cmd *cobra.Command, args []string) error {
	tag, rest, err := place(cmd, args)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return usage(cmd, "which value? it comes behind the address")
	}
	if err := nothingLeft(cmd, rest[1:]); err != nil {
		return err
	}
	if w.typ != "string" && cmd.Flags().Changed("count") {
		return usage(cmd, "--count: only a string has a count: leave it out")
	}
	w.apply(cmd, &tag)
	tag.Writable = true
	client, err := w.client(cmd, w.unitConfig(tag))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := withInterrupt()
	defer cancel()
	before, after, err := client.Write(ctx, 0, rest[0])
	if refusal, ok := errors.AsType[*modbus.RefusedError](err); ok && before == nil && ctx.Err() == nil {
		return usage(cmd, "VALUE: %s", refusal.Reason)
	}
	if before != nil {
		if err := printWrite(cmd.OutOrStdout(), before, after); err != nil {
			return err
		}
	}
	if err == nil {
		return nil
	}
	_, refused := errors.AsType[*modbus.ExceptionError](err)
	what := "the effect is not known"
	switch {
	case before == nil || refused || errors.Is(err, modbus.ErrDown):
		what = "nothing was written"
	case after != nil:
		what = "not as asked"
	}
	return failed(cmd, fmt.Errorf("%s: %w", what, w.explain(ctx, err)))
}

// printWrite writes what was there before and is there now; after may be nil.
func printWrite(out io.Writer, before, after *modbus.Reading) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	heading := "\tVALUE\tHEX\tDECIMAL"
	if before.Registers == nil {
		heading = "\tVALUE"
	}
	_, err := fmt.Fprintf(table, "%s %d%s\nbefore\t%s\n", before.Table, before.Address, heading, columns(*before))
	if after != nil {
		_, e := fmt.Fprintf(table, "after\t%s\n", columns(*after))
		err = errors.Join(err, e)
	}
	return errors.Join(err, table.Flush())
}
