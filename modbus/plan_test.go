package modbus

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// planOf writes blocks as "holding 100+3" joined by commas; tags are written as
// "holding 100 int16" or "holding 100 int16 5s".
func tagsOf(t *testing.T, specs ...string) []*tag {
	t.Helper()
	var tags []*tag
	for i, spec := range specs {
		cfg := TagConfig{Name: fmt.Sprint("t", i), Address: new(0), Interval: time.Second}
		interval := ""
		if _, err := fmt.Sscan(spec+" - -", &cfg.Register, cfg.Address, &cfg.Type, &interval); err != nil {
			t.Fatal(err)
		}
		if cfg.Type == "-" {
			cfg.Type = ""
		}
		if d, err := time.ParseDuration(interval); err == nil {
			cfg.Interval = d
		}
		if n, ok := strings.CutPrefix(cfg.Type, "string"); ok {
			if _, err := fmt.Sscan(n, &cfg.Count); err != nil {
				t.Fatal(err)
			}
			cfg.Type = "string"
		}
		tags = append(tags, testTag(t, cfg))
	}
	return tags
}

func describe(blocks []*block) string {
	var words []string
	for _, b := range blocks {
		words = append(words, fmt.Sprintf("%v %d+%d", b.table, b.address, b.count))
	}
	return strings.Join(words, ", ")
}

func TestPlan(t *testing.T) {
	full := limits{registers: 125, bits: 2000}
	tests := []struct {
		name   string
		limits limits
		tags   []string
		want   string
	}{
		{"one", full, []string{"holding 100 int32"}, "holding 100+2"},
		{"touching", full, []string{"holding 102", "holding 100 int32"}, "holding 100+3"},
		{"a gap of one", full, []string{"holding 100", "holding 102"}, "holding 100+1, holding 102+1"},
		{"a gap of one allowed", limits{registers: 125, bits: 2000, gap: 1}, []string{"holding 100", "holding 102"}, "holding 100+3"},
		{"a gap of two is more", limits{registers: 125, bits: 2000, gap: 1}, []string{"holding 100", "holding 103"}, "holding 100+1, holding 103+1"},
		{"exact", limits{registers: 125, bits: 2000, exact: true}, []string{"holding 100", "holding 101", "holding 101", "holding 101 int32"}, "holding 100+1, holding 101+1, holding 101+2"},
		{"overlapping", full, []string{"holding 100 int64", "holding 101", "holding 104"}, "holding 100+5"},
		{"the same register", full, []string{"holding 100", "holding 100", "holding 100"}, "holding 100+1"},
		{"tables apart", full, []string{"coil 1", "discrete 1", "input 1", "holding 1"}, "coil 1+1, discrete 1+1, input 1+1, holding 1+1"},
		{"intervals apart", full, []string{"holding 1", "holding 2 int16 5s", "holding 3"}, "holding 1+1, holding 3+1, holding 2+1"},
		{"at most 125", full, []string{"holding 0 string125", "holding 125"}, "holding 0+125, holding 125+1"},
		{"device maximum", limits{registers: 4, bits: 2000, gap: 0}, []string{"holding 0 int32", "holding 2 int32", "holding 4 int32"}, "holding 0+4, holding 4+2"},
		{"a value is not split", limits{registers: 4, bits: 2000, gap: 0}, []string{"holding 0", "holding 1", "holding 2", "holding 3 int32"}, "holding 0+3, holding 3+2"},
		{"coils", limits{registers: 125, bits: 16, gap: 7}, []string{"coil 0", "coil 8", "coil 16"}, "coil 0+9, coil 16+1"},
		{"the last address", full, []string{"holding 65535", "holding 65534"}, "holding 65534+2"},
		{"none", full, nil, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			blocks := planBlocks(tagsOf(t, test.tags...), test.limits)
			if got := describe(blocks); got != test.want {
				t.Errorf("plan: %s; want %s", got, test.want)
			}
			n := 0
			for _, b := range blocks {
				n += len(b.tags)
			}
			if n != len(test.tags) {
				t.Errorf("%d of %d tags planned", n, len(test.tags))
			}
		})
	}
}

func TestBisect(t *testing.T) {
	tests := []struct {
		name string
		tags []string
		want string
	}{
		{"in the middle", []string{"holding 0", "holding 1", "holding 2", "holding 3"}, "holding 0+2, holding 2+2"},
		{"at the largest gap", []string{"holding 0", "holding 1", "holding 2", "holding 9"}, "holding 0+3, holding 9+1"},
		{"not inside a value", []string{"holding 0 int64", "holding 1", "holding 3", "holding 4"}, "holding 0+4, holding 4+1"},
		{"one value", []string{"holding 0 int64"}, ""},
		{"values that overlap", []string{"holding 0 int64", "holding 2"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			blocks := planBlocks(tagsOf(t, test.tags...), limits{registers: 125, bits: 2000, gap: 100})
			if len(blocks) != 1 {
				t.Fatalf("plan: %s; want one block", describe(blocks))
			}
			if got := describe(blocks[0].bisect()); got != test.want {
				t.Errorf("parts: %s; want %s", got, test.want)
			}
		})
	}
}

func TestThinning(t *testing.T) {
	base := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		name string
		tag  TagConfig
		in   string // values read one second apart; ! is a failed read
		want string // positions of those passed on
	}{
		{"everything", TagConfig{}, "5 5 5", "0 1 2"},
		{"on_change", TagConfig{OnChange: true}, "5 5 6 6 5", "0 2 4"},
		{"deadband", TagConfig{Deadband: "2"}, "10 11 12 13 12 10", "0 3 5"},
		{"deadband against the last one passed on", TagConfig{Deadband: "2"}, "10 12 14 16 18", "0 2 4"},
		{"deadband in percent", TagConfig{Deadband: "10%"}, "100 105 110 111 100", "0 3"},
		{"min_interval", TagConfig{MinInterval: 3 * time.Second}, "1 2 3 4 5 6 7", "0 3 6"},
		{"max_interval", TagConfig{MaxInterval: 3 * time.Second}, "5 5 5 5 6 6 6 6", "0 3 4 7"},
		{"min_interval holds a change back, not for ever", TagConfig{OnChange: true, MinInterval: 3 * time.Second}, "5 6 6 6 6 6 6", "0 3"},
		{"failures pass once", TagConfig{Deadband: "2", MinInterval: time.Minute}, "5 ! ! 5 5", "0 1 3"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.tag.Interval = time.Second
			thin := newThinning(&test.tag)
			var last thinned
			var passed []string
			for i, word := range strings.Fields(test.in) {
				s := Sample{Time: base.Add(time.Duration(i) * time.Second), Quality: Good}
				if word == "!" {
					s.Quality, s.Err = Bad, ErrTimeout
				} else {
					s.Value = UintValue(uint64(parse(word)))
				}
				if thin.passes(&s, &last) {
					last = thinned{s.Value, s.Quality, reason(s.Err), s.Time}
					passed = append(passed, fmt.Sprint(i))
				}
			}
			if got := strings.Join(passed, " "); got != test.want {
				t.Errorf("passed on: %s; want %s", got, test.want)
			}
		})
	}
}
