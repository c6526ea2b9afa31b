package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"time"

	"forebay/bridge"
	"forebay/broker"
	"forebay/modbus"
)

// DemoOptions say how the demonstration runs.
type DemoOptions struct {
	For      time.Duration // how long; 0: until the context ends
	JSON     bool          // print nothing but the final account, as JSON
	Terminal bool          // Out is a terminal: redraw one screen in place
	Out      io.Writer
}

// Account is what the demonstration found.
type Account struct {
	Acknowledged uint64 `json:"acknowledged"` // messages acknowledged to the devices
	Arrived      uint64 `json:"arrived"`      // of these, at the cloud
	Forwarded    uint64 `json:"forwarded"`    // acknowledged to the bridge by the cloud: those, and samples
	Samples      uint64 `json:"samples"`      // Modbus samples published
	Lost         uint64 `json:"lost"`         // acknowledged or published, and not at the cloud
	Duplicated   uint64 `json:"duplicated"`   // QoS 2 at the cloud more than once
	Repeated     uint64 `json:"repeated"`     // QoS 1 at the cloud more than once, after an outage: MQTT allows it
	Outages      int    `json:"outages"`
	MaxBacklog   int64  `json:"max_backlog"` // messages
	Seconds      int    `json:"seconds"`
}

const (
	demoSite     = "demo"
	demoPrefix   = "sites/" + demoSite + "/"
	demoRate     = 50 * time.Millisecond // between two messages of a device
	demoPatience = 60 * time.Second      // for everything to arrive after the last outage
)

// Demo runs a simulated PLC, a few devices, a stand-in cloud and a gateway in
// this process, and cuts the uplink every few seconds, until the context or the
// time is over. Then it lets everything that waits pass the uplink and compares
// what was acknowledged to the devices with what arrived at the cloud.
//
// It needs nothing but a folder for temporary files and free loopback ports. The
// error says if anything was lost or duplicated.
func Demo(ctx context.Context, options DemoOptions) (err error) {
	dir, err := os.MkdirTemp("", "forebay-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := &demo{options: options, dir: dir, began: time.Now(), lines: &demoLog{}}
	account, err := d.run(ctx)
	if err != nil {
		return err
	}
	if options.JSON {
		b, err := json.MarshalIndent(account, "", "  ")
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		if _, err := fmt.Fprintf(options.Out, "%s\n", b); err != nil {
			return err
		}
	} else if err := d.printAccount(account); err != nil {
		return err
	}
	switch {
	case account.Lost > 0 || account.Duplicated > 0:
		return fmt.Errorf("demo: %d lost, %d duplicated", account.Lost, account.Duplicated)
	case account.Acknowledged == 0:
		return errors.New("demo: nothing was acknowledged, so nothing is proved")
	}
	return nil
}

// demo is one demonstration while it runs.
type demo struct {
	// Constant after build.
	options DemoOptions
	dir     string
	began   time.Time
	lines   *demoLog
	cloud   *Gateway
	gateway *Gateway
	uplink  *demoUplink
	judge   *demoJudge
	devices []*demoDevice

	// Owned by the goroutine of run.
	maxBacklog int64
	downSince  time.Time // zero: the uplink is up
	draining   bool
}

// run starts the parts from the cloud to the devices, and stops them in the
// reverse order.
func (d *demo) run(ctx context.Context) (account Account, err error) {
	// The parts outlive ctx: its end begins the final count.
	var parts demoParts
	defer func() { err = errors.Join(err, parts.stop()) }()
	if err := d.build(&parts); err != nil {
		return Account{}, err
	}
	if d.options.Terminal {
		if _, err := io.WriteString(d.options.Out, "\x1b[2J"); err != nil {
			return Account{}, err
		}
	}
	publishing, stopPublishing := context.WithCancel(context.Background())
	defer stopPublishing()
	for _, device := range d.devices {
		parts.start(device.client.run)
		parts.start(func(context.Context) error { return publishSteadily(publishing, device) })
	}
	if err := d.play(ctx, &parts); err != nil {
		return Account{}, err
	}
	stopPublishing()
	d.uplink.mend()
	d.downSince, d.draining = time.Time{}, true
	return d.settle(&parts)
}

func publishSteadily(ctx context.Context, device *demoDevice) error {
	tick := time.NewTicker(demoRate)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := device.publish(); err != nil {
				return err
			}
		}
	}
}

// build starts everything but the devices.
func (d *demo) build(parts *demoParts) error {
	plc, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	parts.start(func(ctx context.Context) error { return runDemoPLC(ctx, plc) })

	if d.cloud, err = d.open("cloud", Config{Site: "cloud"}, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	parts.start(d.cloud.Run)
	if d.uplink, err = newDemoUplink(d.cloud.Addrs()[0]); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	parts.start(func(ctx context.Context) error { d.uplink.run(ctx); return nil })
	ctx := context.Background()
	if d.judge, err = newDemoJudge(ctx, d.cloud.Addrs()[0], demoPrefix); err != nil {
		return err
	}
	parts.start(d.judge.client.run)

	lines := slog.New(slog.NewTextHandler(d.lines, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: brief}))
	if d.gateway, err = d.open("gateway", d.gatewayConfig(plc.Addr().String()), lines); err != nil {
		return err
	}
	parts.start(d.gateway.Run)
	for i, qos := range []byte{1, 1, 2, 2} {
		device, err := newDemoDevice(ctx, d.gateway.Addrs()[0], fmt.Sprintf("device%d", i+1), qos)
		if err != nil {
			return err
		}
		d.devices = append(d.devices, device)
	}
	return nil
}

// brief leaves out of log lines what the screen has no room for.
func brief(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == "address") {
		return slog.Attr{}
	}
	return a
}

func (d *demo) gatewayConfig(plc string) Config {
	return Config{
		Site: demoSite,
		Bridges: []bridge.Config{{
			Name: "cloud", Addresses: []string{"mqtt://" + d.uplink.listener.Addr().String()},
			Reconnect: bridge.ReconnectConfig{Min: 100 * time.Millisecond, Max: 500 * time.Millisecond},
			Up:        []bridge.UpRule{{Filter: "plant/#", Topic: "sites/{site}/{topic}"}},
		}},
		Modbus: modbus.Config{Links: []modbus.LinkConfig{{
			Name: "line1", TCP: plc,
			Units: []modbus.UnitConfig{{
				Name: "plc", Unit: new(1), Interval: 250 * time.Millisecond, Topic: "plant/plc/{tag}", Tags: demoTags(),
			}},
		}}},
	}
}

// open opens a gateway with a store and a port of its own.
func (d *demo) open(name string, cfg Config, log *slog.Logger) (*Gateway, error) {
	cfg.Storage = newConfig().Storage
	cfg.Storage.Path = filepath.Join(d.dir, name)
	cfg.Broker = broker.Config{Listeners: []broker.ListenerConfig{{Address: "127.0.0.1:0", Anonymous: true}}}
	cfg.SetDefaults()
	p := &problems{}
	if cfg.Validate(p.report); len(p.list) > 0 {
		panic("BUG: edge: the configuration of the demo: " + p.err(name).Error())
	}
	g, err := Open(&cfg, log)
	if err != nil {
		return nil, fmt.Errorf("demo: %s: %w", name, err)
	}
	return g, nil
}

// play cuts and mends the uplink, and shows what happens, until the end.
func (d *demo) play(ctx context.Context, parts *demoParts) error {
	if d.options.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.options.For)
		defer cancel()
	}
	draw := d.drawTicker()
	defer draw.Stop()
	turn := time.NewTimer(3 * time.Second)
	defer turn.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-parts.failed():
			return fmt.Errorf("demo: a part has ended: %w", err)
		case <-turn.C:
			if d.downSince.IsZero() {
				d.downSince = time.Now()
				d.uplink.cut()
				turn.Reset(2*time.Second + rand.N(2*time.Second))
			} else {
				d.downSince = time.Time{}
				d.uplink.mend()
				turn.Reset(2*time.Second + rand.N(2*time.Second))
			}
		case <-draw.C:
			if err := d.draw(); err != nil {
				return err
			}
		}
	}
}

func (d *demo) drawTicker() *time.Ticker {
	if d.options.Terminal {
		return time.NewTicker(200 * time.Millisecond)
	}
	return time.NewTicker(time.Second)
}

// settle waits until everything has arrived, or for demoPatience, and counts.
func (d *demo) settle(parts *demoParts) (Account, error) {
	deadline := time.NewTimer(demoPatience)
	defer deadline.Stop()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	draw := d.drawTicker()
	defer draw.Stop()
	for {
		account, settled, err := d.count()
		if err != nil || settled {
			return account, err
		}
		select {
		case <-deadline.C:
			return account, nil // what has not arrived by now is lost
		case err := <-parts.failed():
			return Account{}, fmt.Errorf("demo: a part has ended: %w", err)
		case <-draw.C:
			if err := d.draw(); err != nil {
				return Account{}, err
			}
		case <-poll.C:
		}
	}
}

// count makes the account as it is now. settled reports that the devices wait
// for nothing, the bridge has nothing left, and nothing is missing.
func (d *demo) count() (account Account, settled bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	// Samples are counted before what has arrived, never the other way round:
	// one that comes in between must not seem lost.
	status, err := d.gateway.Status(ctx)
	if err != nil {
		return Account{}, false, err
	}
	v := d.judge.verdict(d.devices)
	_, outages := d.uplink.state()
	account = Account{
		Acknowledged: v.acknowledged, Arrived: v.arrived, Samples: status.Samples,
		Lost: v.lost + status.SamplesRefused, Duplicated: v.duplicated, Repeated: v.repeated,
		Outages: outages, MaxBacklog: d.maxBacklog, Seconds: int(time.Since(d.began).Seconds()),
	}
	if status.Samples > v.samplesArrived {
		account.Lost += status.Samples - v.samplesArrived
	}
	var backlog int64
	for _, b := range status.Bridges {
		account.Forwarded += b.Forwarded
		backlog += b.Backlog.Count
	}
	settled = backlog == 0 && account.Lost == 0
	for _, device := range d.devices {
		settled = settled && device.idle()
	}
	return account, settled, nil
}
