package bridge

import (
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"forebay/storage"
)

// accounts counts what became of messages.
type accounts struct {
	forwarded atomic.Uint64
	received  atomic.Uint64

	mu       sync.Mutex
	drops    map[string]uint64 // guarded by mu; those that no other place counts
	examples map[string]string // guarded by mu; per cause the last topic or the upstream's words
}

// drop counts one message under cause; topic may be nil.
func (a *accounts) drop(cause string, topic []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drops[cause]++
	a.examples[cause] = printable(topic)
}

// example remembers a message that the queue counts as dropped.
func (a *accounts) example(cause string, text []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.examples[cause] = printable(text)
}

// snapshot returns a copy of the drops that is the caller's.
func (a *accounts) snapshot() map[string]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.drops)
}

func (a *accounts) lastExample(cause string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.examples[cause]
}

// quiet is how long no message must have been dropped under a cause for its episode to be over.
const quiet = time.Minute

// dropWatch turns counters of drops into log lines: one when an episode begins and one when it is over. Owned by Run.
type dropWatch struct {
	last     map[string]uint64
	episodes map[string]*episode
}

type episode struct {
	before uint64    // the counter when it began
	latest time.Time // when the counter last grew
}

// look compares counts with what they were.
func (w *dropWatch) look(now time.Time, counts map[string]uint64, example func(cause string) string, log *slog.Logger) {
	for cause, n := range counts {
		if cause == storage.CauseFull || cause == storage.CauseAge || cause == dropSuperseded {
			continue // the store tells of these itself, as they begin and end; what a rule asks for is no news
		}
		e := w.episodes[cause]
		switch {
		case n > w.last[cause] && e == nil:
			w.episodes[cause] = &episode{w.last[cause], now}
			log.Warn("messages are being dropped", "cause", cause, "count", n-w.last[cause], "example", example(cause))
		case n > w.last[cause]:
			e.latest = now
		case e != nil && now.Sub(e.latest) >= quiet:
			delete(w.episodes, cause)
			log.Info("no more messages are being dropped", "cause", cause, "count", n-e.before)
		}
	}
	w.last = counts
}
