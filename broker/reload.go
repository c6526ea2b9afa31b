package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"forebay/broker/packet"
)

// watchInterval is how often the files are looked at. A changed one is read when it has stayed the same for as long.
const watchInterval = 2 * time.Second

// stamp tells whether a file is still the one that it was. The zero stamp is that of a file that is not there.
type stamp struct {
	device, inode      uint64
	size               int64
	modified, moved    syscall.Timespec
	mode, owner, group uint32 // who may read it
}

func stampOf(path string) stamp {
	info, err := os.Stat(path) // follows links: those who renew certificates put new files behind them
	if err != nil {
		return stamp{}
	}
	st := info.Sys().(*syscall.Stat_t)
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim, st.Mode, st.Uid, st.Gid}
}

// files returns what the configuration names: passwords, access rules, certificates, keys.
func (c *Config) files() (all []string) {
	add := func(names ...string) {
		for _, name := range names {
			if name != "" {
				all = append(all, name)
			}
		}
	}
	add(c.PasswordFile, c.ACLFile)
	for _, l := range c.Listeners {
		if l.TLS != nil {
			add(l.TLS.Certificate, l.TLS.Key, l.TLS.ClientCA, l.TLS.CRLFile)
		}
	}
	return all
}

// stamps are those of files, by name.
func stamps(names []string) map[string]stamp {
	all := make(map[string]stamp, len(names))
	for _, name := range names {
		all[name] = stampOf(name)
	}
	return all
}

// watch reads the files again when they change, until ctx is done.
func (s *Server) watch(ctx context.Context) {
	names := s.cfg.files()
	if len(names) == 0 {
		return
	}
	ticker := time.NewTicker(s.watchEvery)
	defer ticker.Stop()
	before := stamps(names)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := stamps(names)
		if changed := s.changed(now, before); changed != "" {
			if err := s.Reload(ctx); err != nil && ctx.Err() == nil {
				s.lines.Error("broker: a changed file is not accepted, the old one goes on", "err", err)
			}
		}
		before = now
	}
}

// changed returns a file that is not what it was when it was last read, and has settled since the look before.
func (s *Server) changed(now, before map[string]stamp) string {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	for name, st := range now {
		if st != s.read[name] && st == before[name] {
			return name
		}
	}
	return ""
}

// Reload reads the password file, the access file, and the certificates, keys and lists of revoked certificates of all
// listeners again, and puts those in force that are good. The error tells of every other one; what that one was before
// goes on. It returns when the loop has taken everything over; it waits for Run, or for the end of ctx.
//
// Connections stay but for those that would not be let in any more: whose user is gone or has another password, and
// whose certificate is revoked or leads to no root any more. Subscriptions stay; what their client may not read any
// more is not delivered.
//
// The server does the same by itself within some seconds when one of the files changes.
func (s *Server) Reload(ctx context.Context) error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	s.read = stamps(s.cfg.files()) // first: what changes while it is read is read once more
	var problems []error
	users, access, err := loadFiles(s.cfg)
	if err != nil {
		problems = append(problems, err)
	}
	doors := make([]*secure, len(s.cfg.Listeners)) // nil: as it was
	for i, l := range s.cfg.Listeners {
		if doors[i], err = l.TLS.load(); err != nil {
			problems = append(problems, fmt.Errorf("broker: listener %s: %w", l.Address, err))
			doors[i] = nil
		}
		doors[i].warnExpired(l.Address, s.lines)
	}
	if users != nil {
		s.logins.users.Store(users) // from now on nobody gets in with the old ones
	}
	var held []heldCertificate
	err = s.inLoop(ctx, func() {
		if users != nil {
			s.loop.dropUsers(users)
		}
		if access != nil {
			s.loop.core.SetAuthorizer(access)
		}
		held = s.loop.setDoors(doors)
	})
	if err == nil {
		err = s.dropCertificates(ctx, held)
	}
	if err != nil {
		problems = append(problems, fmt.Errorf("broker: reload: %w", err))
	}
	if problems == nil {
		s.lines.Info("broker: the files of users, access and certificates were read again")
	}
	return errors.Join(problems...)
}

// inLoop runs fn in the loop and waits until it has.
func (s *Server) inLoop(ctx context.Context, fn func()) error {
	done := make(chan struct{})
	if err := s.inbox.postCall(func() {
		fn()
		close(done)
	}); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-s.ended:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dropUsers ends the connections of those who could not log in any more.
func (l *loop) dropUsers(users *userFile) {
	l.events.scram = newScramServer(users)
	l.eachStream(func(s *stream) {
		s.scram = nil // an exchange that is under way began with the old secrets
		if s.hash != nil && !s.hash.equal(users.users[s.conn.Username()]) {
			l.core.Disconnect(s.conn, packet.ReasonNotAuthorized, "the user is gone or has another password")
		}
	})
}

// eachStream calls fn for every connection that the core has.
func (l *loop) eachStream(fn func(*stream)) {
	for _, s := range l.sockets {
		if s != nil && s.conn != nil {
			fn(&s.stream)
		}
	}
	for f := range l.feeds {
		if f.conn != nil {
			fn(&f.stream)
		}
	}
}

// heldCertificate is the certificate of a connection, to be looked at once more.
type heldCertificate struct {
	feed *feed
	by   *secure
	err  error // what came of it
}

// setDoors puts the TLS of listeners in force for new connections, and returns the connections whose certificates
// have been looked at with what it was before.
func (l *loop) setDoors(doors []*secure) (held []heldCertificate) {
	for i, li := range l.listeners {
		if doors[i] != nil {
			li.tls = doors[i]
		}
	}
	for f := range l.feeds {
		if f.conn != nil && len(f.peerCertificates) > 0 && f.listener.tls != f.tls {
			held = append(held, heldCertificate{feed: f, by: f.listener.tls})
		}
	}
	return held
}

// dropCertificates ends the connections whose certificates do not stand the new files. Signatures are not computed in
// the loop.
func (s *Server) dropCertificates(ctx context.Context, held []heldCertificate) error {
	bad := held[:0]
	for _, h := range held {
		if h.err = h.by.check(h.feed.peerCertificates); h.err != nil {
			bad = append(bad, h)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return s.inLoop(ctx, func() {
		for _, h := range bad {
			if h.feed.conn != nil {
				s.loop.core.Disconnect(h.feed.conn, packet.ReasonNotAuthorized, certificateText(h.err))
			}
		}
	})
}

func certificateText(err error) string { return "certificate is not accepted any more: " + err.Error() }

// lateCertificate decides about a handshake that began with files that have been replaced meanwhile.
func (f *feed) lateCertificate() error {
	if f.listener.tls == f.tls {
		return nil
	}
	return f.listener.tls.check(f.peerCertificates)
}
