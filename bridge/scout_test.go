package bridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"forebay/broker/packet"
)

// impatient makes a bridge look for a reason to try a second connection all the time, and never reconnect otherwise.
func impatient(b *Bridge) {
	b.patience.watch, b.patience.retry = 10*time.Millisecond, 20*time.Millisecond
	b.cfg.Failback, b.patience.goodbye = 50*time.Millisecond, 50*time.Millisecond
}

func noReconnect(c *Config) { c.Reconnect = ReconnectConfig{Min: time.Hour, Max: time.Hour} }

// passwordFile writes a password and returns the file's name and a function that changes it.
func passwordFile(t *testing.T) (name string, write func(password string)) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "password")
	write = func(password string) {
		t.Helper()
		// As systemd and configuration management do it: the file is whole at any time.
		if err := os.WriteFile(name+".new", []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	return name, write
}

// wantPassword reads the CONNECT of a second connection: that of the same session with another password.
func (c *peerConn) wantPassword(password string) {
	c.t.Helper()
	hello := c.hello()
	if hello.CleanStart || string(hello.ClientID) != "plant7-cloud" || string(hello.Password) != password {
		c.t.Fatalf("CONNECT of %s, clean start %v, password %q; want password %q", hello.ClientID, hello.CleanStart, hello.Password, password)
	}
}

func (c *peerConn) connack(p packet.Connack) {
	c.t.Helper()
	c.send(p.Append(nil, c.v))
}

func TestNewPasswordIsProvenBeforeTheOldConnectionGoes(t *testing.T) {
	u := newUpstream(t)
	file, write := passwordFile(t)
	g := newGateway(t, u.address(), func(c *Config) { c.Username, c.PasswordFile = "gw", file; noReconnect(c) }, impatient)
	first := u.welcome(false, none)
	g.broker.sendAll(1, "t", "a")
	first.want("PUBLISH 1 up/t a #2")

	write("wrong password")
	c := u.accept()
	c.wantPassword("wrong password")
	c.connack(packet.Connack{Reason: packet.ReasonBadUserNameOrPassword})
	c.wantEnd()
	g.broker.sendAll(1, "t", "b")
	first.want("PUBLISH 1 up/t b #3") // it has not been touched
	first.ack(packet.PUBACK, 2, 0)

	write("second password")
	c = u.accept()
	c.wantPassword("second password")
	c.connack(packet.Connack{SessionPresent: true})
	first.wantEnd()
	c.want("PUBLISH 1 dup up/t b #3")
	c.ack(packet.PUBACK, 3, 0)
	g.awaitEmpty()
	if s := g.bridge.Status(); s.State != Up {
		t.Errorf("state %s", s.State)
	}
	g.stop()
	if g.lines.count("a second connection failed") != 1 || g.lines.count("has taken over") != 1 || g.lines.count("wrong")+g.lines.count("second password") != 0 {
		t.Errorf("log:\n%s", g.lines)
	}
}

// TestServerEndsTheOldConnectionFirst: some say DISCONNECT, or just close, before the new connection has its CONNACK.
func TestServerEndsTheOldConnectionFirst(t *testing.T) {
	for _, farewell := range []string{"DISCONNECT", "close"} {
		t.Run(farewell, func(t *testing.T) {
			u := newUpstream(t)
			file, write := passwordFile(t)
			g := newGateway(t, u.address(), func(c *Config) { c.Username, c.PasswordFile = "gw", file; noReconnect(c) }, impatient)
			first := u.welcome(false, none)
			g.broker.sendAll(1, "t", "a")
			first.want("PUBLISH 1 up/t a #2")
			write("second")
			c := u.accept()
			c.wantPassword("second")
			if farewell == "DISCONNECT" {
				first.send((&packet.Disconnect{Reason: packet.ReasonSessionTakenOver}).Append(nil, c.v))
				first.wantEnd() // it has noticed, and waits for the other one
			}
			first.net.Close()
			c.connack(packet.Connack{SessionPresent: true})
			c.want("PUBLISH 1 dup up/t a #2")
			if g.lines.count("WARN") != 0 {
				t.Errorf("log:\n%s", g.lines)
			}
		})
	}
}

// TestNewPasswordIsTriedAgainWhenTheUpstreamWasNotThere: what is no verdict on a password does not stand for one; and a
// file that has been mended is looked at without waiting.
func TestNewPasswordIsTriedAgainWhenTheUpstreamWasNotThere(t *testing.T) {
	u := newUpstream(t)
	file, write := passwordFile(t)
	g := newGateway(t, u.address(), func(c *Config) { c.Username, c.PasswordFile = "gw", file; noReconnect(c) }, impatient)
	first := u.welcome(false, none)
	write("second")
	for range 2 {
		c := u.accept()
		c.wantPassword("second")
		c.connack(packet.Connack{Reason: packet.ReasonServerBusy})
		c.wantEnd()
	}
	g.stop()
	first.wantEnd()
	g.tune = func(b *Bridge) {
		impatient(b)
		b.patience.retry = time.Hour
	}
	g.start()
	first = u.accept()
	first.wantPassword("second")
	first.connack(packet.Connack{SessionPresent: true})
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	for _, password := range []string{"wrong", "mended"} {
		write(password)
		c := u.accept()
		c.wantPassword(password)
		c.connack(packet.Connack{Reason: packet.ReasonBadUserNameOrPassword})
	}
}

// TestOnlyATakeoverIsWaitedFor: a second connection that is half way is given up when the first one broke for a reason of
// its own, and waited for, a little, when the server may have ended the first for its sake.
func TestOnlyATakeoverIsWaitedFor(t *testing.T) {
	for _, c := range []struct {
		err   error
		after time.Duration // until the result, unless it is cancelled
		found bool
		took  time.Duration
	}{
		{&goneError{reason: packet.ReasonSessionTakenOver}, time.Second, true, time.Second},
		{io.EOF, time.Second, true, time.Second},
		{io.EOF, time.Minute, false, takeoverTime},
		{errStalled, time.Second, false, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			s := &scout{reason: newCredentials, cancel: cancel, result: make(chan scouted, 1)}
			go func() {
				select {
				case <-time.After(c.after):
					s.result <- scouted{conn: &conn{}}
				case <-ctx.Done():
					s.result <- scouted{err: ctx.Err()}
				}
			}()
			b := &Bridge{scout: s, log: slog.New(slog.DiscardHandler)}
			began := time.Now()
			got := b.takeover(t.Context(), c.err)
			if took := time.Since(began); (got != nil) != c.found || took != c.took || b.scout != nil {
				t.Errorf("after %v: connection %v in %s, want %v in %s", c.err, got != nil, took, c.found, c.took)
			}
		})
	}
}

func TestTouchedFileBringsNoSecondConnection(t *testing.T) {
	u := newUpstream(t)
	file, _ := passwordFile(t)
	g := newGateway(t, u.address(), func(c *Config) { c.Username, c.PasswordFile = "gw", file }, nil)
	u.welcome(false, none)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	g.stop()
	shown, err := g.bridge.identify(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	g.bridge.scoutFor(t.Context(), newCredentials, 0, shown)
	if r := <-g.bridge.scout.result; r.conn != nil || r.err != nil {
		t.Errorf("connection %v, error %v; want nothing to do", r.conn, r.err)
	}
}

func TestWrongPasswordDoesNotCutTheGatewayOff(t *testing.T) {
	u := newUpstream(t)
	file, write := passwordFile(t)
	g := newGateway(t, u.address(), func(c *Config) { c.Username, c.PasswordFile = "gw", file }, nil)
	first := u.welcome(false, none)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	write("wrong")
	first.net.Close()
	c := u.accept()
	c.wantPassword("wrong")
	c.connack(packet.Connack{Reason: packet.ReasonBadUserNameOrPassword})
	c.wantEnd()
	c = u.accept()
	c.wantPassword("first")
	c.connack(packet.Connack{SessionPresent: true})
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	c.net.Close()
	c = u.accept()
	c.wantPassword("first")
	c.connack(packet.Connack{SessionPresent: true})
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	if g.lines.count("going on with the old ones") != 1 || g.lines.count("going on with those that worked") != 1 {
		t.Errorf("log:\n%s", g.lines)
	}
}

func TestRenewedCertificateIsUsed(t *testing.T) {
	ca := newAuthority(t, "good")
	u := newUpstream(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	address := secure(u, &tls.Config{Certificates: []tls.Certificate{ca.issue("server", nil)}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})
	ca.issue("gw", nil)
	g := newGateway(t, address, func(c *Config) {
		c.TLS = TLSConfig{CA: ca.path("ca.crt"), Certificate: ca.path("gw.crt"), Key: ca.path("gw.key")}
		noReconnect(c)
	}, impatient)
	first := u.welcome(false, none)
	g.broker.sendAll(1, "t", "a")
	first.want("PUBLISH 1 up/t a #2")
	old := first.net.(*tls.Conn).ConnectionState().PeerCertificates[0]
	ca.issue("gw", nil) // writes the certificate, then the key: in between they do not belong together
	c := u.accept()
	if c.hello().CleanStart {
		t.Error("a clean start")
	}
	if c.net.(*tls.Conn).ConnectionState().PeerCertificates[0].Equal(old) {
		t.Error("the old certificate again")
	}
	c.connack(packet.Connack{SessionPresent: true})
	c.want("PUBLISH 1 dup up/t a #2")
}

func TestFailback(t *testing.T) {
	home, away := newUpstream(t), newUpstream(t)
	g := newGateway(t, home.address(), func(c *Config) {
		c.Addresses = append(c.Addresses, away.address())
		noReconnect(c)
	}, impatient)
	refuse := func() {
		c := home.accept()
		c.hello()
		c.connack(packet.Connack{Reason: packet.ReasonServerUnavailable})
		c.wantEnd()
	}
	refuse()
	other := away.welcome(false, none)
	g.broker.sendAll(1, "t", "a")
	other.want("PUBLISH 1 up/t a #2")
	other.ack(packet.PUBACK, 2, 0)
	refuse()
	refuse()
	g.broker.sendAll(1, "t", "b")
	other.want("PUBLISH 1 up/t b #3") // nothing has happened to it
	c := home.accept()
	if hello := c.hello(); hello.CleanStart {
		t.Error("a clean start")
	}
	c.connack(packet.Connack{SessionPresent: true})
	other.wantEnd()
	c.want("PUBLISH 1 dup up/t b #3")
	g.awaitStatus("the first address", func(s Status) bool { return s.Address == home.address() && s.State == Up })
	c.ack(packet.PUBACK, 3, 0)
	g.awaitEmpty()
}

func TestStopWhileASecondConnectionIsTried(t *testing.T) {
	u := newUpstream(t)
	file, write := passwordFile(t)
	g := newGateway(t, u.address(), func(c *Config) { c.Username, c.PasswordFile = "gw", file }, impatient)
	u.welcome(false, none)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	write("second")
	u.accept().wantPassword("second") // and no answer
	g.stop()
}

// refer answers a CONNECT with a server reference.
func (u *upstream) refer(reason packet.Reason, to string) {
	u.t.Helper()
	c := u.accept()
	c.hello()
	c.connack(packet.Connack{Reason: reason, Properties: packet.ConnackProperties{ServerReference: []byte(to)}})
	c.wantEnd()
}

func place(u *upstream) string { return strings.TrimPrefix(u.address(), "mqtt://") }

func TestServerReferenceIsFollowed(t *testing.T) {
	for _, reason := range []packet.Reason{packet.ReasonUseAnotherServer, packet.ReasonServerMoved} {
		t.Run(reason.String(), func(t *testing.T) {
			u, other := newUpstream(t), newUpstream(t)
			g := newGateway(t, u.address(), nil, nil)
			u.refer(reason, "elsewhere.example:1 http://x/y "+place(other)) // §4.11: a list
			c := other.accept()                                             // removes the old session there
			c.hello()
			c.connack(packet.Connack{})
			c = other.accept()
			c.hello()
			c.connack(packet.Connack{})
			g.broker.sendAll(1, "t", "a")
			c.want("PUBLISH 1 up/t a #2")
			// Sent away from there as well, and back again.
			c.send((&packet.Disconnect{Reason: reason, ServerReference: []byte(place(u))}).Append(nil, c.v))
			c.wantEnd()
			c = u.accept()
			c.hello()
			c.connack(packet.Connack{SessionPresent: true})
			c.want("PUBLISH 1 dup up/t a #2")
		})
	}
}

func TestServerReferenceToStrangersIsNotFollowed(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	for range 3 {
		u.refer(packet.ReasonServerMoved, "stranger.example:1883 127.0.0.1.example")
	}
	g.awaitStatus("down", func(s Status) bool {
		return strings.Contains(s.LastError, `none that is allowed: change addresses or redirect_hosts ("stranger.example:1883 127.0.0.1.example")`)
	})
}

func TestServerReferencesInACircleEnd(t *testing.T) {
	u, other := newUpstream(t), newUpstream(t)
	g := newGateway(t, u.address(), noReconnect, nil)
	for range 2 {
		u.refer(packet.ReasonUseAnotherServer, place(other))
		other.refer(packet.ReasonUseAnotherServer, place(u))
	}
	g.awaitStatus("down", func(s Status) bool {
		return s.State == Down && strings.Contains(s.LastError, "sent on to "+other.address())
	})
}

func TestMayGoTo(t *testing.T) {
	a, err := parseAddress("mqtts://Hub.example.com")
	if err != nil {
		t.Fatal(err)
	}
	b := &Bridge{addresses: []address{a}, cfg: Config{RedirectHosts: []string{"*.nodes.example.net", "one.example.org"}}}
	for host, want := range map[string]bool{"hub.EXAMPLE.com": true, "example.com": false, "xhub.example.com": false, "hub.example.com.evil.example": false,
		"a.nodes.example.net": true, "a.b.NODES.example.net": true, "nodes.example.net": false, ".nodes.example.net": false, "xnodes.example.net": false, "one.example.org": true} {
		if got := b.mayGoTo(host); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
	to, ok := b.referral(a, &refusedError{reason: packet.ReasonServerMoved, reference: "n1.nodes.example.net"})
	if !ok || !to.tls || to.dial != "n1.nodes.example.net:8883" {
		t.Errorf("%+v: TLS must not be lost on the way", to)
	}
}
