package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"forebay/modbus"
)

func newModbusOrders() *cobra.Command {
	d := &device{}
	count := 0
	cmd := &cobra.Command{
		Use:   "orders REGISTER ADDRESS",
		Short: "show everything that two or four registers could mean",
		Long: `Read two or four registers and show them as every type in every order of their
bytes, the likely ones first. REGISTER is input or holding, ADDRESS counts from
0 as on the wire. Instead of both, a reference as manuals print it: 40101.`,
		Example: `  forebay modbus orders holding 100 --tcp 192.0.2.10`,
		RunE: func(cmd *cobra.Command, args []string) error {
			tag, rest, err := place(cmd, args)
			if err == nil {
				err = nothingLeft(cmd, rest)
			}
			if err != nil {
				return err
			}
			if count != 2 && count != 4 {
				return usage(cmd, "--count: %d registers have no orders to compare: use 2 or 4", count)
			}
			if bits := tag.Register == "coil" || tag.Register == "discrete" || strings.IndexAny(tag.Reference, "01") == 0; bits {
				return usage(cmd, "REGISTER: a coil or discrete input is one bit and has no order: use input or holding")
			}
			return showOrders(cmd, d, modbus.Interpretations(tag, count))
		},
	}
	d.addTo(cmd)
	d.addUnit(cmd)
	cmd.Flags().IntVar(&count, "count", 2, "`NUMBER` of registers: 2, or 4 for 64-bit types")
	return cmd
}

func showOrders(cmd *cobra.Command, d *device, tags []modbus.TagConfig) error {
	client, err := d.client(cmd, d.unitConfig(tags...))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := withInterrupt()
	defer cancel()
	readings, took, err := client.Read(ctx, 0)
	if err != nil {
		return failed(cmd, d.explain(ctx, err))
	}
	all := readings[len(readings)-1] // a string, over all registers
	out := cmd.OutOrStdout()
	_, err = fmt.Fprintf(out, "%s %d to %d: %s (%s), answered in %s\n\n", all.Table, all.Address, all.Address+len(all.Registers)-1,
		words("0x%04x", all.Registers), words("%d", all.Registers), milliseconds(took))
	return errors.Join(err, printLikely(out, readings), printOrders(out, readings))
}

// printLikely writes the plausible interpretations, likeliest first.
func printLikely(out io.Writer, readings []modbus.Reading) error {
	likely := slices.DeleteFunc(slices.Clone(readings), func(r modbus.Reading) bool { return r.Plausibility() == 0 })
	slices.SortStableFunc(likely, func(a, b modbus.Reading) int { return b.Plausibility() - a.Plausibility() })
	if len(likely) == 0 {
		_, err := fmt.Fprint(out, "nothing in particular is likely\n\n")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	var err error
	for i, r := range likely {
		label := ""
		if i == 0 {
			label = "likely"
		}
		_, e := fmt.Fprintf(table, "%s\t%s\t%s %d\t%s\n", label, typeAndOrder(r), r.Table, r.Address, valueText(r))
		err = errors.Join(err, e)
	}
	_, e := fmt.Fprintln(table)
	return errors.Join(err, e, table.Flush())
}

func typeAndOrder(r modbus.Reading) string { return r.Tag.Type + " " + orderName(r) }

// orderName names the order of as many bytes as there are.
func orderName(r modbus.Reading) string {
	if len(r.Registers) == 1 {
		return map[string]string{"ABCD": "AB", "BADC": "BA"}[r.Tag.Order]
	}
	return r.Tag.Order
}

// printOrders writes all interpretations, the orders side by side.
func printOrders(out io.Writer, readings []modbus.Reading) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, err := fmt.Fprint(table, "TYPE\tADDRESS\tABCD\tCDAB\tBADC\tDCBA\n")
	for len(readings) > 0 {
		first := readings[0]
		row := 0
		cells := make(map[string]string)
		for row < len(readings) && readings[row].Tag.Type == first.Tag.Type && readings[row].Address == first.Address {
			cells[readings[row].Tag.Order] = cell(readings[row])
			row++
		}
		readings = readings[row:]
		line := strings.Join([]string{first.Tag.Type, strconv.Itoa(first.Address), cells["ABCD"], cells["CDAB"], cells["BADC"], cells["DCBA"]}, "\t")
		_, e := fmt.Fprintln(table, strings.TrimRight(line, "\t"))
		err = errors.Join(err, e)
	}
	return errors.Join(err, table.Flush())
}

// cell is a value in the table of orders.
func cell(r modbus.Reading) string {
	if r.Quality == modbus.Bad {
		return "-"
	}
	return valueText(r)
}
