package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// sample is what the gateway publishes for one tag.
type sample struct {
	Value   json.RawMessage `json:"value"`
	Quality string          `json:"quality"`
	Time    time.Time       `json:"time"`
	Error   string          `json:"error"`
}

// sampleOn waits for a message on the topic that the predicate likes.
func sampleOn(t *testing.T, sub *process, topic string, like func(sample) bool) sample {
	t.Helper()
	for from := 0; ; {
		line := sub.find(from, topic+" ")
		from = sub.lineAfter(from, line)
		text, ok := strings.CutPrefix(line, topic+" ")
		if !ok {
			continue
		}
		var s sample
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatalf("%s: %v in %s", topic, err, text)
		}
		if like(s) {
			return s
		}
	}
}

// lineAfter is the number of the line behind the first occurrence of line.
func (p *process) lineAfter(from int, line string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; from < len(p.lines); from++ {
		if p.lines[from] == line {
			return from + 1
		}
	}
	return from
}

// everyKind has a value of each table, width and order.
func everyKind(unit int) []tagCase {
	cases := []tagCase{
		{Table: "coil", Address: 3, Value: 1, name: "running", want: "true"},
		{Table: "coil", Address: 4, Value: 0, name: "stopped", want: "false"},
		{Table: "discrete", Address: 7, Value: 1, name: "door", want: "true"},
		{Table: "holding", Address: 0, Format: "h", Value: -7, name: "i16", typ: "int16", want: "-7"},
		{Table: "holding", Address: 1, Format: "H", Value: 65535, name: "u16", typ: "uint16", want: "65535"},
		{Table: "holding", Address: 2, Format: "h", Value: 215, name: "scaled", typ: "int16", rest: ", scale: 0.1", want: "21.5"},
		{Table: "holding", Address: 3, Format: "h", Value: 100, name: "offset", typ: "int16", rest: ", scale: 0.5, offset: -20", want: "30"},
		{Table: "input", Address: 50, Format: "H", Value: 4242, name: "input", typ: "uint16", want: "4242"},
	}
	for i, order := range []string{"ABCD", "CDAB", "BADC", "DCBA"} {
		low := strings.ToLower(order)
		at := 20 + 20*i
		cases = append(cases,
			tagCase{Table: "holding", Address: at, Format: "i", Order: order, Value: -123456, name: "i32" + low, typ: "int32", want: "-123456"},
			tagCase{Table: "holding", Address: at + 2, Format: "I", Order: order, Value: uint32(4000000000), name: "u32" + low, typ: "uint32", want: "4000000000"},
			tagCase{Table: "holding", Address: at + 4, Format: "f", Order: order, Value: 12.25, name: "f32" + low, typ: "float32", want: "12.25"},
			tagCase{Table: "holding", Address: at + 6, Format: "q", Order: order, Value: int64(-9007199254740995), name: "i64" + low, typ: "int64", want: "-9007199254740995"},
			tagCase{Table: "holding", Address: at + 10, Format: "d", Order: order, Value: 1234.5625, name: "f64" + low, typ: "float64", want: "1234.5625"},
		)
	}
	for i := range cases {
		cases[i].Unit = unit
	}
	return cases
}

func tagList(indent string, cases []tagCase) string {
	var b strings.Builder
	for _, c := range cases {
		b.WriteString(indent + "- " + c.yaml() + "\n")
	}
	return b.String()
}

// Every tag of a TCP and a serial slave arrives at the cloud with the right
// value, good quality and a fresh time; a dead unit on the same serial line does not
// disturb its neighbour, and is reported as bad.
func TestRegistersReachTheCloud(t *testing.T) {
	onTCP, onSerial := everyKind(1), everyKind(5)
	ours, theirs := serialLine(t)
	tcp := startSlave(t, onTCP, "tcp")
	startSlave(t, onSerial, "rtu", theirs)
	cloud := startCloud(t)
	sub := watch(t, cloud.port, "-t", "sites/#", "-q", "1")
	began := time.Now()

	startGateway(t, fmt.Sprintf(`
site: pump7
storage: {path: %%DIR%%/store}
broker: {listeners: [{address: "127.0.0.1:%%PORT%%", anonymous: true}]}
bridges:
  - name: cloud
    addresses: ["mqtt://127.0.0.1:%d"]
    up: [{filter: "plant/#", topic: "sites/{site}/{topic}", qos: 1}]
modbus:
  links:
    - name: net
      tcp: "127.0.0.1:%d"
      units:
        - name: tcp1
          unit: 1
          interval: 200ms
          topic: "plant/{unit}/{tag}"
          tags:
%s    - name: line
      rtu: {port: %s, baud: 115200, parity: none}
      timeout: 300ms
      units:
        - name: dead9
          unit: 9
          interval: 200ms
          topic: "plant/{unit}/{tag}"
          tags: [{name: ghost, register: holding, address: 0, type: int16}]
        - name: rtu5
          unit: 5
          interval: 200ms
          topic: "plant/{unit}/{tag}"
          tags:
%s`, cloud.port, tcp.port, tagList("            ", onTCP), ours, tagList("            ", onSerial)))

	for unit, cases := range map[string][]tagCase{"tcp1": onTCP, "rtu5": onSerial} {
		for _, c := range cases {
			topic := "sites/pump7/plant/" + unit + "/" + c.name
			s := sampleOn(t, sub, topic, func(s sample) bool { return s.Quality == "good" })
			if !bytes.Equal(s.Value, []byte(c.want)) {
				t.Errorf("%s: value %s, want %s", topic, s.Value, c.want)
			}
			if s.Time.Before(began.Add(-time.Millisecond)) || s.Time.After(time.Now().Add(time.Millisecond)) {
				t.Errorf("%s: time %v is not between the start of the test, %v, and now", topic, s.Time, began)
			}
		}
	}
	ghost := sampleOn(t, sub, "sites/pump7/plant/dead9/ghost", func(sample) bool { return true })
	if ghost.Quality != "bad" || string(ghost.Value) != "null" || ghost.Error == "" {
		t.Errorf("dead unit: %+v, want bad quality, a null value and an error", ghost)
	}
}

// A command published at the cloud goes down the bridge, is written to the
// PLC, and the value read back comes up again.
func TestCommandFromTheCloudIsWritten(t *testing.T) {
	plc := startSlave(t, []tagCase{{Unit: 1, Table: "holding", Address: 10, Format: "h", Value: 5}}, "tcp")
	cloud := startCloud(t)
	sub := watch(t, cloud.port, "-t", "sites/#", "-q", "1")
	gw := startGateway(t, fmt.Sprintf(`
site: pump7
storage: {path: %%DIR%%/store}
broker: {listeners: [{address: "127.0.0.1:%%PORT%%", anonymous: true}]}
bridges:
  - name: cloud
    addresses: ["mqtt://127.0.0.1:%d"]
    up: [{filter: "plant/#", topic: "sites/{site}/{topic}", qos: 1}]
    down: [{filter: "cmd/pump7/#", topic: "plant/{1}", qos: 1}]
modbus:
  links:
    - name: net
      tcp: "127.0.0.1:%d"
      units:
        - name: pump
          unit: 1
          interval: 100ms
          topic: "plant/{unit}/{tag}"
          tags:
            - {name: setpoint, register: holding, address: 10, type: int16, writable: true, min: 0, max: 100}
            - {name: level, register: holding, address: 11, type: int16}
`, cloud.port, plc.port))
	good := func(want string) func(sample) bool {
		return func(s sample) bool { return s.Quality == "good" && string(s.Value) == want }
	}
	sampleOn(t, sub, "sites/pump7/plant/pump/setpoint", good("5"))
	cloud.wait("SUBSCRIBE") // the bridge asks for commands

	publish := func(topic, payload string) {
		t.Helper()
		code, out := run(t, program(t, "mosquitto_pub"), "-p", fmt.Sprint(cloud.port), "-q", "1", "-t", topic, "-m", payload)
		if code != 0 {
			t.Fatalf("mosquitto_pub: exit %d: %s", code, out)
		}
	}
	publish("cmd/pump7/pump/setpoint/set", "42")
	sampleOn(t, sub, "sites/pump7/plant/pump/setpoint", good("42"))
	if got := plc.register(1, "holding", 10); got != "42" {
		t.Errorf("register 10 of the slave holds %s, want 42", got)
	}

	// Refused: outside its limits, and a tag that is not writable.
	publish("cmd/pump7/pump/setpoint/set", "1000")
	line := sub.wait("sites/pump7/plant/pump/setpoint/set/result", "1000")
	if !strings.Contains(line, "max") {
		t.Errorf("result %q does not name the limit", line)
	}
	publish("cmd/pump7/pump/level/set", "7")
	publish("cmd/pump7/pump/setpoint/set", "43")
	sampleOn(t, sub, "sites/pump7/plant/pump/setpoint", good("43"))
	if got := plc.register(1, "holding", 11); got != "0" {
		t.Errorf("register 11, which is not writable, holds %s, want 0", got)
	}
	if code := gw.stop(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
}
