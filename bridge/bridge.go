package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forebay/broker/packet"
)

// Environment is what a bridge lives in. All fields are required.
type Environment struct {
	Site   string // replaces {site}
	Broker Broker
	Log    Log
	Logger *slog.Logger
}

// Bridge connects the local broker with one upstream.
type Bridge struct {
	// Constant after New.
	cfg       Config
	env       Environment
	log       *slog.Logger
	clientID  string
	username  string
	resource  string // AzureSAS.Resource
	addresses []address
	up        topicMap
	patience  patience
	dial      dialer // to the first hop
	proxy     *proxy // nil: none
	accounts  *accounts
	live      liveBuffer
	letters   *letters
	ledger    *ledger
	box       stateBox
	safety    *safety
	more      chan struct{} // the cursor or the live buffer has something
	settled   chan struct{} // the broker has said something about downlink messages

	lanes     atomic.Pointer[[]*lane] // set by Attach
	liveFirst bool                    // set by Attach: the place of some topics depends on linked
	linked    atomic.Bool             // a link is there

	// Owned by Run.
	predecessor   *forwarder // of the bridge that this one succeeds, until Attach
	backoff       backoff
	forward       *forwarder
	down          *downlink
	canary        *canary
	meter         meter
	stamps        stamps
	dialects      map[string]dialect // by address; absent: 5.0
	sentOn        *approach          // where a server that disconnected us said to go; nil: nowhere
	proven        *identity          // accepted by the upstream last; nil: none yet
	scout         *scout             // a second connection is being tried; nil: none
	watch         watch
	first         int             // index of the address to try first
	suspect       bool            // the last link stalled: a new one has to prove itself
	reported      map[string]bool // failures logged since the last stable connection
	lostAt        time.Time
	drops         dropWatch
	lookAt        time.Time // when the counters are looked at next
	told          string    // the status published last
	toldConnected string    // 1 or 0, published last
	spare         []byte    // empty buffer for the live buffer
}

// New checks cfg, on which SetDefaults has been called, and reads what the store knows about the bridge. It must be
// called before anything is appended to the log (see storage.Log.Each).
func New(cfg Config, env Environment) (*Bridge, error) {
	var problems []error
	cfg.Validate(func(path, problem string) { problems = append(problems, fmt.Errorf("%s: %s", path, problem)) })
	if len(problems) > 0 {
		return nil, fmt.Errorf("bridge: configuration of %q: %w", cfg.Name, errors.Join(problems...))
	}
	b := &Bridge{cfg: cfg, env: env, log: env.Logger.With("bridge", cfg.Name),
		patience: defaultPatience(), dial: newDialer(cfg.Bind).DialContext,
		more: make(chan struct{}, 1), settled: make(chan struct{}, 1),
		backoff:  backoff{min: cfg.Reconnect.Min, max: cfg.Reconnect.Max, random: rand.Float64},
		dialects: map[string]dialect{}, reported: map[string]bool{}}
	b.patience.connect, b.patience.ack = cfg.ConnectTimeout, cfg.AckTimeout
	b.accounts = &accounts{drops: map[string]uint64{}, examples: map[string]string{}}
	b.drops.episodes = map[string]*episode{}
	b.watch.files = cfg.files()
	b.live.wake = func() { signal(b.more) }
	b.letters = &letters{name: cfg.Name, log: env.Log}
	b.ledger = &ledger{name: cfg.Name, log: env.Log}
	b.safety = newSafety(env.Log)
	b.box.state, b.box.since = Down, time.Now()
	if err := b.compile(); err != nil {
		return nil, fmt.Errorf("bridge: configuration of %q: %w", cfg.Name, err)
	}
	if err := b.letters.restore(env.Log); err != nil {
		return nil, err
	}
	if err := b.ledger.restore(env.Log); err != nil {
		return nil, err
	}
	if err := b.stamps.restore(env.Log, cfg.Name); err != nil {
		return nil, err
	}
	return b, b.down.restore()
}

// compile turns the configuration into what Run works with.
func (b *Bridge) compile() error {
	for _, text := range b.cfg.Addresses {
		a, err := parseAddress(text)
		if err != nil {
			return err
		}
		b.addresses = append(b.addresses, a)
	}
	var down topicMap
	var err error
	if b.proxy, err = b.cfg.Proxy.compile(); err != nil {
		return fmt.Errorf("proxy.url: %w", err)
	}
	if b.clientID, err = expandSite(b.cfg.ClientID, b.env.Site); err != nil {
		return fmt.Errorf("client_id: %w", err)
	}
	if b.username, err = expandSite(b.cfg.Username, b.env.Site); err != nil {
		return fmt.Errorf("username: %w", err)
	}
	if b.resource, err = expandSite(b.cfg.AzureSAS.Resource, b.env.Site); err != nil {
		return fmt.Errorf("azure_sas.resource: %w", err)
	}
	if b.cfg.AzureSAS.KeyFile != "" {
		host := b.addresses[0].host
		setDefault(&b.resource, host+"/devices/"+b.clientID)
		setDefault(&b.username, host+"/"+b.clientID+"/?api-version="+azureVersion)
	}
	topic, err := expandSite(b.cfg.Canary.Topic, b.env.Site)
	if err != nil {
		return fmt.Errorf("canary.topic: %w", err)
	}
	b.stamps.id, b.stamps.time = slices.Contains(b.cfg.UserProperties, propertyID), slices.Contains(b.cfg.UserProperties, propertyTime)
	b.canary = newCanary(topic, b.cfg.Canary, b.patience.ping)
	if b.up, err = compileUp(b.cfg.Up, b.env.Site); err != nil {
		return err
	}
	if down, err = compileDown(b.cfg.Down, b.env.Site); err != nil {
		return err
	}
	b.down = &downlink{name: b.cfg.Name, clientID: b.clientID, broker: b.env.Broker, log: b.env.Log, rules: down,
		hops: newHops(*b.cfg.MaxHops), accounts: b.accounts, safety: b.safety, wake: func() { signal(b.settled) },
		inbound: map[uint16]*inboundID{}, pending: map[uint16][]int{}}
	return nil
}

// signal leaves a token in a channel that holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run connects and serves until ctx ends. It never detaches: messages go on being kept. Call it once. It returns when
// all its goroutines are gone.
func (b *Bridge) Run(ctx context.Context) error {
	if err := b.Attach(); err != nil {
		return err
	}
	waiting, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { b.safety.run(waiting) })
	defer wg.Wait()
	defer stop()
	b.lostAt = time.Now()
	b.setState(Connecting, "")
	b.tellOutages()
	for ctx.Err() == nil {
		b.sleep(ctx, b.visit(ctx))
	}
	b.setState(Down, "")
	return nil
}

// sleep waits, keeping the status fresh.
func (b *Bridge) sleep(ctx context.Context, wait time.Duration) {
	until := time.Now().Add(wait)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		now := time.Now()
		b.look(now)
		if !now.Before(until) {
			return
		}
		b.collect()
		timer.Reset(earlier(until, b.lookAt).Sub(now))
		select {
		case <-timer.C:
		case <-b.more:
		case <-ctx.Done():
		}
	}
}

// look watches the counters when it is time to, whether there is a link or not.
func (b *Bridge) look(now time.Time) {
	if now.Before(b.lookAt) {
		return
	}
	b.lookAt = now.Add(b.patience.status)
	b.accountOutage(now)
	if !b.ledger.returned().IsZero() {
		b.lookAt = now.Add(min(b.patience.status, outageLook))
	}
	b.measure(now)
	b.drops.look(now, b.dropped(), b.accounts.lastExample, b.log)
	b.tellStatus()
}

// away is the state without a connection.
func (b *Bridge) away() State {
	if b.suspect {
		return Stalled
	}
	return Down
}

func rounded(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

// report logs a failure, once per episode.
func (b *Bridge) report(what string, a address, err error, next string, value any) {
	why := explain(err)
	if b.isNews(what + a.text + why) {
		b.log.Warn(what, "address", a.text, "why", why, next, value)
	}
}

// reportOnce logs texts that come in pairs of key and value, once per episode.
func (b *Bridge) reportOnce(what string, pairs ...string) {
	if b.isNews(what + strings.Join(pairs, " ")) {
		values := make([]any, len(pairs))
		for i, p := range pairs {
			values[i] = p
		}
		b.log.Warn(what, values...)
	}
}

// isNews reports whether key has not been reported in this episode, and notes that it is.
func (b *Bridge) isNews(key string) bool {
	if b.reported[key] {
		return false
	}
	if len(b.reported) >= 100 {
		clear(b.reported)
	}
	b.reported[key] = true
	return true
}

// properties are those of a CONNECT to a session that is to last.
func (b *Bridge) properties(v packet.Version) packet.ConnectProperties {
	if v != packet.V5 {
		return packet.ConnectProperties{}
	}
	// The session outlives every message in the queue, but a gateway that is scrapped leaves none for ever.
	return packet.ConnectProperties{SessionExpiry: uint32(min(b.cfg.Queue.MaxAge/time.Second, 1<<32-2)),
		ReceiveMaximum: inboundWindow, MaximumPacketSize: maxInbound}
}
