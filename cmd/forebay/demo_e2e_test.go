package main_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// The newcomer's first minute tells the truth: through several outages nothing
// is lost, nothing duplicated, and there was something to lose.
func TestDemoLosesNothing(t *testing.T) {
	p := start(t, forebay(t), "demo", "--for", "20s", "--json")
	if code := p.exitCode(); code != 0 {
		t.Fatalf("exit %d:\n%s", code, p.output())
	}
	output := p.output()
	var final struct {
		Acknowledged, Forwarded, Lost, Duplicated, Outages, Samples *int
	}
	if err := json.Unmarshal([]byte(output[strings.Index(output, "{"):]), &final); err != nil {
		t.Fatalf("%v in the final account:\n%s", err, output)
	}
	for name, n := range map[string]*int{"acknowledged": final.Acknowledged, "forwarded": final.Forwarded, "outages": final.Outages, "samples": final.Samples} {
		if n == nil || *n < 1 {
			t.Errorf("%s is missing or 0: the account proves nothing:\n%s", name, output)
		}
	}
	for name, n := range map[string]*int{"lost": final.Lost, "duplicated": final.Duplicated} {
		if n == nil || *n != 0 {
			t.Errorf("%s is missing or not 0:\n%s", name, output)
		}
	}
}
