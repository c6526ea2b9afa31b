package broker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/broker/packet"
)

const accessLines = `# anonymous clients
topic read public/#
topic read $SYS/broker/+

user alice
topic plant/#
topic deny plant/secret/#
topic write commands/a b

user bob
topic write plant/+/temperature

pattern readwrite devices/%c/#
pattern read users/%u/inbox
pattern deny devices/+/firmware
`

func TestAccess(t *testing.T) {
	a, err := parseAccess([]byte(strings.ReplaceAll(accessLines, "\n", "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	const publish, subscribe = true, false
	for _, test := range []struct {
		user, client string
		publish      bool
		topic        string
		want         bool
	}{
		{"", "c1", subscribe, "public/x", true},
		{"", "c1", subscribe, "public", true},
		{"", "c1", subscribe, "public/+/x/#", true},
		{"", "c1", subscribe, "#", false},
		{"", "c1", subscribe, "+/x", false},
		{"", "c1", publish, "public/x", false},
		{"", "c1", subscribe, "$SYS/broker/uptime", true},
		{"", "c1", subscribe, "$SYS/#", false},
		{"", "c1", publish, "devices/c1/state", true},
		{"", "c1", publish, "devices/c2/state", false},
		{"", "c1", subscribe, "devices/c1/state", true},
		{"", "c1", subscribe, "devices/+/state", false},
		{"", "c1", subscribe, "users//inbox", false},
		{"", "+", subscribe, "devices/+/state", false},
		{"", "#", publish, "devices/#", false},
		{"", "a/b", publish, "devices/a/b/state", true},
		{"", "c1", publish, "devices/c1/firmware", false},
		{"", "c1", subscribe, "devices/c1/firmware", false},
		{"", "c1", subscribe, "devices/c1/#", false}, // would show the firmware
		{"alice", "c1", publish, "plant/press/temperature", true},
		{"alice", "c1", publish, "plant/secret", false},
		{"alice", "c1", publish, "plant/secret/x", false},
		{"alice", "c1", subscribe, "plant/#", false}, // would show the secret
		{"alice", "c1", subscribe, "plant/press/#", true},
		{"alice", "c1", publish, "commands/a b", true},
		{"alice", "c1", subscribe, "commands/a b", false},
		{"alice", "c1", subscribe, "public/x", false}, // for anonymous clients only
		{"alice", "c1", subscribe, "users/alice/inbox", true},
		{"alice", "c1", subscribe, "users/bob/inbox", false},
		{"alice", "c1", publish, "users/alice/inbox", false},
		{"bob", "c1", publish, "plant/press/temperature", true},
		{"bob", "c1", publish, "plant/press/state", false},
		{"bob", "c1", subscribe, "plant/press/temperature", false},
		{"carol", "c1", publish, "plant/press/temperature", false},
	} {
		may, verb := a.maySubscribe, "subscribe"
		if test.publish {
			may, verb = a.mayPublish, "publish"
		}
		if got := may(test.client, test.user, []byte(test.topic)); got != test.want {
			t.Errorf("user %q, client %q may %s %s: %v", test.user, test.client, verb, test.topic, got)
		}
	}
}

func TestAccessEmptyFileDeniesEverything(t *testing.T) {
	a, err := parseAccess(nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.mayPublish("c", "", []byte("t")) || a.maySubscribe("c", "", []byte("t")) {
		t.Error("an empty file gave access")
	}
}

func TestAccessDollarTopicsNeedTheirOwnRule(t *testing.T) {
	a, err := parseAccess([]byte("topic #\ntopic +/x"))
	if err != nil {
		t.Fatal(err)
	}
	if a.mayPublish("c", "", []byte("$SYS/x")) || a.maySubscribe("c", "", []byte("$SYS/#")) {
		t.Error("a wildcard gave access to $SYS [MQTT-4.7.2-1]")
	}
	if !a.maySubscribe("c", "", []byte("#")) {
		t.Error("# was refused where # is given")
	}
}

func TestAccessProblems(t *testing.T) {
	for _, test := range []struct{ name, file, want string }{
		{"unknown word", "allow x", "line 1: want user, topic or pattern"},
		{"unknown access", "topic all x", "line 1: want read, write"},
		{"no topic", "\ntopic", "line 2: topic is missing"},
		{"no user", "user ", "line 1: user without a name"},
		{"bad filter", "topic read a/#/b", "line 1: "},
		{"half a level", "pattern read dev-%c/x", "line 1: %c must be the whole level"},
		{"all at once", "x\ny", "line 1: want user, topic or pattern\nline 2: want user, topic or pattern"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseAccess([]byte(test.file))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestAccessFileNamedInError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(file, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadAccess(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v does not name the file", err)
	}
}

func FuzzAccess(f *testing.F) {
	f.Add([]byte(accessLines), "alice", "c1", "plant/x")
	f.Add([]byte("topic a b c\npattern %c/%u\nuser x\ntopic +"), "", "", "$SYS/#")
	f.Fuzz(func(t *testing.T, file []byte, user, client, topic string) {
		a, err := parseAccess(file)
		if err != nil {
			return
		}
		a.mayPublish(client, user, []byte(topic))
		a.maySubscribe(client, user, []byte(topic))
	})
}

// FuzzAccessCovers holds what access control rests on against the matching of single topics.
func FuzzAccessCovers(f *testing.F) {
	for _, s := range [][3]string{
		{"a/#", "a/+", "a/x"}, {"+/b", "a/+", "a/b"}, {"#", "$SYS/#", "$SYS/x"}, {"a/#", "a", "a"}, {"+", "/", ""}, {"a/+/#", "a/#", "a"},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, rule, filter, topic string) {
		if !validFilter(rule) || !validFilter(filter) || !validName(topic) {
			return
		}
		r, s := strings.Split(rule, "/"), strings.Split(filter, "/")
		inRule, inFilter := matches(rule, topic), matches(filter, topic)
		if inFilter && !inRule && covers(levels(r), levels(s)) {
			t.Errorf("%q is said to cover %q, but %q is only in the latter", rule, filter, topic)
		}
		if inFilter && inRule && !overlap(levels(r), levels(s)) {
			t.Errorf("%q and %q are said to be apart, but %q is in both", rule, filter, topic)
		}
	})
}

func levels(s []string) [][]byte {
	var all [][]byte
	for _, level := range s {
		all = append(all, []byte(level))
	}
	return all
}

func validFilter(s string) bool         { return packet.CheckTopicFilter([]byte(s)) == nil }
func validName(s string) bool           { return packet.CheckTopicName([]byte(s)) == nil }
func matches(filter, topic string) bool { return packet.Match([]byte(filter), []byte(topic)) }
