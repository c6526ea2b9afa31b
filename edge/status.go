package edge

import (
	"context"
	"fmt"
	"strings"
	"time"

	"forebay/bridge"
	"forebay/broker"
	"forebay/modbus"
)

// Status is what the gateway is doing now.
type Status struct {
	Site    string
	Since   time.Time // of Open
	Broker  broker.Stats
	Bridges []bridge.Status // in the order of the configuration
	Tags    []TagStatus     // likewise
	Links   []modbus.LinkStats
	Units   []modbus.UnitStats
	Learned []modbus.LearnedUnit // about the reads of units

	Samples        uint64 // published and safe, since the start
	SamplesRefused uint64 // refused by the broker, and so lost
}

// TagStatus is the last sample of a tag. Quality is empty before the first.
type TagStatus struct {
	Topic   string
	Unit    string // the engineering unit
	Value   string // "null" if there is none
	Quality string
	Time    time.Time
	Error   string
}

// Status asks every part. It waits for the broker's loop, or for the end of
// ctx.
func (g *Gateway) Status(ctx context.Context) (Status, error) {
	stats, err := g.server.Stats(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("edge: status: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Status{
		Site: g.cfg.Site, Since: g.began, Broker: stats, Tags: g.telemetry.tags(),
		Links: g.fieldbus.stats(), Units: g.fieldbus.units(), Learned: g.learned.all(),
		Samples: g.telemetry.samples.Load(), SamplesRefused: g.telemetry.refused.Load(),
	}
	for _, u := range g.uplinks {
		s.Bridges = append(s.Bridges, u.bridge.Status())
	}
	return s, nil
}

// Summary says in a few words what a configuration sets up.
func (c *Config) Summary() string {
	tags := 0
	for _, link := range c.Modbus.Links {
		for _, unit := range link.Units {
			tags += len(unit.Tags)
		}
	}
	return strings.Join([]string{
		count(len(c.Broker.Listeners), "listener"), count(len(c.Bridges), "bridge"),
		count(len(c.Modbus.Links), "Modbus link"), count(tags, "tag"),
	}, ", ")
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
