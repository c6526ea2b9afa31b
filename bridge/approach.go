package bridge

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"forebay/broker/packet"
)

// maxReferrals bounds how often one attempt is sent on to another server.
const maxReferrals = 3

// approach is one attempt to connect, with what only Run may look up.
type approach struct {
	address  address
	at       int     // of Config.Addresses, also when it has been sent on from there
	dialect  dialect // the best that the upstream is known to speak
	known    bool    // the store knows our session
	identity *identity
}

// plan makes an approach to the address at an index. Run's goroutine only.
func (b *Bridge) plan(at int, id *identity) approach {
	a := b.addresses[at]
	return approach{address: a, at: at, dialect: b.dialects[a.text], known: b.down.known, identity: id}
}

// plans are the approaches of one visit, in order: where the last server sent us, then the addresses.
func (b *Bridge) plans(id *identity) []approach {
	var list []approach
	if b.sentOn != nil {
		list = append(list, *b.sentOn)
		list[0].known, list[0].identity = b.down.known, id
	}
	for i := range b.addresses {
		list = append(list, b.plan((b.first+i)%len(b.addresses), id))
	}
	return list
}

// learn notes what an approach to a has taught: c is nil if it failed.
func (b *Bridge) learn(a address, c *conn) {
	if c == nil {
		delete(b.dialects, a.text)
		return
	}
	b.proven = c.identity
	if c.address == a {
		b.dialects[a.text] = c.dialect
	}
}

// visit tries the addresses in turn and serves the first that accepts us. It returns how long to wait before the next
// visit.
func (b *Bridge) visit(ctx context.Context) time.Duration {
	b.watch.stamp = stamp(b.watch.files) // before they are read, so that no change goes unnoticed
	id, unread := b.identify(ctx, b.proven)
	plans := b.plans(id)
	if unread != nil && b.proven.valid(time.Now()) {
		b.reportOnce("cannot use the present credentials, going on with those that worked", "why", explain(unread))
		plans, unread = b.plans(b.proven), nil
	}
	for i, p := range plans {
		b.box.at(p.address.text, "")
		c, err := (*conn)(nil), unread
		if err == nil {
			c, err = b.present(ctx, p)
		}
		if ctx.Err() != nil {
			if err == nil {
				c.close()
			}
			return 0
		}
		if err == nil {
			return b.attend(ctx, c)
		}
		if i < len(plans)-1 {
			b.report("cannot connect to the upstream", p.address, err, "next", plans[i+1].address.text)
			b.setState(b.away(), explain(err))
			continue
		}
		b.first, b.sentOn = 0, nil
		wait := b.backoff.next()
		b.outageBegins(b.lostAt, explain(err))
		b.report("cannot connect to the upstream", p.address, err, "retry_in", rounded(wait))
		b.setState(b.away(), explain(err))
		return wait
	}
	panic("BUG: bridge: no addresses")
}

// present makes the approach p. If the upstream refuses credentials that are new, it is shown the old ones, which may
// be good still: a wrong file must not cut a gateway off.
func (b *Bridge) present(ctx context.Context, p approach) (*conn, error) {
	c, err := b.follow(ctx, p)
	if isRefusal(err) && !p.identity.same(b.proven) && b.proven.valid(time.Now()) {
		p.identity = b.proven
		if old, second := b.follow(ctx, p); second == nil {
			b.reportOnce("the upstream refuses the new credentials, going on with the old ones", "why", explain(err))
			c, err = old, nil
		}
	}
	if isRefusal(err) && p.identity.same(b.proven) && !b.proven.expires.IsZero() {
		b.proven = nil // it has lost its worth before its time: the next one is made anew
	}
	b.learn(p.address, c)
	return c, err
}

// attend serves c and the connections that take its place, to the end of the last, and returns how long to wait before
// the next visit.
func (b *Bridge) attend(ctx context.Context, c *conn) time.Duration {
	for {
		began := time.Now()
		b.watch.begin(began, b, c)
		err := b.serve(ctx, c)
		c.close()
		next := b.takeover(ctx, err)
		if next == nil && ctx.Err() != nil && err == nil {
			b.closeOutage(time.Now(), false)
			return 0
		}
		b.lostAt = time.Now()
		b.suspect = next == nil && (errors.Is(err, errStalled) || errors.Is(err, errCanary))
		b.first = (c.at + 1) % len(b.addresses) // an address that does not hold gives the next one a chance
		if !b.suspect && b.backoff.held(b.lostAt.Sub(began), b.patience.stable) {
			b.first = 0
			clear(b.reported)
		}
		if next != nil {
			b.learn(next.address, next)
			c = next
			continue
		}
		b.sentOn = nil
		if to, ok := b.referral(c.address, err); ok {
			b.sentOn = &approach{address: to, at: c.at}
		}
		wait := b.backoff.next()
		b.outageBegins(b.lostAt, explain(err))
		b.report("connection to the upstream lost", c.address, err, "retry_in", rounded(wait))
		b.setState(b.away(), explain(err))
		return wait
	}
}

// dialect is how we speak to an upstream.
type dialect byte

// The dialects, in the order in which they are tried.
const (
	speak5         dialect = iota
	speak3AsBridge         // 3.1.1 with 0x80 added to the level: do not send us what we sent. Mosquitto and others know it
	speak3
)

func (d dialect) version() packet.Version {
	if d == speak5 {
		return packet.V5
	}
	return packet.V311
}

// introduce connects to p.address in the best dialect that it understands, and in a way that leaves no session behind
// that we know nothing about. It uses only what is constant in b.
func (b *Bridge) introduce(ctx context.Context, p approach) (*conn, error) {
	c, err := b.connect(ctx, p, b.hello(p))
	first := err
	for d := p.dialect; foreign(err) && d < speak3; {
		d++
		if d == speak3AsBridge && len(b.down.rules) == 0 {
			d++ // nothing comes back to us in any case
		}
		p.dialect = d
		c, err = b.connect(ctx, p, b.hello(p))
	}
	if err != nil {
		if errors.Is(first, errSilentClose) {
			err = first // the dialect was not to blame
		}
		return nil, err
	}
	if first != nil {
		b.log.Info("the upstream does not speak MQTT 5.0, going on with 3.1.1", "address", p.address.text)
	}
	if !p.known {
		// This connection only removed the old session. The session that is to last begins with a connection of its
		// own: before 5.0 it must, and Mosquitto 2.0 keeps on disk only what was not begun with a clean start.
		c.close()
		p.known = true
		if c, err = b.connect(ctx, p, b.hello(p)); err != nil {
			return nil, err
		}
		c.peer.sessionPresent = false
	}
	c.at, c.identity, c.dialect = p.at, p.identity, p.dialect
	return c, nil
}

// foreign reports whether err may be how a server tells that it does not understand a dialect. Some just close.
func foreign(err error) bool {
	refused, ok := errors.AsType[*refusedError](err)
	return ok && refused.reason == packet.ReasonUnsupportedProtocolVersion || errors.Is(err, errSilentClose)
}

// hello is our CONNECT.
func (b *Bridge) hello(p approach) *packet.Connect {
	id := p.identity
	h := &packet.Connect{Version: p.dialect.version(), Bridge: p.dialect == speak3AsBridge, CleanStart: !p.known, KeepAlive: uint16(b.cfg.KeepAlive / time.Second),
		ClientID: []byte(b.clientID), HasUsername: id.username != "", Username: []byte(id.username),
		HasPassword: id.password != nil, Password: id.password}
	if !h.CleanStart {
		h.Properties = b.properties(h.Version)
	}
	return h
}

// follow introduces us at p.address or, if that sends us on, where it does.
func (b *Bridge) follow(ctx context.Context, p approach) (*conn, error) {
	c, err := b.introduce(ctx, p)
	for range maxReferrals {
		to, ok := b.referral(p.address, err)
		if !ok {
			return c, err
		}
		p.address, p.dialect = to, speak5
		if c, err = b.introduce(ctx, p); err != nil {
			err = &referredError{to, err}
		}
	}
	return c, err
}

// referredError is a failure with a server that another one sent us to.
type referredError struct {
	to  address
	err error
}

func (e *referredError) Error() string {
	return "bridge: sent on to " + e.to.text + ": " + e.err.Error()
}
func (e *referredError) Unwrap() error { return e.err }

// referral returns where the server at from sends us with err, if that is allowed: "Use another server" and "Server
// moved" are the same to us, for with the next connection we ask again where we are to go. §4.11.
func (b *Bridge) referral(from address, err error) (address, bool) {
	var reason packet.Reason
	var reference string
	if refused, ok := errors.AsType[*refusedError](err); ok {
		reason, reference = refused.reason, refused.reference
	} else if gone, ok := errors.AsType[*goneError](err); ok {
		reason, reference = gone.reason, gone.reference
	}
	if reason != packet.ReasonUseAnotherServer && reason != packet.ReasonServerMoved {
		return address{}, false
	}
	scheme, _, _ := strings.Cut(from.text, "://")
	for place := range strings.FieldsSeq(reference) {
		if strings.ContainsAny(place, "/?#@") {
			continue
		}
		to, err := parseAddress(scheme + "://" + place)
		if err != nil || to.dial == from.dial || !b.mayGoTo(to.host) {
			continue
		}
		to.path, to.rawPath, to.query = from.path, from.rawPath, from.query
		return to, true
	}
	return address{}, false
}

// mayGoTo reports whether a server reference to host is followed. See Config.RedirectHosts.
func (b *Bridge) mayGoTo(host string) bool {
	host = strings.ToLower(host)
	if slices.ContainsFunc(b.addresses, func(a address) bool { return strings.ToLower(a.host) == host }) {
		return true
	}
	return slices.ContainsFunc(b.cfg.RedirectHosts, func(allowed string) bool {
		allowed = strings.ToLower(allowed)
		if below, ok := strings.CutPrefix(allowed, "*"); ok {
			return strings.HasSuffix(host, below) && len(host) > len(below)
		}
		return host == allowed
	})
}
