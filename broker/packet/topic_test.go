package packet

import (
	"bytes"
	"strings"
	"testing"
)

func TestTopicName(t *testing.T) {
	for _, test := range []struct{ name, topic, want string }{
		{"MQTT-4.7.3-1 empty", "", "0x81 MQTT-4.7.3-1"},
		{"MQTT-4.7.3-3 longest", strings.Repeat("a", MaxString), "<nil>"},
		{"MQTT-4.7.3-3 too long", strings.Repeat("a", MaxString+1), "0x81 MQTT-4.7.3-3"},
		{"MQTT-4.7.3-2 null character", "a\x00b", "0x81 MQTT-1.5.4-2"},
		{"ill-formed", "a\xffb", "0x81 MQTT-1.5.4-1"},
		{"MQTT-4.7.0-1 plus", "plant/+/temperature", "0x81 MQTT-4.7.0-1"},
		{"MQTT-4.7.0-1 hash", "plant/press4/#", "0x81 MQTT-4.7.0-1"},
		{"MQTT-4.7.0-1 plus within a level", "plant/a+b", "0x81 MQTT-4.7.0-1"},
		{"MQTT-4.7.0-1 hash behind other characters", "wärme/#", "0x81 MQTT-4.7.0-1"},
		{"only a separator", "/", "<nil>"},
		{"spaces", "Accounts payable", "<nil>"},
		{"empty levels", "//a//", "<nil>"},
		{"dollar", "$SYS/broker", "<nil>"},
		{"other characters", "wärme/température/温度", "<nil>"},
		{"neighbours of the wildcards", "\"$*,\"$*,\"$*,", "<nil>"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := errorText(CheckTopicName([]byte(test.topic))); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// TestTopicNameWildcardEverywhere puts a wildcard at every place of names long enough for the fast path.
func TestTopicNameWildcardEverywhere(t *testing.T) {
	for length := 1; length <= 20; length++ {
		for at := range length {
			for _, wildcard := range []byte{'+', '#'} {
				b := bytes.Repeat([]byte{'a'}, length)
				b[at] = wildcard
				if got := errorText(CheckTopicName(b)); got != "0x81 MQTT-4.7.0-1" {
					t.Errorf("%q: %s", b, got)
				}
			}
		}
	}
}

func TestTopicFilter(t *testing.T) {
	for _, test := range []struct{ name, filter, want string }{
		{"MQTT-4.7.3-1 empty", "", "0x81 MQTT-4.7.3-1"},
		{"MQTT-4.7.3-3 too long", strings.Repeat("a", MaxString+1), "0x81 MQTT-4.7.3-3"},
		{"MQTT-4.7.3-2 null character", "a/\x00", "0x81 MQTT-1.5.4-2"},
		{"hash alone", "#", "<nil>"},
		{"hash at the end", "sport/tennis/#", "<nil>"},
		{"MQTT-4.7.1-1 hash within a level", "sport/tennis#", "0x81 MQTT-4.7.1-1"},
		{"MQTT-4.7.1-1 hash before the end", "sport/tennis/#/ranking", "0x81 MQTT-4.7.1-1"},
		{"MQTT-4.7.1-1 hash before a character", "#a", "0x81 MQTT-4.7.1-1"},
		{"MQTT-4.7.1-1 two", "##", "0x81 MQTT-4.7.1-1"},
		{"plus alone", "+", "<nil>"},
		{"plus first and hash last", "+/tennis/#", "<nil>"},
		{"plus last", "sport/+", "<nil>"},
		{"plus between", "sport/+/player1", "<nil>"},
		{"plus everywhere", "+/+/+", "<nil>"},
		{"MQTT-4.7.1-2 plus behind a character", "sport+", "0x81 MQTT-4.7.1-2"},
		{"MQTT-4.7.1-2 plus before a character", "+sport/a", "0x81 MQTT-4.7.1-2"},
		{"MQTT-4.7.1-2 two", "a/++/b", "0x81 MQTT-4.7.1-2"},
		{"MQTT-4.7.1-2 plus before hash", "a/+#", "0x81 MQTT-4.7.1-2"},
		{"separator", "/", "<nil>"},
		{"shared", "$share/group/a/+", "<nil>"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := errorText(CheckTopicFilter([]byte(test.filter))); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
	for filter, want := range map[string]string{"a#": "0x81 MQTT-4.7.1-2", "a+": "0x81 MQTT-4.7.1-3"} {
		if got := errorText(checkTopicFilter([]byte(filter), V311)); got != want {
			t.Errorf("3.1.1, %s: %s, want %s", filter, got, want)
		}
	}
}

func TestSplitShared(t *testing.T) {
	for _, test := range []struct {
		name, filter string
		group, rest  string
		shared       bool
		err          string
	}{
		{"shared", "$share/pumps/plant/+/flow", "pumps", "plant/+/flow", true, "<nil>"},
		{"shared hash", "$share/g/#", "g", "#", true, "<nil>"},
		{"shared, filter begins with a separator", "$share/g//a", "g", "/a", true, "<nil>"},
		{"not shared", "plant/#", "", "plant/#", false, "<nil>"},
		{"only the word", "$share", "", "$share", false, "<nil>"},
		{"other dollar", "$shared/g/a", "", "$shared/g/a", false, "<nil>"},
		{"MQTT-4.8.2-1 no name", "$share/", "", "", true, "0x81 MQTT-4.8.2-1"},
		{"MQTT-4.8.2-1 empty name", "$share//a", "", "", true, "0x81 MQTT-4.8.2-1"},
		{"MQTT-4.8.2-2 plus for a name", "$share/+/a", "", "", true, "0x81 MQTT-4.8.2-2"},
		{"MQTT-4.8.2-2 hash for a name", "$share/#", "", "", true, "0x81 MQTT-4.8.2-2"},
		{"MQTT-4.8.2-2 no filter", "$share/g", "", "", true, "0x81 MQTT-4.8.2-2"},
		{"MQTT-4.8.2-2 empty filter", "$share/g/", "", "", true, "0x81 MQTT-4.8.2-2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := CheckTopicFilter([]byte(test.filter)); err != nil {
				t.Fatal(err)
			}
			group, rest, shared, err := SplitShared([]byte(test.filter))
			if string(group) != test.group || string(rest) != test.rest || shared != test.shared || errorText(err) != test.err {
				t.Errorf("%q, %q, %v, %v", group, rest, shared, err)
			}
		})
	}
}

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		filter, topic string
		want          bool
	}{
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/tennis/player1/#", "sport/tennis/player10", false},
		{"sport/#", "sport", true},
		{"sport/#", "sport/", true},
		{"sport/#", "spor", false},
		{"sport/#", "sports", false},
		{"#", "a", true},
		{"#", "/", true},
		{"#", "a/b/c", true},
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"+", "finance", true},
		{"+/#", "finance", true},
		{"+/#", "finance/a/b", true},
		{"+/b", "a/b", true},
		{"+/b", "a/bc", false},
		{"a/+/c", "a/b/c", true},
		{"a/+/c", "a//c", true},
		{"a/+/c", "a/b/d", false},
		{"a/+/c", "a/b/c/d", false},
		{"a/+/#", "a/b", true},
		{"a/+/#", "a", false},
		{"a", "a", true},
		{"a", "b", false},
		{"a", "ab", false},
		{"ab", "a", false},
		{"a/", "a", false},
		{"a", "a/", false},
		{"/", "/", true},
		// [MQTT-4.7.3-4]
		{"ACCOUNTS", "Accounts", false},
		{"\u00e4", "a\u0308", false},
		// [MQTT-4.7.2-1]
		{"#", "$SYS/monitor/Clients", false},
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"+", "$SYS", false},
		{"$SYS/#", "$SYS/monitor/Clients", true},
		{"$SYS/monitor/+", "$SYS/monitor/Clients", true},
		{"a/#", "a/$b", true},
		{"a/+", "a/$b", true},
		// Neither passes its check, but neither may harm.
		{"", "a", false},
		{"a", "", false},
		{"#", "", false},
	} {
		if got := Match([]byte(test.filter), []byte(test.topic)); got != test.want {
			t.Errorf("[MQTT-4.7.2-1] [MQTT-4.7.3-4] Match(%q, %q) = %v", test.filter, test.topic, got)
		}
	}
}
