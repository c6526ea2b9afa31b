package broker

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/broker/packet"
)

func (g *gateway) reload() error {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return g.Reload(ctx)
}

// replace puts a new file in the place of another, as editors and tools for certificates do.
func replace(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func asUser(id, password string) packet.Connect {
	return packet.Connect{ClientID: []byte(id), CleanStart: true, HasUsername: true, HasPassword: true,
		Username: []byte(id), Password: []byte(password)}
}

func (c *client) answers() {
	c.t.Helper()
	c.send(packet.AppendPingreq(nil))
	c.expect(packet.PINGRESP)
}

func hashOf(t testing.TB, password string) string {
	t.Helper()
	hash, err := HashPassword(SHA512PBKDF2, []byte(password))
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

func TestReloadOfUsers(t *testing.T) {
	line := map[string]string{"alice": "alice:" + hashOf(t, "a") + "\n", "bob": "bob:" + hashOf(t, "b") + "\n", "carol": "carol:" + hashOf(t, "c") + "\n"}
	file := writeFile(t, "passwd", line["alice"]+line["bob"]+line["carol"])
	g := start(t, Config{PasswordFile: file, Listeners: []ListenerConfig{{Address: "127.0.0.1:0", Anonymous: true}}})
	login := func(id, password string) *client {
		c := dial(t, g.addr(), packet.V5)
		c.login(asUser(id, password))
		return c
	}
	alice, bob, carol, nobody := login("alice", "a"), login("bob", "b"), login("carol", "c"), g.client(packet.V311, "nobody")
	// A file that cannot be used changes nothing.
	replace(t, file, "alice\n")
	if err := g.reload(); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a bad file: %v", err)
	}
	for _, c := range []*client{alice, bob, carol, nobody} {
		c.answers()
	}
	// Bob has another password, Carol is gone.
	replace(t, file, line["alice"]+"bob:"+hashOf(t, "b2")+"\n")
	if err := g.reload(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client{bob, carol} {
		if reason := c.expectClosed(); reason != packet.ReasonNotAuthorized {
			t.Errorf("closed with %v", reason)
		}
	}
	alice.answers()
	nobody.answers()
	for _, try := range []struct {
		user, password string
		want           packet.Reason
	}{{"bob", "b", packet.ReasonBadUserNameOrPassword}, {"bob", "b2", packet.ReasonSuccess}, {"carol", "c", packet.ReasonBadUserNameOrPassword}} {
		c := dial(t, g.addr(), packet.V5)
		if got := c.connect(asUser(try.user, try.password)).Reason; got != try.want {
			t.Errorf("%s with %s: %v", try.user, try.password, got)
		}
	}
}

// A password that is being checked while the file is replaced is judged by the new one.
func TestReloadDuringALogin(t *testing.T) {
	file := writeFile(t, "passwd", "alice:"+hashOf(t, "a")+"\n")
	g := open(t, t.TempDir(), Config{PasswordFile: file, Listeners: []ListenerConfig{{Address: "127.0.0.1:0"}}})
	g.logins.heavy.Lock() // the workers wait, see below
	old := *g.logins.users.Load()
	old.heavy = true
	g.logins.users.Store(&old)
	g.run()
	c := dial(t, g.addr(), packet.V5)
	p := asUser("alice", "a")
	p.Version = packet.V5
	c.send(p.Append(nil))
	g.settled("the password is being checked", func(s Stats) bool { return s.PacketsReceived == 1 && len(g.logins.queue) == 0 })
	replace(t, file, "alice:"+hashOf(t, "new")+"\n")
	if err := g.reload(); err != nil {
		t.Fatal(err)
	}
	g.logins.heavy.Unlock()
	var ack packet.Connack
	if err := ack.Decode(c.expect(packet.CONNACK), packet.V5); err != nil || ack.Reason != packet.ReasonBadUserNameOrPassword {
		t.Errorf("CONNACK %v, %v", ack.Reason, err)
	}
}

func TestReloadOfAccess(t *testing.T) {
	file := writeFile(t, "acl", "topic a/#\ntopic b/#\n")
	cfg := anyPort()
	cfg.ACLFile = file
	g := start(t, cfg)
	sub, pub := g.client(packet.V5, "sub"), g.client(packet.V5, "pub")
	sub.subscribe("a/#", 1)
	sub.subscribe("b/#", 1)
	say := func(want ...string) {
		t.Helper()
		for i, topic := range []string{"a/1", "b/1"} {
			pub.publish(packet.Publish{Topic: []byte(topic), QoS: 1, PacketID: uint16(i + 1)})
			pub.expect(packet.PUBACK)
		}
		for _, topic := range want {
			if m := sub.receive(); m.topic != topic {
				t.Errorf("got %v, want %s", m, topic)
			}
		}
		sub.answers()
	}
	say("a/1", "b/1")
	replace(t, file, "topic nonsense b/#\n")
	if err := g.reload(); err == nil {
		t.Error("a bad file was accepted")
	}
	say("a/1", "b/1")
	replace(t, file, "topic write a/#\ntopic b/#\n")
	if err := g.reload(); err != nil {
		t.Fatal(err)
	}
	say("b/1")
	replace(t, file, "topic a/#\ntopic read b/#\n")
	if err := g.reload(); err != nil {
		t.Fatal(err)
	}
	say("a/1")
}

// Nobody has to say so: the server sees it when files are replaced, and says so when they are no good.
func TestFilesAreWatched(t *testing.T) {
	file := writeFile(t, "acl", "topic a/#\n")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	cfg := anyPort()
	cfg.ACLFile = link
	g := open(t, t.TempDir(), cfg)
	g.watchEvery = 5 * time.Millisecond
	g.run()
	c := g.client(packet.V311, "c")
	may := func(topic string) bool {
		c.send((&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: []byte(topic)}}}).Append(nil, c.version))
		var ack packet.Suback
		if err := ack.Decode(c.expect(packet.SUBACK), c.version); err != nil {
			t.Fatal(err)
		}
		return ack.Reasons[0] < 0x80
	}
	if !may("a/x") || may("b/x") {
		t.Fatal("the file is not obeyed")
	}
	replace(t, file, "topic b/#\n")
	for deadline := time.Now().Add(patience); !may("b/x"); {
		if time.Now().After(deadline) {
			t.Fatal("the change was not seen")
		}
	}
}

// revoke writes NAME with the certificates of those serial numbers.
func (a *authority) revoke(name string, serials ...int64) {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(-time.Minute)}
	for _, n := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	replace(a.t, a.file(name), string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})))
}

// device issues the certificate of a client.
func (a *authority) device(name string, serial int64) {
	where, err := url.Parse("urn:device:" + name)
	if err != nil {
		a.t.Fatal(err)
	}
	a.sign(name, &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name, Organization: []string{"plant"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name + ".example.com", "other.example.com"},
		EmailAddresses: []string{name + "@example.com"}, URIs: []*url.URL{where}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// refused reports that a client with that certificate is not let in.
func (a *authority) refused(g *gateway, name string) bool {
	c := a.dial(g, name)
	_, err := c.conn.Write((&packet.Connect{Version: packet.V5, ClientID: []byte("bad"), CleanStart: true}).Append(nil))
	if err == nil {
		_, err = c.next()
	}
	return err != nil
}

func TestReloadOfCertificates(t *testing.T) {
	a := newAuthority(t)
	cfg := a.server()
	door := cfg.Listeners[0].TLS
	door.ClientCA, door.RequireClientCertificate, door.CRLFile = a.file("ca.crt"), true, a.file("crl.pem")
	a.revoke("crl.pem", 99)
	for i, name := range []string{"one", "two", "three"} {
		a.device(name, int64(i+10))
	}
	g := start(t, cfg)
	login := func(name string) *client {
		c := a.dial(g, name)
		c.login(packet.Connect{ClientID: []byte(name), CleanStart: true})
		return c
	}
	one, two := login("one"), login("two")
	first := one.conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	// The server's certificate is renewed, and one of a client revoked.
	a.revoke("crl.pem", 99, 11)
	a.issue("server", time.Now().Add(30*time.Minute))
	if err := g.reload(); err != nil {
		t.Fatal(err)
	}
	if reason := two.expectClosed(); reason != packet.ReasonNotAuthorized {
		t.Errorf("closed with %v", reason)
	}
	one.answers()
	if !a.refused(g, "two") {
		t.Error("a revoked certificate is accepted")
	}
	three := login("three")
	if again := three.conn.(*tls.Conn).ConnectionState().PeerCertificates[0]; again.Equal(first) {
		t.Error("the old certificate is still shown")
	}
	// Files that do not fit change nothing: a key of another certificate, a list of another authority.
	a.issue("other", time.Now().Add(time.Hour))
	key, err := os.ReadFile(a.file("other.key"))
	if err != nil {
		t.Fatal(err)
	}
	replace(t, a.file("server.key"), string(key))
	if err := g.reload(); err == nil || !strings.Contains(err.Error(), "does not match") {
		t.Errorf("a key of another: %v", err)
	}
	a.issue("server", time.Now().Add(time.Hour))
	stranger := newAuthority(t)
	stranger.revoke("crl.pem", 10, 12)
	list, err := os.ReadFile(stranger.file("crl.pem"))
	if err != nil {
		t.Fatal(err)
	}
	replace(t, a.file("crl.pem"), string(list))
	if err := g.reload(); err == nil || !strings.Contains(err.Error(), "not signed by anyone in client_ca") {
		t.Errorf("a list of another: %v", err)
	}
	three.answers()
	login("one").answers()
	// Other roots: nobody's certificate leads there.
	a.revoke("crl.pem")
	roots, err := os.ReadFile(stranger.file("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	replace(t, a.file("ca.crt"), string(roots))
	replace(t, a.file("crl.pem"), string(list))
	if err := g.reload(); err != nil {
		t.Fatal(err)
	}
	if reason := three.expectClosed(); reason != packet.ReasonNotAuthorized {
		t.Errorf("closed with %v", reason)
	}
	if !a.refused(g, "one") {
		t.Error("a certificate of an authority that is gone is accepted")
	}
}

func TestUserFromCertificate(t *testing.T) {
	a := newAuthority(t)
	a.device("press4", 10)
	a.sign("nameless", &x509.Certificate{SerialNumber: big.NewInt(11), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	a.sign("odd", &x509.Certificate{SerialNumber: big.NewInt(12), Subject: pkix.Name{CommonName: "a\nb"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	for from, user := range map[string]string{
		UserFromSubjectCN: "press4", UserFromSubjectDN: "CN=press4,O=plant", UserFromSANDNS: "press4.example.com",
		UserFromSANEmail: "press4@example.com", UserFromSANURI: "urn:device:press4",
	} {
		t.Run(from, func(t *testing.T) {
			a.t = t
			cfg := a.server()
			door := cfg.Listeners[0].TLS
			cfg.Listeners[0].Anonymous = false
			door.ClientCA, door.RequireClientCertificate, door.UserFrom = a.file("ca.crt"), true, from
			cfg.ACLFile = writeFile(t, "acl", "user "+user+"\ntopic mine/#\nuser alice\ntopic alice/#\n")
			if p := problems(cfg); p != nil {
				t.Fatal(p)
			}
			g := start(t, cfg)
			c := a.dial(g, "press4")
			c.login(asUser("alice", "what she says does not matter"))
			c.subscribe("mine/#", 1)
			c.publish(packet.Publish{Topic: []byte("alice/x"), QoS: 1, PacketID: 1})
			var ack packet.Ack
			if err := ack.Decode(c.expect(packet.PUBACK), c.version); err != nil || ack.Reason != packet.ReasonNotAuthorized {
				t.Errorf("PUBACK %v, %v: not the rights of the certificate", ack.Reason, err)
			}
			if !a.refused(g, "nameless") {
				t.Error("a certificate without a name was accepted")
			}
			if from == UserFromSubjectCN && !a.refused(g, "odd") {
				t.Error("a name with a line feed was accepted")
			}
		})
	}
}

// Certificates, keys and lists of revoked ones as OpenSSL makes them, used by Mosquitto's clients.
func TestOpenSSLCertificates(t *testing.T) {
	openssl, pub := needPeer(t, "openssl"), needPeer(t, "mosquitto_pub")
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	config := "[ca]\ndefault_ca=x\n[x]\ndatabase=" + in("index") + "\nserial=" + in("serial") + "\nnew_certs_dir=" + dir +
		"\ncrlnumber=" + in("crlnumber") + "\ndefault_md=sha256\ndefault_days=1\ndefault_crl_days=1\npolicy=p\n[p]\ncommonName=supplied\n[server]\nsubjectAltName=IP:127.0.0.1\n[client]\nextendedKeyUsage=clientAuth\n"
	for name, text := range map[string]string{"conf": config, "index": "", "serial": "01\n", "crlnumber": "01\n"} {
		if err := os.WriteFile(in(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tool := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %q: %v: %s", args, err, out)
		}
	}
	tool("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", in("ca.key"), "-out", in("ca.crt"), "-subj", "/CN=plant authority", "-days", "1")
	ca := []string{"ca", "-config", in("conf"), "-cert", in("ca.crt"), "-keyfile", in("ca.key"), "-batch"}
	for _, name := range []string{"server", "press4", "press5"} {
		tool("req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", in(name+".key"), "-out", in(name+".csr"), "-subj", "/CN="+name)
		extensions := "client"
		if name == "server" {
			extensions = name
		}
		tool(append(ca, "-in", in(name+".csr"), "-out", in(name+".crt"), "-extensions", extensions)...)
	}
	tool(append(ca, "-gencrl", "-out", in("crl.pem"))...)
	cfg := Config{ACLFile: writeFile(t, "acl", "user press4\ntopic a/#\nuser press5\ntopic a/#\n"), Listeners: []ListenerConfig{{Address: "127.0.0.1:0", TLS: &TLSConfig{
		Certificate: in("server.crt"), Key: in("server.key"), ClientCA: in("ca.crt"), RequireClientCertificate: true,
		CRLFile: in("crl.pem"), UserFrom: UserFromSubjectCN,
	}}}}
	g := start(t, cfg)
	as := func(name string, args ...string) []string {
		return append([]string{"--cafile", in("ca.crt"), "--cert", in(name + ".crt"), "--key", in(name + ".key"), "-q", "1", "-V", "5"}, args...)
	}
	sub := startPeer(g, "mosquitto_sub", as("press4", "-t", "a/#", "-F", "%t %p")...)
	g.subscribed(1)
	runPeer(g, "mosquitto_pub", as("press5", "-t", "a/b", "-m", "hello")...)
	sub.expect("a/b hello")
	tool(append(ca, "-revoke", in("press5.crt"))...)
	tool(append(ca, "-gencrl", "-out", in("crl.pem"))...)
	if err := g.reload(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(pub, peerArgs(g, as("press5", "-t", "a/b", "-m", "revoked")...)...).CombinedOutput(); err == nil {
		t.Errorf("a revoked certificate was accepted: %s", out)
	}
	runPeer(g, "mosquitto_pub", as("press4", "-t", "a/b", "-m", "still here")...)
	sub.expect("a/b still here")
}

func FuzzRevoked(f *testing.F) {
	a := newAuthority(f)
	a.revoke("crl.pem", 1, 2)
	good, err := os.ReadFile(a.file("crl.pem"))
	if err != nil {
		f.Fatal(err)
	}
	block, _ := pem.Decode(good)
	f.Add(good)
	f.Add(block.Bytes)
	f.Add(append(good, "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"...))
	f.Fuzz(func(t *testing.T, text []byte) {
		revoked, err := parseRevoked(text, []*x509.Certificate{a.cert})
		if err == nil && len(revoked) > len(text) {
			t.Errorf("%d certificates in %d bytes", len(revoked), len(text))
		}
	})
}
