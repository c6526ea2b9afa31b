package storage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Inspection is a store that was opened for reading, by somebody who is not its
// owner. While it is open nobody can open the Log.
type Inspection struct {
	*View

	// Intends are the changes of names that opening the log would begin with.
	Intends []string

	dir *directory
}

// Inspect reads the store in a directory as Open would and changes nothing, not
// even of a damaged one. It takes as long as Open: messages are not read. It
// refuses with ErrLocked what somebody has open for writing, with a
// *VersionError what a newer program has written, and with fs.ErrNotExist a
// directory without a store. Several may inspect at the same time.
func Inspect(path string) (*Inspection, error) {
	in := &Inspection{View: &View{Rows: map[Table]int{}}, dir: &directory{path: path, readOnly: true}}
	in.dir.intends = func(what string) { in.Intends = append(in.Intends, what) }
	if err := isStore(path); err != nil {
		return nil, err
	}
	if err := in.dir.lockShared(); err != nil {
		return nil, err
	}
	heard := &findingsHandler{}
	l := newLog(Config{Path: path}, slog.New(heard), in.dir, defaults())
	r := &recovery{log: l, files: map[uint32]int64{}}
	if err := r.replay(); err != nil {
		return nil, errors.Join(err, in.dir.close())
	}
	v := in.View
	v.take(l)
	v.Findings = heard.list
	for _, p := range r.rest {
		v.behind = min(v.behind, p.first)
		v.tail = append(v.tail, p.frames)
		v.Journal.Holds += int64(len(p.frames))
	}
	r.countRows(v.Rows)
	if err := v.listFiles(); err != nil {
		return nil, errors.Join(err, in.dir.close())
	}
	return in, nil
}

// Close lets others open the store.
func (in *Inspection) Close() error { return in.dir.close() }

// Check reads every record of the store and verifies every checksum. It returns
// all that is wrong, what Findings has included. progress may be nil; it is
// called with the bytes of segments read so far and of all.
func (in *Inspection) Check(progress func(done, total int64)) ([]Finding, error) {
	all := in.Findings
	seen := map[Finding]bool{}
	for _, f := range all {
		seen[f] = true
	}
	found := map[string]int64{}
	w := walk{view: in.View, all: true, progress: progress,
		message: func(m *Held) error {
			for _, d := range m.Deliveries {
				found[d.Consumer]++
			}
			return nil
		},
		damage: func(f Finding) {
			if !seen[f] {
				seen[f] = true
				all = append(all, f)
			}
		}}
	if err := w.run(); err != nil {
		return all, err
	}
	for _, c := range in.Consumers {
		if n := found[c.Name]; n != c.Count {
			all = append(all, Finding{Problem: fmt.Sprintf("%s should have %d messages waiting; %d can be read", c.Name, c.Count, n),
				Cure: "forebay store repair counts those that are lost; the rest is delivered"})
		}
	}
	return all, nil
}

// isStore refuses a directory in which nothing of a store is.
func isStore(path string) error {
	if _, err := os.ReadDir(path); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	for _, name := range []string{stateName, journalName, "lock"} {
		if _, err := os.Lstat((&directory{path: path}).file(name)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("storage: %w", &os.PathError{Op: "find a store in", Path: path, Err: os.ErrNotExist})
}

// lockShared keeps the log from being opened. A directory without a lock file is
// a copy, or nobody has ever opened it.
func (d *directory) lockShared() error {
	f, err := os.Open(d.file("lock"))
	if errors.Is(err, os.ErrNotExist) {
		f, err = os.Open(d.path)
	}
	if err != nil {
		return fmt.Errorf("storage: open lock: %w", err)
	}
	d.lock = f
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		f.Close() // the error of the lock says more
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return d.lockedBy()
		}
		return fmt.Errorf("storage: lock %s: %w", d.path, err)
	}
	return nil
}

// lockedBy returns ErrLocked, with the process that has the lock if the kernel
// tells.
func (d *directory) lockedBy() error {
	if pid := lockOwner(d.file("lock")); pid > 0 {
		return fmt.Errorf("%w: %s (process %d)", ErrLocked, d.path, pid)
	}
	return fmt.Errorf("%w: %s", ErrLocked, d.path)
}

// lockOwner looks a lock of a whole file up in the list of the kernel; 0: it is
// not there.
func lockOwner(name string) int {
	var s unix.Stat_t
	if unix.Stat(name, &s) != nil {
		return 0
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer f.Close() // nothing was written
	id := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(s.Dev)), unix.Minor(uint64(s.Dev)), s.Ino)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF
		fields := strings.Fields(lines.Text())
		if len(fields) > 5 && fields[1] == "FLOCK" && fields[5] == id {
			pid, err := strconv.Atoi(fields[4])
			if err == nil {
				return pid
			}
		}
	}
	return 0
}

// countRows adds up the rows as replay left them.
func (r *recovery) countRows(rows map[Table]int) {
	for key := range r.old.rows {
		rows[Table(key[0])]++
	}
	for key, row := range r.log.rows {
		_, known := r.old.rows[key]
		switch {
		case row.deleted && known:
			rows[Table(key[0])]--
		case !row.deleted && !known:
			rows[Table(key[0])]++
		}
	}
}

// findingsHandler makes findings of what recovery warns of: what is reported
// about a store is what its start would say.
type findingsHandler struct {
	mu   sync.Mutex
	list []Finding // guarded by mu
}

func (h *findingsHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn
}

func (h *findingsHandler) Handle(_ context.Context, r slog.Record) error {
	f := Finding{Problem: strings.TrimPrefix(r.Message, "storage: "), Cure: "forebay store repair, or the next start, does it"}
	r.Attrs(func(a slog.Attr) bool {
		about, ok := a.Value.Any().(*CorruptError)
		switch {
		case a.Key == "file":
			f.File = a.Value.String()
		case ok:
			f.File = about.File
			f.Problem += ": " + strings.TrimPrefix(about.Error(), "storage: ")
		case a.Key == "err":
			f.Problem += ": " + a.Value.String()
		default:
			f.Problem += fmt.Sprintf(" (%s %s)", a.Key, a.Value)
		}
		return true
	})
	h.mu.Lock()
	h.list = append(h.list, f)
	h.mu.Unlock()
	return nil
}

func (h *findingsHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *findingsHandler) WithGroup(string) slog.Handler      { return h }
