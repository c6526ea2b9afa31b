package broker

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	paho "github.com/eclipse/paho.mqtt.golang"

	"forebay/broker/packet"
)

// anyWebPort is a configuration with one anonymous WebSocket listener on a free port.
func anyWebPort() Config {
	cfg := anyPort()
	cfg.Listeners[0].Transport = TransportWebSocket
	return cfg
}

// The frames of a test's own bytes.
const (
	frameContinuation = 0x0
	frameText         = 0x1
	frameBinary       = 0x2
	frameClose        = 0x8
	framePing         = 0x9
	framePong         = 0xA
	frameFinal        = 0x80
)

// webClient speaks WebSocket with its own bytes.
type webClient struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// request opens a connection and sends the lines of a request.
func request(t *testing.T, g *gateway, lines ...string) (*webClient, *http.Response) {
	t.Helper()
	c := dial(t, g.addr(), packet.V5)
	w := &webClient{t: t, conn: c.conn, in: bufio.NewReader(c.conn)}
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	w.write([]byte(strings.Join(lines, "\r\n") + "\r\n\r\n"))
	r, err := http.ReadResponse(w.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	return w, r
}

// ask are the lines of a good request, with more behind them.
func ask(more ...string) []string {
	return append([]string{"GET /mqtt HTTP/1.1", "Host: gateway:8083", "Upgrade: websocket", "Connection: keep-alive, Upgrade",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol: mqtt"}, more...)
}

// upgraded opens a WebSocket.
func upgraded(t *testing.T, g *gateway) *webClient {
	t.Helper()
	w, r := request(t, g, ask()...)
	if r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %s", r.Status)
	}
	return w
}

func (w *webClient) write(b []byte) {
	w.t.Helper()
	if _, err := w.conn.Write(b); err != nil {
		w.t.Fatal(err)
	}
}

// frame is one frame as a client sends it: masked, here with zeros.
func frame(first byte, payload []byte) []byte {
	b := []byte{first}
	if n := len(payload); n < 126 {
		b = append(b, 0x80|byte(n))
	} else {
		b = append(b, 0x80|127)
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// read returns the next frame.
func (w *webClient) read() (first byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(w.in, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(head[1])
	if n == 126 {
		var long [2]byte
		if _, err := io.ReadFull(w.in, long[:]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint16(long[:]))
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(w.in, payload)
	return head[0], payload, err
}

// expect reads one frame, which must be this.
func (w *webClient) expect(first byte, payload ...byte) {
	w.t.Helper()
	gotFirst, got, err := w.read()
	if err != nil || gotFirst != first || !bytes.Equal(got, payload) {
		w.t.Fatalf("got frame %x % x, %v, want %x % x", gotFirst, got, err, first, payload)
	}
}

// closed reads until the end, and returns the status of the last frame if that closes; else 0.
func (w *webClient) closed() websocket.StatusCode {
	w.t.Helper()
	var status websocket.StatusCode
	for {
		first, payload, err := w.read()
		if err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				w.t.Fatal("the server did not close the connection")
			}
			return status
		}
		status = 0
		if first == frameFinal|frameClose && len(payload) >= 2 {
			status = websocket.StatusCode(binary.BigEndian.Uint16(payload))
			// The server may be gone already: it has said all it wanted to.
			_, _ = w.conn.Write(frame(frameFinal|frameClose, payload))
		}
	}
}

// webDial is dial through a WebSocket.
func webDial(t *testing.T, url string, roots *x509.CertPool) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		Subprotocols: []string{"mqtt"}, HTTPClient: &http.Client{Transport: transport},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() }) // the test may have closed it already
	conn.SetReadLimit(-1)
	return &client{t: t, conn: websocket.NetConn(context.Background(), conn, websocket.MessageBinary), version: packet.V5}
}

func TestWebSocketRequests(t *testing.T) {
	cfg := anyWebPort()
	cfg.Listeners[0].Origins = []string{"hmi.example.com", "*.plant.example", "https://secure.example"}
	g := start(t, cfg)
	replaced := func(old, with string) []string {
		lines := slices.Clone(ask())
		for i, l := range lines {
			lines[i] = strings.ReplaceAll(l, old, with)
		}
		return lines
	}
	for _, test := range []struct {
		name  string
		lines []string
		want  int
	}{
		{"good", ask(), 101},
		{"at the root", replaced("/mqtt ", "/ "), 101},
		{"with a query", replaced("/mqtt ", "/mqtt?x=1 "), 101},
		{"elsewhere", replaced("/mqtt ", "/other "), 404},
		{"no request of HTTP", []string{"\x10\x0c\x00\x04MQTT"}, 400},
		{"longer than it may be", ask("X: " + strings.Repeat("x", maxRequest)), 400},
		{"without subprotocol [MQTT-6.0.0-3]", slices.DeleteFunc(ask(), func(l string) bool { return strings.Contains(l, "Protocol") }), 400},
		{"another subprotocol", replaced("Protocol: mqtt", "Protocol: chat, MQTT"), 400},
		{"one of several [MQTT-6.0.0-4]", replaced("Protocol: mqtt", "Protocol: chat, MQTT, mqtt"), 101},
		{"no upgrade", slices.DeleteFunc(ask(), func(l string) bool { return strings.HasPrefix(l, "Upgrade") }), 426},
		{"old version", replaced("Version: 13", "Version: 8"), 400},
		{"POST", replaced("GET", "POST"), 405},
		{"same host", ask("Origin: http://gateway:8083"), 101},
		{"same host, other port", ask("Origin: http://gateway:80"), 403},
		{"listed host", ask("Origin: http://hmi.example.com"), 101},
		{"listed pattern", ask("Origin: https://a.plant.example"), 101},
		{"listed with scheme", ask("Origin: https://secure.example"), 101},
		{"listed with another scheme", ask("Origin: http://secure.example"), 403},
		{"stranger", ask("Origin: https://evil.example"), 403},
		{"none at all", ask("Origin: null"), 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, r := request(t, g, test.lines...)
			if r.StatusCode != test.want {
				t.Fatalf("status %s, want %d", r.Status, test.want)
			}
			if test.want != 101 {
				if _, err := io.Copy(io.Discard, w.in); err != nil && !strings.Contains(err.Error(), "reset") {
					t.Errorf("the connection is not closed: %v", err)
				}
				return
			}
			if p := r.Header.Values("Sec-WebSocket-Protocol"); !slices.Equal(p, []string{"mqtt"}) {
				t.Errorf("subprotocol %q was chosen", p)
			}
		})
	}
	g.settled("all gone", func(s Stats) bool { return s.Sockets == 0 })
}

func TestWebSocketPathOfItsOwn(t *testing.T) {
	cfg := anyWebPort()
	cfg.Listeners[0].Path = "/broker"
	g := start(t, cfg)
	for path, want := range map[string]int{"/broker": 101, "/mqtt": 404, "/": 404} {
		lines := ask()
		lines[0] = "GET " + path + " HTTP/1.1"
		if _, r := request(t, g, lines...); r.StatusCode != want {
			t.Errorf("%s: status %s, want %d", path, r.Status, want)
		}
	}
}

// [MQTT-6.0.0-2]: where frames begin and end says nothing of packets.
func TestWebSocketFramesAreNotPackets(t *testing.T) {
	g := start(t, anyWebPort())
	connect := (&packet.Connect{Version: packet.V311, ClientID: []byte("c"), CleanStart: true}).Append(nil)
	ping := packet.AppendPingreq(nil)
	both := append(slices.Clone(connect), ping...)
	connack, pingresp := []byte{0x20, 2, 0, 0}, []byte{0xD0, 0}
	for name, bytesOf := range map[string]func() []byte{
		"one frame": func() []byte { return frame(frameFinal|frameBinary, both) },
		"a frame for every byte, and empty ones": func() (b []byte) {
			for i := range both {
				b = append(b, frame(frameFinal|frameBinary, both[i:i+1])...)
				b = append(b, frame(frameFinal|frameBinary, nil)...)
			}
			return b
		},
		"one message in fragments, with a ping between": func() (b []byte) {
			b = append(b, frame(frameBinary, both[:3])...)
			b = append(b, frame(frameContinuation, both[3:9])...)
			b = append(b, frame(frameFinal|framePing, nil)...)
			return append(b, frame(frameFinal|frameContinuation, both[9:])...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := upgraded(t, g)
			w.write(bytesOf())
			var got []byte
			for len(got) < len(connack)+len(pingresp) {
				first, payload, err := w.read()
				switch {
				case err != nil:
					t.Fatal(err)
				case first == frameFinal|framePong:
				case first != frameFinal|frameBinary: // [MQTT-6.0.0-1]
					t.Fatalf("frame %x % x", first, payload)
				default:
					got = append(got, payload...)
				}
			}
			if !bytes.Equal(got, append(connack, pingresp...)) {
				t.Errorf("answers % x", got)
			}
			w.write(frame(frameFinal|frameBinary, []byte{0xE0, 0})) // DISCONNECT
			if status := w.closed(); status != websocket.StatusNormalClosure {
				t.Errorf("closed with %v", status)
			}
		})
	}
	g.settled("all gone", func(s Stats) bool { return s.Sockets == 0 })
}

// Whatever breaks the rules of WebSocket ends that connection and no other.
func TestWebSocketViolations(t *testing.T) {
	g := start(t, anyWebPort())
	good := webDial(t, "ws://"+g.addr().String()+"/mqtt", nil)
	good.login(packet.Connect{ClientID: []byte("good"), CleanStart: true})
	connect := (&packet.Connect{Version: packet.V5, ClientID: []byte("bad"), CleanStart: true}).Append(nil)
	for _, test := range []struct {
		name string
		send []byte
		want websocket.StatusCode // 0: any, or none
	}{
		{"text [MQTT-6.0.0-1]", frame(frameFinal|frameText, connect), websocket.StatusUnsupportedData},
		{"text behind MQTT [MQTT-6.0.0-1]", append(frame(frameFinal|frameBinary, connect), frame(frameFinal|frameText, []byte("x"))...), websocket.StatusUnsupportedData},
		{"not masked", []byte{frameFinal | frameBinary, 1, 0}, 0},
		{"reserved kind", frame(frameFinal|0x3, nil), websocket.StatusProtocolError},
		{"reserved bit", frame(frameFinal|0x40|frameBinary, connect), websocket.StatusProtocolError},
		{"continuation of nothing", frame(frameFinal|frameContinuation, connect), websocket.StatusProtocolError},
		{"a length of 2^63", []byte{frameFinal | frameBinary, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0},
		{"no MQTT", frame(frameFinal|frameBinary, []byte("GET / HTTP/1.1\r\n\r\n")), 0},
		{"its end", frame(frameFinal|frameClose, []byte{3, 0xE8}), websocket.StatusNormalClosure},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := upgraded(t, g)
			w.write(test.send)
			if status := w.closed(); test.want != 0 && status != test.want {
				t.Errorf("closed with %v, want %v", status, test.want)
			}
		})
	}
	good.send(packet.AppendPingreq(nil))
	good.expect(packet.PINGRESP)
	g.settled("only the good one left", func(s Stats) bool { return s.Sockets == 1 })
}

func TestWebSocketCarriesEverySize(t *testing.T) {
	a := newAuthority(t)
	secure := a.server()
	secure.Listeners[0].Transport = TransportWebSocket
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	for scheme, cfg := range map[string]Config{"ws": anyWebPort(), "wss": secure} {
		t.Run(scheme, func(t *testing.T) {
			g := start(t, cfg)
			url := scheme + "://" + g.addr().String() + "/mqtt"
			sub := webDial(t, url, roots)
			sub.login(packet.Connect{ClientID: []byte("sub"), CleanStart: true})
			sub.subscribe("big", 2)
			pub := webDial(t, url, roots)
			pub.login(packet.Connect{ClientID: []byte("pub"), CleanStart: true})
			delivered := make(chan struct{})
			for i, size := range []int{0, 1, feedBatch - 1, feedBatch, feedBatch + 1, feedBuffer, 3*feedBuffer + 17, 1<<20 - 100} {
				payload := bytes.Repeat([]byte{byte('a' + i)}, size)
				go func() {
					defer func() { delivered <- struct{}{} }() // also when it fails
					pub.deliver(packet.Publish{Topic: []byte("big"), Payload: payload, QoS: byte(i % 3), PacketID: uint16(i + 1)})
				}()
				if m := sub.receive(); m.payload != string(payload) || m.qos != byte(i%3) {
					t.Fatalf("payload of %d bytes arrived as %d others", size, len(m.payload))
				}
				<-delivered
			}
		})
	}
}

// A reader that does not read costs itself, and nothing is left of either when the server stops; also not of those
// that never got as far as a WebSocket.
func TestWebSocketSlowReaderAndStop(t *testing.T) {
	before := runtime.NumGoroutine()
	g := start(t, anyWebPort())
	dial(t, g.addr(), packet.V5).send([]byte("GET /mqtt HTTP/1.1\r\nHost")) // and never more
	slow := upgraded(t, g)
	slow.write(frame(frameFinal|frameBinary, (&packet.Connect{Version: packet.V5, ClientID: []byte("slow"), CleanStart: true}).Append(nil)))
	if _, _, err := slow.read(); err != nil {
		t.Fatal(err)
	}
	s := packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: []byte("flood"), QoS: 0}}}
	slow.write(frame(frameFinal|frameBinary, s.Append(nil, packet.V5)))
	g.settled("subscribed", func(s Stats) bool { return s.Subscriptions == 1 })
	pub := upgraded(t, g)
	send := func(b []byte) { t.Helper(); pub.write(frame(frameFinal|frameBinary, b)) }
	send((&packet.Connect{Version: packet.V5, ClientID: []byte("pub"), CleanStart: true}).Append(nil))
	if _, _, err := pub.read(); err != nil {
		t.Fatal(err)
	}
	p := packet.Publish{Topic: []byte("flood"), Payload: make([]byte, 32<<10)}
	for range 1000 {
		send(p.Append(nil, packet.V5))
	}
	send(packet.AppendPingreq(nil))
	pub.expect(frameFinal|frameBinary, 0xD0, 0)
	g.settled("drops for the slow reader only", func(s Stats) bool { return s.DroppedSlow > 0 && s.MemoryBytes < 2<<20 })
	g.stop()
	if _, b, err := pub.read(); err != nil || packet.Type(b[0]>>4) != packet.DISCONNECT {
		t.Errorf("got % x, %v, want DISCONNECT", b, err)
	}
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
		runtime.Gosched()
	}
}

func TestWebSocketPaho(t *testing.T) {
	g := start(t, anyWebPort())
	got := make(chan string, 1)
	opts := paho.NewClientOptions().AddBroker("ws://" + g.addr().String() + "/mqtt").SetClientID("paho").SetAutoReconnect(false)
	c := paho.NewClient(opts)
	for _, step := range []func() paho.Token{
		c.Connect,
		func() paho.Token {
			return c.Subscribe("a/+", 2, func(_ paho.Client, m paho.Message) { got <- fmt.Sprintf("%s %d %s", m.Topic(), m.Qos(), m.Payload()) })
		},
		func() paho.Token { return c.Publish("a/b", 2, false, "hello") },
	} {
		if token := step(); !token.WaitTimeout(patience) || token.Error() != nil {
			t.Fatalf("error %v", token.Error())
		}
	}
	select {
	case m := <-got:
		if m != "a/b 2 hello" {
			t.Errorf("got %q", m)
		}
	case <-time.After(patience):
		t.Error("nothing arrived")
	}
	c.Disconnect(100)
	g.settled("gone", func(s Stats) bool { return s.Sockets == 0 })
}

// script is a connection whose peer says what it has to say at once, and reads everything.
type script struct {
	net.Conn // nothing else of it is called
	in       bytes.Reader
}

func (s *script) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *script) Write(b []byte) (int, error) { return len(b), nil }
func (s *script) Close() error                { return nil }
func (s *script) SetDeadline(time.Time) error { return nil }

// Whatever is sent to a WebSocket listener, reading it ends, and no more comes out than went in.
func FuzzWebSocket(f *testing.F) {
	good := strings.Join(ask(), "\r\n") + "\r\n\r\n"
	for _, frames := range [][]byte{
		nil, frame(frameFinal|frameBinary, []byte{0xC0, 0}), frame(frameFinal|frameText, []byte("x")), frame(frameFinal|frameClose, []byte{3, 0xE8}),
		append(frame(frameBinary, []byte{0xC0}), frame(frameFinal|frameContinuation, []byte{0})...), frame(frameFinal|framePing, make([]byte, 125)),
		{frameFinal | frameBinary, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0}, frame(frameFinal|frameBinary, make([]byte, 1<<16)),
	} {
		f.Add([]byte(good), frames)
	}
	f.Add([]byte("GET / HTTP/1.0\r\n\r\n"), []byte{})
	f.Add([]byte("\x16\x03\x01\x02\x00\x01"), []byte{})
	f.Fuzz(func(t *testing.T, head, frames []byte) {
		s := &script{}
		s.in.Reset(append(slices.Clone(head), frames...))
		w, err := openWeb(s, &ListenerConfig{Transport: TransportWebSocket, Origins: []string{"*.example.com"}})
		if err != nil {
			return
		}
		n, err := io.Copy(io.Discard, struct{ io.Reader }{w})
		if err == nil && n > int64(len(head)+len(frames)) {
			t.Errorf("%d bytes came out of %d", n, len(head)+len(frames))
		}
	})
}
