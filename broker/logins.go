package broker

import (
	"sync"

	"forebay/broker/packet"
)

// login is one password to be checked.
type login struct {
	stream   *stream // handed back untouched
	username string
	password []byte // its own copy
}

// loginAnswer is what came of it: success, or why not.
type loginAnswer struct {
	stream *stream
	reason packet.Reason
}

// logins checks passwords outside the loop: hashing is slow on purpose.
type logins struct {
	// Constant after construction.
	users  *userFile
	inbox  *inbox
	queue  chan login
	finish sync.WaitGroup
}

const (
	// loginWorkers leaves a small machine some time for everything else.
	loginWorkers = 2
	// maxLogins bounds the clients that wait for their turn; more are told that the server is busy.
	maxLogins = 2048
	// maxPassword bounds what one of them holds, in bytes.
	maxPassword = 4096
)

func newLogins(users *userFile, in *inbox) *logins {
	return &logins{users: users, inbox: in, queue: make(chan login, maxLogins)}
}

// start starts the workers. stop must follow.
func (l *logins) start() {
	for range loginWorkers {
		l.finish.Go(func() {
			for ask := range l.queue {
				reason := packet.ReasonBadUserNameOrPassword
				if l.users.verify(ask.username, ask.password) {
					reason = packet.ReasonSuccess
				}
				clear(ask.password)
				l.inbox.postLogin(loginAnswer{ask.stream, reason})
			}
		})
	}
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
