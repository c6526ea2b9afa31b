package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"forebay/edge"
	"forebay/modbus"
)

func newModbusPlan() *cobra.Command {
	link, learned := "", false
	var c control
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "show how the tags of a configuration are read",
		Long: `Show each read that a gateway makes for the tags of a configuration and, for a
serial line, the time that it takes on the wire and how busy the line is. No
device is asked, and none has taught anything yet: a gateway that runs parts the
reads that a device refuses. --learned asks the running gateway what it knows.`,
		Example: `  forebay modbus plan /etc/forebay/forebay.yaml
  forebay modbus plan forebay.yaml --link line1`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			links, err := chooseLinks(cmd, args[0], link)
			if err != nil {
				return err
			}
			for i := range links {
				if err := printPlan(cmd.OutOrStdout(), &links[i]); err != nil {
					return failed(cmd, err)
				}
			}
			if !learned {
				return nil
			}
			var report edge.ModbusReport
			if err := c.do(http.MethodGet, "/v1/modbus", &report); err != nil {
				return err
			}
			return printLearned(cmd.OutOrStdout(), &report)
		},
	}
	cmd.Flags().BoolVar(&learned, "learned", false, "show also what the running gateway has learned about its units")
	c.flag(cmd)
	cmd.Flags().StringVar(&link, "link", "", "show only the link of this `NAME`")
	return cmd
}

// printLearned prints what is known of units beyond the configuration.
func printLearned(out io.Writer, report *edge.ModbusReport) error {
	var b strings.Builder
	for _, link := range report.Links {
		for _, u := range link.Units {
			if u.Learned == nil {
				continue
			}
			for _, size := range []struct {
				what string
				modbus.Sizes
			}{{"registers", u.Learned.Registers}, {"bits", u.Learned.Bits}} {
				if size.Refused > 0 {
					fmt.Fprintf(&b, "link %s unit %s: reads of %d %s are answered, of %d refused\n", link.Name, u.Name, size.Good, size.what, size.Refused)
				}
			}
			for _, cut := range u.Learned.Cuts {
				fmt.Fprintf(&b, "link %s unit %s: no read may cross the border before %s %d\n", link.Name, u.Name, cut.Table, cut.Address)
			}
			for _, hole := range u.Learned.Holes {
				fmt.Fprintf(&b, "link %s unit %s: %s %d-%d is refused with exception %d\n",
					link.Name, u.Name, hole.Table, hole.Address, hole.Address+hole.Count-1, hole.Exception)
			}
		}
	}
	if b.Len() == 0 {
		b.WriteString("nothing that the plan does not say has been learned\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// printPlan prints the reads of one link.
func printPlan(out io.Writer, link *modbus.LinkConfig) error {
	plan := link.Plan()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "link %s\n", link.Name)
	perSecond := 0.0
	for _, r := range plan {
		perSecond += float64(time.Second) / float64(r.Interval)
		place := fmt.Sprintf("%s %d", r.Table, r.Address)
		if r.Count > 1 {
			place += fmt.Sprintf("-%d", r.Address+r.Count-1)
		}
		wire := ""
		if r.OnWire > 0 {
			wire = r.OnWire.Round(100 * time.Microsecond).String()
		}
		var names []string
		for _, t := range r.Tags {
			names = append(names, t.Name)
		}
		fmt.Fprintf(w, "  unit %d %s\t%s\tevery %v\t%s\t%s\n", *r.Unit.Unit, r.Unit.Name, place, r.Interval, wire, strings.Join(names, " "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	text := fmt.Sprintf("  %d reads, %.4g a second", len(plan), perSecond)
	if cycle := modbus.Cycle(plan); cycle > 0 {
		text += fmt.Sprintf("; one round takes %v; the line is busy for %.3g %% of the time", cycle.Round(100*time.Microsecond), 100*modbus.Load(plan))
	}
	_, err := fmt.Fprintln(out, text)
	return err
}
