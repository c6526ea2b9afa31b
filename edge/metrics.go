package edge

import (
	"context"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"time"

	"forebay/bridge"
	"forebay/modbus"
)

// metrics answers with the numbers of the Report in the text format of
// Prometheus, version 0.0.4.
func (a *api) metrics(w http.ResponseWriter, req *http.Request) {
	ctx, cancel := context.WithTimeout(req.Context(), apiAnswerTime)
	defer cancel()
	r, err := a.gateway.Report(ctx)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(metricsOf(&r, time.Now())) // who has gone needs no answer
}

// metricsOf writes everything that is measured.
func metricsOf(r *Report, now time.Time) []byte {
	var e exposition
	e.gauge("forebay_build_info", "The version that runs; always 1.")
	e.one(1, "version", r.Version, "goversion", runtime.Version())
	e.gauge("forebay_start_time_seconds", "When the gateway was started, in seconds since 1970.")
	e.one(float64(r.Started.UnixMilli()) / 1000)
	e.gauge("forebay_ready", "1 while devices are served and what they send is kept.")
	e.flag(r.Ready)
	e.broker(&r.Broker)
	e.bridges(r.Bridges, now)
	e.modbus(&r.Modbus)
	e.storage(&r.Storage)
	e.process()
	return e.b
}

func (e *exposition) broker(r *BrokerReport) {
	e.gauge("forebay_broker_clients", "Connected clients.")
	e.one(float64(r.Clients))
	e.gauge("forebay_broker_clients_max", "The most clients that were connected at one time.")
	e.one(float64(r.MaxClients))
	e.gauge("forebay_broker_sessions", "Sessions, those of absent clients included.")
	e.one(float64(r.Sessions))
	e.gauge("forebay_broker_subscriptions", "Subscriptions of all sessions.")
	e.one(float64(r.Subscriptions))
	e.gauge("forebay_broker_retained_messages", "Retained messages.")
	e.one(float64(r.Retained))
	e.gauge("forebay_broker_retained_bytes", "Bytes of the retained messages.")
	e.one(float64(r.RetainedBytes))
	e.gauge("forebay_broker_queued_bytes", "Bytes in memory that wait for clients.")
	e.one(float64(r.QueuedBytes))
	e.counter("forebay_broker_messages_received_total", "PUBLISH packets from clients.")
	e.one(float64(r.MessagesReceived))
	e.counter("forebay_broker_messages_sent_total", "PUBLISH packets to clients.")
	e.one(float64(r.MessagesSent))
	e.counter("forebay_broker_messages_refused_total", "PUBLISH packets from clients that were refused.")
	e.one(float64(r.MessagesRefused))
	e.counter("forebay_broker_messages_dropped_total", "Messages for connected clients that were dropped.")
	e.each(r.MessagesDropped, "cause")
	e.counter("forebay_broker_clients_refused_total", "Connections that a limit or a wrong password has kept out.")
	e.each(r.ClientsRefused, "cause")
	e.counter("forebay_broker_clients_slowed_total", "How often a client was not read for a while, because it had sent too much.")
	e.one(float64(r.ClientsSlowed))
	e.counter("forebay_broker_packets_received_total", "MQTT packets of every type from clients.")
	e.one(float64(r.PacketsReceived))
	e.counter("forebay_broker_packets_sent_total", "MQTT packets of every type to clients.")
	e.one(float64(r.PacketsSent))
	e.counter("forebay_broker_received_bytes_total", "Bytes of MQTT from clients.")
	e.one(float64(r.BytesReceived))
	e.counter("forebay_broker_sent_bytes_total", "Bytes of MQTT to clients.")
	e.one(float64(r.BytesSent))
	e.counter("forebay_broker_logins_failed_total", "Logins with a wrong password or an unknown user.")
	e.one(float64(r.LoginsFailed))
	e.counter("forebay_broker_logins_delayed_total", "Logins refused unseen because those before had failed.")
	e.one(float64(r.LoginsDelayed))
	e.counter("forebay_broker_panics_total", "Bugs that closed one connection.")
	e.one(float64(r.Panics))
}

func (e *exposition) bridges(all []bridge.Status, now time.Time) {
	e.gauge("forebay_bridge_state", "1 for the state that the bridge is in.")
	states := []string{string(bridge.Connecting), string(bridge.Up), string(bridge.Stalled), string(bridge.Down)}
	for i := range all {
		e.state(string(all[i].State), states, "bridge", all[i].Name)
	}
	e.gauge("forebay_bridge_queue_messages", "Messages that wait for the upstream.")
	for i := range all {
		e.one(float64(all[i].Backlog.Count), "bridge", all[i].Name)
	}
	e.gauge("forebay_bridge_queue_bytes", "Bytes of the messages that wait for the upstream.")
	for i := range all {
		e.one(float64(all[i].Backlog.Bytes), "bridge", all[i].Name)
	}
	e.gauge("forebay_bridge_queue_oldest_age_seconds", "How long the oldest message has waited for the upstream; 0 when none waits.")
	for i := range all {
		age := time.Duration(0)
		if oldest := all[i].Backlog.Oldest; oldest != nil {
			age = max(now.Sub(*oldest), 0)
		}
		e.one(age.Seconds(), "bridge", all[i].Name)
	}
	e.counter("forebay_bridge_forwarded_total", "Messages that the upstream has acknowledged, or with QoS 0 were sent.")
	for i := range all {
		e.one(float64(all[i].Forwarded), "bridge", all[i].Name)
	}
	e.counter("forebay_bridge_received_total", "Messages taken from the upstream.")
	for i := range all {
		e.one(float64(all[i].Received), "bridge", all[i].Name)
	}
	e.counter("forebay_bridge_dropped_total", "Messages that were dropped, by cause.")
	for i := range all {
		e.each(all[i].Dropped, "cause", "bridge", all[i].Name)
	}
	e.counter("forebay_bridge_refused_total", "Messages that were not taken from their publishers because the queue was full, by limit.")
	for i := range all {
		e.each(all[i].Refused, "limit", "bridge", all[i].Name)
	}
}

func (e *exposition) modbus(r *ModbusReport) {
	e.gauge("forebay_modbus_link_up", "1 while the connection or port is open.")
	for i := range r.Links {
		e.flag(r.Links[i].Up, "link", r.Links[i].Name)
	}
	for _, c := range []struct {
		name, help string
		value      func(*LinkReport) uint64
	}{
		{"requests", "Requests made.", func(l *LinkReport) uint64 { return l.Requests }},
		{"timeouts", "Requests that found no answer.", func(l *LinkReport) uint64 { return l.Timeouts }},
		{"exceptions", "Requests that the device refused.", func(l *LinkReport) uint64 { return l.Exceptions }},
		{"failures", "Requests that went wrong in another way.", func(l *LinkReport) uint64 { return l.Failures }},
		{"late_answers", "Answers to earlier requests, thrown away.", func(l *LinkReport) uint64 { return l.Late }},
		{"stray_frames", "Frames that answer nothing that was asked, thrown away.", func(l *LinkReport) uint64 { return l.Stray }},
		{"crc_errors", "Frames with a wrong checksum, thrown away.", func(l *LinkReport) uint64 { return l.CRC }},
		{"reconnects", "How often the link came back.", func(l *LinkReport) uint64 { return l.Reconnects }},
		{"missed_reads", "Reads skipped because the link was too slow.", func(l *LinkReport) uint64 { return l.Missed }},
		{"samples", "Samples read.", func(l *LinkReport) uint64 { return l.Samples }},
		{"writes", "Writes executed.", func(l *LinkReport) uint64 { return l.Writes }},
	} {
		e.counter("forebay_modbus_"+c.name+"_total", c.help)
		for i := range r.Links {
			e.one(float64(c.value(&r.Links[i])), "link", r.Links[i].Name)
		}
	}
	e.gauge("forebay_modbus_unit_state", "1 for the state that the unit is in; none before its first answer.")
	states := []string{string(modbus.Online), string(modbus.Degraded), string(modbus.Offline)}
	for i := range r.Links {
		for _, u := range r.Links[i].Units {
			e.state(u.State, states, "link", r.Links[i].Name, "unit", u.Name)
		}
	}
	e.counter("forebay_modbus_samples_published_total", "Samples that were published and are safe.")
	e.one(float64(r.Samples))
	e.counter("forebay_modbus_samples_refused_total", "Samples that the broker refused, and that are lost.")
	e.one(float64(r.SamplesRefused))
}

func (e *exposition) storage(r *StorageReport) {
	e.gauge("forebay_storage_bytes", "Bytes of all files of the store.")
	e.one(float64(r.Bytes))
	e.gauge("forebay_storage_max_bytes", "Bytes that all files of the store may take: storage.max_size.")
	e.one(float64(r.MaxBytes))
	e.gauge("forebay_storage_segments", "Segment files.")
	e.one(float64(r.Segments))
	e.gauge("forebay_storage_damaged_files", "Files set aside as damaged since the store was made.")
	e.one(float64(r.Damaged))
	e.gauge("forebay_storage_failed", "1 when the store has failed: nothing more is acknowledged.")
	e.flag(r.Error != "")
	e.counter("forebay_storage_high_water_total", "How often four fifths of the bytes that it may take were reached.")
	e.one(float64(r.HighWater))
	e.counter("forebay_storage_refused_total", "Records refused because the store was full, by limit.")
	e.each(r.Refused, "limit")
	e.gauge("forebay_storage_session_messages", "Messages that wait for sessions.")
	e.one(float64(r.Sessions.Count))
	e.gauge("forebay_storage_session_bytes", "Bytes of the messages that wait for sessions.")
	e.one(float64(r.Sessions.Bytes))
	e.gauge("forebay_storage_orphan_messages", "Messages that wait for a bridge that is not in the configuration any more.")
	for _, c := range r.Consumers {
		if c.Orphan {
			e.one(float64(c.Count), "bridge", c.Name[len(consumerPrefix):])
		}
	}
}

// exposition is a text of metrics under construction.
type exposition struct {
	b    []byte
	name string // of the metric whose values come now
}

func (e *exposition) gauge(name, help string)   { e.begin(name, help, "gauge") }
func (e *exposition) counter(name, help string) { e.begin(name, help, "counter") }

func (e *exposition) begin(name, help, kind string) {
	e.name = name
	e.b = append(e.b, "# HELP "+name+" "+help+"\n# TYPE "+name+" "+kind+"\n"...)
}

// one writes a value; labels are pairs of name and value.
func (e *exposition) one(value float64, labels ...string) {
	e.b = append(e.b, e.name...)
	for i := 0; i < len(labels); i += 2 {
		e.b = append(e.b, "{,"[min(i, 1)])
		e.b = append(append(e.b, labels[i]...), '=', '"')
		e.b = appendLabel(e.b, labels[i+1])
		e.b = append(e.b, '"')
	}
	if len(labels) > 0 {
		e.b = append(e.b, '}')
	}
	e.b = strconv.AppendFloat(append(e.b, ' '), value, 'f', -1, 64)
	e.b = append(e.b, '\n')
}

// appendLabel escapes what the format gives a meaning.
func appendLabel(b []byte, text string) []byte {
	for i := range len(text) {
		switch c := text[i]; c {
		case '\\', '"':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		default:
			b = append(b, c)
		}
	}
	return b
}

func (e *exposition) flag(on bool, labels ...string) {
	value := 0.0
	if on {
		value = 1
	}
	e.one(value, labels...)
}

// each writes counts by their keys, which become the value of the label by.
func (e *exposition) each(counts map[string]uint64, by string, labels ...string) {
	for _, key := range slices.Sorted(maps.Keys(counts)) {
		e.one(float64(counts[key]), append(slices.Clip(labels), by, key)...)
	}
}

// state writes 1 for the state that it is and 0 for the others; nothing when
// there is none yet.
func (e *exposition) state(is string, all []string, labels ...string) {
	if is == "" {
		return
	}
	if !slices.Contains(all, is) {
		all = append(slices.Clip(all), is)
	}
	for _, s := range all {
		e.flag(s == is, append(slices.Clip(labels), "state", s)...)
	}
}
