package main

import (
	"slices"
	"strings"
	"testing"

	"forebay/modbus/modbustest"
)

// A unit that refuses some addresses, and reads of more than 60 registers, is
// found out.
func TestModbusScanAddresses(t *testing.T) {
	s := modbustest.New()
	s.Fault = func(r modbustest.Request) modbustest.Fault {
		for a := r.Address(); a < r.Address()+r.Count(); a++ {
			if a < 100 || a == 150 || a > 199 {
				return modbustest.Fault{Exception: 2}
			}
		}
		if r.Count() > 60 {
			return modbustest.Fault{Exception: 3}
		}
		return modbustest.Fault{}
	}
	at := startDevice(t, s)
	code, out, errs := tool(t, "scan", "--addresses=holding:90-209", "--units=1", at)
	if want := "holding 100-149\nholding 151-199\n"; code != 0 || out != want {
		t.Errorf("exit %d, %q, %q; want %q", code, out, errs, want)
	}
	if n := len(s.Requests()); n > 80 {
		t.Errorf("%d requests for 120 addresses with three borders", n)
	}
	code, out, errs = tool(t, "scan", "--addresses=input:0-9", "--units=1", at)
	if code != 1 || out != "" || !strings.Contains(errs, "unit 1 has no input from 0 to 9") {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
	for _, wrong := range [][]string{{"--addresses=holding", "--units=1-2"}, {"--addresses=coils", "--units=1"}, {"--addresses=coil:9-3", "--units=1"}, {"--search"}} {
		if code, _, errs := tool(t, append([]string{"scan", at}, wrong...)...); code != 2 || !strings.Contains(errs, wrong[0][:8]) {
			t.Errorf("%q: exit %d, %q", wrong, code, errs)
		}
	}
}

// Every range that is there is found, wherever the borders are.
func TestBisect(t *testing.T) {
	there := []int{3, 4, 5, 9, 64, 65, 127}
	a := &addressSearch{}
	err := a.bisect(0, 127, func(first, last int) (bool, error) {
		for n := first; n <= last; n++ {
			if !slices.Contains(there, n) {
				return false, nil
			}
		}
		return true, nil
	})
	if want := [][2]int{{3, 5}, {9, 9}, {64, 65}, {127, 127}}; err != nil || !slices.Equal(a.ranges, want) || a.found != len(there) {
		t.Errorf("%v, %v; want %v", a.ranges, err, want)
	}
}
