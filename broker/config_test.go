package broker

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func problems(c Config) []string {
	var all []string
	c.SetDefaults()
	c.Validate(func(path, problem string) { all = append(all, path+": "+problem) })
	return all
}

func TestConfigZeroValueIsUsable(t *testing.T) {
	if p := problems(Config{}); p != nil {
		t.Errorf("problems of the defaults: %q", p)
	}
	var c Config
	c.SetDefaults()
	if len(c.Listeners) != 1 || c.Listeners[0].Address != "127.0.0.1:1883" || !c.Listeners[0].Anonymous {
		t.Errorf("default listener %+v, want loopback only", c.Listeners)
	}
}

func TestConfigProblems(t *testing.T) {
	listen := func(address string) []ListenerConfig { return []ListenerConfig{{Address: address, Anonymous: true}} }
	for _, test := range []struct {
		name   string
		config Config
		want   []string // the paths, in order
	}{
		{"no address", Config{Listeners: listen("")}, []string{"listeners[0].address"}},
		{"no port", Config{Listeners: listen("0.0.0.0")}, []string{"listeners[0].address"}},
		{"port by name", Config{Listeners: listen("0.0.0.0:mqtt")}, []string{"listeners[0].address"}},
		{"port too large", Config{Listeners: listen(":65536")}, []string{"listeners[0].address"}},
		{"IPv6", Config{Listeners: listen("[::1]:1883")}, nil},
		{"all interfaces", Config{Listeners: listen(":1883")}, nil},
		{"open without saying so", Config{Listeners: []ListenerConfig{{Address: ":1883"}}}, []string{"listeners[0].anonymous"}},
		{"password file", Config{Listeners: []ListenerConfig{{Address: ":1883"}}, PasswordFile: "passwd"}, nil},
		{"twice the same address", Config{Listeners: append(listen(":1883"), listen(":1883")...)}, []string{"listeners[1].address"}},
		{"twice any free port", Config{Listeners: append(listen("[::1]:0"), listen("[::1]:0")...)}, nil},
		{"TLS without files", Config{Listeners: []ListenerConfig{{Address: ":8883", Anonymous: true, TLS: &TLSConfig{RequireClientCertificate: true}}}},
			[]string{"listeners[0].tls.certificate", "listeners[0].tls.key", "listeners[0].tls.client_ca"}},
		{"TLS", Config{Listeners: []ListenerConfig{{Address: ":8883", Anonymous: true, TLS: &TLSConfig{Certificate: "c", Key: "k"}}}}, nil},
		{"users by certificate", Config{Listeners: []ListenerConfig{{Address: ":8883", TLS: &TLSConfig{Certificate: "c", Key: "k", ClientCA: "a",
			RequireClientCertificate: true, CRLFile: "l", UserFrom: UserFromSubjectCN}}}}, nil},
		{"users by certificates that need not be there", Config{Listeners: []ListenerConfig{{Address: ":8883", TLS: &TLSConfig{Certificate: "c", Key: "k",
			CRLFile: "l", UserFrom: UserFromSANDNS}}}}, []string{"listeners[0].tls.crl_file", "listeners[0].tls.user_from"}},
		{"users by another part", Config{Listeners: []ListenerConfig{{Address: ":8883", TLS: &TLSConfig{Certificate: "c", Key: "k", UserFrom: "cn"}}}},
			[]string{"listeners[0].tls.user_from"}},
		{"WebSocket", Config{Listeners: []ListenerConfig{{Address: ":80", Anonymous: true, Transport: "websocket", Path: "/x", Origins: []string{"*.example.com"}}}}, nil},
		{"WebSocket that cannot be", Config{Listeners: []ListenerConfig{{Address: ":80", Anonymous: true, Transport: "websocket", Path: "x", Origins: []string{"ok", "[", ""}}}},
			[]string{"listeners[0].path", "listeners[0].origins[1]", "listeners[0].origins[2]"}},
		{"keys of WebSocket alone", Config{Listeners: []ListenerConfig{{Address: ":80", Anonymous: true, Path: "/x", Origins: []string{"x"}}}},
			[]string{"listeners[0].path", "listeners[0].origins"}},
		{"Unix socket", Config{Listeners: []ListenerConfig{{Address: "unix:/run/x.sock", Anonymous: true, Transport: "websocket"}}}, nil},
		{"Unix socket that cannot be", Config{Listeners: listen("unix:x.sock")}, []string{"listeners[0].address"}},
		{"Unix socket with too long a name", Config{Listeners: listen("unix:/" + strings.Repeat("x", 107))}, []string{"listeners[0].address"}},
		{"Unix socket twice", Config{Listeners: append(listen("unix:/run/x"), listen("unix:/run/x")...)}, []string{"listeners[1].address"}},
		{"Unix socket with TLS", Config{Listeners: []ListenerConfig{{Address: "unix:/x", Anonymous: true, TLS: &TLSConfig{Certificate: "c", Key: "k"}}}},
			[]string{"listeners[0].tls"}},
		{"another transport", Config{Listeners: []ListenerConfig{{Address: ":80", Anonymous: true, Transport: "quic"}}}, []string{"listeners[0].transport"}},
		{"another server", Config{ServerReference: "a.example [::1]:1883 10.0.0.1:8883", ResponseInformation: "replies/%c/"}, nil},
		{"another server that cannot be", Config{ServerReference: "mqtt://a.example", ResponseInformation: "a/#"}, []string{"server_reference", "response_information"}},
		{"no port of another server", Config{ServerReference: "a:0", ResponseInformation: "$x"}, []string{"server_reference", "response_information"}},
		{"limits that cannot be", Config{
			Listeners: []ListenerConfig{{Address: ":1883", Anonymous: true, Limits: ListenerLimits{Connections: -1, ByteRate: 1}}},
			Limits: LimitsConfig{ConnectionsPerAddress: -1, ConnectRate: -1, MessageRate: 2_000_000, ByteRate: -5, ConnectTimeout: time.Hour, KeepAlive: 20 * time.Hour,
				Inflight: 70_000, QueuedMessages: -1, QueuedSize: 1, Subscriptions: -1, TopicLevels: 2000},
		}, []string{"listeners[0].limits.connections", "listeners[0].limits.bytes_per_second", "limits.connections_per_address", "limits.connects_per_second",
			"limits.messages_per_second", "limits.bytes_per_second", "limits.connect_timeout", "limits.keep_alive", "limits.inflight", "limits.queued_messages",
			"limits.queued_size", "limits.subscriptions", "limits.topic_levels"}},
		{"all at once", Config{
			Listeners: append(listen("x"), ListenerConfig{}),
			Limits:    LimitsConfig{Connections: -1, PacketSize: 5, ReceiveMaximum: 65536, SessionExpiry: time.Millisecond},
		}, []string{"listeners[0].address", "listeners[1].address", "listeners[1].anonymous",
			"limits.connections", "limits.packet_size", "limits.receive_maximum", "limits.session_expiry"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var paths []string
			got := problems(test.config)
			for _, p := range got {
				path, _, _ := strings.Cut(p, ": ")
				paths = append(paths, path)
			}
			if !slices.Equal(paths, test.want) {
				t.Errorf("problems %q, want paths %q", got, test.want)
			}
		})
	}
}
