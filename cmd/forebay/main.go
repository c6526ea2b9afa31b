package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"forebay/edge"
)

// version is set by the build: -ldflags '-X main.version=1.2.3'.
var version = "dev"

// The exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
	exitConfig  = 78 // EX_CONFIG: another try would find the same
)

func main() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }

// usageError is a command line that makes no sense.
type usageError struct{ error }

// execute runs one command line and returns the exit code.
func execute(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	command, err := root.ExecuteC()
	if err == nil {
		return exitOK
	}
	// Nothing more can be done when even stderr is gone.
	_, _ = fmt.Fprintln(stderr, err)
	if _, ok := errors.AsType[usageError](err); ok {
		_, _ = fmt.Fprintf(stderr, "try: %s --help\n", command.CommandPath())
		return exitUsage
	}
	if _, ok := errors.AsType[*edge.ConfigError](err); ok {
		return exitConfig
	}
	return exitFailure
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "forebay",
		Short:         "MQTT edge gateway that loses nothing it acknowledged",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("forebay: which command?")}
			}
			text := fmt.Sprintf("forebay: unknown command %q", args[0])
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				text += "; did you mean " + strings.Join(near, " or ") + "?"
			}
			return usageError{errors.New(text)}
		},
		RunE: func(*cobra.Command, []string) error { return nil }, // Args has refused
	}
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError{fmt.Errorf("forebay: %w", err)}
	})
	root.AddCommand(
		newRun(),
		newCheck(),
		newStatus(),
		newReload(),
		newBridge(),
		newDemo(),
		newModbus(),
		newPasswd(),
		newStore(),
		newBench(),
		newVersion(),
	)
	return root
}

// arguments makes a wrong number of arguments an error of usage.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%s: %w", cmd.CommandPath(), err)}
		}
		return nil
	}
}

func newCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "report everything that is wrong with a configuration",
		Long: `Read a configuration and report everything that is wrong with it, each
problem on a line of its own. The files that it names (certificates, keys,
passwords) must exist and be readable by the user who asks. Rules of bridges that
lead messages in circles are named, as something to mind. Nothing is started.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := edge.Load(args[0])
			if err != nil {
				return err
			}
			if err := cfg.CheckFiles(); err != nil {
				return err
			}
			text := ""
			for _, l := range cfg.Loops() {
				text += fmt.Sprintf("%s: mind: %s\n", args[0], l)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s%s: ok: %s\n", text, args[0], cfg.Summary())
			return err
		},
	}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "forebay %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
