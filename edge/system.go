package edge

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"forebay/broker"
)

// systemInterval is how often the topics of $SYS are brought up to date:
// Mosquitto's default.
const systemInterval = 10 * time.Second

// system publishes what the broker counts under $SYS/broker, retained, with the
// names and the texts that Mosquitto has for it. The broker never stores these
// topics.
type system struct {
	// Constant after newSystem.
	server  *broker.Server
	version string
	began   time.Time

	told    map[string]string // owned by run: the last payload by topic
	refused atomic.Bool       // set by the broker's loop
}

func newSystem(g *Gateway) *system {
	return &system{server: g.server, version: g.cfg.Version, began: g.began, told: map[string]string{}}
}

func (s *system) run(ctx context.Context) error {
	ticker := time.NewTicker(systemInterval)
	defer ticker.Stop()
	for {
		s.update(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// update publishes what has changed. A round that the broker is too busy for,
// or that ctx has ended, is left out.
func (s *system) update(ctx context.Context) {
	st, err := s.server.Stats(ctx)
	if err != nil {
		return
	}
	if s.refused.Swap(false) {
		clear(s.told)
	}
	uptime := time.Since(s.began) / time.Second
	s.tell("version", "forebay version "+s.version)
	s.tell("uptime", strconv.Itoa(int(uptime))+" seconds")
	s.tell("clients/connected", decimal(st.Clients))
	s.tell("clients/maximum", decimal(st.MaxClients))
	s.tell("clients/disconnected", decimal(max(st.Sessions-st.Clients, 0)))
	s.tell("clients/total", decimal(max(st.Sessions, st.Clients)))
	s.tell("messages/received", decimal(st.PacketsReceived))
	s.tell("messages/sent", decimal(st.PacketsSent))
	s.tell("publish/messages/received", decimal(st.Received))
	s.tell("publish/messages/sent", decimal(st.Sent))
	s.tell("publish/messages/dropped", decimal(st.Dropped()))
	s.tell("bytes/received", decimal(st.BytesReceived))
	s.tell("bytes/sent", decimal(st.BytesSent))
	s.tell("subscriptions/count", decimal(st.Subscriptions))
	s.tell("retained messages/count", decimal(st.Retained))
}

func decimal[T int | uint64](n T) string { return strconv.FormatUint(uint64(n), 10) }

// tell publishes one topic unless its subscribers know.
func (s *system) tell(name, payload string) {
	if s.told[name] == payload {
		return
	}
	s.told[name] = payload
	m := &broker.Message{Topic: "$SYS/broker/" + name, Payload: []byte(payload), Retain: true}
	s.server.Publish(m, func(err error) {
		if err != nil {
			s.refused.Store(true) // the next round tells everything again
		}
	})
}
