package modbus

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A frame test is a conversation with a device: what it receives and what it
// sends, byte for byte, over a pipe in simulated time.

// script is what the device does: it reads want, waits, sends answer.
type script struct {
	want   string
	after  time.Duration
	answer string // parts separated by | are sent 20 ms apart
}

// play runs the device's part on its end of the pipe.
func play(t *testing.T, conn net.Conn, scenes []script) {
	// A late answer does not keep the device from hearing the next request.
	parts := make(chan []byte, 100)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for p := range parts {
			if _, err := conn.Write(p); err != nil {
				return // the client does not listen any more
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	defer func() { <-sent }()
	defer close(parts)
	for _, s := range scenes {
		want := hexBytes(t, s.want)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil {
			t.Errorf("the device waits for % x: %v", want, err)
			return
		}
		if string(got) != string(want) {
			t.Errorf("the device received\n% x; want\n% x", got, want)
		}
		time.Sleep(s.after)
		for part := range strings.SplitSeq(s.answer, "|") {
			parts <- hexBytes(t, part)
		}
	}
}

// converse runs f with a client of the given kind whose device follows scenes.
func converse(t *testing.T, kind string, scenes []script, f func(c *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer func() { _ = far.Close() }()
		open := func(context.Context) (stream, error) { return near, nil }
		var c *client
		if kind != "rtu" {
			transport := newTCPTransport(open, time.Second)
			transport.datagrams = kind == "udp"
			c = newTCPClient(transport)
		} else {
			c = newRTUClient(newRTUTransport(open, newRTULine(9600), time.Second))
		}
		played := make(chan struct{})
		go func() {
			defer close(played)
			play(t, far, scenes)
		}()
		f(c)
		c.transport.stop()
		<-played
	})
}

func TestTCPFrames(t *testing.T) {
	// The first request of a client: transaction 1, protocol 0, length 6,
	// unit 17, function 3, address 0x006b, 2 registers.
	const ask = "0001 0000 0006 11 03 006b 0002"
	tests := []struct {
		name   string
		answer string
		want   string // the registers
		err    func(error) bool
	}{
		{"answer", "0001 0000 0007 11 03 04 022b 0106", "022b 0106", nil},
		{"answer in pieces", "00|01 0000 00|07 11 03 04 02|2b 0106", "022b 0106", nil},
		{"stale transaction before it", "0000 0000 0007 11 03 04 dead beef 0001 0000 0007 11 03 04 022b 0106", "022b 0106", nil},
		{"other unit before it", "0001 0000 0007 12 03 04 dead beef 0001 0000 0007 11 03 04 022b 0106", "022b 0106", nil},
		{"other function before it", "0001 0000 0007 11 04 04 dead beef 0001 0000 0007 11 03 04 022b 0106", "022b 0106", nil},
		{"doubled", "0001 0000 0007 11 03 04 022b 0106 0001 0000 0007 11 03 04 022b 0106", "022b 0106", nil},
		{"exception", "0001 0000 0003 11 83 02", "", isRefused(2)},
		{"exception of another function is no answer", "0001 0000 0003 11 84 02", "", isNoAnswer},
		{"exception with a tail is no answer", "0001 0000 0004 11 83 02 00", "", isNoAnswer},
		{"short: one register", "0001 0000 0005 11 03 02 022b", "", isOther},
		{"byte count lies", "0001 0000 0007 11 03 06 022b 0106", "", isOther},
		{"no data", "0001 0000 0002 11 03", "", isOther},
		{"protocol 1", "0001 0001 0007 11 03 04 022b 0106", "", isLost},
		{"length 0", "0001 0000 0000 11 03", "", isLost},
		{"length 255", "0001 0000 00ff 11 03", "", isLost},
		{"half a header", "0001 00", "", isNoAnswer},
		{"nothing", "", "", isNoAnswer},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			converse(t, "tcp", []script{{ask, 0, test.answer}}, func(c *client) {
				data, err := c.read(t.Context(), 0x11, span{HoldingRegister, 0x6b, 2})
				checkAnswer(t, data, err, test.want, test.err)
			})
		})
	}
}

func checkAnswer(t *testing.T, data []byte, err error, want string, wantErr func(error) bool) {
	t.Helper()
	if wantErr != nil {
		if !wantErr(err) {
			t.Errorf("% x, %v", data, err)
		}
		return
	}
	if w := hexBytes(t, want); string(data) != string(w) || err != nil {
		t.Errorf("% x, %v; want % x", data, err, w)
	}
}

func isRefused(code byte) func(error) bool {
	return func(err error) bool { return isException(err, code) }
}
func isNoAnswer(err error) bool { return errors.Is(err, ErrTimeout) }
func isLost(err error) bool     { return errors.Is(err, errLost) }
func isOther(err error) bool {
	_, refused := errors.AsType[*ExceptionError](err)
	return err != nil && !refused && !isLost(err) && !isNoAnswer(err)
}

func TestTCPLateAnswerIsSkipped(t *testing.T) {
	converse(t, "tcp", []script{
		// Register 1 is answered after 1.2 s, register 2 at once.
		{"0001 0000 0006 11 03 0001 0001", 1200 * time.Millisecond, "0001 0000 0005 11 03 02 0001"},
		{"0002 0000 0006 11 03 0002 0001", 0, "0002 0000 0005 11 03 02 0002"},
	}, func(c *client) {
		if _, err := c.read(t.Context(), 0x11, span{HoldingRegister, 1, 1}); !isNoAnswer(err) {
			t.Errorf("the late one: %v", err)
		}
		time.Sleep(300 * time.Millisecond) // the pipe takes the next request only then
		data, err := c.read(t.Context(), 0x11, span{HoldingRegister, 2, 1})
		checkAnswer(t, data, err, "0002", nil)
	})
}

func TestTCPFloodEndsAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		transport := newTCPTransport(func(context.Context) (stream, error) { return near, nil }, time.Second)
		c := newTCPClient(transport)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if _, err := io.ReadFull(far, make([]byte, 12)); err != nil {
				t.Error(err)
			}
			// Somebody else's answers, one a millisecond.
			for {
				time.Sleep(time.Millisecond)
				if _, err := far.Write([]byte{9, 9, 0, 0, 0, 3, 1, 0x83, 2}); err != nil {
					return
				}
			}
		}()
		begin := time.Now()
		if _, err := c.read(t.Context(), 1, span{HoldingRegister, 0, 1}); !isNoAnswer(err) {
			t.Error(err)
		}
		if d := time.Since(begin); d < time.Second || d > 1100*time.Millisecond {
			t.Errorf("gave up after %v", d)
		}
		transport.stop()
		<-ended
	})
}

func TestRTUFrames(t *testing.T) {
	// Unit 17, function 3, address 0x006b, 2 registers, CRC.
	const ask = "11 03 006b 0002 b747"
	tests := []struct {
		name   string
		answer string
		want   string
		err    func(error) bool
	}{
		{"answer", "11 03 04 022b 0106 1bd0", "022b 0106", nil},
		{"answer in pieces", "11|03 04 02|2b 0106 1b|d0", "022b 0106", nil},
		{"noise before it", "00 ff 11 11 03 04 022b 0106 1bd0", "022b 0106", nil},
		{"answer of another length before it", "11 03 02 dead e19a 11 03 04 022b 0106 1bd0", "022b 0106", nil},
		{"answer of another unit before it", "12 03 04 dead beef 4317 11 03 04 022b 0106 1bd0", "022b 0106", nil},
		{"echo before it", "11 03 006b 0002 b747 11 03 04 022b 0106 1bd0", "022b 0106", nil},
		{"doubled", "11 03 04 022b 0106 1bd0 11 03 04 022b 0106 1bd0", "022b 0106", nil},
		{"exception", "11 83 02 c134", "", isRefused(2)},
		{"exception in two pieces", "11 83|02 c134", "", isRefused(2)},
		{"exception byte by byte", "11|83|02|c1|34", "", isRefused(2)},
		{"bad CRC", "11 03 04 022b 0106 1bd1", "", isNoAnswer},
		{"cut off", "11 03 04 022b", "", isNoAnswer},
		{"one register only", "11 03 02 022b 38f8", "", isNoAnswer},
		{"nothing", "", "", isNoAnswer},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			converse(t, "rtu", []script{{ask, 0, test.answer}}, func(c *client) {
				data, err := c.read(t.Context(), 0x11, span{HoldingRegister, 0x6b, 2})
				checkAnswer(t, data, err, test.want, test.err)
			})
		})
	}
}

func TestRTULateAnswerIsNotTakenForTheNext(t *testing.T) {
	converse(t, "rtu", []script{
		// Two registers at 1 are answered after 1.2 s.
		{withCRC(t, "11 03 0001 0002"), 1200 * time.Millisecond, withCRC(t, "11 03 04 0001 0001")},
		// Before two registers at 5, one is read and thrown away.
		{withCRC(t, "11 03 0005 0001"), 0, withCRC(t, "11 03 02 ffff")},
		{withCRC(t, "11 03 0005 0002"), 0, withCRC(t, "11 03 04 0005 0005")},
		// Then everything is as before.
		{withCRC(t, "11 03 0007 0002"), 0, withCRC(t, "11 03 04 0007 0007")},
	}, func(c *client) {
		if _, err := c.read(t.Context(), 0x11, span{HoldingRegister, 1, 2}); !isNoAnswer(err) {
			t.Errorf("the late one: %v", err)
		}
		data, err := c.read(t.Context(), 0x11, span{HoldingRegister, 5, 2})
		checkAnswer(t, data, err, "0005 0005", nil)
		data, err = c.read(t.Context(), 0x11, span{HoldingRegister, 7, 2})
		checkAnswer(t, data, err, "0007 0007", nil)
	})
}

func TestWhatIsNoAnswerIsCounted(t *testing.T) {
	ask, answer := withCRC(t, "11 03 0001 0001"), withCRC(t, "11 03 02 0007")
	tests := []struct {
		name, kind string
		scenes     []script
		want       tally
	}{
		{"TCP late", "tcp", []script{
			{"0001 0000 0006 11 03 0001 0001", 1200 * time.Millisecond, "0001 0000 0005 11 03 02 0001"},
			{"0002 0000 0006 11 03 0001 0001", 0, "0002 0000 0005 11 03 02 0007"},
		}, tally{late: 1}},
		{"TCP doubled", "tcp", []script{
			{"0001 0000 0006 11 03 0001 0001", 0, "0001 0000 0005 11 03 02 0007 0001 0000 0005 11 03 02 0007"},
			{"0002 0000 0006 11 03 0001 0001", 0, "0002 0000 0005 11 03 02 0007"},
		}, tally{stray: 1}},
		{"RTU late", "rtu", []script{
			{ask, 1200 * time.Millisecond, withCRC(t, "11 03 02 0001")},
			{withCRC(t, "11 03 0001 0002"), 0, withCRC(t, "11 03 04 0001 0001")}, // another quantity
			{ask, 0, answer},
		}, tally{late: 1}},
		{"RTU doubled", "rtu", []script{{ask, 0, answer + answer}, {ask, 0, answer}}, tally{stray: 1}},
		{"RTU noise", "rtu", []script{{ask, 0, "ff00" + answer}, {ask, 0, answer}}, tally{stray: 1}},
		{"RTU damaged", "rtu", []script{
			{ask, 0, "11 03 02 0007 0000"},
			{withCRC(t, "11 03 0001 0002"), 0, withCRC(t, "11 03 04 0001 0001")},
			{ask, 0, answer},
		}, tally{crc: 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			converse(t, test.kind, test.scenes, func(c *client) {
				for range 2 {
					if data, err := c.read(t.Context(), 0x11, span{HoldingRegister, 1, 1}); err == nil && data[1] != 7 {
						t.Errorf("read % x", data)
					} else if err != nil && !isNoAnswer(err) {
						t.Error(err)
					}
					time.Sleep(300 * time.Millisecond) // the pipe takes the next request only then
				}
				if got := c.transport.heard(); got != test.want {
					t.Errorf("heard %+v; want %+v", got, test.want)
				}
			})
		})
	}
}

func TestRTUOtherUnitNeedsNoResynchronisation(t *testing.T) {
	converse(t, "rtu", []script{
		{withCRC(t, "11 03 0001 0001"), 1200 * time.Millisecond, withCRC(t, "11 03 02 1111")},
		{withCRC(t, "12 03 0001 0001"), 0, withCRC(t, "12 03 02 2222")},
	}, func(c *client) {
		if _, err := c.read(t.Context(), 0x11, span{HoldingRegister, 1, 1}); !isNoAnswer(err) {
			t.Errorf("the late one: %v", err)
		}
		data, err := c.read(t.Context(), 0x12, span{HoldingRegister, 1, 1})
		checkAnswer(t, data, err, "2222", nil)
	})
}

func TestRTUEchoOfAWriteIsNotItsAnswer(t *testing.T) {
	write := withCRC(t, "11 06 0001 0003")
	converse(t, "rtu", []script{
		// The first read shows that the adapter hears itself.
		{withCRC(t, "11 03 0001 0001"), 0, withCRC(t, "11 03 0001 0001") + withCRC(t, "11 03 02 0000")},
		// The echo of the write is followed by its refusal.
		{write, 0, write + "|" + withCRC(t, "11 86 04")},
	}, func(c *client) {
		if _, err := c.read(t.Context(), 0x11, span{HoldingRegister, 1, 1}); err != nil {
			t.Error(err)
		}
		if err := c.writeRegister(t.Context(), 0x11, 1, 3); !isException(err, 4) {
			t.Errorf("the echo was taken for the answer: %v", err)
		}
	})
}

// withCRC appends the checksum to a frame in hexadecimal.
func withCRC(t *testing.T, frame string) string {
	t.Helper()
	const digits = "0123456789abcdef"
	var out []byte
	for _, b := range appendCRC(hexBytes(t, frame)) {
		out = append(out, digits[b>>4], digits[b&15])
	}
	return string(out)
}

func TestWriteFrames(t *testing.T) {
	ctx := context.Background()
	converse(t, "tcp", []script{
		{"0001 0000 0006 01 05 0003 ff00", 0, "0001 0000 0006 01 05 0003 ff00"},
		{"0002 0000 0006 01 06 00c8 0032", 0, "0002 0000 0006 01 06 00c8 0032"},
		{"0003 0000 000b 01 10 00c8 0002 04 41ac 0000", 0, "0003 0000 0006 01 10 00c8 0002"},
		{"0004 0000 0008 01 16 0004 fff7 0008", 0, "0004 0000 0008 01 16 0004 fff7 0008"},
		{"0005 0000 0006 01 06 0001 0002", 0, "0005 0000 0006 01 06 0001 0003"},
	}, func(c *client) {
		for i, err := range []error{
			c.writeCoil(ctx, 1, 3, true),
			c.writeRegister(ctx, 1, 200, 50),
			c.writeRegisters(ctx, 1, 200, []byte{0x41, 0xac, 0, 0}),
			c.maskRegister(ctx, 1, 4, mask{0xfff7, 8}),
		} {
			if err != nil {
				t.Errorf("write %d: %v", i, err)
			}
		}
		if err := c.writeRegister(ctx, 1, 1, 2); err == nil {
			t.Error("an answer with another value was taken for good")
		}
	})
}

func FuzzTCPFrames(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 0, 7, 0x11, 3, 4, 2, 0x2b, 1, 6})
	f.Add([]byte{0, 1, 0, 0, 0, 3, 0x11, 0x83, 2, 0, 1, 0, 0})
	f.Add([]byte{0, 1, 0, 0, 0, 254})
	request := []byte{0, 1, 0, 0, 0, 6, 0x11, 3, 0, 0x6b, 0, 2}
	f.Fuzz(func(t *testing.T, stream []byte) {
		for len(stream) > 0 {
			frame, rest, err := splitTCP(stream)
			if err != nil || frame == nil {
				return
			}
			if len(frame) > tcpFrameSize || len(frame)+len(rest) != len(stream) {
				t.Fatalf("a frame of %d bytes out of %d, %d left", len(frame), len(stream), len(rest))
			}
			answersTCP(request, frame)
			stream = rest
		}
	})
}

func FuzzRTUFrames(f *testing.F) {
	f.Add(byte(3), uint16(2), []byte{0x11, 3, 4, 2, 0x2b, 1, 6, 0x1b, 0xd0})
	f.Add(byte(3), uint16(2), []byte{0, 0xff, 0x11, 0x83, 2, 0xc1, 0x34})
	f.Add(byte(9), uint16(0), []byte{0x11, 17, 2, 1, 0xff, 0, 0})
	f.Add(byte(6), uint16(3), []byte{0x11, 6, 0, 0x6b, 0, 3, 0xba, 0x87})
	functions := []byte{1, 2, 3, 4, 5, 6, 15, 16, 22, 17, 43}
	f.Fuzz(func(t *testing.T, function byte, value uint16, received []byte) {
		request := []byte{0x11, functions[int(function)%len(functions)], 0, 0x6b, byte(value >> 8), byte(value), 0, 0, 0, 0}
		answer := answerTo(request)
		for _, final := range []bool{false, true} {
			frame, before := answer.find(received, final)
			if frame == nil {
				continue
			}
			if string(received[before:before+len(frame)]) != string(frame) {
				t.Fatalf("% x is not at %d of % x", frame, before, received)
			}
			if !checkCRC(frame) || frame[0] != answer.unit || frame[1]&0x7f != answer.function {
				t.Fatalf("% x is no answer to % x", frame, request)
			}
			if frame[1]&0x80 == 0 && answer.measure == nil && len(frame) != answer.length {
				t.Fatalf("% x has %d bytes; want %d", frame, len(frame), answer.length)
			}
		}
	})
}

func TestRS485Settings(t *testing.T) {
	// linux/serial.h: enabled 1, RTS on send 2, RTS after send 4; delays in ms.
	for _, test := range []struct {
		cfg  RS485Config
		want rs485
	}{
		{RS485Config{RTSOnSend: "high"}, rs485{flags: 3}},
		{RS485Config{RTSOnSend: "low", DelayBeforeSend: time.Millisecond, DelayAfterSend: 2 * time.Millisecond}, rs485{flags: 5, delayBefore: 1, delayAfter: 2}},
	} {
		if got := test.cfg.kernel(); got != test.want {
			t.Errorf("%+v: %+v; want %+v", test.cfg, got, test.want)
		}
	}
}

func TestUDPFrames(t *testing.T) {
	const ask = "0001 0000 0006 11 03 006b 0002"
	for _, test := range []struct{ name, answer, want string }{
		{"answer", "0001 0000 0007 11 03 04 022b 0106", "022b 0106"},
		{"rubbish before it", "ffff ffff ffff ff ff|0001 0000 0007 11 03 04 022b 0106", "022b 0106"},
		{"a datagram cut off before it", "0001 0000 0007 11 03 04|0001 0000 0007 11 03 04 022b 0106", "022b 0106"},
	} {
		t.Run(test.name, func(t *testing.T) {
			converse(t, "udp", []script{{ask, 0, test.answer}}, func(c *client) {
				data, err := c.read(t.Context(), 0x11, span{HoldingRegister, 0x6b, 2})
				checkAnswer(t, data, err, test.want, nil)
			})
		})
	}
}
