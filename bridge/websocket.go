package bridge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/coder/websocket"
)

const (
	// subprotocol is what client and server agree upon [MQTT-6.0.0-3].
	subprotocol = "mqtt"
	// defaultPath is where brokers look for MQTT when the address does not say.
	defaultPath = "/mqtt"
	// maxHTTPHead bounds the head of an HTTP answer, in bytes.
	maxHTTPHead = 8 << 10
)

// httpError is an answer in HTTP that is not the one that was asked for.
type httpError struct {
	status    int    // 101: a switch to something else
	location  string // host that a redirect points to, printable; may be empty
	webSocket bool   // a WebSocket was asked for; otherwise nothing in HTTP
}

func (e *httpError) Error() string {
	return fmt.Sprintf("bridge: connect: HTTP answer %d %s", e.status, http.StatusText(e.status))
}

// newHTTPError describes r.
func newHTTPError(r *http.Response, webSocket bool) *httpError {
	e := &httpError{status: r.StatusCode, webSocket: webSocket}
	if to, err := r.Location(); err == nil {
		e.location = printable([]byte(to.Hostname()))
	}
	return e
}

// httpAnswer returns an *httpError if b, the first bytes of a peer, begin an answer in HTTP: something on the way
// speaks in the upstream's name. It returns nil otherwise.
func httpAnswer(b []byte) error {
	if !bytes.HasPrefix(b, []byte("HTTP/")) {
		return nil
	}
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
	if err != nil {
		return &httpError{} // the head is not whole: the status would be a guess
	}
	return newHTTPError(r, false)
}

// webConn carries MQTT in the binary frames of a WebSocket. Deadlines and addresses are those of the connection below.
// Read belongs to one goroutine, Write to another.
type webConn struct {
	net.Conn // below it: TCP or TLS
	web      *websocket.Conn

	frame io.Reader // owned by the reader; nil: the next one has not begun
}

// openWeb asks the server at the other end of nc for a WebSocket at a. ctx bounds it, together with the deadline of nc.
// Redirects are not followed: they would lead out of the configuration.
func openWeb(ctx context.Context, nc net.Conn, a address) (*webConn, error) {
	given := false
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHTTPHead,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if given {
				return nil, io.ErrUnexpectedEOF // one connection, one try
			}
			given = true
			return nc, nil
		}}
	target := url.URL{Scheme: "ws", Host: a.dial, Path: a.path, RawPath: a.rawPath, RawQuery: a.query} // TLS is below, where there is any
	web, answer, err := websocket.Dial(ctx, target.String(), &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		HTTPHeader: http.Header{"User-Agent": {"forebay"}}, Host: a.httpHost,
		Subprotocols: []string{subprotocol}, CompressionMode: websocket.CompressionDisabled,
	})
	switch {
	case err != nil && answer != nil:
		return nil, newHTTPError(answer, true)
	case err != nil:
		return nil, plainTransport(err)
	case web.Subprotocol() != subprotocol:
		return nil, errNoSubprotocol // [MQTT-6.0.0-3]
	}
	// A message may be of any length: its bytes are handed on as they come. Packets have a limit of their own.
	web.SetReadLimit(-1)
	return &webConn{Conn: nc, web: web}, nil
}

var (
	errNoSubprotocol = errors.New("bridge: connect: the server does not agree to the WebSocket subprotocol mqtt")
	errSilentWeb     = errors.New("bridge: connect: closed without an answer to the request for a WebSocket")
)

// plainTransport strips the URL, which may hold a signature, from an error of the HTTP client.
func plainTransport(err error) error {
	if asked, ok := errors.AsType[*url.Error](err); ok {
		err = asked.Err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errSilentWeb
	}
	return err
}

// Read takes the frames for what they are to MQTT: pieces of a stream [MQTT-6.0.0-2].
func (w *webConn) Read(b []byte) (int, error) {
	for {
		if w.frame == nil {
			kind, frame, err := w.web.Reader(context.Background())
			if err != nil {
				return 0, webEnd(err)
			}
			if kind != websocket.MessageBinary {
				return 0, &brokenError{"a WebSocket frame that is not binary"} // [MQTT-6.0.0-1]
			}
			w.frame = frame
		}
		n, err := w.frame.Read(b)
		if err == io.EOF {
			w.frame, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, webEnd(err)
		}
	}
}

// webEnd returns io.EOF for an end that the peer has announced.
func webEnd(err error) error {
	if websocket.CloseStatus(err) != -1 {
		return io.EOF
	}
	return err
}

// Write sends b as one frame.
func (w *webConn) Write(b []byte) (int, error) {
	if err := w.web.Write(context.Background(), websocket.MessageBinary, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close ends the connection at once. MQTT has said what there was to say.
func (w *webConn) Close() error { return w.web.CloseNow() }
