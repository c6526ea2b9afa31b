package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"forebay/bridge"
	"forebay/broker"
	"forebay/storage"
)

// DrainTime bounds how long Run takes after its context has ended.
const DrainTime = 10 * time.Second

// Gateway is a whole gateway. Its methods may be called from any goroutine;
// Run once.
type Gateway struct {
	// Constant after Open.
	log       *slog.Logger
	began     time.Time
	failed    chan struct{} // closed when the store has failed
	store     *storage.Log
	server    *broker.Server
	telemetry *telemetry
	learned   *learned
	fieldbus  *fieldbus
	api       *api
	ended     chan *stage   // parts that have ended by themselves
	stopping  chan struct{} // closed when Run begins to end
	quit      chan struct{} // closed when nobody listens to ended any more

	started  atomic.Bool // Run or Close has been called
	failedAt time.Time   // set before failed is closed

	// turn holds one token: who has it may change what is in force. The end of
	// Run takes it for good.
	turn chan struct{}

	// Changed with the token of turn and mu held, so either is enough to read.
	mu        sync.Mutex
	cfg       *Config
	uplinks   []*uplink // in the order of the configuration
	removed   map[string]*bridge.Bridge
	forgotten map[string]bool // names of bridges of which nothing is known any more
	commands  *commands
	executing *stage // the commands; nil before Run
	ready     bool
}

// Open opens the store, binds the listeners and prepares the rest; from its
// return on every message that a bridge wants is kept for it. Bridges that
// cannot be prepared are logged and left out. cfg must come from Load, or have
// its defaults set and be valid.
//
// What Open has taken is given back by Run or by Close.
func Open(cfg *Config, log *slog.Logger) (*Gateway, error) {
	g := &Gateway{
		cfg: cfg, log: log, began: time.Now(), failed: make(chan struct{}), ended: make(chan *stage), quit: make(chan struct{}), stopping: make(chan struct{}),
		turn: make(chan struct{}, 1), removed: map[string]*bridge.Bridge{}, forgotten: map[string]bool{},
	}
	cfg.applyLevel()
	// The store reports its progress to the broker, which needs the store to
	// be made. What the store reports before that the broker asks for itself.
	var server atomic.Pointer[broker.Server]
	store, err := storage.Open(cfg.Storage, log, func(seq storage.Seq, err error) {
		if err != nil {
			g.failedAt = time.Now()
			close(g.failed)
		}
		if s := server.Load(); s != nil {
			s.Safe(seq, err)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("edge: open the store: %w", err)
	}
	g.store = store
	if g.learned, err = readLearned(store, log); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	if g.server, err = broker.New(cfg.Broker, store, log); err != nil {
		return nil, errors.Join(fmt.Errorf("edge: open the broker: %w", err), store.Close())
	}
	server.Store(g.server)
	// Everybody reads the store before anybody writes to it.
	g.newBridges()
	if err := g.newModbus(); err != nil {
		return nil, errors.Join(fmt.Errorf("edge: open modbus: %w", err), g.Close())
	}
	g.api = newAPI(g)
	// What reading the store has taken, twice the journal perhaps, would stay with the process for minutes.
	debug.FreeOSMemory()
	return g, nil
}

func (g *Gateway) newModbus() error {
	g.telemetry = newTelemetry(g.server, g.log)
	g.fieldbus = newFieldbus(g.telemetry, g.learned, g.log)
	g.fieldbus.served = g.newServed()
	var links []*fieldLink
	for i := range g.cfg.Modbus.Links {
		link, err := g.fieldbus.newLink(g.cfg, &g.cfg.Modbus.Links[i])
		if err != nil {
			return err
		}
		links = append(links, link)
	}
	g.fieldbus.arrange(g.cfg, links)
	var err error
	g.commands, err = g.newCommands(g.cfg)
	return err
}

func (g *Gateway) newCommands(cfg *Config) (*commands, error) {
	return newCommands(cfg, commandsEnvironment{server: g.server, store: g.store, writer: g.fieldbus, reader: g.fieldbus, log: g.log})
}

// Run serves until ctx ends, then drains and stops, which takes DrainTime at
// most. It returns nil after a stop that was asked for; an error if the broker
// has ended by itself, if the store could not be closed, or if a part did not
// stop in time, in which case some of it may still be running; and ErrReopen, for
// which see Serve.
func (g *Gateway) Run(ctx context.Context) error {
	if g.started.Swap(true) {
		panic("BUG: edge: Gateway.Run called twice or after Close")
	}
	return g.run(ctx)
}

// Close gives back what Open has taken when Run is not going to be called.
// After Run it does nothing.
func (g *Gateway) Close() error {
	if g.started.Swap(true) {
		return nil
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if g.api != nil {
		g.api.close()
	}
	if g.fieldbus != nil {
		g.fieldbus.served.close()
	}
	// A server that was made must be run to give back its sockets.
	return errors.Join(g.server.Run(ended), g.store.Close())
}

func (g *Gateway) run(ctx context.Context) error {
	defer close(g.quit)
	// The order of starting; that of stopping is the reverse.
	server := g.launch("broker", g.server.Run)
	for _, u := range g.uplinks {
		g.runUplink(u)
	}
	topics := g.launch("status topics", newSystem(g).run)
	for _, l := range g.fieldbus.all() {
		g.runLink(l)
	}
	g.runCommands()
	served := g.launch("modbus server", g.fieldbus.served.run)
	api := g.launch("control socket", g.api.run)
	store := g.launch("store", g.awaitStore)
	g.setReady(true)
	g.turn <- struct{}{}
	g.wait(ctx, server, store)

	deadline, release := within(DrainTime)
	defer release()
	g.setReady(false)
	close(g.stopping)
	select {
	case <-g.turn: // no reload is under way, and none begins any more
	case <-deadline:
		return fmt.Errorf("edge: stop: a reload has not ended within %v", DrainTime)
	}
	var uplinks, links []*stage
	for _, u := range g.uplinks {
		uplinks = append(uplinks, u.stage)
	}
	for _, l := range g.fieldbus.all() {
		links = append(links, l.stage)
	}
	for _, stages := range [][]*stage{{api, served}, {g.executing}, links, {topics}, uplinks, {server}, {store}} {
		if err := stop(deadline, stages...); err != nil {
			return err
		}
	}
	return g.closeStore(server.err, store.err, deadline)
}

// closeStore is the end of Run; vital is what ended the broker, reopen why the store is to be opened again.
func (g *Gateway) closeStore(vital, reopen error, deadline <-chan struct{}) error {
	closed := make(chan error, 1)
	go func() { closed <- g.store.Close() }()
	select {
	case err := <-closed:
		if vital != nil {
			return errors.Join(fmt.Errorf("edge: broker: %w", vital), err)
		}
		if reopen != nil {
			return reopen // that the store has failed, which err says, has been told
		}
		if err != nil {
			return fmt.Errorf("edge: close the store: %w", err)
		}
		return nil
	case <-deadline:
		return fmt.Errorf("edge: stop: the store has not been closed within %v; what was acknowledged is safe", DrainTime)
	}
}

func (g *Gateway) runCommands() {
	g.executing = g.launch("commands", g.commands.run)
}

func (g *Gateway) setReady(ready bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ready = ready
}

// wait returns when ctx ends or one of the vital parts has ended. Another part
// that ends by itself is logged.
func (g *Gateway) wait(ctx context.Context, vital ...*stage) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-g.ended:
			if slices.Contains(vital, s) {
				return
			}
			g.log.Error("a part has ended by itself; the rest goes on", "part", s.name, "err", s.err)
		}
	}
}

// Addrs returns the addresses that the broker listens on, in the order of the
// configuration.
func (g *Gateway) Addrs() []string {
	var all []string
	for _, a := range g.server.Addrs() {
		all = append(all, a.String())
	}
	return all
}

// Alive returns nil when the broker's loop, on which all else depends, goes
// round: it asks and waits for the answer or the end of ctx. It waits for Run.
func (g *Gateway) Alive(ctx context.Context) error {
	_, err := g.server.Stats(ctx)
	return err
}
