package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const storeConfig = `
site: plant
storage: {path: store, max_size: 24MiB}
broker:
  listeners: [{address: "127.0.0.1:%PORT%", anonymous: true}]
bridges:
  - name: cloud
    addresses: ["mqtt://127.0.0.1:1"]
    up: [{filter: "plant/#", qos: 1}]
`

// held is what the gateway of these tests holds for its bridge: lines and one
// message that is no text.
const held = 6001

// publish sends lines, or a file, as messages of QoS 1.
func (g *gateway) publish(stdin string, args ...string) {
	g.t.Helper()
	cmd := exec.Command(program(g.t, "mosquitto_pub"), append([]string{"-p", fmt.Sprint(g.port), "-q", "1"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		g.t.Fatalf("mosquitto_pub: %v: %s", err, out)
	}
}

// store runs a store tool on the gateway's store and returns what it printed.
func (g *gateway) store(wantCode int, args ...string) (stdout, stderr string) {
	g.t.Helper()
	return storeTool(g.t, wantCode, "", append(args, "--config", g.conf)...)
}

func storeTool(t *testing.T, wantCode int, stdin string, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(forebay(t), append([]string{"store"}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	// The exit code is judged below.
	_ = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != wantCode {
		t.Fatalf("store %q: exit code %d, want %d:\n%s%s", args, code, wantCode, &out, &errs)
	}
	return out.String(), errs.String()
}

func contains(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q is missing in:\n%s", word, text)
		}
	}
}

// backlog is a gateway that was killed with a backlog of several segments, with
// the last messages in its journal only.
func backlog(t *testing.T) *gateway {
	t.Helper()
	g := startGateway(t, storeConfig)
	sub := program(t, "mosquitto_sub")
	if out, err := exec.Command(sub, "-p", fmt.Sprint(g.port), "-c", "-i", "meter7", "-q", "1", "-t", "bin/#", "-E").CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_sub: %v: %s", err, out)
	}
	var lines strings.Builder
	for i := range held - 1 {
		fmt.Fprintf(&lines, "%d %01000d\n", i, 0)
	}
	g.publish(lines.String(), "-t", "plant/text", "-l")
	g.publish("", "-t", "plant/bin", "-r", "-f", write(t, g.dir, "bin", "\xff\x00\xfe"))
	g.publish("", "-t", "bin/ä", "-m", "für <meter>")
	_, errs := g.store(1, "info")
	contains(t, errs, "in use by another process", fmt.Sprintf("process %d", g.cmd.Process.Pid), "systemctl stop forebay")
	g.kill()
	return g
}

func TestStoreTools(t *testing.T) {
	g := backlog(t)
	dir := filepath.Join(g.dir, "store")

	out, _ := g.store(0, "info")
	contains(t, out, dir, "bridge cloud    6001 ", "session meter7  1 ", "sessions       1\n", "retained       1\n")
	out, _ = g.store(0, "info", "--json")
	var info struct {
		Consumers []struct {
			Name     string
			Messages int
			Age      float64 `json:"age_seconds"`
		}
		Segments int
		Tables   struct{ Retained int }
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil || len(info.Consumers) != 2 || info.Consumers[0].Messages != held ||
		info.Consumers[0].Age <= 0 || info.Segments < 2 || info.Tables.Retained != 1 {
		t.Errorf("%v: %s", err, out)
	}
	out, _ = g.store(0, "check")
	contains(t, out, "sound: 6002 waiting for 2 consumers")

	out, _ = g.store(0, "export", "--consumer", "meter7")
	contains(t, out, `{"consumers":["session meter7"],"topic":"bin/ä","time":"`, `"qos":1,"retain":false,"payload":"für <meter>"}`)
	if n := strings.Count(out, "\n"); n != 1 {
		t.Errorf("%d lines", n)
	}
	out, _ = g.store(0, "export")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != held+1 {
		t.Fatalf("%d lines", len(lines))
	}
	contains(t, lines[0], `"payload":"0 000`)
	contains(t, lines[held-1], `"topic":"plant/bin"`, `"retain":true,"payload_base64":"/wD+"}`)
	_, errs := g.store(1, "export", "--consumer", "clout")
	contains(t, errs, `there are "bridge cloud", "session meter7"`)

	out, _ = g.store(0, "repair", "--dry-run")
	contains(t, out, "nothing to repair")
	_, errs = g.store(2, "purge")
	contains(t, errs, "--consumer NAME")
	_, errs = g.store(1, "purge", "--consumer", "cloud", "--before", "1h")
	contains(t, errs, "Of the 6001 messages", "not confirmed; nothing was changed")
	out, _ = storeTool(t, 0, "yes\n", "purge", "--store", dir, "--consumer", "bridge cloud", "--before", "1h")
	contains(t, out, "bridge cloud: 0 messages dropped")
	out, _ = g.store(0, "purge", "--consumer", "cloud", "--all", "--yes")
	contains(t, out, "bridge cloud: 6001 messages dropped\n")
	out, _ = g.store(0, "purge", "--consumer", "session meter7", "--yes")
	contains(t, out, "session meter7: 1 message dropped, consumer removed")
	out, _ = g.store(0, "info")
	contains(t, out, "bridge cloud  0 ", "dropped 6001: purged", "sessions       0\n", "subscriptions  0\n", "retained       1\n")

	// The gateway goes on with what is left.
	g.restart()
	g.publish("", "-t", "plant/text", "-m", "again")
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, g.tail())
	}
	out, _ = g.store(0, "export")
	contains(t, out, `"payload":"again"`)
}

// copyStore copies the store of a gateway that has ended.
func copyStore(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "store")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestStoreToolsOnDamage(t *testing.T) {
	g := backlog(t)
	edit := func(change func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			t.Helper()
			b, err := os.ReadFile(file)
			if err == nil {
				err = os.WriteFile(file, change(b), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name, file string
		injure     func(t *testing.T, file string)
		lost       bool
	}{
		{"segment garbled", "00000001.seg", edit(func(b []byte) []byte {
			for i := len(b) / 3; i < len(b)/3+9000; i++ {
				b[i] ^= byte(i)
			}
			return b
		}), true},
		{"segment truncated", "00000001.seg", edit(func(b []byte) []byte { return b[:5*4096] }), true},
		{"state missing", "state.db", func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"state of zeros", "state.db", edit(func(b []byte) []byte { return make([]byte, len(b)) }), false},
		{"journal without headers", "journal", edit(func(b []byte) []byte { clear(b[:8192]); return b }), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := copyStore(t, filepath.Join(g.dir, "store"))
			tt.injure(t, filepath.Join(dir, tt.file))
			out, errs := storeTool(t, 1, "", "check", "--store", dir)
			name := tt.file
			if tt.file == "state.db" {
				name = "state file"
			}
			contains(t, out, name, "repair")
			contains(t, errs, "finding")
			out, _ = storeTool(t, 0, "", "export", "--store", dir)
			exported := strings.Count(out, "\n")
			if (exported < held+1) != tt.lost || exported < held/4 {
				t.Errorf("%d lines exported", exported)
			}
			out, _ = storeTool(t, 0, "", "info", "--store", dir)
			contains(t, out, "bridge cloud", "session meter7")
			storeTool(t, 0, "", "repair", "--store", dir, "--dry-run")
			storeTool(t, 1, "", "check", "--store", dir)
			out, _ = storeTool(t, 0, "", "repair", "--store", dir)
			contains(t, out, name, "repaired")
			out, _ = storeTool(t, 0, "", "check", "--store", dir)
			contains(t, out, fmt.Sprintf("sound: %d waiting", exported))
		})
	}
}

// A store that a newer program has written is left alone by all tools.
func TestStoreOfNewerVersion(t *testing.T) {
	g := startGateway(t, storeConfig)
	if code := g.stop(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, g.tail())
	}
	dir := filepath.Join(g.dir, "store")
	state := filepath.Join(dir, "state.db")
	b, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	newer := bytes.ReplaceAll(b, []byte("version\x00\x00\x00\x01"), []byte("version\x00\x00\x00\x02"))
	if bytes.Equal(b, newer) {
		t.Fatal("the version is not where it was")
	}
	if err := os.WriteFile(state, newer, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tool := range [][]string{{"info"}, {"check"}, {"export"}, {"repair"}, {"repair", "--dry-run"}, {"purge", "--consumer", "cloud", "--yes"}} {
		_, errs := storeTool(t, 1, "", append(tool, "--store", dir)...)
		contains(t, errs, "state.db was written by a newer forebay", "nothing was changed")
	}
	if after, err := os.ReadFile(state); err != nil || !slices.Equal(after, newer) {
		t.Errorf("the state has changed; %v", err)
	}
}

// What root repairs or purges still belongs to the user of the gateway.
func TestStoreKeepsItsOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	g := backlog(t)
	dir := filepath.Join(g.dir, "store")
	for path := dir; path != "/" && path != os.TempDir(); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const nobody = 65534
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, dir) {
		if err := os.Chown(file, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	g.store(0, "purge", "--consumer", "cloud", "--yes")
	g.store(0, "repair")
	files, err = filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != nobody {
			t.Errorf("%s belongs to %d", file, owner)
		}
	}
}

// A gateway that runs tells the same through its control socket.
func TestStoreToolsOnline(t *testing.T) {
	g := startGateway(t, storeConfig+"api: {socket: sock}\n")
	g.publish("1\n2\n3\n", "-t", "plant/a", "-l")
	out, _ := g.store(0, "info")
	contains(t, out, "bridge cloud  3 ", "segments", "journal")
	out, _ = g.store(0, "info", "--json")
	contains(t, out, `"name":"bridge cloud","messages":3`)
	out, _ = g.store(0, "export", "--consumer", "cloud")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 3 || !strings.Contains(lines[2], `"topic":"plant/a"`) || !strings.Contains(lines[2], `"payload":"3"`) {
		t.Errorf("%s", out)
	}
	_, errs := g.store(1, "export", "--consumer", "clout")
	contains(t, errs, `there is no consumer "clout"`)
	for _, tool := range [][]string{{"check"}, {"repair"}, {"repair", "--dry-run"}, {"purge", "--consumer", "cloud", "--yes"}} {
		_, errs := g.store(1, tool...)
		contains(t, errs, "in use by another process", "stop that gateway first")
	}
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, g.tail())
	}
}
