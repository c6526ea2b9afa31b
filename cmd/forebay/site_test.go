package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// cloud is a real Mosquitto that can be stopped and started again on the same
// port and keeps its sessions and messages meanwhile, as a cloud does.
type cloud struct {
	t    *testing.T
	port int
	conf string
	*process
}

// startCloud starts one; extra lines go into its configuration.
func startCloud(t *testing.T, extra ...string) *cloud {
	t.Helper()
	path := program(t, "mosquitto")
	dir := t.TempDir()
	// Started by root, Mosquitto becomes the user "mosquitto", who must be able to write here.
	openTo(t, dir)
	c := &cloud{t: t, port: freePort(t)}
	lines := []string{
		fmt.Sprintf("listener %d 127.0.0.1", c.port),
		"set_tcp_nodelay true", "max_queued_messages 0", "max_inflight_messages 100",
		"persistence true", "persistence_location " + dir + "/", "log_type all",
	}
	if len(extra) == 0 {
		extra = []string{"allow_anonymous true"}
	}
	c.conf = write(t, dir, "mosquitto.conf", strings.Join(append(lines, extra...), "\n")+"\n")
	c.process = start(t, path, "-c", c.conf).listening(c.port)
	return c
}

// restart begins again after stop or kill.
func (c *cloud) restart() {
	c.t.Helper()
	c.process = start(c.t, program(c.t, "mosquitto"), "-c", c.conf).listening(c.port)
}

// openTo lets every user into dir and the folders of the test above it.
func openTo(t *testing.T, dir string) {
	t.Helper()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
}

// watch starts a mosquitto_sub that prints "topic payload" lines and returns
// when its subscription stands.
func watch(t *testing.T, port int, args ...string) *process {
	t.Helper()
	// To a pipe it prints only when its buffer is full, unless it is told to do so line by line.
	all := append([]string{"-oL", program(t, "mosquitto_sub"), "-p", fmt.Sprint(port), "-d", "-F", "%t %p"}, args...)
	p := start(t, program(t, "stdbuf"), all...)
	p.wait("Subscribed")
	return p
}

// gateway is the real binary with a configuration file of its own.
type gateway struct {
	t    *testing.T
	port int    // of its first listener
	dir  string // configuration and storage
	conf string
	sock string // the control socket, if there is one
	*process
}

var namesSocket = regexp.MustCompile(`api: \{socket: (.*)\}`)

// startGateway writes the configuration and runs it. The text has %PORT% for the port of
// the listener and %DIR% for the folder of the test.
func startGateway(t *testing.T, config string) *gateway {
	t.Helper()
	g := newGateway(t, config)
	g.restart()
	return g
}

func newGateway(t *testing.T, config string) *gateway {
	t.Helper()
	g := &gateway{t: t, port: freePort(t), dir: t.TempDir()}
	text := strings.NewReplacer("%PORT%", fmt.Sprint(g.port), "%DIR%", g.dir).Replace(config)
	g.conf = write(t, g.dir, "forebay.yaml", text)
	if found := namesSocket.FindStringSubmatch(text); found != nil {
		if g.sock = found[1]; !filepath.IsAbs(g.sock) {
			g.sock = filepath.Join(g.dir, g.sock)
		}
	}
	return g
}

func (g *gateway) restart() {
	g.t.Helper()
	g.process = start(g.t, forebay(g.t), "run", "-c", g.conf).listening(g.port)
	if g.sock != "" { // which is opened after the listeners
		g.answers("unix", g.sock)
	}
}

// tagCase is one value in the slave: how it is told to the slave and how to the gateway.
type tagCase struct {
	Unit    int    `json:"unit"`
	Table   string `json:"table"`
	Address int    `json:"address"`
	Format  string `json:"format"` // Python's struct
	Order   string `json:"order,omitempty"`
	Value   any    `json:"value"` // in the registers

	name string // the gateway's tag
	typ  string // the gateway's type; empty for bits
	rest string // further keys of the tag
	want string // JSON of the value that must arrive
}

func (c tagCase) yaml() string {
	s := fmt.Sprintf("{name: %s, register: %s, address: %d", c.name, c.Table, c.Address)
	if c.typ != "" {
		s += ", type: " + c.typ
	}
	if c.Order != "" {
		s += ", order: " + c.Order
	}
	return s + c.rest + "}"
}

// slave is a pymodbus slave; ask reads one of its registers.
type slave struct {
	*process
	port int // TCP only
}

func startSlave(t *testing.T, tags []tagCase, args ...string) *slave {
	t.Helper()
	const python = "/usr/bin/python3" // Debian's, which has Debian's packages
	if err := exec.Command(python, "-c", "import pymodbus, serial").Run(); err != nil {
		missing(t, "python3-pymodbus")
	}
	s := &slave{process: start(t, python, append([]string{filepath.Join("testdata", "slave.py")}, args...)...)}
	line, err := json.Marshal(tags)
	if err != nil {
		t.Fatal(err)
	}
	s.say(string(line))
	ready := s.wait("ready")
	if args[0] != "rtu" && args[0] != "ascii" {
		if _, err := fmt.Sscanf(ready, "ready %d", &s.port); err != nil {
			t.Fatalf("slave says %q: %v", ready, err)
		}
	}
	return s
}

func (p *process) say(line string) {
	p.t.Helper()
	w := bufio.NewWriter(p.stdin)
	fmt.Fprintln(w, line)
	if err := w.Flush(); err != nil {
		p.t.Fatalf("%s does not listen: %v; it printed:\n%s", p.name, err, p.output())
	}
}

// register asks the slave itself what stands in a register.
func (s *slave) register(unit int, table string, address int) string {
	s.t.Helper()
	from := s.printed()
	s.say(fmt.Sprintf("get %d %s %d", unit, table, address))
	line := s.find(from, "register ") // pymodbus may log between
	return line[len("register "):]
}

// serialLine is a pair of pseudo-terminals joined by socat: the gateway's end and the slave's.
func serialLine(t *testing.T) (ours, theirs string) {
	t.Helper()
	path := program(t, "socat")
	dir := t.TempDir()
	ours, theirs = filepath.Join(dir, "gateway"), filepath.Join(dir, "slave")
	p := start(t, path, "-d", "-d", "pty,raw,echo=0,link="+ours, "pty,raw,echo=0,link="+theirs)
	p.wait("starting data transfer")
	return ours, theirs
}
