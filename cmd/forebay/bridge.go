package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"forebay/edge"
)

func newBridgeExplain() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "explain TOPIC",
		Short: "show what bridges do with messages on a topic",
		Long: `Show, from the configuration alone, what each bridge does with messages on a
topic: which rule decides, what topic, QoS and retain flag come out on the other
side, and why the other rules do not. No gateway needs to run.

In each direction the first rule whose filter matches decides, unless it
excludes the topic; a message passes each bridge once.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := edge.Load(file)
			if err != nil {
				return err
			}
			return explainTopic(cmd.OutOrStdout(), cfg, args[0])
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", defaultConfig, "configuration `FILE`: YAML, TOML or JSON by its ending")
	return cmd
}

// explainTopic prints a paragraph for each bridge and direction.
func explainTopic(w io.Writer, cfg *edge.Config, topic string) error {
	list, err := cfg.Preview(topic)
	if err != nil {
		return usageError{fmt.Errorf("forebay bridge explain: %s", strings.TrimPrefix(err.Error(), "bridge: "))}
	}
	if len(list) == 0 {
		return errors.New("forebay bridge explain: the configuration has no bridges")
	}
	var b bytes.Buffer
	for _, p := range list {
		fmt.Fprintf(&b, "bridge %s\n", p.Bridge)
		fmt.Fprintf(&b, "  published here on %s\n    ", plain(topic))
		printPassage(&b, "goes up as", "stays here", &p.Up)
		fmt.Fprintf(&b, "  arriving from the upstream on %s\n    ", plain(topic))
		printPassage(&b, "comes down as", "is not asked for", &p.Down)
	}
	_, err = b.WriteTo(w)
	return err
}

// printPassage says what becomes of the messages, and what each rule says to it.
func printPassage(b *bytes.Buffer, goes, none string, p *edge.Passage) {
	switch {
	case p.Rule == "":
		fmt.Fprintf(b, "%s: no rule matches\n", none)
	case p.Topic == "":
		fmt.Fprintf(b, "is dropped: the topic of %s cannot be used\n", p.Rule)
	default:
		retain := map[string]string{"keep": "as published", "drop": "never", "force": "always"}[p.Retain]
		fmt.Fprintf(b, "%s %s\n    QoS %s; retained %s\n", goes, plain(p.Topic), qosChange(p.QoS), retain)
		if p.Order != "" {
			fmt.Fprintf(b, "    order %s, priority %s", p.Order, p.Priority)
			if p.Expiry > 0 {
				fmt.Fprintf(b, ", expires after %s", p.Expiry)
			}
			b.WriteByte('\n')
		}
	}
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, r := range p.Rules {
		fmt.Fprintf(table, "    %s\t%s\t%s\n", r.Rule, plain(r.Filter), plain(r.Verdict))
	}
	_ = table.Flush() // into a buffer, which takes everything
}

// qosChange writes what becomes of each QoS.
func qosChange(to [3]byte) string {
	if to == [3]byte{0, 1, 2} {
		return "as published"
	}
	var parts []string
	for from, q := range to {
		parts = append(parts, fmt.Sprintf("%d as %d", from, q))
	}
	return strings.Join(parts, ", ")
}
