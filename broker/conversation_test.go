package broker

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// doors are the ways in that conversations take, in the order of the listeners of everyDoor.
var doors = []string{"tcp", "tls", "ws", "wss"}

// everyDoor is a server with one listener of each kind; ca is the file that its TLS clients need.
func everyDoor(t *testing.T) (g *gateway, ca string) {
	t.Helper()
	a := newAuthority(t)
	a.issue("server", time.Now().Add(time.Hour))
	secure := &TLSConfig{Certificate: a.file("server.crt"), Key: a.file("server.key")}
	open := ListenerConfig{Address: "127.0.0.1:0", Anonymous: true}
	cfg := Config{Listeners: []ListenerConfig{open, open, open, open}}
	for i, door := range doors {
		if door == "ws" || door == "wss" {
			cfg.Listeners[i].Transport = TransportWebSocket
		}
		if door == "tls" || door == "wss" {
			cfg.Listeners[i].TLS = secure
		}
	}
	return start(t, cfg), a.file("ca.crt")
}

// converse runs a script in testdata through every door, in 3.1.1 and 5.0: QoS 0 to 2, a retained message, a will, a
// session that is resumed. env is added to its environment.
func converse(t *testing.T, interpreter, script string, env ...string) {
	t.Helper()
	g, ca := everyDoor(t)
	for i, door := range doors {
		for _, version := range []string{"4", "5"} {
			t.Run(door+" "+version, func(t *testing.T) {
				t.Parallel()
				_, port, err := net.SplitHostPort(g.Addrs()[i].String())
				if err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(interpreter, filepath.Join("testdata", script), door, port, ca, version)
				cmd.Env = append(os.Environ(), env...)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%s", script, err, out)
				}
			})
		}
	}
}

// without skips a test whose peer is missing, unless in CI.
func without(t testing.TB, peer string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(peer)
	}
	t.Skip(peer)
}

func TestPahoPython(t *testing.T) {
	const python = "/usr/bin/python3" // Debian's modules need Debian's interpreter
	if exec.Command(python, "-c", "import paho.mqtt.client").Run() != nil {
		without(t, "python3-paho-mqtt is not installed")
	}
	converse(t, python, "conversation.py")
}

// MQTT.js comes from npm, for this test alone, and only in CI or when FOREBAY_NPM=1 allows to fetch it, or when node finds
// it already.
func TestMQTTjs(t *testing.T) {
	node := needPeer(t, "node")
	modules := "NODE_PATH=" + os.Getenv("NODE_PATH")
	if os.Getenv("CI") == "true" || os.Getenv("FOREBAY_NPM") != "" {
		dir := t.TempDir()
		install := exec.Command(needPeer(t, "npm"), "install", "--no-audit", "--no-fund", "--prefix", dir, "mqtt@5")
		if out, err := install.CombinedOutput(); err != nil {
			t.Fatalf("npm install: %v\n%s", err, out)
		}
		modules = "NODE_PATH=" + filepath.Join(dir, "node_modules")
	}
	probe := exec.Command(node, "-e", `require("mqtt")`)
	probe.Env = append(os.Environ(), modules)
	if probe.Run() != nil {
		without(t, "node has no mqtt: set FOREBAY_NPM=1 to fetch it")
	}
	converse(t, node, "conversation.js", modules)
}
