package storage

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// A consumer that is away and gets little must not keep the disk that others
// have filled and drained. What it gets is what it would have got.
func TestFewMessagesDoNotKeepTheDisk(t *testing.T) {
	for _, rebuilt := range []bool{false, true} {
		t.Run(fmt.Sprint("rebuilt=", rebuilt), func(t *testing.T) {
			dir := t.TempDir()
			tune := small()
			tune.expire = 2 * time.Millisecond
			l := openTest(t, dir, tune)
			busy, rare := mustConsumer(t, l, "busy", Limits{}), mustConsumer(t, l, "rare", Limits{})
			want, n, waiting := "", 0, int64(0)
			put := func(count int) {
				for range count {
					to := []*Cursor{busy}
					if n%100 == 7 {
						to = append(to, rare)
						waiting++
						want += fmt.Sprintf("message %d ", n)
					}
					s, err := l.Append(&Record{Message: fmt.Appendf(nil, "message %d", n), Deliveries: deliveries(to)})
					if err != nil {
						t.Fatal(err)
					}
					mustSafe(t, l, s)
					if _, err := l.Append(&Record{Message: make([]byte, 1000), Deliveries: deliveries([]*Cursor{busy})}); err != nil {
						t.Fatal(err)
					}
					n++
				}
			}
			for range 2 { // what has been moved once is moved again
				put(610) // the last one is in the current segment already
				if s := l.Stats(); s.Segments < 5 {
					t.Fatalf("only %d segments", s.Segments)
				}
				drain(t, busy, true)
				eventually(t, "the disk comes back", func() bool { return l.Stats().Segments <= 2 })
				if got := rare.Stats().Count; got != waiting {
					t.Errorf("%d messages wait, want %d", got, waiting)
				}
			}
			view, err := l.View()
			if err != nil {
				t.Fatal(err)
			}
			held := int64(0)
			if err := view.Each(func(*Held) error { held++; return nil }); err != nil || held != waiting {
				t.Errorf("a view shows %d messages, %v; want %d", held, err, waiting)
			}
			put(50) // some behind those that were moved
			if got := messages(drain(t, rare, false)); got+" " != want {
				t.Errorf("got %q, want %q", got, want)
			}
			rare.Rewind()
			for range 4 {
				rare.Ack(next(t, rare).N)
			}
			closeLog(t, l)
			want = want[len("message 7 message 107 message 207 message 307 "):]
			if rebuilt {
				remove(t, filepath.Join(dir, stateName))
			}
			l = openTest(t, dir, tune)
			rare = mustConsumer(t, l, "rare", Limits{})
			got := messages(drain(t, rare, true))
			if s := rare.Stats(); got+" " != want || s.Count != 0 || s.Bytes != 0 || len(s.Dropped) > 0 {
				t.Errorf("after reopening: %q, want %q; %+v", got, want, s)
			}
			drain(t, mustConsumer(t, l, "busy", Limits{}), true)
			eventually(t, "all of the disk comes back", func() bool { return l.Stats().Segments <= 1 })
			closeLog(t, l)
		})
	}
}

func deliveries(to []*Cursor) []Delivery {
	var all []Delivery
	for _, c := range to {
		all = append(all, Delivery{Consumer: c.ID()})
	}
	return all
}
