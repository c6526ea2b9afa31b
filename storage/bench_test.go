package storage

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The memory of a log with a backlog of many times its caches is that of its
// caches, while the backlog grows and while it is drained.
func TestMemoryIsFlat(t *testing.T) {
	size := 150 << 20
	if testing.Short() {
		size = 50 << 20
	}
	tune := defaults()
	tune.checkpoint = 200 * time.Millisecond
	dir := t.TempDir()
	l := openTest(t, dir, tune)
	a := mustConsumer(t, l, "a", Limits{})
	b := mustConsumer(t, l, "b", Limits{})
	r := Record{Message: make([]byte, 1000), Deliveries: []Delivery{{Consumer: a.ID()}, {Consumer: b.ID()}}}
	n, most := size/1000, uint64(0)
	measure := func() {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapAlloc)
	}
	for i := range n {
		binary.BigEndian.PutUint64(r.Message, uint64(i))
		s, err := l.Append(&r)
		if err != nil {
			t.Fatal(err)
		}
		if i%4000 == 0 {
			mustSafe(t, l, s)
		}
		if i%(n/5) == 0 {
			measure()
		}
	}
	closeLog(t, l)
	start := time.Now()
	l = openTest(t, dir, tune)
	t.Logf("opened with %d MB in %v", l.Stats().Disk>>20, time.Since(start))
	for _, name := range []string{"a", "b"} {
		c := mustConsumer(t, l, name, Limits{})
		if got := c.Stats(); got.Count != int64(n) || got.Bytes != int64(n)*1000 {
			t.Errorf("%s: %+v waiting, want %d", name, got, n)
		}
		for i := range n {
			e := next(t, c)
			if got := binary.BigEndian.Uint64(e.Message); got != uint64(i) {
				t.Fatalf("%s: message %d, want %d", name, got, i)
			}
			c.Ack(e.N)
			if i%(n/5) == 0 {
				measure()
			}
		}
	}
	eventually(t, "disk comes back", func() bool { return l.Stats().Disk < idle(l) })
	closeLog(t, l)
	if most > 64<<20 {
		t.Errorf("up to %d MB of heap", most>>20)
	}
	t.Logf("up to %d MB of heap", most>>20)
}

// benchmarkEnqueue lets publishers append and wait for safety, as those of
// QoS 1 messages do.
func BenchmarkEnqueue(b *testing.B) {
	for _, publishers := range []int{1, 10, 100} {
		for _, size := range []int{100, 1000} {
			b.Run(fmt.Sprintf("publishers=%d/size=%d", publishers, size), func(b *testing.B) {
				cfg := testConfig(b.TempDir())
				cfg.MaxSize = 1 << 40
				l := openConfig(b, cfg, defaults())
				c := mustConsumer(b, l, "c", Limits{})
				var left atomic.Int64
				left.Store(int64(b.N))
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for range publishers {
					wg.Go(func() {
						r := Record{Message: make([]byte, size), Deliveries: []Delivery{{Consumer: c.ID()}}}
						for left.Add(-1) >= 0 {
							s, err := l.Append(&r)
							if err == nil {
								err = l.WaitSafe(b.Context(), s)
							}
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				closeLog(b, l)
			})
		}
	}
}

// BenchmarkRaw is the yardstick: a plain growing file, one write and one
// fdatasync for all publishers that wait.
func BenchmarkRaw(b *testing.B) {
	for _, publishers := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("publishers=%d/size=100", publishers), func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
			if err != nil {
				b.Fatal(err)
			}
			waiting := make(chan chan error, publishers)
			var publish, commit sync.WaitGroup
			commit.Go(func() {
				var buf []byte
				var group []chan error
				for first := range waiting {
					buf, group = append(buf[:0], make([]byte, 100)...), append(group[:0], first)
					runtime.Gosched() // as many as can shall come with it
					for len(waiting) > 0 {
						buf, group = append(buf, make([]byte, 100)...), append(group, <-waiting)
					}
					_, err := f.Write(buf)
					if err == nil {
						err = syscall.Fdatasync(int(f.Fd()))
					}
					for _, g := range group {
						g <- err
					}
				}
			})
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			for range publishers {
				publish.Go(func() {
					done := make(chan error, 1)
					for left.Add(-1) >= 0 {
						waiting <- done
						if err := <-done; err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			publish.Wait()
			b.StopTimer()
			close(waiting)
			commit.Wait()
			if err := f.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkAppend is the part of it that the broker's loop waits for.
func BenchmarkAppend(b *testing.B) {
	cfg := testConfig(b.TempDir())
	cfg.MaxSize = 1 << 40
	l := openConfig(b, cfg, defaults())
	c := mustConsumer(b, l, "c", Limits{})
	r := Record{Message: make([]byte, 100), Deliveries: []Delivery{{Consumer: c.ID()}}}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		s, err := l.Append(&r)
		if err != nil {
			b.Fatal(err)
		}
		if i%20_000 == 0 {
			b.StopTimer()
			mustSafe(b, l, s)
			b.StartTimer()
		}
	}
	b.StopTimer()
	closeLog(b, l)
}

// BenchmarkDrain reads and acknowledges a backlog that has left the tail.
func BenchmarkDrain(b *testing.B) {
	cfg := testConfig(b.TempDir())
	cfg.MaxSize = 1 << 40
	l := openConfig(b, cfg, defaults())
	c := mustConsumer(b, l, "c", Limits{})
	r := Record{Message: make([]byte, 1000), Deliveries: []Delivery{{Consumer: c.ID()}}}
	for i := range b.N {
		s, err := l.Append(&r)
		if err != nil {
			b.Fatal(err)
		}
		if i%4000 == 0 {
			mustSafe(b, l, s)
		}
	}
	closeLog(b, l)
	l = openConfig(b, cfg, defaults())
	c = mustConsumer(b, l, "c", Limits{})
	more := make(chan struct{}, 1)
	c.SetNotify(func() {
		select {
		case more <- struct{}{}:
		default:
		}
	})
	b.SetBytes(1000)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; {
		if e, ok := c.Next(); ok {
			c.Ack(e.N)
			n++
			continue
		}
		<-more
	}
	b.StopTimer()
	closeLog(b, l)
}
