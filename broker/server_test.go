package broker

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

// gateway is a server on a store, as the process runs it.
type gateway struct {
	*Server
	t      testing.TB
	store  *storage.Log
	cancel context.CancelFunc
	ended  chan error
	deaf   *atomic.Bool // the server does not hear what becomes safe
}

// anyPort is a configuration with one anonymous listener on a free port.
func anyPort() Config {
	return Config{Listeners: []ListenerConfig{{Address: "127.0.0.1:0", Anonymous: true}}}
}

// open opens the store in dir and makes a server that does not run yet.
func open(t testing.TB, dir string, cfg Config) *gateway {
	t.Helper()
	return openStore(t, cfg, storage.Config{Path: dir})
}

func openSized(t testing.TB, dir string, cfg Config, maxSize int64) *gateway {
	t.Helper()
	return openStore(t, cfg, storage.Config{Path: dir, MaxSize: maxSize})
}

func openStore(t testing.TB, cfg Config, stored storage.Config) *gateway {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	var server atomic.Pointer[Server]
	deaf := new(atomic.Bool)
	stored.SetDefaults()
	store, err := storage.Open(stored, logger, func(seq storage.Seq, err error) {
		if s := server.Load(); s != nil && !deaf.Load() {
			s.Safe(seq, err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(cfg, store, logger)
	if err != nil {
		t.Fatal(err)
	}
	server.Store(s)
	return &gateway{Server: s, t: t, store: store, deaf: deaf}
}

// run starts the server.
func (g *gateway) run() *gateway {
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel, g.ended = cancel, make(chan error, 1)
	go func() { g.ended <- g.Run(ctx) }()
	g.t.Cleanup(func() {
		if g.cancel != nil {
			g.stop()
		}
	})
	return g
}

// stop drains the server and closes the store.
func (g *gateway) stop() {
	g.t.Helper()
	g.cancel()
	g.cancel = nil
	select {
	case err := <-g.ended:
		if err != nil {
			g.t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		g.t.Fatal("Run does not return")
	}
	if err := g.store.Close(); err != nil {
		g.t.Errorf("close store: %v", err)
	}
}

func start(t testing.TB, cfg Config) *gateway { t.Helper(); return open(t, t.TempDir(), cfg).run() }

func (g *gateway) addr() net.Addr { return g.Addrs()[0] }

// client connects a client with a clean session.
func (g *gateway) client(v packet.Version, id string) *client {
	g.t.Helper()
	c := dial(g.t, g.addr(), v)
	c.login(packet.Connect{ClientID: []byte(id), CleanStart: true})
	return c
}

// settled waits until the loop's state is as wanted.
func (g *gateway) settled(what string, ok func(Stats) bool) Stats {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		st, err := g.Stats(ctx)
		if err != nil {
			g.t.Fatalf("waiting for %s: %v", what, err)
		}
		if ok(st) {
			return st
		}
	}
}
