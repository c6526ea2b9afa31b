package bridge

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"forebay/broker/packet"
)

// webListener is an upstream's listener behind a web server: Accept gives what came through a WebSocket.
type webListener struct {
	net.Listener
	opened   chan net.Conn
	requests chan *http.Request // the first one that came
	deadline time.Time
}

func (l *webListener) SetDeadline(t time.Time) error {
	l.deadline = t
	return nil
}

func (l *webListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.opened:
		return nc, nil
	case <-time.After(time.Until(l.deadline)):
		return nil, os.ErrDeadlineExceeded
	}
}

// overWeb puts an upstream behind a web server, with TLS if secret is not nil, and returns its address.
func overWeb(u *upstream, secret *tls.Config) (string, *webListener) {
	u.t.Helper()
	l := &webListener{Listener: u.listener, opened: make(chan net.Conn, 10), requests: make(chan *http.Request, 1)}
	address := "ws://" + u.listener.Addr().String()
	inner := u.listener
	if secret != nil {
		address = strings.Replace(address, "ws:", "wss:", 1)
		inner = tls.NewListener(inner, secret)
	}
	server := &http.Server{ReadHeaderTimeout: patient, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case l.requests <- r:
		default:
		}
		web, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt"}})
		if err != nil {
			u.t.Errorf("upstream: %v", err)
			return
		}
		l.opened <- websocket.NetConn(u.t.Context(), web, websocket.MessageBinary)
	})}
	go server.Serve(inner)                 // ends with the test
	u.t.Cleanup(func() { server.Close() }) // nothing to learn from it
	u.listener = l
	return address, l
}

func TestWebSocket(t *testing.T) {
	u := newUpstream(t)
	address, l := overWeb(u, nil)
	g := newGateway(t, address+"/some%2Fwhere/mqtt?token=secret", withDown, nil)
	c := u.welcome(false, none)
	r := <-l.requests
	if r.RequestURI != "/some%2Fwhere/mqtt?token=secret" || r.Host != l.Addr().String() {
		t.Errorf("asked %s for %s", r.Host, r.RequestURI)
	}
	grant(c)
	g.broker.sendAll(1, "t", "a")
	c.want("PUBLISH 1 up/t a #2")
	c.ack(packet.PUBACK, 2, 0)
	// Packets begin and end where they like in frames [MQTT-6.0.0-2], which may be empty.
	p := command(1, 7, strings.Repeat("x", 100_000))
	b := p.Append(nil, c.v)
	for _, part := range [][]byte{b[:1], {}, b[1:50_000], append(b[50_000:], packet.AppendPingresp(nil)...)} {
		c.send(part)
	}
	c.want("PUBACK 7")
	g.stop()
	c.want("DISCONNECT Success")
	if g.lines.count("secret") != 0 {
		t.Errorf("the query is in the log:\n%s", g.lines)
	}
}

func TestWebSocketWithTLS(t *testing.T) {
	ca := newAuthority(t, "good")
	u := newUpstream(t)
	address, l := overWeb(u, &tls.Config{Certificates: []tls.Certificate{ca.issue("server", nil)}})
	g := newGateway(t, address, func(c *Config) { c.TLS.CA = ca.path("ca.crt") }, nil)
	c := u.welcome(false, none)
	if r := <-l.requests; r.URL.Path != "/mqtt" || r.TLS == nil {
		t.Errorf("asked for %s", r.URL)
	}
	g.broker.sendAll(2, "t", "a")
	c.want("PUBLISH 2 up/t a #2")
	// The bridge notices when a WebSocket goes, with and without a farewell.
	c.net.Close()
	c = u.welcome(true, none)
	c.want("PUBLISH 2 dup up/t a #2")
}

func TestTextFrameEndsTheConnection(t *testing.T) {
	u := newUpstream(t)
	server := &http.Server{ReadHeaderTimeout: patient, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		web, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt"}})
		if err == nil {
			web.Write(r.Context(), websocket.MessageText, []byte("hello")) // [MQTT-6.0.0-1]
		}
	})}
	go server.Serve(u.listener)
	t.Cleanup(func() { server.Close() })
	g := newGateway(t, "ws://"+u.listener.Addr().String(), nil, nil)
	g.awaitStatus("down", func(s Status) bool { return strings.Contains(s.LastError, "a WebSocket frame that is not binary") })
}

// TestHTTPWhereMQTTWasExpected: what stands on the way to the upstream, or in its place, is named in one line.
func TestHTTPWhereMQTTWasExpected(t *testing.T) {
	const upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	for _, c := range []struct{ name, scheme, answer, want string }{
		{"page", "mqtt", "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "HTTP 400 Bad Request instead of MQTT"},
		{"login page", "mqtt", "HTTP/1.1 302 Found\r\nLocation: http://portal.example/login?from=x\r\n\r\n", `a redirect to "portal.example" (HTTP 302 Found)`},
		{"half a head", "mqtt", "HTTP/1.1 302 Fo", "HTTP instead of MQTT"},
		{"WebSocket, login page", "ws", "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://portal.example/\r\n\r\n", `a redirect to "portal.example" (HTTP 307`},
		{"WebSocket, page", "ws", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "a page instead of a WebSocket"},
		{"WebSocket, wrong path", "ws", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "no WebSocket at the path"},
		{"WebSocket, refused", "ws", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "refuses the WebSocket: HTTP 403"},
		{"WebSocket, wrong key", "ws", upgrade + "Sec-WebSocket-Accept: x\r\n\r\n", "the request for a WebSocket is HTTP 101"},
		{"WebSocket, endless head", "ws", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxHTTPHead), "server response headers exceeded"},
		{"WebSocket, silence", "ws", "", "closed without an answer to the request for a WebSocket"},
		{"TLS", "mqtts", "HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP instead of TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUpstream(t)
			go func() {
				for {
					nc, err := u.listener.Accept()
					if err != nil {
						return
					}
					nc.Read(make([]byte, 4096)) // whatever was asked
					io.WriteString(nc, c.answer)
					nc.Close()
				}
			}()
			g := newGateway(t, c.scheme+"://"+u.listener.Addr().String(), nil, nil)
			g.awaitStatus(c.want, func(s Status) bool { return strings.Contains(s.LastError, c.want) })
			g.stop()
			if n := g.lines.count("WARN"); n != 1 {
				t.Errorf("%d warnings, want one line:\n%s", n, g.lines)
			}
		})
	}
}

func TestWebSocketWithoutMQTT(t *testing.T) {
	u := newUpstream(t)
	server := &http.Server{ReadHeaderTimeout: patient, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		websocket.Accept(w, r, nil) // agrees to no subprotocol [MQTT-6.0.0-3]
	})}
	go server.Serve(u.listener)
	t.Cleanup(func() { server.Close() })
	g := newGateway(t, "ws://"+u.listener.Addr().String(), nil, nil)
	g.awaitStatus("down", func(s Status) bool { return strings.Contains(s.LastError, "a WebSocket but not for MQTT") })
}
