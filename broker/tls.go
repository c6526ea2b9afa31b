package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// maxPEM bounds the size of a certificate file, in bytes.
const maxPEM = 4 << 20

// load reads the files; nil for a plain listener.
func (c *TLSConfig) load() (*tls.Config, error) {
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
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if c.ClientCA == "" {
		return cfg, nil
	}
	roots, err := readBounded(c.ClientCA, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("tls.client_ca: %w", err)
	}
	cfg.ClientCAs = x509.NewCertPool()
	if !cfg.ClientCAs.AppendCertsFromPEM(roots) {
		return nil, fmt.Errorf("tls.client_ca: %w", errors.New(c.ClientCA+" has no certificate"))
	}
	cfg.ClientAuth = tls.VerifyClientCertIfGiven
	if c.RequireClientCertificate {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return cfg, nil
}
