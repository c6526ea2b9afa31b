package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	goburrow "github.com/goburrow/modbus"
)

// transport carries the frames of one link. Its methods except stop are called
// by the goroutine of the link.
type transport interface {
	goburrow.Transporter
	// connect makes sure that there is a connection; fresh means a new one. A
	// request that must not be repeated asks for a safe one.
	connect(ctx context.Context, safe bool) (fresh bool, err error)
	// drop closes the connection; connect opens another.
	drop()
	// stop closes the connection for good, under a running Send too.
	stop()
	// heard counts what arrived and was no answer.
	heard() tally
}

// client makes Modbus requests to the units of one link and checks the answers.
// Writes are goburrow's; reads, of which there are so many, are made here
// without allocating. Its methods must not be called concurrently.
type client struct {
	// Constant after construction.
	transport transport
	unit      *byte // of the packager: the unit ID of the next request
	requests  goburrow.Client
	mbap      bool // the frames are those of Modbus TCP, not RTU
	pace      pace

	// Owned by the caller.
	frame []byte    // memory for requests
	ended time.Time // when the last request was over
}

// over returns a client like c whose frames t carries.
func (c *client) over(t transport) *client {
	like := newRTUClient(t)
	if c.mbap {
		like = newTCPClient(t)
	}
	like.pace = c.pace
	return like
}

// pace is how a client spares its peer. Zero is no restraint.
type pace struct {
	between time.Duration // from an answer to the next request
	connect time.Duration // from connecting to the first request
	each    bool          // the connection is closed after each request
}

// newTCPClient speaks Modbus TCP over t. The transport numbers the requests to
// all units, so transaction identifiers do not repeat between them.
func newTCPClient(t transport) *client {
	p := goburrow.NewTCPClientHandler("")
	return &client{transport: t, unit: &p.SlaveId, requests: goburrow.NewClient2(p, t), mbap: true}
}

// newRTUClient speaks RTU frames over t.
func newRTUClient(t transport) *client {
	p := goburrow.NewRTUClientHandler("")
	return &client{transport: t, unit: &p.SlaveId, requests: goburrow.NewClient2(p, t)}
}

// connect makes sure that there is a connection and that it has settled. The
// error wraps ErrDown.
func (c *client) connect(ctx context.Context, safe bool) (fresh bool, err error) {
	fresh, err = c.transport.connect(ctx, safe)
	if err == nil && fresh && !sleep(ctx, c.pace.connect) {
		return false, fmt.Errorf("modbus: %w: %w", ErrDown, context.Cause(ctx))
	}
	return fresh, err
}

// begin makes ready for a request.
func (c *client) begin(ctx context.Context, safe bool) (fresh bool, err error) {
	if c.pace.between > 0 && !sleep(ctx, c.pace.between-time.Since(c.ended)) {
		return false, fmt.Errorf("modbus: %w: %w", ErrDown, context.Cause(ctx))
	}
	return c.connect(ctx, safe)
}

// end notes that a request is over.
func (c *client) end() {
	c.ended = time.Now()
	if c.pace.each {
		c.transport.drop()
	}
}

// sleep waits and reports whether ctx has not ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// read reads the registers or bits of s and returns their bytes as on the wire,
// exactly as many as belong to them. They are valid until the next request.
func (c *client) read(ctx context.Context, unit byte, s span) ([]byte, error) {
	fresh, err := c.begin(ctx, false)
	if err != nil {
		return nil, err
	}
	defer c.end()
	data, err := c.readOnce(unit, s)
	if errors.Is(err, errLost) && !fresh {
		if _, err := c.connect(ctx, false); err != nil {
			return nil, err
		}
		data, err = c.readOnce(unit, s)
	}
	return data, err
}

func (c *client) readOnce(unit byte, s span) ([]byte, error) {
	c.frame = s.appendRequest(c.frame[:0], unit, c.mbap)
	answer, err := c.transport.Send(c.frame)
	if err != nil {
		return nil, err
	}
	return s.data(pduOf(answer, c.mbap))
}

// appendRequest appends the frame that reads s: Modbus §6.1 to §6.4. The
// transaction identifier of an MBAP header is left to the transport.
func (s span) appendRequest(dst []byte, unit byte, mbap bool) []byte {
	begin := len(dst)
	if mbap {
		dst = append(dst, 0, 0, 0, 0, 0, 6)
	}
	dst = append(dst, unit, s.function())
	dst = binary.BigEndian.AppendUint16(dst, uint16(s.address))
	dst = binary.BigEndian.AppendUint16(dst, uint16(s.count))
	if !mbap {
		dst = appendChecksum(dst, begin)
	}
	return dst
}

// pduOf returns function code and data of a frame that its transport has found
// whole.
func pduOf(frame []byte, mbap bool) []byte {
	if mbap {
		return frame[mbapSize:]
	}
	return frame[1 : len(frame)-2]
}

// function returns the function code that reads s.
func (s span) function() byte {
	return [...]byte{Coil: 1, DiscreteInput: 2, InputRegister: 4, HoldingRegister: 3}[s.table]
}

// size returns how many bytes of data the answer to a read of s has.
func (s span) size() int {
	if s.table.bits() {
		return (s.count + 7) / 8
	}
	return 2 * s.count
}

// data takes the bytes of s from the PDU that answers a read of it.
func (s span) data(pdu []byte) ([]byte, error) {
	function := s.function()
	switch {
	case len(pdu) == 2 && pdu[0] == function|0x80: // Modbus §7
		return nil, &ExceptionError{Function: function, Code: pdu[1]}
	case len(pdu) < 2 || pdu[0] != function:
		return nil, errors.New("modbus: the answer has no data")
	case len(pdu) != 2+s.size() || int(pdu[1]) != s.size():
		return nil, fmt.Errorf("modbus: the answer has %d bytes and says %d instead of %d", len(pdu)-2, pdu[1], s.size())
	}
	return pdu[2:], nil
}

// writeCoil writes one coil.
func (c *client) writeCoil(ctx context.Context, unit byte, address int, on bool) error {
	var state uint16
	if on {
		state = 0xff00 // Modbus §6.5
	}
	_, err := c.perform(ctx, unit, false, func() ([]byte, error) {
		return c.requests.WriteSingleCoil(uint16(address), state)
	})
	return err
}

// writeCoils writes coils, packed as on the wire, with function 15.
func (c *client) writeCoils(ctx context.Context, unit byte, s span, packed []byte) error {
	_, err := c.perform(ctx, unit, false, func() ([]byte, error) {
		return c.requests.WriteMultipleCoils(uint16(s.address), uint16(s.count), packed)
	})
	return err
}

// writeRegister writes one register with function 6.
func (c *client) writeRegister(ctx context.Context, unit byte, address int, word uint16) error {
	_, err := c.perform(ctx, unit, false, func() ([]byte, error) {
		return c.requests.WriteSingleRegister(uint16(address), word)
	})
	return err
}

// writeRegisters writes registers with function 16.
func (c *client) writeRegisters(ctx context.Context, unit byte, address int, words []byte) error {
	_, err := c.perform(ctx, unit, false, func() ([]byte, error) {
		return c.requests.WriteMultipleRegisters(uint16(address), uint16(len(words)/2), words)
	})
	return err
}

// mask changes some bits of a register: the result is (register AND keep) OR
// (set AND NOT keep), Modbus §6.16.
type mask struct{ keep, set uint16 }

// maskRegister changes some bits of one register with function 22.
func (c *client) maskRegister(ctx context.Context, unit byte, address int, m mask) error {
	_, err := c.perform(ctx, unit, false, func() ([]byte, error) {
		return c.requests.MaskWriteRegister(uint16(address), m.keep, m.set)
	})
	return err
}

// perform makes one request over a connection that it opens if need be. When a
// connection that had served before turns out to be closed, a request that may
// be repeated is made again over a new one.
func (c *client) perform(ctx context.Context, unit byte, repeatable bool, ask func() ([]byte, error)) ([]byte, error) {
	fresh, err := c.begin(ctx, !repeatable)
	if err != nil {
		return nil, err
	}
	defer c.end()
	*c.unit = unit
	data, err := ask()
	if errors.Is(err, errLost) && repeatable && !fresh {
		if _, err := c.connect(ctx, false); err != nil {
			return nil, err
		}
		data, err = ask()
	}
	if refusal, ok := errors.AsType[*goburrow.ModbusError](err); ok {
		return nil, &ExceptionError{Function: refusal.FunctionCode &^ 0x80, Code: refusal.ExceptionCode}
	}
	return data, err
}
