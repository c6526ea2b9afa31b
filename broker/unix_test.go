package broker

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"forebay/broker/packet"
)

// atUnix is a configuration with one anonymous listener on a Unix socket, and its path.
func atUnix(t *testing.T) (Config, string) {
	path := filepath.Join(t.TempDir(), "mqtt.sock")
	return Config{Listeners: []ListenerConfig{{Address: "unix:" + path, Anonymous: true}}}, path
}

func TestUnixSocket(t *testing.T) {
	for _, transport := range []string{"", TransportWebSocket} {
		t.Run(transport, func(t *testing.T) {
			cfg, path := atUnix(t)
			cfg.Listeners[0].Transport = transport
			g := start(t, cfg)
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != fs.ModeSocket|0o660 {
				t.Errorf("mode %v", info.Mode())
			}
			if transport == "" {
				c := g.client(packet.V5, "c")
				c.subscribe("big", 1)
				c.publish(packet.Publish{Topic: []byte("big"), Payload: make([]byte, 500_000), QoS: 0})
				if m := c.receive(); len(m.payload) != 500_000 {
					t.Errorf("%d bytes arrived", len(m.payload))
				}
				c.disconnect()
			} else {
				w := upgraded(t, g)
				w.write(frame(frameFinal|frameBinary, (&packet.Connect{Version: packet.V311, CleanStart: true}).Append(nil)))
				w.expect(frameFinal|frameBinary, 0x20, 2, 0, 0)
				w.write(frame(frameFinal|frameBinary, (&packet.Disconnect{}).Append(nil, packet.V311)))
				w.closed()
			}
			g.settled("gone", func(s Stats) bool { return s.Sockets == 0 })
			g.stop()
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after the end the socket is still there: %v", err)
			}
		})
	}
}

// leave binds a socket at path and closes it as a process does that is killed.
func leave(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestUnixSocketStale(t *testing.T) {
	cfg, path := atUnix(t)
	leave(t, path)
	g := start(t, cfg)
	g.client(packet.V311, "c")
	// Somebody has replaced it since: the end of this server is not the other's.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	leave(t, path)
	g.stop()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket of another process has been removed: %v", err)
	}
}

func TestUnixSocketInTheWay(t *testing.T) {
	cfg, path := atUnix(t)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(cfg.Listeners[0]); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("error %v for a file", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is gone: %q, %v", b, err)
	}
	cfg, _ = atUnix(t)
	g := start(t, cfg)
	if _, err := listen(cfg.Listeners[0]); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("error %v for a socket in use", err)
	}
	g.client(packet.V311, "c")
}

func TestUnixSocketMosquittoClients(t *testing.T) {
	cfg, path := atUnix(t)
	g := start(t, cfg)
	runUnix := func(name string, args ...string) string {
		out, err := exec.Command(needPeer(t, name), append([]string{"--unix", path}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		return string(out)
	}
	runUnix("mosquitto_pub", "-t", "a/b", "-m", "hello", "-r", "-q", "1")
	if out := runUnix("mosquitto_sub", "-t", "a/b", "-C", "1", "-W", "10"); out != "hello\n" {
		t.Errorf("got %q", out)
	}
	g.settled("gone", func(s Stats) bool { return s.Sockets == 0 })
}
