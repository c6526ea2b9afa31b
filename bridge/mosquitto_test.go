package bridge

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// startMosquitto runs a Mosquitto on a free port until the test ends and returns its port and a function that stops
// it sooner.
func startMosquitto(t *testing.T, dir string, port int) (stop func()) {
	t.Helper()
	// Started by root, Mosquitto would become another user, who cannot write to the test's directory.
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "mosquitto.conf")
	text := fmt.Sprintf("user %s\nlistener %d 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location %s/\nlog_type none\n", me.Username, port, dir)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mosquitto", "-c", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cmd.Process.Signal(os.Interrupt) // it may be gone already, which the test has noticed then
		cmd.Wait()                       // how it ends is not what is tested
	}
	t.Cleanup(stop)
	awaitPort(t, port)
	return stop
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestMosquitto sends both ways through a real broker that is stopped and started in between.
func TestMosquitto(t *testing.T) {
	for _, program := range []string{"mosquitto", "mosquitto_sub", "mosquitto_pub"} {
		needProgram(t, program)
	}
	dir, port := t.TempDir(), freePort(t)
	stop := startMosquitto(t, dir, port)
	g := newGateway(t, fmt.Sprintf("mqtt://127.0.0.1:%d", port), withDown, nil)
	g.awaitStatus("up", func(s Status) bool { return s.State == Up })

	client := func(program string, args ...string) *exec.Cmd {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		t.Cleanup(cancel)
		return exec.CommandContext(ctx, program, append([]string{"-V", "311", "-h", "127.0.0.1", "-p", fmt.Sprint(port)}, args...)...)
	}
	// A session for the receiver: Mosquitto keeps messages for it while nobody is connected.
	recorder := []string{"-i", "recorder", "-c", "-q", "2"}
	if out, err := client("mosquitto_sub", append(recorder, "-t", "up/#", "-E")...).CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_sub: %v: %s", err, out)
	}

	const count = 300
	want := map[string][]string{} // by topic
	send := func(from, to int) {
		for i := from; i < to; i++ {
			topic, text := fmt.Sprintf("t%d", i%2), fmt.Sprintf("message %d", i)
			g.broker.sendAll(byte(1+i%2), topic, text)
			want["up/"+topic] = append(want["up/"+topic], text)
		}
	}
	send(0, count/3)
	g.awaitStatus("a third", func(s Status) bool { return s.Forwarded == count/3 })
	stop()
	send(count/3, 2*count/3)
	g.awaitStatus("down", func(s Status) bool { return s.State == Down && s.Backlog.Count == count/3 })
	startMosquitto(t, dir, port)
	send(2*count/3, count)
	g.awaitStatus("everything forwarded", func(s Status) bool { return s.Forwarded == count && s.Backlog.Count == 0 })
	if g.lines.count("session=resumed") != 1 {
		t.Error("Mosquitto did not keep the session over its restart")
	}

	out, err := client("mosquitto_sub", append(recorder, "-t", "up/#", "-F", "%t %p", "-C", fmt.Sprint(count), "-W", "8")...).Output()
	if err != nil {
		t.Errorf("mosquitto_sub: %v", err)
	}
	got := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		topic, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[topic] = append(got[topic], text)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}

	for qos := range 3 {
		args := []string{"-q", fmt.Sprint(qos), "-t", "sites/plant7/cmd/press4/set", "-m", fmt.Sprintf("command %d", qos)}
		if out, err := client("mosquitto_pub", args...).CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_pub: %v: %s", err, out)
		}
	}
	g.broker.awaitMessages(3)
	if got := strings.Join(g.broker.messages(), ","); got != "plant/press4/set command 0,plant/press4/set command 1,plant/press4/set command 2" {
		t.Errorf("commands %s", got)
	}
}
