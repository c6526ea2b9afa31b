package bench

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		samples []float64
		want    float64
	}{{[]float64{5}, 5}, {[]float64{9, 1, 5}, 5}, {[]float64{9, 1, 5, 6}, 5.5}} {
		if got := (Cell{Samples: tt.samples}).Median(); got != tt.want {
			t.Errorf("%v: %v", tt.samples, got)
		}
	}
	if got := (Cell{}).Median(); !math.IsNaN(got) {
		t.Errorf("of nothing: %v", got)
	}
}

func testTable() *Table {
	t := &Table{Title: "Things", Notes: []string{"A note."}, Columns: []string{"ours", "theirs"}}
	r := t.row("speed", "msg/s", Budget{Of: "theirs", Least: 0.9}, Budget{Least: 100_000})
	r.Cells = []Cell{{Samples: []float64{12_345, 10_000, 99_999}}, {Samples: []float64{10_000}}}
	r = t.row("bytes", "KB", Budget{Of: "theirs", Most: 0.35}, Budget{Most: 5})
	r.Cells = []Cell{{Samples: []float64{5.5}}, {Note: "not there"}}
	r = t.row("waste", "B", Budget{Free: true})
	r.Cells = []Cell{{Samples: []float64{0}}, {}}
	return t
}

func TestTableText(t *testing.T) {
	var b strings.Builder
	if err := testTable().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	const want = `Things
A note.

              ours   theirs
speed  msg/s  12.3k  10.0k   1.23 × theirs, at least 0.90: ok; 12.3k, at least 100.0k: missed
bytes  KB     5.50   -       5.50, at most 5: missed
waste  B      0      -       0, at most 0: ok
theirs: not there
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestTableJSON(t *testing.T) {
	var b strings.Builder
	if err := testTable().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Rows []struct {
			Name    string
			Medians map[string]float64
			Samples map[string][]float64
			Budgets []Verdict
		}
	}
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatal(err)
	}
	if r := got.Rows[0]; r.Medians["ours"] != 12_345 || len(r.Samples["ours"]) != 3 || len(r.Budgets) != 2 || !r.Budgets[0].OK || r.Budgets[1].OK {
		t.Errorf("%s", b.String())
	}
}

func TestThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.314: "0.31", 5.731: "5.73", 18.44: "18.4", 157.2: "157", 1499: "1499", 16_250: "16.2k", 2.95e6: "2.95M"} {
		if got := threeDigits(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}
