package edge

import (
	"net/http"

	"forebay/bridge"
)

// Outage is one time without a link to an upstream.
type Outage = bridge.Outage

// DeadLetter is a message that an upstream can never take.
type DeadLetter = bridge.DeadLetter

// bridgeNamed returns the bridge of that name; false if none is in use.
func (g *Gateway) bridgeNamed(name string) (*bridge.Bridge, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, u := range g.uplinks {
		if u.cfg.Name == name {
			return u.bridge, true
		}
	}
	return nil, false
}

// Outages returns the outages of a bridge in the last year, oldest first; false
// if there is no such bridge.
func (g *Gateway) Outages(name string) ([]Outage, bool) {
	b, ok := g.bridgeNamed(name)
	if !ok {
		return nil, false
	}
	return b.Outages(), true
}

// DeadLetters returns the latest messages that the upstream of a bridge can
// never take, oldest first; false if there is no such bridge.
func (g *Gateway) DeadLetters(name string) ([]DeadLetter, bool) {
	b, ok := g.bridgeNamed(name)
	if !ok {
		return nil, false
	}
	return b.DeadLetters(), true
}

// history answers with what a gateway knows of the past of a bridge.
func history[T any](of func(name string) ([]T, bool)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		list, ok := of(req.PathValue("name"))
		if !ok {
			answer(w, http.StatusNotFound, Failure{Error: "no bridge of that name is in use"})
			return
		}
		answer(w, http.StatusOK, list)
	}
}
