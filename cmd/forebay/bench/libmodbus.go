package bench

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed libmodbus/peer.c
var libmodbusPeer []byte

// errNoLibmodbus says what is missing for a comparison.
var errNoLibmodbus = errors.New("not measured: the C compiler or libmodbus is missing (apt-get install gcc libmodbus-dev)")

// libmodbus is a program made of a few lines of C and the library.
type libmodbus struct{ program string }

// buildLibmodbus compiles the program into dir.
func buildLibmodbus(ctx context.Context, dir string) (*libmodbus, error) {
	source, program := filepath.Join(dir, "peer.c"), filepath.Join(dir, "peer")
	if err := os.WriteFile(source, libmodbusPeer, 0o600); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "gcc", "-O2", "-o", program, source, "-I/usr/include/modbus", "-lmodbus").CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && (errors.Is(err, exec.ErrNotFound) || strings.Contains(string(out), "modbus.h") || strings.Contains(string(out), "lmodbus")):
		return nil, errNoLibmodbus
	case err != nil:
		return nil, fmt.Errorf("bench: gcc: %w: %s", err, out)
	}
	return &libmodbus{program}, nil
}

// slave starts the slave and returns its address. stop ends it.
func (l *libmodbus) slave() (address string, stop func(), err error) {
	cmd := exec.Command(l.program, "slave")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return "", nil, fmt.Errorf("bench: the slave of libmodbus: %w", err)
	}
	stop = func() {
		// It has no other end: that it was killed is no news.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("bench: the slave of libmodbus does not start: %w", err)
	}
	return "127.0.0.1:" + strings.TrimSpace(port), stop, nil
}

// reads returns how many reads of 125 registers a second the client makes.
func (l *libmodbus) reads(ctx context.Context, address string, duration time.Duration) (float64, error) {
	port := address[strings.LastIndexByte(address, ':')+1:]
	out, err := exec.CommandContext(ctx, l.program, "client", port, fmt.Sprint(duration.Seconds())).Output()
	if err != nil {
		return 0, fmt.Errorf("bench: the client of libmodbus: %w", err)
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}
