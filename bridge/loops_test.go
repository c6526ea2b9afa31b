package bridge

import (
	"fmt"
	"maps"
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

func TestHopsAreCountedDownAndTooManyEndInOneLine(t *testing.T) {
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
	// Up nothing is added, and what is there is kept.
	for _, want := range []string{"", "2"} {
		p := packet.Publish{QoS: 1, Topic: []byte("t"), Payload: []byte("x")}
		if want != "" {
			p.PublishProperties = hop(want)
		}
		g.broker.send(p)
		if got := hopsOf(t, c.wantType(packet.PUBLISH)); got != want {
			t.Errorf("%q hops, want %q", got, want)
		}
	}
	passed := map[string]string{"first": "", "again": "2", "what?": "what?"}
	over := []string{"3", "4", "99999999999999999999999"}
	id := uint16(7)
	down := func(name, hops string) {
		p := command(1, id, name)
		if hops != "" {
			p.PublishProperties = hop(hops)
		}
		id++
		c.publish(p)
		c.want(fmt.Sprintf("PUBACK %d", id-1)) // one that is dropped gets its acknowledgement too
	}
	for name, hops := range passed {
		down(name, hops)
	}
	for _, hops := range over {
		down("over", hops)
	}
	g.awaitStatus("three in circles", func(s Status) bool { return s.Dropped[dropLoop] == 3 })
	g.broker.await("the others", func(got []Message) bool {
		counted := map[string]string{}
		for _, m := range got {
			properties := m.Properties.UserProperties
			if len(properties) > 0 {
				counted[string(m.Payload)] = string(properties[len(properties)-1].Value)
			}
		}
		return maps.Equal(counted, map[string]string{"first": "1", "again": "3", "what?": "1"})
	})
	c.net.Close()
	g.stop()
	if n := g.lines.count("cause=loop"); n > 1 {
		t.Errorf("%d lines:\n%s", n, g.lines)
	}
}

func TestHopsCanBeTurnedOff(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), func(c *Config) {
		withDown(c)
		c.MaxHops = new(int)
	}, nil)
	c := u.welcome(false, none)
	grant(c)
	c.publish(command(1, 7, "on"))
	c.want("PUBACK 7")
	g.broker.await("the command", func(got []Message) bool {
		return slices.ContainsFunc(got, func(m Message) bool { return string(m.Payload) == "on" && len(m.Properties.UserProperties) == 0 })
	})
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
