package bridge

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/broker/packet"
)

// oldUpstream plays a server that knows 3.1.1 only, up to the connection that the bridge stays on.
func oldUpstream(u *upstream) *peerConn {
	u.t.Helper()
	c := u.accept()
	c.wantType(packet.CONNECT)
	c.send([]byte{0x20, 0x02, 0x00, 0x01}) // unacceptable protocol version [3.1.1: MQTT-3.1.2-2]
	c.wantEnd()
	for _, clean := range []bool{true, false} {
		c = u.accept()
		c.v = packet.V311
		hello := c.hello()
		if hello.Version != packet.V311 || hello.CleanStart != clean {
			u.t.Fatalf("CONNECT %s, clean session %v; want 3.1.1, %v", hello.Version, hello.CleanStart, clean)
		}
		c.send([]byte{0x20, 0x02, 0x00, 0x00})
	}
	return c
}

func TestFallsBackTo311(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	c := oldUpstream(u)
	g.broker.sendAll(1, "t", "a")
	c.want("PUBLISH 1 up/t a #2")
	c.net.Close()
	// It knows now: no attempt with 5.0 and, because the session is known, none with a clean session.
	c = u.accept()
	c.v = packet.V311
	hello := c.hello()
	if hello.Version != packet.V311 || hello.CleanStart {
		t.Errorf("CONNECT %s, clean session %v", hello.Version, hello.CleanStart)
	}
	c.send([]byte{0x20, 0x02, 0x01, 0x00})
	c.want("PUBLISH 1 dup up/t a #2")
}

func TestFallsBackTo311WhenTheAnswerIsSilence(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	c := u.accept()
	c.wantType(packet.CONNECT)
	c.net.Close()
	for range 2 {
		c = u.accept()
		c.wantType(packet.CONNECT)
		c.send([]byte{0x20, 0x02, 0x00, 0x00})
	}
	g.awaitStatus("up with 3.1.1", func(s Status) bool { return s.State == Up && s.Protocol == "3.1.1" })
}

func TestRefusalsAreNamedOncePerEpisode(t *testing.T) {
	cases := map[packet.Reason]string{
		packet.ReasonBadUserNameOrPassword:    "user name or password",
		packet.ReasonNotAuthorized:            "not authorized",
		packet.ReasonClientIdentifierNotValid: "client_id",
		packet.ReasonServerUnavailable:        "not available now",
		packet.ReasonBanned:                   "banned",
		packet.ReasonServerBusy:               "not available now",
		packet.ReasonQuotaExceeded:            "quota exceeded",
	}
	for reason, words := range cases {
		t.Run(reason.String(), func(t *testing.T) {
			u := newUpstream(t)
			g := newGateway(t, u.address(), nil, nil)
			for range 3 {
				c := u.accept()
				c.wantType(packet.CONNECT)
				c.send((&packet.Connack{Reason: reason, Properties: packet.ConnackProperties{ReasonString: []byte("so\nthere")}}).Append(nil, c.v))
				c.wantEnd()
			}
			g.awaitStatus("down", func(s Status) bool { return s.State == Down && strings.Contains(s.LastError, words) })
			if n := g.lines.count(words); n != 1 {
				t.Errorf("logged %d times, want once:\n%s", n, g.lines)
			}
			u.welcome(false, none)
			g.awaitStatus("up", func(s Status) bool { return s.State == Up && s.LastError == "" })
		})
	}
}

func TestNothingListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	g := newGateway(t, "mqtt://"+addr, nil, nil)
	g.awaitStatus("down", func(s Status) bool { return s.State == Down && strings.Contains(s.LastError, "connection refused") })
	g.broker.sendAll(1, "t", "kept")
	g.awaitStatus("one waiting", func(s Status) bool { return s.Backlog.Count == 1 })
	if n := g.lines.count("retry_in="); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, g.lines)
	}
}

func TestNextAddressIsTriedWithoutWaiting(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, "mqtt://127.0.0.1:1", func(c *Config) {
		c.Addresses = append(c.Addresses, u.address())
		c.Reconnect = ReconnectConfig{Min: time.Hour, Max: time.Hour}
	}, nil)
	u.welcome(false, none)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up && s.Address == u.address() })
	if n := g.lines.count("next=" + u.address()); n != 1 {
		t.Errorf("log:\n%s", g.lines)
	}
}

func TestConnectTimeout(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, func(b *Bridge) { b.patience.connect = 50 * time.Millisecond })
	c := u.accept()
	c.wantType(packet.CONNECT) // and no answer
	c.wantEnd()
	g.awaitStatus("down", func(s Status) bool { return strings.Contains(s.LastError, "no answer in time") })
}

func TestStopWhileConnecting(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	u.accept().wantType(packet.CONNECT)
	g.stop() // returns at once, not after the connect timeout: the test would time out
}

func TestPasswordIsReadAtEveryAttempt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("first\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u := newUpstream(t)
	g := newGateway(t, u.address(), func(c *Config) { c.Username, c.PasswordFile = "gw-{site}", file }, nil)
	for _, want := range []string{"first", "second"} {
		c := u.accept()
		hello := c.hello()
		if string(hello.Username) != "gw-plant7" || string(hello.Password) != want {
			t.Errorf("user name %q, password %q", hello.Username, hello.Password)
		}
		if err := os.WriteFile(file, []byte("second\r\nnot this"), 0o600); err != nil {
			t.Fatal(err)
		}
		c.send((&packet.Connack{Reason: packet.ReasonBadUserNameOrPassword}).Append(nil, c.v))
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	g.awaitStatus("missing file", func(s Status) bool { return strings.Contains(s.LastError, "password_file: cannot read") })
	if strings.Contains(g.lines.String(), "second") {
		t.Error("the password is in the log")
	}
}

func TestSilentLinkIsProbedAndLeft(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, func(b *Bridge) { b.patience.ping = 100 * time.Millisecond })
	c := u.welcome(false, packet.ConnackProperties{HasServerKeepAlive: true, ServerKeepAlive: 1}) // [MQTT-3.1.2-21]
	c.want("PINGREQ")
	c.send(packet.AppendPingresp(nil))
	c.want("PINGREQ")
	c.wantEnd()
	g.awaitStatus("down", func(s Status) bool { return strings.Contains(s.LastError, "PINGREQ") })
}

func TestDisconnectFromUpstreamIsNamed(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	c := u.welcome(false, none)
	c.send((&packet.Disconnect{Reason: packet.ReasonSessionTakenOver}).Append(nil, c.v))
	c.wantEnd()
	g.awaitStatus("down", func(s Status) bool { return strings.Contains(s.LastError, "another client uses the same client_id") })
}
