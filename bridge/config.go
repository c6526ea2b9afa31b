package bridge

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

// Config describes one upstream. The zero value of each field means its default. Relative paths are the caller's to
// resolve before New; files are read at every connection attempt, so a renewed certificate or password is used by the
// next one.
type Config struct {
	// Name tells bridges apart in topics, logs and the store: 1 to 64 letters, digits, '-', '_' or '.'. Changing it
	// makes a new bridge with an empty queue. Required.
	Name string `mapstructure:"name"`

	// Addresses are tried in order: mqtt://host[:1883], mqtts://host[:8883], ws://host[:80][/mqtt] or
	// wss://host[:443][/mqtt]. At least one.
	Addresses []string `mapstructure:"addresses"`

	// ClientID names the session upstream; it must be the only one there. {site} stands for the site.
	// Default: "{site}-" and the name.
	ClientID string `mapstructure:"client_id"`

	// Username is sent when it is not empty. {site} stands for the site.
	Username string `mapstructure:"username"`

	// PasswordFile holds the password in its first line. Needs a username. Empty: no password.
	PasswordFile string `mapstructure:"password_file"`

	// AzureSAS, TencentIoTHub and PasswordCommand make passwords that expire; at most one of them and PasswordFile. They
	// are renewed when three quarters of PasswordLifetime have passed, on a second connection that takes the session over.
	AzureSAS      AzureSAS      `mapstructure:"azure_sas"`
	TencentIoTHub TencentIoTHub `mapstructure:"tencent_iothub"`

	// PasswordCommand is a program with its arguments that prints the password in its first line, within 10 s. Its
	// environment is PATH. Arguments are for everyone on the machine to see: secrets do not belong there.
	PasswordCommand []string `mapstructure:"password_command"`

	// PasswordLifetime is how long such a password is good. 1 min to 10 years. Default 1 h.
	PasswordLifetime time.Duration `mapstructure:"password_lifetime"`

	// TLS is used by mqtts and wss addresses.
	TLS TLSConfig `mapstructure:"tls"`

	// Failback is how long a connection to another address than the first lasts before the first is tried again beside
	// it, and again. 1 s to 30 days; of no effect with one address. Default 10 min.
	Failback time.Duration `mapstructure:"failback"`

	// RedirectHosts are where an upstream of 5.0 may send us with a server reference, beside the hosts of Addresses:
	// host names, or *.example.com for all below example.com. The scheme stays that of the address that redirects, and so
	// does TLS with all it checks. Nothing else is followed: whoever can speak for the upstream once would get our
	// credentials and messages for good.
	RedirectHosts []string `mapstructure:"redirect_hosts"`

	// Bind is the network interface (eth0) or the local IP address that connections leave from. An interface needs Linux
	// 5.7 or CAP_NET_RAW. Names are looked up by the system as ever. Empty: the system's choice.
	Bind string `mapstructure:"bind"`

	// ConnectTimeout bounds one attempt: name, connection, proxy, TLS, WebSocket and CONNACK together. 1 s to 10 min.
	// Default 20 s.
	ConnectTimeout time.Duration `mapstructure:"connect_timeout"`

	// AckTimeout is how long the upstream may owe acknowledgements without giving any before the connection counts as
	// stalled and is replaced. 1 s to 1 h. Default 20 s.
	AckTimeout time.Duration `mapstructure:"ack_timeout"`

	// Proxy stands on the way to every address.
	Proxy ProxyConfig `mapstructure:"proxy"`

	// KeepAlive is the longest silence before the link is probed: whole seconds, 1 s to 18 h. The upstream may
	// demand less. Default 30 s.
	KeepAlive time.Duration `mapstructure:"keep_alive"`

	Reconnect ReconnectConfig `mapstructure:"reconnect"`
	Queue     QueueConfig     `mapstructure:"queue"`
	Replay    ReplayConfig    `mapstructure:"replay"`
	Canary    CanaryConfig    `mapstructure:"canary"`

	// UserProperties are added to what is forwarded to an upstream of 5.0. forebay-id is the same for all transmissions
	// of a message, and no other message of any bridge has it; QoS 0 has none. forebay-time is when the message came.
	UserProperties []string `mapstructure:"user_properties"`

	// MaxHops is how many times bridges may bring a message down before it is dropped: it goes in circles. They count in
	// the user property forebay-hops, which only MQTT 5.0 carries. 0 to 255; 0: nothing is counted. nil means 10.
	MaxHops *int `mapstructure:"max_hops"`

	// Up lists what is forwarded, at most 1000 rules. The first that matches decides; about QoS, order and priority when
	// the message comes, about the rest when it is sent.
	Up []UpRule `mapstructure:"up"`

	// Down lists what is subscribed to upstream. The first rule whose filter matches decides.
	Down []DownRule `mapstructure:"down"`
}

// TLSConfig names the files of a TLS connection, all in PEM. TLS 1.2 is the least accepted.
type TLSConfig struct {
	// CA holds the authorities that may vouch for the upstream. Empty: those of the system.
	CA string `mapstructure:"ca"`

	// Certificate and Key are shown to an upstream that asks for them. Both or none.
	Certificate string `mapstructure:"certificate"`
	Key         string `mapstructure:"key"`

	// ALPN lists the protocols offered, such as x-amzn-mqtt-ca on port 443. Empty: none.
	ALPN []string `mapstructure:"alpn"`

	// ServerName is what the upstream's certificate must be for. Empty: the host of the address.
	ServerName string `mapstructure:"server_name"`
}

// ReconnectConfig bounds the wait between attempts, which doubles from Min up to Max; the actual wait is a random
// part of it, so that many gateways do not return at once.
type ReconnectConfig struct {
	Min time.Duration `mapstructure:"min"` // 100 ms to Max. Default 1 s
	Max time.Duration `mapstructure:"max"` // at most 1 h. Default 60 s, or Min if that is more
}

// QueueConfig limits what waits for the upstream, for each combination of order and priority that the rules use.
type QueueConfig struct {
	MaxSize  int64         `mapstructure:"max_size"`  // bytes. Default 1 GiB
	MaxAge   time.Duration `mapstructure:"max_age"`   // Default 720 h
	MaxCount int64         `mapstructure:"max_count"` // messages. 0: no limit
	WhenFull string        `mapstructure:"when_full"` // drop-oldest (default), drop-newest or reject
}

// ReplayConfig limits the backlog, which is what has waited for more than ten seconds, and all that has piled up under
// the order live-first. What is just coming is sent beside it, as far as the order of its rule allows.
type ReplayConfig struct {
	MessagesPerSecond float64 `mapstructure:"messages_per_second"` // 0: no limit
	BytesPerSecond    int64   `mapstructure:"bytes_per_second"`    // on the wire, without TLS. 0: no limit
}

// CanaryConfig sends messages of QoS 0 to ourselves through the upstream, to see whether it moves messages. Once one
// has come back, two in a row that do not, in 10 s each, end the link: the state becomes stalled.
type CanaryConfig struct {
	// Topic is one upstream that this client alone uses, and may publish and subscribe to. {site} stands for the site.
	// Empty: no canary.
	Topic string `mapstructure:"topic"`

	Interval time.Duration `mapstructure:"interval"` // between two. 1 s or more. Default 30 s
}

// UpRule forwards what matches Filter.
type UpRule struct {
	// Filter is a topic filter. A level may be written {name} for + and, as the last one, {name:rest} for #, so that
	// Topic can refer to it by name. {site} stands for the site. Required.
	Filter string `mapstructure:"filter"`

	// Topic is the topic upstream: {topic} is the whole local topic, {1} what the first wildcard of the filter
	// matched, {name} a level named in it, {site} the site. Default "{topic}".
	Topic string `mapstructure:"topic"`

	// QoS caps the quality of service. nil means 2: as published.
	QoS *int `mapstructure:"qos"`

	// Lift raises QoS 0 (and 1) to this QoS when the message enters the queue, so that it outlives an outage. 0 to QoS.
	Lift int `mapstructure:"lift"`

	// Exclude lists filters of topics that this rule does not match.
	Exclude []string `mapstructure:"exclude"`

	// Retain says what becomes of the retain flag: keep (default), drop or force.
	Retain string `mapstructure:"retain"`

	// Order says how messages are sent when they have piled up: strict (default), as they came; live-first, what comes
	// while the link is there before what came while it was not, each in order; latest-only, the latest message of
	// each topic, with QoS 1 at most; the others are dropped and counted as superseded.
	Order string `mapstructure:"order"`

	// Priority high goes before normal (default), and that before low. What live-first has set aside goes after
	// everything else.
	Priority string `mapstructure:"priority"`

	// Expiry is how old a message may be when it is sent; one second or more. The upstream is told what remains.
	// Older ones are dropped and counted as expired. 0: as the publisher says.
	Expiry time.Duration `mapstructure:"expiry"`
}

// The orders of rules.
const (
	orderStrict     = "strict"
	orderLiveFirst  = "live-first"
	orderLatestOnly = "latest-only"
)

// DownRule subscribes to Filter upstream and publishes locally what arrives.
type DownRule struct {
	Filter string `mapstructure:"filter"` // as in UpRule, of topics upstream
	Topic  string `mapstructure:"topic"`  // as in UpRule, the local topic. Default "{topic}"
	QoS    *int   `mapstructure:"qos"`    // of the subscription. nil means 2: as published
}

const (
	minReconnect = 100 * time.Millisecond
	maxReconnect = time.Hour
	maxKeepAlive = 18 * time.Hour // what 16 bits of seconds hold
	maxClientID  = 256
	maxRules     = 1000

	maxFailback       = 720 * time.Hour
	maxConnectTimeout = 10 * time.Minute
	maxAckTimeout     = time.Hour
	maxInterface      = 15 // bytes of an interface's name, Linux
)

// policies are the names of storage's policies in the configuration. Constant.
var policies = map[string]storage.Policy{
	"reject":      storage.Reject,
	"drop-oldest": storage.DropOldest,
	"drop-newest": storage.DropNewest,
}

// SetDefaults fills the fields that are zero.
func (c *Config) SetDefaults() {
	setDefault(&c.ClientID, "{site}-"+c.Name)
	setDefault(&c.KeepAlive, 30*time.Second)
	if c.MaxHops == nil {
		ten := 10
		c.MaxHops = &ten
	}
	setDefault(&c.PasswordLifetime, time.Hour)
	setDefault(&c.Failback, 10*time.Minute)
	setDefault(&c.ConnectTimeout, 20*time.Second)
	setDefault(&c.AckTimeout, 20*time.Second)
	setDefault(&c.Reconnect.Min, time.Second)
	setDefault(&c.Reconnect.Max, max(time.Minute, c.Reconnect.Min))
	setDefault(&c.Canary.Interval, 30*time.Second)
	setDefault(&c.Queue.MaxSize, 1<<30)
	setDefault(&c.Queue.MaxAge, 720*time.Hour)
	setDefault(&c.Queue.WhenFull, "drop-oldest")
	for i := range c.Up {
		setDefault(&c.Up[i].Topic, "{topic}")
		setDefault(&c.Up[i].Retain, "keep")
		setDefault(&c.Up[i].Order, orderStrict)
		setDefault(&c.Up[i].Priority, priorityNames[normal])
	}
	for i := range c.Down {
		setDefault(&c.Down[i].Topic, "{topic}")
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports every problem with the path of its key and how to mend it. It expects SetDefaults to have been
// called. Files are not looked into.
func (c *Config) Validate(report func(path, problem string)) {
	if !validName(c.Name) {
		report("name", "must be 1 to 64 letters, digits, '-', '_' or '.': it becomes part of topics and of the store")
	}
	c.validateConnection(report)
	c.validateQueue(report)
	if len(c.Up) == 0 && len(c.Down) == 0 {
		report("up", "nothing to do: add at least one rule under up or down")
	}
	for i, r := range c.Up {
		path := fmt.Sprintf("up[%d]", i)
		validateRule(r.Filter, r.Topic, r.QoS, under(path, report))
		if r.Lift < 0 || r.Lift > qosOf(r.QoS) {
			report(path+".lift", "must be between 0 and qos")
		}
		if r.Retain != "keep" && r.Retain != "drop" && r.Retain != "force" {
			report(path+".retain", fmt.Sprintf("%q is unknown: write keep, drop or force", r.Retain))
		}
		r.validateFlow(under(path, report))
		for j, f := range r.Exclude {
			if _, err := compileFilter(f, siteExample); err != nil {
				report(fmt.Sprintf("%s.exclude[%d]", path, j), err.Error())
			}
		}
		if isShared(r.Filter) {
			report(path+".filter", "a shared subscription has no meaning here: leave out $share/…/")
		}
	}
	if len(c.Up) > maxRules || len(c.Down) > maxRules {
		report("up", fmt.Sprintf("more than %d rules up or down: use wildcards", maxRules))
	}
	if c.MaxHops == nil || *c.MaxHops < 0 || *c.MaxHops > 255 {
		report("max_hops", "must be between 0 and 255")
	}
	for i, r := range c.Down {
		validateRule(r.Filter, r.Topic, r.QoS, under(fmt.Sprintf("down[%d]", i), report))
	}
}

// validateFlow checks what says when messages are sent.
func (r *UpRule) validateFlow(report func(path, problem string)) {
	if r.Order != orderStrict && r.Order != orderLiveFirst && r.Order != orderLatestOnly {
		report("order", fmt.Sprintf("%q is unknown: write strict, live-first or latest-only", r.Order))
	}
	if !slices.Contains(priorityNames[:], r.Priority) {
		report("priority", fmt.Sprintf("%q is unknown: write high, normal or low", r.Priority))
	}
	if r.Expiry != 0 && r.Expiry < time.Second {
		report("expiry", "must be at least 1s: leave it out for no limit")
	}
}

func (c *CanaryConfig) validate(report func(path, problem string)) {
	if topic, err := expandSite(c.Topic, siteExample); err != nil {
		report("topic", err.Error())
	} else if err := packet.CheckTopicName([]byte(topic)); c.Topic != "" && err != nil {
		report("topic", plain(err).Error())
	}
	if c.Interval < time.Second {
		report("interval", "must be at least 1s")
	}
}

func (c *Config) validateConnection(report func(path, problem string)) {
	if len(c.Addresses) == 0 {
		report("addresses", "missing: give at least one, such as mqtts://broker.example.com:8883")
	}
	secure := false
	for i, a := range c.Addresses {
		addr, err := parseAddress(a)
		if err != nil {
			report(fmt.Sprintf("addresses[%d]", i), err.Error())
		}
		secure = secure || addr.tls
	}
	t := c.TLS
	if t.CA+t.Certificate+t.Key+t.ServerName != "" || len(t.ALPN) > 0 {
		if len(c.Addresses) > 0 && !secure {
			report("tls", "is set but no address begins with mqtts:// or wss://: change the address or remove tls")
		}
	}
	if (t.Certificate == "") != (t.Key == "") {
		report("tls", "certificate and key belong together: give both or none")
	}
	c.Proxy.validate(under("proxy", report))
	c.validateWay(report)
	for i, p := range t.ALPN {
		if p == "" || len(p) > 255 {
			report(fmt.Sprintf("tls.alpn[%d]", i), "must be 1 to 255 bytes")
		}
	}
	if id, err := expandSite(c.ClientID, siteExample); err != nil {
		report("client_id", err.Error())
	} else if len(id) > maxClientID {
		report("client_id", fmt.Sprintf("must be at most %d bytes", maxClientID))
	}
	if _, err := expandSite(c.Username, siteExample); err != nil {
		report("username", err.Error())
	}
	c.validatePassword(report)
	if c.KeepAlive < time.Second || c.KeepAlive > maxKeepAlive || c.KeepAlive%time.Second != 0 {
		report("keep_alive", "must be whole seconds between 1s and 18h")
	}
	if r := c.Reconnect; r.Min < minReconnect || r.Min > r.Max {
		report("reconnect.min", "must be between 100ms and reconnect.max")
	}
	if c.Reconnect.Max > maxReconnect {
		report("reconnect.max", "must be at most 1h")
	}
}

// validateWay checks what concerns the way to the upstream.
func (c *Config) validateWay(report func(path, problem string)) {
	if c.Failback < time.Second || c.Failback > maxFailback {
		report("failback", "must be between 1s and 720h")
	}
	if c.ConnectTimeout < time.Second || c.ConnectTimeout > maxConnectTimeout {
		report("connect_timeout", "must be between 1s and 10m")
	}
	if c.AckTimeout < time.Second || c.AckTimeout > maxAckTimeout {
		report("ack_timeout", "must be between 1s and 1h")
	}
	if net.ParseIP(c.Bind) == nil && (len(c.Bind) > maxInterface || strings.ContainsAny(c.Bind, "/: \t")) {
		report("bind", "must be a network interface, such as eth0, or a local IP address")
	}
	for i, host := range c.RedirectHosts {
		if bare := strings.TrimPrefix(host, "*."); bare == "" || strings.ContainsAny(bare, "*/ ") {
			report(fmt.Sprintf("redirect_hosts[%d]", i), "must be a host name, or *.example.com for those below it")
		}
	}
}

func (c *Config) validateQueue(report func(path, problem string)) {
	q := c.Queue
	if q.MaxSize < 1<<20 {
		report("queue.max_size", "must be at least 1MiB")
	}
	if q.MaxAge < time.Second {
		report("queue.max_age", "must be at least 1s")
	}
	if q.MaxCount < 0 {
		report("queue.max_count", "must not be negative: leave it out for no limit")
	}
	c.Canary.validate(under("canary", report))
	for i, p := range c.UserProperties {
		if p != propertyID && p != propertyTime {
			report(fmt.Sprintf("user_properties[%d]", i), fmt.Sprintf("%q is unknown: write %s or %s", p, propertyID, propertyTime))
		}
	}
	if c.Replay.MessagesPerSecond < 0 {
		report("replay.messages_per_second", "must not be negative: leave it out for no limit")
	}
	if c.Replay.BytesPerSecond < 0 {
		report("replay.bytes_per_second", "must not be negative: leave it out for no limit")
	}
	if _, ok := policies[q.WhenFull]; !ok {
		report("queue.when_full", fmt.Sprintf("%q is unknown: write reject, drop-oldest or drop-newest", q.WhenFull))
	}
}

func validateRule(filter, topic string, qos *int, report func(path, problem string)) {
	if q := qosOf(qos); q < 0 || q > 2 {
		report("qos", "must be 0, 1 or 2")
	}
	if filter == "" {
		report("filter", "missing: which topics? # means all")
		return
	}
	f, err := compileFilter(filter, siteExample)
	if err != nil {
		report("filter", err.Error())
		return
	}
	if _, err := compileTemplate(topic, f, siteExample); err != nil {
		report("topic", err.Error())
	}
}

// siteExample stands for the site where only the form of a text is judged.
const siteExample = "site"

func under(path string, report func(path, problem string)) func(path, problem string) {
	return func(key, problem string) { report(path+"."+key, problem) }
}

func qosOf(qos *int) int {
	if qos == nil {
		return 2
	}
	return *qos
}

func validName(name string) bool {
	for _, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && !strings.ContainsRune("-_.", r) {
			return false
		}
	}
	return name != "" && len(name) <= 64
}

// address is one parsed entry of Config.Addresses.
type address struct {
	text string // as configured, but for the query, which may hold a signature: for logs and status
	host string // without port, for the certificate
	dial string // host:port
	tls  bool

	// Of a WebSocket.
	web           bool
	httpHost      string // host, and port if it is given
	path, rawPath string // as url.URL has them
	query         string
}

// parseAddress reads mqtt://host[:port], mqtts://host[:port], ws://host[:port][/path] and wss://host[:port][/path]; a
// query may stand behind a path.
func parseAddress(text string) (address, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Hostname() == "" {
		return address{}, fmt.Errorf("must look like mqtts://host:8883, mqtt://host:1883 or wss://host:443/mqtt")
	}
	if u.User != nil {
		return address{}, fmt.Errorf("must not hold a username or password: use username and password_file")
	}
	a := address{host: u.Hostname()}
	port := u.Port()
	switch u.Scheme {
	case "mqtt":
		setDefault(&port, "1883")
	case "mqtts":
		a.tls = true
		setDefault(&port, "8883")
	case "ws":
		a.web = true
		setDefault(&port, "80")
	case "wss":
		a.web, a.tls = true, true
		setDefault(&port, "443")
	default:
		return address{}, fmt.Errorf("%s:// is unknown: write mqtt:// or ws:// (WebSocket), or, with TLS, mqtts:// or wss://", u.Scheme)
	}
	if u.Fragment != "" || !a.web && (u.Path != "" && u.Path != "/" || u.RawQuery != "") {
		return address{}, fmt.Errorf("must end after the port, or, of a WebSocket, after the path and query")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return address{}, fmt.Errorf("port must be a number between 1 and 65535")
	}
	a.dial = net.JoinHostPort(a.host, port)
	a.text, _, _ = strings.Cut(text, "?")
	if a.web {
		a.httpHost, a.path, a.rawPath, a.query = u.Host, u.Path, u.RawPath, u.RawQuery
		setDefault(&a.path, defaultPath)
	}
	return a, nil
}
