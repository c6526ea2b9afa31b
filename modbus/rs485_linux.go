package modbus

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rs485 is struct serial_rs485 of linux/serial.h.
type rs485 struct {
	flags       uint32
	delayBefore uint32 // in milliseconds
	delayAfter  uint32 // likewise
	_           [5]uint32
}

// Flags of rs485.
const (
	rs485Enabled      = 1 << 0
	rs485RTSOnSend    = 1 << 1
	rs485RTSAfterSend = 1 << 2
)

// kernel returns the settings as the kernel takes them.
func (r *RS485Config) kernel() rs485 {
	s := rs485{
		flags:       rs485Enabled | rs485RTSOnSend,
		delayBefore: uint32(r.DelayBeforeSend / time.Millisecond),
		delayAfter:  uint32(r.DelayAfterSend / time.Millisecond),
	}
	if r.RTSOnSend == "low" {
		s.flags = rs485Enabled | rs485RTSAfterSend
	}
	return s
}

// setRS485 hands the direction of a line to the driver of its port.
func setRS485(fd int, cfg *RS485Config) error {
	settings := cfg.kernel()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSRS485, uintptr(unsafe.Pointer(&settings)))
	if errno != 0 {
		return fmt.Errorf("the driver of this port cannot switch an RS-485 line (remove rs485 if the adapter does it by itself): %w", errno)
	}
	return nil
}
