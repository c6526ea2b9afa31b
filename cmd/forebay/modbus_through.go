package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"forebay/edge"
	"forebay/modbus"
)

// errGateway means that the gateway could not be asked.
var errGateway = errors.New("the gateway")

// open makes a client of the device: over a connection of its own, or through the
// gateway that runs.
func (d *device) open(link modbus.LinkConfig) (*modbus.Client, error) {
	if d.through == "" {
		return modbus.NewClient(link)
	}
	return modbus.NewCarriedClient(link, d.carry)
}

// carry takes a request to the running gateway.
func (d *device) carry(ctx context.Context, unit byte, pdu []byte) ([]byte, error) {
	body, err := json.Marshal(edge.Question{Unit: unit, PDU: hex.EncodeToString(pdu)})
	if err != nil {
		panic("BUG: a question has no JSON form: " + err.Error())
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://forebay/v1/modbus/"+url.PathEscape(d.through)+"/ask", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errGateway, err)
	}
	response, err := d.gateway.client(controlTime).Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errGateway, d.gateway.explain(err))
	}
	defer response.Body.Close() // it is read to its end
	b, err := io.ReadAll(io.LimitReader(response.Body, maxControlAnswer))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errGateway, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: %w", errGateway, refusal(response.Status, b))
	}
	var asked edge.Asked
	if err := json.Unmarshal(b, &asked); err != nil {
		return nil, fmt.Errorf("%w answers what this version does not understand: %w", errGateway, err)
	}
	if asked.Error == "" {
		return hex.DecodeString(asked.PDU)
	}
	return nil, failureOf(asked)
}

// failureOf makes the error again that the gateway had.
func failureOf(asked edge.Asked) error {
	text := strings.TrimPrefix(asked.Error, "modbus: ")
	switch asked.Kind {
	case edge.AskedDown:
		return fmt.Errorf("%w: %s", modbus.ErrDown, strings.TrimPrefix(text, modbus.ErrDown.Error()+": "))
	case edge.AskedTimeout:
		return fmt.Errorf("%w: %s", modbus.ErrTimeout, text)
	}
	return fmt.Errorf("%w refuses: %s", errGateway, text)
}
