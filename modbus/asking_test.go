package modbus_test

import (
	"errors"
	"net"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// Who asks by hand gets an answer from any unit of the line, and the schedule
// goes on.
func TestAskBetweenReads(t *testing.T) {
	for name, kind := range map[string]struct {
		cfg  modbus.Config
		line func(*modbustest.Slave) func(string) net.Conn
	}{
		"tcp": {tcp(unit("plc", 1, holding("a", 0))), toTCP},
		"rtu": {rtu(unit("plc", 1, holding("a", 0))), toRTU},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := modbustest.New()
				s.Image.SetRegister(modbus.HoldingRegister, 9, 4711)
				s.Fault = func(r modbustest.Request) modbustest.Fault { return modbustest.Fault{Drop: r.Unit == 66} }
				r := start(t, kind.cfg, kind.line(s))
				link := kind.cfg.Links[0].Name
				answer, err := r.poller.Ask(t.Context(), link, 5, []byte{3, 0, 9, 0, 1})
				if err != nil || string(answer) != "\x03\x02\x12\x67" {
					t.Errorf("% x, %v", answer, err)
				}
				if _, err := r.poller.Ask(t.Context(), link, 66, []byte{3, 0, 9, 0, 1}); !errors.Is(err, modbus.ErrTimeout) {
					t.Errorf("a unit that is not there: %v", err)
				}
				for _, request := range [][]byte{{8, 0, 0, 0, 0}, {3, 0, 9, 0, 0}, {}} {
					_, err := r.poller.Ask(t.Context(), link, 5, request)
					if _, refused := errors.AsType[*modbus.RefusedError](err); !refused {
						t.Errorf("% x: %v", request, err)
					}
				}
				before := len(r.of("a"))
				pass(3 * time.Second)
				if n := len(r.of("a")) - before; n < 3 {
					t.Errorf("%d scheduled reads in 3 s", n)
				}
			})
		})
	}
}
