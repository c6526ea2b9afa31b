package main

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"forebay/modbus"
)

func newModbusIdentify() *cobra.Command {
	d := &device{}
	cmd := &cobra.Command{
		Use:   "identify",
		Short: "ask a device what it is",
		Long: `Ask a unit for its identification, with function 43/14 (vendor, product, revision
and what else it tells) and with function 17 (a form of the maker's own). Many
devices know neither; nothing in them is changed.

The exit code is 1 if the unit does not answer or knows neither.`,
		Example: `  forebay modbus identify --tcp 192.0.2.10
  forebay modbus identify --rtu /dev/ttyUSB0 --unit 7`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return identify(cmd, d) },
	}
	d.addTo(cmd)
	d.addUnit(cmd)
	return cmd
}

// anyTag makes a valid unit for a tool that reads no tag.
func anyTag() modbus.TagConfig {
	return modbus.TagConfig{Name: "any", Register: "holding", Address: new(0)}
}

func identify(cmd *cobra.Command, d *device) error {
	client, err := d.client(cmd, d.unitConfig(anyTag()))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := withInterrupt()
	defer cancel()
	id, err := client.Identify(ctx, byte(d.unit))
	if err != nil {
		return failed(cmd, d.explain(ctx, err))
	}
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, o := range id.Objects {
		fmt.Fprintf(table, "%s\t%s\n", o.Name(), strconv.Quote(o.Text))
	}
	if id.ServerID != nil {
		fmt.Fprintf(table, "server ID\t%s  %s\n", hex.EncodeToString(id.ServerID), strconv.QuoteToASCII(string(id.ServerID)))
	}
	// A builder takes everything.
	_ = table.Flush()
	if b.Len() == 0 {
		return failed(cmd, fmt.Errorf("unit %d answers, but does not say what it is: %v", d.unit, id.Refusals))
	}
	for _, refusal := range id.Refusals {
		fmt.Fprintf(&b, "%v\n", refusal)
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), b.String())
	return err
}
