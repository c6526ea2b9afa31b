package storage

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// logLines keeps what is logged. It calls into the log each time, which would
// never return if a line were written with the mutex held.
type logLines struct {
	mu   sync.Mutex
	text bytes.Buffer
	log  *Log
}

func (w *logLines) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.log != nil {
		w.log.Stats()
	}
	return w.text.Write(p)
}

// with returns the lines that have all the words.
func (w *logLines) with(words ...string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []string
	for line := range strings.Lines(w.text.String()) {
		all := true
		for _, word := range words {
			all = all && strings.Contains(line, word)
		}
		if all {
			found = append(found, line)
		}
	}
	return found
}

func (w *logLines) wait(t *testing.T, count int, words ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d lines with %q", count, words), func() bool { return len(w.with(words...)) >= count })
	if found := w.with(words...); len(found) != count {
		t.Errorf("%d lines with %q, want %d:\n%s", len(found), words, count, strings.Join(found, ""))
	}
}

func openLogged(t *testing.T, cfg Config, tune tuning) (*Log, *logLines) {
	t.Helper()
	w := &logLines{}
	l, err := open(cfg, slog.New(slog.NewTextHandler(w, nil)), nil, &directory{path: cfg.Path}, tune)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.log = l
	w.mu.Unlock()
	return l, w
}

// episodesLater returns how many episodes of refusing or dropping would be under
// way in an hour.
func (l *Log) episodesLater() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endEpisodes(time.Now().Add(time.Hour))
	n := 0
	for _, e := range l.episodes {
		if !e.filling {
			n++
		}
	}
	return n
}

func TestFullIsToldOncePerEpisode(t *testing.T) {
	for _, tt := range []struct {
		policy  Policy
		limits  Limits
		limit   string
		text    string
		refused int
		dropped int
	}{
		{Reject, Limits{MaxCount: 10}, "count", "queue is full: new messages are refused", 7, 0},
		{Reject, Limits{MaxBytes: 20}, "bytes", "queue is full: new messages are refused", 7, 0},
		{DropOldest, Limits{MaxCount: 10}, "count", "queue is full: the oldest messages are dropped", 0, 7},
		{DropNewest, Limits{MaxBytes: 20}, "bytes", "queue is full: new messages are dropped", 0, 7},
	} {
		t.Run(fmt.Sprint(tt.text, " by ", tt.limit), func(t *testing.T) {
			tune := defaults()
			tune.quiet = 20 * time.Millisecond
			l, w := openLogged(t, testConfig(t.TempDir()), tune)
			tt.limits.WhenFull = tt.policy
			c := mustConsumer(t, l, "bridge/cloud", tt.limits)
			for round := range 2 {
				for i := range 17 {
					_, err := l.Append(&Record{Message: fmt.Appendf(nil, "%02d", i), Deliveries: []Delivery{{Consumer: c.ID()}}})
					if full := (*FullError)(nil); err != nil && !errors.As(err, &full) {
						t.Fatal(err)
					}
				}
				w.wait(t, round+1, "level=WARN", tt.text, "consumer=bridge/cloud", "limit="+tt.limit, "waiting=10", "bytes=20")
				c.Ack(next(t, c).N)
				if l.episodesLater() != 1 {
					t.Error("room again with one message less than full")
				}
				c.Ack(next(t, c).N)
				w.wait(t, round+1, "level=INFO", "queue has room again", "consumer=bridge/cloud", "lasted=",
					fmt.Sprint("refused=", tt.refused), fmt.Sprint("dropped=", tt.dropped))
				drain(t, c, true)
			}
			s := c.Stats()
			if s.Refused[tt.limit] != uint64(2*tt.refused) || s.Dropped[CauseFull] != uint64(2*tt.dropped) {
				t.Errorf("refused %v, dropped %v", s.Refused, s.Dropped)
			}
			closeLog(t, l)
			if all := w.with("full"); len(all) != 2 {
				t.Errorf("two episodes, and %d lines say full", len(all))
			}
		})
	}
}

// Large messages leave more than a tenth free when one is dropped for the next.
// That is not yet room.
func TestEpisodeLastsWhileTheNextMessageWouldNotFit(t *testing.T) {
	l, w := openLogged(t, testConfig(t.TempDir()), defaults())
	c := mustConsumer(t, l, "bridge/cloud", Limits{MaxBytes: 1000, WhenFull: DropOldest})
	for range 5 {
		mustAppend(t, l, strings.Repeat("x", 400), c)
	}
	if l.episodesLater() != 1 {
		t.Error("the episode ends although each message costs another")
	}
	c.Ack(next(t, c).N)
	if l.episodesLater() != 0 {
		t.Error("the episode goes on although another message fits")
	}
	w.wait(t, 1, "full")
	closeLog(t, l)
}

func TestAgeIsToldOncePerEpisode(t *testing.T) {
	tune := small()
	tune.quiet = 20 * time.Millisecond
	clock := time.Now()
	tune.now = func() time.Time { return clock }
	l, w := openLogged(t, testConfig(t.TempDir()), tune)
	c := mustConsumer(t, l, "bridge/cloud", Limits{MaxAge: time.Hour})
	for i, age := range []time.Duration{2 * time.Hour, 61 * time.Minute, 55 * time.Minute, 0} {
		_, err := l.Append(&Record{Time: clock.Add(-age).UnixMilli(), Message: fmt.Append(nil, "m", i), Deliveries: []Delivery{{Consumer: c.ID()}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	e := next(t, c)
	w.wait(t, 1, "level=WARN", "older", "consumer=bridge/cloud", "limit=age")
	if l.episodesLater() != 1 {
		t.Error("over although the next is about to be too old")
	}
	c.Ack(e.N)
	w.wait(t, 1, "level=INFO", "consumer=bridge/cloud", "limit=age", "dropped=2")
	closeLog(t, l)
	if n := len(w.with("too old")) + len(w.with("older")); n != 2 {
		t.Errorf("%d lines, want 2", n)
	}
}

func TestFullStoreIsToldOnce(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MaxSize = minSize
	tune := defaults()
	tune.checkpoint, tune.quiet = 100*time.Millisecond, 20*time.Millisecond
	l, w := openLogged(t, cfg, tune)
	c := mustConsumer(t, l, "c", Limits{})
	r := &Record{Message: make([]byte, 10_000), Deliveries: []Delivery{{Consumer: c.ID()}}}
	for refused := 0; refused < 5; {
		s, err := l.Append(r)
		if full := (*FullError)(nil); errors.As(err, &full) && full.Limit == limitStore {
			refused++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		mustSafe(t, l, s)
	}
	if n := l.Stats().Refused[limitStore]; n != 5 {
		t.Errorf("%d refusals counted, want 5", n)
	}
	w.wait(t, 1, "level=WARN", "store is full: new messages are refused", "limit=store")
	drain(t, c, true)
	w.wait(t, 1, "level=INFO", "store has room again", "refused=5")
	closeLog(t, l)
}

func TestRemovedConsumerEndsItsEpisode(t *testing.T) {
	l, w := openLogged(t, testConfig(t.TempDir()), defaults())
	for range 2 {
		c := mustConsumer(t, l, "session/x", Limits{MaxCount: 1, WhenFull: DropNewest})
		mustAppend(t, l, "one", c)
		mustAppend(t, l, "two", c)
		if _, err := l.RemoveConsumer("session/x"); err != nil {
			t.Fatal(err)
		}
		if n := l.episodesLater(); n != 0 {
			t.Errorf("%d episodes of nobody", n)
		}
	}
	w.wait(t, 2, "session/x", "full") // a new consumer, a new episode
	closeLog(t, l)
}
