package modbus

import (
	"context"
	"errors"
	"log/slog"
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
)

// String returns the word used in payloads: good, uncertain or bad.
func (q Quality) String() string {
	switch q {
	case Good:
		return "good"
	case Uncertain:
		return "uncertain"
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
	config Config
	log    *slog.Logger
	sink   Sink
}

// New prepares a poller. cfg must have its defaults set and pass Validate, or
// New returns every problem, joined. The poller keeps cfg: nobody may change
// what it refers to afterwards. Nothing is opened before Run.
func New(cfg Config, log *slog.Logger, sink Sink) (*Poller, error) {
	return &Poller{config: cfg, log: log, sink: sink}, nil
}

// Run polls until ctx ends and returns nil when all goroutines of the poller
// are gone and every connection and port is closed. It is called once. A device
// or port that is missing, at the start or later, is no error: its tags are
// bad until it comes.
func (p *Poller) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// WriteResult tells what a write did.
type WriteResult struct {
	// Link, Unit and Tag point into the Config given to New; nil when the names
	// given to Write do not exist.
	Link *LinkConfig
	Unit *UnitConfig
	Tag  *TagConfig
	// Before is the value read just before the write, After the value read back
	// after it; each is null if that read did not happen or failed.
	Before, After Value
	// Time is when the value was read back, or the write failed.
	Time time.Time
}

// Write writes one tag and reads it back. value is a bool, a number (any Go
// integer or float type, or json.Number) or a string: for an enum tag its text.
//
// It waits for its turn on the link and for the device; when ctx ends before the
// command was sent it is refused, never executed late. The error is a
// *RefusedError when nothing was sent, an *ExceptionError when the device
// refused, ErrDown, or anything else (ErrTimeout, a value that reads back
// differently) when the effect is unknown or wrong.
func (p *Poller) Write(ctx context.Context, link, unit, tag string, value any) (WriteResult, error) {
	return WriteResult{}, errors.ErrUnsupported
}
