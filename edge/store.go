package edge

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"forebay/bridge"
	"forebay/broker/packet"
	"forebay/storage"
)

// sessionPrefix begins the names of the consumers that are sessions; see
// consumerPrefix for the others.
const sessionPrefix = "session/"

// ConsumerTitle returns the name of a consumer of the store as an operator knows
// it: "bridge cloud", "session meter7" or "modbus commands".
func ConsumerTitle(name string) string {
	if name == consumerPrefix+commandsName {
		return strings.Replace(commandsName, "/", " ", 1)
	}
	for _, kind := range []string{consumerPrefix, sessionPrefix} {
		if rest, ok := strings.CutPrefix(name, kind); ok {
			return strings.TrimSuffix(kind, "/") + " " + rest
		}
	}
	return name
}

// FindConsumer returns the name that a consumer has in the store. given is that,
// its title, or the part behind the kind if only one has it.
func FindConsumer(v *storage.View, given string) (string, error) {
	var near, titles []string
	for _, c := range v.Consumers {
		title := ConsumerTitle(c.Name)
		if given == c.Name || given == title {
			return c.Name, nil
		}
		if _, rest, _ := strings.Cut(title, " "); rest == given {
			near = append(near, c.Name)
		}
		titles = append(titles, strconv.Quote(title))
	}
	switch {
	case len(near) == 1:
		return near[0], nil
	case len(near) > 1:
		return "", fmt.Errorf("%q is both %q and %q: give one of these", given, ConsumerTitle(near[0]), ConsumerTitle(near[1]))
	case len(titles) == 0:
		return "", fmt.Errorf("there is no consumer %q: the store has none", given)
	}
	const most = 20
	if len(titles) > most {
		titles = append(titles[:most], fmt.Sprintf("%d more", len(titles)-most))
	}
	return "", fmt.Errorf("there is no consumer %q: there are %s", given, strings.Join(titles, ", "))
}

// StoreReport tells an operator what the store holds.
type StoreReport struct {
	Path      string          `json:"path"`
	Disk      int64           `json:"disk_bytes"`
	Consumers []StoreConsumer `json:"consumers"`
	Segments  int             `json:"segments"`
	InUse     int64           `json:"segment_bytes"`
	Journal   int64           `json:"journal_bytes"`
	Unspilled int64           `json:"journal_holds_bytes"`
	Tables    StoreTables     `json:"tables"`
	SetAside  []StoreFile     `json:"set_aside"`
	Findings  []StoreFinding  `json:"findings,omitempty"`
}

// StoreConsumer is what waits for one consumer.
type StoreConsumer struct {
	Name       string            `json:"name"`
	Messages   int64             `json:"messages"`
	Bytes      int64             `json:"bytes"`
	Oldest     *time.Time        `json:"oldest,omitempty"`
	Age        float64           `json:"age_seconds,omitempty"`
	Incomplete int64             `json:"incomplete_qos2,omitempty"`
	Dropped    map[string]uint64 `json:"dropped,omitempty"`
	Orphan     bool              `json:"not_in_configuration,omitempty"`
}

// StoreTables are the numbers of rows.
type StoreTables struct {
	Sessions      int `json:"sessions"`
	Subscriptions int `json:"subscriptions"`
	Retained      int `json:"retained"`
}

// StoreFile is a file of the store.
type StoreFile struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

// StoreFinding is something that is wrong with the store.
type StoreFinding struct {
	File    string `json:"file,omitempty"`
	Problem string `json:"problem"`
	Cure    string `json:"cure"`
}

// ReportStore sums up a view. With a configuration, which may be nil, it says
// whose queue is nobody's any more.
func ReportStore(v *storage.View, cfg *Config, now time.Time) StoreReport {
	r := StoreReport{Path: v.Path, Disk: v.Disk, Journal: v.Journal.Bytes, Unspilled: v.Journal.Holds,
		Consumers: []StoreConsumer{}, SetAside: []StoreFile{},
		Tables: StoreTables{v.Rows[storage.Sessions], v.Rows[storage.Subscriptions], v.Rows[storage.Retained]}}
	for _, f := range v.Segments {
		r.Segments++
		r.InUse += f.Bytes
	}
	for _, f := range v.Bad {
		r.SetAside = append(r.SetAside, StoreFile{f.Name, f.Bytes})
	}
	for _, f := range v.Findings {
		r.Findings = append(r.Findings, StoreFinding(f))
	}
	for _, c := range v.Consumers {
		of := StoreConsumer{Name: ConsumerTitle(c.Name), Messages: c.Count, Bytes: c.Bytes,
			Incomplete: c.Received, Dropped: c.Dropped, Orphan: cfg != nil && cfg.isOrphan(c.Name)}
		if !c.Oldest.IsZero() {
			oldest := c.Oldest.UTC()
			of.Oldest, of.Age = &oldest, now.Sub(oldest).Round(time.Millisecond).Seconds()
		}
		r.Consumers = append(r.Consumers, of)
	}
	return r
}

// isOrphan reports whether a consumer is the queue of a bridge that the
// configuration does not have.
func (c *Config) isOrphan(consumer string) bool {
	name, ok := bridgeOf(consumer)
	return ok && !slices.ContainsFunc(c.Bridges, func(b bridge.Config) bool { return b.Name == name })
}

// WriteText writes r for a person.
func (r StoreReport) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s on disk\n\n", r.Path, sizeText(r.Disk))
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "CONSUMER\tMESSAGES\tBYTES\tOLDEST\tNOTES\n")
	for _, c := range r.Consumers {
		oldest := "-"
		if c.Oldest != nil {
			oldest = fmt.Sprintf("%s (%s)", c.Oldest.Local().Format("2006-01-02 15:04:05"), ageText(c.Age))
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\n", printable(c.Name), c.Messages, sizeText(c.Bytes), oldest, c.notes())
	}
	if len(r.Consumers) == 0 {
		fmt.Fprint(table, "none\t\t\t\t\n")
	}
	fmt.Fprint(table, "\n")
	fmt.Fprintf(table, "segments\t%d\t%s\n", r.Segments, sizeText(r.InUse))
	fmt.Fprintf(table, "journal\t\t%s\t%s of it in no segment yet\n", sizeText(r.Journal), sizeText(r.Unspilled))
	fmt.Fprintf(table, "sessions\t%d\nsubscriptions\t%d\nretained\t%d\n", r.Tables.Sessions, r.Tables.Subscriptions, r.Tables.Retained)
	for _, f := range r.SetAside {
		fmt.Fprintf(table, "set aside\t\t%s\t%s\n", sizeText(f.Bytes), f.File)
	}
	// A builder takes everything.
	_ = table.Flush()
	text := b.String()
	for _, f := range r.Findings {
		text += "\n" + f.String()
	}
	_, err := io.WriteString(w, trimLines(text))
	return err
}

// notes says in a few words what else there is about the consumer.
func (c StoreConsumer) notes() string {
	var all []string
	if c.Orphan {
		all = append(all, "not in the configuration")
	}
	if c.Incomplete > 0 {
		all = append(all, fmt.Sprintf("%d of QoS 2 half done", c.Incomplete))
	}
	for _, cause := range slices.Sorted(maps.Keys(c.Dropped)) {
		all = append(all, fmt.Sprintf("dropped %d: %s", c.Dropped[cause], cause))
	}
	return strings.Join(all, ", ")
}

// String is a finding for a person, with an end of line.
func (f StoreFinding) String() string {
	text := f.Problem
	if f.File != "" {
		text = f.File + ": " + text
	}
	if f.Cure != "" {
		text += "\n    " + f.Cure
	}
	return text + "\n"
}

// trimLines takes away the spaces that a table leaves at the ends of lines.
func trimLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// sizeText writes bytes in the units of the configuration.
func sizeText(n int64) string {
	value, unit := float64(n), "B"
	for _, larger := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, larger
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

// ageText writes seconds with the two units that matter.
func ageText(seconds float64) string {
	d := time.Duration(max(seconds, 0)) * time.Second
	switch days, hours, minutes := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60; {
	case days > 0:
		return fmt.Sprintf("%dd %dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh %dmin", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dmin %ds", minutes, int(d.Seconds())%60)
	}
	return fmt.Sprintf("%ds", int(d.Seconds()))
}

// printable quotes what would control a terminal: client identifiers are chosen
// by devices.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// exportLine is one message in NDJSON.
type exportLine struct {
	Consumers []string  `json:"consumers"`
	Topic     string    `json:"topic"`
	Time      time.Time `json:"time"`
	QoS       byte      `json:"qos"`
	Retain    bool      `json:"retain"`
	Payload   *string   `json:"payload,omitempty"`
	Base64    []byte    `json:"payload_base64,omitempty"`
	Error     string    `json:"error,omitempty"`
	Message   []byte    `json:"message_base64,omitempty"` // when it is no PUBLISH
}

// ExportStore writes a line of JSON for every message that waits, or that waits
// for one consumer (see FindConsumer; empty: all), in the order of arrival: its
// consumers, topic, time of arrival, QoS and retain flag as published, and the
// payload as text if it is valid UTF-8, else in base64.
func ExportStore(w io.Writer, v *storage.View, consumer string) error {
	var only []string
	if consumer != "" {
		name, err := FindConsumer(v, consumer)
		if err != nil {
			return err
		}
		only = []string{name}
	}
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	return v.Each(func(m *storage.Held) error { return out.Encode(exported(m)) }, only...)
}

// exported decodes one message of the store.
func exported(m *storage.Held) exportLine {
	line := exportLine{Time: time.UnixMilli(m.Time).UTC()}
	for _, d := range m.Deliveries {
		line.Consumers = append(line.Consumers, ConsumerTitle(d.Consumer))
	}
	var p packet.Publish
	f, _, err := packet.Next(m.Message, packet.V5, 0)
	if err == nil {
		err = p.Decode(f, packet.V5)
	}
	if err != nil {
		line.Error, line.Message = "not a message of MQTT: "+err.Error(), m.Message
		return line
	}
	line.Topic, line.QoS, line.Retain = string(p.Topic), p.QoS, p.Retain
	if utf8.Valid(p.Payload) {
		text := string(p.Payload)
		line.Payload = &text
	} else {
		line.Base64 = p.Payload
	}
	return line
}

// StoreReport tells what the gateway's store holds now. It may be called while
// the gateway runs.
func (g *Gateway) StoreReport() (StoreReport, error) {
	v, err := g.store.View()
	if err != nil {
		return StoreReport{}, fmt.Errorf("edge: look into the store: %w", err)
	}
	g.mu.Lock()
	cfg := g.cfg
	g.mu.Unlock()
	return ReportStore(v, cfg, time.Now()), nil
}

// StoreExport is ExportStore for the gateway's store. The gateway does not wait
// for w.
func (g *Gateway) StoreExport(w io.Writer, consumer string) error {
	v, err := g.store.View()
	if err != nil {
		return fmt.Errorf("edge: look into the store: %w", err)
	}
	return ExportStore(w, v, consumer)
}

// RemoveConsumer takes a consumer of a store that no gateway uses out of it, with
// all that waits for it and what it has in the tables: a session is gone
// altogether, subscriptions and all. It must be called before anything is
// appended to the log. It returns what to wait for.
func RemoveConsumer(log *storage.Log, name string) (storage.Seq, error) {
	var r storage.Record
	remove := func(table storage.Table, belongs func(key string) bool) error {
		return log.Each(table, func(key, _ []byte) error {
			if belongs(string(key)) {
				r.Changes = append(r.Changes, storage.Change{Table: table, Key: slices.Clone(key)})
			}
			return nil
		})
	}
	var err error
	if id, ok := strings.CutPrefix(name, sessionPrefix); ok {
		rest := func(key string) bool { return strings.HasPrefix(key, id+"\x00") }
		err = errors.Join(
			remove(storage.Sessions, func(key string) bool { return key == id }),
			remove(storage.Subscriptions, rest),
			remove(storage.InboundIDs, rest))
	} else if id, ok := strings.CutPrefix(name, consumerPrefix); ok {
		// Those of a bridge with several queues go with its first, which it always has.
		err = remove(storage.Bridges, func(key string) bool { return strings.HasPrefix(key, id+"\x00") })
	}
	if err != nil {
		return 0, fmt.Errorf("edge: remove %s: %w", ConsumerTitle(name), err)
	}
	// The rows first: those of a session without a queue would be worse than a
	// queue without rows, which the broker removes itself.
	rows := storage.Seq(0)
	if len(r.Changes) > 0 {
		if rows, err = log.Append(&r); err != nil {
			return 0, fmt.Errorf("edge: remove %s: %w", ConsumerTitle(name), err)
		}
	}
	seq, err := log.RemoveConsumer(name)
	if err != nil {
		return 0, fmt.Errorf("edge: remove %s: %w", ConsumerTitle(name), err)
	}
	return cmp.Or(seq, rows), nil
}
