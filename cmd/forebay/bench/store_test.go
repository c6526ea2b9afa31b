package bench

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A run that is over in a moment has a figure wherever one belongs.
func TestStore(t *testing.T) {
	p := pace{rounds: 1, enqueue: 5 * time.Millisecond, trickle: 150 * time.Millisecond, online: 50 * time.Millisecond, flood: 1 << 20}
	o := StoreOptions{Dir: t.TempDir(), Backlog: 2 << 20, SyncDelay: time.Microsecond, Progress: func(string) {}}
	table, err := measureStore(t.Context(), o, p)
	if err != nil {
		t.Fatal(err)
	}
	_, noSQLite := exec.LookPath("sqlite3")
	for _, r := range table.Rows {
		for i, column := range table.Columns {
			want := 1
			switch {
			case column == "SQLite" && noSQLite != nil:
				want = 0
			case strings.Contains(r.Name, "upstream") && i > 0,
				strings.HasPrefix(r.Name, "drain") && (column == "SQLite" || column == "pre-written"),
				(strings.HasPrefix(r.Name, "open") || strings.HasPrefix(r.Name, "memory")) && column != "forebay" && column != "bbolt":
				want = 0
			}
			if got := len(r.Cells[i].Samples); got != want {
				t.Errorf("%s, %s: %d samples, want %d", r.Name, column, got, want)
			}
			if strings.HasPrefix(r.Name, "enqueue") && want > 0 && !(r.Cells[i].Median() > 0) {
				t.Errorf("%s, %s: %v", r.Name, column, r.Cells[i].Samples)
			}
		}
	}
	var b strings.Builder
	if err := table.WriteText(&b); err != nil || !strings.Contains(b.String(), "enqueue 100 B, 10 publishers") || !strings.Contains(b.String(), "× raw file, at least 0.90") {
		t.Errorf("%v\n%s", err, &b)
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestStoreIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o := StoreOptions{Dir: t.TempDir(), Backlog: 2 << 20, Quick: true, Progress: func(string) { cancel() }}
	if _, err := Store(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Without the program the others are measured all the same.
func TestWithoutSQLite(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := openSQLite(t.TempDir(), 0); !errors.Is(err, errNoSQLite) {
		t.Errorf("%v", err)
	}
}

// BenchmarkOpenLoop is the row of that name, for profiles.
func BenchmarkOpenLoop(b *testing.B) {
	for _, c := range contenders() {
		b.Run(c.name, func(b *testing.B) {
			q, err := c.open(b.TempDir(), 0)
			if err != nil {
				b.Skip(err)
			}
			b.SetBytes(small)
			b.ReportAllocs()
			b.ResetTimer()
			if _, err := flood(q, small, func(bytes int64) bool { return bytes < int64(b.N)*small }); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := q.close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
