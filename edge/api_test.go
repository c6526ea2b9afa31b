package edge

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forebay/bridge"
	"forebay/modbus"
)

// get asks a gateway and returns the status and the body of the answer.
func get(t *testing.T, client *http.Client, method, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(b)
}

// throughSocket asks through the control socket of a gateway.
func throughSocket(t *testing.T, path string) *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// lookAt returns the address of the listener for those who only look.
func (r *running) lookAt() string {
	return "http://" + r.api.doors[len(r.api.doors)-1].listener.Addr().String()
}

// Who comes over the network can see that the gateway lives, and nothing that
// names a client or changes anything.
func TestListenerForLookersShowsLittle(t *testing.T) {
	g := runGateway(t, filepath.Join(t.TempDir(), "store"), Config{
		API:     APIConfig{Listen: "127.0.0.1:0"},
		Bridges: []bridge.Config{cloudBridge("dead", closedPort(t))},
	})
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	if code, body := get(t, client, "GET", g.lookAt()+"/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("/healthz: %d %s", code, body)
	}
	var r Readiness
	eventually(t, func() bool {
		code, body := get(t, client, "GET", g.lookAt()+"/readyz")
		if err := json.Unmarshal([]byte(body), &r); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		return code == 200 && r.Ready
	})
	if state := r.Bridges["dead"]; state == "" || state == string(bridge.Up) {
		t.Errorf("the bridge is %q", state)
	}
	for _, what := range []string{"GET /v1/status", "GET /v1/storage", "POST /v1/reload", "DELETE /v1/bridges/x/queue"} {
		method, path, _ := strings.Cut(what, " ")
		if code, body := get(t, client, method, g.lookAt()+path); code != 404 {
			t.Errorf("%s: %d %s", what, code, body)
		}
	}
}

func TestNotReadyWhileItStops(t *testing.T) {
	g := runGateway(t, filepath.Join(t.TempDir(), "store"), Config{API: APIConfig{Listen: "127.0.0.1:0"}})
	if !g.readyNow(t) {
		t.Error("not ready")
	}
	g.setReady(false)
	if g.readyNow(t) {
		t.Error("ready while it stops")
	}
}

func (r *running) readyNow(t *testing.T) bool {
	t.Helper()
	var now Readiness
	eventually(t, func() bool {
		now = r.readiness(t.Context())
		return now.Ready || now.Why != ""
	})
	return now.Ready
}

// What the control socket tells holds the numbers of the bridge and of the
// units, and nothing of a secret.
func TestControlSocketTellsAllButSecrets(t *testing.T) {
	dir := t.TempDir()
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cloud := cloudBridge("cloud", closedPort(t))
	cloud.Username, cloud.PasswordFile = "gw7", password
	plc, address := startPLC(t)
	plc.SetRegister(modbus.InputRegister, 3, 271)
	socket := filepath.Join(dir, "c.sock")
	g := runGateway(t, filepath.Join(dir, "store"), Config{
		Site: "mill", API: APIConfig{Socket: socket}, Bridges: []bridge.Config{cloud},
		Modbus: modbus.Config{Links: []modbus.LinkConfig{plcLink("line1", address)}},
	})
	at := subscribe(t, g.address, "plant/#")
	at.wait("plant/line1/level", contains("271"))
	client := throughSocket(t, socket)
	var r Report
	eventually(t, func() bool {
		code, body := get(t, client, "GET", "http://forebay/v1/status")
		if err := json.Unmarshal([]byte(body), &r); err != nil || code != 200 {
			t.Fatalf("%d %v: %s", code, err, body)
		}
		if strings.Contains(body, "hunter2") || strings.Contains(body, "gw7") {
			t.Fatalf("a secret: %s", body)
		}
		return len(r.Bridges) == 1 && r.Bridges[0].Backlog.Count > 0 && r.Modbus.Samples > 0
	})
	if len(r.Modbus.Links) != 1 || !r.Modbus.Links[0].Up || r.Modbus.Links[0].Requests == 0 || r.Modbus.Links[0].Units[0].State != "online" {
		t.Errorf("links: %+v", r.Modbus.Links)
	}
	i := slices.IndexFunc(r.Storage.Consumers, func(c ConsumerReport) bool { return c.Name == "bridge/cloud" })
	if i < 0 || r.Storage.Consumers[i].Count == 0 || r.Storage.Consumers[i].Oldest == nil || r.Storage.Consumers[i].Orphan {
		t.Errorf("consumers: %+v", r.Storage.Consumers)
	}
	if r.Site != "mill" || r.Broker.Clients != 1 || r.Broker.Listeners[0] != g.address {
		t.Errorf("%+v", r)
	}
}

// What cannot be changed is named key by key, with its line; all else may.
func TestNeedsRestart(t *testing.T) {
	load := func(text string) *Config {
		c, err := loadText(t, "a.yaml", text)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const text = `site: a
storage: {path: s, max_size: 1GiB}
broker:
  listeners: [{address: "127.0.0.1:1883", anonymous: true}]
  limits: {connections: 10}
`
	was := load(text)
	next := load(text + "log: {level: debug}\nbridges: [{name: a, addresses: [\"mqtt://h\"], up: [{filter: \"#\"}]}]\n")
	next.Storage.Path = was.Storage.Path // each is in a folder of its own
	if err := was.needsRestart(next); err != nil {
		t.Error(err)
	}
	next = load(strings.NewReplacer("site: a", "site: b", "1GiB", "2GiB", "connections: 10", "connections: 11").Replace(text))
	next.Storage.Path = was.Storage.Path
	wrong, ok := errors.AsType[*ConfigError](was.needsRestart(next))
	if !ok || len(wrong.Problems) != 3 {
		t.Fatalf("%+v", wrong)
	}
	for i, want := range []Problem{{Path: "site", Line: 1}, {Path: "storage.max_size", Line: 2}, {Path: "broker.limits.connections", Line: 5}} {
		if p := wrong.Problems[i]; p.Path != want.Path || p.Line != want.Line || !strings.Contains(p.Text, "needs a restart") {
			t.Errorf("%+v, want %+v", p, want)
		}
	}
}

// Another process's socket and what is no socket are left alone, and the
// gateway serves its devices without.
func TestControlSocketIsNobodyElses(t *testing.T) {
	dir := t.TempDir()
	file, taken := filepath.Join(dir, "file"), filepath.Join(dir, "taken")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", taken)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for path, why := range map[string]string{file: "no socket", taken: "another process"} {
		if l, err := listenControl(path); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, %v", path, l, err)
		}
	}
	g := runGateway(t, filepath.Join(dir, "store"), Config{API: APIConfig{Socket: file}})
	subscribe(t, g.address, "#")
	if log := g.log.String(); !strings.Contains(log, "control socket cannot be opened") {
		t.Error(log)
	}
}

// More connections than there is room for wait, and are served in turn.
func TestConnectionsOfTheAPIAreLimited(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	few := &limited{l, make(chan struct{}, 1)}
	accepted := make(chan net.Conn, 2)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := few.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	for range 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first := <-accepted
	if len(accepted) > 0 || len(few.room) != 1 {
		t.Error("two at one time")
	}
	first.Close()
	(<-accepted).Close()
	l.Close()
	<-ended
}

// Without a folder by systemd there is no control socket, and with one it is
// in the first.
func TestControlSocketDefault(t *testing.T) {
	for dir, want := range map[string]string{"": "", "/run/forebay": ControlSocket, "/run/a:/run/b": "/run/a/control.sock"} {
		t.Setenv("RUNTIME_DIRECTORY", dir)
		var c APIConfig
		if c.SetDefaults(); c.Socket != want {
			t.Errorf("%q: %q, want %q", dir, c.Socket, want)
		}
	}
	var problems []string
	c := APIConfig{Socket: "/" + strings.Repeat("x", 107), Listen: "9180"}
	c.Validate(func(path, _ string) { problems = append(problems, path) })
	if !slices.Equal(problems, []string{"socket", "listen"}) {
		t.Errorf("problems at %q", problems)
	}
}
