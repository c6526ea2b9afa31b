package modbus

import (
	"context"
	"errors"
	"slices"
	"time"
)

// flight is a read that waits for its answer while others do.
type flight struct {
	unit     *unit
	block    *block
	request  [mbapSize + 5]byte
	begin    time.Time
	deadline time.Time
}

// launch sends the read of a block without waiting for the answer; land takes
// it. Only links of MBAP frames do that, whose answers say what they answer.
func (l *link) launch(ctx context.Context, u *unit, b *block) {
	fresh, err := l.client.begin(ctx, false)
	if err != nil {
		l.abandon(ctx, u, b, err)
		return
	}
	if fresh {
		l.recall() // their answers were to come through the old connection
	}
	f := flight{unit: u, block: b, begin: time.Now()}
	f.deadline = f.begin.Add(l.config.Timeout)
	b.span.appendRequest(f.request[:0], u.id, true)
	err = l.client.transport.(*tcpTransport).submit(f.request[:], f.deadline)
	l.client.end()
	if err != nil {
		l.abandon(ctx, u, b, err)
		return
	}
	b.flying = true
	u.flying++
	l.flights = append(l.flights, f)
}

// land waits for one answer and deals with it, or with the oldest flight when
// there is none in time.
func (l *link) land(ctx context.Context) {
	t := l.client.transport.(*tcpTransport)
	oldest := l.flights[0]
	frame, err := t.collect(oldest.deadline)
	switch {
	case ctx.Err() != nil:
		l.recall() // the connection was closed under us
		return
	case err != nil:
		l.abandon(ctx, oldest.unit, oldest.block, err)
		return
	case frame != nil:
		i := slices.IndexFunc(l.flights, func(f flight) bool { return answersTCP(f.request[:], frame) })
		if i >= 0 {
			f := l.end(i)
			l.lost = 0
			data, err := f.block.data(pduOf(frame, true))
			l.outcome(ctx, f.unit, f.block, data, err, f.begin)
			return
		}
		t.skip(frame)
		// A peer that floods us with frames must not outlast the deadline.
		if time.Now().Before(oldest.deadline) {
			return
		}
	}
	l.end(0)
	l.outcome(ctx, oldest.unit, oldest.block, nil, t.timedOut(oldest.request[:], 0), oldest.begin)
}

// end takes a flight off the list.
func (l *link) end(i int) flight {
	f := l.flights[i]
	f.block.flying = false
	f.unit.flying--
	l.flights = slices.Delete(l.flights, i, i+1)
	return f
}

// recall ends all flights; their blocks are as due as they were.
func (l *link) recall() {
	for len(l.flights) > 0 {
		l.end(0)
	}
}

// abandon ends all flights after the connection was lost, or could not be made.
// Reads may be repeated: that is done once, over a new connection.
func (l *link) abandon(ctx context.Context, u *unit, b *block, err error) {
	l.recall()
	if ctx.Err() != nil {
		return
	}
	l.lost++
	if errors.Is(err, errLost) && l.lost == 1 {
		return
	}
	l.lost = 0
	l.outcome(ctx, u, b, nil, err, time.Now())
}

// submit sends a request, whose transaction identifier it sets.
func (t *tcpTransport) submit(request []byte, deadline time.Time) error {
	s, err := t.connected()
	if err != nil {
		return err
	}
	return t.write(s, request, deadline)
}

// collect returns the next frame, whatever it answers, valid until the next
// call; nil when none has come by deadline.
func (t *tcpTransport) collect(deadline time.Time) ([]byte, error) {
	s, err := t.connected()
	if err != nil {
		return nil, err
	}
	if err := s.SetReadDeadline(deadline); err != nil {
		return nil, t.lost(err)
	}
	if t.datagrams {
		return t.next(s)
	}
	// A frame that was cut off has taken the beginning of the next for its end:
	// what is behind it shows that. So it is believed only when that is the
	// header of a frame, or nothing. (With one request in flight the next answer
	// comes when nobody waits for this one any more.)
	for {
		frame, rest, err := splitTCP(t.unread)
		if err == nil {
			_, _, err = splitTCP(rest)
		}
		switch {
		case err != nil:
			t.tally.stray++
			return nil, t.lost(err)
		case frame != nil && (len(rest) == 0 || len(rest) >= mbapSize):
			t.unread, t.silent = rest, 0
			return frame, nil
		}
		if err := t.receive(s); isTimeout(err) {
			return nil, nil
		} else if err != nil {
			return nil, t.lost(err)
		}
	}
}
