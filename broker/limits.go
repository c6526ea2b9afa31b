package broker

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"forebay/broker/core"
	"forebay/broker/packet"
	"forebay/storage"
)

// LimitsConfig bounds what clients may take.
type LimitsConfig struct {
	// Connections is the number of connections at one time, all listeners together. 1 to 1,000,000. Default 5000.
	Connections int `mapstructure:"connections"`

	// These hold for each listener that has none of its own.
	ConnectionsPerAddress int   `mapstructure:"connections_per_address"`
	ConnectRate           int   `mapstructure:"connects_per_second"`
	MessageRate           int   `mapstructure:"messages_per_second"`
	ByteRate              int64 `mapstructure:"bytes_per_second"`

	// ConnectTimeout is how long a connection may take for the handshakes of TLS and WebSocket, and then again to send
	// CONNECT. 100 ms to 10 min. Default 10 s.
	ConnectTimeout time.Duration `mapstructure:"connect_timeout"`

	// KeepAlive is the longest keep alive of 5.0 clients, in whole seconds: they are told to use it, also if they wanted
	// none. Older clients cannot be told. 1 s to 18h12m15s; 0, the default: as long as they like.
	KeepAlive time.Duration `mapstructure:"keep_alive"`

	// PacketSize is the largest packet accepted, in bytes. 1 KiB to 256 MiB. Default 1 MiB.
	PacketSize int64 `mapstructure:"packet_size"`

	// ReceiveMaximum is how many QoS 1 and 2 messages that a 5.0 client has sent may be unacknowledged at one time. It
	// is told so. 1 to 65,535. Default 100.
	ReceiveMaximum int `mapstructure:"receive_maximum"`

	// Inflight is how many QoS 1 and 2 messages to a client may be unacknowledged at one time; less if the client says so.
	// 1 to 65,535. Default 1000.
	Inflight int `mapstructure:"inflight"`

	// QueuedMessages and QueuedSize bound what waits for one client: of a session that outlives its connection the
	// oldest go, counted and logged; another is disconnected, which happens at 10,000 messages and 1 MiB at most.
	// Default 100,000 and 64 MiB.
	QueuedMessages int   `mapstructure:"queued_messages"`
	QueuedSize     int64 `mapstructure:"queued_size"`

	// Subscriptions is how many one session may have. 1 to 1,000,000. Default 1000.
	Subscriptions int `mapstructure:"subscriptions"`

	// TopicLevels is how many levels topics and filters may have. 1 to 1000. Default 128.
	TopicLevels int `mapstructure:"topic_levels"`

	// SessionExpiry is the longest time that a session without a connection is kept, in whole seconds. Before 5.0,
	// where a client cannot say, it is how long a session with clean session 0 is kept. 1 s to 100 years. Default 168h.
	SessionExpiry time.Duration `mapstructure:"session_expiry"`
}

// ListenerLimits are those of one listener. Zero: for Connections, that of LimitsConfig alone; for the others, theirs.
type ListenerLimits struct {
	// Connections is the number of connections at one time. The next one is closed at once.
	Connections int `mapstructure:"connections"`

	// ConnectionsPerAddress is the same for one address, of IPv6 for one network of 64 bits, on all listeners together.
	// 0 in LimitsConfig: no limit. A Unix socket has none.
	ConnectionsPerAddress int `mapstructure:"connections_per_address"`

	// ConnectRate is how many connections are accepted in a second; more wait in the kernel. 0: no limit.
	ConnectRate int `mapstructure:"connects_per_second"`

	// MessageRate and ByteRate are how many packets (acknowledgements do not count) and bytes of them a client may send
	// in a second. It is not read for a while when it has sent more. 0: no limit.
	MessageRate int   `mapstructure:"messages_per_second"`
	ByteRate    int64 `mapstructure:"bytes_per_second"`
}

const (
	minPacketSize    = 1 << 10
	maxConnections   = 1_000_000
	maxSessionExpiry = 100 * 365 * 24 * time.Hour
	maxKeepAlive     = math.MaxUint16 * time.Second
	minQueuedSize    = 64 << 10
)

func (l *LimitsConfig) setDefaults() {
	setDefault(&l.Connections, 5000)
	setDefault(&l.ConnectTimeout, 10*time.Second)
	setDefault(&l.PacketSize, 1<<20)
	setDefault(&l.ReceiveMaximum, 100)
	setDefault(&l.Inflight, 1000)
	setDefault(&l.QueuedMessages, 100_000)
	setDefault(&l.QueuedSize, 64<<20)
	setDefault(&l.Subscriptions, 1000)
	setDefault(&l.TopicLevels, 128)
	setDefault(&l.SessionExpiry, 168*time.Hour)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (l *LimitsConfig) validate(report func(key, problem string)) {
	between := func(key string, n, least, most int64) {
		if n < least || n > most {
			report(key, fmt.Sprintf("must be between %d and %d", least, most))
		}
	}
	between("connections", int64(l.Connections), 1, maxConnections)
	l.forListener(ListenerLimits{}).validate(report)
	if l.ConnectTimeout < 100*time.Millisecond || l.ConnectTimeout > 10*time.Minute {
		report("connect_timeout", "must be between 100ms and 10m")
	}
	if l.KeepAlive != 0 && (l.KeepAlive < time.Second || l.KeepAlive > maxKeepAlive) {
		report("keep_alive", "must be between 1s and 18h12m15s, or 0 for no limit")
	}
	if l.PacketSize < minPacketSize || l.PacketSize > packet.MaxPacket {
		report("packet_size", "must be between 1KiB and 256MiB")
	}
	between("receive_maximum", int64(l.ReceiveMaximum), 1, math.MaxUint16)
	between("inflight", int64(l.Inflight), 1, math.MaxUint16)
	between("queued_messages", int64(l.QueuedMessages), 1, 1<<30)
	if l.QueuedSize < minQueuedSize {
		report("queued_size", "must be 64KiB or more")
	}
	between("subscriptions", int64(l.Subscriptions), 1, 1_000_000)
	between("topic_levels", int64(l.TopicLevels), 1, 1000)
	if l.SessionExpiry < time.Second || l.SessionExpiry > maxSessionExpiry {
		report("session_expiry", "must be between 1s and 876000h")
	}
}

func (l ListenerLimits) validate(report func(key, problem string)) {
	const most = 1_000_000
	for _, v := range []struct {
		key string
		n   int64
	}{
		{"connections", int64(l.Connections)}, {"connections_per_address", int64(l.ConnectionsPerAddress)},
		{"connects_per_second", int64(l.ConnectRate)}, {"messages_per_second", int64(l.MessageRate)},
	} {
		if v.n < 0 || v.n > most {
			report(v.key, "must be between 1 and 1000000, or 0 for no limit")
		}
	}
	if l.ByteRate != 0 && l.ByteRate < minPacketSize {
		report("bytes_per_second", "must be 1KiB or more, or 0 for no limit")
	}
}

// forListener returns the limits of a listener with those of its own.
func (l *LimitsConfig) forListener(own ListenerLimits) ListenerLimits {
	setDefault(&own.ConnectionsPerAddress, l.ConnectionsPerAddress)
	setDefault(&own.ConnectRate, l.ConnectRate)
	setDefault(&own.MessageRate, l.MessageRate)
	setDefault(&own.ByteRate, l.ByteRate)
	return own
}

// core returns the limits that the core looks after.
func (l *LimitsConfig) core() core.Config {
	inMemory := core.Config{}
	inMemory.SetDefaults()
	return core.Config{
		PacketSize: uint32(l.PacketSize), ReceiveMaximum: uint16(l.ReceiveMaximum), Inflight: l.Inflight,
		KeepAlive: uint16(l.KeepAlive / time.Second), ConnectTimeout: l.ConnectTimeout,
		QueueMessages: min(inMemory.QueueMessages, l.QueuedMessages), QueueBytes: int(min(int64(inMemory.QueueBytes), l.QueuedSize)),
		Subscriptions: l.Subscriptions, TopicLevels: l.TopicLevels, SessionExpiry: l.SessionExpiry,
		// Connected clients that come and go need room beside those that stay away.
		Sessions: max(20_000, 2*l.Connections),
	}
}

// queue returns what may wait for one session in the log. An abandoned one must not stop the plant: beyond either
// limit its oldest messages go, counted and logged by the log.
func (l *LimitsConfig) queue() storage.Limits {
	return storage.Limits{MaxBytes: l.QueuedSize, MaxCount: int64(l.QueuedMessages), WhenFull: storage.DropOldest}
}

var (
	errListenerFull = errors.New("the listener has as many connections as it may have")
	errAddressFull  = errors.New("the address has as many connections as it may have")
)

// opened counts a new connection of a listener.
func (l *loop) opened(s *stream, li *listener, peer netip.AddrPort) {
	s.listener, s.peer = li, peer
	l.open++
	li.open++
}

// closed is the opposite of opened and countAddress.
func (l *loop) closed(s *stream) {
	l.open--
	s.listener.open--
	if !s.counted {
		return
	}
	a := networkOf(s.peer.Addr())
	if l.addresses[a]--; l.addresses[a] == 0 {
		delete(l.addresses, a)
	}
}

// countAddress counts a connection for its address. It reports false when that has too many.
func (l *loop) countAddress(s *stream) bool {
	limit := s.listener.limits.ConnectionsPerAddress
	if limit == 0 || !s.peer.IsValid() {
		return true
	}
	a := networkOf(s.peer.Addr())
	if l.addresses[a] >= limit {
		l.refusedAddress++
		l.events.refused(s.listener.info(s.peer), errAddressFull)
		return false
	}
	l.addresses[a]++
	s.counted = true
	return true
}

// mayAccept reports whether a listener may accept a connection now: it may be a second ahead of its rate. If not, it
// rests.
func (l *loop) mayAccept(li *listener) bool {
	if li.limits.ConnectRate == 0 || li.allowed.Sub(l.now) < time.Second {
		return true
	}
	l.restListener(li, pulse)
	return false
}

// accepted counts a connection for the rate of its listener. As in the core, each moves the time at which all of them
// would have been allowed.
func (l *loop) accepted(li *listener) {
	rate := li.limits.ConnectRate
	if rate == 0 {
		return
	}
	if li.allowed.Before(l.now) {
		li.allowed = l.now
	}
	li.allowed = li.allowed.Add(time.Second / time.Duration(rate))
}
