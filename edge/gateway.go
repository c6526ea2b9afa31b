package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"forebay/bridge"
	"forebay/broker"
	"forebay/modbus"
	"forebay/storage"
)

// DrainTime bounds how long Run takes after its context has ended.
const DrainTime = 10 * time.Second

// Gateway is a whole gateway. Its methods may be called from any goroutine;
// Run once.
type Gateway struct {
	// Constant after Open.
	cfg       *Config
	log       *slog.Logger
	began     time.Time
	store     *storage.Log
	server    *broker.Server
	bridges   []*bridge.Bridge
	poller    *modbus.Poller
	telemetry *telemetry
	commands  *commands

	started atomic.Bool // Run or Close has been called
}

// Open opens the store, binds the listeners and prepares the rest; from its
// return on every message that a bridge wants is kept for it. Bridges that
// cannot be prepared are logged and left out. cfg must come from Load, or have
// its defaults set and be valid.
//
// What Open has taken is given back by Run or by Close.
func Open(cfg *Config, log *slog.Logger) (*Gateway, error) {
	g := &Gateway{cfg: cfg, log: log, began: time.Now()}
	// The store reports its progress to the broker, which needs the store to
	// be made. What the store reports before that the broker asks for itself.
	var server atomic.Pointer[broker.Server]
	store, err := storage.Open(cfg.Storage, log, func(seq storage.Seq, err error) {
		if s := server.Load(); s != nil {
			s.Safe(seq, err)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("edge: open the store: %w", err)
	}
	g.store = store
	if g.server, err = broker.New(cfg.Broker, store, log); err != nil {
		return nil, errors.Join(fmt.Errorf("edge: open the broker: %w", err), store.Close())
	}
	server.Store(g.server)
	// Everybody reads the store before anybody writes to it.
	g.newBridges()
	if err := g.newModbus(); err != nil {
		return nil, errors.Join(fmt.Errorf("edge: open modbus: %w", err), g.Close())
	}
	return g, nil
}

func (g *Gateway) newBridges() {
	local := &localBroker{server: g.server}
	for _, cfg := range g.cfg.Bridges {
		b, err := bridge.New(cfg, bridge.Environment{Site: g.cfg.Site, Broker: local, Log: g.store, Logger: g.log})
		if err != nil {
			g.log.Error("bridge cannot be used; the rest goes on", "bridge", cfg.Name, "err", err)
			continue
		}
		g.bridges = append(g.bridges, b)
	}
	g.reportOrphans()
	for _, b := range g.bridges {
		if err := b.Attach(); err != nil {
			g.log.Error("bridge cannot keep messages yet", "bridge", b.Status().Name, "err", err)
		}
	}
}

// reportOrphans tells of queues whose bridge is not in the configuration. They
// are kept: the bridge may have been renamed by mistake.
func (g *Gateway) reportOrphans() {
	for _, name := range g.store.Consumers() {
		bridgeName, ok := strings.CutPrefix(name, consumerPrefix)
		bridgeName, _, queue := strings.Cut(bridgeName, "#")
		if !ok || queue || bridgeName == commandsName {
			continue
		}
		if !slices.ContainsFunc(g.cfg.Bridges, func(c bridge.Config) bool { return c.Name == bridgeName }) {
			g.log.Warn("messages may wait for a bridge that is not in the configuration; they are kept", "bridge", bridgeName)
		}
	}
}

func (g *Gateway) newModbus() error {
	g.telemetry = newTelemetry(g.cfg, g.server, g.log)
	poller, err := modbus.New(g.cfg.Modbus, g.log, g.telemetry)
	if err != nil {
		return err
	}
	g.poller = poller
	g.commands, err = newCommands(g.cfg, commandsEnvironment{server: g.server, store: g.store, writer: poller, log: g.log})
	return err
}

// stage is one part of the gateway while it runs.
type stage struct {
	name   string
	vital  bool // its end is the gateway's
	cancel context.CancelFunc
	done   chan struct{} // closed after err is set
	err    error
}

// start runs a part in a goroutine of its own. Its context is independent of
// that of Run: the parts end one after the other.
func start(name string, vital bool, run func(context.Context) error) *stage {
	ctx, cancel := context.WithCancel(context.Background())
	s := &stage{name: name, vital: vital, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.err = run(ctx)
	}()
	return s
}

// Run serves until ctx ends, then drains and stops, which takes DrainTime at
// most. It returns nil after a stop that was asked for; an error if the broker
// has ended by itself, if the store could not be closed, or if a part did not
// stop in time, in which case some of it may still be running.
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
	// A server that was made must be run to give back its sockets.
	return errors.Join(g.server.Run(ended), g.store.Close())
}

func (g *Gateway) run(ctx context.Context) error {
	// The order of starting; that of stopping is the reverse.
	stages := []*stage{start("broker", true, g.server.Run)}
	for _, b := range g.bridges {
		stages = append(stages, start("bridge "+b.Status().Name, false, b.Run))
	}
	stages = append(stages,
		start("status topics", false, newSystem(g).run),
		start("modbus", false, g.runModbus),
		start("commands", false, g.commands.run))

	failed := make(chan *stage, len(stages))
	for _, s := range stages {
		go func() {
			<-s.done
			failed <- s
		}()
	}
	g.wait(ctx, failed)

	deadline := time.NewTimer(DrainTime)
	defer deadline.Stop()
	for _, s := range slices.Backward(stages) {
		s.cancel()
		select {
		case <-s.done:
		case <-deadline.C:
			return fmt.Errorf("edge: stop: %s has not ended within %v", s.name, DrainTime)
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- g.store.Close() }()
	select {
	case err := <-closed:
		if vital := stages[0].err; vital != nil {
			return errors.Join(fmt.Errorf("edge: %s: %w", stages[0].name, vital), err)
		}
		if err != nil {
			return fmt.Errorf("edge: close the store: %w", err)
		}
		return nil
	case <-deadline.C:
		return fmt.Errorf("edge: stop: the store has not been closed within %v; what was acknowledged is safe", DrainTime)
	}
}

func (g *Gateway) runModbus(ctx context.Context) error {
	err := g.poller.Run(ctx)
	g.telemetry.stopped(time.Now())
	return err
}

// wait returns when ctx ends or a vital part has ended. Another part that ends
// by itself is logged.
func (g *Gateway) wait(ctx context.Context, ended <-chan *stage) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-ended:
			if s.vital {
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
