package main_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// Every kind of link reads from and writes to a slave by other people.
func TestEveryLinkMeetsPymodbus(t *testing.T) {
	tags := everyKind(9)
	cert, key := certificate(t, t.TempDir(), time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	ours, theirs := serialLine(t)
	startSlave(t, tags, "ascii", theirs)
	at := func(kind string, args ...string) string {
		return fmt.Sprintf("127.0.0.1:%d", startSlave(t, tags, append([]string{kind}, args...)...).port)
	}
	links := map[string][]string{
		"rtu_over_tcp":   {"--rtu-over-tcp", at("rtu_over_tcp")},
		"ascii":          {"--ascii", ours, "--baud=115200"},
		"ascii_over_tcp": {"--ascii-over-tcp", at("ascii_over_tcp")},
		"udp":            {"--udp", at("udp")},
		"tls":            {"--tcp", at("tls", cert, key, cert), "--tls-ca", cert, "--tls-certificate", cert, "--tls-key", key},
	}
	for name, link := range links {
		t.Run(name, func(t *testing.T) {
			link = append(link, "--unit=9", "--timeout=10s")
			code, out := run(t, forebay(t), append([]string{"modbus", "write", "holding", "1", "4711"}, link...)...)
			if code != 0 {
				t.Fatalf("write: exit %d\n%s", code, out)
			}
			code, out = run(t, forebay(t), append([]string{"modbus", "read", "holding", "0", "--count=100", "--json"}, link...)...)
			var got struct{ Values []struct{ Value json.Number } }
			if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || len(got.Values) != 100 {
				t.Fatalf("read: exit %d, %v:\n%s", code, err, out)
			}
			if first, second := got.Values[0].Value, got.Values[1].Value; first != "65529" || second != "4711" {
				t.Errorf("registers 0 and 1 are %s and %s; want 65529 and 4711", first, second)
			}
			code, out = run(t, forebay(t), append([]string{"modbus", "read", "coil", "3"}, link...)...)
			if code != 0 {
				t.Errorf("coil: exit %d\n%s", code, out)
			}
		})
	}
	t.Run("tls without a certificate", func(t *testing.T) {
		code, out := run(t, forebay(t), append([]string{"modbus", "read", "holding", "0", "--unit=9"}, links["tls"][:4]...)...)
		if code != 1 {
			t.Errorf("exit %d:\n%s", code, out)
		}
	})
}
