package bridge

import (
	"net"
	"strings"
	"testing"
)

// FuzzAddress: an address that is accepted can be dialled, and shows no query.
func FuzzAddress(f *testing.F) {
	for _, text := range []string{"mqtt://h", "mqtts://[::1]:8884/", "ws://h:80/a%2Fb?x=y", "wss://h", "ws://h?q", "mqtt://h:0", "http://h", "ws://h/#x", "://"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseAddress(text)
		if err != nil {
			return
		}
		if _, _, err := net.SplitHostPort(a.dial); err != nil || a.host == "" || strings.Contains(a.text, "?") || a.web && a.path == "" {
			t.Errorf("%q gives %+v", text, a)
		}
	})
}

// FuzzHTTPAnswer gives the handshake what something on the way might say instead of the upstream.
func FuzzHTTPAnswer(f *testing.F) {
	for _, text := range []string{"HTTP/1.1 302 Found\r\nLocation: http://h/\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 3", "HTTP/", "\x20\x03\x00\x00\x00",
		"HTTP/1.1 302 Found\r\nLocation: //\x7f%zz\r\nTransfer-Encoding: chunked\r\n\r\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := httpAnswer(b); err != nil {
			if line := explain(err); strings.ContainsAny(line, "\n\r\x1b") || len(line) > 1000 {
				t.Errorf("%q", line)
			}
		}
	})
}
