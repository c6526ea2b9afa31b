package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestLines(t *testing.T) {
	at := time.Date(2026, 11, 22, 1, 2, 3, 45_000_000, time.Local)
	tests := []struct {
		name          string
		log           func(*slog.Logger)
		plain, ledger string
	}{
		{"info", func(l *slog.Logger) { l.Info("it runs") },
			"2026-11-22 01:02:03.045 INFO  it runs\n", "<6>INFO  it runs\n"},
		{"warning with values", func(l *slog.Logger) {
			l.Warn("away", "bridge", "cloud", "err", errors.New("connection refused"), "n", 3)
		},
			"2026-11-22 01:02:03.045 WARN  away bridge=cloud err=\"connection refused\" n=3\n", "<4>WARN  away bridge=cloud err=\"connection refused\" n=3\n"},
		{"error with fixed values and groups", func(l *slog.Logger) {
			l.With("bridge", "cloud").WithGroup("tls").With("a", 1).Error("no", slog.Group("peer", "name", "x"), "b", true)
		}, "2026-11-22 01:02:03.045 ERROR no bridge=cloud tls.a=1 tls.peer.name=x tls.b=true\n",
			"<3>ERROR no bridge=cloud tls.a=1 tls.peer.name=x tls.b=true\n"},
		{"debug is left out", func(l *slog.Logger) { l.Debug("x") }, "", ""},
		{"texts from the network", func(l *slog.Logger) {
			l.Info("client\n\x1b[2J", "clientID", "a\nb \x1b[1m\"", "empty", "", "bad", "\xff")
		},
			"2026-11-22 01:02:03.045 INFO  client??[2J clientID=\"a\\nb \\x1b[1m\\\"\" empty=\"\" bad=\"\\xff\"\n",
			"<6>INFO  client??[2J clientID=\"a\\nb \\x1b[1m\\\"\" empty=\"\" bad=\"\\xff\"\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for journal, want := range map[bool]string{false: tt.plain, true: tt.ledger} {
				var out bytes.Buffer
				tt.log(slog.New(atTime{newHandler(&out, slog.LevelInfo, journal), at}))
				if out.String() != want {
					t.Errorf("journal %v:\n%q, want\n%q", journal, &out, want)
				}
			}
		})
	}
}

// The journal's stream is told from a stderr that was redirected by a child of
// the service.
func TestUnderJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	for stream, want := range map[string]bool{
		"": false, "x": false, "1": false,
		fmt.Sprintf("%d:%d", st.Dev, st.Ino):   true,
		fmt.Sprintf("%d:%d", st.Dev, st.Ino+1): false,
	} {
		t.Setenv("JOURNAL_STREAM", stream)
		if got := underJournal(f); got != want {
			t.Errorf("JOURNAL_STREAM=%q: %v, want %v", stream, got, want)
		}
	}
}

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"good.yaml":  "storage: {path: store}\n",
		"bad.yaml":   "log: {levl: info}\nstorage: {max_size: 1}\n",
		"files.yaml": "broker: {password_file: passwd}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	tests := []struct {
		args   []string
		code   int
		stdout string // contained in it
		stderr string // all of it; begins with it if it ends with …
	}{
		{[]string{"version"}, 0, "forebay dev (go1", ""},
		{[]string{"--help"}, 0, "Usage:", ""},
		{[]string{"completion", "bash"}, 0, "__forebay", ""},
		{[]string{"check", file("good.yaml")}, 0, "good.yaml: ok: 1 listener, 0 bridges, 0 Modbus links, 0 tags\n", ""},
		{[]string{"check", file("bad.yaml")}, 78, "", file("bad.yaml") + ":1: log.levl: unknown key; did you mean level?\n" +
			file("bad.yaml") + ":2: storage.max_size: must be at least 8MiB\n"},
		{[]string{"check", file("files.yaml")}, 78, "", file("files.yaml") + ":1: broker.password_file: " + file("passwd") + ": no such file; put it there or correct the name\n"},
		{[]string{"check", file("none.yaml")}, 78, "", file("none.yaml") + ": no such file; name another one, or copy an example there\n"},
		{[]string{"run", "-c", file("bad.yaml")}, 78, "", file("bad.yaml") + ":1: …"},
		{nil, 2, "", "forebay: which command?\ntry: forebay --help\n"},
		{[]string{"chek"}, 2, "", "forebay: unknown command \"chek\"; did you mean check?\ntry: forebay --help\n"},
		{[]string{"check"}, 2, "", "forebay check: …"},
		{[]string{"run", "x"}, 2, "", "forebay run: …"},
		{[]string{"run", "--colour"}, 2, "", "forebay: unknown flag: --colour\ntry: forebay run --help\n"},
		{[]string{"demo", "--for", "soon"}, 2, "", "forebay: invalid argument \"soon\" …"},
		{[]string{"demo", "--for", "-1s"}, 2, "", "forebay demo: --for must not be negative\ntry: forebay demo --help\n"},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := execute(tt.args, &stdout, &stderr)
			if code != tt.code {
				t.Errorf("exit %d, want %d", code, tt.code)
			}
			if !strings.Contains(stdout.String(), tt.stdout) {
				t.Errorf("stdout %q, want %q in it", &stdout, tt.stdout)
			}
			begin, cut := strings.CutSuffix(tt.stderr, "…")
			if got := stderr.String(); got != tt.stderr && !(cut && strings.HasPrefix(got, begin)) {
				t.Errorf("stderr %q, want %q", got, tt.stderr)
			}
		})
	}
}

// atTime gives every record the same time.
type atTime struct {
	slog.Handler
	at time.Time
}

func (h atTime) Handle(ctx context.Context, r slog.Record) error {
	r.Time = h.at
	return h.Handler.Handle(ctx, r)
}

func (h atTime) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atTime{h.Handler.WithAttrs(attrs), h.at}
}

func (h atTime) WithGroup(name string) slog.Handler { return atTime{h.Handler.WithGroup(name), h.at} }
