package main_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// setPassword runs forebay passwd with a password on standard input.
func setPassword(t *testing.T, password string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command(forebay(t), append([]string{"passwd"}, args...)...)
	cmd.Stdin = strings.NewReader(password)
	out, err := cmd.CombinedOutput()
	if _, ran := err.(*exec.ExitError); err != nil && !ran {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func TestPasswdMakesUsersOfTheBroker(t *testing.T) {
	pub := program(t, "mosquitto_pub")
	dir := t.TempDir()
	file := filepath.Join(dir, "passwd")
	for _, step := range []struct {
		password string
		args     []string
		code     int
		says     string
	}{
		{"x\n", []string{"--stdin", file, "alice"}, 1, "-c makes it"},
		{"secret\nnot this line", []string{"-c", "--stdin", file, "alice"}, 0, ""},
		{"x", []string{"-c", "--stdin", file, "bob"}, 1, "is there already"},
		{"se:cret", []string{"--stdin", "--hash", "sha512-pbkdf2", file, "bob"}, 0, ""},
		{"x", []string{"--stdin", "--hash", "crypt", file, "carol"}, 2, "--hash"},
		{"\n", []string{"--stdin", file, "carol"}, 1, "empty"},
		{strings.Repeat("x", 5000), []string{"--stdin", file, "carol"}, 1, "longer"},
		{"x", []string{file, "carol"}, 1, "no terminal"},
		{"x", []string{"--stdin", file, "ca:rol"}, 1, "cannot be a user name"},
		{"x", []string{"-D", file, "carol"}, 1, `no user "carol"`},
		{"old", []string{"--stdin", file, "dave"}, 0, ""},
		{"new", []string{"--stdin", file, "dave"}, 0, ""},
		{"x", []string{"--stdin", file, "erin"}, 0, ""},
		{"", []string{"-D", file, "erin"}, 0, ""},
	} {
		if code, out := setPassword(t, step.password, step.args...); code != step.code || !strings.Contains(out, step.says) {
			t.Errorf("passwd %q: exit code %d: %s", step.args, code, out)
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(file)
	if err != nil || strings.Count(string(text), "\n") != 3 || strings.Contains(string(text), "secret") {
		t.Errorf("%v: %s", err, text)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	port := freePort(t)
	start(t, forebay(t), "run", "-c", write(t, dir, "forebay.yaml", "storage: {path: data}\nbroker:\n  password_file: passwd\n  listeners: [{address: '127.0.0.1:"+strconv.Itoa(port)+"'}]\n")).listening(port)
	for _, login := range []struct {
		user, password string
		ok             bool
	}{{"alice", "secret", true}, {"bob", "se:cret", true}, {"dave", "new", true}, {"dave", "old", false}, {"erin", "x", false}} {
		code, out := run(t, pub, "-p", strconv.Itoa(port), "-u", login.user, "-P", login.password, "-t", "x", "-m", "y")
		if (code == 0) != login.ok {
			t.Errorf("login of %s with %s: exit code %d: %s", login.user, login.password, code, out)
		}
	}
}

// What an editor or an administrator has made of the file stays: order, comments, owner, mode, a link to it.
func TestPasswdKeepsTheRest(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "real", "# ours\nzoe:$6$c2FsdA==$"+strings.Repeat("A", 86)+"==\n\nalice:$6$c2FsdA==$"+strings.Repeat("A", 86)+"==")
	if err := os.Chmod(filepath.Join(dir, "real"), 0o604); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"zoe", "bob"} {
		if code, out := setPassword(t, "secret", "--stdin", link, user); code != 0 {
			t.Fatalf("exit code %d: %s", code, out)
		}
	}
	info, err := os.Lstat(link)
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v", err)
	}
	if info, err = os.Stat(link); err != nil || info.Mode() != 0o604 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(link)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		names = append(names, name)
	}
	if got := strings.Join(names, ","); got != "# ours,zoe,,alice,bob" {
		t.Errorf("lines %s", got)
	}
	write(t, dir, "real", "nonsense\n")
	if code, out := setPassword(t, "secret", "--stdin", link, "bob"); code != 1 || !strings.Contains(out, "line 1") {
		t.Errorf("a file that would not be accepted: exit code %d: %s", code, out)
	}
}

// At a terminal the password is asked for twice and not shown.
func TestPasswdAtATerminal(t *testing.T) {
	for _, typed := range []struct {
		first, second string
		code          int
	}{{"secret", "secret", 0}, {"secret", "secert", 1}} {
		file := filepath.Join(t.TempDir(), "passwd")
		master, slave := terminal(t)
		cmd := exec.Command(forebay(t), "passwd", "-c", file, "alice")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := slave.Close(); err != nil {
			t.Fatal(err)
		}
		if err := master.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		shown := readUntil(t, master, "Password: ")
		if _, err := io.WriteString(master, typed.first+"\n"); err != nil {
			t.Fatal(err)
		}
		shown += readUntil(t, master, "Password again: ")
		if _, err := io.WriteString(master, typed.second+"\n"); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(master) // ends with an error when the other side is closed
		shown += string(rest)
		_ = cmd.Wait() // the exit code is looked at
		if cmd.ProcessState.ExitCode() != typed.code || strings.Contains(shown, "sec") {
			t.Errorf("%v: exit code %d, shown %q", typed, cmd.ProcessState.ExitCode(), shown)
		}
		if _, err := os.Stat(file); (err == nil) != (typed.code == 0) {
			t.Errorf("%v: the file: %v", typed, err)
		}
	}
}

// terminal opens a pair of pseudo terminals.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		missing(t, "a pseudo terminal")
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	t.Cleanup(func() { _ = master.Close() }) // nothing was written to it that matters
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func readUntil(t *testing.T, r io.Reader, want string) string {
	t.Helper()
	var got []byte
	for one := make([]byte, 1); !bytes.HasSuffix(got, []byte(want)); {
		if _, err := r.Read(one); err != nil {
			t.Fatalf("waiting for %q: %v, got %q", want, err, got)
		}
		got = append(got, one[0])
	}
	return string(got)
}

// A reload takes new passwords and disconnects who has an old one; a file that cannot be used changes nothing, and the
// command says why.
func TestReloadReadsUsersAgain(t *testing.T) {
	program(t, "mosquitto_sub")
	g := newGateway(t, strings.Replace(controlled, "anonymous: true}]", "anonymous: true}], password_file: passwd", 1))
	file := filepath.Join(g.dir, "passwd")
	set := func(password string, args ...string) {
		t.Helper()
		if code, out := setPassword(t, password, append(args, "--stdin", file, "alice")...); code != 0 {
			t.Fatalf("passwd: exit code %d: %s", code, out)
		}
	}
	set("old", "-c")
	g.restart()
	watch(t, g.port, "-t", "#", "-u", "alice", "-P", "old")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, g.dir, "passwd", "nonsense\n")
	if code, out := g.ask("reload"); code == 0 || !strings.Contains(out, "line 1") {
		t.Errorf("reload of a bad file: exit code %d: %s", code, out)
	}
	publish(t, g.port, "-u", "alice", "-P", "old", "-t", "x", "-m", "y")
	write(t, g.dir, "passwd", string(good))
	set("new")
	g.mustAsk("reload")
	g.wait("client disconnected", "username=alice", "another password")
	publish(t, g.port, "-u", "alice", "-P", "new", "-t", "x", "-m", "y")
}
