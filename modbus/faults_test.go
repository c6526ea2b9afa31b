package modbus_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"forebay/modbus"
)

// Each fault of the simulator is one that a client notices; the answers between
// are good.
func TestSimulatorMisbehaves(t *testing.T) {
	isTimeout := func(err error) bool { return errors.Is(err, modbus.ErrTimeout) }
	for name, test := range map[string]struct {
		faults modbus.Faults
		bad    func(error) bool
	}{
		"late":       {modbus.Faults{Late: time.Minute}, isTimeout},
		"drop":       {modbus.Faults{Drop: true}, isTimeout},
		"wrong unit": {modbus.Faults{WrongUnit: true}, isTimeout},
		"exception": {modbus.Faults{Exception: 6}, func(err error) bool {
			refusal, ok := errors.AsType[*modbus.ExceptionError](err)
			return ok && refusal.Code == 6
		}},
		"twice": {modbus.Faults{Twice: true}, func(err error) bool { return err == nil }},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := tcp(unit("plc", 1, holding("a", 0)))
			cfg.SetDefaults()
			s, err := modbus.NewSimulator(cfg.Links, func(modbus.Written) {})
			if err != nil {
				t.Fatal(err)
			}
			test.faults.Every = 2
			s.Misbehave(test.faults)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- s.Serve(ctx, listener) }()
			cfg.Links[0].TCP, cfg.Links[0].Timeout = listener.Addr().String(), 200*time.Millisecond
			c, err := modbus.NewClient(cfg.Links[0])
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := c.Read(t.Context(), 0); err != nil {
				t.Errorf("the first answer is to be good: %v", err)
			}
			if _, _, err := c.Read(t.Context(), 0); !test.bad(err) {
				t.Errorf("the second answer is to be bad: %v", err)
			}
			c.Close()
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
