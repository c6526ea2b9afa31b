package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"forebay/edge"
	"forebay/storage"
)

func newStore() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "look at the messages that are held, verify them, mend and empty the store",
		Long: `Tools for the store of a gateway that does not run: stop it first. Info and
export ask a gateway that runs, through its control socket. The store is that of
the configuration, or the directory that --store names.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, "which tool? %s", strings.Join(toolNames(cmd), ", "))
			}
			return usage(cmd, "unknown tool %q: use %s", args[0], strings.Join(toolNames(cmd), ", "))
		},
		RunE: func(*cobra.Command, []string) error { return nil }, // Args has refused
	}
	cmd.AddCommand(newStoreInfo(), newStoreCheck(), newStoreExport(), newStoreRepair(), newStorePurge())
	return cmd
}

// storePlace is where the store is: the flags that all tools share.
type storePlace struct {
	config, dir string
}

func (p *storePlace) addTo(cmd *cobra.Command) {
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVarP(&p.config, "config", "c", defaultConfig, "configuration `FILE` that says where the store is")
	cmd.Flags().StringVar(&p.dir, "store", "", "`DIRECTORY` of the store, without a configuration")
	cmd.MarkFlagsMutuallyExclusive("config", "store")
	if err := cmd.MarkFlagDirname("store"); err != nil {
		panic("BUG: " + err.Error())
	}
}

// find returns where the store is, and the configuration unless --store was
// given.
func (p *storePlace) find() (storage.Config, *edge.Config, error) {
	if p.dir != "" {
		cfg := storage.Config{Path: p.dir}
		cfg.SetDefaults()
		return cfg, nil, nil
	}
	cfg, err := edge.Load(p.config)
	if err != nil {
		return storage.Config{}, nil, err
	}
	return cfg.Storage, cfg, nil
}

// inspect opens the store for reading.
func (p *storePlace) inspect(cmd *cobra.Command) (*storage.Inspection, *edge.Config, error) {
	store, cfg, err := p.find()
	if err != nil {
		return nil, nil, err
	}
	in, err := storage.Inspect(store.Path)
	if err != nil {
		return nil, nil, storeRefusal(cmd, store.Path, err)
	}
	return in, cfg, nil
}

// storeRefusal makes a sentence of why a store cannot be used, with what to do.
func storeRefusal(cmd *cobra.Command, path string, err error) error {
	text := strings.TrimPrefix(err.Error(), "storage: ")
	newer, isNewer := errors.AsType[*storage.VersionError](err)
	switch {
	case errors.Is(err, storage.ErrLocked):
		text += ": stop that gateway first (systemctl stop forebay)"
	case isNewer:
		text = fmt.Sprintf("%s was written by a newer forebay (format %d, this one knows %d): use that one; nothing was changed", newer.File, newer.Version, newer.Known)
	case errors.Is(err, fs.ErrNotExist):
		text = fmt.Sprintf("there is no store in %s: name its directory with --store, or its configuration with --config", path)
	case errors.Is(err, fs.ErrPermission):
		text += ": run this as root or as the user of the gateway"
	case errors.Is(err, syscall.ENOSPC):
		text += ": make room on the disk first"
	}
	return failed(cmd, &storeError{text, err})
}

// storeError is an error of a store in other words.
type storeError struct {
	text  string
	cause error
}

func (e *storeError) Error() string { return e.text }
func (e *storeError) Unwrap() error { return e.cause }

// becomeOwner makes root the user whom the store belongs to, so that the gateway
// can read and write the files that are made here.
func becomeOwner(path string) error {
	info, err := os.Stat(path)
	if os.Geteuid() != 0 || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(int(owner.Gid)), syscall.Setuid(int(owner.Uid))); err != nil {
		return fmt.Errorf("become the owner of %s: %w", path, err)
	}
	return nil
}

func newStoreInfo() *cobra.Command {
	var place storePlace
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info",
		Short: "print what waits for whom, and the files",
		Long: `Print how many messages wait for each bridge and session, their bytes and the
age of the oldest, and the files and tables of the store. Messages are not read,
so it takes no longer than a start; nothing is changed.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, cfg, err := place.inspect(cmd)
			if gateway := place.online(err); gateway != nil {
				report, err := gateway.storeReport()
				if err != nil {
					return err
				}
				return printStoreReport(cmd, report, asJSON)
			}
			if err != nil {
				return err
			}
			report := edge.ReportStore(in.View, cfg, time.Now())
			return errors.Join(printStoreReport(cmd, report, asJSON), in.Close())
		},
	}
	place.addTo(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newStoreCheck() *cobra.Command {
	var place storePlace
	cmd := &cobra.Command{
		Use:   "check",
		Short: "read everything and verify every checksum",
		Long: `Read the whole store and verify every checksum. Each damage is printed with its
place, what it costs and what to do; nothing is changed.

The exit code is 1 if anything is damaged.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, _, err := place.inspect(cmd)
			if err != nil {
				return err
			}
			return errors.Join(checkStore(cmd, in), in.Close())
		},
	}
	place.addTo(cmd)
	return cmd
}

func checkStore(cmd *cobra.Command, in *storage.Inspection) error {
	began := time.Now()
	show := progressOn(cmd.ErrOrStderr())
	findings, err := in.Check(bytesRead(show))
	show.clear()
	if err != nil {
		return storeRefusal(cmd, in.Path, err)
	}
	for _, f := range findings {
		if _, err := fmt.Fprint(cmd.OutOrStdout(), edge.StoreFinding(f)); err != nil {
			return err
		}
	}
	messages, bytes := int64(0), int64(0)
	for _, c := range in.Consumers {
		messages += c.Count
	}
	for _, f := range in.Segments {
		bytes += f.Bytes
	}
	if len(findings) > 0 {
		return failed(cmd, fmt.Errorf("%s: %s in %d segments (%s), the journal and the state", in.Path, plural(len(findings), "finding"), len(in.Segments), megabytes(bytes)))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: sound: %d waiting for %s in %s (%s), read in %s\n", in.Path,
		messages, plural(len(in.Consumers), "consumer"), plural(len(in.Segments), "segment"),
		megabytes(bytes), time.Since(began).Round(time.Millisecond))
	return err
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// bytesRead shows how far something has read.
func bytesRead(show progress) func(done, total int64) {
	return func(done, total int64) {
		show.show("%s of %s read", megabytes(done), megabytes(total))
	}
}

func newStoreExport() *cobra.Command {
	var place storePlace
	var consumer string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "write the messages that wait as lines of JSON",
		Long: `Write every message that waits as a line of JSON: the consumers it waits for, the
topic, the time of arrival, QoS and retain flag as published, and the payload as
text if it is UTF-8, else in base64. Nothing is changed; what is damaged is left
out, see "forebay store check".`,
		Example: `  forebay store export >held.ndjson
  forebay store export --store /mnt/var/lib/forebay --consumer "bridge cloud" | jq -r .topic | sort | uniq -c`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, _, err := place.inspect(cmd)
			if gateway := place.online(err); gateway != nil {
				if err := gateway.export(cmd.OutOrStdout(), consumer); err != nil {
					return failed(cmd, err)
				}
				return nil
			}
			if err != nil {
				return err
			}
			out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
			err = edge.ExportStore(out, in.View, consumer)
			if err != nil {
				err = failed(cmd, err)
			}
			return errors.Join(err, out.Flush(), in.Close())
		},
	}
	place.addTo(cmd)
	cmd.Flags().StringVar(&consumer, "consumer", "", "only what waits for `NAME`, as info prints it")
	return cmd
}

func newStoreRepair() *cobra.Command {
	var place storePlace
	var dry bool
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "rebuild what is damaged from what is readable",
		Long: `Rebuild a damaged or missing state from the log, replace damaged segments by what
is readable of them, and count what is lost for each consumer. The damaged files
stay in the store, with .bad behind their names. A gateway does as much by itself
when it starts and reads; this does it at once, and more thoroughly.

Run it as root or as the user of the gateway: root becomes that user.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dry {
				return tellRepair(cmd, &place)
			}
			return repairStore(cmd, &place)
		},
	}
	place.addTo(cmd)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only print what is wrong and what would be done")
	return cmd
}

// tellRepair is repair --dry-run.
func tellRepair(cmd *cobra.Command, place *storePlace) error {
	in, _, err := place.inspect(cmd)
	if err != nil {
		return err
	}
	show := progressOn(cmd.ErrOrStderr())
	findings, err := in.Check(bytesRead(show))
	show.clear()
	if err != nil {
		return errors.Join(storeRefusal(cmd, in.Path, err), in.Close())
	}
	var text strings.Builder
	for _, f := range findings {
		text.WriteString(edge.StoreFinding(f).String())
	}
	for _, what := range in.Intends {
		fmt.Fprintf(&text, "would %s\n", what)
	}
	if len(findings) == 0 {
		fmt.Fprintf(&text, "%s: sound, nothing to repair\n", in.Path)
	}
	_, err = io.WriteString(cmd.OutOrStdout(), text.String())
	return errors.Join(err, in.Close())
}

func repairStore(cmd *cobra.Command, place *storePlace) error {
	store, _, err := place.find()
	if err != nil {
		return err
	}
	if err := becomeOwner(store.Path); err != nil {
		return failed(cmd, err)
	}
	show := progressOn(cmd.ErrOrStderr())
	done, err := storage.Repair(store, bytesRead(show))
	show.clear()
	if err != nil {
		return storeRefusal(cmd, store.Path, err)
	}
	var text strings.Builder
	for _, f := range done.Findings {
		text.WriteString(edge.StoreFinding(f).String())
	}
	for _, name := range done.SetAside {
		fmt.Fprintf(&text, "set aside: %s\n", name)
	}
	for name, n := range done.Lost {
		fmt.Fprintf(&text, "lost: %s for %s\n", plural(int(n), "message"), edge.ConsumerTitle(name))
	}
	if len(done.Findings) == 0 {
		fmt.Fprintf(&text, "%s: sound, nothing to repair\n", store.Path)
	} else {
		fmt.Fprintf(&text, "%s: repaired\n", store.Path)
	}
	_, err = io.WriteString(cmd.OutOrStdout(), text.String())
	return err
}
