package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// DescribeRequest says in words what a request PDU asks; whatever it is.
func DescribeRequest(pdu []byte) string {
	if len(pdu) == 0 {
		return "empty"
	}
	if err := CheckRequest(pdu); err != nil {
		if function := pdu[0]; functionNames[function] == "" {
			return fmt.Sprintf("function %d", function)
		}
		return fmt.Sprintf("%s, malformed", functionNames[pdu[0]])
	}
	name := functionNames[pdu[0]]
	if len(pdu) < 5 {
		return name
	}
	address, value := binary.BigEndian.Uint16(pdu[1:]), binary.BigEndian.Uint16(pdu[3:])
	switch pdu[0] {
	case 5, 6:
		return fmt.Sprintf("%s %d = %s", name, address, wordText(pdu[3:5]))
	case 16:
		return fmt.Sprintf("%s %d, %d: %s", name, address, value, wordText(pdu[6:]))
	case 15:
		return fmt.Sprintf("%s %d, %d: % x", name, address, value, pdu[6:])
	case 22:
		return fmt.Sprintf("%s %d: keep %#04x, set %#04x", name, address, value, binary.BigEndian.Uint16(pdu[5:]))
	}
	return fmt.Sprintf("%s %d, %d", name, address, value)
}

// DescribeAnswer says in words what a PDU answers to a request.
func DescribeAnswer(request, pdu []byte) string {
	switch {
	case len(pdu) == 0:
		return "empty"
	case len(pdu) == 2 && pdu[0]&0x80 != 0:
		return plain(&ExceptionError{pdu[0] &^ 0x80, pdu[1]})
	case len(request) > 0 && pdu[0] != request[0]:
		return fmt.Sprintf("answer to function %d, which was not asked", pdu[0])
	case len(pdu) < 2:
		return "cut off"
	}
	switch pdu[0] {
	case 1, 2:
		return fmt.Sprintf("bits % x", pdu[2:])
	case 3, 4:
		return wordText(pdu[2:])
	case 5, 6, 15, 16, 22:
		return "done"
	case encapsulated:
		if objects, _, _, err := parseIdentification(pdu); err == nil {
			var all []string
			for _, o := range objects {
				all = append(all, fmt.Sprintf("%s %q", o.Name(), o.Text))
			}
			return strings.Join(all, ", ")
		}
	}
	return fmt.Sprintf("% x", pdu[1:])
}

// functionNames are those of Modbus §6, shortened.
var functionNames = map[byte]string{
	1: "read coils", 2: "read discrete inputs", 3: "read holding registers", 4: "read input registers",
	5: "write coil", 6: "write register", 15: "write coils", 16: "write registers", 22: "mask register",
	reportServerID: "report server ID", encapsulated: "read device identification",
}

// wordText writes registers in decimal.
func wordText(b []byte) string {
	var words []string
	for ; len(b) > 1; b = b[2:] {
		words = append(words, fmt.Sprint(binary.BigEndian.Uint16(b)))
	}
	return strings.Join(words, " ")
}

// Exchange is one request with what came of it.
type Exchange struct {
	Began   time.Time
	Took    time.Duration
	Unit    byte
	Request []byte // the PDU
	// Answer is the PDU that came; empty if Err says why none did.
	Answer []byte
	Err    error
	// Skipped counts the frames that came meanwhile and were not the answer.
	Late, Stray, Damaged uint64
}

// Trace has every exchange of the client told from now on, from the goroutine
// that asks. What it is given is valid during the call only.
func (c *Client) Trace(tell func(Exchange)) {
	old := c.link.client
	c.link.client = old.over(&traced{transport: old.transport, mbap: old.mbap, tell: tell})
}

// Pass answers the requests of Modbus TCP clients by asking the device, one at a
// time, until ctx ends; then it closes listener and all connections and returns nil
// when their goroutines are gone. What the device does not answer is answered for as
// a gateway does (Modbus §7). Nobody else may use the client meanwhile.
func (c *Client) Pass(ctx context.Context, listener net.Listener) error {
	var mu sync.Mutex // one request at a time
	return serve(ctx, listener, func(unit byte, request []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		answer, _, err := c.Ask(ctx, unit, request)
		if err == nil {
			return answer
		}
		code := byte(gatewayTarget)
		if refusal, ok := errors.AsType[*ExceptionError](err); ok {
			code = refusal.Code
		} else if errors.Is(err, ErrDown) {
			code = gatewayPath
		}
		function := byte(0)
		if len(request) > 0 {
			function = request[0]
		}
		return []byte{function | 0x80, code}
	})
}

// traced is a transport that tells what passes.
type traced struct {
	transport
	mbap bool
	tell func(Exchange)
}

// Send passes a request on and tells of it and what came.
func (t *traced) Send(request []byte) ([]byte, error) {
	before, began := t.heard(), time.Now()
	answer, err := t.transport.Send(request)
	skipped := t.heard().minus(before)
	e := Exchange{Began: began, Took: time.Since(began), Request: pduOf(request, t.mbap), Err: err, Late: skipped.late, Stray: skipped.stray, Damaged: skipped.crc}
	e.Unit = request[0]
	if t.mbap {
		e.Unit = request[mbapSize-1]
	}
	if err == nil {
		e.Answer = pduOf(answer, t.mbap)
	}
	t.tell(e)
	return answer, err
}
