package bridge

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

var (
	// errStalled: acknowledgements are due and none has come for patience.ack.
	errStalled = errors.New("bridge: upstream has stopped acknowledging")
	// errNoPong: PINGREQ was not answered.
	errNoPong = errors.New("bridge: upstream does not answer PINGREQ")
)

// brokenError says which rule of the protocol the upstream broke.
type brokenError struct{ what string }

func (e *brokenError) Error() string { return "bridge: upstream broke the protocol: " + e.what }

// goneError is a DISCONNECT from the upstream.
type goneError struct {
	reason    packet.Reason
	text      string // the upstream's own words, printable; may be empty
	reference string // the server reference, printable; may be empty
}

func (e *goneError) Error() string {
	return fmt.Sprintf("bridge: disconnected by upstream: %s (0x%02x)", e.reason, byte(e.reason))
}

// explain says in one line what is wrong with the way to the upstream, for someone who stands before the cabinet. It
// holds no secrets, and nothing that changes from one attempt to the next, so that it tells episodes apart.
func explain(err error) string {
	if sent, ok := errors.AsType[*referredError](err); ok {
		return "sent on to " + sent.to.text + ": " + explain(sent.err)
	}
	for _, layer := range []func(error) string{explainAnswer, explainTLS, explainNetwork} {
		if line := layer(err); line != "" {
			return line
		}
	}
	return strings.TrimPrefix(err.Error(), "bridge: ")
}

// explainAnswer knows what the upstream said, and what it did instead.
func explainAnswer(err error) string {
	var refused *refusedError
	var gone *goneError
	var file *fileError
	var broken *packet.Error
	var page *httpError
	var hop *proxyError
	switch {
	case errors.As(err, &refused):
		return withWords(explainRefusal(refused.reason), cmp.Or(refused.text, refused.reference))
	case errors.As(err, &gone):
		if gone.reason == packet.ReasonSessionTakenOver {
			return withWords("disconnected by the upstream: another client uses the same client_id", gone.text)
		}
		return withWords(fmt.Sprintf("disconnected by the upstream: %s (0x%02x)", gone.reason, byte(gone.reason)), cmp.Or(gone.text, gone.reference))
	case errors.As(err, &file):
		if errors.Is(file.err, fs.ErrNotExist) || errors.Is(file.err, fs.ErrPermission) {
			var path *fs.PathError
			if errors.As(file.err, &path) {
				return fmt.Sprintf("%s: cannot read %s: %v", file.key, path.Path, path.Err)
			}
		}
		return file.key + ": " + file.err.Error()
	case errors.As(err, &hop):
		return explainProxy(hop)
	case errors.As(err, &page):
		return explainHTTP(page)
	case errors.Is(err, errNoSubprotocol):
		return "the server opens a WebSocket but not for MQTT: is the path of the address right?"
	case errors.Is(err, errSilentClose):
		return "the upstream closed the connection without an answer to CONNECT: often a client_id or certificate that it does not know"
	case errors.Is(err, errStalled):
		return "the upstream has stopped acknowledging although the connection stands"
	case errors.Is(err, errCanary):
		return "the upstream has stopped moving messages although the connection stands: the canary does not come back"
	case errors.Is(err, errNoPong):
		return "the upstream has fallen silent: no answer to PINGREQ"
	case errors.Is(err, storage.ErrFailed):
		return "the local store has failed: nothing can be settled with the upstream until it is opened again"
	case errors.As(err, &broken):
		return "the upstream sent what is not MQTT: " + strings.TrimPrefix(broken.Error(), "packet: ")
	case errors.Is(err, io.EOF):
		return "the upstream closed the connection"
	}
	return ""
}

// explainProxy says that the trouble is with the proxy, and what it said.
func explainProxy(e *proxyError) string {
	if e.said != "" {
		return fmt.Sprintf("the proxy %s: %s", e.address, e.said)
	}
	why := explainNetwork(e.err)
	if why == "" {
		why = e.err.Error()
	}
	return fmt.Sprintf("the proxy %s: %s", e.address, why)
}

// explainHTTP names an answer in HTTP. One in place of MQTT, and a redirect, come from something on the way as a rule.
func explainHTTP(e *httpError) string {
	said := strings.TrimSpace(fmt.Sprintf("HTTP %d %s", e.status, http.StatusText(e.status)))
	if e.status == 0 {
		said = "HTTP"
	}
	switch {
	case e.location != "":
		return fmt.Sprintf("the answer is a redirect to %q (%s): a login page of the network (captive portal), or the wrong address; redirects are not followed", e.location, said)
	case !e.webSocket:
		return fmt.Sprintf("the answer is %s instead of MQTT: a web server, a proxy, or a login page of the network (captive portal)", said)
	case e.status == http.StatusUnauthorized || e.status == http.StatusForbidden:
		return fmt.Sprintf("the upstream refuses the WebSocket: %s: check the credentials and the path of the address", said)
	case e.status == http.StatusNotFound:
		return fmt.Sprintf("there is no WebSocket at the path of the address: %s", said)
	case e.status == http.StatusOK:
		return fmt.Sprintf("a page instead of a WebSocket: %s: the wrong path, or a login page of the network (captive portal)", said)
	}
	return fmt.Sprintf("the answer to the request for a WebSocket is %s", said)
}

func withWords(line, words string) string {
	if words == "" {
		return line
	}
	return fmt.Sprintf("%s (%q)", line, words)
}

// explainRefusal names a CONNACK that says no.
func explainRefusal(r packet.Reason) string {
	switch r {
	case packet.ReasonBadUserNameOrPassword:
		return "the upstream refuses the user name or password: check username and password, and for a signed one this gateway's clock"
	case packet.ReasonNotAuthorized:
		return "the upstream says this gateway is not authorized: check its username, password or certificate, and its rights there"
	case packet.ReasonClientIdentifierNotValid:
		return "the upstream does not accept the client_id"
	case packet.ReasonUnsupportedProtocolVersion:
		return "the upstream speaks neither MQTT 5.0 nor 3.1.1"
	case packet.ReasonBanned:
		return "the upstream has banned this gateway"
	case packet.ReasonServerUnavailable, packet.ReasonServerBusy:
		return "the upstream is up but says it is not available now"
	case packet.ReasonUseAnotherServer, packet.ReasonServerMoved:
		return "the upstream says to use another server, and none that is allowed: change addresses or redirect_hosts"
	case packet.ReasonConnectionRateExceeded, packet.ReasonQuotaExceeded:
		return "the upstream has too many connections: " + strings.ToLower(r.String())
	}
	return fmt.Sprintf("the upstream refuses the connection: %s (0x%02x)", r, byte(r))
}

// explainTLS knows certificates.
func explainTLS(err error) string {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &unknown):
		return "TLS: the upstream's certificate is signed by an authority that tls.ca does not hold"
	case errors.As(err, &host):
		return fmt.Sprintf("TLS: the certificate is for %s, it is not for %q: check the address or set tls.server_name; the login page of a network (captive portal) shows such a one, too",
			names(host.Certificate), host.Host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if time.Now().Before(invalid.Cert.NotBefore) {
			return fmt.Sprintf("TLS: the upstream's certificate is valid only from %s: is this gateway's clock right?", day(invalid.Cert.NotBefore))
		}
		return fmt.Sprintf("TLS: the upstream's certificate expired on %s (or this gateway's clock is wrong)", day(invalid.Cert.NotAfter))
	case errors.As(err, &invalid):
		return "TLS: the upstream's certificate is not acceptable: " + invalid.Error()
	case errors.As(err, &record):
		if string(record.RecordHeader[:]) == "HTTP/" {
			return "the answer is HTTP instead of TLS: the wrong port, a proxy, or a login page of the network (captive portal)"
		}
		return "TLS: the answer is not TLS: is it the right port, or should the address begin with mqtt://?"
	case errors.As(err, &op) && op.Op == "remote error":
		return "TLS: the upstream refuses us: " + op.Err.Error() + ": check tls.certificate, tls.key and tls.alpn"
	}
	if text := err.Error(); strings.HasPrefix(text, "tls: ") || strings.HasPrefix(text, "x509: ") {
		return "TLS: " + text
	}
	return ""
}

// names returns whom a certificate is for, printable and short.
func names(c *x509.Certificate) string {
	list := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	if len(list) == 0 {
		return "nobody"
	}
	return fmt.Sprintf("%q", printable([]byte(strings.Join(list[:min(len(list), 3)], ", "))))
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }

// explainNetwork knows what is below.
func explainNetwork(err error) string {
	var dns *net.DNSError
	var call *os.SyscallError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("the name %s is unknown (DNS)", dns.Name)
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %s cannot be looked up: no answer from DNS: is the uplink there?", dns.Name)
	case errors.Is(err, syscall.ENODEV):
		return "there is no network interface as bind says"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "no network interface has the address in bind"
	case errors.As(err, &call) && call.Syscall == bindToDevice:
		return "binding to a network interface is not permitted: it takes Linux 5.7 or CAP_NET_RAW; bind to its address instead"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused: the host is there but nothing listens on that port"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "no way to the host: is the uplink there?"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the connection was reset by the upstream or something on the way"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return "no answer in time: is the uplink there, and does a firewall let us through?"
	}
	return ""
}
