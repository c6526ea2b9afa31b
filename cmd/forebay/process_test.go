package main_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait in the end-to-end tests. It only decides how long
// a broken build takes to fail: no test passes or fails by being fast or slow.
const patience = 60 * time.Second

// program finds a peer that apt installs. Without it the test is skipped,
// except in CI, where a missing peer is a failure.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	missing(t, name)
	return ""
}

func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed, and in CI it must be (see `make peers`)", what)
	}
	t.Skipf("%s is not installed (see `make peers`)", what)
}

// forebay is the real binary, built once for all tests of a run.
var buildForebay = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "forebay-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "forebay")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func forebay(t *testing.T) string {
	t.Helper()
	path, err := buildForebay()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// process is a program under test or one of its peers. It is killed, by its
// pid, when the test ends.
type process struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	exit  chan struct{} // closed when the program has ended

	mu    sync.Mutex
	lines []string      // everything it printed
	grown chan struct{} // closed and replaced at every new line
}

func start(t *testing.T, path string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: filepath.Base(path), cmd: exec.Command(path, args...),
		exit: make(chan struct{}), grown: make(chan struct{})}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	output, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		p.read(output)
	}()
	go func() {
		// The exit code is asked for by those who care, in exitCode.
		_ = p.cmd.Wait()
		<-drained
		close(p.exit)
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) read(r io.Reader) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, scanner.Text())
		close(p.grown)
		p.grown = make(chan struct{})
		p.mu.Unlock()
	}
}

// kill is kill -9; it returns when the program is gone.
func (p *process) kill() {
	select {
	case <-p.exit:
		return
	default:
	}
	if err := p.cmd.Process.Kill(); err != nil && err != os.ErrProcessDone {
		p.t.Errorf("kill %s: %v", p.name, err)
	}
	<-p.exit
}

// stop asks with SIGTERM and returns the exit code.
func (p *process) stop() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && err != os.ErrProcessDone {
		p.t.Fatalf("stop %s: %v", p.name, err)
	}
	return p.exitCode()
}

func (p *process) exitCode() int {
	p.t.Helper()
	select {
	case <-p.exit:
	case <-time.After(patience):
		p.t.Fatalf("%s does not end; it printed:\n%s", p.name, p.tail())
	}
	return p.cmd.ProcessState.ExitCode()
}

// output is everything it printed.
func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// tail is the end of what it printed, for the message of a failure.
func (p *process) tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines[max(0, len(p.lines)-40):], "\n")
}

// find waits for a line, from line number `from` on, that holds all the words, and returns it.
func (p *process) find(from int, words ...string) string {
	p.t.Helper()
	deadline := time.After(patience)
	for at := from; ; {
		p.mu.Lock()
		for ; at < len(p.lines); at++ {
			if containsAll(p.lines[at], words) {
				defer p.mu.Unlock()
				return p.lines[at]
			}
		}
		grown := p.grown
		p.mu.Unlock()
		select {
		case <-grown:
		case <-p.exit:
			if !p.has(at, words) {
				p.t.Fatalf("%s ended without a line with %q; it printed:\n%s", p.name, words, p.tail())
			}
		case <-deadline:
			p.t.Fatalf("%s printed no line with %q, but:\n%s", p.name, words, p.tail())
		}
	}
}

// wait is find in everything it printed so far and will print.
func (p *process) wait(words ...string) string {
	p.t.Helper()
	return p.find(0, words...)
}

func (p *process) has(from int, words []string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines[min(from, len(p.lines)):] {
		if containsAll(line, words) {
			return true
		}
	}
	return false
}

// printed is the number of lines so far.
func (p *process) printed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.lines)
}

func containsAll(line string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(line, word) {
			return false
		}
	}
	return true
}

// freePort asks the kernel for a port that nobody uses now. Programs that
// cannot tell us the port they chose get theirs from here.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// listening waits until something accepts connections on the port.
func (p *process) listening(port int) *process {
	p.t.Helper()
	return p.answers("tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

// answers waits until the program accepts connections there.
func (p *process) answers(network, address string) *process {
	p.t.Helper()
	end := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial(network, address)
		if err == nil {
			conn.Close()
			return p
		}
		select {
		case <-p.exit:
			p.t.Fatalf("%s ended before it listened on %s:\n%s", p.name, address, p.tail())
		case <-tick.C:
			if time.Now().After(end) {
				p.t.Fatalf("%s does not listen on %s:\n%s", p.name, address, p.tail())
			}
		}
	}
}

// write puts a file into the directory and returns its path.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs a program to its end and returns its exit code and what it printed.
func run(t *testing.T, path string, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if _, ended := err.(*exec.ExitError); err != nil && !ended {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}
