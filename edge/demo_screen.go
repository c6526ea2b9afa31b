package edge

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// demoLog keeps the last lines that the gateway logged. It is an io.Writer that
// gets one line at a time.
type demoLog struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

const demoLogLines = 3

func (l *demoLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, strings.TrimSpace(string(line)))
	l.lines = l.lines[max(len(l.lines)-demoLogLines, 0):]
	return len(line), nil
}

func (l *demoLog) last() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

// draw shows the present state: a whole screen, or a line.
func (d *demo) draw() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	status, err := d.gateway.Status(ctx)
	if err != nil {
		return err
	}
	for _, b := range status.Bridges {
		d.maxBacklog = max(d.maxBacklog, b.Backlog.Count)
	}
	if d.options.JSON {
		return nil
	}
	v := d.judge.verdict(d.devices)
	if d.options.Terminal {
		// Home, and each line cleared behind its end, so that nothing flickers. Meanwhile the terminal does not wrap:
		// a long line is cut at its edge, whatever its width.
		text := "\x1b[?7l\x1b[H" + strings.ReplaceAll(d.screen(status, v), "\n", "\x1b[K\n") + "\x1b[J\x1b[?7h"
		_, err = fmt.Fprint(d.options.Out, text)
		return err
	}
	_, err = fmt.Fprintln(d.options.Out, d.line(status, v))
	return err
}

// uplinkText says how the line is, in a few words.
func (d *demo) uplinkText() string {
	_, outages := d.uplink.state()
	switch {
	case d.draining:
		return fmt.Sprintf("up, after %s; draining", count(outages, "outage"))
	case d.downSince.IsZero():
		return fmt.Sprintf("up, after %s", count(outages, "outage"))
	}
	return fmt.Sprintf("CUT for %.1f s, outage %d", time.Since(d.downSince).Seconds(), outages)
}

func (d *demo) line(s Status, v demoVerdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%3d s", int(time.Since(d.began).Seconds()))
	for _, tag := range s.Tags {
		fmt.Fprintf(&b, "  %s %s", lastLevel(tag.Topic), tagText(tag))
	}
	fmt.Fprintf(&b, "  uplink %s", d.uplinkText())
	for _, up := range s.Bridges {
		fmt.Fprintf(&b, "  backlog %d  forwarded %d", up.Backlog.Count, up.Forwarded)
	}
	fmt.Fprintf(&b, "  acknowledged %d  arrived %d  lost %d  duplicated %d", v.acknowledged, v.arrived, v.gaps, v.duplicated)
	return b.String()
}

func (d *demo) screen(s Status, v demoVerdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Forebay demo: a PLC and four devices, the gateway, and a cloud behind an uplink that is cut   %d s\n\n", int(time.Since(d.began).Seconds()))
	for _, tag := range s.Tags {
		age := ""
		if !tag.Time.IsZero() {
			age = fmt.Sprintf("%.1f s ago", time.Since(tag.Time).Seconds())
		}
		fmt.Fprintf(&b, "  %-14s %-16s %-10s %s\n", lastLevel(tag.Topic), tagText(tag), tag.Quality, age)
	}
	fmt.Fprintf(&b, "\n  uplink         %s\n", d.uplinkText())
	for _, up := range s.Bridges {
		fmt.Fprintf(&b, "  bridge         %s\n", up.State)
		fmt.Fprintf(&b, "  backlog        %d messages, %d bytes; at most %d\n", up.Backlog.Count, up.Backlog.Bytes, d.maxBacklog)
		fmt.Fprintf(&b, "  forwarded      %d\n", up.Forwarded)
	}
	fmt.Fprintf(&b, "\n  acknowledged   %d to the devices (two with QoS 1, two with QoS 2)\n", v.acknowledged)
	fmt.Fprintf(&b, "  arrived        %d of them at the cloud\n", v.arrived)
	fmt.Fprintf(&b, "  lost           %d\n", v.gaps)
	fmt.Fprintf(&b, "  duplicated     %d\n", v.duplicated)
	fmt.Fprintf(&b, "  repeated       %d with QoS 1 after an outage, as MQTT allows\n\n", v.repeated)
	for _, line := range d.lines.last() {
		b.WriteString("  " + line + "\n")
	}
	b.WriteString("\nCtrl-C ends it with a final account.\n")
	return b.String()
}

func (d *demo) printAccount(a Account) error {
	verdict := "Nothing was lost, nothing duplicated."
	if a.Lost > 0 || a.Duplicated > 0 {
		verdict = fmt.Sprintf("%d LOST, %d DUPLICATED.", a.Lost, a.Duplicated)
	}
	_, err := fmt.Fprintf(d.options.Out, `
%s in %d s: %d messages acknowledged to the devices and %d samples of the PLC
went to the cloud; at most %d waited for the uplink. %s
(QoS 1 repeated after an outage: %d.)
`, count(a.Outages, "outage"), a.Seconds, a.Acknowledged, a.Samples, a.MaxBacklog, verdict, a.Repeated)
	return err
}

func lastLevel(topic string) string { return topic[strings.LastIndexByte(topic, '/')+1:] }

func tagText(t TagStatus) string {
	if t.Quality == "" {
		return "-"
	}
	return strings.TrimSpace(t.Value + " " + t.Unit)
}
