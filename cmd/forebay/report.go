package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"forebay/edge"
)

// printReport writes what an engineer wants to see first: one line for the
// whole, for the broker and for the store, then a table of bridges and one of
// Modbus units. Texts from elsewhere cannot move the cursor.
func printReport(w io.Writer, r *edge.Report, now time.Time) error {
	var b bytes.Buffer
	state := "ready"
	if !r.Ready {
		state = "NOT READY"
	}
	fmt.Fprintf(&b, "forebay %s at %s: %s, up %s\n", plain(r.Version), plain(r.Site), state, age(time.Duration(r.Uptime)*time.Second))
	m := &r.Broker
	fmt.Fprintf(&b, "broker: %d clients, %d sessions, %d subscriptions, %d retained; %d messages in, %d out, %d refused, %d dropped\n",
		m.Clients, m.Sessions, m.Subscriptions, m.Retained, m.MessagesReceived, m.MessagesSent, m.MessagesRefused, sum(m.MessagesDropped))
	s := &r.Storage
	fmt.Fprintf(&b, "store: %s of %s in %s; %d messages (%s) wait for %d sessions", size(s.Bytes), size(s.MaxBytes), plain(s.Path),
		s.Sessions.Count, size(s.Sessions.Bytes), s.Sessions.Queues)
	if s.Damaged > 0 {
		fmt.Fprintf(&b, "; %d damaged files were set aside", s.Damaged)
	}
	b.WriteByte('\n')
	if s.Error != "" {
		fmt.Fprintf(&b, "STORE FAILED: %s\n", plain(s.Error))
	}
	printBridges(&b, r, now)
	printLinks(&b, &r.Modbus, now)
	_, err := b.WriteTo(w)
	return err
}

func printBridges(b *bytes.Buffer, r *edge.Report, now time.Time) {
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(table, strings.Join(cells, "\t")) }
	heading := func() {
		row("\nBRIDGE", "STATE", "SINCE", "WAITING", "SIZE", "OLDEST", "FORWARDED", "RECEIVED", "DROPPED", "")
	}
	shown := false
	for i := range r.Bridges {
		if !shown {
			heading()
		}
		q := &r.Bridges[i]
		why := ""
		if q.State != "up" {
			why = plain(q.LastError)
		}
		if q.Backlog.ETA > 0 {
			why = strings.TrimSpace(why + " nothing waits in about " + age(time.Duration(q.Backlog.ETA)*time.Second))
		}
		row(plain(q.Name), string(q.State), age(now.Sub(q.Since)), fmt.Sprint(q.Backlog.Count), size(q.Backlog.Bytes), oldest(q.Backlog.Oldest, now),
			fmt.Sprint(q.Forwarded), fmt.Sprint(q.Received), fmt.Sprint(sum(q.Dropped)), why)
		shown = true
	}
	for _, c := range r.Storage.Consumers {
		if !c.Orphan {
			continue
		}
		if !shown {
			heading()
		}
		name := plain(strings.TrimPrefix(c.Name, "bridge/"))
		bridge, _, _ := strings.Cut(name, "#") // it has several queues
		row(name, "gone", "-", fmt.Sprint(c.Count), size(c.Bytes), oldest(c.Oldest, now), "-", "-", fmt.Sprint(sum(c.Dropped)),
			"not in the configuration; forebay bridge forget "+bridge)
		shown = true
	}
	_ = table.Flush() // into memory
}

func printLinks(b *bytes.Buffer, m *edge.ModbusReport, now time.Time) {
	if len(m.Links) == 0 {
		return
	}
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(table, strings.Join(cells, "\t")) }
	row("\nLINK", "UNIT", "STATE", "SINCE", "REQUESTS", "TIMEOUTS", "REFUSED", "FAILED", "GARBLED", "MISSED", "")
	for i := range m.Links {
		l := &m.Links[i]
		state := "down"
		if l.Up {
			state = "up"
		}
		row(plain(l.Name), "", state, "", fmt.Sprint(l.Requests), fmt.Sprint(l.Timeouts), fmt.Sprint(l.Exceptions), fmt.Sprint(l.Failures), fmt.Sprint(l.Late+l.Stray+l.CRC), fmt.Sprint(l.Missed), "")
		for _, u := range l.Units {
			state, since := "-", "-"
			if u.State != "" {
				state, since = u.State, age(now.Sub(*u.Since))
			}
			refused := uint64(0)
			for _, n := range u.Exceptions {
				refused += n
			}
			row("", plain(u.Name), state, since, fmt.Sprint(u.Requests), fmt.Sprint(u.Timeouts), fmt.Sprint(refused),
				fmt.Sprint(u.Failures), fmt.Sprint(u.Late+u.Stray+u.CRC), "", plain(u.Error))
		}
	}
	_ = table.Flush() // into memory
}

func sum(counts map[string]uint64) (total uint64) {
	for _, n := range counts {
		total += n
	}
	return total
}

func oldest(t *time.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	return age(now.Sub(*t))
}

// age writes a time in its two largest units: 3d4h, 4h5m, 5m6s, 7s.
func age(d time.Duration) string {
	s := max(int64(d/time.Second), 0)
	switch m, h := s/60, s/3600; {
	case h >= 24:
		return fmt.Sprintf("%dd%dh", h/24, h%24)
	case h > 0:
		return fmt.Sprintf("%dh%dm", h, m%60)
	case m > 0:
		return fmt.Sprintf("%dm%ds", m, s%60)
	}
	return fmt.Sprintf("%ds", s)
}

// size writes bytes as the configuration does.
func size(n int64) string {
	for _, u := range []struct {
		of   int64
		name string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= u.of {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.of), u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}
