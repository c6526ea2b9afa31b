package edge

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"forebay/modbus"
)

// Limits of a request by hand.
const (
	askBody = 4 << 10
	askTime = 45 * time.Second // its turn on the link included
)

// Question is the body of POST /v1/modbus/{link}/ask: a request to a unit, which
// need not be configured, as forebay modbus --link makes it.
type Question struct {
	Unit byte   `json:"unit"`
	PDU  string `json:"pdu"` // function code and data, hexadecimal
}

// Asked is the answer to it. Kind tells what a failure means.
type Asked struct {
	PDU   string `json:"pdu,omitempty"` // hexadecimal; an exception is an answer too
	Error string `json:"error,omitempty"`
	Kind  string `json:"kind,omitempty"` // timeout, down, refused or other
}

// The kinds of failure of a request by hand.
const (
	AskedTimeout = "timeout" // the unit did not answer
	AskedDown    = "down"    // the link has no connection
	AskedRefused = "refused" // nothing was sent
	AskedOther   = "other"
)

// ask takes a request by hand to the owner of a link. One that writes leaves a
// line in the log.
func (a *api) ask(w http.ResponseWriter, req *http.Request) {
	var q Question
	if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, askBody)).Decode(&q); err != nil {
		answer(w, http.StatusBadRequest, Failure{Error: "the body is no question: " + err.Error()})
		return
	}
	pdu, err := hex.DecodeString(q.PDU)
	if err == nil {
		err = modbus.CheckRequest(pdu)
	}
	if err != nil {
		answer(w, http.StatusBadRequest, Failure{Error: "the pdu is no request that can be passed on: " + err.Error()})
		return
	}
	link := req.PathValue("link")
	ctx, cancel := context.WithTimeout(req.Context(), askTime)
	defer cancel()
	got, err := a.gateway.fieldbus.Ask(ctx, link, q.Unit, pdu)
	if modbus.Writes(pdu) {
		a.log.Info("modbus: written by hand through the control socket", "link", link, "unit", q.Unit,
			"request", q.PDU, "answer", hex.EncodeToString(got), "err", err)
	}
	if err != nil {
		answer(w, http.StatusOK, Asked{Error: err.Error(), Kind: askedKind(err)})
		return
	}
	answer(w, http.StatusOK, Asked{PDU: hex.EncodeToString(got)})
}

func askedKind(err error) string {
	_, refused := errors.AsType[*modbus.RefusedError](err)
	switch {
	case refused:
		return AskedRefused
	case errors.Is(err, modbus.ErrDown):
		return AskedDown
	case errors.Is(err, modbus.ErrTimeout):
		return AskedTimeout
	}
	return AskedOther
}

// Ask is modbus.Poller.Ask of the link of that name.
func (f *fieldbus) Ask(ctx context.Context, link string, unit byte, request []byte) ([]byte, error) {
	for _, l := range f.all() {
		if l.cfg.Name == link {
			return l.poller.Ask(ctx, link, unit, request)
		}
	}
	return nil, &modbus.RefusedError{Reason: "there is no link " + link}
}
