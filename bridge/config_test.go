package bridge

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDefaults(t *testing.T) {
	c := Config{Name: "cloud", Up: []UpRule{{Filter: "#"}}, Down: []DownRule{{Filter: "x"}}, Reconnect: ReconnectConfig{Min: 5 * time.Minute}}
	c.SetDefaults()
	if c.ClientID != "{site}-cloud" || c.KeepAlive != 30*time.Second || c.Reconnect.Max != 5*time.Minute ||
		c.Queue != (QueueConfig{MaxSize: 1 << 30, MaxAge: 720 * time.Hour, WhenFull: "drop-oldest"}) ||
		c.Up[0].Topic != "{topic}" || c.Up[0].Retain != "keep" || c.Down[0].Topic != "{topic}" {
		t.Errorf("%+v", c)
	}
}

func TestValidate(t *testing.T) {
	three := 3
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   []string // paths
	}{
		{"good", func(*Config) {}, nil},
		{"good with everything", func(c *Config) {
			c.Addresses = []string{"mqtts://[::1]:8884/", "mqtt://host", "ws://h/a%2Fb?x=y", "wss://h:444"}
			c.TLS = TLSConfig{CA: "a", Certificate: "b", Key: "c", ALPN: []string{"x-amzn-mqtt-ca"}}
			c.Username, c.PasswordFile = "u", "f"
			c.Down = []DownRule{{Filter: "$share/g/x/#", Topic: "{1}"}}
		}, nil},
		{"nothing at all", func(c *Config) { *c = Config{}; c.SetDefaults() }, []string{"name", "addresses", "up"}},
		{"name", func(c *Config) { c.Name = "a/b" }, []string{"name"}},
		{"long name", func(c *Config) { c.Name = strings.Repeat("n", 65) }, []string{"name"}},
		{"addresses", func(c *Config) {
			c.Addresses = []string{"host:1883", "http://host", "mqtt://", "mqtt://u:p@host", "mqtt://host/path", "mqtt://host:0", "mqtt://host:x", "mqtt://h"}
		}, []string{"addresses[0]", "addresses[1]", "addresses[2]", "addresses[3]", "addresses[4]", "addresses[5]", "addresses[6]"}},
		{"TLS without mqtts", func(c *Config) { c.TLS.CA = "x" }, []string{"tls"}},
		{"half a certificate", func(c *Config) { c.Addresses = []string{"mqtts://h"}; c.TLS.Key = "x" }, []string{"tls"}},
		{"ALPN", func(c *Config) { c.Addresses = []string{"mqtts://h"}; c.TLS.ALPN = []string{""} }, []string{"tls.alpn[0]"}},
		{"good with a proxy", func(c *Config) { c.Proxy = ProxyConfig{URL: "socks5h://[::1]:1080", Username: "u", PasswordFile: "f"} }, nil},
		{"proxy kind", func(c *Config) { c.Proxy = ProxyConfig{URL: "https://h:1", Username: "u:v"} }, []string{"proxy.url", "proxy.username", "proxy.username"}},
		{"proxy without port", func(c *Config) { c.Proxy.URL = "http://h" }, []string{"proxy.url"}},
		{"proxy with password", func(c *Config) { c.Proxy.URL = "http://u:p@h:1" }, []string{"proxy.url"}},
		{"proxy without place", func(c *Config) { c.Proxy = ProxyConfig{Username: "u", PasswordFile: "f"} }, []string{"proxy.url"}},
		{"good way", func(c *Config) {
			c.Failback, c.ConnectTimeout, c.AckTimeout, c.Bind, c.RedirectHosts = time.Hour, time.Minute, time.Minute, "wwan0", []string{"*.example.com", "h"}
		}, nil},
		{"way", func(c *Config) {
			c.Failback, c.ConnectTimeout, c.AckTimeout, c.Bind, c.RedirectHosts = time.Millisecond, time.Hour, 1, "192.0.2.5:1", []string{"*", "*.", "h/x"}
		}, []string{"failback", "connect_timeout", "ack_timeout", "bind", "redirect_hosts[0]", "redirect_hosts[1]", "redirect_hosts[2]"}},
		{"client id", func(c *Config) { c.ClientID = "{host}" }, []string{"client_id"}},
		{"password alone", func(c *Config) { c.PasswordFile = "x" }, []string{"username"}},
		{"times", func(c *Config) {
			c.KeepAlive = 1500 * time.Millisecond
			c.Reconnect = ReconnectConfig{Min: 2 * time.Hour, Max: 2*time.Hour - 1}
		}, []string{"keep_alive", "reconnect.min", "reconnect.max"}},
		{"queue", func(c *Config) { c.Queue = QueueConfig{MaxSize: 1, MaxAge: 1, MaxCount: -1, WhenFull: "drop_oldest"} },
			[]string{"queue.max_size", "queue.max_age", "queue.max_count", "queue.when_full"}},
		{"rules", func(c *Config) {
			c.Up = []UpRule{{Filter: "#", Topic: "{topic}", QoS: &three, Lift: 4, Retain: "yes", Exclude: []string{"a", "#/b"}},
				{Topic: "x", Retain: "keep"}, {Filter: "$share/g/x", Topic: "x", Retain: "keep"}}
			c.Down = []DownRule{{Filter: "a/#/b", Topic: "x"}, {Filter: "a", Topic: "{1}"}}
			c.SetDefaults()
		}, []string{"up[0].qos", "up[0].lift", "up[0].retain", "up[0].exclude[1]", "up[1].filter", "up[2].filter", "down[0].filter", "down[1].topic"}},
		{"order", func(c *Config) {
			c.Up = []UpRule{{Filter: "#", Order: "newest", Priority: "urgent", Expiry: time.Millisecond}}
			c.Replay = ReplayConfig{MessagesPerSecond: -1, BytesPerSecond: -1}
			c.SetDefaults()
		}, []string{"replay.messages_per_second", "replay.bytes_per_second", "up[0].order", "up[0].priority", "up[0].expiry"}},
		{"canary", func(c *Config) { c.Canary = CanaryConfig{Topic: "a/#", Interval: time.Millisecond} }, []string{"canary.topic", "canary.interval"}},
		{"too many rules", func(c *Config) {
			c.Up = slices.Repeat([]UpRule{{Filter: "a"}}, maxRules+1)
			c.SetDefaults()
		}, []string{"up"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig("mqtt://host:1883")
			c.change(&cfg)
			var got []string
			cfg.Validate(func(path, problem string) {
				got = append(got, path)
				if problem == "" || strings.HasSuffix(problem, ".") {
					t.Errorf("%s: %q", path, problem)
				}
			})
			if !slices.Equal(got, c.want) {
				t.Errorf("problems at %q, want %q", got, c.want)
			}
		})
	}
}

func TestNewTellsEveryProblem(t *testing.T) {
	cfg := testConfig("mqtt://host:1883")
	cfg.KeepAlive, cfg.Name = 0, ""
	_, err := New(cfg, Environment{Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "name: ") || !strings.Contains(err.Error(), "keep_alive: ") {
		t.Errorf("error %v", err)
	}
}
