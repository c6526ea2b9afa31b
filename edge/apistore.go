package edge

import (
	"bufio"
	"net/http"
)

// ErrorTrailer is the trailer of an answer in many lines: why it ends before
// its end; empty when it does not.
const ErrorTrailer = "Forebay-Error"

// storeInfo answers with a StoreReport: what forebay store info prints.
func (a *api) storeInfo(w http.ResponseWriter, _ *http.Request) {
	r, err := a.gateway.StoreReport()
	if err != nil {
		answer(w, http.StatusInternalServerError, Failure{Error: err.Error()})
		return
	}
	answer(w, http.StatusOK, r)
}

// storeMessages answers with what waits, for the consumer that the query names
// or for all, as ExportStore writes it. Who reads slowly holds nobody up.
func (a *api) storeMessages(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Trailer", ErrorTrailer)
	out := bufio.NewWriterSize(w, 64<<10)
	err := a.gateway.StoreExport(out, req.URL.Query().Get("consumer"))
	if flushed := out.Flush(); err == nil {
		err = flushed
	}
	if err != nil {
		w.Header().Set(ErrorTrailer, err.Error())
	}
}
