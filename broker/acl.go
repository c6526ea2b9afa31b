package broker

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"forebay/broker/core"
	"forebay/broker/packet"
)

// accessFile is an access control file in Mosquitto's format:
//
//	topic [read|write|readwrite|deny] FILTER     for clients without a username, or those of the last "user" line
//	user NAME
//	pattern [read|write|readwrite|deny] FILTER   for everyone; levels that are %c or %u stand for client id and username
//
// Without an access word a rule gives both. What no rule gives is refused, and deny wins over everything else. Empty
// lines and lines that begin with # are skipped. It is a core.Authorizer; it is not changed once it is read, so any
// goroutine may ask it.
type accessFile struct {
	anonymous []accessRule
	users     map[string][]accessRule
	patterns  []accessRule
}

// accessRule gives or denies access to the topics that match its filter.
type accessRule struct {
	access access
	levels [][]byte // the filter, split at the slashes

	ofClient, ofUser bool // a pattern: there are levels %c, or %u
}

// access is a set of rights.
type access byte

const (
	mayRead access = 1 << iota
	mayWrite
	denied
)

var accessWords = map[string]access{"read": mayRead, "write": mayWrite, "readwrite": mayRead | mayWrite, "deny": denied}

const maxAccessFile = 16 << 20

// loadAccess reads an access control file. The errors of all lines are joined.
func loadAccess(path string) (*accessFile, error) {
	b, err := readBounded(path, maxAccessFile)
	if err != nil {
		return nil, fmt.Errorf("broker: access file: %w", err)
	}
	a, err := parseAccess(b)
	if err != nil {
		return nil, fmt.Errorf("broker: access file %s: %w", path, err)
	}
	return a, nil
}

func parseAccess(b []byte) (*accessFile, error) {
	a := &accessFile{users: map[string][]accessRule{}}
	var problems []error
	user, number := "", 0
	for line := range strings.Lines(string(b)) {
		number++
		line = strings.Trim(line, " \t\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		word, rest := cutWord(line)
		var err error
		var rule accessRule
		switch word {
		case "user":
			if user = rest; user == "" {
				err = errors.New("user without a name")
			}
		case "topic":
			if rule, err = parseRule(rest); err == nil && user == "" {
				a.anonymous = append(a.anonymous, rule)
			} else if err == nil {
				a.users[user] = append(a.users[user], rule)
			}
		case "pattern":
			if rule, err = parseRule(rest); err == nil {
				if err = rule.makePattern(); err == nil {
					a.patterns = append(a.patterns, rule)
				}
			}
		default:
			err = errors.New("want user, topic or pattern")
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("line %d: %w", number, err))
		}
	}
	return a, errors.Join(problems...)
}

// cutWord splits at the first run of blanks.
func cutWord(s string) (word, rest string) {
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], strings.TrimLeft(s[i:], " \t")
	}
	return s, ""
}

// parseRule reads "[access] filter". A filter may hold blanks only behind an access word.
func parseRule(text string) (accessRule, error) {
	rule := accessRule{access: mayRead | mayWrite}
	word, filter := cutWord(text)
	if filter == "" {
		filter = word
	} else if rule.access = accessWords[word]; rule.access == 0 {
		return rule, errors.New("want read, write, readwrite or deny before the topic")
	}
	if filter == "" {
		return rule, errors.New("topic is missing")
	}
	if err := packet.CheckTopicFilter([]byte(filter)); err != nil {
		return rule, err
	}
	rule.levels = bytes.Split([]byte(filter), []byte("/"))
	return rule, nil
}

// makePattern finds the levels that stand for names. It refuses a substitution that is not a level of its own: as text
// it would silently match nothing.
func (r *accessRule) makePattern() error {
	for _, level := range r.levels {
		for name, has := range map[string]*bool{"%c": &r.ofClient, "%u": &r.ofUser} {
			switch s := string(level); {
			case s == name:
				*has = true
			case strings.Contains(s, name):
				return fmt.Errorf("%s must be the whole level", name)
			}
		}
	}
	return nil
}

// MayPublish reports whether a client may publish to a topic name. The username is empty for an anonymous client.
func (a *accessFile) MayPublish(clientID, username string, topic []byte) bool {
	return a.allows(mayWrite, clientID, username, topic)
}

// MayReceive reports whether a client may be sent a message with that topic name.
func (a *accessFile) MayReceive(clientID, username string, topic []byte) bool {
	return a.allows(mayRead, clientID, username, topic)
}

// MaySubscribe says how much of what a topic filter matches a client may read: all of it, when one rule gives it and no
// deny takes any of it away; some, when a rule gives some of it; none else.
func (a *accessFile) MaySubscribe(clientID, username string, filter []byte) core.Access {
	_, filter, _, err := packet.SplitShared(filter)
	if err != nil {
		return core.AccessNone
	}
	levels := bytes.Split(filter, []byte("/"))
	found, less := core.AccessNone, false
	for _, rules := range [...][]accessRule{a.own(username), a.patterns} {
		for i := range rules {
			rule, ok := rules[i].substitute(clientID, username)
			switch {
			case rules[i].access == denied && (!ok || covers(rule, levels)):
				return core.AccessNone
			case rules[i].access == denied:
				less = less || overlap(rule, levels)
			case !ok || rules[i].access&mayRead == 0:
			case covers(rule, levels):
				found = core.AccessAll
			case overlap(rule, levels):
				found = max(found, core.AccessSome)
			}
		}
	}
	if less {
		found = min(found, core.AccessSome)
	}
	return found
}

// own returns the rules that are only for those who have logged in like this.
func (a *accessFile) own(username string) []accessRule {
	if username == "" {
		return a.anonymous
	}
	return a.users[username]
}

// allows allocates nothing: it is asked for every new topic of a connection.
func (a *accessFile) allows(want access, clientID, username string, topic []byte) bool {
	allowed := false
	for _, rules := range [...][]accessRule{a.own(username), a.patterns} {
		for i := range rules {
			r := &rules[i]
			ok := r.usable(clientID, username)
			if r.access == denied && (!ok || r.matches(topic, clientID, username)) {
				return false
			}
			allowed = allowed || ok && r.access&want != 0 && r.matches(topic, clientID, username)
		}
	}
	return allowed
}

// usable reports whether the names that a pattern stands for can be put in. They cannot be empty, and with a wildcard
// they would give a client more than its own levels.
func (r *accessRule) usable(clientID, username string) bool {
	return (!r.ofClient || clientID != "" && !strings.ContainsAny(clientID, "+#")) &&
		(!r.ofUser || username != "" && !strings.ContainsAny(username, "+#"))
}

// matches reports whether a topic name is among those of the rule, which is usable for these names. A name may hold
// slashes: it is then several levels.
func (r *accessRule) matches(topic []byte, clientID, username string) bool {
	if len(topic) > 0 && topic[0] == '$' && wild(r.levels[0]) {
		return false // [MQTT-4.7.2-1]
	}
	rest, more := topic, true // more: a level follows, if only an empty one
	for _, level := range r.levels {
		if string(level) == "#" {
			return true // also when nothing follows: it stands for the level above it too
		}
		if !more {
			return false
		}
		n := 0
		switch {
		case string(level) == "+":
			if n = bytes.IndexByte(rest, '/'); n < 0 {
				n = len(rest)
			}
		case r.ofClient && string(level) == "%c":
			n = prefixed(rest, clientID)
		case r.ofUser && string(level) == "%u":
			n = prefixed(rest, username)
		default:
			if n = -1; bytes.HasPrefix(rest, level) {
				n = len(level)
			}
		}
		if n < 0 || n < len(rest) && rest[n] != '/' {
			return false
		}
		if more = n < len(rest); more {
			n++
		}
		rest = rest[n:]
	}
	return !more
}

// prefixed returns the length of name if b begins with it, else -1.
func prefixed(b []byte, name string) int {
	if len(b) < len(name) || string(b[:len(name)]) != name {
		return -1
	}
	return len(name)
}

// substitute returns the levels of the rule with client id and username put in; not if they are not usable.
func (r *accessRule) substitute(clientID, username string) (levels [][]byte, ok bool) {
	if !r.usable(clientID, username) {
		return nil, false
	}
	if !r.ofClient && !r.ofUser {
		return r.levels, true
	}
	levels = append(levels, r.levels...)
	for i, level := range levels {
		switch string(level) {
		case "%c":
			levels[i] = []byte(clientID)
		case "%u":
			levels[i] = []byte(username)
		}
	}
	// A name may hold slashes: it is then several levels.
	return bytes.Split(bytes.Join(levels, []byte("/")), []byte("/")), true
}

// covers reports whether every topic that b matches is matched by a too. [MQTT-4.7.2-1] holds for both: a first
// level that is a wildcard matches no topic that begins with $.
func covers(a, b [][]byte) bool {
	if system(b) && wild(a[0]) {
		return false
	}
	for i, level := range a {
		if string(level) == "#" {
			return true
		}
		if i == len(b) || string(b[i]) == "#" {
			return false
		}
		if string(level) != "+" && string(level) != string(b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}

// overlap reports whether some topic matches both a and b.
func overlap(a, b [][]byte) bool {
	if system(b) && wild(a[0]) || system(a) && wild(b[0]) {
		return false
	}
	for i := 0; ; i++ {
		if i < len(a) && string(a[i]) == "#" || i < len(b) && string(b[i]) == "#" {
			return true // "#" matches the parent level as well
		}
		if i == len(a) || i == len(b) {
			return len(a) == len(b)
		}
		if string(a[i]) != "+" && string(b[i]) != "+" && string(a[i]) != string(b[i]) {
			return false
		}
	}
}

func system(levels [][]byte) bool { return len(levels[0]) > 0 && levels[0][0] == '$' }

func wild(level []byte) bool { return string(level) == "+" || string(level) == "#" }
