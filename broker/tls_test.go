package broker

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"forebay/broker/packet"
)

// authority signs the certificates of a test.
type authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	a.sign("ca", template)
	return a
}

// sign writes NAME.crt and NAME.key. The first certificate signs itself.
func (a *authority) sign(name string, template *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.cert == nil {
		a.key = key
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			a.t.Fatal(err)
		}
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// issue makes a certificate for 127.0.0.1 that ends at the given time.
func (a *authority) issue(name string, until time.Time) {
	a.sign(name, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: until.Add(-2 * time.Hour), NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
}

// server is a configuration with one TLS listener.
func (a *authority) server() Config {
	a.issue("server", time.Now().Add(time.Hour))
	cfg := anyPort()
	cfg.Listeners[0].TLS = &TLSConfig{Certificate: a.file("server.crt"), Key: a.file("server.key")}
	return cfg
}

// dial connects over TLS, with the client certificate of that name if it is not empty.
func (a *authority) dial(g *gateway, certificate string) *client {
	a.t.Helper()
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "127.0.0.1"}
	cfg.RootCAs.AddCert(a.cert)
	if certificate != "" {
		pair, err := tls.LoadX509KeyPair(a.file(certificate+".crt"), a.file(certificate+".key"))
		if err != nil {
			a.t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	c := dial(a.t, g.addr(), packet.V5)
	c.conn = tls.Client(c.conn, cfg)
	return c
}

func TestTLSCarriesEverySize(t *testing.T) {
	a := newAuthority(t)
	g := start(t, a.server())
	sub := a.dial(g, "")
	sub.login(packet.Connect{ClientID: []byte("sub"), CleanStart: true})
	sub.subscribe("big", 2)
	pub := a.dial(g, "")
	pub.login(packet.Connect{ClientID: []byte("pub"), CleanStart: true})
	delivered := make(chan struct{})
	for i, size := range []int{0, 1, feedBatch - 1, feedBatch, feedBatch + 1, feedBuffer, 3*feedBuffer + 17, 1<<20 - 100} {
		payload := bytes.Repeat([]byte{byte('a' + i)}, size)
		// Both at the same time: the subscriber reads while the publisher waits for the end of its handshake.
		go func() {
			defer func() { delivered <- struct{}{} }() // also when it fails
			pub.deliver(packet.Publish{Topic: []byte("big"), Payload: payload, QoS: byte(i % 3), PacketID: uint16(i + 1)})
		}()
		if m := sub.receive(); m.payload != string(payload) || m.qos != byte(i%3) {
			t.Fatalf("payload of %d bytes arrived as %d others", size, len(m.payload))
		}
		<-delivered
	}
}

func TestTLSClientCertificates(t *testing.T) {
	a := newAuthority(t)
	cfg := a.server()
	cfg.Listeners[0].TLS.ClientCA, cfg.Listeners[0].TLS.RequireClientCertificate = a.file("ca.crt"), true
	g := start(t, cfg)
	a.issue("good", time.Now().Add(time.Hour))
	a.issue("expired", time.Now().Add(-time.Hour))
	stranger := newAuthority(t)
	stranger.issue("stranger", time.Now().Add(time.Hour))
	good := a.dial(g, "good")
	good.login(packet.Connect{ClientID: []byte("good"), CleanStart: true})
	for name, from := range map[string]*authority{"": a, "expired": a, "stranger": stranger} {
		from.cert, from.t = a.cert, t // whom the client trusts does not matter here
		c := from.dial(g, name)
		// In TLS 1.3 the client learns of the refusal when it reads.
		p := packet.Connect{Version: packet.V5, ClientID: []byte("bad"), CleanStart: true}
		_, err := c.conn.Write(p.Append(nil))
		if err == nil {
			_, err = c.next()
		}
		if err == nil {
			t.Errorf("client with certificate %q was let in", name)
		}
	}
	good.send(packet.AppendPingreq(nil))
	good.expect(packet.PINGRESP)
	g.settled("the others gone", func(s Stats) bool { return s.Sockets == 1 })
}

// A connection that never begins its handshake, one that breaks it off, and one that speaks plain MQTT harm nobody.
func TestTLSWithoutHandshake(t *testing.T) {
	a := newAuthority(t)
	g := start(t, a.server())
	dial(t, g.addr(), packet.V5) // says nothing until the server stops
	broken := dial(t, g.addr(), packet.V5)
	broken.send([]byte{22, 3, 1, 2, 0})
	if err := broken.conn.Close(); err != nil {
		t.Fatal(err)
	}
	plain := dial(t, g.addr(), packet.V5)
	plain.send((&packet.Connect{Version: packet.V5, ClientID: []byte("plain")}).Append(nil))
	good := a.dial(g, "")
	good.login(packet.Connect{ClientID: []byte("good"), CleanStart: true})
	g.settled("the others gone", func(s Stats) bool { return s.Sockets == 2 })
}

func TestTLSSlowReaderAndStop(t *testing.T) {
	before := runtime.NumGoroutine()
	a := newAuthority(t)
	g := start(t, a.server())
	slow := a.dial(g, "")
	slow.login(packet.Connect{ClientID: []byte("slow"), CleanStart: true})
	slow.subscribe("flood", 0)
	pub := a.dial(g, "")
	pub.login(packet.Connect{ClientID: []byte("pub"), CleanStart: true})
	for range 1000 {
		pub.publish(packet.Publish{Topic: []byte("flood"), Payload: make([]byte, 32<<10)})
	}
	pub.send(packet.AppendPingreq(nil))
	pub.expect(packet.PINGRESP)
	g.settled("drops for the slow reader only", func(s Stats) bool { return s.DroppedSlow > 0 && s.MemoryBytes < 2<<20 })
	g.stop()
	if reason := pub.expectClosed(); reason != packet.ReasonServerShuttingDown {
		t.Errorf("closed with %v", reason)
	}
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
		runtime.Gosched()
	}
}

func TestTLSFileProblems(t *testing.T) {
	a := newAuthority(t)
	good := *a.server().Listeners[0].TLS
	a.issue("other", time.Now().Add(time.Hour))
	for _, test := range []struct {
		name   string
		change func(*TLSConfig)
		want   string
	}{
		{"no certificate", func(c *TLSConfig) { c.Certificate = a.file("none") }, "tls.certificate: "},
		{"no key", func(c *TLSConfig) { c.Key = a.file("none") }, "tls.key: "},
		{"key of another", func(c *TLSConfig) { c.Key = a.file("other.key") }, "private key does not match"},
		{"no roots", func(c *TLSConfig) { c.ClientCA = a.file("none") }, "tls.client_ca: "},
		{"roots without certificate", func(c *TLSConfig) { c.ClientCA = a.file("server.key") }, "has no certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := good
			test.change(&cfg)
			_, err := listen(ListenerConfig{Address: "127.0.0.1:0", TLS: &cfg})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "listen on 127.0.0.1:0") {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestTLSExpiredCertificateIsTold(t *testing.T) {
	a := newAuthority(t)
	cfg := a.server()
	a.issue("server", time.Now().Add(-time.Hour))
	var out bytes.Buffer
	s := &Server{cfg: cfg}
	if err := s.bind(slog.New(slog.NewTextHandler(&out, nil))); err != nil {
		t.Fatal(err)
	}
	closeFD(s.listeners[0].fd)
	if !strings.Contains(out.String(), "expired") || !strings.Contains(out.String(), a.file("server.crt")) {
		t.Errorf("the log says %q", out.String())
	}
}

func TestTLSMosquittoClients(t *testing.T) {
	a := newAuthority(t)
	cfg := a.server()
	cfg.Listeners[0].TLS.ClientCA, cfg.Listeners[0].TLS.RequireClientCertificate = a.file("ca.crt"), true
	g := start(t, cfg)
	a.issue("device", time.Now().Add(time.Hour))
	secure := []string{"--cafile", a.file("ca.crt"), "--cert", a.file("device.crt"), "--key", a.file("device.key")}
	for _, v := range peerVersions {
		sub := startPeer(g, "mosquitto_sub", append(secure, "-V", v, "-q", "2", "-t", "a/+", "-F", "%t %q %p")...)
		g.subscribed(1)
		runPeer(g, "mosquitto_pub", append(secure, "-V", v, "-q", "2", "-t", "a/b", "-m", "hello "+v)...)
		sub.expect(fmt.Sprintf("a/b 2 hello %s", v))
		if err := sub.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		g.subscribed(0)
	}
	if out, err := exec.Command(needPeer(t, "mosquitto_pub"), peerArgs(g, "--cafile", a.file("ca.crt"), "-t", "x", "-m", "y")...).CombinedOutput(); err == nil {
		t.Errorf("a client without certificate was let in: %s", out)
	}
}
