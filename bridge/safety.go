package bridge

import (
	"context"

	"forebay/storage"
)

// promise is what may be sent once the store has reached seq.
type promise struct {
	seq  storage.Seq
	kind promiseKind
	id   uint16
	n    uint64 // release: of the message
	on   *link  // complete: the link whose PUBREL is answered
}

type promiseKind byte

const (
	release  promiseKind = iota // PUBREL: "PUBREC received" is durable (D2)
	complete                    // PUBCOMP: the inbound packet identifier's removal is durable
)

// safety lets Run's goroutine wait for the disk without standing still: one goroutine waits on its behalf.
type safety struct {
	// Constant.
	log     Log
	ask     chan storage.Seq
	reached chan error // one answer per question

	// Owned by Run.
	promises []promise // ascending by seq
	asking   bool
}

func newSafety(log Log) *safety {
	return &safety{log: log, ask: make(chan storage.Seq, 1), reached: make(chan error, 1)}
}

// run waits for the disk until ctx ends.
func (s *safety) run(ctx context.Context) {
	for {
		select {
		case seq := <-s.ask:
			s.reached <- s.log.WaitSafe(ctx, seq) // has room: there is one question at a time
		case <-ctx.Done():
			return
		}
	}
}

// add queues p. Run's goroutine only.
func (s *safety) add(p promise) {
	s.promises = append(s.promises, p)
	s.next()
}

// next asks about the first promise if nothing is being asked.
func (s *safety) next() {
	if !s.asking && len(s.promises) > 0 {
		s.asking = true
		s.ask <- s.promises[0].seq // has room
	}
}

// take returns the promises that may be kept now, after err came from reached. They are valid until the next add.
// After an error they stay, and the next add asks again.
func (s *safety) take(err error) []promise {
	s.asking = false
	if err != nil {
		return nil
	}
	safe, n := s.log.Safe(), 0
	for n < len(s.promises) && s.promises[n].seq <= safe {
		n++
	}
	kept := s.promises[:n]
	if s.promises = s.promises[n:]; len(s.promises) == 0 {
		s.promises = nil
	}
	s.next()
	return kept
}
