package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"forebay/edge"
)

const controlled = `
site: pump
api: {socket: control.sock}
storage: {path: %DIR%/store}
broker: {listeners: [{address: "127.0.0.1:%PORT%", anonymous: true}]}
`

// ask runs a command against the control socket of the gateway and returns its
// exit code and what it printed.
func (g *gateway) ask(args ...string) (int, string) {
	g.t.Helper()
	return run(g.t, forebay(g.t), append(args, "--socket", filepath.Join(g.dir, "control.sock"))...)
}

// mustAsk is ask of what has to succeed.
func (g *gateway) mustAsk(args ...string) string {
	g.t.Helper()
	code, out := g.ask(args...)
	if code != 0 {
		g.t.Fatalf("forebay %s: exit %d:\n%s\nthe gateway printed:\n%s", strings.Join(args, " "), code, out, g.tail())
	}
	return out
}

// rewrite replaces the configuration by text, as startGateway does.
func (g *gateway) rewrite(text string) {
	g.t.Helper()
	write(g.t, g.dir, "forebay.yaml", strings.NewReplacer("%PORT%", fmt.Sprint(g.port), "%DIR%", g.dir).Replace(text))
}

func (g *gateway) status() edge.Report {
	g.t.Helper()
	var r edge.Report
	if out := g.mustAsk("status", "--json"); json.Unmarshal([]byte(out), &r) != nil {
		g.t.Fatalf("status --json says %s", out)
	}
	return r
}

// awaitStatus asks until the answer is as ok wants it.
func (g *gateway) awaitStatus(what string, ok func(*edge.Report) bool) {
	g.t.Helper()
	end := time.Now().Add(patience)
	for r := g.status(); !ok(&r); r = g.status() {
		if time.Now().After(end) {
			g.t.Fatalf("waited in vain for %s: %+v", what, r)
		}
	}
}

func bridgeTo(name string, port int) string {
	return fmt.Sprintf(`
bridges:
  - name: %s
    addresses: ["mqtt://127.0.0.1:%d"]
    reconnect: {min: 100ms, max: 100ms}
    up: [{filter: "plant/#"}]
`, name, port)
}

// A client stays connected over a reload that adds a bridge, a Modbus link and
// another level of the log, and each of them works.
func TestReloadAddsWhatIsNew(t *testing.T) {
	g := startGateway(t, controlled)
	c := startCloud(t)
	upstream := watch(t, c.port, "-t", "plant/#", "-q", "1")
	client := watch(t, g.port, "-t", "#", "-q", "1", "-i", "stays")
	slave := startSlave(t, []tagCase{{Unit: 1, Table: "holding", Address: 3, Format: "H", Value: 271}}, "tcp")
	g.rewrite("log: {level: debug}" + controlled + bridgeTo("cloud", c.port) + fmt.Sprintf(`
modbus:
  links:
    - name: line1
      tcp: "127.0.0.1:%d"
      units:
        - {name: press4, unit: 1, interval: 50ms, tags: [{name: count, register: holding, address: 3, writable: true}]}
`, slave.port))
	out := g.mustAsk("reload")
	for _, want := range []string{"bridge cloud added", "modbus link line1 added", "log level debug"} {
		if !strings.Contains(out, want) {
			t.Errorf("reload says %q, not %q", out, want)
		}
	}
	client.wait("modbus/line1/press4/count", `"value":271`)
	publish(t, g.port, "-q", "1", "-t", "plant/a", "-m", "after")
	client.wait("plant/a after")
	upstream.wait("plant/a after")
	publish(t, g.port, "-q", "1", "-t", "modbus/line1/press4/count/set", "-m", "7")
	client.wait("modbus/line1/press4/count/set/result", `"result":"written"`)
	if g.has(0, []string{"client disconnected", "clientID=stays"}) {
		t.Errorf("the client was disconnected:\n%s", g.tail())
	}
	g.awaitStatus("the bridge and the unit", func(r *edge.Report) bool {
		return len(r.Bridges) == 1 && r.Bridges[0].State == "up" && r.Bridges[0].Forwarded > 0 &&
			len(r.Modbus.Links) == 1 && r.Modbus.Links[0].Up && r.Modbus.Links[0].Units[0].State == "online" && r.Modbus.Links[0].Writes == 1
	})
	if out := g.mustAsk("status"); !strings.Contains(out, "cloud") || !strings.Contains(out, "press4") || !strings.Contains(out, "online") {
		t.Errorf("status says:\n%s", out)
	}
	if out := g.mustAsk("reload"); out != "nothing differs\n" {
		t.Errorf("a second reload says %q", out)
	}
	g.rewrite("log: {level: debug}" + controlled)
	g.mustAsk("reload")
	// What was retained about the unit goes with it.
	client.wait("'modbus/line1/press4/state'", "(0 bytes)")
}

// publish runs mosquitto_pub.
func publish(t *testing.T, port int, args ...string) {
	t.Helper()
	if code, out := run(t, program(t, "mosquitto_pub"), append([]string{"-p", fmt.Sprint(port)}, args...)...); code != 0 {
		t.Fatalf("mosquitto_pub: exit %d: %s", code, out)
	}
}

// The queue of a bridge is kept over a change of its addresses, and over its
// removal, until somebody has it forgotten.
func TestReloadKeepsQueues(t *testing.T) {
	g := startGateway(t, controlled+bridgeTo("cloud", freePort(t)))
	for _, text := range []string{"one", "two", "three"} {
		publish(t, g.port, "-q", "1", "-t", "plant/a", "-m", text)
	}
	g.rewrite(controlled)
	if out := g.mustAsk("reload"); !strings.Contains(out, "bridge cloud removed") {
		t.Errorf("reload says %q", out)
	}
	publish(t, g.port, "-q", "1", "-t", "plant/a", "-m", "not for it")
	if out := g.mustAsk("status"); !strings.Contains(out, "forebay bridge forget cloud") {
		t.Errorf("status does not tell of the queue that is left:\n%s", out)
	}
	c := startCloud(t)
	upstream := watch(t, c.port, "-t", "plant/#", "-q", "1")
	g.rewrite(controlled + bridgeTo("cloud", c.port))
	g.mustAsk("reload")
	upstream.wait("plant/a three")
	c.stop()
	publish(t, g.port, "-q", "1", "-t", "plant/a", "-m", "four")
	if code, out := g.ask("bridge", "forget", "cloud", "--yes"); code != 1 || !strings.Contains(out, "in the configuration") {
		t.Errorf("forgetting a bridge in use: exit %d: %s", code, out)
	}
	// Elsewhere: what waited goes there.
	second := startCloud(t)
	elsewhere := watch(t, second.port, "-t", "plant/#", "-q", "1")
	g.rewrite(controlled + bridgeTo("cloud", second.port))
	if out := g.mustAsk("reload"); !strings.Contains(out, "bridge cloud changed") {
		t.Errorf("reload says %q", out)
	}
	elsewhere.wait("plant/a four")
	if got := upstream.output() + elsewhere.output(); strings.Count(got, "plant/a one") != 1 || strings.Contains(got, "not for it") {
		t.Errorf("upstream got:\n%s", got)
	}
}

// A bridge that is removed and comes back resumes its session upstream: what
// the upstream kept for it meanwhile comes down.
func TestReloadKeepsTheSessionUpstream(t *testing.T) {
	c := startCloud(t)
	down := func(filter string) string {
		return controlled + bridgeTo("cloud", c.port) + fmt.Sprintf("    down: [{filter: %q}]\n", filter)
	}
	g := startGateway(t, down("cmd/#"))
	here := watch(t, g.port, "-t", "cmd/#", "-q", "1")
	g.awaitStatus("the link", func(r *edge.Report) bool { return r.Bridges[0].State == "up" })
	c.wait("SUBACK")
	g.rewrite(controlled)
	g.mustAsk("reload")
	publish(t, c.port, "-q", "1", "-t", "cmd/go", "-m", "meanwhile")
	g.rewrite(down("cmd/+"))
	g.mustAsk("reload")
	here.wait("cmd/go meanwhile")
}

func TestForgottenBridgeBeginsAfresh(t *testing.T) {
	g := startGateway(t, controlled+bridgeTo("cloud", freePort(t)))
	publish(t, g.port, "-q", "1", "-t", "plant/a", "-m", "old")
	g.rewrite(controlled)
	g.mustAsk("reload")
	if code, out := g.ask("bridge", "forget", "cloud"); code != 2 || !strings.Contains(out, "--yes") {
		t.Errorf("without a terminal: exit %d: %s", code, out)
	}
	if out := g.mustAsk("bridge", "forget", "cloud", "--yes"); !strings.Contains(out, "1 message given up") {
		t.Errorf("forget says %q", out)
	}
	if code, _ := g.ask("bridge", "forget", "cloud", "--yes"); code != 1 {
		t.Errorf("forgetting it again: exit %d, want 1", code)
	}
	c := startCloud(t)
	upstream := watch(t, c.port, "-t", "plant/#", "-q", "1")
	g.rewrite(controlled + bridgeTo("cloud", c.port))
	g.mustAsk("reload")
	publish(t, g.port, "-q", "1", "-t", "plant/a", "-m", "new")
	upstream.wait("plant/a new")
	if upstream.has(0, []string{"plant/a old"}) {
		t.Error("what was forgotten has come")
	}
}

// A file that is wrong, or asks for what needs a restart, changes nothing and
// is told with every problem, to who asked and, after SIGHUP, in the log.
func TestReloadRefusesWrongFile(t *testing.T) {
	c := startCloud(t)
	g := startGateway(t, controlled+bridgeTo("cloud", c.port))
	upstream := watch(t, c.port, "-t", "plant/#", "-q", "1")
	g.rewrite(controlled + bridgeTo("cloud", c.port) + "sites: x\nmodbus: {links: [{name: a}]}\n")
	code, out := g.ask("reload")
	if code != 1 || !strings.Contains(out, "sites: unknown key") || !strings.Contains(out, "modbus.links[0]") || !strings.Contains(out, "the one before goes on") {
		t.Errorf("a wrong file: exit %d:\n%s", code, out)
	}
	g.rewrite(strings.Replace(controlled, "/store", "/elsewhere", 1) + bridgeTo("other", c.port))
	code, out = g.ask("reload")
	if code != 1 || !strings.Contains(out, "storage.path") || !strings.Contains(out, "needs a restart") {
		t.Errorf("another store: exit %d:\n%s", code, out)
	}
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	g.wait("ERROR", "storage.path", "needs a restart")
	g.wait("ERROR", "not taken")
	publish(t, g.port, "-q", "1", "-t", "plant/a", "-m", "still there")
	upstream.wait("plant/a still there")
	if r := g.status(); len(r.Bridges) != 1 || r.Bridges[0].Name != "cloud" {
		t.Errorf("bridges: %+v", r.Bridges)
	}
	g.rewrite("log: {level: debug}" + controlled + bridgeTo("cloud", c.port))
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	g.wait("configuration reloaded", "changes=1")
}

// The socket is for the group only, goes with the gateway, and without one the
// commands say what to look at.
func TestControlSocket(t *testing.T) {
	g := startGateway(t, controlled)
	socket := filepath.Join(g.dir, "control.sock")
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v, want mode 0660", info, err)
	}
	g.kill() // what it leaves behind is replaced
	g.restart()
	g.mustAsk("status")
	if code := g.stop(); code != 0 {
		t.Errorf("exit %d:\n%s", code, g.tail())
	}
	for _, command := range []string{"status", "reload"} {
		if code, out := g.ask(command); code != 1 || !strings.Contains(out, "no gateway answers on "+socket) {
			t.Errorf("%s without a gateway: exit %d: %s", command, code, out)
		}
	}
	if entries, err := filepath.Glob(socket); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

// What waits can be looked at while the gateway runs; what would change the
// store is refused.
// Who has the configuration need not know where the socket is.
func TestControlSocketOfAConfiguration(t *testing.T) {
	g := startGateway(t, controlled)
	if code, out := run(t, forebay(t), "status", "-c", filepath.Join(g.dir, "forebay.yaml")); code != 0 || !strings.Contains(out, "at pump: ready") {
		t.Errorf("exit %d: %s", code, out)
	}
	without := write(t, g.dir, "without.yaml", "site: pump\n")
	if code, out := run(t, forebay(t), "status", "-c", without); code != 1 || !strings.Contains(out, "names no api.socket") {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestStoreToolsOnARunningGateway(t *testing.T) {
	g := startGateway(t, controlled+bridgeTo("cloud", freePort(t)))
	publish(t, g.port, "-q", "1", "-t", "plant/a", "-m", "one")
	publish(t, g.port, "-q", "2", "-t", "plant/b", "-m", "two")
	code, out := run(t, forebay(t), "store", "info", "-c", g.conf, "--json")
	var r edge.StoreReport
	if err := json.Unmarshal([]byte(out), &r); code != 0 || err != nil || len(r.Consumers) != 1 || r.Consumers[0].Name != "bridge cloud" || r.Consumers[0].Messages != 2 {
		t.Errorf("info: exit %d: %s", code, out)
	}
	code, out = run(t, forebay(t), "store", "export", "-c", g.conf, "--consumer", "cloud")
	if code != 0 || strings.Count(out, "\n") != 2 || !strings.Contains(out, `"topic":"plant/b"`) || !strings.Contains(out, `"payload":"two"`) {
		t.Errorf("export: exit %d: %s", code, out)
	}
	if code, out = run(t, forebay(t), "store", "export", "-c", g.conf, "--consumer", "nobody"); code != 1 || !strings.Contains(out, `no consumer "nobody"`) {
		t.Errorf("export for nobody: exit %d: %s", code, out)
	}
	for _, tool := range []string{"check", "repair"} {
		if code, out := run(t, forebay(t), "store", tool, "-c", g.conf); code != 1 || !strings.Contains(out, "stop that gateway first") {
			t.Errorf("%s: exit %d: %s", tool, code, out)
		}
	}
}
