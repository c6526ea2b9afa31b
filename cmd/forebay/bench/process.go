package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program under measurement. Zero: unknown, nothing can be measured but traffic.
type process struct{ pid int }

// cpu returns the processor time that all threads of the process have used.
func (p process) cpu() (time.Duration, error) {
	if p.pid == 0 {
		return 0, errors.New("bench: the process is not known")
	}
	var t unix.Timespec
	// The kernel's number for "all processor time of that process" (clock_getcpuclockid).
	const scheduler = 2
	if err := unix.ClockGettime(int32(^p.pid<<3|scheduler), &t); err != nil {
		return 0, fmt.Errorf("bench: processor time of process %d: %w", p.pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// resident returns the bytes of memory that the process holds.
func (p process) resident() (int64, error) { return p.status("VmRSS") }

// anonymous is resident without the pages of files, which the kernel takes back when it needs them.
func (p process) anonymous() (int64, error) { return p.status("RssAnon") }

// status reads a line of the kernel's account of the process that is in kB.
func (p process) status(name string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			kb, err := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("bench: process %d has no %s", p.pid, name)
}

// child is a process that was started here and is stopped here.
type child struct {
	process
	cmd    *exec.Cmd
	output *bytes.Buffer // read only after cmd.Wait
	ended  chan error
}

// launch starts a program in a process group that dies with us.
func launch(dir string, argv []string) (*child, error) {
	c := &child{cmd: exec.Command(argv[0], argv[1:]...), output: new(bytes.Buffer), ended: make(chan error, 1)}
	c.cmd.Dir = dir
	c.cmd.Stdout, c.cmd.Stderr = c.output, c.output
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	c.pid = c.cmd.Process.Pid
	go func() { c.ended <- c.cmd.Wait() }()
	return c, nil
}

// stop ends the program and waits for it.
func (c *child) stop() {
	// An error means that it has ended already, which is what is wanted.
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(answerTime):
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}
