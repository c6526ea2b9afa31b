package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Limits of the API: it runs on small machines, and /metrics may be open to a
// network.
const (
	apiConnections = 64 // at one time, of each listener
	apiHeader      = 16 << 10
	apiHeaderTime  = 5 * time.Second
	apiIdleTime    = time.Minute
	apiAnswerTime  = 5 * time.Second // waiting for the broker's loop
	apiGoodbye     = time.Second     // for answers under way at the end
)

// socketMode lets those in who share the group of the process.
const socketMode = 0o660

// api is the gateway's HTTP servers: the control socket, and the listener for
// those who only look.
type api struct {
	gateway *Gateway
	log     *slog.Logger
	doors   []door
}

// door is one listener and what it leads to.
type door struct {
	listener net.Listener
	handler  http.Handler
}

// newAPI opens what the configuration names. What cannot be opened is logged
// and left out: devices are to be served also when nobody can ask how it goes.
func newAPI(g *Gateway) *api {
	a := &api{gateway: g, log: g.log}
	if cfg := g.cfg.API; cfg.Socket == "" {
		a.log.Info("no control socket: neither api.socket nor a folder by systemd says where; forebay status and forebay reload do not work")
	} else if l, err := listenControl(cfg.Socket); err != nil {
		a.log.Error("control socket cannot be opened; the rest goes on", "socket", cfg.Socket, "err", err)
	} else {
		a.doors = append(a.doors, door{l, a.control()})
	}
	if address := g.cfg.API.Listen; address != "" {
		if l, err := net.Listen("tcp", address); err != nil {
			a.log.Error("api.listen cannot be opened; the rest goes on", "address", address, "err", err)
		} else {
			a.log.Info("metrics are served", "address", l.Addr().String())
			a.doors = append(a.doors, door{l, a.look(http.NewServeMux())})
		}
	}
	return a
}

// listenControl binds the control socket. One that a process left behind which
// is gone is replaced.
func listenControl(path string) (net.Listener, error) {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, errors.New("the file is there already and is no socket")
	default:
		if conn, err := net.Dial("unix", path); err == nil {
			return nil, errors.Join(errors.New("another process listens on it"), conn.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// run serves until ctx ends. Answers under way have a moment to be finished.
func (a *api) run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, d := range a.doors {
		server := &http.Server{
			Handler: d.handler, ReadHeaderTimeout: apiHeaderTime, IdleTimeout: apiIdleTime,
			MaxHeaderBytes: apiHeader, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		}
		wg.Go(func() {
			if err := server.Serve(limitConnections(d.listener)); !errors.Is(err, http.ErrServerClosed) {
				a.log.Error("the API has ended on one address; the rest goes on", "address", d.listener.Addr().String(), "err", err)
			}
		})
		wg.Go(func() {
			<-ctx.Done()
			goodbye, cancel := context.WithTimeout(context.Background(), apiGoodbye)
			defer cancel()
			if server.Shutdown(goodbye) != nil {
				_ = server.Close() // those that are late get no answer
			}
		})
	}
	<-ctx.Done()
	wg.Wait()
	return nil
}

// close gives the listeners back when run is not going to be called.
func (a *api) close() {
	for _, d := range a.doors {
		_ = d.listener.Close() // nothing was sent through it
	}
}

// limited lets only so many connections exist; the others wait in the kernel.
type limited struct {
	net.Listener
	room chan struct{}
}

func limitConnections(l net.Listener) net.Listener {
	return &limited{l, make(chan struct{}, apiConnections)}
}

// Accept waits for room before it takes a connection. At the end the listener
// is closed before the connections are, so that it may wait for them.
func (l *limited) Accept() (net.Conn, error) {
	l.room <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.room
		return nil, err
	}
	return &limitedConn{Conn: c, leave: sync.OnceFunc(func() { <-l.room })}, nil
}

type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// control is what the control socket offers. Who may open it may do everything.
func (a *api) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", a.report(func(r *Report) any { return r }))
	mux.HandleFunc("GET /v1/bridges", a.report(func(r *Report) any { return r.Bridges }))
	mux.HandleFunc("GET /v1/bridges/{name}/outages", history(a.gateway.Outages))
	mux.HandleFunc("GET /v1/bridges/{name}/dead-letters", history(a.gateway.DeadLetters))
	mux.HandleFunc("GET /v1/modbus", a.report(func(r *Report) any { return r.Modbus }))
	mux.HandleFunc("GET /v1/storage", a.report(func(r *Report) any { return r.Storage }))
	mux.HandleFunc("GET /v1/storage/info", a.storeInfo)
	mux.HandleFunc("GET /v1/storage/messages", a.storeMessages)
	mux.HandleFunc("POST /v1/reload", a.reload)
	mux.HandleFunc("POST /v1/modbus/{link}/ask", a.ask)
	mux.HandleFunc("DELETE /v1/bridges/{name}/queue", a.forget)
	return a.look(mux)
}

// look adds what changes nothing and tells no names of clients.
func (a *api) look(mux *http.ServeMux) http.Handler {
	mux.HandleFunc("GET /metrics", a.metrics)
	mux.HandleFunc("GET /healthz", a.healthz)
	mux.HandleFunc("GET /readyz", a.readyz)
	return mux
}

// Failure is the body of every answer of the API that is not a success.
type Failure struct {
	Error    string   `json:"error"`
	Problems []string `json:"problems,omitempty"` // of a configuration, as forebay check prints them
}

func answer(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: edge: an answer has no JSON form: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n')) // who has gone needs no answer
}

func (a *api) report(part func(*Report) any) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		ctx, cancel := context.WithTimeout(req.Context(), apiAnswerTime)
		defer cancel()
		r, err := a.gateway.Report(ctx)
		if err != nil {
			answer(w, http.StatusServiceUnavailable, Failure{Error: err.Error()})
			return
		}
		answer(w, http.StatusOK, part(&r))
	}
}

func (a *api) reload(w http.ResponseWriter, req *http.Request) {
	changes, err := a.gateway.Reload(req.Context())
	if wrong, ok := errors.AsType[*ConfigError](err); ok {
		answer(w, http.StatusUnprocessableEntity, Failure{Error: "the configuration was not taken; the one before goes on", Problems: wrong.Lines()})
		return
	}
	if err != nil {
		answer(w, http.StatusInternalServerError, Failure{Error: err.Error()})
		return
	}
	answer(w, http.StatusOK, Reloaded{changes})
}

func (a *api) forget(w http.ResponseWriter, req *http.Request) {
	n, err := a.gateway.ForgetBridge(req.Context(), req.PathValue("name"))
	switch {
	case errors.Is(err, errNoQueue):
		answer(w, http.StatusNotFound, Failure{Error: err.Error()})
	case errors.Is(err, errConfigured):
		answer(w, http.StatusConflict, Failure{Error: err.Error()})
	case err != nil:
		answer(w, http.StatusInternalServerError, Failure{Error: err.Error()})
	default:
		answer(w, http.StatusOK, Forgotten{n})
	}
}

// Reloaded is the answer to POST /v1/reload.
type Reloaded struct {
	Changes []string `json:"changes"` // in words; empty: nothing differs
}

// Forgotten is the answer to DELETE /v1/bridges/{name}/queue.
type Forgotten struct {
	Messages int64 `json:"messages"` // that were given up
}

// healthz says whether the process is to be left alone: the broker's loop goes
// round.
func (a *api) healthz(w http.ResponseWriter, req *http.Request) {
	ctx, cancel := context.WithTimeout(req.Context(), apiAnswerTime)
	defer cancel()
	if err := a.gateway.Alive(ctx); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ok") // who has gone needs no answer
}

// Readiness is the body of /readyz.
type Readiness struct {
	Ready   bool              `json:"ready"`
	Why     string            `json:"why,omitempty"`     // not
	Bridges map[string]string `json:"bridges,omitempty"` // the state of each: no condition, for messages wait
}

// readyz says whether devices are served and what they send is kept: the loop
// goes round, the store has not failed, and the gateway neither starts nor
// stops.
func (a *api) readyz(w http.ResponseWriter, req *http.Request) {
	ctx, cancel := context.WithTimeout(req.Context(), apiAnswerTime)
	defer cancel()
	r := a.gateway.readiness(ctx)
	code := http.StatusOK
	if !r.Ready {
		code = http.StatusServiceUnavailable
	}
	answer(w, code, r)
}

func (g *Gateway) readiness(ctx context.Context) Readiness {
	err := g.Alive(ctx)
	if err == nil {
		err = g.store.Stats().Err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	r := Readiness{Ready: err == nil && g.ready}
	switch {
	case err != nil:
		r.Why = err.Error()
	case !g.ready:
		r.Why = "the gateway starts or stops"
	}
	for _, u := range g.uplinks {
		if r.Bridges == nil {
			r.Bridges = map[string]string{}
		}
		r.Bridges[u.cfg.Name] = string(u.bridge.Status().State)
	}
	return r
}
