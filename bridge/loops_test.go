package bridge

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"forebay/broker/packet"
)

func TestLoopsAreFound(t *testing.T) {
	type rules = [][2]string // filter, topic
	for _, c := range []struct {
		name     string
		up, down rules
		want     string // up rule, down rule, local, above
	}{
		{"everything both ways", rules{{"#", "{topic}"}}, rules{{"#", "{topic}"}}, "0 0 x x"},
		{"commands under their own topic", rules{{"#", "sites/{site}/{topic}"}}, rules{{"sites/{site}/cmd/#", "plant/{1}"}}, ""},
		{"commands under the same topic", rules{{"a", "b"}, {"#", "{topic}"}}, rules{{"cmd/#", "{topic}"}}, "1 0 cmd/x cmd/x"},
		{"below and back", rules{{"plant/#", "s/{topic}"}}, rules{{"other", "o"}, {"s/#", "{1}"}}, "0 1 plant/x s/plant/x"},
		{"it grows", rules{{"#", "up/{topic}"}}, rules{{"up/#", "down/{1}"}}, "0 0 down/down/down/down/x up/down/down/down/down/x"},
		{"it ends after two rounds", rules{{"a", "b"}, {"c", "d"}}, rules{{"b", "c"}, {"d", "e"}}, ""},
		{"names and levels", rules{{"{line}/{unit}/t", "x/{unit}/{line}"}}, rules{{"x/+/+", "{2}/{1}/t"}}, "0 0 x/x/t x/x/x"},
		{"parts of levels", rules{{"+/t", "s-{1}/t"}}, rules{{"+/t", "{1}/t"}}, "0 0 s-s-s-x/t s-s-s-s-x/t"},
		{"another level", rules{{"a/#", "b/{1}"}}, rules{{"b/+/+", "c/{1}"}}, ""},
		{"# that matches nothing", rules{{"a/#", "b/{1}"}}, rules{{"b", "a"}}, "0 0 a b"},
		{"empty levels", rules{{"a//b", "c//d"}}, rules{{"c/+/d", "a/{1}/b"}}, "0 0 a//b c//d"},
		{"system topics", rules{{"#", "{topic}"}}, rules{{"$SYS/#", "{topic}"}}, ""},
		{"nothing in common", rules{{"up/#", "{topic}"}}, rules{{"down/#", "{topic}"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig("mqtt://host")
			cfg.Up = nil
			for _, r := range c.up {
				cfg.Up = append(cfg.Up, UpRule{Filter: r[0], Topic: r[1]})
			}
			for _, r := range c.down {
				cfg.Down = append(cfg.Down, DownRule{Filter: r[0], Topic: r[1]})
			}
			cfg.SetDefaults()
			var got []string
			for _, l := range FindLoops([]Config{cfg}, "plant7") {
				got = append(got, fmt.Sprint(l.UpRule, l.DownRule, " ", l.Local, " ", l.Above))
			}
			if text := strings.Join(got, ", "); text != c.want {
				t.Errorf("loops %q, want %q", text, c.want)
			}
		})
	}
}

func TestExcludedTopicsMakeNoLoop(t *testing.T) {
	cfg := testConfig("mqtt://host")
	cfg.Up = []UpRule{{Filter: "#", Exclude: []string{"cmd/#"}}}
	cfg.Down = []DownRule{{Filter: "cmd/#"}}
	cfg.SetDefaults()
	if got := FindLoops([]Config{cfg}, "s"); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestLoopsOfTwoBridgesAreFoundIfTheyShareAHost(t *testing.T) {
	up, down := testConfig("mqtts://Host:8884"), testConfig("mqtt://host")
	up.Up = []UpRule{{Filter: "a/#"}}
	down.Up, down.Down = nil, []DownRule{{Filter: "a/b"}}
	up.SetDefaults()
	down.SetDefaults()
	loops := FindLoops([]Config{up, down}, "s")
	if len(loops) != 1 || !strings.Contains(loops[0].String(), "bridges[0].up[0] and bridges[1].down[0] form a loop: what is published on a/b") {
		t.Errorf("%v", loops)
	}
	down.Addresses = []string{"mqtt://other"}
	if loops := FindLoops([]Config{up, down}, "s"); len(loops) != 0 {
		t.Errorf("%v", loops)
	}
}

// FuzzMeet checks that what two filters are said to have in common is matched by both.
func FuzzMeet(f *testing.F) {
	f.Add("a/#", "+/b", "{topic}")
	f.Add("#", "a/+/c", "x/{1}/y/{1}")
	f.Add("+/+", "#", "s{1}/{2}{1}")
	f.Fuzz(func(t *testing.T, a, b, topic string) {
		r, err := compileRule(a, topic, 0, "s")
		if err != nil {
			return
		}
		other, err := compileFilter(b, "s")
		if err != nil {
			return
		}
		r.yields()
		first := r.filter
		if example, ok := meet(first.levels, other.levels); ok && !strings.HasPrefix(example, "$") {
			var got captures
			if !first.match([]byte(example), &got) || !other.match([]byte(example), &got) {
				t.Errorf("%q is not matched by %q and %q", example, a, b)
			}
		}
		cfg := testConfig("mqtt://host")
		cfg.Up, cfg.Down = []UpRule{{Filter: a, Topic: topic}}, []DownRule{{Filter: b}}
		cfg.SetDefaults()
		FindLoops([]Config{cfg}, "s")
	})
}

func hopsOf(t *testing.T, frame packet.Frame) string {
	t.Helper()
	var p packet.Publish
	if err := p.Decode(frame, packet.V5); err != nil {
		t.Fatal(err)
	}
	for _, u := range p.UserProperties {
		if string(u.Name) == hopsName {
			return string(u.Value)
		}
	}
	return ""
}

func TestHopsAreCountedAndTooManyEndInOneLine(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), func(c *Config) {
		withDown(c)
		three := 3
		c.MaxHops = &three
	}, nil)
	c := u.welcome(false, none)
	grant(c)
	hop := func(n string) packet.PublishProperties {
		return packet.PublishProperties{UserProperties: []packet.UserProperty{{Name: []byte("k"), Value: []byte("v")}, {Name: []byte(hopsName), Value: []byte(n)}}}
	}
	for i, want := range []string{"1", "3", "1"} {
		p := packet.Publish{QoS: 1, Topic: []byte("t"), Payload: []byte("x")}
		if i > 0 {
			p.PublishProperties = hop([]string{"", "2", "what?"}[i])
		}
		g.broker.send(p)
		if got := hopsOf(t, c.wantType(packet.PUBLISH)); got != want {
			t.Errorf("message %d: %q hops, want %s", i, got, want)
		}
	}
	for _, n := range []string{"3", "4", "99999999999999999999999"} {
		g.broker.send(packet.Publish{QoS: 1, Topic: []byte("t/round"), PublishProperties: hop(n)})
		g.broker.live(&packet.Publish{Topic: []byte("t/round"), PublishProperties: hop(n)})
	}
	// Down it is the same, and the upstream gets its acknowledgement.
	p := command(1, 7, "on")
	p.PublishProperties = hop("3")
	c.publish(p)
	p = command(2, 8, "on")
	p.PublishProperties = hop("2")
	c.publish(p)
	c.want("PUBACK 7", "PUBREC 8")
	g.awaitStatus("seven in circles", func(s Status) bool { return s.Dropped[dropLoop] == 7 })
	g.broker.await("the command", func(got []Message) bool {
		return slices.ContainsFunc(got, func(m Message) bool {
			return m.Topic == "plant/press4/set" && string(m.Properties.UserProperties[1].Value) == "3"
		})
	})
	c.net.Close()
	g.stop()
	if n := g.lines.count("cause=loop"); n > 1 {
		t.Errorf("%d lines:\n%s", n, g.lines)
	}
}

// TestTheCountMakesNoMessageTooLarge: one that the upstream would take without it is sent without it.
func TestTheCountMakesNoMessageTooLarge(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), nil, nil)
	p := packet.Publish{QoS: 1, PacketID: 2, Topic: []byte("up/t"), Payload: make([]byte, 50)}
	c := u.welcome(false, packet.ConnackProperties{MaximumPacketSize: uint32(packet.PublishSize(&p, packet.V5))})
	p.Topic = []byte("t")
	for _, qos := range []byte{1, 0} {
		if p.QoS = qos; qos == 0 {
			g.awaitStatus("up", func(s Status) bool { return s.State == Up })
			g.broker.live(&p)
		} else {
			g.broker.send(p)
		}
		if got := hopsOf(t, c.wantType(packet.PUBLISH)); got != "" {
			t.Errorf("%q hops", got)
		}
	}
	p.QoS, p.Payload = 1, make([]byte, 20)
	g.broker.send(p)
	if got := hopsOf(t, c.wantType(packet.PUBLISH)); got != "1" {
		t.Errorf("%q hops where there is room", got)
	}
}

func TestHopsCanBeTurnedOff(t *testing.T) {
	u := newUpstream(t)
	none0 := 0
	g := newGateway(t, u.address(), func(c *Config) { c.MaxHops = &none0 }, nil)
	c := u.welcome(false, none)
	g.broker.sendAll(1, "t", "a")
	if got := hopsOf(t, c.wantType(packet.PUBLISH)); got != "" {
		t.Errorf("%q hops", got)
	}
}

// TestBridgeBit: what takes commands from an upstream of 3.1.1 says that it is a bridge, unless that is not understood.
func TestBridgeBit(t *testing.T) {
	for _, understood := range []bool{true, false} {
		t.Run(fmt.Sprint(understood), func(t *testing.T) {
			u := newUpstream(t)
			g := newGateway(t, u.address(), withDown, nil)
			refuse := func(answer ...byte) *packet.Connect {
				c := u.accept()
				hello := c.hello()
				c.send(answer)
				if len(answer) == 0 {
					c.net.Close()
				}
				c.wantEnd()
				return hello
			}
			if hello := refuse(0x20, 0x02, 0x00, 0x01); hello.Version != packet.V5 {
				t.Errorf("began with %s", hello.Version)
			}
			if !understood {
				if hello := refuse(); hello.Version != packet.V311 || !hello.Bridge {
					t.Errorf("CONNECT %s, bridge %v", hello.Version, hello.Bridge)
				}
			}
			for i := range 3 {
				c := u.accept()
				c.v = packet.V311
				if hello := c.hello(); hello.Version != packet.V311 || hello.Bridge != understood || hello.CleanStart != (i == 0) {
					t.Fatalf("connection %d: CONNECT %s, bridge %v, clean session %v", i, hello.Version, hello.Bridge, hello.CleanStart)
				}
				c.send([]byte{0x20, 0x02, 0x00, 0x00})
				if i > 0 {
					grant(c)
					g.awaitStatus("up", func(s Status) bool { return s.State == Up })
					c.net.Close()
				} else {
					c.wantEnd()
				}
			}
		})
	}
}
