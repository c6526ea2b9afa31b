package edge

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/modbus"
)

// firstSamples is a sink that keeps the first sample of each tag.
type firstSamples struct {
	mu    sync.Mutex
	first map[string]string // by link and tag
	wait  chan struct{}     // closed when there are as many as wanted
	want  int
}

func (f *firstSamples) Samples(samples []modbus.Sample) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range samples {
		key := s.Link.Name + " " + s.Tag.Name
		if _, known := f.first[key]; known {
			continue
		}
		f.first[key] = fmt.Sprint(s.Value)
		if s.Quality != modbus.Good {
			f.first[key] = fmt.Sprint(s.Quality, ": ", s.Err)
		}
		if len(f.first) == f.want {
			close(f.wait)
		}
	}
}

func (f *firstSamples) UnitState(modbus.UnitState) {}

// Every profile that comes with the gateway reads from an image of its device
// what it should, and has no tag that the image does not have.
func TestProfilesReadTheirDevices(t *testing.T) {
	files, err := filepath.Glob("../configs/profiles/*.yaml")
	if err != nil || len(files) < 12 {
		t.Fatalf("%d profiles, %v", len(files), err)
	}
	want := map[string]string{}
	text := "modbus:\n  links:\n"
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		file, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		address := serveImage(t, name, want)
		text += fmt.Sprintf("    - {name: %s, tcp: %q, units: [{name: u, unit: 1, profile: %s}]}\n", name, address, file)
	}
	cfg, err := loadText(t, "a.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.CheckFiles(); err != nil {
		t.Error(err)
	}
	tags := 0
	cfg.eachTag(func(*modbus.LinkConfig, *modbus.UnitConfig, *modbus.TagConfig) { tags++ })
	sink := &firstSamples{first: map[string]string{}, wait: make(chan struct{}), want: tags}
	poller, err := modbus.New(cfg.Modbus, slog.New(slog.DiscardHandler), sink)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = poller.Run(ctx) // it returns nil
	}()
	select {
	case <-sink.wait:
	case <-time.After(patience):
		t.Error("not all tags were read")
	}
	cancel()
	<-ended
	for key, value := range sink.first {
		if want[key] != value {
			t.Errorf("%s: %s; want %s", key, value, want[key])
		}
		delete(want, key)
	}
	for key := range want {
		t.Errorf("%s was not read", key)
	}
}

// serveImage serves the registers in testdata/profiles, lines of table, address,
// words and then tag and value if one begins there, and adds the values to want.
func serveImage(t *testing.T, name string, want map[string]string) (address string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "profiles", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	server := modbus.NewServer()
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		table := map[string]modbus.Table{"input": modbus.InputRegister, "holding": modbus.HoldingRegister}[fields[0]]
		at, err1 := strconv.ParseUint(fields[1], 10, 16)
		words, err2 := hex.DecodeString(fields[2])
		if err1 != nil || err2 != nil {
			t.Fatalf("%s: %s", name, line)
		}
		for i := 0; i < len(words); i += 2 {
			server.SetRegister(table, uint16(at)+uint16(i/2), uint16(words[i])<<8|uint16(words[i+1]))
		}
		if len(fields) == 5 {
			want[name+" "+fields[3]] = fields[4]
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// withProfile loads a configuration of one unit, with a profile called meter
// beside it.
func withProfile(t *testing.T, profile, unit string) (*Config, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "profiles"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "profiles", "meter.yaml"), []byte(profile), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "a.yaml")
	text := "modbus:\n  links:\n    - name: l\n      tcp: 127.0.0.1\n      units:\n        - {name: u, unit: 1, " + unit + "}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

const meter = `
max_registers: 80
interval: 5s
tags:
  - {name: voltage, reference: 30001, type: int16, invalid: [0x8000], scale: 0.1}
  - {name: energy, register: input, address: 7, type: uint32}
`

// What a unit says itself comes first, also about a tag of its profile.
func TestProfileIsCompleted(t *testing.T) {
	cfg, err := withProfile(t, meter, `profile: meter, interval: 2s, tags: [{name: own, register: coil, address: 1}, {name: voltage, scale: 0.01, deadband: "1%"}]`)
	if err != nil {
		t.Fatal(err)
	}
	u := cfg.Modbus.Links[0].Units[0]
	if u.MaxRegisters != 80 || u.Interval != 2*time.Second || u.Profile != "meter" || len(u.Tags) != 3 {
		t.Fatalf("%+v", u)
	}
	own, voltage, energy := u.Tags[0], u.Tags[1], u.Tags[2]
	if own.Register != "coil" || voltage.Reference != "30001" || voltage.Type != "int16" || *voltage.Scale != 0.01 ||
		voltage.Deadband != "1%" || voltage.Invalid[0] != "0x8000" || energy.Name != "energy" || *energy.Address != 7 || energy.Interval != 2*time.Second {
		t.Errorf("%+v\n%+v\n%+v", own, voltage, energy)
	}
	if len(cfg.files) != 1 || filepath.Base(cfg.files[0].Name) != "meter.yaml" {
		t.Errorf("files: %v", cfg.files)
	}
}

// A problem says in which file it is.
func TestProfileProblems(t *testing.T) {
	for _, tt := range []struct{ profile, unit, want string }{
		{meter, "profile: gone", "there is no"},
		{meter, "profile: ../profiles/meter", "there is no"},
		{meter, `profile: "Meter 1"`, "is no name of a profile"},
		{meter, "profile: /dev/null", "is no file of at most"},
		{meter, "profile: [meter]", "must be text"},
		{meter, "profile: meter, tags: 7", "must be a list"},
		{meter, "profile: meter, tags: [{name: own, register: coil}]", "tags[0].address: missing"},
		{"unit: 7\n" + meter, "profile: meter", "unit belongs to a unit"},
		{"tags: []", "profile: meter", "has no tags"},
		{"tags: [", "profile: meter", "meter.yaml"},
		{strings.Repeat("# long\n", 10_000) + meter, "profile: meter", "is no file of at most"},
		{strings.Replace(meter, "address: 7", "adress: 7", 1), "profile: meter", "did you mean address? (in "},
		{strings.Replace(meter, "uint32", "uint33", 1), "profile: meter", `"uint33" is not known`},
		{strings.Replace(meter, "max_registers: 80", "max_registers: 800", 1), "profile: meter", "800 is out of range: 1 to 125 (in "},
	} {
		_, err := withProfile(t, tt.profile, tt.unit)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "a.yaml:6:") {
			t.Errorf("%s: %v; want %s", tt.unit, err, tt.want)
		}
	}
}

func FuzzProfile(f *testing.F) {
	f.Add([]byte(meter), "voltage")
	f.Add([]byte("tags: [7, {name: [x]}, null]"), "x")
	f.Add([]byte("tags: &a [*a]"), "")
	f.Fuzz(func(t *testing.T, b []byte, tag string) {
		p, err := parseProfile("meter.yaml", b)
		if err != nil {
			return
		}
		r := &reader{problems: &problems{}, texts: map[string]string{}, tainted: map[string]bool{}}
		unit := map[string]any{"tags": []any{map[string]any{"name": tag}, tag}}
		r.apply(p, unit, "u")
		if tags, _ := unit["tags"].([]any); len(tags) < 2 {
			t.Errorf("the tags of the unit are lost: %v", unit)
		}
	})
}
