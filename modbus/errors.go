package modbus

import (
	"errors"
	"fmt"
)

// ErrTimeout means that no answer to the request came in time. What a write did
// is unknown.
var ErrTimeout = errors.New("no answer in time")

// ErrDown means that the connection could not be made or the port not opened.
// Nothing was sent.
var ErrDown = errors.New("link down")

// ExceptionError is a device's refusal: Modbus §7.
type ExceptionError struct {
	// Function is the function code of the request, without the error bit.
	Function byte
	// Code is the exception code.
	Code byte
}

// Exception codes: Modbus §7.
const (
	illegalFunction    = 1
	illegalDataAddress = 2
	illegalDataValue   = 3
	acknowledge        = 5
	gatewayPath        = 10
	gatewayTarget      = 11
)

var exceptionNames = map[byte]string{
	illegalFunction:    "illegal function",
	illegalDataAddress: "illegal data address",
	illegalDataValue:   "illegal data value",
	4:                  "server device failure",
	acknowledge:        "acknowledge, still working",
	6:                  "server device busy",
	8:                  "memory parity error",
	gatewayPath:        "gateway path unavailable",
	gatewayTarget:      "gateway target device failed to respond",
}

// Error names the exception as the standard does.
func (e *ExceptionError) Error() string {
	name, ok := exceptionNames[e.Code]
	if !ok {
		name = "not in the standard"
	}
	return fmt.Sprintf("modbus: exception %d to function %d: %s", e.Code, e.Function, name)
}

// RefusedError is a write that was refused here: nothing was written.
type RefusedError struct {
	// Reason is a sentence for the person who sent the command.
	Reason string
}

// Error returns the reason with the package name before it.
func (e *RefusedError) Error() string { return "modbus: write refused: " + e.Reason }
