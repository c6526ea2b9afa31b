package edge

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"

	"golang.org/x/sys/unix"
)

// process writes what the process costs, with the names that the libraries of
// Prometheus have for it. What the kernel does not tell is left out.
func (e *exposition) process() {
	var use unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &use) == nil {
		e.counter("process_cpu_seconds_total", "Processor time used, in user and system mode.")
		e.one(float64(unix.TimevalToNsec(use.Utime)+unix.TimevalToNsec(use.Stime)) / 1e9)
	}
	if resident, ok := residentBytes(); ok {
		e.gauge("process_resident_memory_bytes", "Memory in use, as the kernel sees it.")
		e.one(float64(resident))
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		e.gauge("process_open_fds", "Open file descriptors.")
		e.one(float64(len(open)))
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		e.gauge("process_max_fds", "File descriptors that may be open.")
		e.one(float64(limit.Cur))
	}
	e.gauge("go_goroutines", "Goroutines.")
	e.one(float64(runtime.NumGoroutine()))
	e.gauge("go_memstats_heap_alloc_bytes", "Bytes of the heap that are in use.")
	e.one(float64(heapBytes()))
}

// residentBytes is the resident set of this process.
func residentBytes() (n int64, ok bool) {
	b, err := os.ReadFile("/proc/self/statm")
	fields := bytes.Fields(b)
	if err != nil || len(fields) < 2 {
		return 0, false
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize()), err == nil
}

// heapBytes is what the objects of the heap take. Asking stops nothing.
func heapBytes() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0 // a Go that calls it otherwise
	}
	return sample[0].Value.Uint64()
}
