package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/modbus"
)

func newModbus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "modbus",
		Short: "look at Modbus devices and try them, with and without a gateway",
		Long: `Tools for commissioning. They speak to a device themselves and need no running
gateway and no configuration. A device that takes one TCP connection only refuses
a second one, and a serial port is open once: with --link NAME they ask the
gateway that runs, which goes on reading meanwhile.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, "which tool? %s", strings.Join(toolNames(cmd), ", "))
			}
			return usage(cmd, "unknown tool %q: use %s", args[0], strings.Join(toolNames(cmd), ", "))
		},
		RunE: func(*cobra.Command, []string) error { return nil }, // Args has refused
	}
	cmd.AddCommand(newModbusRead(), newModbusWrite(), newModbusOrders(), newModbusScan(), newModbusIdentify(), newModbusTrace(), newModbusImport(), newModbusPlan(), newModbusSimulate())
	return cmd
}

func toolNames(cmd *cobra.Command) []string {
	var names []string
	for _, tool := range cmd.Commands() {
		names = append(names, tool.Name())
	}
	return names
}

// usage is a command line that makes no sense, in a sentence.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return usageError{fmt.Errorf("%s: "+format, append([]any{cmd.CommandPath()}, args...)...)}
}

// device is how to reach a device: the flags that all tools share.
type device struct {
	tcp, rtu, rtuOverTCP     string
	ascii, asciiOverTCP, udp string
	tls                      modbus.TLSConfig
	baud, stopBits           int
	parity                   string
	unit                     int
	timeout                  time.Duration
	through                  string // the link of a running gateway
	gateway                  control
	trace                    bool
}

// addTo adds the flags that name the connection.
func (d *device) addTo(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&d.tcp, "tcp", "", "Modbus TCP: `HOST[:PORT]`, port 502 by default")
	f.StringVar(&d.rtu, "rtu", "", "Modbus RTU on the serial port `DEVICE`")
	f.StringVar(&d.rtuOverTCP, "rtu-over-tcp", "", "RTU frames through the serial server `HOST:PORT`")
	f.StringVar(&d.ascii, "ascii", "", "Modbus ASCII on the serial port `DEVICE`")
	f.StringVar(&d.asciiOverTCP, "ascii-over-tcp", "", "ASCII frames through the serial server `HOST:PORT`")
	f.StringVar(&d.udp, "udp", "", "Modbus TCP frames as datagrams: `HOST[:PORT]`, port 502 by default")
	f.StringVar(&d.tls.CA, "tls-ca", "", "with --tcp: Modbus Security, port 802 by default; `FILE` with the authority of the device")
	f.StringVar(&d.tls.Certificate, "tls-certificate", "", "`FILE` with the certificate to show to the device")
	f.StringVar(&d.tls.Key, "tls-key", "", "`FILE` with its key")
	f.StringVar(&d.tls.ServerName, "tls-server-name", "", "the `NAME` that the device's certificate is for, if not HOST")
	f.IntVar(&d.baud, "baud", 9600, "speed of the serial port in `BIT/S`")
	f.StringVar(&d.parity, "parity", "even", "none, even or odd: `PARITY` of the serial port")
	f.IntVar(&d.stopBits, "stop-bits", 1, "`NUMBER` of stop bits of the serial port")
	f.DurationVar(&d.timeout, "timeout", time.Second, "how long to wait for an answer: a `TIME` such as 300ms")
	f.StringVar(&d.through, "link", "", "through the running gateway, which owns it: the `NAME` of its link")
	d.gateway.flag(cmd)
	f.BoolVar(&d.trace, "trace", false, "print what is sent and what comes, with its time, on standard error")
}

// addUnit adds the flag for the one unit that is asked.
func (d *device) addUnit(cmd *cobra.Command) {
	cmd.Flags().IntVar(&d.unit, "unit", 1, "unit `ID`: the address on the bus, or behind a gateway")
}

// String names the device's end of the line for a person.
func (d *device) String() string {
	if d.through != "" {
		return "link " + d.through
	}
	return d.tcp + d.rtu + d.rtuOverTCP + d.ascii + d.asciiOverTCP + d.udp
}

// isSerial reports whether the device is on a serial port of this machine.
func (d *device) isSerial() bool { return d.rtu+d.ascii != "" }

// client prepares a client for units of the device. Every error is one of
// usage.
func (d *device) client(cmd *cobra.Command, units ...modbus.UnitConfig) (*modbus.Client, error) {
	if err := d.check(cmd); err != nil {
		return nil, err
	}
	link := d.link()
	link.Units = units
	whole := modbus.Config{Links: []modbus.LinkConfig{link}}
	for i := range units {
		units[i].Interval = 24 * time.Hour // nothing is read on a schedule: no line is too slow
	}
	whole.SetDefaults()
	wrong := make(map[string]string) // by argument; what follows from it is not said
	whole.Validate(func(path, problem string) {
		if name := argument(cmd, path); wrong[name] == "" {
			wrong[name] = name + ": " + problem
		}
	})
	if len(wrong) > 0 {
		return nil, usage(cmd, "%s", strings.Join(slices.Sorted(maps.Values(wrong)), "\n"+cmd.CommandPath()+": "))
	}
	client, err := d.open(whole.Links[0])
	if err != nil {
		return nil, usage(cmd, "%s", strings.TrimPrefix(err.Error(), "modbus: "))
	}
	if d.trace {
		client.Trace(func(e modbus.Exchange) { printExchange(cmd.ErrOrStderr(), e) })
	}
	return client, nil
}

// link is what the flags say of the connection.
func (d *device) link() modbus.LinkConfig {
	if d.through != "" {
		// What is asked goes through the gateway: it must only be valid.
		return modbus.LinkConfig{Name: "device", Timeout: d.timeout, TCP: "gateway"}
	}
	link := modbus.LinkConfig{
		Name: "device", Timeout: d.timeout,
		TCP: d.tcp, RTUOverTCP: d.rtuOverTCP, ASCIIOverTCP: d.asciiOverTCP, UDP: d.udp,
	}
	port := modbus.SerialConfig{Port: d.rtu + d.ascii, Baud: d.baud, Parity: d.parity, StopBits: d.stopBits}
	switch {
	case d.rtu != "":
		link.RTU = &port
	case d.ascii != "":
		link.ASCII = &port
	}
	if d.tls != (modbus.TLSConfig{}) {
		link.TLS = &d.tls
	}
	return link
}

// check judges what only the flags can tell.
func (d *device) check(cmd *cobra.Command) error {
	given := 0
	for _, s := range []string{d.tcp, d.rtu, d.rtuOverTCP, d.ascii, d.asciiOverTCP, d.udp, d.through} {
		if s != "" {
			given++
		}
	}
	if given != 1 {
		return usage(cmd, "which device? give one of --tcp HOST, --rtu DEVICE, --rtu-over-tcp HOST:PORT, --ascii DEVICE, --ascii-over-tcp HOST:PORT and --udp HOST, or --link NAME of the running gateway")
	}
	if d.through != "" && (cmd.Flags().Changed("timeout") || d.tls != (modbus.TLSConfig{})) {
		return usage(cmd, "--link: the gateway knows its timeout and its certificates: leave --timeout and --tls-… out")
	}
	for _, flag := range []string{"baud", "parity", "stop-bits"} {
		if !d.isSerial() && cmd.Flags().Changed(flag) {
			return usage(cmd, "--%s is for a serial port only: leave it out, or give --rtu or --ascii DEVICE", flag)
		}
	}
	// What is zero would become the default; here it was asked for.
	for flag, isZero := range map[string]bool{"timeout": d.timeout == 0, "baud": d.baud == 0, "stop-bits": d.stopBits == 0} {
		if isZero {
			return usage(cmd, "--%s: 0 is out of range: leave it out for the default", flag)
		}
	}
	return nil
}

// argument names the part of the command line that a path of the configuration
// came from.
func argument(cmd *cobra.Command, path string) string {
	key := strings.ReplaceAll(path[strings.LastIndexByte(path, '.')+1:], "_", "-")
	switch key {
	case "register", "reference", "writable", "address":
		switch {
		case cmd.Flags().Lookup("probe") != nil:
			return "--probe"
		case key == "address":
			return "ADDRESS"
		}
		return "REGISTER"
	case "port":
		if strings.Contains(path, ".ascii.") {
			return "--ascii"
		}
		return "--rtu"
	case "tls":
		return "--tls-certificate"
	}
	if cmd.Flags().Lookup(key) == nil && cmd.Flags().Lookup(key+"s") != nil {
		key += "s" // scan asks for units
	}
	return "--" + key
}

// format is how registers become a value: flags of read and write.
type format struct {
	typ, order    string
	scale, offset float64
	bit, count    int
}

func (f *format) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.typ, "type", "", "`TYPE` of the value: bool, int16, uint16, int32, uint32, float32, int64, uint64, float64, int8, uint8, float16, bcd16, bcd32, unix32, unix64, datetime, string or bytes (default: uint16, bool for bits)")
	flags.StringVar(&f.order, "order", "ABCD", "`ORDER` of its bytes: ABCD, CDAB, BADC or DCBA")
	flags.Float64Var(&f.scale, "scale", 1, "the value is the number in the registers times `FACTOR`")
	flags.Float64Var(&f.offset, "offset", 0, "plus this `NUMBER`")
	flags.IntVar(&f.bit, "bit", 0, "take one bit of a register: a `NUMBER` from 0 (lowest) to 15")
}

// apply puts the flags that were given into t.
func (f *format) apply(cmd *cobra.Command, t *modbus.TagConfig) {
	t.Type, t.Order, t.Scale, t.Offset = f.typ, f.order, &f.scale, f.offset
	if cmd.Flags().Changed("bit") {
		t.Bit = &f.bit
	}
	if f.typ == "string" && cmd.Flags().Changed("count") {
		t.Count = f.count
	}
}

// place reads REGISTER ADDRESS, or a reference that says both, off args; rest is
// what follows.
func place(cmd *cobra.Command, args []string) (t modbus.TagConfig, rest []string, err error) {
	if len(args) == 0 {
		return t, nil, usage(cmd, "which register? coil, discrete, input or holding with an address from 0, or a reference such as 40101")
	}
	if strings.Trim(args[0], "0123456789") == "" {
		t.Reference, t.Name = args[0], args[0]
		return t, args[1:], nil
	}
	t.Register = args[0]
	if len(args) == 1 {
		return t, nil, usage(cmd, "which address? %s needs one, 0 to 65535 (40101 in a manual is address 100 of holding)", args[0])
	}
	address, err := strconv.Atoi(args[1])
	if digits, hex := strings.CutPrefix(strings.ToLower(args[1]), "0x"); hex {
		var n uint64
		n, err = strconv.ParseUint(digits, 16, 31)
		address = int(n)
	}
	if err != nil {
		return t, nil, usage(cmd, "ADDRESS: %q is not a number: write 0 to 65535, or 0x0 to 0xffff", args[1])
	}
	t.Address, t.Name = &address, args[0]+" "+args[1]
	return t, args[2:], nil
}

// nothingLeft refuses arguments that no place is for.
func nothingLeft(cmd *cobra.Command, rest []string) error {
	if len(rest) > 0 {
		return usage(cmd, "%q is too much: leave it out", rest[0])
	}
	return nil
}

// unitConfig is a unit with tags, for a client.
func (d *device) unitConfig(tags ...modbus.TagConfig) modbus.UnitConfig {
	return modbus.UnitConfig{Name: fmt.Sprint("unit ", d.unit), Unit: &d.unit, ReadModifyWrite: true, Tags: tags}
}

// withInterrupt returns a context that ends with the first SIGTERM or SIGINT.
func withInterrupt() (context.Context, context.CancelFunc) {
	return untilSignal(slog.New(slog.DiscardHandler))
}

// explain makes a sentence of why a request failed, with what to try.
func (d *device) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	text := strings.TrimPrefix(err.Error(), "modbus: ")
	refusal, refused := errors.AsType[*modbus.ExceptionError](err)
	switch {
	case refused && !modbus.Answered(err):
		text = fmt.Sprintf("the gateway answers for unit %d with %s%s", d.unit, text, advice[refusal.Code])
	case refused:
		text = fmt.Sprintf("unit %d answers with %s%s", d.unit, text, advice[refusal.Code])
	case d.through != "" && errors.Is(err, errGateway):
	case errors.Is(err, modbus.ErrDown) && d.through != "":
		text = fmt.Sprintf("link %s is down: %s", d.through, strings.TrimPrefix(text, modbus.ErrDown.Error()+": "))
	case errors.Is(err, modbus.ErrTimeout) && d.through != "":
		text = fmt.Sprintf("unit %d does not answer on link %s: check the unit ID, and what forebay status says of the link", d.unit, d.through)
	case errors.Is(err, modbus.ErrDown) && d.isSerial():
		text = fmt.Sprintf("the port cannot be opened: %s: check its name, that this user is in its group (dialout), and that no other program has it open", strings.TrimPrefix(text, modbus.ErrDown.Error()+": "))
	case errors.Is(err, modbus.ErrDown):
		text = fmt.Sprintf("%s cannot be reached: %s: check address, port and network", d, strings.TrimPrefix(text, modbus.ErrDown.Error()+": "))
	case errors.Is(err, modbus.ErrTimeout):
		text = fmt.Sprintf("unit %d on %s: %s: check the unit ID%s, or wait longer with --timeout", d.unit, d, text, d.serialAdvice())
	}
	return errors.New(text)
}

func (d *device) serialAdvice() string {
	if d.tcp+d.udp != "" {
		return ""
	}
	return ", the wiring, baud rate, parity and stop bits"
}

// advice is what to try after an exception, by its code.
var advice = map[byte]string{
	1:  ": it does not know this function; try another table (input instead of holding), or the documented one",
	2:  ": it has no such register; addresses count from 0, so 40101 in a manual is holding 100 (or 99: some manuals count from 0 too)",
	3:  ": it does not take this number of registers, or this value",
	6:  ": ask again later",
	10: ": the gateway cannot reach that line",
	11: ": the unit behind it does not answer; check the unit ID and the line",
}

// failed puts the name of the command before an error.
func failed(cmd *cobra.Command, err error) error {
	return fmt.Errorf("%s: %w", cmd.CommandPath(), err)
}
