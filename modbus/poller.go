package modbus

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Quality says how far a value can be trusted.
type Quality uint8

// The qualities of a sample.
const (
	// Bad: there is no value; Err says why.
	Bad Quality = iota
	// Uncertain: there is a value, but Err says what is odd about it.
	Uncertain
	// Good: the value the device gave in answer to this read.
	Good
	// Stale: there is no value, because none has been read for more than two
	// intervals, although no read failed; Err says why.
	Stale
)

// String returns the word used in payloads: good, uncertain, stale
// or bad.
func (q Quality) String() string {
	switch q {
	case Good:
		return "good"
	case Uncertain:
		return "uncertain"
	case Stale:
		return "stale"
	}
	return "bad"
}

// Sample is one reading of one tag.
type Sample struct {
	// Link, Unit and Tag point into the Config given to New, so they can serve
	// as keys. They are never nil and nobody changes what they point to.
	Link *LinkConfig
	Unit *UnitConfig
	Tag  *TagConfig

	// Value is null unless Quality is Good or Uncertain.
	Value   Value
	Quality Quality
	// Time is when the answer arrived or the read failed.
	Time time.Time
	// Err says why the quality is not Good; nil when it is.
	Err error
}

// State is the condition of a unit.
type State string

// The states of a unit.
const (
	// Online: the unit answers and gives every value.
	Online State = "online"
	// Degraded: the unit answers, but not every read succeeds.
	Degraded State = "degraded"
	// Offline: the unit does not answer, or its link is down.
	Offline State = "offline"
)

// UnitState reports a change of a unit's state; the first report of a unit
// comes with its first answer or its first failure.
type UnitState struct {
	// Link and Unit point into the Config given to New.
	Link *LinkConfig
	Unit *UnitConfig
	// State is the new state, Since the time of the change.
	State State
	Since time.Time
	// Err is the cause when State is not Online.
	Err error
	// Counters are those of the unit at that time.
	Counters UnitCounters
}

// Sink receives what the poller finds. Its methods are called from the
// goroutines of the links, at the same time for different links, in order for
// each one; a sink that blocks holds that link up.
type Sink interface {
	// Samples takes the samples of one read, or of all tags concerned when a
	// unit or link fails. The slice belongs to the poller again when the call
	// returns; the samples themselves may be copied and kept.
	Samples([]Sample)
	// UnitState takes one change of state.
	UnitState(UnitState)
}

// Poller reads the tags of a configuration on their schedule, one goroutine
// per link. Its methods may be called from any goroutine.
type Poller struct {
	// Constant after New.
	links []*link // those of one LinkConfig one behind the other
}

// New prepares a poller. cfg must have its defaults set and pass Validate, or
// New returns every problem, joined. The poller keeps cfg: nobody may change
// what it refers to afterwards. Nothing is opened before Run.
func New(cfg Config, log *slog.Logger, sink Sink) (*Poller, error) {
	if err := cfg.problems(); err != nil {
		return nil, err
	}
	p := &Poller{}
	for i := range cfg.Links {
		for _, l := range newLinks(&cfg.Links[i]) {
			l.log, l.sink = log, sink
			p.links = append(p.links, l)
		}
	}
	return p, nil
}

// newLinks shares the units of a valid configuration out among its connections.
func newLinks(cfg *LinkConfig) []*link {
	links := make([]*link, min(cfg.Connections, len(cfg.Units)))
	for i := range links {
		l := newLink(cfg, newClient(cfg))
		var own []*unit
		for j, u := range l.units {
			if j%len(links) == i {
				own = append(own, u)
			}
		}
		l.units = own
		links[i] = l
	}
	return links
}

// newLink makes the link of a valid configuration, ready to run but for log and
// sink.
func newLink(cfg *LinkConfig, c *client) *link {
	l := &link{
		config:   cfg,
		client:   c,
		commands: make(chan task),
		asking:   make(chan struct{}, 1),
		demands:  make(chan demand, maxDemands),
		wall:     wallClock,
		done:     make(chan struct{}),
	}
	for j := range cfg.Units {
		u := &unit{link: l, config: &cfg.Units[j], id: byte(*cfg.Units[j].Unit)}
		for k := range u.config.Tags {
			u.tags = append(u.tags, newTag(&u.config.Tags[k]))
			l.aligns = l.aligns || u.config.Tags[k].Align > 0
		}
		u.blocks = u.plan()
		l.units = append(l.units, u)
	}
	return l
}

// newTag makes the tag of a valid configuration.
func newTag(cfg *TagConfig) *tag {
	r := cfg.compile(scope{"tag " + cfg.Name, func(path, problem string) {
		panic("BUG: modbus: not validated: " + path + ": " + problem)
	}})
	return &tag{config: cfg, register: r, thinning: newThinning(cfg)}
}

// Run polls until ctx ends and returns nil when all goroutines of the poller
// are gone and every connection and port is closed. It is called once. A device
// or port that is missing, at the start or later, is no error: its tags are
// bad until it comes.
func (p *Poller) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, l := range p.links {
		running.Go(func() { l.run(ctx) })
	}
	<-ctx.Done()
	running.Wait()
	return nil
}
