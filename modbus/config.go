package modbus

import "time"

// Config is the modbus section of the configuration. Fields that are absent in
// a file are zero here; SetDefaults fills them, Validate judges the result.
type Config struct {
	// Links are the TCP endpoints and serial ports, in the order of the file.
	Links []LinkConfig `mapstructure:"links"`
	// Server serves chosen tags to other Modbus clients. Absent: nobody does.
	Server *ServerConfig `mapstructure:"server"`
}

// LinkConfig is one endpoint or serial port. Exactly one of TCP, RTU, ASCII,
// RTUOverTCP, ASCIIOverTCP and UDP is given.
type LinkConfig struct {
	// Name identifies the link in topics, logs and status; unique, required.
	Name string `mapstructure:"name"`
	// TCP is the host:port of a Modbus TCP server; port 502 when it has none, 802
	// with TLS.
	TCP string `mapstructure:"tcp"`
	// TLS makes the TCP connection one of the Modbus Security Protocol.
	TLS *TLSConfig `mapstructure:"tls"`
	// RTU is a serial port with RTU frames, ASCII one with ASCII frames.
	RTU   *SerialConfig `mapstructure:"rtu"`
	ASCII *SerialConfig `mapstructure:"ascii"`
	// RTUOverTCP is the host:port of a serial server that passes RTU frames on,
	// ASCIIOverTCP that of one that passes ASCII frames on.
	RTUOverTCP   string `mapstructure:"rtu_over_tcp"`
	ASCIIOverTCP string `mapstructure:"ascii_over_tcp"`
	// UDP is the host:port of a server that takes Modbus TCP frames as
	// datagrams; port 502 when it has none.
	UDP string `mapstructure:"udp"`
	// Timeout is how long a complete answer may take, the time on the wire of a
	// serial line not counted; also the limit for connecting. Default 1s, 10ms
	// to 1m. Size it to the slowest unit of the link.
	Timeout time.Duration `mapstructure:"timeout"`
	// RequestDelay is the least time between an answer and the next request, for
	// devices that lose requests that come too soon. 0, the default, to 10s.
	RequestDelay time.Duration `mapstructure:"request_delay"`
	// ConnectDelay is the time between connecting, or opening the port, and the
	// first request: boards that restart when their port is opened need it. 0,
	// the default, to 1m.
	ConnectDelay time.Duration `mapstructure:"connect_delay"`
	// CloseAfterRequest closes the connection or port after each request, for
	// devices that serve one client at a time. Default false.
	CloseAfterRequest bool `mapstructure:"close_after_request"`
	// CloseWhenIdle closes it when nothing has been asked for this long and
	// nothing is due. 0, the default: never.
	CloseWhenIdle time.Duration `mapstructure:"close_when_idle"`
	// Connections is how many connections are made to the endpoint of TCP or
	// UDP, RTUOverTCP or ASCIIOverTCP; its units are shared out among them.
	// Default 1, to 16.
	Connections int `mapstructure:"connections"`
	// InFlight is how many reads may wait for their answers at the same time on
	// one connection of TCP or UDP, for devices that take several. Default 1,
	// to 16.
	InFlight int `mapstructure:"in_flight"`
	// Units are the devices reached through this link.
	Units []UnitConfig `mapstructure:"units"`
}

// TLSConfig names the files of a TLS connection, all in PEM. They are read for
// each connection.
type TLSConfig struct {
	// CA holds the authorities that may vouch for the device. Empty: those of
	// the system.
	CA string `mapstructure:"ca"`
	// Certificate and Key are shown to the device; Modbus Security devices ask
	// for them. Both or none.
	Certificate string `mapstructure:"certificate"`
	Key         string `mapstructure:"key"`
	// ServerName is what the device's certificate must be for. Empty: the host
	// of the address.
	ServerName string `mapstructure:"server_name"`
}

// SerialConfig is one serial port.
type SerialConfig struct {
	// Port is the device file, for example /dev/ttyUSB0, or one of
	// /dev/serial/by-id, which stays with its adapter; required. It is opened
	// for this process alone, and again when it comes back.
	Port string `mapstructure:"port"`
	// Baud is the line speed in bit/s, 50 to 4000000. Default 19200.
	Baud int `mapstructure:"baud"`
	// Parity is none, even or odd. Default even (Modbus serial §2.5.1).
	Parity string `mapstructure:"parity"`
	// StopBits is 1 or 2. Default 1.
	StopBits int `mapstructure:"stop_bits"`
	// DataBits is 7 or 8. RTU needs 8, its default; that of ASCII is 7.
	DataBits int `mapstructure:"data_bits"`
	// RS485 has the kernel switch the direction of a half-duplex line with RTS.
	// Absent: the adapter does it by itself.
	RS485 *RS485Config `mapstructure:"rs485"`
}

// RS485Config is how the kernel drives the direction of an RS-485 line. The
// driver of the port must support it.
type RS485Config struct {
	// RTSOnSend is the level of RTS while sending: high (default) or low.
	RTSOnSend string `mapstructure:"rts_on_send"`
	// DelayBeforeSend and DelayAfterSend keep that level around what is sent, in
	// whole milliseconds. 0, the default, to 100ms.
	DelayBeforeSend time.Duration `mapstructure:"delay_before_send"`
	DelayAfterSend  time.Duration `mapstructure:"delay_after_send"`
}

// UnitConfig is one device.
type UnitConfig struct {
	// Name identifies the unit on its link; unique there, required.
	Name string `mapstructure:"name"`
	// Unit is the unit ID: 0 to 255 over TCP, 1 to 255 on a serial line, where
	// 0 is the broadcast address. Required.
	Unit *int `mapstructure:"unit"`
	// Profile names a file with the keys and tags of this kind of device, which
	// package edge has put in already. Empty: none.
	Profile string `mapstructure:"profile"`
	// Interval is the time between two reads of a tag. Default 1s, 10ms to 24h.
	Interval time.Duration `mapstructure:"interval"`
	// Align is that of the tags which have neither Align nor Interval.
	Align time.Duration `mapstructure:"align"`
	// Topic is the template of the topics of this unit's tags, for package
	// edge. Default modbus/{link}/{unit}/{tag}.
	Topic string `mapstructure:"topic"`
	// MaxRegisters is the largest number of registers the device accepts in one
	// read. Default and upper limit 125 (Modbus §6.3).
	MaxRegisters int `mapstructure:"max_registers"`
	// MaxBits is the same for coils and discrete inputs. Default and upper
	// limit 2000 (Modbus §6.1).
	MaxBits int `mapstructure:"max_bits"`
	// MaxGap is how many registers (or bits) nobody asked for may be read along
	// to join two tags into one read. Default 0: some devices refuse or hide
	// registers between the documented ones.
	MaxGap int `mapstructure:"max_gap"`
	// Exact reads each value by itself, for devices that give their values only
	// at their own addresses. Default false.
	Exact bool `mapstructure:"exact"`
	// ReadModifyWrite writes a part of a register (a bit, some bits, a byte) by
	// reading the whole register and writing it back changed, if the device does
	// not know function 22. What the device changes in between is undone. Default
	// false: such a write is refused.
	ReadModifyWrite bool `mapstructure:"read_modify_write"`
	// Payload is json or raw, or group for one message, in JSON, of all values of
	// a read, for package edge. Default json.
	Payload string `mapstructure:"payload"`
	// QoS of the published samples, 0 to 2, for package edge. Default 1.
	QoS *int `mapstructure:"qos"`
	// Retain says whether samples are published retained, for package edge.
	// Default false.
	Retain *bool `mapstructure:"retain"`
	// ExpireAfter is after how many intervals a published sample expires: nobody
	// gets it who has not got it by then. Of a tag with MaxInterval that counts.
	// For package edge. 0, the default, to 1000: never.
	ExpireAfter int `mapstructure:"expire_after"`
	// Tags are the values read from and written to the device.
	Tags []TagConfig `mapstructure:"tags"`
}

// TagConfig is one value of a device: where its registers are, how they become
// a value, when the value is passed on and whether it can be written.
type TagConfig struct {
	// Name identifies the tag on its unit; unique there, required.
	Name string `mapstructure:"name"`

	// Register is the table: coil, discrete, input or holding. Required unless
	// Reference names it.
	Register string `mapstructure:"register"`
	// Address is the 0-based address as on the wire, 0 to 65535.
	Address *int `mapstructure:"address"`
	// Reference is the address as manuals print it, instead of Register and
	// Address: table digit 0, 1, 3 or 4 and the 1-based number in four or five
	// digits (40101, 400101, 30001, 10001, 00001). That of a coil has to be
	// quoted in YAML, which takes 00017 for the octal form of 15; so shorter
	// references are refused.
	Reference string `mapstructure:"reference"`

	// Type is how the registers are read: bool, int8, uint8, int16, uint16,
	// int32, uint32, int64, uint64, float16, float32, float64, bcd16, bcd32,
	// string, bytes (raw, as hexadecimal digits), unix32 or unix64 (seconds since
	// 1970, as a time in RFC 3339) or datetime (a register each for year, month,
	// day, hour, minute and second of the device's clock, as such a time without
	// a zone). Default bool for coils, discrete inputs and tags with Bit alone,
	// uint16 for registers.
	Type string `mapstructure:"type"`
	// Order is the order of the bytes of a value in its registers, A being the
	// most significant byte: ABCD (default), CDAB (words swapped), BADC (bytes
	// swapped) or DCBA (both). 64-bit values likewise by words and bytes; of a
	// 16-bit value or a string only the byte order counts.
	Order string `mapstructure:"order"`
	// Count is the number of registers of a string or of bytes, 1 to 125.
	// Required for these, otherwise absent.
	Count int `mapstructure:"count"`
	// Layout of a string: packed (default, two characters per register) or
	// char_per_register (one, in the low byte).
	Layout string `mapstructure:"layout"`
	// Encoding of a string: ascii or utf-8, in which other bytes make it bad, or
	// latin-1. Default: UTF-8, and what is none is taken for Latin-1.
	Encoding string `mapstructure:"encoding"`
	// Byte is the one of its register that an int8 or uint8 is: low (default) or
	// high.
	Byte string `mapstructure:"byte"`
	// Bit makes a bool of one bit of a register: 0 (least significant) to 15.
	Bit *int `mapstructure:"bit"`
	// BitCount makes a number without a sign of that many bits from Bit on.
	BitCount int `mapstructure:"bit_count"`
	// Bits makes an object of the bits of a uint16 or uint32: a name for each bit
	// that matters, by its number.
	Bits map[string]string `mapstructure:"bits"`
	// Invert negates a bool.
	Invert bool `mapstructure:"invert"`
	// Scale and Offset make the value of the number in the registers:
	// value = raw × scale + offset. Defaults 1 and 0; Scale is not 0.
	Scale  *float64 `mapstructure:"scale"`
	Offset float64  `mapstructure:"offset"`
	// ScaleRegister is the address, in the same table, of an int16 that is read
	// together with the value and gives the power of ten it is multiplied by, as
	// SunSpec has it: value = raw × scale × 10^n + offset. The value is bad when
	// the register holds no number from -10 to 10.
	ScaleRegister *int `mapstructure:"scale_register"`
	// Clamp is the least and the greatest value, after scaling. One outside
	// becomes the nearer of them, with quality uncertain.
	Clamp []float64 `mapstructure:"clamp"`
	// Counter makes the running total of a counter that begins again at 0 behind
	// its greatest number. It begins with the device's count whenever the poller
	// starts.
	Counter bool `mapstructure:"counter"`
	// Invalid lists raw numbers (before scaling, decimal or 0x…) with which the
	// device says that it has no value. Hexadecimal is the bit pattern: 0x8000,
	// and also 32768, is -32768 of an int16. Patterns of a float have to be
	// quoted in YAML, which makes decimal numbers of them.
	Invalid []string `mapstructure:"invalid"`
	// Enum gives raw numbers a text, which becomes the value.
	Enum map[string]string `mapstructure:"enum"`
	// EngineeringUnit is text for people, such as degC. It changes nothing.
	EngineeringUnit string `mapstructure:"engineering_unit"`

	// Interval between two reads of this tag. Default: that of the unit.
	Interval time.Duration `mapstructure:"interval"`
	// Align reads the tag whenever the local time is a multiple of this since
	// midnight, instead of at an interval: 15m is on every quarter of an hour.
	// At the start and when the unit comes back it is read at once. 1s to 24h, a
	// divisor of 24h. 0, the default: not aligned.
	Align time.Duration `mapstructure:"align"`
	// Deadband passes a number on only when it differs from the last one passed
	// on by more than this: absolute ("0.2") or relative to it ("1%").
	Deadband string `mapstructure:"deadband"`
	// OnChange passes a value on only when it differs from the last one.
	OnChange bool `mapstructure:"on_change"`
	// MinInterval is the least time between two samples of this tag; a change
	// of quality is passed on at once. 0: none.
	MinInterval time.Duration `mapstructure:"min_interval"`
	// MaxInterval is the time after which a sample is passed on even when
	// OnChange or Deadband would hold it back; it implies OnChange. 0: none.
	MaxInterval time.Duration `mapstructure:"max_interval"`

	// QoS and Retain override those of the unit, for package edge.
	QoS    *int  `mapstructure:"qos"`
	Retain *bool `mapstructure:"retain"`

	// Writable permits writes; coils and holding registers only.
	Writable bool `mapstructure:"writable"`
	// Min and Max are the limits of a written value, after scaling. A value
	// outside is refused, not clipped.
	Min *float64 `mapstructure:"min"`
	Max *float64 `mapstructure:"max"`
	// Step is what a written value is a whole multiple of, counted from Min or
	// else from 0. A value between two steps is refused. 0: any value.
	Step float64 `mapstructure:"step"`
	// WriteInterval is the least time between two writes. 0: none.
	WriteInterval time.Duration `mapstructure:"write_interval"`
	// Arm is a word that a command has to bring, against slips of the hand: it is
	// no secret. For package edge. Empty: none.
	Arm string `mapstructure:"arm"`
}

// Defaults of the configuration keys.
const (
	DefaultTimeout  = time.Second
	DefaultInterval = time.Second
	DefaultTopic    = "modbus/{link}/{unit}/{tag}"
	DefaultQoS      = 1

	PayloadJSON  = "json"
	PayloadRaw   = "raw"
	PayloadGroup = "group"
)

// Limits of one read: Modbus §6.1 and §6.3.
const (
	maxBits      = 2000
	maxRegisters = 125
)

// Lifetime is how long a published sample of the tag is of use, 0 for ever.
func (u *UnitConfig) Lifetime(t *TagConfig) time.Duration {
	return time.Duration(u.ExpireAfter) * max(t.Interval, t.MinInterval, t.MaxInterval)
}

// SetDefaults fills everything that was left out, except what has no default.
// It changes c in place and may be called again.
func (c *Config) SetDefaults() {
	if c.Server != nil {
		c.Server.setDefaults()
	}
	for i := range c.Links {
		l := &c.Links[i]
		setDefault(&l.Timeout, DefaultTimeout)
		setDefault(&l.Connections, 1)
		setDefault(&l.InFlight, 1)
		if l.RTU != nil {
			l.RTU.setDefaults(8)
		}
		if l.ASCII != nil {
			l.ASCII.setDefaults(7)
		}
		for j := range l.Units {
			l.Units[j].setDefaults()
		}
	}
}

func (s *SerialConfig) setDefaults(dataBits int) {
	setDefault(&s.Baud, 19200)
	setDefault(&s.Parity, "even")
	setDefault(&s.StopBits, 1)
	setDefault(&s.DataBits, dataBits)
	if s.RS485 != nil {
		setDefault(&s.RS485.RTSOnSend, "high")
	}
}

func (u *UnitConfig) setDefaults() {
	setDefault(&u.Interval, DefaultInterval)
	setDefault(&u.Topic, DefaultTopic)
	setDefault(&u.MaxRegisters, maxRegisters)
	setDefault(&u.MaxBits, maxBits)
	setDefault(&u.Payload, PayloadJSON)
	if u.QoS == nil {
		u.QoS = new(DefaultQoS)
	}
	if u.Retain == nil {
		u.Retain = new(false)
	}
	for k := range u.Tags {
		t := &u.Tags[k]
		if t.Interval == 0 {
			setDefault(&t.Align, u.Align)
		}
		setDefault(&t.Interval, t.Align)
		setDefault(&t.Interval, u.Interval)
		setDefault(&t.Order, "ABCD")
		if t.Type == "string" {
			setDefault(&t.Layout, "packed")
		}
		if t.Scale == nil {
			t.Scale = new(1.0)
		}
		if t.QoS == nil {
			t.QoS = u.QoS
		}
		if t.Retain == nil {
			t.Retain = u.Retain
		}
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
