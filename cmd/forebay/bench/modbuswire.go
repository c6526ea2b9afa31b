package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// wiredSlave is a unit on a simulated serial line: a pseudo-terminal at whose far
// end every character takes its time.
type wiredSlave struct {
	port string // what a master opens

	master  *os.File
	hold    *os.File // the near end, open so that the far end sees no hang-up
	char    time.Duration
	silence time.Duration
	running sync.WaitGroup
}

// The frames of a read of 125 registers.
const (
	rtuRequest = 8
	rtuAnswer  = 5 + 2*registersPerRead
)

// startWire opens a line of a speed and answers what is read through it.
func startWire(baud int) (*wiredSlave, error) {
	w := &wiredSlave{char: 11 * time.Second / time.Duration(baud)}
	// Modbus serial §2.5.1.1: above 19200 bit/s the silence is fixed.
	if w.silence = w.char * 7 / 2; baud > 19200 {
		w.silence = 1750 * time.Microsecond
	}
	if err := w.open(); err != nil {
		return nil, fmt.Errorf("bench: pseudo-terminal: %w", err)
	}
	w.running.Go(w.serve)
	return w, nil
}

func (w *wiredSlave) open() error {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	w.master = os.NewFile(uintptr(fd), "/dev/ptmx")
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		return errors.Join(err, w.master.Close())
	}
	w.port = fmt.Sprintf("/dev/pts/%d", n)
	if w.hold, err = os.OpenFile(w.port, os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return errors.Join(err, w.master.Close())
	}
	return nil
}

// cycle is what one read takes on the wire: Modbus serial §2.5.1.
func (w *wiredSlave) cycle() time.Duration {
	return (rtuRequest+rtuAnswer)*w.char + 2*w.silence
}

// serve answers one request after the other until the line is closed.
func (w *wiredSlave) serve() {
	answer := make([]byte, rtuAnswer)
	answer[0], answer[1], answer[2] = 1, 3, 2*registersPerRead
	binary.LittleEndian.PutUint16(answer[rtuAnswer-2:], crc16(answer[:rtuAnswer-2]))
	var request [rtuRequest]byte
	for {
		if _, err := io.ReadFull(w.master, request[:]); err != nil {
			return
		}
		// A pseudo-terminal has carried the request in no time.
		next := time.Now().Add(rtuRequest*w.char + w.silence)
		const piece = 16 // what an adapter passes on at once
		for rest := answer; len(rest) > 0; {
			n := min(piece, len(rest))
			next = next.Add(time.Duration(n) * w.char)
			if sleepUntil(next) != nil {
				return
			}
			if _, err := w.master.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
	}
}

func (w *wiredSlave) stop() {
	// Nothing was written that matters.
	_ = w.master.Close()
	_ = w.hold.Close()
	w.running.Wait()
}

// crc16 is the checksum of an RTU frame: Modbus serial §6.2.2.
func crc16(b []byte) uint16 {
	crc := uint16(0xffff)
	for _, c := range b {
		crc ^= uint16(c)
		for range 8 {
			low := crc & 1
			crc >>= 1
			if low != 0 {
				crc ^= 0xa001
			}
		}
	}
	return crc
}
