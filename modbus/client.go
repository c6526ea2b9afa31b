package modbus

import (
	"context"
	"errors"
	"fmt"

	goburrow "github.com/goburrow/modbus"
)

// transport carries the frames of one link. Its methods except stop are called
// by the goroutine of the link.
type transport interface {
	goburrow.Transporter
	// connect makes sure that there is a connection; fresh means a new one. A
	// request that must not be repeated asks for a safe one.
	connect(ctx context.Context, safe bool) (fresh bool, err error)
	// stop closes the connection for good, under a running Send too.
	stop()
}

// client makes Modbus requests to the units of one link and checks the answers.
type client struct {
	transport transport
	unit      *byte // of the packager: the unit ID of the next request
	requests  goburrow.Client
}

// newTCPClient speaks Modbus TCP over t. One packager serves all units, so that
// transaction identifiers do not repeat between them.
func newTCPClient(t transport) *client {
	p := goburrow.NewTCPClientHandler("")
	return &client{t, &p.SlaveId, goburrow.NewClient2(p, t)}
}

// newRTUClient speaks RTU frames over t.
func newRTUClient(t transport) *client {
	p := goburrow.NewRTUClientHandler("")
	return &client{t, &p.SlaveId, goburrow.NewClient2(p, t)}
}

// read reads the registers or bits of s and returns their bytes as on the wire,
// exactly as many as belong to them. They are valid until the next request.
func (c *client) read(ctx context.Context, unit byte, s span) ([]byte, error) {
	ask := c.requests.ReadHoldingRegisters
	switch s.table {
	case Coil:
		ask = c.requests.ReadCoils
	case DiscreteInput:
		ask = c.requests.ReadDiscreteInputs
	case InputRegister:
		ask = c.requests.ReadInputRegisters
	}
	data, err := c.perform(ctx, unit, true, func() ([]byte, error) {
		return ask(uint16(s.address), uint16(s.count))
	})
	if err != nil {
		return nil, err
	}
	want := 2 * s.count
	if s.table.bits() {
		want = (s.count + 7) / 8
	}
	if len(data) != want {
		return nil, fmt.Errorf("modbus: the answer has %d bytes instead of %d", len(data), want)
	}
	return data, nil
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
	fresh, err := c.transport.connect(ctx, !repeatable)
	if err != nil {
		return nil, err
	}
	*c.unit = unit
	data, err := ask()
	if errors.Is(err, errLost) && repeatable && !fresh {
		if _, err := c.transport.connect(ctx, false); err != nil {
			return nil, err
		}
		data, err = ask()
	}
	if refusal, ok := errors.AsType[*goburrow.ModbusError](err); ok {
		return nil, &ExceptionError{Function: refusal.FunctionCode &^ 0x80, Code: refusal.ExceptionCode}
	}
	return data, err
}
