package bridge

import (
	"fmt"
	"strings"
	"testing"
)

func TestPreview(t *testing.T) {
	one := 1
	cfg := testConfig("mqtt://host")
	cfg.Up = []UpRule{
		{Filter: "plant/#", Topic: "sites/{site}/{topic}", Exclude: []string{"+/secret/#"}, Lift: 1, QoS: &one, Retain: "force"},
		{Filter: "plant/{unit}/temp", Topic: "t/{unit}"},
		{Filter: "#", Topic: "all/{1}"},
		{Filter: "empty/+", Topic: "{1}"},
	}
	cfg.Down = []DownRule{{Filter: "all/#", Topic: "{1}", QoS: &one}, {Filter: "$share/g/all/x"}}
	cfg.SetDefaults()
	for _, c := range []struct{ topic, up, down, verdicts string }{
		{"plant/p4/temp", "up[0] sites/s/plant/p4/temp [1 1 1] force", " ",
			"decides; matches too, but up[0] comes first; matches too, but up[0] comes first; does not match; does not match; does not match"},
		{"plant/secret/x", "up[2] all/plant/secret/x [0 1 2] keep", " ",
			"excludes it with +/secret/#; does not match; decides; does not match; does not match; does not match"},
		{"all/x", "up[2] all/all/x [0 1 2] keep", "down[0] x [0 1 1] keep",
			"does not match; does not match; decides; does not match; decides; matches too, but down[0] comes first"},
		{"all", "up[2] all/all [0 1 2] keep", "down[0]  [0 1 1] keep", "does not match; does not match; decides; does not match; " +
			"decides, but gives no topic that a message can have: messages are dropped, and counted as topic-invalid; does not match"},
		{"$SYS/x", " ", " ", "does not match; does not match; does not match: a wildcard at the front stands for no topic with $; does not match; does not match; does not match"},
	} {
		t.Run(c.topic, func(t *testing.T) {
			p, err := PreviewTopic(cfg, "s", c.topic)
			if err != nil {
				t.Fatal(err)
			}
			line := func(p Passage) string {
				if p.Rule == "" {
					return " "
				}
				return fmt.Sprint(p.Rule, " ", p.Topic, " ", p.QoS, " ", p.Retain)
			}
			if got := line(p.Up); got != c.up {
				t.Errorf("up %q, want %q", got, c.up)
			}
			if got := line(p.Down); got != c.down {
				t.Errorf("down %q, want %q", got, c.down)
			}
			var verdicts []string
			for _, v := range append(p.Up.Rules, p.Down.Rules...) {
				verdicts = append(verdicts, v.Verdict)
			}
			if got := strings.Join(verdicts, "; "); got != c.verdicts {
				t.Errorf("verdicts %q, want %q", got, c.verdicts)
			}
		})
	}
	for _, topic := range []string{"", "a/+", "a/#", "a\x00"} {
		if _, err := PreviewTopic(cfg, "s", topic); err == nil {
			t.Errorf("%q is a topic?", topic)
		}
	}
}

// TestPreviewSaysWhatHappens compares it with what a bridge does.
func TestPreviewSaysWhatHappens(t *testing.T) {
	u := newUpstream(t)
	g := newGateway(t, u.address(), func(c *Config) {
		c.Up = []UpRule{{Filter: "a/+", Topic: "x/{1}", Exclude: []string{"a/no"}, Retain: "force"}, {Filter: "#"}}
	}, nil)
	c := u.welcome(false, none)
	for i, topic := range []string{"a/b", "a/no", "other"} {
		p, err := PreviewTopic(g.cfg, "plant7", topic)
		if err != nil {
			t.Fatal(err)
		}
		g.broker.sendAll(1, topic, "m")
		retain := ""
		if p.Up.Retain == "force" {
			retain = " retain"
		}
		c.want(fmt.Sprintf("PUBLISH %d%s %s m #%d", p.Up.QoS[1], retain, p.Up.Topic, i+2))
	}
}
