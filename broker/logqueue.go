package broker

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
)

// logQueue is a slog.Handler that hands lines to a goroutine of its own: a terminal or journal that blocks must not
// block the loop. When it cannot keep up, lines are left out and counted.
type logQueue struct {
	lines *logLines
	to    slog.Handler
}

// logLines is what a logQueue and all that were derived from it share.
type logLines struct {
	queue  chan logLine
	ending chan struct{} // closed by stop
	lost   atomic.Int64
	finish sync.WaitGroup
}

type logLine struct {
	to     slog.Handler
	record slog.Record
}

// maxLines bounds the lines that wait.
const maxLines = 1024

func newLogQueue(to slog.Handler) *logQueue {
	return &logQueue{lines: &logLines{queue: make(chan logLine, maxLines), ending: make(chan struct{})}, to: to}
}

// start starts the goroutine that writes. stop must follow.
func (q *logQueue) start() {
	q.lines.finish.Go(func() {
		for {
			select {
			case line := <-q.lines.queue:
				q.write(line)
			case <-q.lines.ending:
				for len(q.lines.queue) > 0 {
					q.write(<-q.lines.queue)
				}
				return
			}
		}
	})
}

func (q *logQueue) write(line logLine) {
	// A log that cannot be written to cannot be told so.
	_ = line.to.Handle(context.Background(), line.record)
	if n := q.lines.lost.Swap(0); n > 0 {
		slog.New(q.to).Warn("broker: log lines were lost because the log is slow", "lines", n)
	}
}

// stop waits until everything has been written. What is logged afterwards is lost.
func (q *logQueue) stop() {
	close(q.lines.ending)
	q.lines.finish.Wait()
}

func (q *logQueue) Enabled(ctx context.Context, level slog.Level) bool {
	return q.to.Enabled(ctx, level)
}

func (q *logQueue) Handle(_ context.Context, r slog.Record) error {
	select {
	case q.lines.queue <- logLine{q.to, r.Clone()}:
	default:
		q.lines.lost.Add(1)
	}
	return nil
}

func (q *logQueue) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logQueue{q.lines, q.to.WithAttrs(attrs)}
}

func (q *logQueue) WithGroup(name string) slog.Handler {
	return &logQueue{q.lines, q.to.WithGroup(name)}
}
