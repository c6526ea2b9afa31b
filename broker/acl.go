package broker

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"forebay/broker/packet"
)

// accessFile is an access control file in Mosquitto's format:
//
//	topic [read|write|readwrite|deny] FILTER     for clients without a username, or those of the last "user" line
//	user NAME
//	pattern [read|write|readwrite|deny] FILTER   for everyone; levels that are %c or %u stand for client id and username
//
// Without an access word a rule gives both. What no rule gives is refused, and deny wins over everything else. Empty
// lines and lines that begin with # are skipped. It is not changed once it is read, so any goroutine may ask it.
type accessFile struct {
	anonymous []accessRule
	users     map[string][]accessRule
	patterns  []accessRule
}

// accessRule gives or denies access to the topics that match its filter.
type accessRule struct {
	access access
	levels [][]byte // the filter, split at the slashes
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
				if err = rule.checkPattern(); err == nil {
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

// checkPattern refuses a substitution that is not a level of its own: as text it would silently match nothing.
func (r *accessRule) checkPattern() error {
	for _, level := range r.levels {
		for _, name := range []string{"%c", "%u"} {
			if s := string(level); s != name && strings.Contains(s, name) {
				return fmt.Errorf("%s must be the whole level", name)
			}
		}
	}
	return nil
}

// mayPublish reports whether a client may publish to a topic name. The username is empty for an anonymous client.
func (a *accessFile) mayPublish(clientID, username string, topic []byte) bool {
	return a.allows(mayWrite, clientID, username, topic)
}

// maySubscribe reports whether a client may subscribe to a topic filter (without its $share prefix): when one rule
// gives it to read every topic that the filter matches, and no deny takes any of them away. A subscription is
// accepted or refused as a whole; Mosquitto accepts all of them and leaves out messages as they come.
func (a *accessFile) maySubscribe(clientID, username string, filter []byte) bool {
	return a.allows(mayRead, clientID, username, filter)
}

func (a *accessFile) allows(want access, clientID, username string, filter []byte) bool {
	own := a.anonymous
	if username != "" {
		own = a.users[username]
	}
	levels := bytes.Split(filter, []byte("/"))
	allowed := false
	for _, r := range own {
		if r.access == denied && overlap(r.levels, levels) {
			return false
		}
		allowed = allowed || r.access&want != 0 && covers(r.levels, levels)
	}
	for _, r := range a.patterns {
		rule, ok := r.substitute(clientID, username)
		if r.access == denied && (!ok || overlap(rule, levels)) {
			return false
		}
		allowed = allowed || ok && r.access&want != 0 && covers(rule, levels)
	}
	return allowed
}

// substitute puts client id and username in. It fails for an empty username, and for those with a wildcard: they
// would give a client more than its own levels.
func (r *accessRule) substitute(clientID, username string) (levels [][]byte, ok bool) {
	for i, level := range r.levels {
		var with string
		switch string(level) {
		case "%c":
			with = clientID
		case "%u":
			with = username
		default:
			continue
		}
		if with == "" || strings.ContainsAny(with, "+#") {
			return nil, false
		}
		if levels == nil {
			levels = append(make([][]byte, 0, len(r.levels)), r.levels...)
		}
		levels[i] = []byte(with)
	}
	if levels == nil {
		return r.levels, true
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
