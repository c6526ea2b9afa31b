package edge

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// StoreReport tells what the gateway's store holds now. It may be called while
// the gateway runs.
func (g *Gateway) StoreReport() (StoreReport, error) {
	v, err := g.store.View()
	if err != nil {
		return StoreReport{}, fmt.Errorf("edge: look into the store: %w", err)
	}
	return ReportStore(v, g.cfg, time.Now()), nil
}

// storeReport answers with a StoreReport.
func (a *api) storeReport(w http.ResponseWriter, _ *http.Request) {
	r, err := a.gateway.StoreReport()
	if err != nil {
		answer(w, http.StatusServiceUnavailable, Failure{Error: err.Error()})
		return
	}
	answer(w, http.StatusOK, r)
}

// storeMessages answers with lines of ExportStore, which may take long. If it
// breaks off the last line is a Failure.
func (a *api) storeMessages(w http.ResponseWriter, req *http.Request) {
	v, err := a.gateway.store.View()
	if err != nil {
		answer(w, http.StatusServiceUnavailable, Failure{Error: err.Error()})
		return
	}
	consumer := req.FormValue("consumer")
	if consumer != "" {
		if consumer, err = FindConsumer(v, consumer); err != nil {
			answer(w, http.StatusNotFound, Failure{Error: err.Error()})
			return
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	if err := ExportStore(w, v, consumer); err != nil {
		_ = json.NewEncoder(w).Encode(Failure{Error: err.Error()}) // who has gone needs no answer
	}
}
