package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"forebay/broker"
	"forebay/broker/packet"
	"forebay/modbus"
	"forebay/storage"
)

const (
	// commandsName is the name of the commands' attachment to the broker. No
	// bridge can have it: their names have no slash.
	commandsName = "modbus/commands"

	// commandLife is how old a command may be that states no expiry: nobody
	// expects a pump to start because of what was asked an hour ago.
	commandLife = time.Minute

	// maxCommands bounds the commands that wait for one link. Each takes the
	// place of a read.
	maxCommands = 16

	// idProperty is the user property with which a client tells commands from
	// ones that it only sends again.
	idProperty = "forebay-id"

	// resultTime bounds the wait for the result of a command to become safe.
	resultTime = 5 * time.Second
)

// writer is what commands need of the poller.
type writer interface {
	Write(ctx context.Context, link, unit, tag string, value any) (modbus.WriteResult, error)
	WriteAll(ctx context.Context, link, unit string, values map[string]any) ([]modbus.WriteResult, error)
}

// commandsEnvironment is what commands live in.
type commandsEnvironment struct {
	server interface {
		publisher
		Attach(broker.Attachment) (*storage.Cursor, error)
	}
	store interface {
		WaitSafe(context.Context, storage.Seq) error
	}
	writer writer
	reader interface {
		ReadNow(link, unit, tag string) error
	}
	log *slog.Logger
}

// commands takes the messages on <topic>/set and has them written. Each is
// written at most once, whatever happens: that it was taken is durable before
// the write begins.
type commands struct {
	// Constant after newCommands.
	commandsEnvironment
	targets map[string]target // by the topic of the command
	arms    map[target]string // the words that arm tags
	links   []string
	cursor  *storage.Cursor // owned by run; nil if there is nothing to write to
	wake    chan struct{}   // capacity 1: the cursor may have more
	live    chan *command   // of QoS 0, from the broker's loop
	missed  atomic.Uint64   // of QoS 0, not taken because live was full

	now func() time.Time

	mu      sync.Mutex
	repeats repeats // guarded by mu
}

// target is where a command goes; tag is empty for several tags of a unit.
type target struct{ link, unit, tag string }

// command is one message on a tag's …/set.
type command struct {
	n       uint64 // in the queue; 0: QoS 0, which is not in it
	topic   string
	payload []byte
	retain  bool
	expires time.Time

	id             string // of user property forebay-id; empty: none
	responseTopic  string
	hasCorrelation bool
	correlation    []byte

	target target // set once the command has been found good
	value  any
}

func newCommands(cfg *Config, env commandsEnvironment) (*commands, error) {
	c := &commands{
		commandsEnvironment: env, targets: map[string]target{}, arms: map[target]string{},
		wake: make(chan struct{}, 1), live: make(chan *command, maxCommands), now: time.Now,
	}
	a := broker.Attachment{Name: commandsName, Live: c.onLive}
	cfg.eachTag(func(link *modbus.LinkConfig, unit *modbus.UnitConfig, tag *modbus.TagConfig) {
		// Also of tags that cannot be written: the answer says so.
		topic := cfg.tagTopic(link, unit, tag) + setSuffix
		if _, taken := c.targets[topic]; taken {
			return // another tag is called that; see validateTopics
		}
		c.targets[topic] = target{link.Name, unit.Name, tag.Name}
		if tag.Arm != "" {
			c.arms[c.targets[topic]] = tag.Arm
		}
		a.Filters = append(a.Filters, broker.AttachFilter{Filter: topic, MaxQoS: 2},
			broker.AttachFilter{Filter: cfg.tagTopic(link, unit, tag) + getSuffix}) // never in the log: it is for now
	})
	for topic, to := range groupTargets(cfg, takenTopics(cfg)) {
		c.targets[topic] = to
		a.Filters = append(a.Filters, broker.AttachFilter{Filter: topic, MaxQoS: 2})
	}
	for _, link := range cfg.Modbus.Links {
		c.links = append(c.links, link.Name)
	}
	if len(c.targets) == 0 {
		return c, nil
	}
	cursor, err := env.server.Attach(a)
	if err != nil {
		return nil, fmt.Errorf("commands: %w", err)
	}
	c.cursor = cursor
	cursor.SetNotify(func() {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	})
	return c, nil
}

// onLive takes a command of QoS 0. It is called by the broker's loop.
func (c *commands) onLive(p *packet.Publish) {
	if c.onDemand(p) {
		return
	}
	select {
	case c.live <- c.newCommand(p, c.now()):
	default:
		c.missed.Add(1)
	}
}

// newCommand copies what it needs of p.
func (c *commands) newCommand(p *packet.Publish, arrived time.Time) *command {
	life := commandLife
	if p.HasExpiry {
		life = time.Duration(p.Expiry) * time.Second
	}
	id := ""
	for _, u := range p.UserProperties {
		if string(u.Name) == idProperty {
			id = string(u.Value)
		}
	}
	return &command{
		id: id, topic: string(p.Topic), payload: append([]byte(nil), p.Payload...), retain: p.Retain,
		expires:       arrived.Add(life),
		responseTopic: string(p.ResponseTopic), hasCorrelation: p.HasCorrelation,
		correlation: append([]byte(nil), p.Correlation...),
	}
}

// run takes commands until ctx ends. Those that wait for a link then are
// refused, those under way are waited for.
func (c *commands) run(ctx context.Context) error {
	if c.cursor == nil {
		<-ctx.Done()
		return nil
	}
	c.forgetReleased()
	queues := make(map[string]chan *command, len(c.links))
	// Room for all that can be under way, so that a worker never waits.
	finished := make(chan uint64, len(c.links)*(maxCommands+1))
	var workers sync.WaitGroup
	for _, link := range c.links {
		queue := make(chan *command, maxCommands)
		queues[link] = queue
		workers.Go(func() {
			for cmd := range queue {
				c.execute(ctx, cmd)
				finished <- cmd.n
			}
		})
	}
	c.dispatch(ctx, queues, finished)
	for _, queue := range queues {
		close(queue)
	}
	workers.Wait()
	close(finished)
	for n := range finished {
		c.finish(n)
	}
	return nil
}

// forgetReleased gives up the commands that were under way when the gateway
// was last stopped. Whether they were written nobody knows; twice would be
// worse than not at all.
func (c *commands) forgetReleased() {
	for _, n := range c.cursor.Released() {
		c.log.Warn("commands: one was under way when the gateway stopped; it is not repeated", "number", n)
		c.cursor.Drop("interrupted", n)
	}
}

func (c *commands) finish(n uint64) {
	if n != 0 {
		c.cursor.Ack(n)
	}
}

// dispatch hands every command to the worker of its link.
func (c *commands) dispatch(ctx context.Context, queues map[string]chan *command, finished <-chan uint64) {
	missed := uint64(0)
	for ctx.Err() == nil {
		for {
			e, ok := c.cursor.Next()
			if !ok || ctx.Err() != nil {
				break
			}
			c.take(ctx, c.decode(e), queues)
			c.finishAll(finished)
		}
		select {
		case <-ctx.Done():
		case <-c.wake:
		case n := <-finished:
			c.finish(n)
		case cmd := <-c.live:
			c.take(ctx, cmd, queues)
		}
		if now := c.missed.Load(); now != missed {
			c.log.Warn("commands: too many at once with QoS 0; they were not written", "missed", now-missed)
			missed = now
		}
	}
}

func (c *commands) finishAll(finished <-chan uint64) {
	for {
		select {
		case n := <-finished:
			c.finish(n)
		default:
			return
		}
	}
}

// decode makes a command of an entry of the queue; nil, and the entry is
// dropped, if it cannot be read.
func (c *commands) decode(e storage.Entry) *command {
	var p packet.Publish
	f, _, err := packet.Next(e.Message, packet.V5, 0)
	if err == nil {
		err = p.Decode(f, packet.V5)
	}
	if err != nil {
		c.log.Error("commands: a stored one cannot be read and is dropped", "err", err)
		c.cursor.Drop("unreadable", e.N)
		return nil
	}
	cmd := c.newCommand(&p, time.UnixMilli(e.Time))
	cmd.n = e.N
	return cmd
}

// take checks a command and hands it to its link.
func (c *commands) take(ctx context.Context, cmd *command, queues map[string]chan *command) {
	if cmd == nil {
		return
	}
	if problem := c.check(cmd); problem != "" {
		c.refuse(ctx, cmd, problem)
		return
	}
	if c.repeated(ctx, cmd) {
		return
	}
	if cmd.n != 0 {
		// From here on a restart does not repeat it, so it has to be answered,
		// also when ctx ends now.
		if err := c.markTaken(ctx, cmd.n); err != nil {
			c.refuse(ctx, cmd, "the gateway cannot write to its disk: "+err.Error())
			return
		}
	}
	select {
	case queues[cmd.target.link] <- cmd:
	default:
		c.refuse(ctx, cmd, fmt.Sprintf("%d commands wait for link %s already; send fewer", maxCommands, cmd.target.link))
	}
}

// markTaken makes it durable that a command was taken.
func (c *commands) markTaken(ctx context.Context, n uint64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resultTime)
	defer cancel()
	return c.store.WaitSafe(ctx, c.cursor.Received(n))
}

// check returns why a command is refused, "" if it is not.
func (c *commands) check(cmd *command) string {
	target, ok := c.targets[cmd.topic]
	cmd.target = target
	switch {
	case !ok:
		return "no tag takes commands here any more"
	case cmd.retain:
		return "commands must not be retained: it would be repeated at every start"
	case !c.now().Before(cmd.expires):
		return "the command has expired"
	}
	if target.tag == "" {
		return c.checkGroup(cmd)
	}
	value, arm, err := parseCommand(cmd.payload)
	switch {
	case err != nil:
		return err.Error()
	case arm != c.arms[target]:
		return "the command needs the word that arms the tag: {\"value\": …, \"arm\": …}, without \"arm\" for a tag that has none"
	}
	cmd.value = value
	return ""
}

// refuse answers a command that is not executed, and is done with it.
func (c *commands) refuse(ctx context.Context, cmd *command, why string) {
	c.log.Warn("command refused", "topic", cmd.topic, "id", cmd.id, "requested", cmd.value, "why", why)
	result := commandResult{Result: "refused", Error: why, Time: c.now()}
	c.remember(cmd, result)
	c.answer(ctx, cmd, result)
	c.finish(cmd.n)
}

// execute writes a command and answers it. It is called by the worker of a
// link.
func (c *commands) execute(ctx context.Context, cmd *command) {
	limited, cancel := context.WithDeadline(ctx, cmd.expires)
	defer cancel()
	result, err := c.write(limited, cmd)
	if result.Time.IsZero() {
		result.Time = c.now()
	}
	if err != nil {
		result.Error = err.Error()
		result.Result = "unknown" // it may have been executed
		if _, ok := errors.AsType[*modbus.RefusedError](err); ok || errors.Is(err, modbus.ErrDown) {
			result.Result = "refused"
		} else if _, ok := errors.AsType[*modbus.ExceptionError](err); ok {
			result.Result = "refused"
		}
		c.log.Warn("command not confirmed", "topic", cmd.topic, "id", cmd.id, "requested", cmd.value, "before", result.Before.String(), "value", result.Value.String(), "result", result.Result, "err", err)
	} else {
		c.log.Info("command written", "topic", cmd.topic, "id", cmd.id, "requested", cmd.value, "before", result.Before.String(), "value", result.Value.String())
	}
	c.remember(cmd, result)
	c.answer(ctx, cmd, result)
}

// answer publishes what became of a command, on <topic>/set/result and where
// the command asks for it. It waits until that is safe, but not for ever.
func (c *commands) answer(ctx context.Context, cmd *command, r commandResult) {
	topics := []string{cmd.topic + resultSuffix}
	if c.mayAnswerOn(cmd.responseTopic) {
		topics = append(topics, cmd.responseTopic)
	}
	payload := r.payload(c.requested(cmd))
	// Also when ctx has ended: the broker stops after the commands.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resultTime)
	defer cancel()
	for _, topic := range topics {
		m := &broker.Message{Topic: topic, Payload: payload, QoS: 1}
		m.Properties.HasCorrelation, m.Properties.Correlation = cmd.hasCorrelation, cmd.correlation
		safe := make(chan error, 1)
		c.server.Publish(m, func(err error) { safe <- err })
		select {
		case err := <-safe:
			if err != nil {
				c.log.Warn("command result cannot be published", "topic", topic, "err", err)
			}
		case <-ctx.Done():
			c.log.Warn("command result is not safe yet", "topic", topic)
		}
	}
}

// mayAnswerOn reports whether an answer may go to the topic that the sender of
// a command asks for: not the broker's own topics, and not those of commands,
// where an answer would be taken for one.
func (c *commands) mayAnswerOn(topic string) bool {
	if topic == "" || topic[0] == '$' || packet.CheckTopicName([]byte(topic)) != nil {
		return false
	}
	_, isCommand := c.targets[topic]
	return !isCommand
}
