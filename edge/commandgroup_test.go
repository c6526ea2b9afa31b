package edge

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"forebay/broker/packet"
	"forebay/modbus"
)

// Several tags are written with one command, on the topic of their unit.
func TestGroupCommand(t *testing.T) {
	b := newBench(t, t.TempDir())
	b.start()
	group := []byte("mill/line1/press4/set")
	b.send(packet.Publish{Topic: group, Payload: []byte(`{"setpoint":42,"alarm":true}`)}, time.Now())
	want := map[string]any{"setpoint": json.Number("42"), "alarm": true}
	if w := b.call(); w.link != "line1" || w.unit != "press4" || w.tag != "" || !reflect.DeepEqual(w.value, any(want)) {
		t.Errorf("written %+v", w)
	}
	topic, _, m := b.result()
	const payload = `{"result":"written","value":{"alarm":42,"setpoint":42},"before":{"alarm":null,"setpoint":null},` +
		`"requested":{"setpoint":42,"alarm":true},"time":"1970-01-01T00:00:01.000Z"}`
	if topic != "mill/line1/press4/set/result" || string(m.Payload) != payload {
		t.Errorf("answer on %s: %s", topic, m.Payload)
	}
	for _, bad := range []string{"", "42", "{}", `{"a":null}`, `{"a":{"b":1}}`, `{"a":1} 2`, `[1]`, strings.Repeat(" ", maxCommand) + `{"a":1}`} {
		b.send(packet.Publish{Topic: group, Payload: []byte(bad)}, time.Now())
		if _, r, _ := b.result(); r["result"] != "refused" {
			t.Errorf("%s: %v", bad, r)
		}
	}
}

// Units that share a topic, and those whose topic is another one's, take no
// groups: nobody could tell which of them is meant.
func TestGroupTopicsAreUnambiguous(t *testing.T) {
	cfg, err := loadText(t, "a.yaml", `
modbus: {links: [{name: l, tcp: 127.0.0.1, units: [
  {name: a, unit: 1, topic: "x/{tag}", tags: [{name: t1, register: coil, address: 0}]},
  {name: b, unit: 2, topic: "x/{tag}", tags: [{name: t2, register: coil, address: 0}]},
  {name: c, unit: 3, topic: "y/{tag}", tags: [{name: set, register: coil, address: 0}]},
  {name: d, unit: 4, topic: "z/{unit}-{tag}", tags: [{name: t, register: coil, address: 0}]},
  {name: e, unit: 5, tags: [{name: t, register: coil, address: 0}]}]}]}
`)
	if err != nil {
		t.Fatal(err)
	}
	got := groupTargets(cfg, takenTopics(cfg))
	if want := map[string]target{"modbus/l/e/set": {link: "l", unit: "e"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
}

// A command that a client sends again is written once, and answered again.
func TestRepeatedCommand(t *testing.T) {
	b := newBench(t, t.TempDir())
	release := make(chan struct{})
	b.writer.answer = func(context.Context, written) (modbus.WriteResult, error) {
		<-release
		return modbus.WriteResult{After: modbus.IntValue(42), Time: time.UnixMilli(1000)}, nil
	}
	b.start()
	p := packet.Publish{Payload: []byte("42")}
	p.UserProperties = []packet.UserProperty{{Name: []byte("other"), Value: []byte("x")}, {Name: []byte("forebay-id"), Value: []byte("7")}}
	b.send(p, time.Now())
	b.call()
	b.send(p, time.Now()) // while the first is under way: it has one answer
	close(release)
	if _, r, _ := b.result(); r["result"] != "written" {
		t.Errorf("first: %v", r)
	}
	b.send(p, time.Now())
	if _, r, _ := b.result(); r["result"] != "written" || r["value"] != 42.0 || r["time"] != "1970-01-01T00:00:01.000Z" {
		t.Errorf("repeated: %v", r)
	}
	b.nothingWritten()
	p.UserProperties[1].Value = []byte("8")
	b.send(p, time.Now())
	b.call()
	b.result()
}

func TestRepeatsAreBounded(t *testing.T) {
	var r repeats
	now := time.UnixMilli(0)
	for i := range 3 * maxRepeats {
		if r.take(repeatKey{"t", string(rune('a' + i))}, now) != nil {
			t.Fatalf("%d is known", i)
		}
	}
	if len(r.known) > maxRepeats || len(r.order) > maxRepeats {
		t.Errorf("%d are remembered", len(r.known))
	}
	last := repeatKey{"t", string(rune('a' + 3*maxRepeats - 1))}
	if r.take(last, now.Add(repeatLife)) == nil || r.take(last, now.Add(repeatLife+time.Second)) != nil {
		t.Error("a command is remembered for another time than an hour")
	}
}

// An armed tag is not written by a slip of the hand, and the word that arms it
// is not told.
func TestArmedCommand(t *testing.T) {
	cfg := oneUnit(t, "")
	cfg.Modbus.Links[0].Units[0].Tags[2].Arm = "shut-down"
	b := newBenchOf(t, t.TempDir(), cfg)
	b.start()
	for _, payload := range []string{"42", `{"value":42}`, `{"value":42,"arm":"shutdown"}`} {
		b.send(packet.Publish{Payload: []byte(payload)}, time.Now())
		if _, r, _ := b.result(); r["result"] != "refused" || r["requested"] != nil {
			t.Errorf("%s: %v", payload, r)
		}
	}
	b.send(packet.Publish{Topic: []byte("mill/line1/press4/set"), Payload: []byte(`{"setpoint":42,"alarm":true}`)}, time.Now())
	if _, r, _ := b.result(); r["result"] != "refused" || !strings.Contains(r["error"].(string), "armed by a word") {
		t.Errorf("in a group: %v", r)
	}
	b.nothingWritten()
	b.send(packet.Publish{Payload: []byte(`{"value":42,"arm":"shut-down"}`)}, time.Now())
	if w := b.call(); w.value != json.Number("42") {
		t.Errorf("written %+v", w)
	}
	if _, r, m := b.result(); r["result"] != "written" || r["requested"] != 42.0 || strings.Contains(string(m.Payload), "shut-down") {
		t.Errorf("%v", r)
	}
	b.send(packet.Publish{Topic: []byte("mill/line1/press4/alarm/set"), Payload: []byte(`{"value":true,"arm":"x"}`)}, time.Now())
	if _, r, _ := b.result(); r["result"] != "refused" {
		t.Errorf("a word for a tag without: %v", r)
	}
}
