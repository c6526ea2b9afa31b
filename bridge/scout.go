package bridge

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"forebay/broker/packet"
)

// A second connection is tried while the first one serves: to prove new credentials, to renew an expiring password, to
// return to the first address. It uses the same client identifier: a server checks credentials before it lets a
// connection take the session over ([MQTT-3.1.4-2] before [MQTT-3.1.4-3], in 3.1.1 too), so that one that is refused
// leaves the first connection alone, and one that is accepted has the session. A client identifier of its own would
// prove less, and clouds with a register of devices refuse it.

// What a second connection may be for, in the log.
const (
	newCredentials = "new credentials"
	newPassword    = "a password for the time after this one expires"
	firstAddress   = "the first address"
)

// errSuperseded ends a link whose successor stands.
var errSuperseded = errors.New("bridge: another connection has taken over")

// takeoverTime is how long a connection that breaks while another is being tried waits for the other: the server may
// close the old one before it answers the new one.
const takeoverTime = 2 * time.Second

// scout is an attempt at a second connection. Owned by Run, but for the channel.
type scout struct {
	reason string // what it is for
	cancel context.CancelFunc
	result chan scouted // has room for the one result
	found  *conn        // taken from result
}

// scouted is the end of an attempt.
type scouted struct {
	conn *conn // nil: err, or nothing to do
	err  error
}

// done is where the result comes from; it never does when there is no scout.
func (s *scout) done() <-chan scouted {
	if s == nil || s.found != nil {
		return nil
	}
	return s.result
}

// watch says when to look for a reason to try a second connection. Owned by Run.
type watch struct {
	files []string // constant
	stamp string   // of files, when they were read last

	at       time.Time // the next look
	failback time.Time // when the first address is tried again; zero: we are there
	retry    time.Time // no attempt before, unless a file changes
	again    bool      // the credentials have not been proven for want of an answer
}

// begin starts the watch for a connection.
func (w *watch) begin(now time.Time, b *Bridge, c *conn) {
	w.at, w.failback, w.again = now.Add(b.patience.watch), time.Time{}, false
	if c.at != 0 {
		w.failback = now.Add(b.cfg.Failback)
		w.at = earlier(w.at, w.failback)
	}
}

// lookAround starts a second connection if there is a reason for one.
func (b *Bridge) lookAround(ctx context.Context, l *link) {
	w := &b.watch
	if l.now.Before(w.at) {
		return
	}
	w.at = l.now.Add(b.patience.watch)
	if !w.failback.IsZero() && l.now.Before(w.failback) {
		w.at = earlier(w.at, w.failback)
	}
	if b.scout != nil {
		return
	}
	changed := stamp(w.files)
	switch {
	case changed != w.stamp, w.again && !l.now.Before(w.retry):
		w.stamp, w.again = changed, false
		b.scoutFor(ctx, newCredentials, l.at, l.identity)
	case l.now.Before(w.retry):
	case !l.identity.renew.IsZero() && !l.now.Before(l.identity.renew):
		b.scoutFor(ctx, newPassword, l.at, l.identity)
	case !w.failback.IsZero() && !l.now.Before(w.failback):
		w.failback = l.now.Add(b.cfg.Failback)
		b.scoutFor(ctx, firstAddress, 0, l.identity)
	}
}

// scoutFor tries a second connection to an address. shown is what the first one was opened with.
func (b *Bridge) scoutFor(ctx context.Context, reason string, at int, shown *identity) {
	ctx, cancel := context.WithCancel(ctx)
	s := &scout{reason: reason, cancel: cancel, result: make(chan scouted, 1)}
	p := b.plan(at, shown)
	b.scout = s
	go func() {
		id, err := b.identify(ctx, nil)
		if err != nil || reason == newCredentials && id.same(shown) {
			s.result <- scouted{nil, err}
			return
		}
		p.identity = id
		c, err := b.follow(ctx, p)
		s.result <- scouted{c, err}
	}()
}

// scoutFailed notes that there is no second connection.
func (b *Bridge) scoutFailed(l *link, err error) {
	reason := b.scout.reason
	b.scout.cancel()
	b.scout = nil
	if err == nil {
		return // a file has been touched, its contents are the same
	}
	b.watch.retry = l.now.Add(b.patience.retry)
	b.watch.again = reason == newCredentials && !isRefusal(err)
	b.reportOnce("a second connection failed, the present one goes on", "for", reason, "why", explain(err))
}

// takeover returns the connection that takes the place of one that ended with err, or nil. When it returns there is no
// scout any more.
func (b *Bridge) takeover(ctx context.Context, err error) *conn {
	s := b.scout
	if s == nil {
		return nil
	}
	b.scout = nil
	defer s.cancel()
	c := s.found
	if c == nil {
		wait := time.Duration(0)
		if mayBeTakeover(err) {
			wait = takeoverTime
		}
		timer := time.AfterFunc(wait, s.cancel)
		r := <-s.result // at the latest when it is cancelled
		timer.Stop()
		c = r.conn
	}
	if c != nil && ctx.Err() != nil {
		c.close()
		return nil
	}
	if c != nil {
		b.log.Info("a second connection has taken over", "for", s.reason, "address", c.address.text)
	}
	return c
}

// mayBeTakeover reports whether err is how a server ends a connection whose session another one has taken.
func mayBeTakeover(err error) bool {
	if gone, ok := errors.AsType[*goneError](err); ok {
		return gone.reason == packet.ReasonSessionTakenOver
	}
	return wordless(err)
}

// wordless reports whether err is how a peer ends a connection without saying why.
func wordless(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
