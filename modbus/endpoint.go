package modbus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// The registered ports of Modbus TCP, without and with TLS: Modbus Security
// Protocol §2.
const (
	tcpPort = "502"
	tlsPort = "802"
)

// newClient returns a client for the transport that cfg names.
func newClient(cfg *LinkConfig) *client {
	var c *client
	switch {
	case cfg.TCP != "" && cfg.TLS != nil:
		c = newTCPClient(newTCPTransport(tlsDialer(cfg.address(), cfg.TLS, cfg.Timeout), cfg.Timeout))
	case cfg.TCP != "":
		c = newTCPClient(newTCPTransport(dialer("tcp", cfg.address(), cfg.Timeout), cfg.Timeout))
	case cfg.UDP != "":
		t := newTCPTransport(dialer("udp", cfg.address(), cfg.Timeout), cfg.Timeout)
		t.datagrams = true
		c = newTCPClient(t)
	default:
		c = newRTUClient(newSerialTransport(cfg))
	}
	c.pace = pace{between: cfg.RequestDelay, connect: cfg.ConnectDelay, each: cfg.CloseAfterRequest}
	return c
}

// newSerialTransport returns the transport of a serial port, or of a serial
// server behind TCP.
func newSerialTransport(cfg *LinkConfig) *rtuTransport {
	var open func(context.Context) (stream, error)
	if port := cfg.serial(); port != nil {
		open = openSerial(*port)
	} else {
		open = dialer("tcp", cfg.address(), cfg.Timeout)
	}
	t := newRTUTransport(open, cfg.line(), cfg.Timeout)
	if cfg.ascii() {
		t.wrap = func(s stream) stream { return &asciiStream{stream: s, tally: &t.tally} }
	}
	return t
}

// serial returns the serial port of a link, nil when it has none.
func (l *LinkConfig) serial() *SerialConfig {
	if l.RTU != nil {
		return l.RTU
	}
	return l.ASCII
}

// ascii reports whether the link carries ASCII frames.
func (l *LinkConfig) ascii() bool { return l.ASCII != nil || l.ASCIIOverTCP != "" }

// line returns the timing of a link without MBAP headers.
func (l *LinkConfig) line() rtuLine {
	switch port := l.serial(); {
	case port == nil:
		return newRTULine(0)
	case l.ascii():
		return newASCIILine(port)
	default:
		return newRTULine(port.Baud)
	}
}

// newASCIILine returns the timing of ASCII frames for each byte of the RTU frame
// that says the same.
func newASCIILine(port *SerialConfig) rtuLine {
	// Modbus serial §2.5.2: start, data, parity or a second stop bit, stop; two
	// characters are one byte. The end of a frame is its line feed, not silence.
	bits := time.Duration(port.DataBits + 3)
	return rtuLine{char: 2 * bits * time.Second / time.Duration(port.Baud), silence: time.Millisecond}
}

// address returns the host:port of a link that has one; the port is the
// registered one when none is given.
func (l *LinkConfig) address() string {
	address := l.TCP + l.UDP + l.RTUOverTCP + l.ASCIIOverTCP
	if l.TLS != nil {
		return withPort(address, tlsPort)
	}
	return withPort(address, tcpPort)
}

// withPort adds port to an address that has none.
func withPort(address, port string) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), port)
}

// tlsDialer returns a function that connects to address and shakes hands within
// timeout. The files are read each time, so that renewed certificates serve the
// next connection.
func tlsDialer(address string, files *TLSConfig, timeout time.Duration) func(context.Context) (stream, error) {
	dial := dialer("tcp", address, timeout)
	return func(ctx context.Context) (stream, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		cfg, err := files.load(host)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		plain, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(plain.(net.Conn), cfg)
		if err := conn.HandshakeContext(ctx); err != nil {
			_ = plain.Close() // the handshake's error is the one to tell
			return nil, fmt.Errorf("TLS with %s: %w", address, err)
		}
		return conn, nil
	}
}

// load reads the files and returns the configuration for a connection to host.
func (t *TLSConfig) load(host string) (*tls.Config, error) {
	// Modbus Security Protocol §2.1: TLS 1.2 or later.
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if t.ServerName != "" {
		cfg.ServerName = t.ServerName
	}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("tls.ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca: %s holds no certificate in PEM", t.CA)
		}
	}
	if t.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
		if err != nil {
			return nil, fmt.Errorf("tls.certificate, tls.key: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
