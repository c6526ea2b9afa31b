package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"time"
)

// The PROXY protocol (HAProxy, versions 1 and 2): a header in front of a connection in which a load balancer says whose
// connection it is.
const (
	proxyLine      = "PROXY "
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	// maxProxyLine is the longest header of version 1, in bytes.
	maxProxyLine = 107
	// proxyFixed is what a header of version 2 begins with: signature, version and command, family, length.
	proxyFixed = 16
	// maxProxyHeader bounds a header of version 2. The addresses have 36 bytes; the rest is of no interest here.
	maxProxyHeader = 4096
)

var errProxy = errors.New("no PROXY protocol header of version 1 or 2")

// parseProxy reads a header at the front of b. n is its length; or -n is how many more bytes are needed at least. client is
// not valid when the header names none: a health check of the proxy itself, or a connection that is not TCP.
func parseProxy(b []byte) (client netip.AddrPort, n int, err error) {
	switch {
	case begins(b, proxyLine):
		return parseProxyLine(b)
	case begins(b, proxySignature):
		return parseProxyBinary(b)
	}
	return client, 0, errProxy
}

// begins reports whether b begins with text, as far as it goes.
func begins(b []byte, text string) bool {
	n := min(len(b), len(text))
	return string(b[:n]) == text[:n]
}

// parseProxyLine reads "PROXY TCP4 CLIENT SERVER CLIENTPORT SERVERPORT\r\n", or "PROXY UNKNOWN" and anything.
func parseProxyLine(b []byte) (client netip.AddrPort, n int, err error) {
	end := bytes.IndexByte(b[:min(len(b), maxProxyLine)], '\n')
	if end < 0 && len(b) >= maxProxyLine {
		return client, 0, errProxy
	}
	if end < 0 {
		return client, -1, nil
	}
	if b[end-1] != '\r' {
		return client, 0, errProxy
	}
	words := bytes.Split(b[len(proxyLine):end-1], []byte(" "))
	kind := string(words[0])
	if kind == "UNKNOWN" {
		return client, end + 1, nil
	}
	if len(words) != 5 || kind != "TCP4" && kind != "TCP6" {
		return client, 0, errProxy
	}
	from, err1 := netip.ParseAddrPort("[" + string(words[1]) + "]:" + string(words[3]))
	if kind == "TCP4" {
		from, err1 = netip.ParseAddrPort(string(words[1]) + ":" + string(words[3]))
	}
	if err1 != nil || from.Addr().Zone() != "" || from.Addr().Is4() != (kind == "TCP4") {
		return client, 0, errProxy
	}
	return unmapped(from), end + 1, nil
}

// parseProxyBinary reads a header of version 2.
func parseProxyBinary(b []byte) (client netip.AddrPort, n int, err error) {
	if len(b) < proxyFixed {
		return client, len(b) - proxyFixed, nil
	}
	command, family := b[12], b[13]
	n = proxyFixed + int(binary.BigEndian.Uint16(b[14:]))
	if command != 0x20 && command != 0x21 || n > maxProxyHeader {
		return client, 0, errProxy
	}
	if len(b) < n {
		return client, len(b) - n, nil
	}
	local := command == 0x20
	switch body := b[proxyFixed:n]; {
	case local || family == 0x00 || family == 0x31: // nobody, unknown, a Unix socket
		return client, n, nil
	case family == 0x11 && len(body) >= 12:
		from := netip.AddrFrom4([4]byte(body))
		return netip.AddrPortFrom(from, binary.BigEndian.Uint16(body[8:])), n, nil
	case family == 0x21 && len(body) >= 36:
		from := netip.AddrFrom16([16]byte(body))
		return unmapped(netip.AddrPortFrom(from, binary.BigEndian.Uint16(body[32:]))), n, nil
	}
	return client, 0, errProxy
}

// unmapped is an IPv4 address as such, however it was written: limits and log lines are to know it again.
func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// readProxy reads a header and not one byte more.
func readProxy(r io.Reader) (client netip.AddrPort, err error) {
	b := make([]byte, 0, maxProxyLine)
	for {
		client, n, err := parseProxy(b)
		switch {
		case err != nil:
			return client, err
		case n > 0:
			return client, nil
		}
		// Of an empty front nothing is known but that either header is longer than this.
		want := max(1, -n)
		have := len(b)
		b = append(b, make([]byte, want)...)
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			return client, err
		}
	}
}

// readHeader takes what came of the header of a plain connection, and begins the connection when it is whole.
func (l *loop) readHeader(s *socket, b []byte) {
	client, n, err := parseProxy(b)
	switch {
	case err != nil:
		l.events.refused(s.listener.info(s.peer), err)
		l.closeSocket(s, err.Error())
		return
	case n <= 0:
		l.keep(&s.stream, b)
		return
	}
	if client.IsValid() {
		s.peer = client
	}
	s.proxied = false
	s.closeBy = time.Time{} // it has all the time of MQTT now
	l.release(&s.stream)
	if !l.countAddress(&s.stream) {
		l.closeSocket(s, "")
		return
	}
	l.join(&s.stream, s, s.listener.info(s.peer))
	l.bytesIn += uint64(len(b) - n)
	if len(b) > n {
		l.receive(&s.stream, b[n:])
	}
}
