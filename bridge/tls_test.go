package bridge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/broker/packet"
)

// authority signs certificates for one test.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	a.key = a.newKey()
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write("ca.crt", "CERTIFICATE", der)
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(name, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(a.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// issue writes name.crt and name.key, and returns the pair.
func (a *authority) issue(name string, adjust func(*x509.Certificate)) tls.Certificate {
	a.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if adjust != nil {
		adjust(template)
	}
	key := a.newKey()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".crt", "CERTIFICATE", der)
	a.write(name+".key", "EC PRIVATE KEY", keyDER)
	pair, err := tls.LoadX509KeyPair(a.path(name+".crt"), a.path(name+".key"))
	if err != nil {
		a.t.Fatal(err)
	}
	return pair
}

// secure makes an upstream speak TLS.
func secure(u *upstream, cfg *tls.Config) string {
	address := strings.Replace(u.address(), "mqtt://", "mqtts://", 1)
	inner := u.listener
	u.listener = tlsListener{inner.(*net.TCPListener), cfg}
	return address
}

type tlsListener struct {
	*net.TCPListener
	cfg *tls.Config
}

func (l tlsListener) Accept() (net.Conn, error) {
	nc, err := l.TCPListener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(nc, l.cfg), nil
}

func TestMutualTLSWithALPN(t *testing.T) {
	ca := newAuthority(t, "good")
	u := newUpstream(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	address := secure(u, &tls.Config{Certificates: []tls.Certificate{ca.issue("server", nil)}, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"x-amzn-mqtt-ca"}})
	ca.issue("gw", nil)
	g := newGateway(t, address, func(c *Config) {
		c.TLS = TLSConfig{CA: ca.path("ca.crt"), Certificate: ca.path("gw.crt"), Key: ca.path("gw.key"), ALPN: []string{"x-amzn-mqtt-ca"}}
	}, nil)
	c := u.welcome(false, none)
	state := c.net.(*tls.Conn).ConnectionState()
	if state.NegotiatedProtocol != "x-amzn-mqtt-ca" || state.PeerCertificates[0].Subject.CommonName != "gw" {
		t.Errorf("protocol %q, peer %s", state.NegotiatedProtocol, state.PeerCertificates[0].Subject)
	}
	g.broker.sendAll(1, "t", "a")
	c.want("PUBLISH 1 up/t a #2")
}

func TestTLSFailuresAreNamed(t *testing.T) {
	ca, other := newAuthority(t, "good"), newAuthority(t, "other")
	good := ca.issue("server", nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	for _, c := range []struct {
		name   string
		server *tls.Config // nil: no TLS at all
		client TLSConfig
		want   string
	}{
		{"unknown authority", &tls.Config{Certificates: []tls.Certificate{good}}, TLSConfig{CA: other.path("ca.crt")}, "signed by an authority that tls.ca does not hold"},
		{"expired", &tls.Config{Certificates: []tls.Certificate{ca.issue("old", func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
		})}}, TLSConfig{CA: ca.path("ca.crt")}, "certificate expired on "},
		{"not yet valid", &tls.Config{Certificates: []tls.Certificate{ca.issue("new", func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour)
		})}}, TLSConfig{CA: ca.path("ca.crt")}, "is this gateway's clock right?"},
		{"other name", &tls.Config{Certificates: []tls.Certificate{good}}, TLSConfig{CA: ca.path("ca.crt"), ServerName: "broker.example.com"}, `is for "127.0.0.1", it is not for "broker.example.com"`},
		{"client certificate missing", &tls.Config{Certificates: []tls.Certificate{good}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool},
			TLSConfig{CA: ca.path("ca.crt")}, "the upstream refuses us"},
		{"not TLS", nil, TLSConfig{CA: ca.path("ca.crt")}, "the answer is not TLS"},
		{"no CA file", &tls.Config{Certificates: []tls.Certificate{good}}, TLSConfig{CA: ca.path("missing.crt")}, "tls.ca: cannot read"},
		{"CA file empty", &tls.Config{Certificates: []tls.Certificate{good}}, TLSConfig{CA: os.DevNull}, "holds no certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUpstream(t)
			address := strings.Replace(u.address(), "mqtt://", "mqtts://", 1)
			go func() {
				for {
					nc, err := u.listener.Accept()
					if err != nil {
						return
					}
					if c.server == nil {
						nc.Write([]byte("220 mail.example.com ready\r\n"))
					} else if s := tls.Server(nc, c.server); s.Handshake() == nil {
						s.Read(make([]byte, 1))
					}
					nc.Close()
				}
			}()
			g := newGateway(t, address, func(cfg *Config) { cfg.TLS = c.client }, nil)
			g.awaitStatus(c.want, func(s Status) bool { return strings.Contains(s.LastError, c.want) })
			g.stop()
			if n := g.lines.count("WARN"); n != 1 {
				t.Errorf("%d warnings, want one line:\n%s", n, g.lines)
			}
		})
	}
}

func TestWordsOfTheUpstreamCannotForgeLogLines(t *testing.T) {
	if got, want := printable([]byte("a\nlevel=ERROR\x1b[31m\xff")), "a level=ERROR [31m\uFFFD"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := explain(&refusedError{packet.ReasonNotAuthorized, "why", ""}); !strings.Contains(got, `("why")`) {
		t.Errorf("%q", got)
	}
}
