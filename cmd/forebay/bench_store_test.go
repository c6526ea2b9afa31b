package main_test

import (
	"testing"
)

func TestBenchStoreUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"bench", "store", "--backlog", "5 apples"}, "write 128MiB, or 5GiB"},
		{[]string{"bench", "store", "--backlog", "12"}, "write 128MiB, or 5GiB"},
		{[]string{"bench", "store", "--sync-delay", "1h"}, "such as 5ms"},
	} {
		code, out := run(t, forebay(t), tt.args...)
		if code != 2 {
			t.Errorf("%q: exit code %d", tt.args, code)
		}
		contains(t, out, tt.want)
	}
	code, out := run(t, forebay(t), "bench", "store", "--dir", t.TempDir()+"/nowhere")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	contains(t, out, "nowhere", "no such file")
}
