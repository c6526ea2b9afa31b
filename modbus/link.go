package modbus

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"
)

// How the link treats what does not answer.
const (
	// holeRetry is how often an address that the device refuses is tried.
	holeRetry = 5 * time.Minute
	// offlineAfter is how many requests in a row a unit may leave unanswered
	// before it is offline. The second is sent at once, after what others had
	// to do, so one lost frame harms nobody.
	offlineAfter = 2
	// A read whose answer came damaged is made again, up to damagedReads times in
	// all; after damagedLimit such answers in a row a unit counts as one that
	// does not answer.
	damagedReads = 3
	damagedLimit = 8
	// A unit that is offline is probed after a time that doubles from
	// probeFirst to probeLast.
	probeFirst = time.Second
	probeLast  = 30 * time.Second
	// probeShare × what a request to a unit that does not answer has cost passes
	// before the next such request: however many units are dead, they get a
	// fifth of the link's time.
	probeShare = 4
	// A connection that cannot be made, or a port that cannot be opened, is
	// tried again after a time that doubles from reconnectFirst to
	// reconnectLast, with jitter.
	reconnectFirst = 500 * time.Millisecond
	reconnectLast  = 30 * time.Second
)

// link polls the units of one connection or port. run owns everything but the
// constants, the command channel and the counters.
type link struct {
	// Constant after newLink.
	config   *LinkConfig
	log      *slog.Logger
	sink     Sink
	tell     func(LearnedUnit) // nil: nobody wants to know
	client   *client
	units    []*unit
	commands chan task
	asking   chan struct{} // taken by the one who asks by hand
	demands  chan demand
	wall     func(now time.Time) time.Time // the time that clocks on the wall show
	aligns   bool                          // some tag is aligned to it
	done     chan struct{}                 // closed when run has ended

	// Owned by run.
	batch    []Sample
	down     error     // why there is no connection; nil while there is one
	seen     bool      // the first attempt to connect is over
	retryAt  time.Time // when to connect again
	retries  int       // attempts since the link went down
	probesAt time.Time // no unit that does not answer is asked before
	wrote    bool      // the last request was a write: a read is next
	flights  []flight  // the oldest first
	staleAt  time.Time // when to look for stale values again
	lost     int       // connections lost with flights, in a row
	heard    tally     // of the transport, when a request was last counted

	epoch time.Time     // of run
	skew  time.Duration // how far the wall clock has moved since, beyond the time that has passed

	counters counters
}

// unit is a device on a link; run of the link owns its changing fields.
type unit struct {
	// Constant after newLink.
	link   *link
	config *UnitConfig
	id     byte
	tags   []*tag

	// Owned by run of the link.
	learned  LearnedUnit
	blocks   []*block
	state    State // "" until the first answer or failure
	since    time.Time
	reason   error
	byLink   bool      // the state is that of the link
	failures int       // requests in a row without an answer
	probe    *block    // what to ask while failures > 0
	probeAt  time.Time // when
	noMask   bool      // the unit does not know function 22
	flying   int       // flights
	damaged  int       // damaged answers in a row

	counters requestCounters
}

// run polls until ctx ends; then the connection is closed.
func (l *link) run(ctx context.Context) {
	defer close(l.done)
	// Closing the connection is what ends a read that waits for an answer.
	release := context.AfterFunc(ctx, l.client.transport.stop)
	defer release()
	defer l.client.transport.stop()
	l.start(time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if l.step(ctx, timer) {
			continue
		}
		select {
		case <-ctx.Done():
		case <-timer.C:
		case c := <-l.commands:
			l.execute(ctx, c)
		case d := <-l.demands:
			d.onDemand(time.Now())
		}
	}
	l.recall()
}

// task is something that the link does between two reads because somebody wants
// it: a command, or a request by hand.
type task interface{ execute(ctx context.Context) }

// execute runs a task when no read is in flight any more.
func (l *link) execute(ctx context.Context, c task) {
	for len(l.flights) > 0 {
		l.land(ctx)
	}
	l.wrote = true
	c.execute(ctx)
}

// start makes every block due now, and spreads the later reads of blocks with
// the same interval over it.
func (l *link) start(now time.Time) {
	l.epoch = now
	l.skew = l.wall(now).Sub(now.Round(0))
	total := make(map[time.Duration]int)
	for _, u := range l.units {
		for _, b := range u.blocks {
			total[b.interval]++
		}
	}
	placed := make(map[time.Duration]int)
	for _, u := range l.units {
		for _, b := range u.blocks {
			b.phase = b.interval * time.Duration(placed[b.interval]) / time.Duration(total[b.interval])
			placed[b.interval]++
			b.restart(now)
		}
	}
}

// step does one thing that is due and returns true, or sets the timer to the
// next thing and returns false. Commands go first, but never two in a row
// while a read is due: a flood of them must not stop the reading.
func (l *link) step(ctx context.Context, timer *time.Timer) bool {
	now := time.Now()
	if l.down != nil {
		return l.stepDown(ctx, now, timer)
	}
	l.watchClock(now)
	l.watchStale(now)
	for len(l.demands) > 0 {
		(<-l.demands).onDemand(now)
	}
	read := l.nextRead(now)
	due := read.unit != nil && !read.at.After(now)
	if !due || !l.wrote {
		select {
		case c := <-l.commands:
			l.execute(ctx, c)
			return true
		default:
		}
	}
	switch {
	case due && l.config.InFlight == 1:
		l.wrote = false
		l.poll(ctx, read.unit, read.block)
		return true
	case due && len(l.flights) < l.config.InFlight:
		l.wrote = false
		l.launch(ctx, read.unit, read.block)
		return true
	case len(l.flights) > 0:
		l.land(ctx)
		return true
	}
	wait := l.closeIdle(now, read.at).Sub(now)
	if l.aligns {
		wait = min(wait, clockLook)
	}
	timer.Reset(wait)
	return false
}

// closeIdle closes the connection when it has been idle for long enough and
// nothing is due before next; it returns when to look again.
func (l *link) closeIdle(now, next time.Time) time.Time {
	idle := l.config.CloseWhenIdle
	if idle == 0 {
		return next
	}
	end := l.client.ended.Add(idle)
	if now.Before(end) {
		return earlier(end, next)
	}
	l.client.transport.drop()
	return next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// stepDown is step while there is no connection.
func (l *link) stepDown(ctx context.Context, now time.Time, timer *time.Timer) bool {
	if now.Before(l.retryAt) {
		timer.Reset(l.retryAt.Sub(now))
		return false
	}
	if _, err := l.client.connect(ctx, false); err != nil {
		l.wentDown(ctx, err)
		return true
	}
	l.cameUp()
	return true
}

// candidate is a read that nextRead weighs.
type candidate struct {
	unit  *unit
	block *block
	asked time.Time // since when it is wanted
	at    time.Time // when it is due
	rank  time.Time // of those due, the earliest goes first, then the earliest asked
}

// nextRead returns the read to do at now, or the next one; its unit is nil when
// there is none. Reads of units that answer go by their deadlines. What may
// cost a timeout comes behind them while an earlier one is being made up for.
func (l *link) nextRead(now time.Time) (best candidate) {
	for _, u := range l.units {
		switch {
		case u.flying > 0 && (u.failures > 0 || u.state == ""): // one is enough to see
		case u.failures > 0:
			at := later(u.probeAt, l.probesAt)
			best = best.or(candidate{u, u.probe, u.probeAt, at, at}, now)
		default:
			for _, b := range u.blocks {
				if b.flying {
					continue
				}
				due := b.due()
				if best.unit != nil && due.After(best.at) && due.After(best.rank) {
					continue // of hundreds of reads most are worse: or would say so too, but slowly
				}
				c := candidate{u, b, due, due, due}
				if u.state == "" { // never heard of
					c.rank = later(due, l.probesAt)
				}
				best = best.or(c, now)
			}
		}
	}
	return best
}

// or returns the better one of two candidates.
func (c candidate) or(other candidate, now time.Time) candidate {
	due, otherDue := !c.at.After(now), !other.at.After(now)
	better := other.at.Before(c.at)
	switch {
	case c.unit == nil:
		better = true
	case due != otherDue:
		better = otherDue
	case due && other.rank.Equal(c.rank):
		better = other.asked.Before(c.asked)
	case due:
		better = other.rank.Before(c.rank)
	}
	if better {
		return other
	}
	return c
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// poll reads one block and deals with the outcome.
func (l *link) poll(ctx context.Context, u *unit, b *block) {
	begin := time.Now()
	data, err := l.client.read(ctx, u.id, b.span)
	l.outcome(ctx, u, b, data, err, begin)
}

// outcome deals with what came of the read of a block that began at begin.
func (l *link) outcome(ctx context.Context, u *unit, b *block, data []byte, err error, begin time.Time) {
	now := time.Now()
	if ctx.Err() != nil {
		return // the connection was closed under us: that says nothing about the unit
	}
	l.count(u, err)
	if !l.seen && !errors.Is(err, ErrDown) {
		l.cameUp()
	}
	refusal, _ := errors.AsType[*ExceptionError](err)
	switch {
	case errors.Is(err, ErrDown):
		l.wentDown(ctx, err)
		return
	case errors.Is(err, errDamaged) && u.damaged < damagedLimit:
		u.onDamage(b, err, now)
		return
	case !Answered(err):
		u.unanswered(b, err, begin, now)
		return
	}
	u.damaged, b.damaged = 0, 0
	u.answered(now)
	l.counters.missed.Add(l.advance(b, now))
	if b.gone && err != nil {
		return // there are others in its place
	}
	switch {
	case err == nil:
		l.deliver(u, b, data, now)
		u.recovered(b, now)
	case refusal.Code == illegalDataAddress || refusal.Code == illegalDataValue:
		u.refused(b, refusal, now)
	default:
		b.err = err
		l.deliverBad(u, b.tags, err, now)
	}
	u.judge(now)
}

// deliver passes the values of a block on.
func (l *link) deliver(u *unit, b *block, data []byte, now time.Time) {
	b.stale = false
	l.batch = l.batch[:0]
	for _, t := range b.tags {
		s := Sample{Link: l.config, Unit: u.config, Tag: t.config, Time: now}
		s.Value, s.Quality, s.Err = t.decode(data, t.register.address-b.address)
		l.add(t, s)
	}
	l.flush()
}

// decode takes the value of t from data, which begins at offset words or bits
// before it.
func (t *tag) decode(data []byte, offset int) (Value, Quality, error) {
	if t.register.table.bits() {
		return t.register.decodeBit(data[offset/8]>>(offset%8)&1 != 0)
	}
	words := data[2*offset : 2*(offset+t.register.width)]
	if t.config.Counter {
		return t.decodeTotal(words)
	}
	return t.register.decode(words)
}

// deliverBad passes on that tags could not be read.
func (l *link) deliverBad(u *unit, tags []*tag, err error, now time.Time) {
	l.batch = l.batch[:0]
	for _, t := range tags {
		l.add(t, Sample{Link: l.config, Unit: u.config, Tag: t.config, Quality: Bad, Time: now, Err: err})
	}
	l.flush()
}

// add appends s to the batch unless the thinning of t holds it back.
func (l *link) add(t *tag, s Sample) {
	for _, served := range t.served {
		served.keep(&s)
	}
	if !t.thinning.passes(&s, &t.last) {
		return
	}
	t.last = thinned{s.Value, s.Quality, reason(s.Err), s.Time}
	l.batch = append(l.batch, s)
}

func (l *link) flush() {
	if len(l.batch) == 0 {
		return
	}
	l.counters.samples.Add(uint64(len(l.batch)))
	l.sink.Samples(l.batch)
	clear(l.batch)
}

// wentDown notes that there is no connection: everything behind it is bad.
func (l *link) wentDown(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	l.seen = true
	l.retryAt = now.Add(backoff(l.retries, reconnectFirst, reconnectLast))
	l.retries++
	if l.down != nil {
		l.down = err
		return
	}
	l.down = err
	l.counters.up.Store(false)
	l.log.Warn("modbus link down", "link", l.config.Name, "err", err)
	for _, u := range l.units {
		u.enter(Offline, err, now)
		l.deliverBad(u, u.tags, err, now)
	}
}

// cameUp notes that there is a connection again: every unit is probed.
func (l *link) cameUp() {
	now := time.Now()
	l.log.Info("modbus link up", "link", l.config.Name)
	if l.seen {
		l.counters.reconnects.Add(1)
	}
	l.counters.up.Store(true)
	l.down, l.seen, l.retries = nil, true, 0
	for _, u := range l.units {
		if u.state == Offline && len(u.blocks) > 0 {
			u.failures, u.probe, u.probeAt = 1, u.blocks[0], now
		}
	}
}

// backoff returns first doubled n times, at most last, less up to a fifth so
// that many links do not knock in step.
func backoff(n int, first, last time.Duration) time.Duration {
	d := last
	if n < 16 && first<<n < last {
		d = first << n
	}
	return d - rand.N(d/5+1)
}
