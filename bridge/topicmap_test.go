package bridge

import (
	"strings"
	"testing"

	"forebay/broker/packet"
)

func TestTopicMap(t *testing.T) {
	for _, c := range []struct{ filter, template, topic, want string }{
		{"#", "{topic}", "a/b", "a/b"},
		{"#", "sites/{site}/{topic}", "a", "sites/plant7/a"},
		{"plant/#", "up/{1}", "plant/press4/temp", "up/press4/temp"},
		{"plant/#", "up/{1}", "plant", "up"}, // # matches the parent too: no empty level appears
		{"plant/#", "{1}", "plant", "!"},
		{"plant/#", "up/{1}/end", "plant", "up/end"},
		{"plant/#", "up/{1}", "plant/", "up/"},
		{"plant/#", "up", "other/x", "-"},
		{"+/+", "{2}/{1}", "a/b", "b/a"},
		{"+/+", "{2}/{1}", "a/", "/a"},
		{"+/+", "{2}/{1}", "a/b/c", "-"},
		{"+/+", "{2}/{1}", "a", "-"},
		{"+", "{1}", "/", "-"},
		{"/+", "x{1}y", "/z", "xzy"},
		{"a/+/c/#", "{1}:{2}", "a/b/c/d/e", "b:d/e"},
		{"a/+/c/#", "{1}:{2}", "a/b/c", "b:"},
		{"{area}/{unit}/{tail:rest}", "{unit}/{area}/{tail}", "north/u1/x/y", "u1/north/x/y"},
		{"{area}/{tail:rest}", "{tail:rest}/{1}/{2}", "n/x", "x/n/x"},
		{"{site}/+", "{1}", "plant7/x", "x"},
		{"{site}/+", "{1}", "plant8/x", "-"},
		{"#", "{topic}", "$SYS/x", "-"}, // [MQTT-4.7.2-1]
		{"+/x", "{1}", "$SYS/x", "-"},
		{"$SYS/#", "sys/{1}", "$SYS/x", "sys/x"},
		{"$share/group/a/+", "{1}", "a/b", "b"},
		{"a", "b", "a", "b"},
		{"a", "b", "a/", "-"},
		{"ä/+", "ö/{1}", "ä/ü", "ö/ü"},
	} {
		r, err := compileRule(c.filter, c.template, 1, "plant7")
		if err != nil {
			t.Errorf("%s → %s: %v", c.filter, c.template, err)
			continue
		}
		got, _, v := topicMap{r}.apply([]byte("kept"), []byte(c.topic))
		text := strings.TrimPrefix(string(got), "kept")
		switch {
		case v == unmatched:
			text = "-"
		case v == unusable:
			text = "!"
		}
		if text != c.want {
			t.Errorf("%s → %s: %s becomes %q, want %q", c.filter, c.template, c.topic, text, c.want)
		}
	}
}

func TestFirstMatchingRuleDecides(t *testing.T) {
	m, err := compileUp([]UpRule{
		{Filter: "a/#", Topic: "first/{1}", Exclude: []string{"a/private/#"}},
		{Filter: "a/private/x", Topic: "second"},
		{Filter: "#", Topic: "last/{1}"},
	}, "s")
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]string{"a/b": "first/b", "a/private/x": "second", "a/private/y": "last/a/private/y", "z": "last/z"} {
		if got, _, _ := m.apply(nil, []byte(topic)); string(got) != want {
			t.Errorf("%s becomes %s, want %s", topic, got, want)
		}
	}
}

func TestResultTooLongForATopicIsUnusable(t *testing.T) {
	r, err := compileRule("#", "{topic}/{topic}", 1, "s")
	if err != nil {
		t.Fatal(err)
	}
	topic := strings.Repeat("x", 40000)
	if got, _, v := (topicMap{r}).apply(nil, []byte(topic)); v != unusable || len(got) != 0 {
		t.Errorf("verdict %d with %d bytes", v, len(got))
	}
}

func TestWrongRulesAreExplained(t *testing.T) {
	for _, c := range []struct{ filter, template, want string }{
		{"a/#/b", "x", "#"},
		{"a+", "x", "+"},
		{"a/{x", "x", "{name}"},
		{"a/x{y}", "x", "only {site}"},
		{"a/{1}", "x", "begins with a letter"},
		{"a/{topic}", "x", "not topic or site"},
		{"a/{rest:rest}/b", "x", "#"},
		{strings.Repeat("+/", 16) + "+", "x", "more than 16"},
		{"$share//a", "x", "share name"},
		{"a", "", "empty"},
		{"a", "{", "not closed"},
		{"a", "b}", "}"},
		{"a", "b/#", "#"},
		{"a", "{1}", "0 wildcard"},
		{"a/+", "{2}", "1 wildcard"},
		{"a/+", "{name}", "{name} is unknown"},
		{"a/+", "{}", "unknown"},
	} {
		_, err := compileRule(c.filter, c.template, 1, "s")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s → %s: %v, want something about %q", c.filter, c.template, err, c.want)
		}
	}
}

func FuzzTopicMap(f *testing.F) {
	f.Add("plant/#", "sites/{site}/{1}", "plant/a/b")
	f.Add("{a}/{b:rest}", "{b}/{a}", "x/y/z")
	f.Add("+/+/#", "{3}{2}{1}", "//")
	f.Add("$share/g/+", "{1}", "a")
	f.Add("#", "{topic}{topic}", "$SYS/a")
	f.Fuzz(func(t *testing.T, filterText, templateText, topicText string) {
		r, err := compileRule(filterText, templateText, 1, "site")
		if err != nil {
			return
		}
		topic := []byte(topicText)
		if packet.CheckTopicName(topic) != nil {
			return
		}
		_, plainFilter, _, err := packet.SplitShared([]byte(r.filter.text))
		if err != nil {
			t.Fatalf("%q became the filter %q: %v", filterText, r.filter.text, err)
		}
		got, _, v := topicMap{r}.apply(nil, topic)
		if matches := packet.Match(plainFilter, topic); matches != (v != unmatched) {
			t.Fatalf("%q and %q: verdict %d, Match says %v", plainFilter, topic, v, matches)
		}
		if v == mapped {
			if err := packet.CheckTopicName(got); err != nil {
				t.Fatalf("%q: %v", got, err)
			}
		}
	})
}
