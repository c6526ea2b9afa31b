package broker

import (
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"forebay/broker/packet"
)

// login is one password to be checked.
type login struct {
	stream   *stream // handed back untouched
	from     netip.Addr
	username string
	password []byte // its own copy
}

// loginAnswer is what came of it: success, or why not.
type loginAnswer struct {
	stream *stream
	reason packet.Reason
	hash   *passwordHash // with success: what the password fitted
}

// logins checks passwords outside the loop: hashing is slow on purpose.
type logins struct {
	// Constant after construction.
	inbox  *inbox
	lines  *slog.Logger
	guard  *guard
	queue  chan login
	finish sync.WaitGroup

	users atomic.Pointer[userFile] // replaced as a whole by Server.Reload
	heavy sync.Mutex               // held while a hash takes much memory: one at a time
}

const (
	// loginWorkers leaves a small machine some time for everything else.
	loginWorkers = 2
	// maxLogins bounds the clients that wait for their turn; more are told that the server is busy.
	maxLogins = 2048
	// maxPassword bounds what one of them holds, in bytes.
	maxPassword = 4096
)

func newLogins(users *userFile, in *inbox, lines *slog.Logger) *logins {
	l := &logins{inbox: in, lines: lines, guard: newGuard(), queue: make(chan login, maxLogins)}
	l.users.Store(users)
	return l
}

// start starts the workers. stop must follow.
func (l *logins) start() {
	for range loginWorkers {
		l.finish.Go(func() {
			for ask := range l.queue {
				answer := l.check(&ask)
				clear(ask.password)
				l.inbox.postLogin(answer)
			}
		})
	}
}

// check looks at one password, unless too many were wrong.
func (l *logins) check(ask *login) loginAnswer {
	if !l.guard.allows(ask.from, ask.username, time.Now()) {
		return loginAnswer{stream: ask.stream, reason: packet.ReasonConnectionRateExceeded}
	}
	if hash := l.verify(ask.username, ask.password); hash != nil {
		return loginAnswer{ask.stream, packet.ReasonSuccess, hash}
	}
	l.noteWrong(ask.from, ask.username)
	return loginAnswer{stream: ask.stream, reason: packet.ReasonBadUserNameOrPassword}
}

// noteWrong counts a wrong password. Any goroutine may call it.
func (l *logins) noteWrong(from netip.Addr, username string) {
	if l.guard.wrong(from, username, time.Now()) {
		l.lines.Warn("broker: too many wrong passwords, logins are refused for some seconds", "address", from, "username", username)
	}
}

func (l *logins) verify(username string, password []byte) *passwordHash {
	users := l.users.Load()
	if users.heavy {
		l.heavy.Lock()
		defer l.heavy.Unlock()
	}
	return users.verify(username, password)
}

// ask queues a login without waiting; it reports false when too many wait. Only the loop calls it, before stop.
func (l *logins) ask(a login) bool {
	select {
	case l.queue <- a:
		return true
	default:
		return false
	}
}

// stop waits until the workers have gone. What is still queued is forgotten: its connections are closed.
func (l *logins) stop() {
	for len(l.queue) > 0 {
		select {
		case <-l.queue:
		default:
		}
	}
	close(l.queue)
	l.finish.Wait()
}
