package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"forebay/modbus"
)

// reader is the tool that reads values.
type reader struct {
	device
	format
	every  time.Duration
	asJSON bool
}

func newModbusRead() *cobra.Command {
	r := &reader{}
	cmd := &cobra.Command{
		Use:   "read REGISTER ADDRESS",
		Short: "read registers of a device",
		Long: `Read one value, or --count values in a row, with one request, and print them
with the registers they were made of. REGISTER is coil, discrete, input or
holding, ADDRESS counts from 0 as on the wire. Instead of both, a reference as
manuals print it: 40101.

The exit code is 1 if the device did not answer or refused.`,
		Example: `  forebay modbus read holding 100 --type float32 --order CDAB --tcp 192.0.2.10
  forebay modbus read 40101 --count 10 --every 1s --rtu /dev/ttyUSB0 --baud 19200 --unit 7`,
		RunE: func(cmd *cobra.Command, args []string) error { return r.run(cmd, args) },
	}
	r.device.addTo(cmd)
	r.addUnit(cmd)
	r.format.addTo(cmd)
	cmd.Flags().IntVar(&r.count, "count", 1, "`NUMBER` of values; of a string, of its registers")
	cmd.Flags().DurationVar(&r.every, "every", 0, "read again after each `TIME`, until Ctrl-C")
	cmd.Flags().BoolVar(&r.asJSON, "json", false, "print each read as a line of JSON")
	return cmd
}

func (r *reader) run(cmd *cobra.Command, args []string) error {
	tag, rest, err := place(cmd, args)
	if err == nil {
		err = nothingLeft(cmd, rest)
	}
	if err != nil {
		return err
	}
	r.apply(cmd, &tag)
	tags := []modbus.TagConfig{tag}
	if r.typ != "string" {
		if r.count < 1 || r.count > 2000 {
			return usage(cmd, "--count: %d is out of range: 1 to 2000 bits, or as many values as fit into 125 registers", r.count)
		}
		tags = tag.Series(r.count)
	}
	if cmd.Flags().Changed("every") && (r.every < 10*time.Millisecond || r.every > 24*time.Hour) {
		return usage(cmd, "--every: %v is out of range: 10ms to 24h", r.every)
	}
	client, err := r.client(cmd, r.unitConfig(tags...))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := withInterrupt()
	defer cancel()
	if r.every == 0 {
		return r.once(ctx, cmd, client)
	}
	return r.repeat(ctx, cmd, client)
}

// repeat reads until ctx ends; what fails is said at once, and the exit code
// tells of it at the end.
func (r *reader) repeat(ctx context.Context, cmd *cobra.Command, client *modbus.Client) error {
	tick := time.NewTicker(r.every)
	defer tick.Stop()
	reads, failures := 0, 0
	for {
		err := r.once(ctx, cmd, client)
		if ctx.Err() != nil {
			break
		}
		reads++
		if err != nil {
			failures++
			if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s  %v\n", clock(time.Now()), err); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
			continue
		}
		break
	}
	if failures > 0 {
		return failed(cmd, fmt.Errorf("%d of %d reads failed", failures, reads))
	}
	return nil
}

// once reads and prints.
func (r *reader) once(ctx context.Context, cmd *cobra.Command, client *modbus.Client) error {
	readings, took, err := client.Read(ctx, 0)
	if err != nil {
		err = r.explain(ctx, err)
	}
	switch {
	case r.asJSON && ctx.Err() == nil:
		if err := r.printJSON(cmd.OutOrStdout(), readings, took, err); err != nil {
			return err
		}
	case err == nil:
		if err := printReadings(cmd.OutOrStdout(), readings); err != nil {
			return err
		}
		when := ""
		if r.every > 0 {
			when = " at " + clock(readings[0].Time)
		}
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "answered in %s%s\n", milliseconds(took), when); err != nil {
			return err
		}
	}
	if err != nil {
		return failed(cmd, err)
	}
	return nil
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.1f ms", inMilliseconds(d)) }

func inMilliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// printReadings writes a table.
func printReadings(out io.Writer, readings []modbus.Reading) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	heading := "REGISTER\tVALUE\tHEX\tDECIMAL\n"
	if readings[0].Registers == nil {
		heading = "BIT\tVALUE\n"
	}
	_, err := fmt.Fprint(table, heading)
	for _, r := range readings {
		_, e := fmt.Fprintf(table, "%s %d\t%s\n", r.Table, r.Address, columns(r))
		err = errors.Join(err, e)
	}
	return errors.Join(err, table.Flush())
}

// columns are value, hexadecimal and decimal registers, with tabs between.
func columns(r modbus.Reading) string {
	if r.Registers == nil {
		return valueText(r)
	}
	return valueText(r) + "\t" + words("0x%04x", r.Registers) + "\t" + words("%d", r.Registers)
}

// valueText is the value for a terminal: what devices send as text must not
// control it.
func valueText(r modbus.Reading) string {
	switch {
	case r.Quality == modbus.Bad:
		return fmt.Sprintf("none (%v)", r.Err)
	case r.Value.Kind() == modbus.Text:
		return strconv.Quote(r.Value.String())
	}
	return r.Value.String()
}

// words writes registers, each in the format.
func words(format string, registers []uint16) string {
	texts := make([]string, len(registers))
	for i, w := range registers {
		texts[i] = fmt.Sprintf(format, w)
	}
	return strings.Join(texts, " ")
}

// readLine is one read in JSON.
type readLine struct {
	Time   string      `json:"time"`
	Unit   int         `json:"unit"`
	TookMS float64     `json:"took_ms"`
	Values []readValue `json:"values,omitempty"`
	Error  string      `json:"error,omitempty"`
}

type readValue struct {
	Register  string          `json:"register"`
	Address   int             `json:"address"`
	Value     json.RawMessage `json:"value"`
	Quality   string          `json:"quality"`
	Error     string          `json:"error,omitempty"`
	Registers []uint16        `json:"registers,omitempty"`
}

func (r *reader) printJSON(out io.Writer, readings []modbus.Reading, took time.Duration, failure error) error {
	line := readLine{Time: time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), Unit: r.unit, TookMS: inMilliseconds(took)}
	if failure != nil {
		line.Error = failure.Error()
	}
	for _, got := range readings {
		v := readValue{Register: got.Table.String(), Address: got.Address, Value: got.Value.AppendJSON(nil), Quality: got.Quality.String(), Registers: got.Registers}
		if got.Err != nil {
			v.Error = got.Err.Error()
		}
		line.Values = append(line.Values, v)
	}
	return json.NewEncoder(out).Encode(line)
}
