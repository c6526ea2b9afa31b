package bridge

import (
	"fmt"
	"strings"
	"testing"

	"forebay/broker/packet"
)

// properties reads a PUBLISH and returns its payload and its user properties.
func properties(t *testing.T, c *peerConn) (payload string, found map[string]string) {
	t.Helper()
	var p packet.Publish
	if err := p.Decode(c.wantType(packet.PUBLISH), c.v); err != nil {
		t.Fatal(err)
	}
	found = map[string]string{}
	for _, u := range p.UserProperties {
		found[string(u.Name)] = string(u.Value)
	}
	return string(p.Payload), found
}

func TestUserPropertiesTellRepetitions(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), func(c *Config) {
		c.UserProperties = []string{"forebay-id", "forebay-time"}
		c.Up = []UpRule{{Filter: "high", Priority: "high"}, {Filter: "#"}}
	}, nil)
	g.broker.send(packet.Publish{QoS: 1, Topic: []byte("t"), Payload: []byte("a"),
		PublishProperties: packet.PublishProperties{UserProperties: []packet.UserProperty{{Name: []byte("own"), Value: []byte("x")}}}})
	g.broker.sendAll(1, "high", "b")
	c := u.welcome(false, none)
	ids := map[string]string{}
	take := func(count int) {
		t.Helper()
		for range count {
			payload, found := properties(t, c)
			if known, ok := ids[payload]; ok && known != found["forebay-id"] {
				t.Errorf("%q came as %s and %s", payload, known, found["forebay-id"])
			}
			ids[payload] = found["forebay-id"]
			if !strings.HasPrefix(found["forebay-time"], "20") || payload == "a" && found["own"] != "x" {
				t.Errorf("%q has %q", payload, found)
			}
		}
	}
	take(2)
	c.net.Close()
	c = u.welcome(true, none)
	take(2)
	c.net.Close()
	g.stop()
	g.start()
	g.broker.sendAll(1, "t", "c")
	c = u.welcome(true, none)
	take(3)
	g.broker.live(&packet.Publish{Topic: []byte("t"), Payload: []byte("live")})
	if _, found := properties(t, c); len(found) != 1 || found["forebay-time"] == "" {
		t.Errorf("QoS 0 has %q", found)
	}
	if len(ids) != 3 || ids["a"] == "" || ids["a"] == ids["b"] || ids["a"] == ids["c"] || ids["b"] == ids["c"] {
		t.Errorf("identifiers %q", ids)
	}
}

func TestTopicAliasesSaveBytes(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	text := func(c *peerConn) string {
		t.Helper()
		var p packet.Publish
		if err := p.Decode(c.wantType(packet.PUBLISH), c.v); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s %s %d dup=%v", p.Payload, p.Topic, p.TopicAlias, p.Dup)
	}
	want := func(c *peerConn, lines ...string) {
		t.Helper()
		for _, line := range lines {
			if got := text(c); got != line {
				t.Errorf("got %q, want %q", got, line)
			}
		}
	}
	for i, topic := range []string{"first/topic", "second/topic", "first/topic", "third/topic", "third/topic", "second/topic", "t"} {
		g.broker.sendAll(byte(1+i%2), topic, fmt.Sprint(i))
	}
	p := packet.ConnackProperties{TopicAliasMaximum: 2}
	c := u.welcome(false, p)
	want(c, "0 up/first/topic 1 dup=false", "1 up/second/topic 2 dup=false", "2  1 dup=false", "3 up/third/topic 0 dup=false",
		"4 up/third/topic 0 dup=false", "5  2 dup=false", "6 up/t 0 dup=false")
	c.ack(packet.PUBACK, 2, 0)
	g.awaitStatus("one forwarded", func(s Status) bool { return s.Forwarded == 1 })
	c.net.Close()
	// Another connection knows no aliases [MQTT-3.3.2-7], and what is repeated has its topic.
	c = u.welcome(true, p)
	want(c, "1 up/second/topic 0 dup=true", "2 up/first/topic 0 dup=true", "3 up/third/topic 0 dup=true", "4 up/third/topic 0 dup=true",
		"5 up/second/topic 0 dup=true", "6 up/t 0 dup=true")
	g.broker.sendAll(1, "third/topic", "7")
	g.broker.sendAll(1, "third/topic", "8")
	want(c, "7 up/third/topic 1 dup=false", "8  1 dup=false")
	// A packet that just fits without an alias is sent without.
	c.net.Close()
	p.MaximumPacketSize = uint32(packet.PublishSize(&packet.Publish{QoS: 1, PacketID: 1, Topic: []byte("up/other/topic"), Payload: make([]byte, 100)}, packet.V5))
	c = u.welcome(false, p)
	for range 8 {
		text(c)
	}
	g.broker.send(packet.Publish{QoS: 1, Topic: []byte("other/topic"), Payload: make([]byte, 100)})
	if got := text(c); !strings.HasSuffix(got, "up/other/topic 0 dup=false") {
		t.Errorf("got %q", got)
	}
}
