package bridge

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	socks "golang.org/x/net/proxy"
)

// ProxyConfig names a proxy that all connections to the upstream go through.
type ProxyConfig struct {
	// URL is http://host:port for a proxy that takes CONNECT, or socks5://host:port. It gets the upstream's host by name
	// and looks it up itself. Empty: no proxy.
	URL string `mapstructure:"url"`

	// Username and PasswordFile, whose first line counts, are shown to a proxy that asks. Both or none.
	Username     string `mapstructure:"username"`
	PasswordFile string `mapstructure:"password_file"`
}

// proxy is a compiled ProxyConfig.
type proxy struct {
	address      string // host:port
	socks        bool   // SOCKS5; otherwise HTTP
	username     string
	passwordFile string
}

// proxyError is what became of an attempt to go through a proxy.
type proxyError struct {
	address string
	said    string // what it answered or did, as a sentence; empty: see err
	err     error
}

func (e *proxyError) Error() string {
	if e.said != "" {
		return "bridge: connect: proxy: " + e.said
	}
	return "bridge: connect: proxy: " + e.err.Error()
}

func (e *proxyError) Unwrap() error { return e.err }

// compile checks c. The result is nil if there is no proxy; the error is for the user.
func (c *ProxyConfig) compile() (*proxy, error) {
	if c.URL == "" {
		return nil, nil
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("must look like http://host:3128 or socks5://host:1080")
	}
	if u.User != nil {
		return nil, errors.New("must not hold a username or password: use proxy.username and proxy.password_file")
	}
	// socks5h is how some programs spell that the proxy looks names up; ours always does.
	isSocks := u.Scheme == "socks5" || u.Scheme == "socks5h"
	if !isSocks && u.Scheme != "http" {
		return nil, fmt.Errorf("%s:// is unknown: write http:// or socks5://", u.Scheme)
	}
	if n, err := strconv.Atoi(u.Port()); err != nil || n < 1 || n > 65535 {
		return nil, errors.New("needs a port between 1 and 65535, such as http://host:3128")
	}
	return &proxy{address: u.Host, socks: isSocks, username: c.Username, passwordFile: c.PasswordFile}, nil
}

func (c *ProxyConfig) validate(report func(path, problem string)) {
	if _, err := c.compile(); err != nil {
		report("url", err.Error())
	}
	if c.URL == "" && c.Username+c.PasswordFile != "" {
		report("url", "missing: where is the proxy?")
	}
	if (c.Username == "") != (c.PasswordFile == "") {
		report("username", "and password_file belong together: give both or none")
	}
	if strings.Contains(c.Username, ":") || len(c.Username) > maxProxySecret {
		report("username", "must not hold a colon, nor more than 255 bytes")
	}
}

// maxProxySecret is what SOCKS5 has room for. RFC 1929 §2.
const maxProxySecret = 255

// dialer is how the proxy itself is reached.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// dial connects to target, a host:port, through the proxy. ctx bounds all of it.
func (p *proxy) dial(ctx context.Context, direct dialer, target string) (net.Conn, error) {
	password := ""
	if p.passwordFile != "" {
		b, err := readSecret("proxy.password_file", p.passwordFile)
		if err != nil {
			return nil, err
		}
		password = string(b)
	}
	toProxy := func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := direct(ctx, network, address)
		if err != nil {
			return nil, &proxyError{address: p.address, err: err}
		}
		return nc, nil
	}
	if p.socks {
		return p.dialSocks(ctx, toProxy, target, password)
	}
	nc, err := toProxy(ctx, "tcp", p.address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err = p.tunnel(nc, target, password)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		nc.Close() // it was of no use: nothing to learn from its end
		if ctx.Err() != nil {
			err = &proxyError{address: p.address, err: context.Cause(ctx)}
		}
		return nil, err
	}
	return nc, nil
}

// tunnel asks for a way to target. RFC 9110 §9.3.6.
func (p *proxy) tunnel(nc net.Conn, target, password string) error {
	ask := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\nUser-Agent: forebay\r\n"
	if p.username != "" {
		ask += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(p.username+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(nc, ask+"\r\n"); err != nil {
		return &proxyError{address: p.address, err: err}
	}
	answer := bufio.NewReader(io.LimitReader(nc, maxHTTPHead))
	r, err := http.ReadResponse(answer, &http.Request{Method: http.MethodConnect})
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &proxyError{address: p.address, said: "it closed the connection instead of answering"}
	case err != nil && isNetwork(err):
		return &proxyError{address: p.address, err: err}
	case err != nil:
		return &proxyError{address: p.address, said: "its answer is not HTTP"}
	case r.StatusCode == http.StatusOK && answer.Buffered() == 0:
		return nil
	case r.StatusCode == http.StatusOK:
		return &proxyError{address: p.address, said: "it says more than that the way is open"} // nobody speaks before we do
	}
	said := fmt.Sprintf("it answers HTTP %d %s", r.StatusCode, http.StatusText(r.StatusCode))
	switch r.StatusCode {
	case http.StatusProxyAuthRequired:
		said += ": check proxy.username and proxy.password_file"
	case http.StatusForbidden, http.StatusMethodNotAllowed:
		said += ": it does not let us through to " + target
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		said += ": it cannot reach " + target
	}
	return &proxyError{address: p.address, said: strings.TrimSpace(said)}
}

// isNetwork tells an error of the connection from one of what came through it.
func isNetwork(err error) bool {
	_, ok := errors.AsType[net.Error](err)
	return ok
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d(context.Background(), network, address)
}

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d(ctx, network, address)
}

// dialSocks asks for a way to target. RFC 1928, RFC 1929.
func (p *proxy) dialSocks(ctx context.Context, toProxy dialer, target, password string) (net.Conn, error) {
	var auth *socks.Auth
	if p.username != "" {
		auth = &socks.Auth{User: p.username, Password: password}
	}
	way, err := socks.SOCKS5("tcp", p.address, auth, toProxy)
	if err != nil {
		return nil, &proxyError{address: p.address, err: err}
	}
	with, ok := way.(socks.ContextDialer)
	if !ok {
		panic("BUG: bridge: the SOCKS5 dialer takes no context")
	}
	nc, err := with.DialContext(ctx, "tcp", target)
	if err == nil {
		return nc, nil
	}
	if already, ok := errors.AsType[*proxyError](err); ok {
		return nil, already
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	switch {
	case ctx.Err() != nil:
		return nil, &proxyError{address: p.address, err: context.Cause(ctx)}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, &proxyError{address: p.address, said: "it closed the connection instead of answering"}
	case isNetwork(err):
		return nil, &proxyError{address: p.address, err: err}
	}
	said := "it answers: " + strings.TrimPrefix(err.Error(), "unknown error ")
	if strings.Contains(said, "authentication") {
		said += ": check proxy.username and proxy.password_file"
	}
	return nil, &proxyError{address: p.address, said: said}
}
