package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Functions besides those that read and write.
const (
	reportServerID = 17
	encapsulated   = 43
)

// maxPDU is the longest function code and data: Modbus §4.1.
const maxPDU = 253

// ask makes any request that checkRequest lets through and returns the PDU of the
// answer, which may be an exception, valid until the next request.
func (c *client) ask(ctx context.Context, unit byte, request []byte) ([]byte, error) {
	writes := writing(request[0])
	fresh, err := c.begin(ctx, writes)
	if err != nil {
		return nil, err
	}
	defer c.end()
	answer, err := c.askOnce(unit, request)
	if errors.Is(err, errLost) && !fresh && !writes {
		if _, err := c.connect(ctx, false); err != nil {
			return nil, err
		}
		answer, err = c.askOnce(unit, request)
	}
	return answer, err
}

func (c *client) askOnce(unit byte, request []byte) ([]byte, error) {
	c.frame = c.frame[:0]
	if c.mbap {
		c.frame = append(c.frame, 0, 0, 0, 0)
		c.frame = binary.BigEndian.AppendUint16(c.frame, uint16(len(request)+1))
	}
	c.frame = append(append(c.frame, unit), request...)
	if !c.mbap {
		c.frame = appendCRC(c.frame)
	}
	answer, err := c.transport.Send(c.frame)
	if err != nil {
		return nil, err
	}
	return pduOf(answer, c.mbap), nil
}

// writing reports whether a function changes something in the device.
func writing(function byte) bool {
	return function == 5 || function == 6 || function == 15 || function == 16 || function == 22
}

// CheckRequest reports what is wrong with a request PDU (function code and data)
// of the functions that this package knows: those that read and write coils and
// registers (1 to 6, 15, 16, 22) and those that identify a device (17, and 43 with
// 14). The error is an *ExceptionError with the code by which Modbus §7 refuses
// it.
func CheckRequest(pdu []byte) error {
	if len(pdu) == 0 || len(pdu) > maxPDU {
		return &ExceptionError{0, illegalFunction}
	}
	function := pdu[0]
	word := func(i int) int { return int(binary.BigEndian.Uint16(pdu[i:])) }
	wrong := &ExceptionError{function, illegalDataValue}
	most := 1
	switch function {
	case 1, 2:
		most = maxBits
	case 3, 4:
		most = maxRegisters
	case 15:
		most = 1968 // Modbus §6.11
	case 16:
		most = 123 // Modbus §6.12
	case 5, 6, 22:
	case reportServerID:
		if len(pdu) != 1 {
			return wrong
		}
		return nil
	case encapsulated: // Modbus §6.21
		if len(pdu) != 4 || pdu[1] != 14 || pdu[2] < 1 || pdu[2] > 4 {
			return wrong
		}
		return nil
	default:
		return &ExceptionError{function, illegalFunction}
	}
	if len(pdu) < 5 {
		return wrong
	}
	count, size := 1, 5
	switch function {
	case 5:
		if v := word(3); v != 0 && v != 0xff00 { // Modbus §6.5
			return wrong
		}
	case 22:
		size = 7
	case 6:
	default:
		count = word(3)
	}
	if count < 1 || count > most {
		return wrong
	}
	switch function {
	case 15:
		size = 6 + (count+7)/8
	case 16:
		size = 6 + 2*count
	}
	counted := function == 15 || function == 16
	if len(pdu) != size || counted && int(pdu[5]) != size-6 {
		return wrong
	}
	if word(1)+count > 65536 {
		return &ExceptionError{function, illegalDataAddress}
	}
	return nil
}

// question is one request by hand on its way to the goroutine of a link.
type question struct {
	// Constant after Ask made it.
	ctx     context.Context // of the caller: when it ends the request is not sent any more
	client  *client
	unit    byte
	request []byte

	// Written by the goroutine of the link before it closes answered.
	answer   []byte
	took     time.Duration
	err      error
	answered chan struct{}
}

func (q *question) execute(ctx context.Context) {
	defer close(q.answered)
	if q.ctx.Err() != nil {
		q.err = refuse("nobody waits for it any more")
		return
	}
	begin := time.Now()
	answer, err := q.client.ask(ctx, q.unit, q.request)
	q.answer, q.err, q.took = append([]byte(nil), answer...), err, time.Since(begin)
}

// Ask sends one request PDU that CheckRequest lets through to a unit of a link,
// which need not be configured, and returns the PDU of the answer, which may be an
// exception. It is done between two scheduled reads, as a write is, one at a time
// for each connection. After a request that was not answered the next one has to
// wait, so that together they cost at most a fifth of the link's time.
//
// A *RefusedError means that nothing was sent. Other errors are those of the
// package.
func (p *Poller) Ask(ctx context.Context, link string, unit byte, request []byte) ([]byte, error) {
	if err := CheckRequest(request); err != nil {
		return nil, refuse("no request that can be passed on: %v", plain(err))
	}
	l := p.connectionOf(link, unit)
	if l == nil {
		return nil, refuse("there is no link %s", link)
	}
	if unit == 0 && !l.client.mbap {
		return nil, refuse("unit 0 is everybody on a serial line, and nobody answers")
	}
	select {
	case l.asking <- struct{}{}:
		defer func() { <-l.asking }()
	case <-ctx.Done():
		return nil, refuse("others ask on this link")
	}
	q := &question{ctx: ctx, client: l.client, unit: unit, request: request, answered: make(chan struct{})}
	select {
	case l.commands <- q:
	case <-ctx.Done():
		return nil, refuse("the link had other things to do: %v", context.Cause(ctx))
	case <-l.done:
		return nil, refuse("the poller has stopped")
	}
	<-q.answered // a link answers every task that it took, within a few timeouts
	if errors.Is(q.err, ErrTimeout) {
		sleep(ctx, probeShare*q.took)
	}
	return q.answer, q.err
}

// connectionOf returns the connection of a link that serves a unit; the first
// where none does; nil if there is no such link.
func (p *Poller) connectionOf(name string, unit byte) (first *link) {
	for _, l := range p.links {
		if l.config.Name != name {
			continue
		}
		if first == nil {
			first = l
		}
		for _, u := range l.units {
			if u.id == unit {
				return l
			}
		}
	}
	return first
}

// Carrier takes request PDUs to units and brings their answers, as Poller.Ask
// does.
type Carrier func(ctx context.Context, unit byte, request []byte) ([]byte, error)

// NewCarriedClient is NewClient for a client whose requests go through carry
// instead of a connection; what cfg says of one is not used.
func NewCarriedClient(cfg LinkConfig, carry Carrier) (*Client, error) {
	c, err := NewClient(cfg)
	if err != nil {
		return nil, err
	}
	t := &carried{carry: carry}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	c.link.client.mbap = true // of whatever link there is
	c.link.client = c.link.client.over(t)
	return c, nil
}

// carried is the transport of a client whose requests somebody else takes to the
// device.
type carried struct {
	ctx    context.Context // until stop
	cancel context.CancelFunc
	carry  Carrier
	last   uint16
	answer []byte
}

func (t *carried) connect(context.Context, bool) (fresh bool, err error) { return false, nil }
func (t *carried) drop()                                                 {}
func (t *carried) stop()                                                 { t.cancel() }
func (t *carried) heard() tally                                          { return tally{} }

// Send passes on what is in an MBAP frame, and makes one of the answer, valid
// until the next Send.
func (t *carried) Send(frame []byte) ([]byte, error) {
	t.last++
	binary.BigEndian.PutUint16(frame, t.last)
	answer, err := t.carry(t.ctx, frame[mbapSize-1], frame[mbapSize:])
	if err != nil {
		return nil, err
	}
	if len(answer) == 0 || len(answer) > maxPDU || answer[0]&0x7f != frame[mbapSize]&0x7f {
		return nil, fmt.Errorf("modbus: what came is no answer to function %d", frame[mbapSize])
	}
	t.answer = append(append(t.answer[:0], frame[:mbapSize]...), answer...)
	binary.BigEndian.PutUint16(t.answer[4:], uint16(len(answer)+1))
	return t.answer, nil
}

// Ask sends one request PDU that CheckRequest lets through and returns the PDU of
// the answer, which may be an exception. took is the time that it took. When ctx
// ends the client is closed for good.
func (c *Client) Ask(ctx context.Context, unit byte, request []byte) (answer []byte, took time.Duration, err error) {
	if err := CheckRequest(request); err != nil {
		return nil, 0, err
	}
	release := context.AfterFunc(ctx, c.link.client.transport.stop)
	defer release()
	if _, err := c.link.client.connect(ctx, writing(request[0])); err != nil {
		return nil, 0, err
	}
	begin := time.Now()
	answer, err = c.link.client.ask(ctx, unit, request)
	return append([]byte(nil), answer...), time.Since(begin), err
}

// Writes reports whether a request PDU changes something in the device.
func Writes(request []byte) bool { return len(request) > 0 && writing(request[0]) }
