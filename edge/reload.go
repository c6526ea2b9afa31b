package edge

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"forebay/bridge"
	"forebay/modbus"
)

// ErrStopping: the gateway stops and takes no orders any more.
var ErrStopping = errors.New("edge: the gateway stops")

// take waits for the right to change what is in force. g.turn must be given
// back.
func (g *Gateway) take(ctx context.Context) error {
	select {
	case <-g.turn:
		return nil
	case <-g.stopping:
		return ErrStopping
	case <-ctx.Done():
		return fmt.Errorf("edge: another change is under way: %w", ctx.Err())
	}
}

func (g *Gateway) giveBack() { g.turn <- struct{}{} }

// ForgetBridge gives up what waits for a bridge that is not in the
// configuration any more, and returns how many messages that were.
func (g *Gateway) ForgetBridge(ctx context.Context, name string) (messages int64, err error) {
	if err := g.take(ctx); err != nil {
		return 0, err
	}
	defer g.giveBack()
	return g.forgetBridge(name)
}

// Reload reads the configuration file again and puts what differs in force:
// bridges, which keep their queues, Modbus links, the log level, and what is in
// the broker's files of users, access and certificates. Everything else goes on
// undisturbed. It returns what it did, in words.
//
// A *ConfigError means that nothing was changed: the file is wrong, or asks for
// what needs a restart. After any other error some of it is in force; it says
// what is not. It waits for Run, for a reload under way, and for bridges and
// links that have to stop, up to DrainTime for each; ctx ends only the first
// two.
func (g *Gateway) Reload(ctx context.Context) (changes []string, err error) {
	if err := g.take(ctx); err != nil {
		return nil, err
	}
	defer g.giveBack()
	old := g.cfg
	next, err := Load(old.source)
	if err != nil {
		return nil, err
	}
	next.Version, next.Level = old.Version, old.Level
	if err := old.needsRestart(next); err != nil {
		return nil, err
	}
	if missing, ok := errors.AsType[*ConfigError](next.CheckFiles()); ok {
		for _, p := range missing.Problems {
			g.log.Warn("config: "+p.Text, "path", p.Path)
		}
	}
	g.mu.Lock()
	g.cfg = next
	g.mu.Unlock()
	if old.Log != next.Log {
		next.applyLevel()
		changes = append(changes, "log level "+next.Log.Level)
	}
	onBridges, err1 := g.reloadBridges(next)
	onLinks, err2 := g.reloadLinks(next)
	changes = slices.Concat(changes, onBridges, onLinks)
	err3 := g.reloadFiles(ctx)
	g.log.Info("configuration reloaded", "config", next.source, "changes", len(changes))
	for _, c := range changes {
		g.log.Info("reload: " + c)
	}
	if err := errors.Join(err1, err2, err3); err != nil {
		g.log.Error("reload: not all of the configuration is in force", "err", err)
		return changes, err
	}
	return changes, nil
}

// needsRestart reports what differs and cannot be changed while the gateway
// runs.
func (c *Config) needsRestart(next *Config) error {
	p := &problems{lines: next.lines}
	p.differs("site", reflect.ValueOf(c.Site), reflect.ValueOf(next.Site))
	p.differs("storage", reflect.ValueOf(c.Storage), reflect.ValueOf(next.Storage))
	p.differs("broker", reflect.ValueOf(c.Broker), reflect.ValueOf(next.Broker))
	p.differs("modbus.server", reflect.ValueOf(c.Modbus.Server), reflect.ValueOf(next.Modbus.Server))
	p.differs("api", reflect.ValueOf(c.API), reflect.ValueOf(next.API))
	return p.err(next.source)
}

// differs reports, key by key, in what a running configuration and the next
// one differ.
func (p *problems) differs(path string, was, is reflect.Value) {
	if reflect.DeepEqual(was.Interface(), is.Interface()) {
		return
	}
	if was.Kind() != reflect.Struct {
		p.add(path, "cannot be changed while the gateway runs: it needs a restart")
		return
	}
	for i := range was.NumField() {
		if key := was.Type().Field(i).Tag.Get("mapstructure"); key != "" {
			p.differs(join(path, key), was.Field(i), is.Field(i))
		}
	}
}

// reloadFiles makes the broker read its files again.
func (g *Gateway) reloadFiles(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), DrainTime)
	defer cancel()
	return g.server.Reload(ctx)
}

// reloadBridges stops the bridges that have gone or differ, and starts what is
// new. The others are not touched.
func (g *Gateway) reloadBridges(next *Config) (changes []string, err error) {
	g.reportLoops(next)
	var problems []error
	wanted := map[string]bool{}
	for i := range next.Bridges {
		wanted[next.Bridges[i].Name] = true
	}
	present := map[string]*uplink{}
	for _, u := range g.uplinks {
		if wanted[u.cfg.Name] {
			present[u.cfg.Name] = u
			continue
		}
		if err := g.removeUplink(u); err != nil {
			problems = append(problems, fmt.Errorf("bridge %s: %w", u.cfg.Name, err))
		}
		changes = append(changes, "bridge "+u.cfg.Name+" removed; what waits for it is kept until: forebay bridge forget "+u.cfg.Name)
	}
	var uplinks []*uplink
	for _, cfg := range next.Bridges {
		u, what, err := g.reloadBridge(present[cfg.Name], cfg)
		if err != nil {
			problems = append(problems, fmt.Errorf("bridge %s: %w", cfg.Name, err))
		}
		if u != nil {
			uplinks = append(uplinks, u)
		}
		if what != "" {
			changes = append(changes, "bridge "+cfg.Name+" "+what)
		}
	}
	g.mu.Lock()
	g.uplinks = uplinks
	g.mu.Unlock()
	return changes, errors.Join(problems...)
}

// reloadBridge brings one bridge, nil if there is none yet, to its new
// configuration and returns what it did.
func (g *Gateway) reloadBridge(u *uplink, cfg bridge.Config) (now *uplink, what string, err error) {
	if u != nil && reflect.DeepEqual(u.cfg, cfg) {
		return u, "", nil
	}
	what = "added"
	if u != nil {
		if err := g.stopUplink(u); err != nil {
			return u, "", err
		}
		what = "changed"
		g.removed[cfg.Name] = u.bridge // newUplink finds it there
	}
	now, err = g.newUplink(cfg)
	if err != nil {
		return nil, "", err
	}
	err = now.bridge.Attach() // Run does it if that has not been possible
	g.runUplink(now)
	return now, what, err
}

// reloadLinks stops the Modbus links that have gone or differ, and starts what
// is new. The others go on; commands wait in their queue for a moment.
func (g *Gateway) reloadLinks(next *Config) (changes []string, err error) {
	present := map[string]*fieldLink{}
	wanted := map[string]*modbus.LinkConfig{}
	for i := range next.Modbus.Links {
		wanted[next.Modbus.Links[i].Name] = &next.Modbus.Links[i]
	}
	var leaving []*stage
	for _, l := range g.fieldbus.all() {
		name := l.cfg.Name
		if cfg := wanted[name]; cfg != nil && reflect.DeepEqual(l.cfg, cfg) {
			present[name] = l
			continue
		}
		if leaving = append(leaving, l.stage); wanted[name] == nil {
			changes = append(changes, "modbus link "+name+" removed")
		} else {
			changes = append(changes, "modbus link "+name+" changed")
		}
	}
	for _, link := range next.Modbus.Links {
		if present[link.Name] == nil && !slices.Contains(changes, "modbus link "+link.Name+" changed") {
			changes = append(changes, "modbus link "+link.Name+" added")
		}
	}
	if len(changes) == 0 {
		return nil, nil
	}
	deadline, release := within(DrainTime)
	defer release()
	if err := errors.Join(stop(deadline, g.executing), stop(deadline, leaving...)); err != nil {
		return nil, err
	}
	return changes, errors.Join(g.startLinks(next, present), g.reloadCommands(next))
}

// startLinks makes the links of the configuration that are not present, and
// starts them.
func (g *Gateway) startLinks(next *Config, present map[string]*fieldLink) error {
	var links, fresh []*fieldLink
	var problems []error
	for i := range next.Modbus.Links {
		l := present[next.Modbus.Links[i].Name]
		if l == nil {
			var err error
			if l, err = g.fieldbus.newLink(next, &next.Modbus.Links[i]); err != nil {
				problems = append(problems, err)
				continue
			}
			fresh = append(fresh, l)
		}
		links = append(links, l)
	}
	g.fieldbus.arrange(next, links)
	for _, l := range fresh {
		g.runLink(l)
	}
	return errors.Join(problems...)
}

// reloadCommands takes commands for the tags that there are now.
func (g *Gateway) reloadCommands(next *Config) error {
	commands, err := g.newCommands(next)
	if err != nil {
		return err // of the store, which is lost, or of the broker, which stops
	}
	if commands.cursor == nil {
		err = g.server.Detach(commandsName)
	}
	g.commands = commands
	g.runCommands()
	return err
}
