package edge

import (
	"context"
	"math"
	"net"
	"time"

	"forebay/modbus"
)

// Registers of the demo's PLC.
const (
	plcPump        = 0  // coil
	plcTemperature = 0  // input register, float32
	plcLevel       = 2  // input register, in centimetres
	plcSetpoint    = 10 // holding register, in tenths of a degree
)

// runDemoPLC serves a small plant until ctx ends: a pump fills a tank whose
// water swings around the setpoint.
func runDemoPLC(ctx context.Context, listener net.Listener) error {
	plc := modbus.NewServer()
	plc.SetRegister(modbus.HoldingRegister, plcSetpoint, 215)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	plantEnded := make(chan struct{})
	go func() {
		defer close(plantEnded)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		level, filling := 250.0, true
		for began := time.Now(); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if filling {
				level += 3
			} else {
				level -= 2
			}
			if level > 320 || level < 180 {
				filling = !filling
			}
			swing := 1.5 * math.Sin(time.Since(began).Seconds()/4)
			setpoint := float64(plc.Register(modbus.HoldingRegister, plcSetpoint)) / 10
			bits := math.Float32bits(float32(math.Round((setpoint+swing)*100) / 100))
			plc.SetRegisters(modbus.InputRegister, plcTemperature, uint16(bits>>16), uint16(bits))
			plc.SetRegister(modbus.InputRegister, plcLevel, uint16(level))
			plc.SetBit(modbus.Coil, plcPump, filling)
		}
	}()
	err := plc.Serve(ctx, listener)
	cancel()
	<-plantEnded
	return err
}

// demoTags are the tags of the PLC.
func demoTags() []modbus.TagConfig {
	scale := func(f float64) *float64 { return &f }
	return []modbus.TagConfig{
		{Name: "temperature", Register: "input", Address: new(plcTemperature), Type: "float32", EngineeringUnit: "degC"},
		{Name: "level", Register: "input", Address: new(plcLevel), Type: "uint16", Scale: scale(0.01), EngineeringUnit: "m"},
		{Name: "pump", Register: "coil", Address: new(plcPump)},
		{Name: "setpoint", Register: "holding", Address: new(plcSetpoint), Type: "int16", Scale: scale(0.1), Writable: true, EngineeringUnit: "degC"},
	}
}
