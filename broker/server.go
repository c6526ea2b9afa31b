package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"forebay/broker/core"
	"forebay/broker/packet"
	"forebay/storage"
)

// Server is the broker: its listeners, its loop, and the way in for messages from inside the process. Its methods may
// be called from any goroutine, Run once.
type Server struct {
	// Constant after New.
	cfg       Config
	store     *storage.Log
	lines     *slog.Logger // writes through queue
	queue     *logQueue
	logins    *logins // nil: there is no password file
	poll      *poller
	listeners []*listener // the loop's, once it runs
	addrs     []net.Addr
	durable   *durableLog
	loop      *loop
	inbox     inbox

	ended      chan struct{} // closed when Run returns
	watchEvery time.Duration

	reloading sync.Mutex       // held by Reload from its beginning to its end
	read      map[string]stamp // guarded by reloading: of the files when they were last read
}

// Message is published from inside the process: telemetry, a bridge's downlink, a status.
type Message struct {
	Topic   string // any valid topic name, those of $SYS included
	Payload []byte // not to be changed until done has been called, or ever without done
	QoS     byte   // 0, 1 or 2
	Retain  bool

	// Properties are those of the PUBLISH, without topic alias and subscription identifiers.
	Properties packet.PublishProperties

	// Origin is the name of the attachment it came through, which does not get it back; or empty.
	Origin string

	// Changes are rows that become durable in one record with the message, and before done is called; with a refusal
	// none of them is made. Like Payload they are not to be changed meanwhile.
	Changes []storage.Change
}

// Stats are the server's counters since New, and its present sizes.
type Stats struct {
	core.Stats
	Clients    int // connected ones
	MaxClients int // the most there were at one time
	Sockets    int // open ones, those that have not sent CONNECT and those being closed included
	Panics     int // bugs that closed one connection

	Admitted uint64 // clients that were let in, since New
	Accepted uint64 // connections that were taken, since New

	BytesReceived, BytesSent uint64 // of MQTT, from and to clients

	RefusedFull    uint64 // connections closed at once: of all or of their listener there were too many
	RefusedAddress uint64 // connections closed at once: of their address there were too many

	LoginsFailed  uint64 // wrong passwords and unknown users
	LoginsDelayed uint64 // logins refused unseen, because too many before them had failed
}

// consumerPrefix begins the names of attachments in the log. Those of sessions begin with "session/".
const consumerPrefix = "bridge/"

// New binds the listeners, reads the password and access files, and fills the broker with what the log has. Nothing
// must have been appended to the log since it was opened. The log stays the caller's; it has to be open until Run has
// returned, and its progress has to be given to Safe. All problems of files and addresses are in the error.
//
// After New, Run must be called to release what was bound, if only with a context that is done.
func New(cfg Config, log *storage.Log, logger *slog.Logger) (*Server, error) {
	cfg.SetDefaults()
	s := &Server{
		cfg: cfg, store: log, queue: newLogQueue(logger.Handler()),
		ended: make(chan struct{}), watchEvery: watchInterval, read: stamps(cfg.files()),
	}
	s.lines = slog.New(s.queue)
	s.cfg.Limits.Connections = affordable(cfg.Limits.Connections, logger)
	users, access, err := loadFiles(cfg)
	err = errors.Join(err, s.bind(logger))
	if err == nil {
		s.poll, err = newPoller()
	}
	if err == nil {
		s.inbox.wake = s.poll.wake
		if err = s.restore(users, access, logger); err != nil {
			s.poll.close()
		}
	}
	if err != nil {
		for _, l := range s.listeners {
			l.release()
		}
		return nil, err
	}
	return s, nil
}

// loadFiles reads the files that the configuration names.
func loadFiles(cfg Config) (users *userFile, access *accessFile, err error) {
	var err1, err2 error
	if cfg.PasswordFile != "" {
		users, err1 = loadUsers(cfg.PasswordFile)
	}
	if cfg.ACLFile != "" {
		access, err2 = loadAccess(cfg.ACLFile)
	}
	return users, access, errors.Join(err1, err2)
}

func (s *Server) bind(logger *slog.Logger) error {
	var problems []error
	for _, c := range s.cfg.Listeners {
		l, err := listen(c)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		l.limits = s.cfg.Limits.forListener(c.Limits)
		l.door = core.Door{Listener: c.Address, Anonymous: c.Anonymous, MessageRate: l.limits.MessageRate, ByteRate: l.limits.ByteRate}
		l.tls.warnExpired(c.Address, logger)
		s.listeners = append(s.listeners, l)
		s.addrs = append(s.addrs, l.addr)
	}
	return errors.Join(problems...)
}

// restore makes the core and the loop around it.
func (s *Server) restore(users *userFile, access *accessFile, logger *slog.Logger) error {
	cfg := s.cfg.Limits.core()
	cfg.MaxAckDelay = s.store.MaxAckDelay()
	cfg.ServerReference, cfg.ResponseInformation = s.cfg.ServerReference, s.cfg.ResponseInformation
	if access != nil {
		cfg.Authorizer = access
	}
	if users != nil {
		s.logins = newLogins(users, &s.inbox, s.lines)
	}
	e := &events{logger: s.lines, logins: s.logins}
	if users != nil {
		e.scram = newScramServer(users)
	}
	s.durable = newDurableLog(s.store, &s.inbox, s.cfg.Limits.queue())
	c := core.New(cfg, s.durable, e, time.Now())
	e.core = c
	unreadable := 0
	if err := s.durable.restore(c, func(table core.Table, err error) {
		if unreadable++; unreadable == 1 {
			logger.Error("broker: a stored row cannot be read and is left out", "table", int(table), "err", err)
		}
	}); err != nil {
		return err
	}
	if unreadable > 1 {
		logger.Error("broker: stored rows cannot be read and are left out", "rows", unreadable)
	}
	s.loop = newLoop(c, e, s)
	return nil
}

// Run serves until ctx is done, and then for a few seconds more: new connections are refused, clients get the
// acknowledgements that they wait for and are disconnected. It returns when all of the server's goroutines are gone;
// nil after a stop that was asked for. Call it once.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.ended)
	s.queue.start()
	defer s.queue.stop()
	if s.logins != nil {
		s.logins.start()
		defer s.logins.stop()
	}
	asked := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(asked)
		s.inbox.postStop()
	})
	defer func() {
		if !stop() {
			<-asked
		}
	}()
	for _, l := range s.listeners {
		defer l.file.remove()
		s.lines.Info("broker: listening", "address", l.addr.String(), "tls", l.tls != nil, "websocket", l.config.Transport == TransportWebSocket, "anonymous", l.config.Anonymous)
	}
	watching, stopWatching := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { s.watch(watching) })
	defer watcher.Wait()
	defer stopWatching()
	// What was safe, or had failed, before anybody could tell Safe.
	s.Safe(s.store.Safe(), s.store.Stats().Err)
	return s.loop.run()
}

// Addrs returns the bound addresses, in the order of the listeners in the configuration.
func (s *Server) Addrs() []net.Addr { return s.addrs }

// Safe tells the server how far the log is safe, and once that it has failed. It is the function that storage.Open
// asks for. It does not block. What was safe before Run is found out by Run.
func (s *Server) Safe(seq storage.Seq, err error) { s.inbox.postSafe(seq, err) }

// Publish publishes a message, in order with those before it from the same goroutine. It does not block. done, if not
// nil, is called once, in the loop or before Publish returns, and must not block: with nil when a device would get
// its PUBACK now, that is, when the message is safe for every durable consumer (D1); else with the reason: ErrBusy
// and ErrClosed, of which the message was not published, or of which nothing is known when the server ends before.
func (s *Server) Publish(m *Message, done func(error)) {
	if err := s.inbox.postMessage(injection{m, done}); err != nil && done != nil {
		done(err)
	}
}

// Stats asks the loop for its counters. It waits for Run, or for the end of ctx.
func (s *Server) Stats(ctx context.Context) (Stats, error) {
	answer := make(chan Stats, 1)
	err := s.inbox.postCall(func() {
		answer <- s.loop.stats()
	})
	if err != nil {
		return Stats{}, fmt.Errorf("broker: stats: %w", err)
	}
	select {
	case st := <-answer:
		return st, nil
	case <-ctx.Done():
		return Stats{}, fmt.Errorf("broker: stats: %w", ctx.Err())
	}
}
