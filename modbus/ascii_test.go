package modbus

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// asciiScene is one exchange: what the device receives and what it sends, parts
// separated by | 20 ms apart.
type asciiScene struct{ want, answer string }

// converseASCII runs f with a client whose device follows scenes.
func converseASCII(t *testing.T, scenes []asciiScene, f func(c *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		transport := newSerialTransport(&LinkConfig{ASCIIOverTCP: "plc.example:502", Timeout: time.Second})
		transport.open = func(context.Context) (stream, error) { return near, nil }
		c := newRTUClient(transport)
		played := make(chan struct{})
		go func() {
			defer close(played)
			for _, s := range scenes {
				got := make([]byte, len(s.want))
				if _, err := io.ReadFull(far, got); err != nil || string(got) != s.want {
					t.Errorf("the device received %q, %v; want %q", got, err, s.want)
					return
				}
				for _, part := range bytes.Split([]byte(s.answer), []byte("|")) {
					if _, err := far.Write(part); err != nil {
						return // the client does not listen any more
					}
					time.Sleep(20 * time.Millisecond)
				}
			}
		}()
		f(c)
		c.transport.stop()
		<-played
	})
}

func TestASCIIFrames(t *testing.T) {
	// Unit 17, function 3, address 0x006b, 2 registers, LRC.
	const ask = ":1103006B00027F\r\n"
	tests := []struct {
		name   string
		answer string
		want   string // the registers
		err    func(error) bool
	}{
		{"answer", ":110304022B0106B4\r\n", "022b 0106", nil},
		{"answer in lower case", ":110304022b0106b4\r\n", "022b 0106", nil},
		{"answer in pieces", ":1|10304022|B0106B|4\r|\n", "022b 0106", nil},
		{"noise before it", "\x00\xff11\r\n:110304022B0106B4\r\n", "022b 0106", nil},
		{"a frame cut off by it", ":11030402:110304022B0106B4\r\n", "022b 0106", nil},
		{"answer of another unit before it", ":120304DEADBEEFAF\r\n:110304022B0106B4\r\n", "022b 0106", nil},
		{"answer of another length before it", ":110302DEAD5F\r\n:110304022B0106B4\r\n", "022b 0106", nil},
		{"echo before it", ":1103006B00027F\r\n:110304022B0106B4\r\n", "022b 0106", nil},
		{"doubled", ":110304022B0106B4\r\n:110304022B0106B4\r\n", "022b 0106", nil},
		{"exception", ":1183026A\r\n", "", isRefused(2)},
		{"bad LRC", ":110304022B0106B5\r\n", "", isNoAnswer},
		{"no carriage return", ":110304022B0106B4\n", "", isNoAnswer},
		{"odd number of digits", ":110304022B0106B\r\n", "", isNoAnswer},
		{"not hexadecimal", ":110304022B0106G4\r\n", "", isNoAnswer},
		{"cut off", ":110304022B", "", isNoAnswer},
		{"nothing", "", "", isNoAnswer},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			converseASCII(t, []asciiScene{{ask, test.answer}}, func(c *client) {
				data, err := c.read(t.Context(), 0x11, span{HoldingRegister, 0x6b, 2})
				checkAnswer(t, data, err, test.want, test.err)
			})
		})
	}
}

func TestASCIIWriteFrames(t *testing.T) {
	want := string(appendASCII(nil, []byte{1, 16, 0, 200, 0, 1, 2, 0, 50}))
	answer := string(appendASCII(nil, []byte{1, 16, 0, 200, 0, 1}))
	converseASCII(t, []asciiScene{{want, answer}}, func(c *client) {
		if err := c.writeRegisters(t.Context(), 1, 200, []byte{0, 50}); err != nil {
			t.Error(err)
		}
	})
}

func FuzzASCIIFrames(f *testing.F) {
	f.Add([]byte(":110304022B0106B4\r\n"))
	f.Add([]byte("\r\n::1183026A\r\n:"))
	f.Add(bytes.Repeat([]byte(":1"), 600))
	f.Fuzz(func(t *testing.T, received []byte) {
		upper := bytes.ToUpper(received)
		var damaged tally
		s := &asciiStream{stream: &feed{iotest.OneByteReader(bytes.NewReader(received))}, tally: &damaged}
		frame := make([]byte, rtuFrameSize)
		for {
			n, err := s.Read(frame)
			if errors.Is(err, io.EOF) {
				return
			}
			if n < 4 {
				t.Fatalf("% x is no frame", frame[:n])
			}
			if !checkCRC(frame[:n]) {
				continue // its LRC was wrong
			}
			// It says what some part of what was received says.
			if !bytes.Contains(upper, appendASCII(nil, frame[:n-2])) {
				t.Fatalf("% x was not received", frame[:n])
			}
		}
	})
}

// feed is a stream that is only read.
type feed struct{ io.Reader }

func (*feed) Write(p []byte) (int, error)      { return len(p), nil }
func (*feed) Close() error                     { return nil }
func (*feed) SetReadDeadline(time.Time) error  { return nil }
func (*feed) SetWriteDeadline(time.Time) error { return nil }
