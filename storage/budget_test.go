package storage

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The benchmarks here measure what the design has budgets for. They are small
// unless these variables say otherwise.
const (
	envBacklog = "FOREBAY_BACKLOG_MB" // how large the backlog is
	envSeconds = "FOREBAY_SECONDS"    // how long those take that go by the clock
)

func setting(tb testing.TB, name string, otherwise int) int {
	tb.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil || n <= 0 {
		tb.Fatalf("%s=%q", name, s)
	}
	return n
}

// deviceWritten returns how many bytes have been written to the device that dir
// is on, by whomever; a device of its own makes that exact. What waits in the
// page cache is written first.
func deviceWritten(tb testing.TB, dir string) int64 {
	tb.Helper()
	unix.Sync()
	info, err := os.Stat(dir)
	if err != nil {
		tb.Fatal(err)
	}
	dev := uint64(info.Sys().(*syscall.Stat_t).Dev)
	b, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(dev), unix.Minor(dev)))
	if err != nil {
		tb.Skipf("the temporary directory is not on a device that counts: %v", err)
	}
	sectors, err := strconv.ParseInt(strings.Fields(string(b))[6], 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return sectors * 512
}

// memory returns the resident memory of the process: its own, and what it has
// mapped of files.
func memory(tb testing.TB) (own, mapped int64) {
	tb.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		tb.Skip(err)
	}
	for line := range strings.Lines(string(b)) {
		for name, to := range map[string]*int64{"RssAnon:": &own, "RssFile:": &mapped} {
			if s, ok := strings.CutPrefix(line, name); ok {
				kb, err := strconv.ParseInt(strings.Fields(s)[0], 10, 64)
				if err != nil {
					tb.Fatal(err)
				}
				*to = kb << 10
			}
		}
	}
	if own == 0 {
		tb.Skip("the kernel does not tell")
	}
	return own, mapped
}

// forgetFiles takes the files of a directory out of the page cache.
func forgetFiles(tb testing.TB, dir string) {
	tb.Helper()
	unix.Sync()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			tb.Fatal(err)
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			tb.Fatal(err)
		}
		if err := f.Close(); err != nil {
			tb.Fatal(err)
		}
	}
}

// readSequentially reads the files of a directory once, and returns how many
// bytes a second that were.
func readSequentially(tb testing.TB, dir string) float64 {
	tb.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		tb.Fatal(err)
	}
	buf, total, start := make([]byte, 1<<20), 0, time.Now()
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			tb.Fatal(err)
		}
		for {
			n, err := f.Read(buf)
			total += n
			if err != nil {
				break // the end
			}
		}
		if err := f.Close(); err != nil {
			tb.Fatal(err)
		}
	}
	return float64(total) / time.Since(start).Seconds()
}

// backlog puts n messages into a new log, as fast as it goes.
func backlog(tb testing.TB, cfg Config, n, size int, each func(i int)) {
	tb.Helper()
	l := openConfig(tb, cfg, defaults())
	c := mustConsumer(tb, l, "c", Limits{})
	r := Record{Message: make([]byte, size), Deliveries: []Delivery{{Consumer: c.ID()}}}
	for i := range n {
		binary.BigEndian.PutUint64(r.Message, uint64(i))
		s, err := l.Append(&r)
		for full := (*FullError)(nil); asFull(err, &full); {
			mustSafe(tb, l, l.Stats().Appended) // the disk does not keep up
			s, err = l.Append(&r)
		}
		if err != nil {
			tb.Fatal(err)
		}
		if i%4000 == 0 || i+1 == n {
			mustSafe(tb, l, s)
			each(i)
		}
	}
	closeLog(tb, l)
}

func asFull(err error, full **FullError) (ok bool) {
	*full, ok = err.(*FullError)
	return ok
}

// take hands n messages to fn and acknowledges them.
func take(tb testing.TB, c *Cursor, n int, fn func(i int, e *Entry)) {
	tb.Helper()
	more := make(chan struct{}, 1)
	c.SetNotify(func() {
		select {
		case more <- struct{}{}:
		default:
		}
	})
	for i := 0; i < n; {
		e, ok := c.Next()
		if !ok {
			<-more
			continue
		}
		fn(i, &e)
		c.Ack(e.N)
		i++
	}
}

// BenchmarkBacklog fills a log with messages of 1 KB, opens it with a cold page
// cache and drains it.
func BenchmarkBacklog(b *testing.B) {
	const size = 1000
	mb := setting(b, envBacklog, 64)
	n := mb * (1 << 20 / size)
	for b.Loop() {
		cfg := testConfig(b.TempDir())
		cfg.MaxSize = 1 << 40
		runtime.GC()
		debug.FreeOSMemory()
		before, mappedBefore := memory(b)
		written := deviceWritten(b, cfg.Path)
		most, mapped, early := int64(0), int64(0), int64(0)
		measure := func(i int) {
			own, files := memory(b)
			most, mapped = max(most, own), max(mapped, files)
			if early == 0 || i > 0 && i <= n/10 {
				early = most
			}
		}
		start := time.Now()
		backlog(b, cfg, n, size, measure)
		b.ReportMetric(float64(n)/time.Since(start).Seconds(), "enqueued/s")
		b.ReportMetric(float64(deviceWritten(b, cfg.Path)-written)/float64(n*size), "written/payload")

		forgetFiles(b, cfg.Path)
		start = time.Now()
		l := openConfig(b, cfg, defaults())
		b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms-to-open")
		c := mustConsumer(b, l, "c", Limits{})
		start = time.Now()
		take(b, c, n, func(i int, e *Entry) {
			if got := binary.BigEndian.Uint64(e.Message); got != uint64(i) {
				b.Fatalf("message %d, want %d", got, i)
			}
			if i%50_000 == 0 {
				measure(0)
			}
		})
		drained := float64(n) / time.Since(start).Seconds()
		b.ReportMetric(drained, "drained/s")
		b.ReportMetric(float64(most-before)/(1<<20), "MB-more")
		b.ReportMetric(float64(most-early)/(1<<20), "MB-grown") // since a tenth of the backlog was there
		b.ReportMetric(float64(mapped-mappedBefore)/(1<<20), "MB-mapped")
		closeLog(b, l)

		cfg.Path = b.TempDir()
		backlog(b, cfg, min(n, 500_000), size, func(int) {})
		forgetFiles(b, cfg.Path)
		b.ReportMetric(drained*size/readSequentially(b, cfg.Path), "drained/read")
	}
}

// BenchmarkTrickle commits ten messages of 100 B a second, one by one, and
// compares what that writes with a plain file that grows.
func BenchmarkTrickle(b *testing.B) {
	n := 10 * setting(b, envSeconds, 3)
	for b.Loop() {
		dir := b.TempDir()
		f, err := os.Create(filepath.Join(dir, "raw"))
		if err != nil {
			b.Fatal(err)
		}
		every := time.NewTicker(100 * time.Millisecond)
		written := deviceWritten(b, dir)
		for range n {
			<-every.C
			_, err := f.Write(make([]byte, 100))
			if err == nil {
				err = unix.Fdatasync(int(f.Fd()))
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		raw := deviceWritten(b, dir) - written
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		l := openConfig(b, testConfig(filepath.Join(dir, "store")), defaults())
		c := mustConsumer(b, l, "c", Limits{})
		mustSafe(b, l, l.Stats().Appended)
		written = deviceWritten(b, dir)
		for range n {
			<-every.C
			s, err := l.Append(&Record{Message: make([]byte, 100), Deliveries: []Delivery{{Consumer: c.ID()}}})
			if err != nil {
				b.Fatal(err)
			}
			mustSafe(b, l, s)
		}
		ours := deviceWritten(b, dir) - written
		every.Stop()
		closeLog(b, l)
		b.ReportMetric(float64(raw)/float64(n), "raw-B/message")
		b.ReportMetric(float64(ours)/float64(n), "B/message")
		b.ReportMetric(float64(ours)/float64(raw), "ours/raw")
	}
}

// BenchmarkOnline has a consumer that acknowledges each message after 20 ms, and
// counts what reaches the disk all the same.
func BenchmarkOnline(b *testing.B) {
	seconds := setting(b, envSeconds, 3)
	for b.Loop() {
		cfg := testConfig(b.TempDir())
		cfg.MaxAckDelay = 100 * time.Millisecond
		l := openConfig(b, cfg, defaults())
		c := mustConsumer(b, l, "c", Limits{})
		c.SetLive(true)
		mustSafe(b, l, l.Stats().Appended)
		every := time.NewTicker(10 * time.Millisecond)
		written := deviceWritten(b, cfg.Path)
		n := 100 * seconds
		for i := range n {
			<-every.C
			if _, err := l.Append(&Record{Message: make([]byte, 100), Deliveries: []Delivery{{Consumer: c.ID()}}}); err != nil {
				b.Fatal(err)
			}
			if i >= 2 {
				c.Ack(next(b, c).N)
			}
		}
		for range 2 { // to measure takes longer than the delay
			c.Ack(next(b, c).N)
		}
		every.Stop()
		b.ReportMetric(float64(deviceWritten(b, cfg.Path)-written)/float64(n), "B/message")
		closeLog(b, l)
	}
}

// TestLargeBacklog is for machines with 32 bits, whose numbers and maps a large
// backlog must not exceed. It runs only when FOREBAY_BACKLOG_MB says how large.
func TestLargeBacklog(t *testing.T) {
	if os.Getenv(envBacklog) == "" {
		t.Skip(envBacklog + " is not set")
	}
	const size = 64 << 10
	n := setting(t, envBacklog, 0) * (1 << 20 / size)
	cfg := testConfig(t.TempDir())
	cfg.MaxSize = 1 << 40
	backlog(t, cfg, n, size, func(int) {})
	start := time.Now()
	l := openConfig(t, cfg, defaults())
	t.Logf("opened with %d MB in %v", l.Stats().Disk>>20, time.Since(start))
	c := mustConsumer(t, l, "c", Limits{})
	if s := c.Stats(); s.Count != int64(n) || s.Bytes != int64(n)*size {
		t.Errorf("%+v waiting, want %d", s, n)
	}
	take(t, c, n, func(i int, e *Entry) {
		if got := binary.BigEndian.Uint64(e.Message); got != uint64(i) || len(e.Message) != size {
			t.Fatalf("message %d of %d bytes, want %d", got, len(e.Message), i)
		}
	})
	eventually(t, "disk comes back", func() bool { return l.Stats().Disk < idle(l) })
	closeLog(t, l)
}
