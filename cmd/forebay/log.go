package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// lineHandler writes log records as lines for people:
//
//	2026-11-22 01:02:03.456 WARN  bridge: upstream is away bridge=cloud err="connection refused"
//
// Under the journal, which keeps the time itself, a line begins with the
// priority instead: <4>WARN  bridge: …
//
// Whatever is logged stays on one line and cannot move the cursor: texts from
// the network are among it.
type lineHandler struct {
	// Constant after newHandler.
	out     io.Writer
	mu      *sync.Mutex // held while one line is written; shared with derived handlers
	level   slog.Leveler
	journal bool
	prefix  string // of keys: the open groups
	attrs   string // of every record, as text
}

// newHandler returns a handler that writes records of at least level to out,
// in the journal's form if journal is set.
func newHandler(out io.Writer, level slog.Leveler, journal bool) slog.Handler {
	return &lineHandler{out: out, mu: &sync.Mutex{}, level: level, journal: journal}
}

// underJournal reports whether f is a stream of the systemd journal: systemd
// names its device and inode in JOURNAL_STREAM, which a child with another
// stderr inherits as well.
func underJournal(f *os.File) bool {
	var device, inode uint64
	if _, err := fmt.Sscanf(os.Getenv("JOURNAL_STREAM"), "%d:%d", &device, &inode); err != nil {
		return false
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	return uint64(st.Dev) == device && st.Ino == inode
}

func (h *lineHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	derived := *h
	var b strings.Builder
	for _, a := range attrs {
		appendAttr(&b, h.prefix, a)
	}
	derived.attrs += b.String()
	return &derived
}

func (h *lineHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	derived := *h
	derived.prefix += name + "."
	return &derived
}

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	if h.journal {
		fmt.Fprintf(&b, "<%d>", priority(r.Level))
	} else if !r.Time.IsZero() {
		b.WriteString(r.Time.Format("2006-01-02 15:04:05.000 "))
	}
	fmt.Fprintf(&b, "%-5s %s", r.Level, plain(r.Message))
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		appendAttr(&b, h.prefix, a)
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.out, b.String())
	return err
}

// priority is that of syslog.
func priority(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	case l >= slog.LevelInfo:
		return 6
	}
	return 7
}

func appendAttr(b *strings.Builder, prefix string, a slog.Attr) {
	value := a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return
	}
	if value.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range value.Group() {
			appendAttr(b, prefix, member)
		}
		return
	}
	b.WriteByte(' ')
	b.WriteString(plain(prefix + a.Key))
	b.WriteByte('=')
	b.WriteString(quoted(value.String()))
}

// plain replaces what is not printable.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// quoted puts quotes around a text that would be hard to tell from what
// follows.
func quoted(s string) string {
	simple := s != "" && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r == ' ' || r == '"' || r == '=' || !unicode.IsPrint(r)
	})
	if simple {
		return s
	}
	return strconv.Quote(s)
}
