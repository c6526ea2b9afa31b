package modbus

import (
	"net"
	"strconv"
	"strings"
	"time"
)

// transports are the keys of which a link has one.
const transports = "tcp, rtu, ascii, rtu_over_tcp, ascii_over_tcp and udp"

// Limits of a link.
const (
	maxConnections  = 16
	maxInFlight     = 16
	maxRequestDelay = 10 * time.Second
	maxRS485Delay   = 100 * time.Millisecond
)

func (l *LinkConfig) validate(at scope) {
	l.validateTransport(at)
	at.within("timeout", l.Timeout, 10*time.Millisecond, time.Minute)
	at.within("request_delay", l.RequestDelay, 0, maxRequestDelay)
	at.within("connect_delay", l.ConnectDelay, 0, time.Minute)
	at.atLeast("close_when_idle", l.CloseWhenIdle, 0)
	at.between("connections", l.Connections, 1, maxConnections)
	at.between("in_flight", l.InFlight, 1, maxInFlight)
	switch {
	case l.Connections > 1 && l.serial() != nil:
		at.problem("connections", "a serial port is opened once: leave it out")
	case l.InFlight > 1 && l.TCP == "" && l.UDP == "":
		at.problem("in_flight", "only frames of tcp and udp say which request they answer: leave it out")
	case l.InFlight > 1 && l.CloseAfterRequest:
		at.problem("in_flight", "close_after_request leaves no time for several requests: give one of the two")
	case l.InFlight > 1 && l.RequestDelay > 0:
		at.problem("in_flight", "request_delay keeps requests apart: give one of the two")
	}
	if len(l.Units) == 0 {
		at.problem("units", "missing: a link without units reads nothing")
	}
	names := make(map[string]bool)
	for j := range l.Units {
		in := scope{at.path + ".units[" + strconv.Itoa(j) + "]", at.report}
		in.name(names, l.Units[j].Name, "unit")
		l.Units[j].validate(in, l.TCP == "" && l.UDP == "")
	}
}

// validateTransport checks how the devices are reached.
func (l *LinkConfig) validateTransport(at scope) {
	given := 0
	for _, e := range []struct{ key, address string }{
		{"tcp", l.TCP}, {"rtu_over_tcp", l.RTUOverTCP}, {"ascii_over_tcp", l.ASCIIOverTCP}, {"udp", l.UDP},
	} {
		if e.address != "" {
			given++
			at.endpoint(e.key, e.address)
		}
	}
	if l.RTU != nil {
		given++
		l.RTU.validate(scope{at.path + ".rtu", at.report})
		if l.RTU.DataBits != 8 {
			at.problem("rtu.data_bits", "%d: RTU frames need 8 data bits", l.RTU.DataBits)
		}
	}
	if l.ASCII != nil {
		given++
		in := scope{at.path + ".ascii", at.report}
		l.ASCII.validate(in)
		in.between("data_bits", l.ASCII.DataBits, 7, 8)
	}
	if given != 1 {
		at.report(at.path, strconv.Itoa(given)+" transports given: give exactly one of "+transports)
	}
	if l.TLS == nil {
		return
	}
	if l.TCP == "" {
		at.problem("tls", "only tcp can be secured: remove tls, or give tcp")
	}
	if (l.TLS.Certificate == "") != (l.TLS.Key == "") {
		at.problem("tls", "certificate and key belong together: give both or none")
	}
}

// serialKey names the key of the serial port of a link that has one.
func (l *LinkConfig) serialKey() string {
	if l.RTU != nil {
		return "rtu"
	}
	return "ascii"
}

// endpoint checks host:port; a missing port is no problem.
func (s scope) endpoint(key, address string) {
	host, port, err := net.SplitHostPort(withPort(address, tcpPort))
	if err != nil || host == "" {
		s.problem(key, "%q is not an address: write host:port, for example 192.0.2.10:502", address)
		return
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		s.problem(key, "%q is not a port: use a number from 1 to 65535", port)
	}
}

// validate checks a serial port but for its data bits.
func (r *SerialConfig) validate(at scope) {
	switch {
	case r.Port == "":
		at.problem("port", "missing: the device file of the serial port, for example /dev/ttyUSB0")
	case strings.ContainsRune(r.Port, 0):
		at.problem("port", "%q is not the name of a file", r.Port)
	}
	at.between("baud", r.Baud, 50, 4000000)
	at.oneOf("parity", r.Parity, "none", "even", "odd")
	at.between("stop_bits", r.StopBits, 1, 2)
	if r.RS485 == nil {
		return
	}
	in := scope{at.path + ".rs485", at.report}
	in.oneOf("rts_on_send", r.RS485.RTSOnSend, "high", "low")
	in.within("delay_before_send", r.RS485.DelayBeforeSend, 0, maxRS485Delay)
	in.within("delay_after_send", r.RS485.DelayAfterSend, 0, maxRS485Delay)
}

// within checks a duration.
func (s scope) within(key string, d, least, most time.Duration) {
	if d < least || d > most {
		s.problem(key, "%v is out of range: %v to %v", d, least, most)
	}
}
