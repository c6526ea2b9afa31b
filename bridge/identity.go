package bridge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"forebay/broker/packet"
)

// identity is what we show to the upstream. It is constant.
type identity struct {
	username string
	password []byte      // nil: none
	tls      *tls.Config // without the name of the server; nil: no address wants TLS
	sum      [sha256.Size]byte
	expires  time.Time // zero: never
	renew    time.Time // when another one should be made; zero: never
}

// same reports whether the upstream would see no difference.
func (i *identity) same(other *identity) bool { return other != nil && i.sum == other.sum }

// valid reports whether it is worth showing at now.
func (i *identity) valid(now time.Time) bool {
	return i != nil && (i.expires.IsZero() || now.Before(i.expires))
}

// identify reads or makes the credentials as they are to be now. old is one that may be used again if it has lasted until
// now; nil: a new one is wanted. It only uses what is constant in b.
func (b *Bridge) identify(ctx context.Context, old *identity) (*identity, error) {
	i := &identity{username: b.username}
	h := sha256.New()
	for _, a := range b.addresses {
		if !a.tls {
			continue
		}
		var files []byte
		var err error
		if i.tls, files, err = b.cfg.TLS.load(); err != nil {
			return nil, err
		}
		h.Write(files)
		break
	}
	secret, err := b.makePassword(ctx, i, old)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(h, "%q%q", b.username, secret)
	h.Sum(i.sum[:0])
	return i, nil
}

// load reads the files. It also returns all that they hold.
func (t *TLSConfig) load() (*tls.Config, []byte, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: t.ALPN}
	var all []byte
	if t.CA != "" {
		pem, err := readCredential("tls.ca", t.CA)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, pem...)
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, nil, &fileError{"tls.ca", fmt.Errorf("%s holds no certificate in PEM", t.CA)}
		}
	}
	if t.Certificate != "" {
		chain, err := readCredential("tls.certificate", t.Certificate)
		if err != nil {
			return nil, nil, err
		}
		key, err := readCredential("tls.key", t.Key)
		if err != nil {
			return nil, nil, err
		}
		pair, err := tls.X509KeyPair(chain, key)
		if err != nil {
			return nil, nil, &fileError{"tls.certificate, tls.key", err}
		}
		cfg.Certificates = []tls.Certificate{pair}
		all = append(append(all, chain...), key...)
	}
	return cfg, all, nil
}

// maxCredential bounds a file with a secret, a certificate or authorities; those of a system take a quarter of it.
const maxCredential = 1 << 20

// readCredential returns what is in the file that key of the configuration names.
func readCredential(key, path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &fileError{key, err}
	}
	defer f.Close() // only read
	b, err := io.ReadAll(io.LimitReader(f, maxCredential+1))
	if err == nil && len(b) > maxCredential {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxCredential)
	}
	if err != nil {
		return nil, &fileError{key, err}
	}
	return b, nil
}

// readSecret returns the first line of the file that key of the configuration names.
func readSecret(key, path string) ([]byte, error) {
	b, err := readCredential(key, path)
	if err != nil {
		return nil, err
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return nil, &fileError{key, fmt.Errorf("%s has nothing in its first line", path)}
	}
	return line, nil
}

// files are those that the credentials come from.
func (c *Config) files() []string {
	var list []string
	for _, name := range []string{c.PasswordFile, c.AzureSAS.KeyFile, c.TencentIoTHub.KeyFile, c.TLS.CA, c.TLS.Certificate, c.TLS.Key} {
		if name != "" {
			list = append(list, name)
		}
	}
	return list
}

// stamp changes when one of files does. A file that is replaced by another of the same length and time differs in
// nothing else that a look from outside shows.
func stamp(files []string) string {
	var text []byte
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			text = append(text, '-')
			continue
		}
		text = fmt.Appendf(text, "%d %d;", info.ModTime().UnixNano(), info.Size())
	}
	return string(text)
}

// isRefusal reports whether err may be the upstream's verdict on our credentials.
func isRefusal(err error) bool {
	if refused, ok := errors.AsType[*refusedError](err); ok {
		switch refused.reason {
		case packet.ReasonBadUserNameOrPassword, packet.ReasonNotAuthorized, packet.ReasonBadAuthenticationMethod, packet.ReasonBanned:
			return true
		}
		return false
	}
	// Some say no by closing, and TLS has alerts.
	op, ok := errors.AsType[*net.OpError](err)
	return errors.Is(err, errSilentClose) || ok && op.Op == "remote error"
}
