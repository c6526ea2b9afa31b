package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// socketFile is the name of a Unix socket that this process has bound.
type socketFile struct {
	path string
	info fs.FileInfo
}

// socketMode lets those in who share the group of the process.
const socketMode = 0o660

// listenUnix binds a Unix socket. One that a process has left behind which is gone is replaced; what is no socket, or
// one that somebody still listens on, is not.
func listenUnix(path string) (net.Listener, *socketFile, error) {
	if err := removeStale(path); err != nil {
		return nil, nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	l.SetUnlinkOnClose(false) // it is closed long before the socket, see listen
	err = os.Chmod(path, socketMode)
	info, statErr := os.Lstat(path)
	if err := errors.Join(err, statErr); err != nil {
		// Without its info nobody can tell later whether the file is still this socket's.
		return nil, nil, errors.Join(err, l.Close(), os.Remove(path))
	}
	return l, &socketFile{path, info}, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there already and is no socket", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		return errors.Join(syscall.EADDRINUSE, conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// remove removes the file unless it is another socket's by now. It touches the disk: not for the loop.
func (f *socketFile) remove() {
	if f == nil {
		return
	}
	if info, err := os.Lstat(f.path); err == nil && os.SameFile(info, f.info) {
		_ = os.Remove(f.path) // the next start replaces what is left
	}
}
