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
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"forebay/edge"
	"forebay/storage"
)

// report reads the store, or asks the gateway that has it open.
func (p *storePlace) report(cmd *cobra.Command) (r edge.StoreReport, err error) {
	err = p.look(cmd, func(in *storage.Inspection, cfg *edge.Config) error {
		r = edge.ReportStore(in.View, cfg, time.Now())
		return nil
	}, func(_ *control, running edge.StoreReport) error {
		r = running
		return nil
	})
	return r, err
}

// export writes what the store holds, or what the gateway that has it open says.
func (p *storePlace) export(cmd *cobra.Command, out io.Writer, consumer string) error {
	return p.look(cmd, func(in *storage.Inspection, _ *edge.Config) error {
		if err := edge.ExportStore(out, in.View, consumer); err != nil {
			return failed(cmd, err)
		}
		return nil
	}, func(c *control, _ edge.StoreReport) error {
		ctx, cancel := withInterrupt()
		defer cancel()
		return c.copyMessages(ctx, out, consumer)
	})
}

// look calls offline with the store, or online if a running gateway has it.
func (p *storePlace) look(cmd *cobra.Command, offline func(*storage.Inspection, *edge.Config) error, online func(*control, edge.StoreReport) error) error {
	store, cfg, err := p.find()
	if err != nil {
		return err
	}
	in, err := storage.Inspect(store.Path)
	if err == nil {
		return errors.Join(offline(in, cfg), in.Close())
	}
	if !errors.Is(err, storage.ErrLocked) && !errors.Is(err, fs.ErrPermission) {
		return storeRefusal(cmd, store.Path, err)
	}
	c := &control{socket: edge.ControlSocket}
	if cfg != nil && cfg.API.Socket != "" {
		c.socket = cfg.API.Socket
	}
	var running edge.StoreReport
	asked := c.do(http.MethodGet, "/v1/storage/report", &running)
	if asked == nil && !sameDirectory(running.Path, store.Path) {
		asked = fmt.Errorf("forebay: the gateway on %s has its store in %s", c.socket, running.Path)
	}
	if asked != nil {
		return errors.Join(storeRefusal(cmd, store.Path, err), asked)
	}
	return online(c, running)
}

func sameDirectory(a, b string) bool {
	first, err := os.Stat(a)
	if err != nil {
		return a == b
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

// copyMessages copies the lines of the gateway, the last of which may say that
// they are not all.
func (c *control) copyMessages(ctx context.Context, out io.Writer, consumer string) error {
	body, err := c.open(ctx, http.MethodGet, "/v1/storage/messages?consumer="+url.QueryEscape(consumer))
	if err != nil {
		return err
	}
	defer body.Close() // it is read to its end, or given up
	for lines := bufio.NewReaderSize(body, 64<<10); ; {
		line, err := lines.ReadBytes('\n')
		var f edge.Failure
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case err != nil:
			return fmt.Errorf("forebay: the answer of the gateway breaks off: %w", err)
		case bytes.HasPrefix(line, []byte(`{"error":`)) && json.Unmarshal(line, &f) == nil:
			return errors.New("forebay: the answer of the gateway breaks off: " + f.Error)
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
}
