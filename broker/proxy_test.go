package broker

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"forebay/broker/packet"
)

// proxyV2 makes a header of version 2.
func proxyV2(command, family byte, body string) string {
	return proxySignature + string([]byte{command, family, byte(len(body) >> 8), byte(len(body))}) + body
}

var (
	v2IPv4 = proxyV2(0x21, 0x11, "\xC0\x00\x02\x07\x0A\x00\x00\x01\x1F\x90\x07\x5B"+"\x04\x00\x01x") // with a TLV behind
	v2IPv6 = proxyV2(0x21, 0x21, "\x20\x01\x0d\xb8"+strings.Repeat("\x00", 11)+"\x07"+strings.Repeat("\x00", 16)+"\x1F\x90\x07\x5B")
)

var proxyHeaders = []struct {
	name, header string
	client       string // empty: none is named
	wrong        bool
}{
	{"v1 IPv4", "PROXY TCP4 192.0.2.7 10.0.0.1 8080 1883\r\n", "192.0.2.7:8080", false},
	{"v1 IPv6", "PROXY TCP6 2001:db8::7 ::1 8080 1883\r\n", "[2001:db8::7]:8080", false},
	{"v1 IPv4 in IPv6", "PROXY TCP6 ::ffff:192.0.2.7 ::1 8080 1883\r\n", "192.0.2.7:8080", false},
	{"v1 unknown", "PROXY UNKNOWN\r\n", "", false},
	{"v1 unknown with more", "PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", "", false},
	{"v1 without carriage return", "PROXY TCP4 192.0.2.7 10.0.0.1 8080 1883\n", "", true},
	{"v1 too long", "PROXY UNKNOWN " + strings.Repeat("x", 100) + "\r\n", "", true},
	{"v1 endless", "PROXY " + strings.Repeat("x", 200), "", true},
	{"v1 wrong family", "PROXY TCP4 2001:db8::7 ::1 8080 1883\r\n", "", true},
	{"v1 with a zone", "PROXY TCP6 fe80::1%eth0 ::1 8080 1883\r\n", "", true},
	{"v1 port too large", "PROXY TCP4 192.0.2.7 10.0.0.1 65536 1883\r\n", "", true},
	{"v1 without ports", "PROXY TCP4 192.0.2.7 10.0.0.1\r\n", "", true},
	{"v1 UDP", "PROXY UDP4 192.0.2.7 10.0.0.1 8080 1883\r\n", "", true},
	{"v1 nothing", "PROXY \r\n", "", true},
	{"v2 IPv4", v2IPv4, "192.0.2.7:8080", false},
	{"v2 IPv6", v2IPv6, "[2001:db8::7]:8080", false},
	{"v2 local", proxyV2(0x20, 0x00, ""), "", false},
	{"v2 local with an address", proxyV2(0x20, 0x11, "\xC0\x00\x02\x07\x0A\x00\x00\x01\x1F\x90\x07\x5B"), "", false},
	{"v2 unknown family", proxyV2(0x21, 0x00, "something"), "", false},
	{"v2 Unix socket", proxyV2(0x21, 0x31, strings.Repeat("x", 216)), "", false},
	{"v2 UDP", proxyV2(0x21, 0x12, "\xC0\x00\x02\x07\x0A\x00\x00\x01\x1F\x90\x07\x5B"), "", true},
	{"v2 too short for its family", proxyV2(0x21, 0x21, "\xC0\x00\x02\x07"), "", true},
	{"v2 other command", proxyV2(0x22, 0x11, "\xC0\x00\x02\x07\x0A\x00\x00\x01\x1F\x90\x07\x5B"), "", true},
	{"v2 of another version", proxyV2(0x11, 0x11, "\xC0\x00\x02\x07\x0A\x00\x00\x01\x1F\x90\x07\x5B"), "", true},
	{"v2 too long", proxyV2(0x21, 0x11, strings.Repeat("x", maxProxyHeader)), "", true},
	{"CONNECT", "\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", "", true},
	{"TLS", "\x16\x03\x01\x02\x00\x01", "", true},
}

func TestProxyHeaders(t *testing.T) {
	for _, test := range proxyHeaders {
		t.Run(test.name, func(t *testing.T) {
			// Whole with MQTT behind it, one byte after the other, and read from a stream.
			client, n, err := parseProxy([]byte(test.header + "behind"))
			if (err != nil) != test.wrong {
				t.Fatalf("%v", err)
			}
			from := strings.NewReader(test.header + "behind")
			read, readErr := readProxy(from)
			if (readErr != nil) != test.wrong {
				t.Fatalf("read: %v", readErr)
			}
			if test.wrong {
				return
			}
			if n != len(test.header) || client.IsValid() != (test.client != "") || client.IsValid() && client.String() != test.client {
				t.Errorf("%v of %d bytes, want %s of %d", client, n, test.client, len(test.header))
			}
			for i := range len(test.header) {
				if _, n, err := parseProxy([]byte(test.header[:i])); n >= 0 || err != nil || i-n > len(test.header) {
					t.Fatalf("of %d bytes: %d, %v", i, n, err)
				}
			}
			if rest, err := io.ReadAll(from); read != client || err != nil || string(rest) != "behind" {
				t.Errorf("read %v, left %q", read, rest)
			}
		})
	}
}

func FuzzProxy(f *testing.F) {
	for _, test := range proxyHeaders {
		f.Add([]byte(test.header))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		client, n, err := parseProxy(b)
		if n > len(b) || n > maxProxyHeader || n > 0 && err != nil || n < -maxProxyHeader {
			t.Fatalf("%d of %d bytes, %v", n, len(b), err)
		}
		if n == 0 && err == nil {
			t.Fatal("neither whole nor wrong, and nothing is wanted")
		}
		read, readErr := readProxy(bytes.NewReader(b))
		if read != client || (readErr == nil) != (n > 0) {
			t.Fatalf("read %v, %v; parsed %v, %v", read, readErr, client, err)
		}
		if readErr != nil && n < 0 && !errors.Is(readErr, io.EOF) && !errors.Is(readErr, io.ErrUnexpectedEOF) {
			t.Fatal(readErr)
		}
	})
}

// behindProxy is a configuration with a listener behind a proxy, and one for health checks.
func behindProxy() Config {
	cfg := anyPort()
	cfg.Listeners[0].ProxyProtocol = true
	return cfg
}

// remoteOf returns the address that the server has for the one client it has.
func (g *gateway) remoteOf() string {
	g.t.Helper()
	var remote string
	g.inLoop(func(l *loop) bool {
		l.eachStream(func(s *stream) { remote = s.conn.Info().Remote })
		return true
	})
	return remote
}

func TestProxyInFrontOfMQTT(t *testing.T) {
	connect := string((&packet.Connect{Version: packet.V5, ClientID: []byte("c"), CleanStart: true}).Append(nil))
	for _, test := range proxyHeaders {
		if test.wrong {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			g := start(t, behindProxy())
			for _, cut := range []int{0, 1, len(test.header) / 2, len(test.header), len(test.header) + 3} {
				c := dial(t, g.addr(), packet.V5)
				whole := test.header + connect
				for _, part := range []string{whole[:cut], whole[cut:]} {
					c.send([]byte(part))
				}
				c.expect(packet.CONNACK)
				want := test.client
				if want == "" {
					want = c.conn.LocalAddr().String()
				}
				if got := g.remoteOf(); got != want {
					t.Errorf("cut at %d: the client is %s, want %s", cut, got, want)
				}
				c.answers()
				c.disconnect()
				g.settled("gone", func(s Stats) bool { return s.Sockets == 0 })
			}
			g.inLoop(func(l *loop) bool { return l.keptBytes == 0 })
		})
	}
}

func TestProxyHeaderIsNotOptional(t *testing.T) {
	g := start(t, behindProxy())
	for _, test := range proxyHeaders {
		if !test.wrong {
			continue
		}
		c := dial(t, g.addr(), packet.V5)
		c.send([]byte(test.header))
		c.expectClosed()
	}
	// One that goes in the middle of its header.
	c := dial(t, g.addr(), packet.V5)
	c.send([]byte("PROXY TCP4"))
	if err := c.conn.Close(); err != nil {
		t.Fatal(err)
	}
	g.settled("all gone", func(s Stats) bool { return s.Sockets == 0 && s.Connections == 0 })
	g.inLoop(func(l *loop) bool { return l.keptBytes == 0 })
}

func TestProxyInFrontOfTLS(t *testing.T) {
	a := newAuthority(t)
	cfg := a.server()
	cfg.Listeners[0].ProxyProtocol = true
	g := start(t, cfg)
	for _, header := range []string{v2IPv4, v2IPv6, "PROXY TCP4 192.0.2.7 10.0.0.1 8080 1883\r\n"} {
		c := dial(t, g.addr(), packet.V5)
		c.send([]byte(header))
		roots := x509.NewCertPool()
		roots.AddCert(a.cert)
		c.conn = tls.Client(c.conn, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
		c.login(packet.Connect{ClientID: []byte("c"), CleanStart: true})
		want, _, _ := parseProxy([]byte(header))
		if got := g.remoteOf(); got != want.String() {
			t.Errorf("the client is %s, want %s", got, want)
		}
		c.disconnect()
		g.settled("gone", func(s Stats) bool { return s.Sockets == 0 })
	}
	plain := dial(t, g.addr(), packet.V5)
	plain.conn = tls.Client(plain.conn, &tls.Config{InsecureSkipVerify: true})
	if _, err := plain.conn.Write([]byte{0x10}); err == nil {
		t.Error("TLS without the header was accepted")
	}
}

// Guessing is counted for the client, not for the proxy.
func TestProxyAndGuessing(t *testing.T) {
	cfg := Config{PasswordFile: writeFile(t, "passwd", userLines), Listeners: []ListenerConfig{{Address: "127.0.0.1:0", ProxyProtocol: true}}}
	g := start(t, cfg)
	login := func(from netip.Addr, password string) packet.Reason {
		c := dial(t, g.addr(), packet.V5)
		c.send([]byte("PROXY TCP4 " + from.String() + " 10.0.0.1 8080 1883\r\n"))
		return c.connect(asUser("alice", password)).Reason
	}
	bad, good := netip.MustParseAddr("192.0.2.66"), netip.MustParseAddr("192.0.2.7")
	for range wrongPerName {
		login(bad, "guess")
	}
	if got := login(bad, "secret"); got != packet.ReasonConnectionRateExceeded {
		t.Errorf("CONNACK %v", got)
	}
	if got := login(good, "secret"); got != packet.ReasonSuccess {
		t.Errorf("another address: CONNACK %v", got)
	}
}
