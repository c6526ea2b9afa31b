package broker

import (
	"bytes"
	"context"
	"log/slog"
	"time"

	"forebay/broker/core"
	"forebay/broker/packet"
)

// events answers what the core asks and writes what it tells into the log. It is called in the loop.
type events struct {
	// Constant once the core has been made.
	core   *core.Core
	logger *slog.Logger
	logins *logins // nil: there is no password file

	// Owned by the loop.
	scram      *scramServer // nil: no user has a secret for it
	pace       pace
	clients    int    // connected
	maxClients int    // the most there were at one time
	admitted   uint64 // clients that got a CONNACK of success
	failed     uint64 // logins with a wrong password or an unknown user
	delayed    uint64 // logins refused unseen
}

// Login decides at once where no password is to be checked.
func (e *events) Login(conn *core.Conn, username string, hasUsername bool, password []byte) {
	reason := packet.ReasonNotAuthorized
	switch {
	case conn.Info().User != "":
		reason = packet.ReasonSuccess
	case hasUsername && e.logins != nil:
		if len(password) <= maxPassword && e.logins.ask(login{streamOf(conn), streamOf(conn).peer.Addr(), username, bytes.Clone(password)}) {
			return
		}
		reason = packet.ReasonServerBusy
	case conn.Info().Anonymous:
		// A username that cannot be checked is nobody's: a name that anyone may give must open nothing.
		conn.ForgetUsername()
		reason = packet.ReasonSuccess
	}
	e.core.LoginResult(conn, reason == packet.ReasonSuccess, reason)
}

func (e *events) Connected(conn *core.Conn) {
	e.clients++
	e.admitted++
	e.maxClients = max(e.maxClients, e.clients)
	e.write(slog.LevelInfo, "broker: client connected", conn, slog.String("version", conn.Version().String()))
}

func (e *events) Disconnected(conn *core.Conn, reason packet.Reason, why string) {
	e.clients--
	e.write(slog.LevelInfo, "broker: client disconnected", conn, slog.String("reason", reason.String()), slog.String("why", why))
}

func (e *events) Refused(conn *core.Conn, reason packet.Reason, why string) {
	if conn.Version() == 0 && reason == packet.ReasonUnspecifiedError {
		// It left before it said anything: a port check, a load balancer.
		e.write(slog.LevelDebug, "broker: connection closed before CONNECT", conn, slog.String("why", why))
		return
	}
	e.write(slog.LevelWarn, "broker: connection refused", conn, slog.String("reason", reason.String()), slog.String("why", why))
}

func (e *events) handshakeFailed(info core.ConnInfo, err error) {
	e.line(slog.LevelWarn, "broker: TLS or WebSocket handshake failed", info, "err", err)
}

// refused tells of a connection that ended before the core was told of it.
func (e *events) refused(info core.ConnInfo, err error) {
	e.line(slog.LevelWarn, "broker: connection refused", info, "why", err)
}

// write writes one line about a connection.
func (e *events) write(level slog.Level, text string, conn *core.Conn, attrs ...any) {
	if !e.logger.Enabled(context.Background(), level) {
		return
	}
	if id := conn.ClientID(); id != "" {
		attrs = append(attrs, "clientID", id)
	}
	if name := conn.Username(); name != "" {
		attrs = append(attrs, "username", name)
	}
	e.line(level, text, conn.Info(), attrs...)
}

// line writes one line unless there were too many of them in this second.
func (e *events) line(level slog.Level, text string, info core.ConnInfo, attrs ...any) {
	if !e.logger.Enabled(context.Background(), level) {
		return
	}
	allowed, suppressed := e.pace.allow(time.Now())
	if suppressed > 0 {
		e.logger.Warn("broker: lines about connections were left out", "lines", suppressed)
	}
	if !allowed {
		return
	}
	attrs = append(attrs, "remote", info.Remote, "listener", info.Listener)
	e.logger.Log(context.Background(), level, text, attrs...)
}

// pace bounds how many lines a second are written, whatever the peers do.
type pace struct {
	second     int64
	lines      int
	suppressed int
}

const linesPerSecond = 100

// allow reports whether one more line may be written now. When a second with too many is over it tells once how many
// were suppressed in it.
func (p *pace) allow(now time.Time) (allowed bool, suppressed int) {
	if second := now.Unix(); second != p.second {
		suppressed = p.suppressed
		*p = pace{second: second}
	}
	if p.lines++; p.lines > linesPerSecond {
		p.suppressed++
		return false, suppressed
	}
	return true, suppressed
}
