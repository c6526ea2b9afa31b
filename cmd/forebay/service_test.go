package main_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const smallest = `
storage: {path: %DIR%/store}
broker: {listeners: [{address: "127.0.0.1:%PORT%", anonymous: true}]}
`

// The exit codes of the real binary: 0 after a stop, 1 when it cannot run, 2
// for a wrong command line, 78 for a wrong configuration.
func TestExitCodes(t *testing.T) {
	g := startGateway(t, smallest)
	// The store is locked and the port taken: neither is the configuration's fault.
	code, out := run(t, forebay(t), "run", "-c", g.conf)
	if code != 1 || strings.Contains(out, "panic") {
		t.Errorf("a second gateway on the same store: exit %d, want 1:\n%s", code, out)
	}
	if code := g.stop(); code != 0 {
		t.Errorf("exit %d after SIGTERM, want 0:\n%s", code, g.output())
	}
	if code, out := run(t, forebay(t), "run", "-c", write(t, g.dir, "bad.yaml", "sites: x\n")); code != 78 {
		t.Errorf("unknown key: exit %d, want 78:\n%s", code, out)
	}
	if code, out := run(t, forebay(t), "rum"); code != 2 {
		t.Errorf("unknown command: exit %d, want 2:\n%s", code, out)
	}
}

func TestBuildSetsVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "forebay")
	if out, err := exec.Command("go", "build", "-ldflags", "-X main.version=1.2.3", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, out := run(t, path, "version"); !strings.HasPrefix(out, "forebay 1.2.3 ") {
		t.Errorf("version says %q", out)
	}
}

// systemd hears READY once the gateway serves, WATCHDOG again and again, and
// STOPPING at the end.
func TestTellsSystemd(t *testing.T) {
	g := newGateway(t, smallest)
	socket := filepath.Join(g.dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cmd := exec.Command(forebay(t), "run", "-c", g.conf)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=300000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		// It has ended already unless the test has failed.
		_ = cmd.Process.Kill()
	})
	hear := func(want string) {
		t.Helper()
		buf := make([]byte, 100)
		for {
			if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("no %s: %v", want, err)
			}
			if string(buf[:n]) == want {
				return
			}
		}
	}
	hear("READY=1")
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", g.port)); err != nil {
		t.Errorf("ready, but: %v", err)
	} else {
		c.Close()
	}
	hear("WATCHDOG=1")
	hear("WATCHDOG=1")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hear("STOPPING=1")
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("%v, want exit 0", err)
		}
	case <-time.After(patience):
		t.Error("it does not end")
	}
}

// A file that only one bridge needs is missed by name, and by nobody else.
func TestMissingBridgeFileStopsNothing(t *testing.T) {
	g := startGateway(t, smallest+`
bridges:
  - name: cloud
    addresses: ["mqtt://127.0.0.1:9"]
    username: gw
    password_file: cloud.password
    up: [{filter: "plant/#"}]
`)
	g.wait("WARN", "bridges[0].password_file", "cloud.password", "no such file")
	if code := g.stop(); code != 0 {
		t.Errorf("exit %d, want 0:\n%s", code, g.output())
	}
}

// The demo ends with Ctrl-C as well, and accounts for itself.
func TestDemoEndsWithInterrupt(t *testing.T) {
	p := start(t, forebay(t), "demo")
	p.wait("acknowledged", "uplink")
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := p.exitCode(); code != 0 || !strings.Contains(p.output(), "Nothing was lost, nothing duplicated.") {
		t.Errorf("exit %d:\n%s", code, p.output())
	}
}
