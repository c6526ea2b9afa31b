package bridge

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"forebay/storage"
)

func TestBackoffDoublesUpToItsCapAndIsRandom(t *testing.T) {
	b := backoff{min: time.Second, max: 10 * time.Second, random: func() float64 { return 0.5 }}
	for i, want := range []time.Duration{500, 1000, 2000, 4000, 5000, 5000} {
		if got := b.next(); got != want*time.Millisecond {
			t.Errorf("wait %d is %s, want %s", i, got, want*time.Millisecond)
		}
	}
	b.random = func() float64 { return 0 }
	if got := b.next(); got != 0 {
		t.Errorf("full jitter begins at 0, got %s", got)
	}
	if b.held(29*time.Second, 30*time.Second) || !b.held(30*time.Second, 30*time.Second) {
		t.Error("what counts as stable")
	}
	b.random = func() float64 { return 0.999 }
	if got := b.next(); got < 990*time.Millisecond || got >= time.Second {
		t.Errorf("after a reset: %s", got)
	}
}

// TestOnlyAStableConnectionResetsTheBackoff runs hours in no time: the upstream accepts and closes at once, ten times,
// then holds for a minute.
func TestOnlyAStableConnectionResetsTheBackoff(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		log, err := storage.Open(storage.Config{Path: dir, MaxSize: 64 << 20}, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			t.Fatal(err)
		}
		cfg := testConfig("mqtt://host")
		cfg.Reconnect = ReconnectConfig{Min: time.Second, Max: time.Minute}
		b, err := New(cfg, Environment{Site: "s", Broker: newLocalBroker(t, log), Log: log, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		b.backoff.random = func() float64 { return 1 }
		ctx, cancel := context.WithCancel(context.Background())
		var at []time.Time
		b.dial = func(context.Context, string, string) (net.Conn, error) {
			at = append(at, time.Now())
			if len(at) > 17 {
				cancel()
				return nil, errors.New("enough")
			}
			if len(at) <= 3 {
				return nil, errors.New("no")
			}
			ours, theirs := net.Pipe()
			hold := time.Millisecond
			if len(at) == 14 {
				hold = time.Minute
			}
			go playUpstream(theirs, hold)
			return ours, nil
		}
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
		for i, want := range []int{1, 2, 4, 0, 8, 16, 32, 60, 60, 60, 60, 60, 60, 60 + 1, 2, 4} {
			// The fourth connection only removes the old session.
			if got := at[i+1].Sub(at[i]).Round(time.Second); got != time.Duration(want)*time.Second {
				t.Errorf("attempt %d came %s after the one before, want %ds", i+1, got, want)
			}
		}
	})
}

// playUpstream accepts a CONNECT, answers pings, and closes after hold.
func playUpstream(nc net.Conn, hold time.Duration) {
	time.AfterFunc(hold, func() { nc.Close() })
	buf := make([]byte, 4096)
	for {
		n, err := nc.Read(buf)
		if err != nil {
			return
		}
		answer := []byte{0xd0, 0x00}
		if n > 0 && buf[0] == 0x10 {
			answer = []byte{0x20, 0x03, 0x01, 0x00, 0x00} // session present, success
		}
		if _, err := nc.Write(answer); err != nil {
			return
		}
	}
}
