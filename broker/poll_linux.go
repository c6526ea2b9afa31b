package broker

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// poller is one epoll instance and the eventfd that wakes it. Its methods belong to the loop, except wake.
type poller struct {
	epoll, event int // descriptors
	ready        [512]unix.EpollEvent
}

func newPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("broker: epoll: %w", err)
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		closeFD(epoll)
		return nil, fmt.Errorf("broker: eventfd: %w", err)
	}
	p := &poller{epoll: epoll, event: event}
	if err := p.add(event, 0, unix.EPOLLIN); err != nil {
		p.close()
		return nil, fmt.Errorf("broker: epoll: %w", err)
	}
	return p, nil
}

func (p *poller) close() {
	closeFD(p.epoll)
	closeFD(p.event)
}

// add watches a descriptor. Events come back with the generation given.
func (p *poller) add(fd int, generation int32, events uint32) error {
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: generation})
}

func (p *poller) modify(fd int, generation int32, events uint32) error {
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: generation})
}

// wait returns what is ready, valid until the next call; nothing after the timeout (0: it only looks) or a signal.
func (p *poller) wait(timeout time.Duration) ([]unix.EpollEvent, error) {
	n, err := unix.EpollWait(p.epoll, p.ready[:], int(timeout.Milliseconds()))
	if err == unix.EINTR {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("broker: epoll: %w", err)
	}
	return p.ready[:n], nil
}

// wake makes wait return. Any goroutine may call it.
func (p *poller) wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	// It fails only when the counter is full, and then the loop is being woken already.
	_, _ = unix.Write(p.event, one[:])
}

// woken takes the wake-ups that have come.
func (p *poller) woken() {
	var count [8]byte
	// EAGAIN means that there was none: nothing depends on it.
	_, _ = unix.Read(p.event, count[:])
}
