package edge

import (
	"context"
	"net"

	"forebay/modbus"
)

// served is modbus.server: tags for other Modbus clients. It goes without when its
// address cannot be opened, as the API does.
type served struct {
	server   *modbus.TagServer
	listener net.Listener // nil: it could not be opened
}

// newServed opens modbus.server; nil if there is none. The links fed by it have to
// be made afterwards.
func (g *Gateway) newServed() *served {
	cfg := g.cfg.Modbus.Server
	if cfg == nil {
		return nil
	}
	s := &served{server: modbus.NewTagServer(cfg, g.writeForClient)}
	var err error
	if s.listener, err = net.Listen("tcp", cfg.Listen); err != nil {
		g.log.Error("modbus.server.listen cannot be opened; the rest goes on", "address", cfg.Listen, "err", err)
		return s
	}
	g.log.Info("modbus: tags are served", "address", s.listener.Addr().String(), "tags", len(cfg.Tags))
	return s
}

// writeForClient writes a tag for a client of modbus.server; that leaves a line.
func (g *Gateway) writeForClient(ctx context.Context, link, unit, tag string, value any) error {
	done, err := g.fieldbus.Write(ctx, link, unit, tag, value)
	if err != nil {
		g.log.Warn("modbus: a client of modbus.server did not write", "link", link, "unit", unit, "tag", tag, "value", value, "err", err)
		return err
	}
	g.log.Info("modbus: written by a client of modbus.server", "link", link, "unit", unit, "tag", tag,
		"before", done.Before.String(), "value", done.After.String())
	return nil
}

// feed lets a poller tell the server what it reads.
func (s *served) feed(p *modbus.Poller) {
	if s != nil {
		p.Feed(s.server)
	}
}

// run serves until ctx ends.
func (s *served) run(ctx context.Context) error {
	if s == nil || s.listener == nil {
		<-ctx.Done()
		return nil
	}
	return s.server.Serve(ctx, s.listener)
}

// close gives the listener back when run is not going to be called.
func (s *served) close() {
	if s != nil && s.listener != nil {
		_ = s.listener.Close() // nobody was served
	}
}
