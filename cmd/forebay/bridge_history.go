package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"forebay/edge"
)

func newBridgeOutages() *cobra.Command {
	var c control
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "outages [NAME]",
		Short: "list the outages of the uplinks and what they meant for the messages",
		Long: `List the outages of a bridge of the running gateway, or of all, in the last year:
when the link was lost and back, how many messages waited then, how many of them
the upstream has acknowledged since, when nothing of them waited any more, and
what was dropped.`,
		Args: arguments(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				var r edge.Report
				if err := c.do(http.MethodGet, "/v1/status", &r); err != nil {
					return err
				}
				for _, s := range r.Bridges {
					args = append(args, s.Name)
				}
			}
			outages := map[string][]edge.Outage{}
			for _, name := range args {
				var list []edge.Outage
				if err := c.do(http.MethodGet, "/v1/bridges/"+url.PathEscape(name)+"/outages", &list); err != nil {
					return err
				}
				outages[name] = list
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(outages)
			}
			_, err := cmd.OutOrStdout().Write(outageTable(outages))
			return err
		},
	}
	c.flag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object, by bridge")
	return cmd
}

// outageTable writes outages for a person.
func outageTable(outages map[string][]edge.Outage) []byte {
	var b bytes.Buffer
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "BRIDGE\tFROM\tLASTED\tWAITED\tSENT\tRESENT\tEXPIRED\tDROPPED\tDRAINED\tWHY")
	for _, name := range slices.Sorted(maps.Keys(outages)) {
		for _, o := range outages[name] {
			lasted, drained := "still", "-"
			if o.To != nil {
				lasted = age(o.To.Sub(o.From))
			}
			if o.Drained != nil && o.To != nil {
				drained = "after " + age(o.Drained.Sub(*o.To))
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n", plain(name), o.From.Local().Format(time.DateTime), lasted,
				o.Buffered, o.Sent, o.Resent, o.Expired, causes(o.Dropped), drained, plain(o.Why))
		}
	}
	_ = table.Flush() // into memory
	return b.Bytes()
}

// causes writes counts by cause: "3 full, 1 superseded".
func causes(counts map[string]uint64) string {
	var parts []string
	for _, cause := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[cause], plain(cause)))
	}
	if len(parts) == 0 {
		return "0"
	}
	return strings.Join(parts, ", ")
}

func newBridgeDeadLetters() *cobra.Command {
	var c control
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "dead-letters NAME",
		Short: "list the latest messages that an upstream can never take, and why",
		Long: `List the latest messages of a bridge of the running gateway that its upstream can
never take, such as those that are too large for it or that it refuses for good:
when and why, the topic, and with --json the beginning of the payload.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var list []edge.DeadLetter
			if err := c.do(http.MethodGet, "/v1/bridges/"+url.PathEscape(args[0])+"/dead-letters", &list); err != nil {
				return err
			}
			if asJSON {
				for _, d := range list {
					if err := json.NewEncoder(cmd.OutOrStdout()).Encode(d); err != nil {
						return err
					}
				}
				return nil
			}
			var b bytes.Buffer
			table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "GIVEN UP\tARRIVED\tCAUSE\tTOPIC\tBYTES\t")
			for _, d := range list {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\n", d.Time.Local().Format(time.DateTime), d.Arrived.Local().Format(time.DateTime),
					plain(d.Cause), plain(d.Topic), d.Size, plain(d.Detail))
			}
			_ = table.Flush() // into memory
			_, err := b.WriteTo(cmd.OutOrStdout())
			return err
		},
	}
	c.flag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a line of JSON for each, with the payload in base64")
	return cmd
}
