package bridge

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// startRabbitMQ runs a RabbitMQ with its MQTT plugin, as a program of ours with its files in dir, until the test ends.
func startRabbitMQ(t *testing.T, dir string, port int) {
	t.Helper()
	const server = "/usr/lib/rabbitmq/bin/rabbitmq-server" // the one in PATH becomes another user
	files := map[string]string{
		"rabbitmq.conf": fmt.Sprintf("listeners.tcp = none\nmqtt.listeners.tcp.1 = 127.0.0.1:%d\nmqtt.allow_anonymous = true\n", port),
		"plugins":       "[rabbitmq_mqtt].\n",
		"env":           "",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	names, nodes := freePort(t), freePort(t)
	environment := append(os.Environ(), "HOME="+dir, "RABBITMQ_NODENAME=forebay@localhost",
		fmt.Sprint("ERL_EPMD_PORT=", names), fmt.Sprint("RABBITMQ_DIST_PORT=", nodes),
		"RABBITMQ_MNESIA_BASE="+dir+"/mnesia", "RABBITMQ_LOG_BASE="+dir+"/log", "RABBITMQ_PID_FILE="+dir+"/pid",
		"RABBITMQ_ENABLED_PLUGINS_FILE="+dir+"/plugins", "RABBITMQ_CONFIG_FILE="+dir+"/rabbitmq", "RABBITMQ_CONF_ENV_FILE="+dir+"/env")
	// Erlang's name server would be left behind if Erlang started it.
	for _, args := range [][]string{{"epmd", "-port", fmt.Sprint(names)}, {server}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env, cmd.SysProcAttr = environment, &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the script and what it has started; gone already is as good
			cmd.Wait()                                      // how it ends is not what is tested
		})
	}
	for end := time.Now().Add(2 * veryPatient); ; <-time.After(100 * time.Millisecond) {
		nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			nc.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal("RabbitMQ does not listen: ", err)
		}
	}
}

// TestRabbitMQ sends both ways through a cloud of 3.1.1 that has no QoS 2: the rule caps it.
func TestRabbitMQ(t *testing.T) {
	t.Parallel() // it waits for others most of the time
	if os.Getenv("CI") != "true" && os.Getenv("FOREBAY_RABBITMQ") == "" {
		t.Skip("RabbitMQ takes a quarter of a minute to start: set FOREBAY_RABBITMQ=1")
	}
	if _, err := exec.LookPath("rabbitmqctl"); err != nil {
		t.Fatal("RabbitMQ is missing: apt install rabbitmq-server")
	}
	dir, port := t.TempDir(), freePort(t)
	startRabbitMQ(t, dir, port)
	r := record(t, port)
	g := newGateway(t, fmt.Sprintf("mqtt://127.0.0.1:%d", port), func(c *Config) {
		withDown(c)
		one := 1
		c.Up[0].QoS = &one // it ends the connection over a PUBLISH of QoS 2
	}, nil)
	g.awaitLong("up", func(s Status) bool { return s.State == Up && s.Protocol == "3.1.1" })
	payloads := g.sendNumbered(1, nil, 300)
	payloads = g.sendNumbered(2, payloads, 100)
	g.awaitLong("an empty queue", func(s Status) bool { return s.Backlog.Count == 0 })
	t.Logf("%d of %d messages came more than once", r.want(payloads), len(payloads))
	args := []string{"-V", "311", "-p", fmt.Sprint(port), "-q", "1", "-t", "sites/plant7/cmd/press4/set", "-m", "now"}
	if out, err := exec.Command("mosquitto_pub", args...).CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub: %v: %s", err, out)
	}
	g.broker.awaitMessages(1)
	if got := g.broker.messages(); got[0] != "plant/press4/set now" {
		t.Errorf("came down: %q", got)
	}
}
