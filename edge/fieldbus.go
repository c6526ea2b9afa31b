package edge

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"forebay/modbus"
)

// fieldbus is the Modbus links of the configuration, each with a poller of its
// own, so that a reload touches only those that differ.
type fieldbus struct {
	// Constant after newFieldbus.
	log       *slog.Logger
	telemetry *telemetry
	learned   *learned
	served    *served // nil: no tag is served

	mu    sync.Mutex
	links []*fieldLink // guarded by mu; replaced, never changed; in the order of the configuration
}

// fieldLink is one link. It does not change.
type fieldLink struct {
	cfg    *modbus.LinkConfig // in the Config that the link was made from
	poller *modbus.Poller
	stage  *stage // nil before Run
}

func newFieldbus(telemetry *telemetry, learned *learned, log *slog.Logger) *fieldbus {
	return &fieldbus{log: log, telemetry: telemetry, learned: learned}
}

// newLink prepares a poller for one link of the configuration.
func (f *fieldbus) newLink(cfg *Config, link *modbus.LinkConfig) (*fieldLink, error) {
	alone := cfg.Modbus
	alone.Server = nil // it may name tags of other links
	alone.Links = cfg.Modbus.Links[:0:0]
	alone.Links = append(alone.Links, *link)
	poller, err := modbus.New(alone, f.log, f.telemetry)
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", link.Name, err)
	}
	poller.Recall(f.learned.all())
	poller.OnLearned(f.learned.keep)
	f.served.feed(poller)
	return &fieldLink{cfg: &alone.Links[0], poller: poller}, nil
}

// arrange makes links those that there are now. Those that have gone must have
// been stopped, and those that are new not started.
func (f *fieldbus) arrange(cfg *Config, links []*fieldLink) {
	configs := make([]*modbus.LinkConfig, len(links))
	for i, l := range links {
		configs[i] = l.cfg
	}
	f.telemetry.arrange(cfg, configs)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.links = links
}

func (f *fieldbus) all() []*fieldLink {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.links
}

func (g *Gateway) runLink(l *fieldLink) {
	l.stage = g.launch("modbus link "+l.cfg.Name, func(ctx context.Context) error {
		err := l.poller.Run(ctx)
		g.telemetry.stopped(l.cfg, time.Now())
		return err
	})
}

// Write is modbus.Poller.Write of the link of that name.
func (f *fieldbus) Write(ctx context.Context, link, unit, tag string, value any) (modbus.WriteResult, error) {
	for _, l := range f.all() {
		if l.cfg.Name == link {
			return l.poller.Write(ctx, link, unit, tag, value)
		}
	}
	return modbus.WriteResult{Time: time.Now()}, &modbus.RefusedError{Reason: "there is no link " + link}
}

// WriteAll is modbus.Poller.WriteAll of the link of that name.
func (f *fieldbus) WriteAll(ctx context.Context, link, unit string, values map[string]any) ([]modbus.WriteResult, error) {
	for _, l := range f.all() {
		if l.cfg.Name == link {
			return l.poller.WriteAll(ctx, link, unit, values)
		}
	}
	return nil, &modbus.RefusedError{Reason: "there is no link " + link}
}

// ReadNow is modbus.Poller.ReadNow of the link of that name.
func (f *fieldbus) ReadNow(link, unit, tag string) error {
	for _, l := range f.all() {
		if l.cfg.Name == link {
			return l.poller.ReadNow(link, unit, tag)
		}
	}
	return &modbus.RefusedError{Reason: "there is no link " + link}
}

// stats are the counters of all links, in the order of the configuration.
func (f *fieldbus) stats() []modbus.LinkStats {
	var all []modbus.LinkStats
	for _, l := range f.all() {
		all = append(all, l.poller.Stats()...)
	}
	return all
}

// units are the counters of all units, in the order of the configuration.
func (f *fieldbus) units() []modbus.UnitStats {
	var all []modbus.UnitStats
	for _, l := range f.all() {
		all = append(all, l.poller.Units()...)
	}
	return all
}
