package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// onlyLine waits for a line with the words and checks that it is the only one:
// a fault is told once, however often it is met.
func onlyLine(t *testing.T, g *gateway, words ...string) string {
	t.Helper()
	line := g.wait(words...)
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, l := range g.lines {
		if containsAll(l, words) {
			n++
		}
	}
	if n > 1 {
		t.Errorf("%d lines with %q, want one:\n%s", n, words, strings.Join(g.lines, "\n"))
	}
	return line
}

// roundTrip publishes through the gateway's own broker and receives it: the rest keeps working.
func roundTrip(t *testing.T, port int, word string) {
	t.Helper()
	sub := watch(t, port, "-t", "local/check")
	code, out := run(t, program(t, "mosquitto_pub"), "-p", fmt.Sprint(port), "-q", "1", "-t", "local/check", "-m", word)
	if code != 0 {
		t.Fatalf("mosquitto_pub: exit %d: %s", code, out)
	}
	sub.wait("local/check " + word)
}

const oneBridge = `
site: pump7
storage: {path: %%DIR%%/store}
broker: {listeners: [{address: "127.0.0.1:%%PORT%%", anonymous: true}]}
bridges:
  - name: cloud
    addresses: ["%s"]
    reconnect: {min: 100ms, max: 200ms}
    up: [{filter: "plant/#", topic: "sites/{site}/{topic}", qos: 2}]
%s`

// A full queue with when_full: reject refuses with 0x97 (5.0) or closes without
// an acknowledgement (3.1.1), says so once, and delivers all it acknowledged.
func TestFullQueueRefuses(t *testing.T) {
	publisher := program(t, "mosquitto_pub")
	cloud := startCloud(t)
	judge := watch(t, cloud.port, "-t", "sites/#", "-q", "2", "-c", "-i", "judge")
	if code := cloud.stop(); code != 0 {
		t.Fatalf("mosquitto: exit %d", code)
	}
	gw := startGateway(t, fmt.Sprintf(oneBridge, fmt.Sprintf("mqtt://127.0.0.1:%d", cloud.port),
		"    queue: {max_size: 1MiB, when_full: reject}\n"))

	body := strings.Repeat("x", 20_000)
	acknowledged := 0
	for full := false; !full; {
		code, out := run(t, publisher, "-V", "5", "-p", fmt.Sprint(gw.port), "-q", "1", "-t", "plant/a",
			"-m", fmt.Sprintf("number %d %s", acknowledged, body))
		switch {
		case strings.Contains(strings.ToLower(out), "quota exceeded"):
			full = true
		case code != 0:
			t.Fatalf("mosquitto_pub: exit %d: %s", code, out)
		default:
			acknowledged++
		}
		if acknowledged > 1000 {
			t.Fatal("1 MiB holds 20 MB: the queue has no limit")
		}
	}
	if acknowledged < 45 {
		t.Errorf("only %d messages of 20 KB fit into 1 MiB", acknowledged)
	}
	if code, out := run(t, publisher, "-V", "311", "-p", fmt.Sprint(gw.port), "-q", "1", "-t", "plant/a", "-m", "refused "+body); code == 0 {
		t.Errorf("mosquitto_pub -V 311 is acknowledged by a full queue: %s", out)
	}
	onlyLine(t, gw, "cloud", "full")
	// It is shown, too: on the bridge's status topic.
	status := watch(t, gw.port, "-t", "$SYS/forebay/bridges/cloud")
	status.wait(`"refused":{"bytes":`)
	roundTrip(t, gw.port, "still-here")

	cloud.restart()
	for n := range acknowledged {
		judge.wait(fmt.Sprintf("sites/pump7/plant/a number %d ", n))
	}
	if judge.has(0, []string{"refused"}) {
		t.Error("a refused message arrived")
	}
}

func TestUnreachableUpstreamAtStart(t *testing.T) {
	publisher := program(t, "mosquitto_pub")
	cloud := startCloud(t)
	judge := watch(t, cloud.port, "-t", "sites/#", "-q", "2", "-c", "-i", "judge")
	if code := cloud.stop(); code != 0 {
		t.Fatalf("mosquitto: exit %d", code)
	}
	gw := startGateway(t, fmt.Sprintf(oneBridge, fmt.Sprintf("mqtt://127.0.0.1:%d", cloud.port), ""))
	code, out := run(t, publisher, "-p", fmt.Sprint(gw.port), "-q", "2", "-t", "plant/a", "-m", "kept")
	if code != 0 {
		t.Fatalf("mosquitto_pub: exit %d: %s", code, out)
	}
	roundTrip(t, gw.port, "still-here")
	onlyLine(t, gw, "WARN", "cloud", "refused")

	cloud.restart()
	judge.wait("sites/pump7/plant/a kept")
}

func TestWrongPassword(t *testing.T) {
	dir := t.TempDir()
	openTo(t, dir)
	passwords := filepath.Join(dir, "passwords")
	if code, out := run(t, program(t, "mosquitto_passwd"), "-c", "-b", passwords, "gw7", "right"); code != 0 {
		t.Fatalf("mosquitto_passwd: exit %d: %s", code, out)
	}
	if err := os.Chmod(passwords, 0o644); err != nil {
		t.Fatal(err)
	}
	cloud := startCloud(t, "allow_anonymous false", "password_file "+passwords)
	secret := write(t, t.TempDir(), "secret", "not-the-right-one\n")
	gw := startGateway(t, fmt.Sprintf(oneBridge, fmt.Sprintf("mqtt://127.0.0.1:%d", cloud.port),
		"    username: gw7\n    password_file: "+secret+"\n"))
	for range 3 { // three refusals on the cloud's side, one line on ours
		cloud.find(cloud.printed(), "not authorised")
	}
	line := onlyLine(t, gw, "WARN", "cloud", "password")
	if strings.Contains(gw.output(), "not-the-right-one") {
		t.Errorf("the password is in the log: %s", line)
	}
	roundTrip(t, gw.port, "still-here")
}

// certificate writes a self-signed server certificate for 127.0.0.1 and its key.
func certificate(t *testing.T, dir string, from, to time.Time) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cloud"}, NotBefore: from, NotAfter: to,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = write(t, dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	key = write(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})))
	for _, path := range []string{cert, key} {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestExpiredCertificate(t *testing.T) {
	dir := t.TempDir()
	openTo(t, dir)
	cert, key := certificate(t, dir, time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour))
	cloud := startCloud(t, "allow_anonymous true", "certfile "+cert, "keyfile "+key)
	gw := startGateway(t, fmt.Sprintf(oneBridge, fmt.Sprintf("mqtts://127.0.0.1:%d", cloud.port), "    tls: {ca: "+cert+"}\n"))
	onlyLine(t, gw, "WARN", "cloud", "certificate", "expired")
	roundTrip(t, gw.port, "still-here")
}

// With a valid certificate on both sides the same set-up works (and mutual TLS is asked for).
func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	openTo(t, dir)
	cert, key := certificate(t, dir, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	cloud := startCloud(t, "allow_anonymous true", "certfile "+cert, "keyfile "+key, "cafile "+cert, "require_certificate true")
	judge := watch(t, cloud.port, "-h", "127.0.0.1", "--cafile", cert, "--cert", cert, "--key", key, "-t", "sites/#")
	gw := startGateway(t, fmt.Sprintf(oneBridge, fmt.Sprintf("mqtts://127.0.0.1:%d", cloud.port),
		fmt.Sprintf("    tls: {ca: %s, certificate: %s, key: %s}\n", cert, cert, key)))
	code, out := run(t, program(t, "mosquitto_pub"), "-p", fmt.Sprint(gw.port), "-q", "2", "-t", "plant/a", "-m", "sealed")
	if code != 0 {
		t.Fatalf("mosquitto_pub: exit %d: %s", code, out)
	}
	judge.wait("sites/pump7/plant/a sealed")
}

// A missing serial port and an illegal register cost only themselves.
func TestMissingPortAndIllegalRegister(t *testing.T) {
	plc := startSlave(t, []tagCase{{Unit: 1, Table: "holding", Address: 198, Format: "h", Value: 77}}, "tcp")
	gw := newGateway(t, fmt.Sprintf(`
storage: {path: %%DIR%%/store}
broker: {listeners: [{address: "127.0.0.1:%%PORT%%", anonymous: true}]}
modbus:
  links:
    - name: line
      rtu: {port: %%DIR%%/no-such-port, baud: 9600, parity: even}
      timeout: 100ms
      units:
        - {name: far, unit: 3, interval: 50ms, retain: true, topic: "plant/{unit}/{tag}", tags: [{name: a, register: holding, address: 0, type: int16}]}
    - name: net
      tcp: "127.0.0.1:%d"
      timeout: 1s
      units:
        - name: near
          unit: 1
          interval: 50ms
          retain: true
          topic: "plant/{unit}/{tag}"
          tags:
            - {name: last, register: holding, address: 198, type: int16}
            - {name: beyond, register: holding, address: 200, type: int16}
            - {name: edge, register: holding, address: 199, type: int16}
`, plc.port))
	gw.restart()
	sub := watch(t, gw.port, "-t", "plant/#", "-q", "1")
	for range 5 { // it goes on being polled
		s := sampleOn(t, sub, "plant/near/last", func(s sample) bool { return s.Quality == "good" })
		if string(s.Value) != "77" {
			t.Errorf("last: value %s, want 77", s.Value)
		}
	}
	beyond := sampleOn(t, sub, "plant/near/beyond", func(sample) bool { return true })
	if beyond.Quality != "bad" || !strings.Contains(beyond.Error, "illegal data address") {
		t.Errorf("beyond: %+v, want bad quality and the exception in words", beyond)
	}
	far := sampleOn(t, sub, "plant/far/a", func(sample) bool { return true })
	if far.Quality != "bad" || string(far.Value) != "null" {
		t.Errorf("far: %+v, want bad quality and no value", far)
	}
	onlyLine(t, gw, "line", "no-such-port")
	roundTrip(t, gw.port, "still-here")
}

func TestTruncatedConfiguration(t *testing.T) {
	gw := newGateway(t, "broker:\n  listeners:\n    - {address: \"127.0.0.1:%PORT%\", anonym")
	for _, args := range [][]string{{"run", "-c", gw.conf}, {"check", gw.conf}} {
		code, out := run(t, forebay(t), args...)
		if code != 78 {
			t.Errorf("forebay %s: exit %d, want 78", args[0], code)
		}
		if strings.Count(strings.TrimSpace(out), "\n") != 0 || !strings.Contains(out, "forebay.yaml") {
			t.Errorf("forebay %s prints, want one line that names the file:\n%s", args[0], out)
		}
	}
}
