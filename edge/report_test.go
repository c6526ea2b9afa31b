package edge

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"forebay/broker"
	"forebay/modbus"
)

// setNumbers sets every number of a struct, and of those in it, to another value
// and notes them by name.
func setNumbers(v reflect.Value, values map[string]int) {
	for i := range v.NumField() {
		f, value := v.Field(i), 1_000_001+len(values)
		switch {
		case f.Kind() == reflect.Struct:
			setNumbers(f, values)
			continue
		case f.CanInt():
			f.SetInt(int64(value))
		case f.CanUint():
			f.SetUint(uint64(value))
		default:
			continue
		}
		values[v.Type().Field(i).Name] = value
	}
}

// What the parts count is told, every number of it. A new one has to find its
// place in the report, and in the metrics.
func TestReportHasEveryNumber(t *testing.T) {
	var served broker.Stats
	var link modbus.LinkStats
	var unit modbus.UnitStats
	link.Link = &modbus.LinkConfig{}
	unit.Link, unit.Unit = link.Link, &modbus.UnitConfig{Unit: new(1)}
	for _, part := range []struct {
		name    string
		stats   any
		skipped string // told in another way
		report  func() any
	}{
		{"broker", &served, "Connections Sockets SharedSubscriptions Admitted Accepted ReceivedPayload SentPayload", func() any { return brokerReport(served, nil) }},
		{"link", &link, "", func() any { return linkReports([]modbus.LinkStats{link}, nil, nil) }},
		{"unit", &unit, "", func() any { return unitReport(&unit, nil) }},
	} {
		values := map[string]int{}
		setNumbers(reflect.ValueOf(part.stats).Elem(), values)
		b, err := json.Marshal(part.report())
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range values {
			if !strings.Contains(part.skipped, name) && !strings.Contains(string(b), fmt.Sprint(value)) {
				t.Errorf("%s: %s is not told", part.name, name)
			}
		}
	}
}
