package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Table is the result of a benchmark.
type Table struct {
	Title   string
	Notes   []string // how it was measured
	Columns []string // the contenders; budgets are about the first
	Rows    []*Row
}

// Row is one thing that was measured.
type Row struct {
	Name    string
	Unit    string
	Cells   []Cell // by column
	Budgets []Budget
}

// Cell is what one contender reached.
type Cell struct {
	Samples []float64 // one of each round
	Note    string    // why there are none
}

// Budget is what the first column must reach: the ratio to another column, or
// the figure itself if Of is empty. 0: no such limit.
type Budget struct {
	Of          string
	Least, Most float64
	Free        bool // Most is 0, and meant
}

// Verdict is how a budget was met.
type Verdict struct {
	Text string  `json:"text"`
	Got  float64 `json:"got"`
	OK   bool    `json:"ok"`
}

// Median returns the middle of the samples; NaN if there are none.
func (c Cell) Median() float64 {
	if len(c.Samples) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(c.Samples))
	if k := len(s) / 2; len(s)%2 == 0 {
		return (s[k-1] + s[k]) / 2
	}
	return s[len(s)/2]
}

// cell returns the cell of a column, for adding to it.
func (t *Table) cell(r *Row, column string) *Cell {
	return &r.Cells[slices.Index(t.Columns, column)]
}

// row adds a row.
func (t *Table) row(name, unit string, budgets ...Budget) *Row {
	r := &Row{Name: name, Unit: unit, Cells: make([]Cell, len(t.Columns)), Budgets: budgets}
	t.Rows = append(t.Rows, r)
	return r
}

// Verdicts judges the budgets of a row that can be judged.
func (t *Table) Verdicts(r *Row) []Verdict {
	var all []Verdict
	for _, b := range r.Budgets {
		got := r.Cells[0].Median()
		text := threeDigits(got)
		if b.Of != "" {
			got /= t.cell(r, b.Of).Median()
			text = fmt.Sprintf("%.2f × %s", got, b.Of)
		}
		if math.IsNaN(got) || math.IsInf(got, 0) {
			continue
		}
		v := Verdict{Got: got, OK: got >= b.Least && (b.Most == 0 && !b.Free || got <= b.Most)}
		word, limit := "at least", b.Least
		if b.Least == 0 {
			word, limit = "at most", b.Most
		}
		outcome := "ok"
		if !v.OK {
			outcome = "missed"
		}
		v.Text = fmt.Sprintf("%s, %s %s: %s", text, word, threeDigits(limit), outcome)
		all = append(all, v)
	}
	return all
}

// threeDigits writes a number with three digits that matter.
func threeDigits(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case a >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case a >= 1e4:
		return fmt.Sprintf("%.1fk", v/1e3)
	case a >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// WriteText writes the table for a person.
func (t *Table) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintln(&b, t.Title)
	for _, note := range t.Notes {
		fmt.Fprintln(&b, note)
	}
	fmt.Fprintln(&b)
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\t\t%s\t\n", strings.Join(t.Columns, "\t"))
	var why []string
	for _, r := range t.Rows {
		fmt.Fprintf(table, "%s\t%s", r.Name, r.Unit)
		for i, c := range r.Cells {
			fmt.Fprintf(table, "\t%s", threeDigits(c.Median()))
			if c.Note != "" && !slices.Contains(why, t.Columns[i]+": "+c.Note) {
				why = append(why, t.Columns[i]+": "+c.Note)
			}
		}
		var verdicts []string
		for _, v := range t.Verdicts(r) {
			verdicts = append(verdicts, v.Text)
		}
		fmt.Fprintf(table, "\t%s\n", strings.Join(verdicts, "; "))
	}
	// A builder takes everything.
	_ = table.Flush()
	for _, line := range why {
		fmt.Fprintln(&b, line)
	}
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	_, err := io.WriteString(w, strings.Join(lines, "\n"))
	return err
}

// jsonRow is a Row in JSON.
type jsonRow struct {
	Name     string               `json:"name"`
	Unit     string               `json:"unit"`
	Medians  map[string]float64   `json:"medians"`
	Samples  map[string][]float64 `json:"samples"`
	Notes    map[string]string    `json:"notes,omitempty"`
	Verdicts []Verdict            `json:"budgets,omitempty"`
}

// WriteJSON writes the table with every sample.
func (t *Table) WriteJSON(w io.Writer) error {
	rows := []jsonRow{}
	for _, r := range t.Rows {
		j := jsonRow{Name: r.Name, Unit: r.Unit, Medians: map[string]float64{}, Samples: map[string][]float64{}, Notes: map[string]string{}, Verdicts: t.Verdicts(r)}
		for i, c := range r.Cells {
			if len(c.Samples) > 0 {
				j.Medians[t.Columns[i]], j.Samples[t.Columns[i]] = c.Median(), c.Samples
			}
			if c.Note != "" {
				j.Notes[t.Columns[i]] = c.Note
			}
		}
		rows = append(rows, j)
	}
	return json.NewEncoder(w).Encode(map[string]any{"title": t.Title, "notes": t.Notes, "rows": rows})
}
