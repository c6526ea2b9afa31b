package broker

import (
	"fmt"
	"net"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"forebay/broker/packet"
)

// Config is the broker's part of the configuration. The zero value of each field means its default, except where the
// field says otherwise.
type Config struct {
	// Listeners are the addresses devices connect to. Default: 127.0.0.1:1883, anonymous.
	Listeners []ListenerConfig `mapstructure:"listeners"`

	// PasswordFile lists users as mosquitto_passwd writes them ($7$ and $6$), and those that may use SCRAM-SHA-256 as
	// name:$scram-sha-256$iterations$salt$StoredKey$ServerKey. Empty: no client can log in by name,
	// so that every listener must be anonymous.
	PasswordFile string `mapstructure:"password_file"`

	// ACLFile says who may publish and subscribe to what, in Mosquitto's format. Empty: everyone who is connected
	// may do everything.
	ACLFile string `mapstructure:"acl_file"`

	// ServerReference is where 5.0 clients are told to go when the gateway stops: host or host:port, several with
	// spaces between them. Empty: they are told that it stops, and come back.
	ServerReference string `mapstructure:"server_reference"`

	// ResponseInformation is the topic below which 5.0 clients that ask for it are told to have replies to their
	// requests sent; %c stands for the client identifier and %u for the username. Empty: they are told nothing.
	ResponseInformation string `mapstructure:"response_information"`

	Limits LimitsConfig `mapstructure:"limits"`
}

// ListenerConfig is one address.
type ListenerConfig struct {
	// Address is host:port; the port 0 takes a free one (see Server.Addrs), an empty host means all interfaces. Or it
	// is unix: and the absolute path of a Unix socket, which gets the mode 0660 and the group of the process.
	Address string `mapstructure:"address"`

	// Anonymous lets clients in that send no username. False, the zero value, is the default. It is of no meaning
	// where certificates name the users. A username that is
	// sent is always checked when there is a password file, and refused when it is wrong.
	Anonymous bool `mapstructure:"anonymous"`

	// TLS makes the listener speak TLS 1.2 or 1.3. Nil: plain TCP.
	TLS *TLSConfig `mapstructure:"tls"`

	// ProxyProtocol says that a load balancer is in front, which begins every connection with the header of the PROXY
	// protocol, version 1 or 2. Log lines and limits then know the client's own address. Connections without the header
	// are refused; whoever can reach the listener can claim any address.
	ProxyProtocol bool `mapstructure:"proxy_protocol"`

	// Limits are those of this listener, in the place of the general ones.
	Limits ListenerLimits `mapstructure:"limits"`

	// Transport is TransportWebSocket, or empty: MQTT as such.
	Transport string `mapstructure:"transport"`

	// Path is where a WebSocket is opened. Empty: /mqtt and /.
	Path string `mapstructure:"path"`

	// Origins are the web pages that may open a WebSocket, as patterns in the sense of path.Match for their host, such
	// as "*.example.com", or scheme and host, such as "https://plant:8443". A page that the same host and port has
	// served may always do so, and so may everything that is no page and names no origin. Empty: nobody else.
	Origins []string `mapstructure:"origins"`
}

// TransportWebSocket makes a listener carry MQTT in WebSockets; with TLS those of wss.
const TransportWebSocket = "websocket"

// TLSConfig is the server's side of TLS. All files are PEM.
type TLSConfig struct {
	// Certificate is the server's certificate, followed by those between it and its root.
	Certificate string `mapstructure:"certificate"`

	// Key is the private key of Certificate, not encrypted.
	Key string `mapstructure:"key"`

	// ClientCA has the roots that certificates of clients must lead to. Empty: clients are not asked for one.
	ClientCA string `mapstructure:"client_ca"`

	// RequireClientCertificate refuses clients without a certificate. It does not log anybody in: see UserFrom, or make
	// the listener anonymous as well. Default false: those that have one are checked.
	RequireClientCertificate bool `mapstructure:"require_client_certificate"`

	// CRLFile has lists of revoked certificates, each signed by a certificate of ClientCA. A list whose time is over is
	// used all the same; certificates of which no list tells are good. Empty: none is revoked.
	CRLFile string `mapstructure:"crl_file"`

	// UserFrom makes the name in a client's certificate its user name, in the place of any that it sends, and without a
	// password: UserFromSubjectCN or one of its siblings. A certificate without that name is refused. Empty: it does not.
	UserFrom string `mapstructure:"user_from"`
}

// What UserFrom may be: the part of a certificate that has the name. Of several names of a kind it is the first.
const (
	UserFromSubjectCN = "subject_cn"
	UserFromSubjectDN = "subject_dn" // the whole subject, as in RFC 2253: CN=press4,O=plant
	UserFromSANDNS    = "san_dns"
	UserFromSANEmail  = "san_email"
	UserFromSANURI    = "san_uri"
)

// SetDefaults fills the fields that are zero.
func (c *Config) SetDefaults() {
	if len(c.Listeners) == 0 {
		c.Listeners = []ListenerConfig{{Address: "127.0.0.1:1883", Anonymous: true}}
	}
	c.Limits.setDefaults()
}

// Validate reports every problem with the path of its key. It expects SetDefaults to have been called. Files are not
// looked into: New does that.
func (c *Config) Validate(report func(path, problem string)) {
	seen := map[string]int{}
	for i, l := range c.Listeners {
		at := fmt.Sprintf("listeners[%d]", i)
		c.validateListener(l, func(key, problem string) { report(at+"."+key, problem) })
		if _, port, err := net.SplitHostPort(l.Address); err == nil && port != "0" {
			if first, twice := seen[l.Address]; twice {
				report(at+".address", fmt.Sprintf("already used by listeners[%d]", first))
			} else {
				seen[l.Address] = i
			}
		}
	}
	if !c.validReference() {
		report("server_reference", "must be host or host:port, several with one space between them, at most 1024 bytes")
	}
	if t := []byte(c.ResponseInformation); len(t) > 0 && (packet.CheckTopicName(t) != nil || t[0] == '$' || len(t) > 1024) {
		report("response_information", "must be the beginning of a topic, such as replies/%c/, without + and # and not below $")
	}
	c.Limits.validate(func(key, problem string) { report("limits."+key, problem) })
}

// validReference judges the form of ServerReference (MQTT 5.0, 4.11).
func (c *Config) validReference() bool {
	if c.ServerReference == "" {
		return true
	}
	for _, name := range strings.Split(c.ServerReference, " ") {
		if host, port, err := net.SplitHostPort(name); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
				return false
			}
			name = host
		}
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7F || r == '/' }) {
			return false
		}
	}
	return len(c.ServerReference) <= 1024
}

func (c *Config) validateListener(l ListenerConfig, report func(key, problem string)) {
	if l.Address == "" {
		report("address", "missing")
	} else if name, ok := l.unixPath(); ok {
		// The kernel's name has 108 bytes, the last of them zero.
		if !filepath.IsAbs(name) || filepath.Clean(name) != name || len(name) > 107 {
			report("address", "must be unix: and an absolute path of at most 107 bytes, such as unix:/run/forebay/mqtt.sock")
		}
		if l.TLS != nil {
			report("tls", "is of no use on a Unix socket")
		}
	} else if _, port, err := net.SplitHostPort(l.Address); err != nil {
		report("address", "must be host:port, such as 0.0.0.0:1883")
	} else if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		report("address", "port must be a number between 0 and 65535")
	}
	if t := l.TLS; t != nil {
		if t.Certificate == "" {
			report("tls.certificate", "missing")
		}
		if t.Key == "" {
			report("tls.key", "missing")
		}
		if t.RequireClientCertificate && t.ClientCA == "" {
			report("tls.client_ca", "missing, but require_client_certificate is set")
		}
		t.validateUsers(report)
	}
	l.Limits.validate(func(key, problem string) { report("limits."+key, problem) })
	validateWeb(l, report)
	if !l.Anonymous && c.PasswordFile == "" && !l.knowsUsers() {
		report("anonymous", "without password_file nobody can log in here: set password_file, or anonymous: true to let everyone in")
	}
}

// knowsUsers reports that the certificates of clients say who they are.
func (c *ListenerConfig) knowsUsers() bool { return c.TLS != nil && c.TLS.UserFrom != "" }

func (c *TLSConfig) validateUsers(report func(key, problem string)) {
	if c.CRLFile != "" && c.ClientCA == "" {
		report("tls.crl_file", "is of use with client_ca only")
	}
	switch c.UserFrom {
	case "":
	case UserFromSubjectCN, UserFromSubjectDN, UserFromSANDNS, UserFromSANEmail, UserFromSANURI:
		if !c.RequireClientCertificate {
			report("tls.user_from", "needs require_client_certificate: true, or a client could leave its certificate out")
		}
	default:
		report("tls.user_from", "must be subject_cn, subject_dn, san_dns, san_email or san_uri")
	}
}

// unixPath returns the path of a Unix socket; false: the address is not one.
func (c *ListenerConfig) unixPath() (string, bool) { return strings.CutPrefix(c.Address, "unix:") }

func validateWeb(l ListenerConfig, report func(key, problem string)) {
	switch l.Transport {
	case TransportWebSocket:
		if l.Path != "" && l.Path[0] != '/' {
			report("path", "must begin with /")
		}
		for i, pattern := range l.Origins {
			if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
				report(fmt.Sprintf("origins[%d]", i), "must be a host such as hmi.example.com, with * for any part")
			}
		}
	case "":
		if l.Path != "" {
			report("path", "is of use with transport: websocket only")
		}
		if len(l.Origins) > 0 {
			report("origins", "is of use with transport: websocket only")
		}
	default:
		report("transport", "must be websocket, or left out for MQTT as such")
	}
}
