package bridge

import (
	"fmt"
	"strings"

	"forebay/broker/packet"
)

// Loop is a way in circles that rules form.
type Loop struct {
	Up, Down     int    // indexes of the bridges whose rules they are, in the list given to FindLoops; the same: one bridge
	UpRule       int    // of Config.Up
	DownRule     int    // of Config.Down
	Local, Above string // an example: this topic here goes up as that one, which comes down again
}

// String names the two rules, for someone who is to mend them.
func (l Loop) String() string {
	text := fmt.Sprintf("bridges[%d].up[%d] and bridges[%d].down[%d] form a loop: what is published on %s goes up as %s and comes down again",
		l.Up, l.UpRule, l.Down, l.DownRule, l.Local, l.Above)
	if l.Up == l.Down {
		return text + "; MQTT 5.0 (no-local) and upstreams that know bridges stop it, others send each message back once"
	}
	return text + ", over and over until it has come down max_hops times: exclude it from one of the rules"
}

// circles is how often a message must come round to be called a loop: a topic may change for a while and then be stopped.
const circles = 4

// FindLoops returns the loops that each bridge forms with itself, and with others that share a host with it: one for each
// pair of rules. The configurations are valid, with their defaults set.
func FindLoops(list []Config, site string) []Loop {
	type side struct {
		up, down topicMap
		hosts    map[string]bool
	}
	sides := make([]side, len(list))
	for i := range list {
		s := &sides[i]
		var err error
		if s.up, err = compileUp(list[i].Up, site); err != nil {
			continue // Validate has reported it
		}
		if s.down, err = compileDown(list[i].Down, site); err != nil {
			continue
		}
		s.hosts = map[string]bool{}
		for _, text := range list[i].Addresses {
			if a, err := parseAddress(text); err == nil {
				s.hosts[strings.ToLower(a.host)] = true
			}
		}
	}
	var loops []Loop
	for i := range sides {
		for j := range sides {
			if i != j && !share(sides[i].hosts, sides[j].hosts) {
				continue
			}
			for _, l := range findLoops(sides[i].up, sides[j].down) {
				l.Up, l.Down = i, j
				loops = append(loops, l)
			}
		}
	}
	return loops
}

func share(a, b map[string]bool) bool {
	for host := range a {
		if b[host] {
			return true
		}
	}
	return false
}

// findLoops tries, for each pair of rules, an example of what one gives and the other takes.
func findLoops(up, down topicMap) []Loop {
	var loops []Loop
	found := map[[2]int]bool{}
	for i := range up {
		for j := range down {
			example, ok := meet(up[i].yields(), down[j].filter.levels)
			if !ok {
				continue
			}
			l, ok := circle(up, down, []byte(example))
			if pair := [2]int{l.UpRule, l.DownRule}; ok && !found[pair] {
				found[pair] = true
				loops = append(loops, l)
			}
		}
	}
	return loops
}

// circle follows a topic upstream down and up again, several times, and returns the rules that it takes in the end.
func circle(up, down topicMap, above []byte) (Loop, bool) {
	var l Loop
	for range circles {
		local, taken, v := down.apply(nil, above)
		if v != mapped {
			return l, false
		}
		next, given, v := up.apply(nil, local)
		if v != mapped {
			return l, false
		}
		// What comes down next came from here.
		l = Loop{UpRule: up.index(given), DownRule: down.index(taken), Local: string(local), Above: string(next)}
		above = next
	}
	_, taken, v := down.apply(nil, above)
	if v != mapped {
		return l, false
	}
	l.DownRule = down.index(taken)
	return l, true
}

// index returns the place of a rule of m.
func (m topicMap) index(r *rule) int {
	for i := range m {
		if &m[i] == r {
			return i
		}
	}
	panic("BUG: bridge: a rule of another map")
}

// yields returns what topics r may give, as the levels of a filter in which # may stand anywhere. It may be more than r
// gives in truth.
func (r *rule) yields() []string {
	var text strings.Builder
	wildcards := make([]string, 0, len(r.filter.names))
	for _, level := range r.filter.levels {
		if level == "+" || level == "#" {
			wildcards = append(wildcards, level)
		}
	}
	for _, p := range r.topic {
		switch {
		case p.wildcard == wildcardTopic:
			text.WriteString(strings.Join(r.filter.levels, "/"))
		case p.wildcard == 0:
			text.WriteString(p.text)
		default:
			text.WriteString(wildcards[p.wildcard-1])
		}
	}
	levels := strings.Split(text.String(), "/")
	for i, level := range levels {
		// A level that is made of several parts could be any.
		switch {
		case strings.Contains(level, "#"):
			levels[i] = "#"
		case strings.Contains(level, "+"):
			levels[i] = "+"
		}
	}
	return levels
}

// meet returns a topic that both patterns match, which are levels with wildcards, # anywhere. Patterns of more than
// maxLevels levels are not looked into.
func meet(a, b []string) (topic string, ok bool) {
	if len(a) > maxLevels || len(b) > maxLevels {
		return "", false
	}
	m := meeting{a: a, b: b, dead: map[[2]int]bool{}}
	levels, ok := m.from(0, 0)
	if !ok {
		return "", false
	}
	topic = strings.Join(levels, "/")
	return topic, packet.CheckTopicName([]byte(topic)) == nil
}

const (
	maxLevels = 200
	// anything stands for a level of which nothing is known.
	anything = "x"
)

// meeting is a search for a topic that two patterns match.
type meeting struct {
	a, b []string
	dead map[[2]int]bool // places from which there is no way
}

// from returns levels that match a[i:] and b[j:].
func (m *meeting) from(i, j int) ([]string, bool) {
	if m.dead[[2]int{i, j}] {
		return nil, false
	}
	if i == len(m.a) && j == len(m.b) {
		return []string{}, true
	}
	for _, s := range m.steps(i, j) {
		if rest, ok := m.from(s.i, s.j); ok {
			return append(s.levels, rest...), true
		}
	}
	m.dead[[2]int{i, j}] = true
	return nil, false
}

// step is a move in both patterns, with the level that it stands for, if any.
type step struct {
	i, j   int
	levels []string
}

// steps lists the moves, those that give more levels first.
func (m *meeting) steps(i, j int) []step {
	var list []step
	restA, restB := i < len(m.a) && m.a[i] == "#", j < len(m.b) && m.b[j] == "#"
	switch {
	case restA && restB:
		list = append(list, step{i + 1, j + 1, []string{anything}}, step{i, j + 1, nil}, step{i + 1, j, nil})
	case restA && j < len(m.b):
		list = append(list, step{i, j + 1, known(m.b[j])}, step{i + 1, j, nil})
	case restB && i < len(m.a):
		list = append(list, step{i + 1, j, known(m.a[i])}, step{i, j + 1, nil})
	case restA:
		list = append(list, step{i + 1, j, nil})
	case restB:
		list = append(list, step{i, j + 1, nil})
	case i < len(m.a) && j < len(m.b):
		switch a, b := m.a[i], m.b[j]; {
		case a == "+":
			list = append(list, step{i + 1, j + 1, known(b)})
		case b == "+" || a == b:
			list = append(list, step{i + 1, j + 1, []string{a}})
		}
	}
	return list
}

// known returns a level that matches one of a pattern.
func known(level string) []string {
	if level == "+" {
		level = anything
	}
	return []string{level}
}
