package modbus

import (
	"context"
	"errors"
	"net"
	"time"
)

// SetWall replaces the clock on the wall.
func (p *Poller) SetWall(wall func(now time.Time) time.Time) {
	for _, l := range p.links {
		l.wall = wall
	}
}

// SetDial replaces how the poller opens its links, so that tests can use pipes:
// dial gets the name of the link.
func (p *Poller) SetDial(dial func(link string) net.Conn) {
	for _, l := range p.links {
		open := func(context.Context) (stream, error) {
			if conn := dial(l.config.Name); conn != nil {
				return conn, nil
			}
			return nil, errors.New("nobody there")
		}
		switch t := l.client.transport.(type) {
		case *tcpTransport:
			t.open = open
		case *rtuTransport:
			t.open = open
		}
	}
}
