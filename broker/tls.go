package broker

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// maxPEM bounds the size of a certificate file, in bytes. A list of revoked certificates may have 100,000 of them.
const maxPEM = 4 << 20

// secure is the TLS of a listener, as its files were when they were last read. It is not changed once it is made.
type secure struct {
	config  *tls.Config
	from    *TLSConfig
	roots   *x509.CertPool      // nil: clients are not asked for a certificate
	revoked map[string]struct{} // see revocationKey
}

var (
	errRevoked = errors.New("certificate has been revoked")
	errNobody  = errors.New("certificate names no user")
)

// load reads the files; nil for a plain listener.
func (c *TLSConfig) load() (*secure, error) {
	if c == nil {
		return nil, nil
	}
	certificate, err := readBounded(c.Certificate, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("tls.certificate: %w", err)
	}
	key, err := readBounded(c.Key, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("tls.key: %w", err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("tls: %s and %s: %w", c.Certificate, c.Key, err)
	}
	s := &secure{from: c, config: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}}
	if c.ClientCA == "" {
		return s, nil
	}
	authorities, err := c.loadAuthorities()
	if err != nil {
		return nil, fmt.Errorf("tls.client_ca: %w", err)
	}
	s.roots = x509.NewCertPool()
	for _, a := range authorities {
		s.roots.AddCert(a)
	}
	if c.CRLFile != "" {
		text, err := readBounded(c.CRLFile, maxPEM)
		if err != nil {
			return nil, fmt.Errorf("tls.crl_file: %w", err)
		}
		if s.revoked, err = parseRevoked(text, authorities); err != nil {
			return nil, fmt.Errorf("tls.crl_file: %s: %w", c.CRLFile, err)
		}
	}
	s.config.ClientCAs = s.roots
	s.config.ClientAuth = tls.VerifyClientCertIfGiven
	if c.RequireClientCertificate {
		s.config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	s.config.VerifyConnection = s.verifyConnection
	// With a ticket a client would come back on a certificate that has been revoked since, or that the new roots do not
	// know: every connection is to be looked at.
	s.config.SessionTicketsDisabled = true
	return s, nil
}

func (c *TLSConfig) loadAuthorities() (all []*x509.Certificate, err error) {
	rest, err := readBounded(c.ClientCA, maxPEM)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		a, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.ClientCA, err)
		}
		all = append(all, a)
	}
	if len(all) == 0 {
		return nil, errors.New(c.ClientCA + " has no certificate")
	}
	return all, nil
}

// parseRevoked reads lists of revoked certificates, in PEM or one in DER. Each must be signed by one of the authorities.
// A list that is out of date is better than none, so it is used.
func parseRevoked(text []byte, authorities []*x509.Certificate) (map[string]struct{}, error) {
	var lists [][]byte
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		lists = append(lists, text)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "X509 CRL" {
			lists = append(lists, block.Bytes)
		}
	}
	if len(lists) == 0 {
		return nil, errors.New("there is no list of revoked certificates")
	}
	revoked := map[string]struct{}{}
	for _, der := range lists {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			// openssl makes lists of version 1, which the parser refuses, when its configuration has no crlnumber.
			return nil, fmt.Errorf("%w (it must be of version 2: for openssl ca, with a crlnumber)", err)
		}
		if !signedByOne(list, authorities) {
			return nil, fmt.Errorf("the list of %s is not signed by anyone in client_ca", list.Issuer)
		}
		for i := range list.RevokedCertificateEntries {
			e := &list.RevokedCertificateEntries[i]
			if e.ReasonCode == 8 { // removeFromCRL (RFC 5280 §5.3.1)
				continue
			}
			revoked[revocationKey(list.RawIssuer, e.SerialNumber.Bytes())] = struct{}{}
		}
	}
	return revoked, nil
}

func signedByOne(list *x509.RevocationList, authorities []*x509.Certificate) bool {
	for _, a := range authorities {
		if bytes.Equal(a.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(a) == nil {
			return true
		}
	}
	return false
}

// revocationKey names a certificate as lists do: by issuer and serial number.
func revocationKey(issuer, serial []byte) string { return string(issuer) + "\x00" + string(serial) }

// verifyConnection is called in every handshake, after the certificate of the client has been found to lead to a root.
func (s *secure) verifyConnection(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return nil // RequireAndVerifyClientCert has seen to it where there must be one
	}
	return s.admit(state.PeerCertificates[0], state.VerifiedChains)
}

// admit decides about a client whose certificate leads to a root in one of these ways.
func (s *secure) admit(leaf *x509.Certificate, chains [][]*x509.Certificate) error {
	if s.from.UserFrom != "" && s.from.userOf(leaf) == "" {
		return errNobody
	}
	for _, chain := range chains {
		if !s.hasRevoked(chain) {
			return nil
		}
	}
	return errRevoked
}

func (s *secure) hasRevoked(chain []*x509.Certificate) bool {
	for _, c := range chain {
		if _, revoked := s.revoked[revocationKey(c.RawIssuer, c.SerialNumber.Bytes())]; revoked {
			return true
		}
	}
	return false
}

// check is the verdict about certificates that an earlier secure has admitted. It computes signatures.
func (s *secure) check(peer []*x509.Certificate) error {
	if len(peer) == 0 || s.roots == nil {
		return nil
	}
	between := x509.NewCertPool()
	for _, c := range peer[1:] {
		between.AddCert(c)
	}
	chains, err := peer[0].Verify(x509.VerifyOptions{
		Roots: s.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return err
	}
	return s.admit(peer[0], chains)
}

// userOf returns the user whom a certificate names, empty if it names none.
func (c *TLSConfig) userOf(leaf *x509.Certificate) (name string) {
	switch c.UserFrom {
	case UserFromSubjectCN:
		name = leaf.Subject.CommonName
	case UserFromSubjectDN:
		name = leaf.Subject.String()
	case UserFromSANDNS:
		name = strings.Join(leaf.DNSNames[:min(1, len(leaf.DNSNames))], "")
	case UserFromSANEmail:
		name = strings.Join(leaf.EmailAddresses[:min(1, len(leaf.EmailAddresses))], "")
	case UserFromSANURI:
		if len(leaf.URIs) > 0 {
			name = leaf.URIs[0].String()
		}
	}
	// It is put into rules and log lines: a name that CONNECT could not have carried is none.
	if len(name) > maxCertificateUser || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7F || r == '\uFFFD' }) {
		return ""
	}
	return name
}

// maxCertificateUser bounds a name taken from a certificate, in bytes.
const maxCertificateUser = 1024

// warnExpired tells of a certificate that clients will refuse. It is not an error: the clock may be wrong, and the rest
// of the gateway has work to do.
func (s *secure) warnExpired(listener string, logger *slog.Logger) {
	if s == nil {
		return
	}
	if end := s.config.Certificates[0].Leaf.NotAfter; time.Now().After(end) {
		logger.Error("broker: the certificate has expired, clients will refuse it", "listener", listener,
			"certificate", s.from.Certificate, "expired", end)
	}
}
