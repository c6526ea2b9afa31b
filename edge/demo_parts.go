package edge

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// demoParts are the goroutines of a demonstration, in the order in which they
// were started. Its methods are called by one goroutine.
type demoParts struct {
	all   []*stage
	ended chan error
	watch sync.WaitGroup
}

// start runs a part. Its error before stop ends the demonstration.
func (p *demoParts) start(run func(context.Context) error) {
	if p.ended == nil {
		p.ended = make(chan error, 1)
	}
	s := begin("", run)
	p.all = append(p.all, s)
	p.watch.Go(func() {
		<-s.done
		if s.err == nil {
			return
		}
		select {
		case p.ended <- s.err:
		default: // the first error is enough
		}
	})
}

// failed yields the error of a part that has ended by itself.
func (p *demoParts) failed() <-chan error { return p.ended }

// stop ends the parts in the reverse order, each before the next.
func (p *demoParts) stop() error {
	var all []error
	for _, s := range slices.Backward(p.all) {
		s.cancel()
		<-s.done
		all = append(all, s.err)
	}
	p.watch.Wait()
	return errors.Join(all...)
}
