package bridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
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
	reason packet.Reason
	text   string // the upstream's own words, printable; may be empty
}

func (e *goneError) Error() string {
	return fmt.Sprintf("bridge: disconnected by upstream: %s (0x%02x)", e.reason, byte(e.reason))
}

// explain says in one line what is wrong with the way to the upstream, for someone who stands before the cabinet. It
// holds no secrets, and nothing that changes from one attempt to the next, so that it tells episodes apart.
func explain(err error) string {
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
	switch {
	case errors.As(err, &refused):
		return withWords(explainRefusal(refused.reason), refused.text)
	case errors.As(err, &gone):
		if gone.reason == packet.ReasonSessionTakenOver {
			return withWords("disconnected by the upstream: another client uses the same client_id", gone.text)
		}
		return withWords(fmt.Sprintf("disconnected by the upstream: %s (0x%02x)", gone.reason, byte(gone.reason)), gone.text)
	case errors.As(err, &file):
		if errors.Is(file.err, fs.ErrNotExist) || errors.Is(file.err, fs.ErrPermission) {
			var path *fs.PathError
			if errors.As(file.err, &path) {
				return fmt.Sprintf("%s: cannot read %s: %v", file.key, path.Path, path.Err)
			}
		}
		return file.key + ": " + file.err.Error()
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
		return "the upstream refuses the user name or password: check username and password_file"
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
		return "the upstream says to use another server: change addresses"
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
		return fmt.Sprintf("TLS: the upstream's certificate is not for %q: check the address or set tls.server_name", host.Host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if time.Now().Before(invalid.Cert.NotBefore) {
			return fmt.Sprintf("TLS: the upstream's certificate is valid only from %s: is this gateway's clock right?", day(invalid.Cert.NotBefore))
		}
		return fmt.Sprintf("TLS: the upstream's certificate expired on %s (or this gateway's clock is wrong)", day(invalid.Cert.NotAfter))
	case errors.As(err, &invalid):
		return "TLS: the upstream's certificate is not acceptable: " + invalid.Error()
	case errors.As(err, &record):
		return "TLS: the answer is not TLS: is it the right port, or should the address begin with mqtt://?"
	case errors.As(err, &op) && op.Op == "remote error":
		return "TLS: the upstream refuses us: " + op.Err.Error() + ": check tls.certificate, tls.key and tls.alpn"
	}
	if text := err.Error(); strings.HasPrefix(text, "tls: ") || strings.HasPrefix(text, "x509: ") {
		return "TLS: " + text
	}
	return ""
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }

// explainNetwork knows what is below.
func explainNetwork(err error) string {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("the name %s is unknown (DNS)", dns.Name)
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %s cannot be looked up: no answer from DNS: is the uplink there?", dns.Name)
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
