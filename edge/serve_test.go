package edge

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"forebay/bridge"
	"forebay/broker"
	"forebay/broker/packet"
	"forebay/storage"
)

// smallDisk mounts a small file system, where the machine lets us.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("forebay", dir, "tmpfs", 0, "size=24m"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("cannot mount a small file system: %v", err)
		}
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all the room there is.
func fill(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	for size := 64 << 10; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 16
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// A disk that is full stops acknowledgements and nothing else. Once there is
// room, messages are acknowledged again, in the same process, and nothing that
// was acknowledged before is gone.
func TestServeGoesOnWhenTheDiskHasRoomAgain(t *testing.T) {
	disk := smallDisk(t)
	cfg := &Config{Site: "mill", Bridges: []bridge.Config{cloudBridge("away", closedPort(t))}}
	cfg.Storage = storage.Config{Path: filepath.Join(disk, "store"), MaxSize: 8 << 20}
	cfg.Broker.Listeners = []broker.ListenerConfig{{Address: "127.0.0.1:0", Anonymous: true}}
	cfg.SetDefaults()
	log := &lockedBuffer{}
	ctx, stop := context.WithCancel(context.Background())
	lives, ended := make(chan *Gateway, 10), make(chan error, 1)
	go func() {
		ended <- Serve(ctx, cfg, slog.New(slog.NewTextHandler(log, nil)), func(_ context.Context, g *Gateway) { lives <- g })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	kept := func(g *Gateway) int64 { return g.uplinks[0].bridge.Status().Backlog.Count }

	g := <-lives
	publishAcknowledged(t, g.Addrs()[0], 10)
	fill(t, filepath.Join(disk, "ballast"))
	big := subscribe(t, g.Addrs()[0], "nothing")
	p := packet.Publish{Topic: []byte("plant/big"), Payload: bytes.Repeat([]byte("x"), 150_000), QoS: 1, PacketID: 1}
	if err := big.client.send(p.Append(nil, packet.V5)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return strings.Contains(log.String(), "the store has failed") })

	here := subscribe(t, g.Addrs()[0], "yard/#") // no bridge wants this
	here.publish("yard/gate", "open")
	here.wait("yard/gate", contains("open"))
	if len(lives) > 0 {
		t.Error("opened again though the disk is full")
	}

	if err := os.Remove(filepath.Join(disk, "ballast")); err != nil {
		t.Fatal(err)
	}
	g = <-lives
	if n := kept(g); n < 10 {
		t.Errorf("%d messages are kept for the upstream, at least 10 were acknowledged", n)
	}
	publishAcknowledged(t, g.Addrs()[0], 10)
	if n := kept(g); n < 20 {
		t.Errorf("%d messages are kept for the upstream, at least 20 were acknowledged", n)
	}
	for _, line := range []string{"the store has failed: messages that need it", "the store is open again"} {
		if n := strings.Count(log.String(), line); n != 1 {
			t.Errorf("%q is in the log %d times", line, n)
		}
	}
}

// publishAcknowledged publishes that many messages for the upstream and waits
// until they are acknowledged.
func publishAcknowledged(t *testing.T, address string, count uint64) {
	t.Helper()
	device, err := newDemoDevice(context.Background(), address, "d", 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- device.client.run(ctx) }()
	for range count {
		if err := device.publish(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool { return device.acknowledged() == count })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
