package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"forebay/edge"
)

// control talks to a running gateway through its control socket.
type control struct{ socket string }

// flag lets a command talk to another gateway than that of the package.
func (c *control) flag(cmd *cobra.Command) {
	var file string
	cmd.Flags().StringVar(&c.socket, "socket", edge.ControlSocket, "`PATH` of the gateway's control socket (api.socket)")
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE` that names the control socket")
	cmd.MarkFlagsMutuallyExclusive("socket", "config")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if file == "" {
			return nil
		}
		cfg, err := edge.Load(file)
		if err != nil {
			return err
		}
		if cfg.API.Socket == "" {
			return fmt.Errorf("forebay: %s names no api.socket", file)
		}
		c.socket = cfg.API.Socket
		return nil
	}
}

// controlTime bounds one exchange: a reload waits for bridges that take leave.
const controlTime = time.Minute

// maxControlAnswer bounds what is read of an answer.
const maxControlAnswer = 64 << 20

// do sends one request and decodes its answer into v. A refusal by the gateway
// is an error with its words.
func (c *control) do(method, path string, v any) error {
	b, err := c.raw(method, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("forebay: %s answers what this version does not understand: %w", c.socket, err)
	}
	return nil
}

// raw sends one request and returns the body of its answer.
func (c *control) raw(method, path string) ([]byte, error) {
	request, err := http.NewRequest(method, "http://forebay"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := c.client(controlTime).Do(request)
	if err != nil {
		return nil, c.explain(err)
	}
	defer response.Body.Close() // it is read to its end
	b, err := io.ReadAll(io.LimitReader(response.Body, maxControlAnswer))
	if err != nil {
		return nil, fmt.Errorf("forebay: %s: %w", c.socket, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, refusal(response.Status, b)
	}
	return b, nil
}

// client sends its requests through the socket, one a connection. 0: they may
// take as long as they like.
func (c *control) client(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
		},
	}}
}

// explain says what an error of the socket means.
func (c *control) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("forebay: no gateway answers on %s; is it running (systemctl status forebay), and does it have that api.socket?", c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("forebay: this user may not open %s; use sudo, or become a member of the group that it belongs to (adduser USER forebay)", c.socket)
	}
	if broken, ok := errors.AsType[*url.Error](err); ok {
		err = broken.Err
	}
	return fmt.Errorf("forebay: %s: %w", c.socket, err)
}

// refusal makes an error of an answer that is no success.
func refusal(status string, body []byte) error {
	var f edge.Failure
	if err := json.Unmarshal(body, &f); err != nil || f.Error == "" {
		return fmt.Errorf("forebay: the gateway answers %s", status)
	}
	return errors.New(strings.Join(append([]string{"forebay: " + f.Error}, f.Problems...), "\n"))
}

func newStatus() *cobra.Command {
	var c control
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show how the running gateway does",
		Long: `Ask the running gateway, through its control socket, how it does: its clients,
its bridges and what waits for them, its Modbus links and units, and its store.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := c.raw(http.MethodGet, "/v1/status")
			if err != nil {
				return err
			}
			if asJSON {
				var text bytes.Buffer
				if err := json.Indent(&text, b, "", "  "); err != nil {
					return fmt.Errorf("forebay: %s answers what is no JSON: %w", c.socket, err)
				}
				_, err := text.WriteTo(cmd.OutOrStdout())
				return err
			}
			var r edge.Report
			if err := json.Unmarshal(b, &r); err != nil {
				return fmt.Errorf("forebay: %s answers what this version does not understand: %w", c.socket, err)
			}
			return printReport(cmd.OutOrStdout(), &r, time.Now())
		},
	}
	c.flag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything, as JSON")
	return cmd
}

func newReload() *cobra.Command {
	var c control
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "let the running gateway read its configuration again",
		Long: `Let the running gateway read its configuration again and change what differs:
bridges, which keep their queues, Modbus links, and the log level. Clients stay
connected. A file that is wrong, or asks for what needs a restart, is refused
with every problem, and nothing changes.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var r edge.Reloaded
			if err := c.do(http.MethodPost, "/v1/reload", &r); err != nil {
				return err
			}
			text := "nothing differs\n"
			if len(r.Changes) > 0 {
				text = strings.Join(r.Changes, "\n") + "\n"
			}
			_, err := io.WriteString(cmd.OutOrStdout(), text)
			return err
		},
	}
	c.flag(cmd)
	return cmd
}

func newBridge() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bridge",
		Short: "explain rules of bridges, look after their outages and their queues",
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{errors.New("forebay bridge: which command?")}
		},
	}
	cmd.AddCommand(newBridgeExplain(), newBridgeForget(), newBridgeOutages(), newBridgeDeadLetters())
	return cmd
}

func newBridgeForget() *cobra.Command {
	var c control
	var yes bool
	cmd := &cobra.Command{
		Use:   "forget NAME",
		Short: "give up the queue of a bridge that is not in the configuration any more",
		Long: `Give up what waits for a bridge that is not in the configuration of the running
gateway any more, for good, and what is known of its session. One that is in
the configuration is left alone.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				if err := c.confirmForget(cmd, args[0]); err != nil {
					return err
				}
			}
			var f edge.Forgotten
			if err := c.do(http.MethodDelete, "/v1/bridges/"+url.PathEscape(args[0])+"/queue", &f); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "bridge %s is forgotten: %s given up\n", args[0], plural(int(f.Messages), "message"))
			return err
		},
	}
	c.flag(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// confirmForget asks whoever sits at the terminal.
func (c *control) confirmForget(cmd *cobra.Command, name string) error {
	if !isTerminal(os.Stdin) {
		return usageError{errors.New("forebay bridge forget: nobody is there to be asked; write --yes to do it all the same")}
	}
	var r edge.StorageReport
	if err := c.do(http.MethodGet, "/v1/storage", &r); err != nil {
		return err
	}
	waiting := int64(0)
	for _, q := range r.Consumers {
		if bridge, _, _ := strings.Cut(q.Name, "#"); q.Orphan && bridge == "bridge/"+name {
			waiting += q.Count
		}
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s for bridge %s will be given up for good. Do it? [y/N] ", plural(int(waiting), "message"), name); err != nil {
		return err
	}
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err == nil && (answer == "y" || answer == "yes") {
		return nil
	}
	return errors.New("forebay: nothing was changed")
}
