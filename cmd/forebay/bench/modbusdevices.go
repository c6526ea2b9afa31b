package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// devices are many Modbus TCP devices behind one address: each connection is one.
type devices struct {
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

func startDevices() (*devices, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &devices{listener: l}
	d.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			d.conns = append(d.conns, c)
			d.mu.Unlock()
			d.running.Go(func() { answerReads(c) })
		}
	})
	return d, nil
}

func (d *devices) address() string { return d.listener.Addr().String() }

func (d *devices) stop() {
	// Clients that are cut off are what a bench ends with.
	_ = d.listener.Close()
	d.mu.Lock()
	for _, c := range d.conns {
		_ = c.Close()
	}
	d.mu.Unlock()
	d.running.Wait()
}

// answerReads answers reads of 125 registers with as little work as there can
// be. The last register counts them.
func answerReads(c net.Conn) {
	const header, size = 7, 2 * registersPerRead
	var request [header + 5]byte
	answer := make([]byte, header+2+size)
	for n := uint16(0); ; n++ {
		if _, err := io.ReadFull(c, request[:]); err != nil {
			return
		}
		copy(answer, request[:header+1])
		binary.BigEndian.PutUint16(answer[4:], 3+size)
		answer[header+1] = size
		binary.BigEndian.PutUint16(answer[header+size:], n)
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// fleet is many devices that a gateway polls.
type fleet struct {
	devices  int
	interval time.Duration
	onChange bool // only one register of each changes
}

// devices measures a gateway that polls many.
func (b *modbusBench) devices() error {
	still := fleet{devices: 200, interval: time.Second, onChange: true}
	loud := fleet{devices: 200, interval: time.Second}
	fast := fleet{devices: 200, interval: 100 * time.Millisecond}
	stillCPU := b.table.row("200 devices, 1 s, one value changes, processor", "% of a core", Budget{Most: 3})
	stillMemory := b.table.row("200 devices, 1 s, one value changes, memory", "MiB more", Budget{Most: 15})
	loudCPU := b.table.row("200 devices, 1 s, all published, processor", "% of a core")
	tags := b.table.row("200 devices, 100 ms, all published", "tags/s", Budget{Least: 100e3})
	rounds := b.rounds
	for i := range rounds {
		b.say(i, stillCPU, oursColumn)
		idle, err := b.gateway(fleet{})
		if err != nil {
			return err
		}
		g, err := b.gateway(still)
		if err != nil {
			return err
		}
		stillCPU.add(b.table, oursColumn, 100*(g.cpu-idle.cpu))
		stillMemory.add(b.table, oursColumn, (g.memory-idle.memory)/(1<<20))
		b.say(i, loudCPU, oursColumn)
		if g, err = b.gateway(loud); err != nil {
			return err
		}
		loudCPU.add(b.table, oursColumn, 100*(g.cpu-idle.cpu))
		b.say(i, tags, oursColumn)
		if g, err = b.gateway(fast); err != nil {
			return err
		}
		tags.add(b.table, oursColumn, g.tags)
	}
	return nil
}

// gatewayFigures is what a gateway used and did.
type gatewayFigures struct {
	cpu    float64 // share of a core
	memory float64 // resident bytes
	tags   float64 // published, per second
}

// gateway starts a gateway with devices and looks at it for a while.
func (b *modbusBench) gateway(f fleet) (g gatewayFigures, err error) {
	d, err := startDevices()
	if err != nil {
		return g, err
	}
	defer d.stop()
	dir, err := b.sub(fmt.Sprint("gateway-", time.Now().UnixNano()))
	if err != nil {
		return g, err
	}
	api, err := freePort()
	if err != nil {
		return g, err
	}
	metrics := fmt.Sprintf("http://127.0.0.1:%d/metrics", api)
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(f.config(dir, api, d.address())), 0o600); err != nil {
		return g, err
	}
	c, err := launch(dir, []string{b.Self, "run", "--config", filepath.Join(dir, "config.yaml")})
	if err != nil {
		return g, err
	}
	defer c.stop()
	if err := b.ready(c, metrics, f); err != nil {
		return g, err
	}
	return b.watch(c, metrics)
}

// config is what the gateway is started with.
func (f fleet) config(dir string, api int, address string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "log: {level: error}\nstorage: {path: %q}\nbroker: {listeners: []}\napi: {listen: \"127.0.0.1:%d\"}\n", filepath.Join(dir, "store"), api)
	if f.devices == 0 {
		return b.String()
	}
	b.WriteString("modbus:\n  links:\n")
	for n := range f.devices {
		fmt.Fprintf(&b, "    - name: device%d\n      tcp: %q\n      units:\n        - {name: unit, unit: 1, interval: %v, tags: ", n, address, f.interval)
		if n > 0 {
			b.WriteString("*tags}\n") // a file with all of them would be too large
			continue
		}
		b.WriteString("&tags [")
		for i := range registersPerRead {
			fmt.Fprintf(&b, "{name: t%d, register: holding, address: %d, on_change: %t}, ", i, i, f.onChange)
		}
		b.WriteString("]}\n")
	}
	return b.String()
}

// ready waits until every value has come.
func (b *modbusBench) ready(c *child, metrics string, f fleet) error {
	for deadline := time.Now().Add(4 * answerTime); ; {
		n, err := published(b.ctx, metrics)
		if err == nil && n >= float64(f.devices*registersPerRead) {
			return b.pause(2 * time.Second) // what starting has used is not what running uses
		}
		select {
		case end := <-c.ended:
			c.ended <- end // for stop
			return fmt.Errorf("bench: the gateway ends at once (%v):\n%s", end, c.output)
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("bench: the gateway has published %v values, not all: %w", n, err)
		}
		if err := b.pause(50 * time.Millisecond); err != nil {
			return err
		}
	}
}

// watch measures a gateway that runs.
func (b *modbusBench) watch(c *child, metrics string) (g gatewayFigures, err error) {
	before, err := published(b.ctx, metrics)
	if err != nil {
		return g, err
	}
	used, err := c.cpu()
	if err != nil {
		return g, err
	}
	began := time.Now()
	if err := b.pause(2 * b.time); err != nil {
		return g, err
	}
	now, err := c.cpu()
	if err != nil {
		return g, err
	}
	elapsed := time.Since(began)
	after, err := published(b.ctx, metrics)
	if err != nil {
		return g, err
	}
	memory, err := c.resident()
	return gatewayFigures{cpu: float64(now-used) / float64(elapsed), memory: float64(memory), tags: (after - before) / elapsed.Seconds()}, err
}

// published asks a gateway how many samples it has published.
func published(ctx context.Context, metrics string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, metrics, nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	defer response.Body.Close() // it is read to its end
	lines := bufio.NewScanner(io.LimitReader(response.Body, 4<<20))
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "forebay_modbus_samples_published_total "); ok {
			return strconv.ParseFloat(text, 64)
		}
	}
	return 0, fmt.Errorf("bench: %s does not tell of samples", metrics)
}
