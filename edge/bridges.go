package edge

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"forebay/bridge"
	"forebay/broker"
)

// uplink is a bridge of the configuration. It does not change but for stage,
// which is for who has the token of Gateway.turn.
type uplink struct {
	cfg    bridge.Config
	bridge *bridge.Bridge
	stage  *stage // nil before Run
}

// The retained topics of a bridge; it publishes them itself.
func bridgeTopics(name string) []string {
	return []string{"$SYS/broker/connection/" + name + "/state", "$SYS/forebay/bridges/" + name, "$SYS/forebay/bridges/" + name + "/outages"}
}

// bridgeOf returns the bridge that a consumer of the store is a queue of; false
// if it is none.
func bridgeOf(consumer string) (name string, ok bool) {
	queue, ok := strings.CutPrefix(consumer, consumerPrefix)
	name, _, _ = strings.Cut(queue, "#")
	return name, ok && queue != commandsName
}

// newBridges makes the bridges of the configuration and lets them keep
// messages. One that cannot be used is logged and left out.
func (g *Gateway) newBridges() {
	g.reportLoops(g.cfg)
	for _, cfg := range g.cfg.Bridges {
		u, err := g.newUplink(cfg)
		if err != nil {
			g.log.Error("bridge cannot be used; the rest goes on", "bridge", cfg.Name, "err", err)
			continue
		}
		g.uplinks = append(g.uplinks, u)
	}
	for _, name := range g.orphans() {
		g.log.Warn("messages may wait for a bridge that is not in the configuration; they are kept until: forebay bridge forget "+name, "bridge", name)
	}
	for _, u := range g.uplinks {
		if err := u.bridge.Attach(); err != nil {
			g.log.Error("bridge cannot keep messages yet", "bridge", u.cfg.Name, "err", err)
		}
	}
}

// newUplink makes a bridge. One that a reload has removed comes back as it was.
func (g *Gateway) newUplink(cfg bridge.Config) (*uplink, error) {
	if b := g.removed[cfg.Name]; b != nil {
		next, err := b.Successor(cfg)
		if err != nil {
			return nil, err
		}
		delete(g.removed, cfg.Name)
		return &uplink{cfg: cfg, bridge: next}, nil
	}
	env := bridge.Environment{Site: g.cfg.Site, Broker: &localBroker{server: g.server}, Log: g.store, Logger: g.log}
	if g.forgotten[cfg.Name] {
		env.Log = bridge.Afresh(g.store)
	}
	b, err := bridge.New(cfg, env)
	if err != nil {
		return nil, err
	}
	return &uplink{cfg: cfg, bridge: b}, nil
}

// orphans returns the names of bridges that are not in the configuration and
// have a queue: they may have been renamed by mistake.
func (g *Gateway) orphans() []string {
	var names []string
	for _, consumer := range g.store.Consumers() {
		name, ok := bridgeOf(consumer)
		if ok && !g.hasBridge(name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (g *Gateway) hasBridge(name string) bool {
	for i := range g.cfg.Bridges {
		if g.cfg.Bridges[i].Name == name {
			return true
		}
	}
	return false
}

// Why a bridge cannot be forgotten.
var (
	errNoQueue    = errors.New("no bridge of that name has a queue")
	errConfigured = errors.New("the bridge is in the configuration; remove it there and reload first")
)

// forgetBridge gives up what waits for a bridge that is not in the
// configuration any more, and returns how many messages that were. g.turn is
// held.
func (g *Gateway) forgetBridge(name string) (messages int64, err error) {
	if g.hasBridge(name) {
		return 0, errConfigured
	}
	var queues []string
	for _, consumer := range g.store.Consumers() {
		if of, ok := bridgeOf(consumer); ok && of == name {
			stats, _ := g.store.ConsumerStats(consumer) // nothing if it has gone meanwhile
			queues, messages = append(queues, consumer), messages+stats.Count
		}
	}
	if len(queues) == 0 {
		return 0, errNoQueue
	}
	if _, err := bridge.Forget(name, g.removed[name], g.store); err != nil {
		return 0, err
	}
	for _, queue := range queues {
		if _, err := g.store.RemoveConsumer(queue); err != nil {
			return 0, fmt.Errorf("edge: forget bridge %s: %w", name, err)
		}
	}
	delete(g.removed, name)
	g.forgotten[name] = true
	g.log.Warn("the queue of a bridge was given up: it was asked to be forgotten", "bridge", name, "messages", messages)
	return messages, nil
}

// runUplink starts a bridge if the gateway runs.
func (g *Gateway) runUplink(u *uplink) {
	u.stage = g.launch("bridge "+u.cfg.Name, u.bridge.Run)
}

// removeUplink stops a bridge and ends its attachment. Its queue stays.
func (g *Gateway) removeUplink(u *uplink) error {
	if err := g.stopUplink(u); err != nil {
		return err
	}
	if err := g.server.Detach(u.cfg.Name); err != nil {
		return err
	}
	g.removed[u.cfg.Name] = u.bridge
	for _, topic := range bridgeTopics(u.cfg.Name) {
		// An empty retained message removes the one there is [MQTT-3.3.1-6]. One
		// that the broker is too busy for only leaves a state of long ago.
		g.server.Publish(&broker.Message{Topic: topic, Retain: true}, nil)
	}
	return nil
}

// stopUplink waits until a bridge has taken leave of its upstream.
func (g *Gateway) stopUplink(u *uplink) error {
	deadline, release := within(DrainTime)
	defer release()
	return stop(deadline, u.stage)
}
