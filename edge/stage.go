package edge

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// stage is one part of the gateway while it runs.
type stage struct {
	name   string
	asked  atomic.Bool // to end
	cancel context.CancelFunc
	done   chan struct{} // closed after err is set
	err    error
}

// begin runs a part in a goroutine of its own. Its context is independent of
// that of Run: the parts end one after the other.
func begin(name string, run func(context.Context) error) *stage {
	ctx, cancel := context.WithCancel(context.Background())
	s := &stage{name: name, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.err = run(ctx)
	}()
	return s
}

// launch begins a part whose end, if nobody asked for it, Run is told of.
func (g *Gateway) launch(name string, run func(context.Context) error) *stage {
	s := begin(name, run)
	go func() {
		<-s.done
		if s.asked.Load() {
			return
		}
		select {
		case g.ended <- s:
		case <-g.quit:
		}
	}()
	return s
}

// stop ends stages that do not depend on each other, together, and waits for
// them. The error names one that is still running at the deadline.
func stop(deadline <-chan struct{}, stages ...*stage) error {
	for _, s := range stages {
		s.asked.Store(true)
		s.cancel()
	}
	for _, s := range stages {
		select {
		case <-s.done:
		case <-deadline:
			return fmt.Errorf("edge: stop: %s has not ended within %v", s.name, DrainTime)
		}
	}
	return nil
}

// within returns a channel that is closed after d, and what releases it.
func within(d time.Duration) (<-chan struct{}, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	return ctx.Done(), cancel
}
