package bridge

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// bindToDevice names the system call in errors.
const bindToDevice = "setsockopt SO_BINDTODEVICE"

// newDialer returns what connects, from the interface or address that Config.Bind names. Names with addresses of both
// families get both tried, the second one after 300 ms, as RFC 6555 has it: net.Dialer does so unless told otherwise.
func newDialer(bind string) *net.Dialer {
	d := &net.Dialer{}
	switch ip := net.ParseIP(bind); {
	case ip != nil:
		d.LocalAddr = &net.TCPAddr{IP: ip}
	case bind != "":
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var failed error
			err := c.Control(func(fd uintptr) {
				failed = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, bind)
			})
			if err == nil {
				err = os.NewSyscallError(bindToDevice, failed)
			}
			return err
		}
	}
	return d
}
