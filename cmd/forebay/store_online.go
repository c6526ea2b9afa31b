package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"forebay/edge"
	"forebay/storage"
)

// online returns the control socket of the gateway that has the store open; nil
// if there is none, or if err, with which the store could not be opened, has
// another reason.
func (p *storePlace) online(err error) *control {
	if !errors.Is(err, storage.ErrLocked) && !errors.Is(err, fs.ErrPermission) {
		return nil
	}
	store, cfg, err := p.find()
	if err != nil {
		return nil // the caller tells of the store
	}
	c := &control{socket: edge.ControlSocket}
	if cfg != nil {
		c.socket = cmp.Or(cfg.API.Socket, c.socket)
	}
	var r edge.StorageReport
	if c.do(http.MethodGet, "/v1/storage", &r) != nil || r.Path != store.Path {
		return nil // nobody answers, or another gateway does
	}
	return c
}

// storeReport asks for what forebay store info prints.
func (c *control) storeReport() (r edge.StoreReport, err error) {
	err = c.do(http.MethodGet, "/v1/storage/info", &r)
	return r, err
}

// export asks for what forebay store export writes.
func (c *control) export(w io.Writer, consumer string) error {
	response, err := c.client(0).Get("http://forebay/v1/storage/messages?consumer=" + url.QueryEscape(consumer))
	if err != nil {
		return c.explain(err)
	}
	defer response.Body.Close() // what is left of it is not wanted
	if response.StatusCode != http.StatusOK {
		b, err := io.ReadAll(io.LimitReader(response.Body, maxControlAnswer))
		return errors.Join(refusal(response.Status, b), err)
	}
	if _, err := io.Copy(w, response.Body); err != nil {
		return fmt.Errorf("forebay: %s: %w", c.socket, err)
	}
	if why := response.Trailer.Get(edge.ErrorTrailer); why != "" {
		return errors.New(why)
	}
	return nil
}

// printStoreReport writes what a store holds.
func printStoreReport(cmd *cobra.Command, r edge.StoreReport, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}
	return r.WriteText(cmd.OutOrStdout())
}
