package modbus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"forebay/modbus"
	"forebay/modbus/modbustest"
)

// servedConfig is a line with a server of what is read from it.
func servedConfig() modbus.Config {
	slow := holding("level", 0)
	slow.OnChange = true
	limit := holding("limit", 1)
	limit.Writable, limit.Max = true, new(100.0)
	cfg := tcp(unit("plc", 1, slow, limit, modbus.TagConfig{Name: "pump", Register: "coil", Address: new(4), Writable: true}))
	served := func(tag, register string, address int, kind string) modbus.ServedTagConfig {
		return modbus.ServedTagConfig{Link: "line", Unit: "plc", Tag: tag, Register: register, Address: &address, Type: kind}
	}
	cfg.Server = &modbus.ServerConfig{Listen: "127.0.0.1:0", Connections: 2, Tags: []modbus.ServedTagConfig{
		served("level", "input", 100, ""), served("level", "input", 102, "int8"), served("limit", "holding", 7, "uint16"), served("pump", "coil", 0, ""),
	}}
	cfg.Server.Tags[2].Writable = true
	cfg.Server.Tags[3].Writable = true
	return cfg
}

// What is served is what was read last, while it is good and of now; all else is
// an exception.
func TestTagServerServesWhatIsGood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := servedConfig()
		cfg.SetDefaults()
		s := modbustest.New()
		s.Image.SetRegisters(modbus.HoldingRegister, 0, 21, 5)
		s.Image.SetBit(modbus.Coil, 4, true)
		dead, refuses := false, false
		s.Fault = func(modbustest.Request) modbustest.Fault {
			f := modbustest.Fault{Drop: dead}
			if refuses {
				f.Exception = 6
			}
			return f
		}
		var server *modbus.TagServer
		var r *rig
		server = modbus.NewTagServer(cfg.Server, func(ctx context.Context, link, unit, tag string, value any) error {
			_, err := r.poller.Write(ctx, link, unit, tag, value)
			return err
		})
		ask := func(pdu string) string {
			t.Helper()
			var b []byte
			if _, err := fmt.Sscanf(strings.ReplaceAll(pdu, " ", ""), "%x", &b); err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("%x", server.Answer(t.Context(), b))
		}
		want := func(pdu, answer string) {
			t.Helper()
			if got := ask(pdu); got != answer {
				t.Errorf("%s gives %s; want %s", pdu, got, answer)
			}
		}
		want("04 0064 0002", "840b") // nothing was read yet
		r = startPrepared(t, cfg, toTCP(s), func(p *modbus.Poller) { p.Feed(server) })
		pass(10 * time.Second)               // level has not changed since the first read
		want("04 0064 0002", "040441a80000") // 21 as float32
		want("04 0064 0003", "040641a800000015")
		want("04 0064 0001", "8402") // half of a value
		want("04 0063 0003", "8402") // a register that is not served
		want("03 0064 0002", "8302") // another table
		want("01 0000 0001", "010101")
		want("06 0007 0030", "0600070030")
		want("10 0007 0001 02 0031", "1000070001")
		want("06 0007 0065", "8603") // beyond the tag's limit
		want("06 0064 0001", "8602")
		want("05 0000 0000", "0500000000")
		want("16 0007 0000 0000", "9601")
		want("11", "9101")
		want("03 0007", "8303")
		if got := s.Image.Register(modbus.HoldingRegister, 1); got != 0x31 || s.Image.Bit(modbus.Coil, 4) {
			t.Errorf("the device has %#x", got)
		}
		s.Image.SetRegister(modbus.HoldingRegister, 0, 200)
		pass(2 * time.Second)
		want("04 0066 0001", "8404") // does not fit into an int8
		want("04 0064 0002", "040443480000")
		refuses = true
		pass(3 * time.Second)
		want("04 0064 0002", "8404")
		refuses, dead = false, true
		pass(10 * time.Second)
		want("04 0064 0002", "840b")
		dead = false
		pass(time.Minute)
		want("04 0064 0002", "040443480000")
		r.stop()
		pass(time.Minute)
		want("04 0064 0002", "840b") // nobody reads any more
	})
}

func TestTagServerConfigProblems(t *testing.T) {
	cfg := servedConfig()
	cfg.Server.Listen, cfg.Server.Connections = "502", 65
	cfg.Server.Tags[0].Tag = "levle"
	cfg.Server.Tags[1].Address = new(70000)
	cfg.Server.Tags[2].Register, cfg.Server.Tags[2].Type = "input", "float33"
	cfg.Server.Tags = append(cfg.Server.Tags, cfg.Server.Tags[3])
	cfg.SetDefaults()
	var got []string
	cfg.Validate(func(path, problem string) { got = append(got, path+": "+problem) })
	for _, want := range []string{
		"server.listen: ", "server.connections: 65", `server.tags[0].tag: there is no tag "levle"`, "server.tags[1].address: 70000",
		"server.tags[2].type: ", "server.tags[2].writable: clients cannot write to input", "server.tags[4].address: coil 0 is that of tags[3]",
	} {
		if !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("no %q in\n%s", want, strings.Join(got, "\n"))
		}
	}
}

// More clients than there is room for are disconnected; who leaves makes room.
func TestTagServerBoundsClients(t *testing.T) {
	cfg := servedConfig()
	cfg.SetDefaults()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- modbus.NewTagServer(cfg.Server, nil).Serve(ctx, listener) }()
	request := []byte{0, 1, 0, 0, 0, 6, 1, 4, 0, 100, 0, 2}
	served := func() (net.Conn, bool) {
		c, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		answer := make([]byte, 9)
		_, writing := c.Write(request)
		_, reading := c.Read(answer)
		return c, errors.Join(writing, reading) == nil
	}
	first, ok := served()
	_, ok2 := served()
	if _, ok3 := served(); !ok || !ok2 || ok3 {
		t.Errorf("served: %t, %t, %t; want the first two of three", ok, ok2, ok3)
	}
	_ = first.Close()
	for end := time.Now().Add(10 * time.Second); ; {
		if _, ok := served(); ok {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nobody is let in after one has left")
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func FuzzTagServer(f *testing.F) {
	f.Add([]byte{4, 0, 100, 0, 2})
	f.Add([]byte{16, 0, 7, 0, 1, 2, 0, 1})
	f.Add([]byte{15, 0, 0, 0, 1, 1, 1})
	cfg := servedConfig()
	cfg.SetDefaults()
	server := modbus.NewTagServer(cfg.Server, func(context.Context, string, string, string, any) error { return nil })
	f.Fuzz(func(t *testing.T, request []byte) {
		answer := server.Answer(t.Context(), request)
		if len(answer) < 2 || len(answer) > 253 || len(request) > 0 && len(request) <= 253 && answer[0]&0x7f != request[0]&0x7f {
			t.Errorf("% x is answered % x", request, answer)
		}
	})
}
