package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"forebay/broker/packet"
)

// maxWildcards bounds the wildcards of one filter, so that what they matched fits in an array.
const maxWildcards = 16

// filter is a compiled topic filter.
type filter struct {
	text   string   // as MQTT has it: names replaced by + and #
	levels []string // of text, without a $share/group/ prefix
	names  []string // one per wildcard, in order; "" where it was written + or #
}

// span is a part of a topic: topic[from:to].
type span struct{ from, to int }

// captures are what the wildcards of a filter matched. A # that matched no level at all has from > len(topic).
type captures [maxWildcards]span

// isShared reports whether a filter is written as a shared subscription.
func isShared(text string) bool { return strings.HasPrefix(text, "$share/") }

// compileFilter reads a filter in the form that UpRule.Filter describes. The error is for the user.
func compileFilter(text, site string) (*filter, error) {
	f := &filter{}
	levels := strings.Split(text, "/")
	skip := 0
	if isShared(text) {
		skip = 2
	}
	for i, level := range levels {
		name, named := strings.CutPrefix(level, "{")
		name, closed := strings.CutSuffix(name, "}")
		name, rest := strings.CutSuffix(name, ":rest")
		switch {
		case level == "+" || level == "#":
			name, named = "", true
		case !named || name == "site" && !rest:
			expanded, err := expandSite(level, site)
			if err != nil {
				return nil, err
			}
			levels[i] = expanded
			continue
		case !closed || strings.ContainsAny(name, "{}"):
			return nil, fmt.Errorf("%q: a named level is written {name} and fills the whole level", level)
		case !goodName(name):
			return nil, fmt.Errorf("%q: a level's name begins with a letter, and is not topic or site", level)
		case rest:
			levels[i] = "#"
		default:
			levels[i] = "+"
		}
		if len(f.names) == maxWildcards {
			return nil, fmt.Errorf("has more than %d wildcards", maxWildcards)
		}
		f.names = append(f.names, name)
	}
	f.text = strings.Join(levels, "/")
	if err := packet.CheckTopicFilter([]byte(f.text)); err != nil {
		return nil, plain(err)
	}
	if _, _, _, err := packet.SplitShared([]byte(f.text)); err != nil {
		return nil, plain(err)
	}
	f.levels = levels[min(skip, len(levels)):]
	return f, nil
}

// plain returns the part of a codec's error that a user understands.
func plain(err error) error {
	var broken *packet.Error
	if errors.As(err, &broken) {
		return errors.New(broken.Detail)
	}
	return err
}

// goodName reports whether a wildcard may be called name.
func goodName(name string) bool {
	if name == "" || name == "topic" || name == "site" {
		return false
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return true
}

// match reports whether topic is matched and, if so, what the wildcards stood for. topic has passed CheckTopicName.
func (f *filter) match(topic []byte, got *captures) bool {
	if len(topic) > 0 && topic[0] == '$' && (f.levels[0] == "+" || f.levels[0] == "#") {
		return false // [MQTT-4.7.2-1]
	}
	at, wildcard := 0, 0 // at is where the current level begins; len(topic)+1 when the topic has ended
	for _, level := range f.levels {
		if level == "#" {
			got[wildcard] = span{at, len(topic)}
			return true
		}
		if at > len(topic) {
			return false
		}
		end := len(topic)
		if i := bytes.IndexByte(topic[at:], '/'); i >= 0 {
			end = at + i
		}
		if level == "+" {
			got[wildcard] = span{at, end}
			wildcard++
		} else if string(topic[at:end]) != level {
			return false
		}
		at = end + 1
	}
	return at == len(topic)+1
}

// part is a piece of a template: literal text, or, if wildcard is not 0, what that wildcard matched (from 1), or the
// whole topic (wildcardTopic).
type part struct {
	text     string
	wildcard int
}

const wildcardTopic = -1

// template is a compiled topic with placeholders.
type template []part

// compileTemplate reads a topic in the form that UpRule.Topic describes, for what f matches. The error is for the user.
func compileTemplate(text string, f *filter, site string) (template, error) {
	var t template
	for text != "" {
		literal, rest, found := strings.Cut(text, "{")
		if literal != "" {
			if strings.ContainsAny(literal, "+#}\x00") {
				return nil, fmt.Errorf("%q: a topic must not hold + # or }: write {1} for what the first wildcard matched", literal)
			}
			t = append(t, part{text: literal})
		}
		if !found {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil, fmt.Errorf("a { is not closed")
		}
		p, err := placeholder(name, f, site)
		if err != nil {
			return nil, err
		}
		t, text = append(t, p), after
	}
	if len(t) == 0 {
		return nil, fmt.Errorf("is empty")
	}
	return t, nil
}

// placeholder reads what stands between braces.
func placeholder(name string, f *filter, site string) (part, error) {
	switch name {
	case "topic":
		return part{wildcard: wildcardTopic}, nil
	case "site":
		return part{text: site}, nil
	}
	if n, err := strconv.Atoi(name); err == nil {
		if n < 1 || n > len(f.names) {
			return part{}, fmt.Errorf("{%s} has no counterpart: the filter has %d wildcard(s)", name, len(f.names))
		}
		return part{wildcard: n}, nil
	}
	bare := strings.TrimSuffix(name, ":rest")
	for i, known := range f.names {
		if bare != "" && known == bare {
			return part{wildcard: i + 1}, nil
		}
	}
	return part{}, fmt.Errorf("{%s} is unknown: use {topic}, {site}, {1} to {%d}, or a level named in the filter", name, max(1, len(f.names)))
}

// expand appends the topic to dst. A wildcard # that matched nothing takes the slash before it with it.
func (t template) expand(dst, topic []byte, got *captures) []byte {
	start := len(dst)
	for _, p := range t {
		switch {
		case p.wildcard == wildcardTopic:
			dst = append(dst, topic...)
		case p.wildcard == 0:
			dst = append(dst, p.text...)
		default:
			s := got[p.wildcard-1]
			if s.from <= len(topic) {
				dst = append(dst, topic[s.from:s.to]...)
			} else if len(dst) > start && dst[len(dst)-1] == '/' {
				dst = dst[:len(dst)-1]
			}
		}
	}
	return dst
}

// expandSite replaces {site} in a text that knows no other placeholder. The error is for the user.
func expandSite(text, site string) (string, error) {
	text = strings.ReplaceAll(text, "{site}", site)
	if i := strings.IndexAny(text, "{}"); i >= 0 {
		return "", fmt.Errorf("%q: only {site} may stand here", text)
	}
	return text, nil
}

// rule is a compiled UpRule or DownRule.
type rule struct {
	filter  *filter
	exclude []*filter
	topic   template
	qos     byte
	lift    byte
	retain  string // keep, drop or force
	expiry  uint32 // seconds; 0: none

	queue, away int // set by Attach: the queue while the link is there, and while it is not
}

// topicMap is a list of rules, the first that matches decides. It is constant.
type topicMap []rule

// verdict is what a topicMap says about a topic.
type verdict byte

const (
	unmatched verdict = iota // no rule matches
	mapped                   // the topic is appended
	unusable                 // the rule's result is no topic name
)

// apply appends the topic that the first matching rule gives to dst. topic has passed CheckTopicName; dst must not
// alias it. The rule is nil unless the verdict is mapped or unusable.
func (m topicMap) apply(dst, topic []byte) ([]byte, *rule, verdict) {
	var got captures
	r := m.find(topic, &got)
	if r == nil {
		return dst, nil, unmatched
	}
	start := len(dst)
	dst = r.topic.expand(dst, topic, &got)
	if packet.CheckTopicName(dst[start:]) != nil {
		return dst[:start], r, unusable
	}
	return dst, r, mapped
}

// find returns the first rule that matches, and what its wildcards stood for; nil if there is none.
func (m topicMap) find(topic []byte, got *captures) *rule {
	for i := range m {
		if r := &m[i]; r.filter.match(topic, got) && !r.excludes(topic) {
			return r
		}
	}
	return nil
}

func (r *rule) excludes(topic []byte) bool {
	var ignored captures
	for _, f := range r.exclude {
		if f.match(topic, &ignored) {
			return true
		}
	}
	return false
}

// compileUp compiles the rules up.
func compileUp(rules []UpRule, site string) (topicMap, error) {
	var m topicMap
	for i, r := range rules {
		c, err := compileRule(r.Filter, r.Topic, qosOf(r.QoS), site)
		if err != nil {
			return nil, fmt.Errorf("up[%d]: %w", i, err)
		}
		if r.Order == orderLatestOnly {
			c.qos = min(c.qos, 1)
		}
		c.retain, c.lift, c.expiry = r.Retain, byte(r.Lift), uint32(min(r.Expiry/time.Second, 1<<32-1))
		for _, text := range r.Exclude {
			f, err := compileFilter(text, site)
			if err != nil {
				return nil, fmt.Errorf("up[%d]: exclude: %w", i, err)
			}
			c.exclude = append(c.exclude, f)
		}
		m = append(m, c)
	}
	return m, nil
}

// compileDown compiles the rules down.
func compileDown(rules []DownRule, site string) (topicMap, error) {
	var m topicMap
	for i, r := range rules {
		c, err := compileRule(r.Filter, r.Topic, qosOf(r.QoS), site)
		if err != nil {
			return nil, fmt.Errorf("down[%d]: %w", i, err)
		}
		m = append(m, c)
	}
	return m, nil
}

func compileRule(filterText, topicText string, qos int, site string) (rule, error) {
	f, err := compileFilter(filterText, site)
	if err != nil {
		return rule{}, fmt.Errorf("filter: %w", err)
	}
	t, err := compileTemplate(topicText, f, site)
	if err != nil {
		return rule{}, fmt.Errorf("topic: %w", err)
	}
	return rule{filter: f, topic: t, qos: byte(qos)}, nil
}
