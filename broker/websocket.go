package broker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// webWire carries MQTT in the binary frames of a WebSocket. Read belongs to one goroutine, Write and endWriting to
// another.
type webWire struct {
	// Constant after openWeb.
	conn *websocket.Conn
	raw  net.Conn // below it: TCP or TLS

	// Owned by the reader.
	frame io.Reader // nil: the next one has not begun
}

const (
	// subprotocol is what client and server agree upon [MQTT-6.0.0-3] [MQTT-6.0.0-4].
	subprotocol = "mqtt"
	// defaultPath is where clients look for MQTT, beside "/".
	defaultPath = "/mqtt"
	// maxRequest bounds the HTTP request that begins a WebSocket, in bytes.
	maxRequest = 8 << 10
	// webBuffer is the size of the buffers between frames and bytes; larger reads and writes pass them by.
	webBuffer = 1 << 10
)

var (
	errNoHTTP        = errors.New("not an HTTP request of at most 8 KiB")
	errNoSubprotocol = errors.New("subprotocol " + subprotocol + " is not offered [MQTT-6.0.0-3]")
	errNotBinary     = errors.New("a frame that is not binary [MQTT-6.0.0-1]")
)

// openWeb reads the one HTTP request of a connection and answers it: with a WebSocket, or with the reason why not.
// The deadline of raw bounds its time.
func openWeb(raw net.Conn, cfg *ListenerConfig) (*webWire, error) {
	u := &upgrade{conn: raw, header: http.Header{}}
	u.rw = bufio.NewReadWriter(bufio.NewReaderSize(io.LimitReader(raw, maxRequest), webBuffer), bufio.NewWriterSize(raw, webBuffer))
	r, err := http.ReadRequest(u.rw.Reader)
	if err != nil {
		// Its text would have the beginning of what came, which may be a CONNECT with a password.
		return nil, u.refuse(http.StatusBadRequest, errNoHTTP)
	}
	if !cfg.hasPath(r.URL.Path) {
		return nil, u.refuse(http.StatusNotFound, errors.New("no MQTT at the path "+strconv.Quote(r.URL.Path)))
	}
	const protocolHeader = "Sec-Websocket-Protocol"
	if !slices.ContainsFunc(r.Header[protocolHeader], offersMQTT) {
		return nil, u.refuse(http.StatusBadRequest, errNoSubprotocol)
	}
	r.Header.Set(protocolHeader, subprotocol) // what else is offered is not to be chosen [MQTT-6.0.0-4]
	conn, err := websocket.Accept(u, r, &websocket.AcceptOptions{
		Subprotocols: []string{subprotocol}, OriginPatterns: cfg.Origins, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, u.finish(err)
	}
	// A message may be of any length: its bytes are handed on as they come. Packets have a limit of their own.
	conn.SetReadLimit(-1)
	return &webWire{conn: conn, raw: raw}, nil
}

func (c *ListenerConfig) hasPath(path string) bool {
	if c.Path != "" {
		return path == c.Path
	}
	return path == defaultPath || path == "/"
}

// offersMQTT reports whether mqtt is in a list of subprotocols.
func offersMQTT(list string) bool {
	for name := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(name) == subprotocol {
			return true
		}
	}
	return false
}

// Read takes the frames for what they are to MQTT: pieces of a stream [MQTT-6.0.0-2].
func (w *webWire) Read(b []byte) (int, error) {
	for {
		if w.frame == nil {
			kind, frame, err := w.conn.Reader(context.Background())
			if err != nil {
				return 0, webEnd(err)
			}
			if kind != websocket.MessageBinary {
				return 0, w.refuseText() // [MQTT-6.0.0-1]
			}
			w.frame = frame
		}
		n, err := w.frame.Read(b)
		if err != nil {
			w.frame = nil
			if err == io.EOF {
				err = nil
			}
		}
		if n > 0 || err != nil {
			return n, webEnd(err)
		}
	}
}

// webEnd returns io.EOF for an end that the peer has announced.
func webEnd(err error) error {
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
		return io.EOF
	}
	return err
}

func (w *webWire) refuseText() error {
	if err := w.raw.SetDeadline(time.Now().Add(closeTime)); err == nil {
		// The peer need not hear why; it is closed anyhow.
		_ = w.conn.Close(websocket.StatusUnsupportedData, "MQTT takes binary frames only")
	}
	return errNotBinary
}

// Write sends b as one frame.
func (w *webWire) Write(b []byte) (int, error) {
	if err := w.conn.Write(context.Background(), websocket.MessageBinary, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// endWriting says that nothing more comes, and waits for the peer to say so too, or for the loop to close.
func (w *webWire) endWriting() {
	_ = w.conn.Close(websocket.StatusNormalClosure, "") // it need not arrive
}

// upgrade is the answer to the HTTP request that begins a WebSocket. It is the http.ResponseWriter and http.Hijacker
// that websocket.Accept wants; it belongs to one goroutine.
type upgrade struct {
	conn   net.Conn
	rw     *bufio.ReadWriter
	header http.Header
	status int // 0: nothing has been written
}

func (u *upgrade) Header() http.Header { return u.header }

// WriteHeader writes the head of the answer. Whether it could be written shows in Hijack.
func (u *upgrade) WriteHeader(status int) {
	if u.status != 0 {
		return
	}
	u.status = status
	if status != http.StatusSwitchingProtocols {
		u.header.Set("Connection", "close")
	}
	// bufio keeps the first error for the Flush that follows.
	_, _ = u.rw.WriteString("HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n")
	_ = u.header.Write(u.rw)
	_, _ = u.rw.WriteString("\r\n")
}

func (u *upgrade) Write(b []byte) (int, error) {
	u.WriteHeader(http.StatusOK)
	return u.rw.Write(b)
}

// Hijack hands the connection over to the WebSocket.
func (u *upgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return u.conn, u.rw, u.rw.Flush()
}

// refuse answers with a status and the reason, and returns the reason.
func (u *upgrade) refuse(status int, why error) error {
	http.Error(u, why.Error(), status)
	return u.finish(why)
}

// finish sends what has been written. That it could not be sent matters less than why there is nothing more to say.
func (u *upgrade) finish(why error) error {
	if half, ok := u.conn.(interface{ CloseWrite() error }); u.rw.Flush() == nil && ok {
		_ = half.CloseWrite() // it is closed anyhow
	}
	return why
}
