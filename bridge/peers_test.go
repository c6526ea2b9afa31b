package bridge

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"testing"
	"time"
)

// TestMosquittoDoors goes through every kind of listener that Mosquitto has: TLS, client certificates, WebSockets.
func TestMosquittoDoors(t *testing.T) {
	if _, err := exec.LookPath("mosquitto"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("mosquitto is missing")
		}
		t.Skip("mosquitto is missing: apt install mosquitto")
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t, "good")
	ca.issue("server", nil)
	ca.issue("gw", nil)
	ports := [4]int{freePort(t), freePort(t), freePort(t), freePort(t)}
	secret := fmt.Sprintf("cafile %s\ncertfile %s\nkeyfile %s\n", ca.path("ca.crt"), ca.path("server.crt"), ca.path("server.key"))
	text := fmt.Sprintf("user %s\nper_listener_settings true\nlog_type none\n", me.Username)
	for i, more := range []string{secret, secret + "require_certificate true\nuse_identity_as_username true\n", "protocol websockets\n", "protocol websockets\n" + secret} {
		text += fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\n%s", ports[i], more)
	}
	config := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mosquitto", "-c", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt) // it may be gone, which the test has noticed then
		cmd.Wait()                       // how it ends is not what is tested
	})
	for _, port := range ports {
		awaitPort(t, port)
	}
	withKey := TLSConfig{CA: ca.path("ca.crt"), Certificate: ca.path("gw.crt"), Key: ca.path("gw.key")}
	for _, c := range []struct {
		address string
		tls     TLSConfig
	}{
		{fmt.Sprintf("mqtts://127.0.0.1:%d", ports[0]), TLSConfig{CA: ca.path("ca.crt")}},
		{fmt.Sprintf("mqtts://127.0.0.1:%d", ports[1]), withKey},
		{fmt.Sprintf("ws://127.0.0.1:%d", ports[2]), TLSConfig{}},
		{fmt.Sprintf("wss://127.0.0.1:%d/any", ports[3]), TLSConfig{CA: ca.path("ca.crt")}},
	} {
		t.Run(c.address[:4], func(t *testing.T) {
			g := newGateway(t, c.address, func(cfg *Config) { cfg.TLS = c.tls }, nil)
			g.awaitStatus("up", func(s Status) bool { return s.State == Up && s.Protocol == "5.0" })
			for i := range 20 {
				g.broker.sendAll(byte(1+i%2), "t", fmt.Sprint(i))
			}
			g.awaitStatus("everything forwarded", func(s Status) bool { return s.Forwarded == 20 && s.Backlog.Count == 0 })
		})
	}
}

func awaitPort(t *testing.T, port int) {
	t.Helper()
	timeout := time.After(patient)
	for {
		nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			nc.Close()
			return
		}
		select {
		case <-timeout:
			t.Fatalf("nothing listens on port %d: %v", port, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
