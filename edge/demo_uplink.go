package edge

import (
	"context"
	"io"
	"net"
	"sync"
)

// demoUplink is the line between gateway and cloud, with a switch in it.
type demoUplink struct {
	// Constant after newDemoUplink.
	listener net.Listener
	cloud    string

	mu      sync.Mutex
	down    bool                  // guarded by mu
	outages int                   // guarded by mu
	conns   map[net.Conn]struct{} // guarded by mu: both ends of every connection
}

func newDemoUplink(cloud string) (*demoUplink, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &demoUplink{listener: l, cloud: cloud, conns: map[net.Conn]struct{}{}}, nil
}

// run passes connections on until ctx ends.
func (u *demoUplink) run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	stop := context.AfterFunc(ctx, func() {
		_ = u.listener.Close() // ends Accept
		u.cut()
	})
	defer stop()
	for {
		conn, err := u.listener.Accept()
		if err != nil {
			return
		}
		running.Go(func() { u.pass(conn) })
	}
}

// pass carries one connection to the cloud, as long as the uplink is up.
func (u *demoUplink) pass(conn net.Conn) {
	cloud, err := net.Dial("tcp", u.cloud)
	if err != nil {
		_ = conn.Close() // the gateway finds out
		return
	}
	if !u.keep(conn, cloud) {
		return
	}
	defer u.drop(conn, cloud)
	var both sync.WaitGroup
	defer both.Wait()
	both.Go(func() {
		// Whatever ends one direction ends both, and is no news to anybody.
		_, _ = io.Copy(cloud, conn)
		u.drop(conn, cloud)
	})
	_, _ = io.Copy(conn, cloud) // as above
	u.drop(conn, cloud)
}

// keep remembers a connection, or closes it if the uplink is down.
func (u *demoUplink) keep(ends ...net.Conn) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range ends {
		if u.down {
			abort(c)
		} else {
			u.conns[c] = struct{}{}
		}
	}
	return !u.down
}

func (u *demoUplink) drop(ends ...net.Conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range ends {
		delete(u.conns, c)
		_ = c.Close() // the second time it is closed already
	}
}

// abort closes a connection and throws away what is in its buffers, as a line
// that is cut does.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // if it fails the end is merely politer
	}
	_ = c.Close() // nothing to be done about it
}

// cut takes the uplink away.
func (u *demoUplink) cut() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.down {
		return
	}
	u.down = true
	u.outages++
	for c := range u.conns {
		abort(c)
	}
	clear(u.conns)
}

// mend brings it back.
func (u *demoUplink) mend() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.down = false
}

// state reports whether the uplink is down and how often it was.
func (u *demoUplink) state() (down bool, outages int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.down, u.outages
}
