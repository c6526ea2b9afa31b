package modbus

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openSerial returns a function that opens the port as RTU needs it: raw bytes,
// for this process alone, driven by the runtime's poller. So reads have
// deadlines, any descriptor number works, and unplugging an adapter ends a read
// with an error instead of an endless loop of empty reads.
func openSerial(cfg SerialConfig) func(context.Context) (stream, error) {
	return func(context.Context) (stream, error) {
		fd, err := unix.Open(cfg.Port, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", cfg.Port, err)
		}
		if err := configureSerial(fd, cfg); err != nil {
			return nil, errors.Join(fmt.Errorf("set up %s: %w", cfg.Port, err), unix.Close(fd))
		}
		return os.NewFile(uintptr(fd), cfg.Port), nil
	}
}

// configureSerial makes the terminal a plain byte channel with the speed and
// framing of cfg.
func configureSerial(fd int, cfg SerialConfig) error {
	attr, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		return fmt.Errorf("not a serial port: %w", err)
	}
	// Before anything is changed: TIOCEXCL keeps everybody out but the
	// superuser, the lock every program that asks for it.
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another program has it open: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil {
		return err
	}
	attr.Iflag = unix.IGNBRK
	attr.Oflag = 0
	attr.Lflag = 0
	// BOTHER takes the speed as a number, also one that has no constant.
	attr.Cflag = unix.CREAD | unix.CLOCAL | unix.CS8 | unix.BOTHER
	if cfg.DataBits == 7 {
		attr.Cflag = attr.Cflag&^unix.CSIZE | unix.CS7
	}
	attr.Ispeed, attr.Ospeed = uint32(cfg.Baud), uint32(cfg.Baud)
	switch cfg.Parity {
	case "even":
		attr.Cflag |= unix.PARENB
		attr.Iflag |= unix.INPCK
	case "odd":
		attr.Cflag |= unix.PARENB | unix.PARODD
		attr.Iflag |= unix.INPCK
	}
	if cfg.StopBits == 2 {
		attr.Cflag |= unix.CSTOPB
	}
	attr.Cc[unix.VMIN] = 1 // a read of nothing means that the line is gone
	attr.Cc[unix.VTIME] = 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, attr); err != nil {
		return err
	}
	if cfg.RS485 != nil {
		if err := setRS485(fd, cfg.RS485); err != nil {
			return err
		}
	}
	return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH)
}
