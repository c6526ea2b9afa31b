package edge

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"forebay/broker"
	"forebay/storage"
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
	store   *storage.Log
	version string
	began   time.Time

	// Owned by run.
	told    map[string]string // the last payload by topic
	loads   map[string]*load  // by topic, see rates
	looked  time.Time         // when the loads were brought up to date
	maxHeap uint64

	refused atomic.Bool // set by the broker's loop
}

func newSystem(g *Gateway) *system {
	return &system{server: g.server, store: g.store, version: g.cfg.Version, began: g.began,
		told: map[string]string{}, loads: map[string]*load{}}
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
	now := time.Now()
	s.tell("version", "forebay version "+s.version)
	s.tell("uptime", strconv.Itoa(int(now.Sub(s.began)/time.Second))+" seconds")
	disconnected, total := max(st.Sessions-st.Clients, 0), max(st.Sessions, st.Clients)
	s.tell("clients/connected", decimal(st.Clients))
	s.tell("clients/active", decimal(st.Clients))
	s.tell("clients/maximum", decimal(st.MaxClients))
	s.tell("clients/disconnected", decimal(disconnected))
	s.tell("clients/inactive", decimal(disconnected))
	s.tell("clients/total", decimal(total))
	s.tell("messages/received", decimal(st.PacketsReceived))
	s.tell("messages/sent", decimal(st.PacketsSent))
	s.tell("publish/messages/received", decimal(st.Received))
	s.tell("publish/messages/sent", decimal(st.Sent))
	s.tell("publish/messages/dropped", decimal(st.Dropped()))
	s.tell("publish/bytes/received", decimal(st.ReceivedPayload))
	s.tell("publish/bytes/sent", decimal(st.SentPayload))
	s.tell("bytes/received", decimal(st.BytesReceived))
	s.tell("bytes/sent", decimal(st.BytesSent))
	s.tell("subscriptions/count", decimal(st.Subscriptions))
	s.tell("shared_subscriptions/count", decimal(st.SharedSubscriptions))
	s.tell("retained messages/count", decimal(st.Retained))
	s.tellStore(&st)
	s.tellHeap()
	s.tellLoads(&st, now)
}

// tellStore tells what is kept: retained messages and what waits in the store,
// for each of those who wait.
func (s *system) tellStore(st *broker.Stats) {
	count, size := uint64(st.Retained), uint64(st.RetainedBytes)
	for _, name := range s.store.Consumers() {
		if q, ok := s.store.ConsumerStats(name); ok {
			count += uint64(q.Count)
			size += uint64(q.Bytes)
		}
	}
	s.tell("messages/stored", decimal(count))
	s.tell("store/messages/count", decimal(count))
	s.tell("store/messages/bytes", decimal(size))
}

func (s *system) tellHeap() {
	heap := heapBytes()
	s.maxHeap = max(s.maxHeap, heap)
	s.tell("heap/current", decimal(heap))
	s.tell("heap/maximum", decimal(s.maxHeap))
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
