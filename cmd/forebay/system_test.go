package main_test

import (
	"strings"
	"testing"
)

// Who knows Mosquitto's $SYS finds it here: every topic that it has, with a
// payload of the same form.
func TestSystemTopicsAreMosquittos(t *testing.T) {
	c := startCloud(t, "allow_anonymous true", "sys_interval 1")
	g := startGateway(t, smallest)
	theirs, ours := watch(t, c.port, "-t", "$SYS/#"), watch(t, g.port, "-t", "$SYS/#")
	publish(t, c.port, "-q", "1", "-r", "-t", "a", "-m", "x")
	publish(t, g.port, "-q", "1", "-r", "-t", "a", "-m", "x")
	for _, last := range []string{"connections/15min", "sockets/15min", "publish/sent/15min", "bytes/sent/15min"} {
		theirs.wait("$SYS/broker/load/" + last)
	}
	theirs.wait("$SYS/broker/heap/maximum ")
	for topic, form := range systemTopics(theirs) {
		if topic == "$SYS/broker/clients/expired" {
			continue // a session that has expired is gone and not counted here
		}
		ours.wait(topic + " ")
		if got := systemTopics(ours)[topic]; got != form {
			t.Errorf("%s is %s here and %s there", topic, got, form)
		}
	}
}

// systemTopics returns the topics below $SYS that were printed, each with the
// form of its payload.
func systemTopics(p *process) map[string]string {
	topics := map[string]string{}
	for line := range strings.Lines(p.output()) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "$SYS/") {
			continue
		}
		form := "a text"
		words := strings.Fields(line)
		payload := words[len(words)-1]
		switch {
		case payload == "seconds":
			form, words = "seconds", words[:len(words)-1]
		case strings.Trim(payload, "0123456789") == "":
			form = "a number"
		case strings.Count(payload, ".") == 1 && strings.Trim(payload, "0123456789.") == "" && len(payload)-strings.Index(payload, ".") == 3:
			form = "a number with two decimals"
		}
		if strings.Contains(line, "/version ") {
			form, words = "a text", words[:2]
		}
		topics[strings.Join(words[:len(words)-1], " ")] = form
	}
	return topics
}
