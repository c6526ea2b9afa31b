package bridge

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestMosquittoDoors goes through every kind of listener that Mosquitto has: TLS, client certificates, WebSockets.
func TestMosquittoDoors(t *testing.T) {
	ca := newAuthority(t, "good")
	ca.issue("server", nil)
	ca.issue("gw", nil)
	ports := [4]int{freePort(t), freePort(t), freePort(t), freePort(t)}
	secret := fmt.Sprintf("cafile %s\ncertfile %s\nkeyfile %s\n", ca.path("ca.crt"), ca.path("server.crt"), ca.path("server.key"))
	text := "per_listener_settings true\n"
	for i, more := range []string{secret, secret + "require_certificate true\nuse_identity_as_username true\n", "protocol websockets\n", "protocol websockets\n" + secret} {
		text += fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\n%s", ports[i], more)
	}
	configuredMosquitto(t, text)
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

// needProgram skips the test without a program of Mosquitto's, and fails it in CI.
func needProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing", name)
		}
		t.Skipf("%s is missing: apt install mosquitto mosquitto-clients", name)
	}
}

// configuredMosquitto runs a Mosquitto until the test ends.
func configuredMosquitto(t *testing.T, text string) *exec.Cmd {
	t.Helper()
	needProgram(t, "mosquitto")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(config, []byte("user "+me.Username+"\nlog_type none\n"+text), 0o600); err != nil {
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
	return cmd
}

// TestMosquittoNewPassword: a real broker leaves the connection alone whose client identifier comes again with a wrong
// password, and hands its session over to the right one.
func TestMosquittoNewPassword(t *testing.T) {
	needProgram(t, "mosquitto_passwd")
	users, port := filepath.Join(t.TempDir(), "users"), freePort(t)
	setUser := func(password string) {
		t.Helper()
		if out, err := exec.Command("mosquitto_passwd", "-c", "-b", users, "gw", password).CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_passwd: %v: %s", err, out)
		}
	}
	setUser("first")
	cmd := configuredMosquitto(t, fmt.Sprintf("listener %d 127.0.0.1\npassword_file %s\n", port, users))
	awaitPort(t, port)
	file, write := passwordFile(t)
	g := newGateway(t, fmt.Sprintf("mqtt://127.0.0.1:%d", port), func(c *Config) { c.Username, c.PasswordFile = "gw", file; noReconnect(c) }, impatient)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	write("second") // not there yet
	g.awaitLine("a second connection failed")
	g.broker.sendAll(2, "t", "a", "b")
	g.awaitStatus("two forwarded", func(s Status) bool { return s.Forwarded == 2 })
	if n := g.lines.count("connected to the upstream"); n != 1 {
		t.Errorf("the first connection was cut:\n%s", g.lines)
	}
	setUser("third")
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	// It reads the file at its next turn, which is within a second: until then the new password is refused.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := 0; g.lines.count("has taken over") == 0; i++ {
		if i > 200 {
			t.Fatal("the new password does not bring a second connection")
		}
		write("third")
		<-tick.C
	}
	g.broker.sendAll(2, "t", "c")
	g.awaitStatus("three forwarded", func(s Status) bool { return s.Forwarded == 3 && s.State == Up })
	if g.lines.count("session=resumed") == 0 || g.lines.count("lost") != 0 {
		t.Errorf("log:\n%s", g.lines)
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

// TestMosquittoDoesNotEchoToBridges: with 5.0 by no-local, with 3.1.1 by the bridge bit.
func TestMosquittoDoesNotEchoToBridges(t *testing.T) {
	port := freePort(t)
	configuredMosquitto(t, fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\n", port))
	awaitPort(t, port)
	address := fmt.Sprintf("mqtt://127.0.0.1:%d", port)
	for d, protocol := range map[dialect]string{speak5: "5.0", speak3AsBridge: "3.1.1"} {
		t.Run(protocol, func(t *testing.T) {
			g := newGateway(t, address, func(c *Config) {
				c.ClientID = "gw-" + protocol
				c.Down = []DownRule{{Filter: "up/#", Topic: "echo/{topic}"}}
			}, func(b *Bridge) { b.dialects[address] = d })
			g.awaitStatus("up", func(s Status) bool { return s.State == Up && s.Protocol == protocol })
			g.broker.sendAll(1, "t", "a")
			g.awaitStatus("one forwarded", func(s Status) bool { return s.Forwarded == 1 })
			// What another client sends comes down; what came before it would have come first.
			needProgram(t, "mosquitto_pub")
			if out, err := exec.Command("mosquitto_pub", "-p", fmt.Sprint(port), "-q", "1", "-t", "up/other", "-m", "b").CombinedOutput(); err != nil {
				t.Fatalf("mosquitto_pub: %v: %s", err, out)
			}
			g.broker.awaitMessages(1)
			if got := g.broker.messages(); len(got) != 1 || got[0] != "echo/up/other b" {
				t.Errorf("came down: %q", got)
			}
		})
	}
}
