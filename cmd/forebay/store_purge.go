package main

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/edge"
	"forebay/storage"
)

// purge is the tool that empties queues.
type purge struct {
	storePlace
	consumer, before string
	all, yes         bool

	until time.Time // --before; zero: no such
	title string    // of the consumer
}

func newStorePurge() *cobra.Command {
	p := &purge{}
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "remove a consumer, or messages that wait for it",
		Long: `Remove a consumer with all that waits for it: the queue of a bridge that is not in
the configuration any more, or a session with its subscriptions. With --all or
--before only messages are dropped, and the consumer stays. What is dropped is
counted under "purged". It asks first, unless --yes is given.

A bridge that is in the configuration begins with an empty queue at the next
start. Run this as root or as the user of the gateway: root becomes that user.`,
		Example: `  forebay store purge --consumer "bridge oldcloud"
  forebay store purge --consumer "bridge cloud" --before 2026-11-20
  forebay store purge --consumer "session meter7" --all --yes`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd) },
	}
	p.addTo(cmd)
	f := cmd.Flags()
	f.StringVar(&p.consumer, "consumer", "", "`NAME` of the consumer, as info prints it")
	f.StringVar(&p.before, "before", "", "drop only messages that came before `TIME`: 2026-11-20, 2026-11-20T08:00:00Z, or 72h ago")
	f.BoolVar(&p.all, "all", false, "drop all messages and keep the consumer")
	f.BoolVar(&p.yes, "yes", false, "do not ask")
	return cmd
}

func (p *purge) run(cmd *cobra.Command) error {
	if p.consumer == "" {
		return usage(cmd, "whose messages? give --consumer NAME; forebay store info prints the names")
	}
	if p.all && p.before != "" {
		return usage(cmd, "--all and --before do not go together: give one of them")
	}
	if p.before != "" {
		var err error
		if p.until, err = parseBefore(p.before, time.Now()); err != nil {
			return usage(cmd, "--before: %v", err)
		}
	}
	store, cfg, err := p.find()
	if err != nil {
		return err
	}
	if err := becomeOwner(store.Path); err != nil {
		return failed(cmd, err)
	}
	name, err := p.confirm(cmd, store, cfg)
	if err != nil {
		return err
	}
	store.MaxAckDelay = 0
	log, err := storage.Open(store, slog.New(newHandler(cmd.ErrOrStderr(), slog.LevelWarn, false)), nil)
	if err != nil {
		return storeRefusal(cmd, store.Path, err)
	}
	dropped, err := p.apply(log, name)
	if err = errors.Join(err, log.Close()); err != nil {
		return storeRefusal(cmd, store.Path, err)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s dropped%s\n", p.title, plural(int(dropped), "message"), p.removed())
	return err
}

func (p *purge) removed() string {
	if p.all || p.before != "" {
		return ""
	}
	return ", consumer removed"
}

// confirm finds the consumer and asks. Without a consumer of that name nothing
// of the store is changed.
func (p *purge) confirm(cmd *cobra.Command, store storage.Config, cfg *edge.Config) (name string, err error) {
	in, err := storage.Inspect(store.Path)
	if err != nil {
		return "", storeRefusal(cmd, store.Path, err)
	}
	report := edge.ReportStore(in.View, cfg, time.Now())
	name, err = edge.FindConsumer(in.View, p.consumer)
	if err = errors.Join(err, in.Close()); err != nil {
		return "", failed(cmd, err)
	}
	p.title = edge.ConsumerTitle(name)
	var waiting int64
	for _, c := range report.Consumers {
		if c.Name == p.title {
			waiting = c.Messages
		}
	}
	if p.yes {
		return name, nil
	}
	what := fmt.Sprintf("Remove %q and the %s that wait for it?", p.title, plural(int(waiting), "message"))
	switch {
	case p.all:
		what = fmt.Sprintf("Drop the %s that wait for %q?", plural(int(waiting), "message"), p.title)
	case p.before != "":
		what = fmt.Sprintf("Of the %s that wait for %q, drop those from before %s?", plural(int(waiting), "message"), p.title, p.until.Local().Format("2006-01-02 15:04:05"))
	}
	if _, err := fmt.Fprint(cmd.ErrOrStderr(), what+" They cannot be brought back. [y/N] "); err != nil {
		return "", err
	}
	// No answer is no.
	answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return "", failed(cmd, errors.New("not confirmed; nothing was changed (--yes does not ask)"))
	}
	return name, nil
}

// apply does it and returns how many messages went.
func (p *purge) apply(log *storage.Log, name string) (dropped int64, err error) {
	ctx, cancel := withInterrupt()
	defer cancel()
	if p.all || p.before != "" {
		return log.Purge(ctx, name, p.until)
	}
	v, err := log.View()
	if err != nil {
		return 0, err
	}
	for _, c := range v.Consumers {
		if c.Name == name {
			dropped = c.Count
		}
	}
	seq, err := edge.RemoveConsumer(log, name)
	if err != nil {
		return 0, err
	}
	return dropped, log.WaitSafe(ctx, seq)
}

// parseBefore reads a moment, or how long ago one was.
func parseBefore(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02", "2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02T15:04:05"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: write 2026-11-20, \"2026-11-20 08:00\", 2026-11-20T08:00:00Z, or how long ago, such as 72h", s)
}
