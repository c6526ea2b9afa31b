package modbus

import (
	"context"
	"errors"
	"fmt"
)

// Identification is what a device says of itself.
type Identification struct {
	// Objects are those of function 43/14, by their numbers; empty when the
	// device does not know it.
	Objects []DeviceObject
	// ServerID is what function 17 answers, whose form is the maker's; nil when
	// the device does not know it.
	ServerID []byte
	// Refusals say why something is missing.
	Refusals []error
}

// DeviceObject is one object of the identification of a device: Modbus §6.21.
type DeviceObject struct {
	ID   byte
	Text string // as the device sent it: any bytes
}

// Name returns the name that Modbus §6.21 gives an object, or its number.
func (o DeviceObject) Name() string {
	names := [...]string{"vendor", "product code", "revision", "vendor URL", "product name", "model", "application"}
	if int(o.ID) < len(names) {
		return names[o.ID]
	}
	return fmt.Sprintf("object 0x%02x", o.ID)
}

// maxObjects bounds a device that never says that there are no more.
const maxObjects = 256

// Identify asks a unit what it is: with function 43/14 for all objects that it
// has, and with function 17. An error means that the unit did not answer: that it
// refuses both is in the result.
func (c *Client) Identify(ctx context.Context, unit byte) (id Identification, err error) {
	// The regular objects first (code 2), then those of the maker (3). A device
	// answers what it has, up to its own level: Modbus §6.21.
	for _, code := range []byte{2, 3} {
		objects, err := c.objects(ctx, unit, code)
		if refusal, ok := errors.AsType[*ExceptionError](err); ok && Answered(err) {
			if code == 2 {
				id.Refusals = append(id.Refusals, fmt.Errorf("function 43/14: %s", plain(refusal)))
				break
			}
			continue
		}
		if err != nil {
			return id, err
		}
		for _, o := range objects {
			if len(id.Objects) == 0 || o.ID > id.Objects[len(id.Objects)-1].ID {
				id.Objects = append(id.Objects, o)
			}
		}
	}
	answer, _, err := c.Ask(ctx, unit, []byte{reportServerID})
	if err == nil {
		err = exceptionIn(answer)
	}
	switch {
	case err == nil && len(answer) >= 2 && int(answer[1]) == len(answer)-2:
		id.ServerID = answer[2:]
	case err == nil:
		id.Refusals = append(id.Refusals, errors.New("function 17: the answer does not have the length that it says"))
	case Answered(err), errors.Is(err, ErrTimeout) && len(id.Objects) > 0: // some devices are silent to what they do not know
		id.Refusals = append(id.Refusals, fmt.Errorf("function 17: %s", plain(err)))
	default:
		return id, err
	}
	return id, nil
}

// exceptionIn returns the exception that an answer is, nil if it is none.
func exceptionIn(answer []byte) error {
	if len(answer) == 2 && answer[0]&0x80 != 0 {
		return &ExceptionError{answer[0] &^ 0x80, answer[1]}
	}
	return nil
}

// objects reads the objects of one code, in as many pieces as the device makes.
func (c *Client) objects(ctx context.Context, unit, code byte) (all []DeviceObject, err error) {
	for next := byte(0); ; {
		answer, _, err := c.Ask(ctx, unit, []byte{encapsulated, 14, code, next})
		if err == nil {
			err = exceptionIn(answer)
		}
		if err != nil {
			return nil, err
		}
		piece, more, following, err := parseIdentification(answer)
		if err != nil {
			return nil, err
		}
		all = append(all, piece...)
		if !more {
			return all, nil
		}
		// A device that points backwards would be asked for ever.
		if following <= next || len(all) > maxObjects {
			return nil, fmt.Errorf("modbus: the identification does not end: after object %d comes %d", next, following)
		}
		next = following
	}
}

// The answer to 43/14 (Modbus §6.21):
//
//	| 43 | 14 | code | conformity | more | next | count | { id | length | text } … |
const identificationHead = 7

// parseIdentification reads the PDU of an answer to 43/14.
func parseIdentification(pdu []byte) (objects []DeviceObject, more bool, next byte, err error) {
	if len(pdu) < identificationHead || pdu[0] != encapsulated || pdu[1] != 14 {
		return nil, false, 0, errors.New("modbus: what came is no identification")
	}
	rest := pdu[identificationHead:]
	for range pdu[6] {
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return nil, false, 0, errors.New("modbus: the identification is shorter than it says")
		}
		objects = append(objects, DeviceObject{rest[0], string(rest[2 : 2+rest[1]])})
		rest = rest[2+rest[1]:]
	}
	return objects, pdu[4] == 0xff, pdu[5], nil
}

// identificationLength measures the RTU frame of an answer to 43/14.
func identificationLength(buf []byte) int {
	const head = 1 + identificationHead
	if len(buf) < head {
		return len(buf) + 1
	}
	end := head
	for range buf[head-1] {
		if len(buf) < end+2 {
			return len(buf) + 1
		}
		end += 2 + int(buf[end+1])
	}
	return end + 2
}

// serverIDLength measures the RTU frame of an answer to function 17.
func serverIDLength(buf []byte) int {
	if len(buf) < 3 {
		return len(buf) + 1
	}
	return rtuReadOverhead + int(buf[2])
}
