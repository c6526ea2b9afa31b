package broker

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"forebay/broker/core"
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
		may, verb := a.maySubscribeAll, "subscribe to all of"
		if test.publish {
			may, verb = a.MayPublish, "publish to"
		}
		if got := may(test.client, test.user, []byte(test.topic)); got != test.want {
			t.Errorf("user %q, client %q may %s %s: %v", test.user, test.client, verb, test.topic, got)
		}
	}
}

func (a *accessFile) maySubscribeAll(clientID, username string, filter []byte) bool {
	return a.MaySubscribe(clientID, username, filter) == core.AccessAll
}

// A filter that shows more than the client may read is accepted; what it may not read is left out.
func TestAccessToSome(t *testing.T) {
	a, err := parseAccess([]byte(accessLines))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		user, filter string
		want         core.Access
		topic        string
		may          bool
	}{
		{"", "#", core.AccessSome, "public/x", true},
		{"", "#", core.AccessSome, "plant/x", false},
		{"", "#", core.AccessSome, "$SYS/broker/uptime", true}, // but # does not match it
		{"", "$SYS/#", core.AccessSome, "$SYS/broker/x/y", false},
		{"", "plant/#", core.AccessNone, "plant/x", false},
		{"", "devices/#", core.AccessSome, "devices/c1/state", true},
		{"", "devices/#", core.AccessSome, "devices/c1/firmware", false},
		{"", "devices/#", core.AccessSome, "devices/c2/state", false},
		{"", "devices/c2/#", core.AccessNone, "devices/c2/state", false},
		{"", "devices/+/firmware", core.AccessNone, "devices/c1/firmware", false},
		{"alice", "plant/#", core.AccessSome, "plant/secret/x", false},
		{"alice", "plant/#", core.AccessSome, "plant/secretx", true},
		{"alice", "plant/secret/+", core.AccessNone, "plant/secret/x", false},
		{"alice", "$share/g/plant/#", core.AccessSome, "plant", true},
		{"alice", "commands/#", core.AccessNone, "commands/a b", false},
		{"carol", "#", core.AccessSome, "users/carol/inbox", true},
		{"carol", "#", core.AccessSome, "users/carola/inbox", false},
	} {
		if got := a.MaySubscribe("c1", test.user, []byte(test.filter)); got != test.want {
			t.Errorf("user %q may subscribe to %s: %v", test.user, test.filter, got)
		}
		if got := a.MayReceive("c1", test.user, []byte(test.topic)); got != test.may {
			t.Errorf("user %q may receive %s: %v", test.user, test.topic, got)
		}
	}
}

func TestAccessAllocatesNothingForATopic(t *testing.T) {
	a, err := parseAccess([]byte(accessLines))
	if err != nil {
		t.Fatal(err)
	}
	topics := [][]byte{[]byte("plant/press/temperature"), []byte("devices/c1/state"), []byte("users/alice/inbox")}
	if n := testing.AllocsPerRun(100, func() {
		for _, topic := range topics {
			a.MayPublish("c1", "alice", topic)
			a.MayReceive("c1", "alice", topic)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestAccessEmptyFileDeniesEverything(t *testing.T) {
	a, err := parseAccess(nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.MayPublish("c", "", []byte("t")) || a.MaySubscribe("c", "", []byte("t")) != core.AccessNone || a.MayReceive("c", "", []byte("t")) {
		t.Error("an empty file gave access")
	}
}

func TestAccessDollarTopicsNeedTheirOwnRule(t *testing.T) {
	a, err := parseAccess([]byte("topic #\ntopic +/x"))
	if err != nil {
		t.Fatal(err)
	}
	if a.MayPublish("c", "", []byte("$SYS/x")) || a.MaySubscribe("c", "", []byte("$SYS/#")) != core.AccessNone || a.MayReceive("c", "", []byte("$SYS/x")) {
		t.Error("a wildcard gave access to $SYS [MQTT-4.7.2-1]")
	}
	if !a.maySubscribeAll("c", "", []byte("#")) {
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
		a.MayPublish(client, user, []byte(topic))
		if !validName(topic) {
			return
		}
		// A topic name is a filter too: for it, all and some are the same, and what a subscription gives is delivered.
		if may, got := a.MayReceive(client, user, []byte(topic)), a.MaySubscribe(client, user, []byte(topic)); may != (got == core.AccessAll) && !strings.HasPrefix(topic, "$share") {
			t.Errorf("user %q, client %q may receive %q: %v, may subscribe to it: %v", user, client, topic, may, got)
		}
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

// Real clients behind a real file: what it hides is neither published, nor delivered, nor left behind as a will.
func TestAccessOfMosquittoClients(t *testing.T) {
	g := start(t, Config{
		Listeners: []ListenerConfig{{Address: "127.0.0.1:0", Anonymous: true}}, PasswordFile: writeFile(t, "passwd", userLines),
		ACLFile: writeFile(t, "acl", "topic readwrite open/#\nuser alice\ntopic open/#\ntopic secret/#\npattern write will/%u\n"),
	})
	alice := []string{"-u", "alice", "-P", "secret", "-q", "1"}
	runPeer(g, "mosquitto_pub", append(alice, "-r", "-t", "secret/kept", "-m", "1")...)
	runPeer(g, "mosquitto_pub", append(alice, "-r", "-t", "open/kept", "-m", "1")...)
	stranger := startPeer(g, "mosquitto_sub", "-t", "#", "-q", "1", "-F", "%t")
	stranger.expect("open/kept")
	runPeer(g, "mosquitto_pub", append(alice, "-t", "secret/live", "-m", "2")...)
	runPeer(g, "mosquitto_pub", append(alice, "-t", "open/live", "-m", "2")...)
	stranger.expect("open/live")
	refused, err := exec.Command(needPeer(t, "mosquitto_sub"), peerArgs(g, "-V", "5", "-t", "secret/#", "-W", "20")...).CombinedOutput()
	if !strings.Contains(string(refused), "denied") {
		t.Errorf("subscription to what may not be read: %v: %s", err, refused)
	}
	for will, ok := range map[string]bool{"will/alice": true, "will/bob": false} {
		c := dial(t, g.addr(), packet.V311)
		ack := c.connect(packet.Connect{ClientID: []byte("w"), CleanStart: true, HasUsername: true, Username: []byte("alice"),
			HasPassword: true, Password: []byte("secret"), HasWill: true, Will: packet.WillMessage{Topic: []byte(will)}})
		if (ack.Reason == packet.ReasonSuccess) != ok {
			t.Errorf("CONNACK %v with the will %s", ack.Reason, will)
		}
	}
}
