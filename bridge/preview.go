package bridge

import (
	"fmt"
	"strings"
	"time"

	"forebay/broker/packet"
)

// Preview is what a bridge does with a topic, as its configuration has it: whether it is running, and what the upstream
// grants, is left out.
type Preview struct {
	Bridge string
	Up     Passage // published here
	Down   Passage // arriving from the upstream
}

// Passage is what becomes of messages on a topic in one direction. The first rule that matches and does not exclude the
// topic decides; a message passes a bridge once.
type Passage struct {
	Rule   string  // that decides, such as "up[1]"; empty: no rule does, and the messages do not pass
	Topic  string  // on the other side; empty: the rule gives no topic, and the messages are dropped
	QoS    [3]byte // on the other side, by the one published with
	Retain string  // keep, drop or force

	// Up only, as in UpRule.
	Order, Priority string
	Expiry          time.Duration

	Rules []RuleVerdict
}

// RuleVerdict is what one rule says about a topic.
type RuleVerdict struct {
	Rule    string // such as "up[1]"
	Filter  string // as configured
	Verdict string // in words
}

// PreviewTopic says what the bridge of cfg, which is valid and has its defaults, does with a topic. The error is for the
// user: it is no topic that a message can have.
func PreviewTopic(cfg Config, site, topic string) (Preview, error) {
	v := Preview{Bridge: cfg.Name}
	if err := packet.CheckTopicName([]byte(topic)); err != nil {
		return v, fmt.Errorf("bridge: %q is no topic of a message: %w", topic, plain(err))
	}
	up, err := compileUp(cfg.Up, site)
	if err != nil {
		return v, fmt.Errorf("bridge: %q: %w", cfg.Name, err)
	}
	down, err := compileDown(cfg.Down, site)
	if err != nil {
		return v, fmt.Errorf("bridge: %q: %w", cfg.Name, err)
	}
	v.Up = up.passage("up", topic)
	v.Down = down.passage("down", topic)
	for i := range up {
		v.Up.Rules[i].Filter = cfg.Up[i].Filter
		if v.Up.Rule == ruleName("up", i) {
			v.Up.Retain, v.Up.Order, v.Up.Priority, v.Up.Expiry = cfg.Up[i].Retain, cfg.Up[i].Order, cfg.Up[i].Priority, cfg.Up[i].Expiry
			for q := range v.Up.QoS {
				v.Up.QoS[q] = min(max(byte(q), byte(cfg.Up[i].Lift)), up[i].qos)
			}
		}
	}
	for i := range down {
		v.Down.Rules[i].Filter = cfg.Down[i].Filter
		if v.Down.Rule == ruleName("down", i) {
			v.Down.Retain = "keep"
			for q := range v.Down.QoS {
				v.Down.QoS[q] = min(byte(q), down[i].qos)
			}
		}
	}
	return v, nil
}

func ruleName(direction string, i int) string { return fmt.Sprintf("%s[%d]", direction, i) }

// passage applies every rule of m, so that those that do not decide can say why.
func (m topicMap) passage(direction, topic string) Passage {
	var p Passage
	to, decides, _ := m.apply(nil, []byte(topic))
	for i := range m {
		r := &m[i]
		v := RuleVerdict{Rule: ruleName(direction, i)}
		var got captures
		switch {
		case !r.filter.match([]byte(topic), &got):
			v.Verdict = "does not match"
			if strings.HasPrefix(topic, "$") && (r.filter.levels[0] == "#" || r.filter.levels[0] == "+") {
				v.Verdict += ": a wildcard at the front stands for no topic with $" // [MQTT-4.7.2-1]
			}
		case r.excludes([]byte(topic)):
			v.Verdict = "excludes it with " + r.excludedBy([]byte(topic))
		case r == decides:
			p.Rule, p.Topic = v.Rule, string(to)
			v.Verdict = "decides"
			if p.Topic == "" {
				v.Verdict = "decides, but gives no topic that a message can have: messages are dropped, and counted as " + dropTopic
			}
		default:
			v.Verdict = "matches too, but " + p.Rule + " comes first"
		}
		p.Rules = append(p.Rules, v)
	}
	return p
}

// excludedBy returns the filter of r that excludes topic.
func (r *rule) excludedBy(topic []byte) string {
	var ignored captures
	for _, f := range r.exclude {
		if f.match(topic, &ignored) {
			return f.text
		}
	}
	return ""
}
