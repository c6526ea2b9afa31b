package core

import "time"

// Config has the limits of the core. A zero field means its default, which SetDefaults puts in.
type Config struct {
	// PacketSize is the largest packet accepted from a client, in bytes, announced to 5.0 clients. Default 1 MiB, at
	// most 256,000,000.
	PacketSize uint32
	// ReceiveMaximum is how many QoS 1 and 2 messages a 5.0 client may have unacknowledged; announced. Default 100.
	ReceiveMaximum uint16
	// TopicAliasMaximum is how many topic aliases a 5.0 client may set; announced. Default 16.
	TopicAliasMaximum uint16
	// SessionExpiry caps the session expiry of 5.0, and is that of 3.x sessions that are not clean. Default 168 h.
	SessionExpiry time.Duration
	// KeepAlive caps the keep alive, in seconds: 5.0 clients are told to use it, older ones are held to their own.
	// Default 0: no cap.
	KeepAlive uint16
	// ConnectTimeout is how long a connection may take to send CONNECT. Default 10 s.
	ConnectTimeout time.Duration

	// MaxAckDelay is how long the log waits for the acknowledgements of live queues. Default 0: it does not, or nobody
	// knows.
	MaxAckDelay time.Duration

	// Sessions bounds the sessions, connected or not. Default 20,000.
	Sessions int
	// Inflight bounds the QoS 1 and 2 messages sent to a client and not acknowledged, below what the client allows.
	// 1 to 65,535. Default 1,000.
	Inflight int
	// OutputBytes bounds the output waiting for one connection. Above it QoS 0 is dropped and QoS 1 and 2 wait; a
	// client that lets twice as much of the answers to its own packets wait is disconnected. Default 1 MiB, at least
	// 64 KiB.
	OutputBytes int
	// QueueMessages and QueueBytes bound the QoS 1 and 2 messages that wait in memory for a session that ends with
	// its connection; beyond either it is disconnected. Default 10,000 and 1 MiB.
	QueueMessages int
	QueueBytes    int
	// MemoryBytes bounds all output and all queues in memory together. Default 64 MiB. Above it everything that
	// would wait is treated as above its own bound.
	MemoryBytes int

	// Subscriptions bounds the subscriptions of one session. Default 1,000.
	Subscriptions int
	// TopicLevels bounds the levels of topics and filters. Default 128.
	TopicLevels int
	// TopicSize bounds the bytes of topics and filters. Default 4,096, at most 16,384.
	TopicSize int
	// RetainedMessages and RetainedBytes bound the retained messages. Default 100,000 and 64 MiB.
	RetainedMessages int
	RetainedBytes    int64

	// ServerReference is where 5.0 clients are sent when the core drains: one or several host or host:port, with
	// spaces between them. Empty: nowhere.
	ServerReference string
	// ResponseInformation is the topic below which 5.0 clients that ask are told to have replies sent, with %c for the
	// client identifier and %u for the username. Empty: they are told nothing.
	ResponseInformation string

	// Authorizer decides who may publish, subscribe and receive; nil allows everything. See [Core.SetAuthorizer].
	Authorizer Authorizer
}

// SetDefaults puts the default into every field that is zero, and the limits of the protocol into those beyond them.
func (c *Config) SetDefaults() {
	setDefault(&c.PacketSize, 1<<20)
	setDefault(&c.ReceiveMaximum, 100)
	setDefault(&c.TopicAliasMaximum, 16)
	setDefault(&c.SessionExpiry, 168*time.Hour)
	setDefault(&c.ConnectTimeout, 10*time.Second)
	setDefault(&c.Sessions, 20_000)
	setDefault(&c.Inflight, 1_000)
	setDefault(&c.OutputBytes, 1<<20)
	setDefault(&c.QueueMessages, 10_000)
	setDefault(&c.QueueBytes, 1<<20)
	setDefault(&c.MemoryBytes, 64<<20)
	setDefault(&c.Subscriptions, 1_000)
	setDefault(&c.TopicLevels, 128)
	setDefault(&c.TopicSize, 4_096)
	setDefault(&c.RetainedMessages, 100_000)
	setDefault(&c.RetainedBytes, 64<<20)
	c.PacketSize = min(c.PacketSize, largestPacket)
	c.Inflight = min(c.Inflight, maxIdentifiers)
	c.OutputBytes = max(c.OutputBytes, chunkSize)
	// A topic is a key of the state tables, together with a client identifier; those end at 32 KB.
	c.TopicSize = min(c.TopicSize, 16_384)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

const (
	// maxIdentifiers is how many packet identifiers there are.
	maxIdentifiers = 65535
	// largestPacket leaves room to what a message may grow by on its way: properties, identifiers, a topic for its alias.
	largestPacket = 256_000_000
	// chunkSize is the size of the largest chunk of output.
	chunkSize = 64 << 10
	// maxClientID bounds client identifiers, in bytes: they are keys of the state tables. The standard asks for 23
	// at least [MQTT-3.1.3-5].
	maxClientID = 1024
)
