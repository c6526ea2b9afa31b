package bridge

import (
	"context"
	"net"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestBindToAnAddress(t *testing.T) {
	u := newUpstream(t)
	newGateway(t, u.address(), func(c *Config) { c.Bind = "127.0.0.2" }, nil)
	c := u.accept()
	if from := c.net.RemoteAddr().(*net.TCPAddr).IP.String(); from != "127.0.0.2" {
		t.Errorf("came from %s", from)
	}
}

func TestBindToAnInterface(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), func(c *Config) { c.Bind = "lo" }, nil)
	u.welcome(false, none)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
}

func TestBindingThatCannotBeIsNamed(t *testing.T) {
	for bind, want := range map[string]string{"no-such-if0": "no network interface as bind says", "192.0.2.5": "no network interface has the address in bind"} {
		t.Run(bind, func(t *testing.T) {
			u := newUpstream(t)
			g := newGateway(t, u.address(), func(c *Config) { c.Bind = bind }, nil)
			g.awaitStatus(want, func(s Status) bool { return strings.Contains(s.LastError, want) })
		})
	}
}

// answerDNS answers one question after another on nc with addresses of both families.
func answerDNS(nc net.Conn) {
	defer nc.Close()
	for {
		buf := make([]byte, 512)
		n, err := nc.Read(buf)
		if err != nil {
			return
		}
		// Over a connection that is no packet connection, two bytes of length come first.
		var q dnsmessage.Message
		if q.Unpack(buf[2:n]) != nil || len(q.Questions) != 1 {
			return
		}
		q.Response, q.Additionals = true, nil
		h := dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 1}
		switch q.Questions[0].Type {
		case dnsmessage.TypeA:
			q.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
		case dnsmessage.TypeAAAA:
			q.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AAAAResource{AAAA: [16]byte{15: 1}}}}
		}
		b, err := q.Pack()
		if err != nil {
			return
		}
		nc.Write(append([]byte{byte(len(b) >> 8), byte(len(b))}, b...))
	}
}

// TestIPv6ThatLeadsNowhereDoesNotHoldUp: the host has addresses of both families, IPv6 swallows everything.
func TestIPv6ThatLeadsNowhereDoesNotHoldUp(t *testing.T) {
	u := newUpstream(t)
	_, port, err := net.SplitHostPort(place(u))
	if err != nil {
		t.Fatal(err)
	}
	if nc, err := net.ListenPacket("udp6", "[::1]:0"); err != nil {
		t.Skipf("this system has no IPv6: %v", err)
	} else {
		nc.Close()
	}
	tried6 := make(chan struct{}, 10)
	g := newGateway(t, "mqtt://upstream.example:"+port, noReconnect, func(b *Bridge) {
		d := newDialer("")
		d.Resolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go answerDNS(theirs)
			return ours, nil
		}}
		d.ControlContext = func(ctx context.Context, network, _ string, _ syscall.RawConn) error {
			if network != "tcp6" {
				return nil
			}
			tried6 <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
		b.dial = d.DialContext
	})
	u.welcome(false, none)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })
	if len(tried6) == 0 {
		t.Error("IPv6 has not been tried")
	}
}
