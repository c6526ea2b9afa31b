package bridge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/broker/packet"
)

// gate is a proxy that knows one user and one name, which is not in DNS.
type gate struct {
	t          *testing.T
	listener   net.Listener
	user, pass string
	known, to  string // host:port as it is asked for, and where that is

	mu    sync.Mutex
	asked []string // targets
}

func newGate(t *testing.T, serve func(*gate, net.Conn), u *upstream) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, _ := net.SplitHostPort(u.listener.Addr().String())
	g := &gate{t: t, listener: l, user: "gw", pass: "open:sesame", known: "upstream.invalid:" + port, to: u.listener.Addr().String()}
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go serve(g, nc)
		}
	}()
	return g
}

// lead joins the two ways until one ends.
func (g *gate) lead(nc net.Conn, target string, ok, no func()) {
	g.mu.Lock()
	g.asked = append(g.asked, target)
	g.mu.Unlock()
	if target != g.known {
		no()
		nc.Close()
		return
	}
	out, err := net.Dial("tcp", g.to)
	if err != nil {
		no()
		nc.Close()
		return
	}
	ok()
	go func() {
		io.Copy(out, nc)
		out.Close()
	}()
	io.Copy(nc, out)
	nc.Close()
}

// serveHTTP is a proxy that takes CONNECT.
func serveHTTP(g *gate, nc net.Conn) {
	r, err := http.ReadRequest(bufio.NewReader(nc))
	if err != nil {
		nc.Close()
		return
	}
	say := func(status string) { io.WriteString(nc, "HTTP/1.1 "+status+"\r\nX: y\r\n\r\n") }
	// Basic credentials stand in a header of another name than the one that BasicAuth reads.
	r.Header.Set("Authorization", r.Header.Get("Proxy-Authorization"))
	user, pass, _ := r.BasicAuth()
	if r.Method != http.MethodConnect || r.Host != r.URL.Host || user != g.user || pass != g.pass {
		say("407 Whatever")
		nc.Close()
		return
	}
	g.lead(nc, r.Host, func() { say("200 Fine") }, func() { say("502 No") })
}

// serveSocks is a SOCKS5 proxy. RFC 1928, RFC 1929.
func serveSocks(g *gate, nc net.Conn) {
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(nc, b); err != nil {
			return make([]byte, n)
		}
		return b
	}
	methods := read(int(read(2)[1]))
	if !bytes.Contains(methods, []byte{2}) {
		nc.Write([]byte{5, 0xff})
		nc.Close()
		return
	}
	nc.Write([]byte{5, 2})
	user := string(read(int(read(2)[1])))
	pass := string(read(int(read(1)[0])))
	if user != g.user || pass != g.pass {
		nc.Write([]byte{1, 1})
		nc.Close()
		return
	}
	nc.Write([]byte{1, 0})
	head := read(5) // 5, CONNECT, 0, a name, its length
	host := string(read(int(head[4])))
	port := read(2)
	answer := func(reply byte) func() {
		return func() { nc.Write([]byte{5, reply, 0, 1, 0, 0, 0, 0, 0, 0}) }
	}
	if head[3] != 3 {
		host = "not a name"
	}
	g.lead(nc, net.JoinHostPort(host, strconv.Itoa(int(port[0])<<8|int(port[1]))), answer(0), answer(4))
}

// proxied sets the proxy of a configuration.
func (g *gate) proxied(c *Config, scheme, pass string) {
	file := filepath.Join(g.t.TempDir(), "proxy-password")
	if err := os.WriteFile(file, []byte(pass+"\n"), 0o600); err != nil {
		g.t.Fatal(err)
	}
	c.Proxy = ProxyConfig{URL: scheme + "://" + g.listener.Addr().String(), Username: g.user, PasswordFile: file}
}

var gates = map[string]func(*gate, net.Conn){"http": serveHTTP, "socks5": serveSocks}

// TestProxies goes with every scheme through every kind of proxy, to a name that only the proxy knows.
func TestProxies(t *testing.T) {
	ca := newAuthority(t, "good")
	secret := &tls.Config{Certificates: []tls.Certificate{ca.issue("server", func(c *x509.Certificate) { c.DNSNames = []string{"upstream.invalid"} })}}
	for kind, serve := range gates {
		for _, scheme := range []string{"mqtt", "mqtts", "ws", "wss"} {
			t.Run(kind+" "+scheme, func(t *testing.T) {
				u := newUpstream(t)
				p := newGate(t, serve, u)
				switch scheme {
				case "mqtts":
					secure(u, secret)
				case "ws":
					overWeb(u, nil)
				case "wss":
					overWeb(u, secret)
				}
				g := newGateway(t, scheme+"://"+p.known, func(c *Config) {
					p.proxied(c, kind, p.pass)
					if scheme == "mqtts" || scheme == "wss" {
						c.TLS.CA = ca.path("ca.crt")
					}
				}, nil)
				c := u.welcome(false, none)
				g.broker.sendAll(1, "t", "a")
				c.want("PUBLISH 1 up/t a #2")
				c.ack(packet.PUBACK, 2, 0)
				g.awaitEmpty()
				g.stop()
				if g.lines.count("sesame") != 0 {
					t.Errorf("the password is in the log:\n%s", g.lines)
				}
			})
		}
	}
}

func TestWhatTheProxySaysIsTold(t *testing.T) {
	for _, c := range []struct{ kind, pass, host, want string }{
		{"http", "wrong", "upstream.invalid", "it answers HTTP 407 Proxy Authentication Required: check proxy.username"},
		{"http", "open:sesame", "elsewhere.invalid", "it answers HTTP 502 Bad Gateway: it cannot reach elsewhere.invalid:"},
		{"socks5", "wrong", "upstream.invalid", "username/password authentication failed: check proxy.username"},
		{"socks5", "open:sesame", "elsewhere.invalid", "it answers: host unreachable"},
	} {
		t.Run(c.kind+" "+c.pass, func(t *testing.T) {
			u := newUpstream(t)
			p := newGate(t, gates[c.kind], u)
			g := newGateway(t, "mqtt://"+strings.Replace(p.known, "upstream.invalid", c.host, 1), func(cfg *Config) { p.proxied(cfg, c.kind, c.pass) }, nil)
			g.awaitStatus(c.want, func(s Status) bool {
				return strings.HasPrefix(s.LastError, "the proxy "+p.listener.Addr().String()+": ") && strings.Contains(s.LastError, c.want)
			})
			g.stop()
			if n := g.lines.count("WARN"); n != 1 {
				t.Errorf("%d warnings, want one line:\n%s", n, g.lines)
			}
		})
	}
}

// TestBrokenProxies: answers that are none, endless or missing neither hang nor grow.
func TestBrokenProxies(t *testing.T) {
	for _, c := range []struct{ name, kind, answer, want string }{
		{"silence", "http", "", "it closed the connection instead of answering"},
		{"silence", "socks5", "", "it closed the connection instead of answering"},
		{"not a proxy", "http", "SSH-2.0-x\r\n\r\n", "its answer is not HTTP"},
		{"not a proxy", "socks5", "HTTP/1.1 400 Bad Request\r\n\r\n", "unexpected protocol version 72"},
		{"endless head", "http", "HTTP/1.1 200 OK\r\nX: ", "it closed the connection instead of answering"},
		{"talks on", "http", "HTTP/1.1 200 OK\r\n\r\n\x20\x03\x00\x00\x00", "it says more than that the way is open"},
		{"hangs", "http", "hang", "no answer in time"},
		{"hangs", "socks5", "hang", "no answer in time"},
	} {
		t.Run(c.name+" "+c.kind, func(t *testing.T) {
			u := newUpstream(t)
			p := newGate(t, func(_ *gate, nc net.Conn) {
				nc.Read(make([]byte, 4096)) // whatever was asked
				if c.answer == "hang" {
					nc.Read(make([]byte, 4096)) // until the bridge gives up
				} else {
					io.WriteString(nc, c.answer)
				}
				for more := strings.Repeat("x", 4096); c.name == "endless head"; {
					if _, err := io.WriteString(nc, more); err != nil {
						break
					}
				}
				nc.Close()
			}, u)
			g := newGateway(t, "mqtt://"+p.known, func(cfg *Config) { p.proxied(cfg, c.kind, p.pass) }, func(b *Bridge) {
				if c.answer == "hang" {
					b.patience.connect = 50 * time.Millisecond
				}
			})
			g.awaitStatus(c.want, func(s Status) bool { return strings.Contains(s.LastError, c.want) })
		})
	}
}

func TestProxyThatIsNotThere(t *testing.T) {
	g := newGateway(t, "mqtt://upstream.invalid", func(c *Config) { c.Proxy.URL = "http://127.0.0.1:1" }, nil)
	g.awaitStatus("down", func(s Status) bool {
		return strings.HasPrefix(s.LastError, "the proxy 127.0.0.1:1: connection refused")
	})
}

// FuzzProxyAnswer gives the bridge whatever a proxy might answer.
func FuzzProxyAnswer(f *testing.F) {
	for _, text := range []string{"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 407 \r\nContent-Length: 5\r\n\r\nhello", "\x05\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x01",
		"\x05\xff", "\x05\x00\x05\x00\x00\x03\xffx", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n"} {
		f.Add([]byte(text), true)
		f.Add([]byte(text), false)
	}
	f.Fuzz(func(t *testing.T, answer []byte, isSocks bool) {
		p := &proxy{address: "proxy:1", socks: isSocks, username: "u"}
		nc, err := p.dial(t.Context(), func(ctx context.Context, _, _ string) (net.Conn, error) {
			return &recorded{Reader: bytes.NewReader(answer)}, nil
		}, "host:1883")
		if (nc == nil) == (err == nil) {
			t.Fatalf("connection %v, error %v", nc, err)
		}
		if err != nil {
			if line := explain(err); strings.ContainsAny(line, "\n\r\x1b") || len(line) > 1000 {
				t.Errorf("%q", line)
			}
		}
	})
}

// recorded is a connection whose peer has said everything in advance.
type recorded struct {
	io.Reader
	net.Conn
}

func (r *recorded) Read(b []byte) (int, error)       { return r.Reader.Read(b) }
func (r *recorded) Write(b []byte) (int, error)      { return len(b), nil }
func (r *recorded) Close() error                     { return nil }
func (r *recorded) SetDeadline(time.Time) error      { return nil }
func (r *recorded) SetReadDeadline(time.Time) error  { return nil }
func (r *recorded) SetWriteDeadline(time.Time) error { return nil }
