package packet

import (
	"bytes"
	"reflect"
	"testing"
)

// FuzzReader reads a stream as a broker or bridge would: one byte tells the version, the rest is packets.
func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 0x10, 0})
	f.Fuzz(func(t *testing.T, stream []byte) {
		if len(stream) == 0 {
			return
		}
		v := []Version{0, V31, V311, V5}[stream[0]&3]
		kept := map[Type]any{}
		for b := stream[1:]; len(b) > 0; {
			frame, n, err := Next(b, v, 1<<16)
			if err != nil {
				errorText(err)
				return
			}
			if n == 0 {
				return
			}
			if n > len(b) || len(frame.Whole) != n || frame.Whole[0] != frame.First || len(frame.Body) >= n {
				t.Fatalf("Next(% x): %+v, %d", b, frame, n)
			}
			b = b[n:]
			first := newPacket(frame.Type())
			if err := decode(first, frame, v); err != nil {
				if err.(*Error).Reason < ReasonUnspecifiedError {
					t.Fatalf("%v is not a failure", err)
				}
				continue
			}
			checkRoundTrip(t, frame, first, v)
			checkReuse(t, kept, frame, v)
			if c, ok := first.(*Connect); ok {
				v = c.Version
			}
		}
	})
}

// checkRoundTrip checks that what frame decoded to encodes to something that decodes to the same.
func checkRoundTrip(t *testing.T, frame Frame, first any, v Version) {
	out := encode(first, nil, v)
	if _, answer := first.(*Connack); v == V5 && !answer && len(out) > len(frame.Whole) {
		t.Fatalf("% x becomes longer: % x", frame.Whole, out)
	}
	again, err := read(out, v)
	if err != nil {
		t.Fatalf("% x\n%+v\nencodes to % x: %v", frame.Whole, first, out, err)
	}
	if !reflect.DeepEqual(first, again) {
		t.Fatalf("% x\n%+v\nencodes to % x\n%+v", frame.Whole, first, out, again)
	}
	if p, ok := first.(*Publish); ok {
		if size := PublishSize(p, v); size != len(out) {
			t.Fatalf("%+v: PublishSize %d, appended %d", p, size, len(out))
		}
		if p.QoS > 0 && frame.Whole[PublishIDOffset(frame)] != byte(p.PacketID>>8) {
			t.Fatalf("% x: packet identifier is not at %d", frame.Whole, PublishIDOffset(frame))
		}
	}
}

// checkReuse checks that decoding into a value used before leaves nothing of what it held.
func checkReuse(t *testing.T, kept map[Type]any, frame Frame, v Version) {
	used, ok := kept[frame.Type()]
	if !ok {
		used = newPacket(frame.Type())
		kept[frame.Type()] = used
	}
	fresh := newPacket(frame.Type())
	if err := decode(used, frame, v); err != nil {
		t.Fatalf("the second decode of % x: %v", frame.Whole, err)
	}
	if err := decode(fresh, frame, v); err != nil {
		t.Fatalf("the third decode of % x: %v", frame.Whole, err)
	}
	if !bytes.Equal(encode(used, nil, widest(v)), encode(fresh, nil, widest(v))) {
		t.Fatalf("% x\ninto a used value: %+v\ninto a fresh one: %+v", frame.Whole, used, fresh)
	}
}

// widest encodes for 5.0, where more can be seen, once the connection has a version.
func widest(v Version) Version {
	if v == 0 {
		return V311
	}
	return V5
}

// FuzzTopic checks that the rules of topics hold together.
func FuzzTopic(f *testing.F) {
	f.Add([]byte("plant/+/#"), []byte("plant/press4/temperature"))
	f.Add([]byte("$share/g/a"), []byte("$SYS/a"))
	f.Fuzz(func(t *testing.T, filter, topic []byte) {
		matched := Match(filter, topic)
		group, rest, shared, err := SplitShared(filter)
		if err == nil && shared && !bytes.Equal(filter, []byte("$share/"+string(group)+"/"+string(rest))) {
			t.Fatalf("%q splits into %q and %q", filter, group, rest)
		}
		if CheckTopicFilter(filter) != nil || CheckTopicName(topic) != nil {
			return
		}
		if err == nil && shared && CheckTopicFilter(rest) != nil {
			t.Fatalf("%q has the filter %q", filter, rest)
		}
		if CheckTopicFilter(topic) != nil {
			t.Fatalf("%q is a name but not a filter", topic)
		}
		if want := matchLevels(bytes.Split(filter, []byte("/")), bytes.Split(topic, []byte("/")), true); matched != want {
			t.Fatalf("Match(%q, %q) = %v", filter, topic, matched)
		}
	})
}

// matchLevels is section 4.7 level by level, slow and plain.
func matchLevels(filter, topic [][]byte, first bool) bool {
	if len(filter) == 0 {
		return len(topic) == 0
	}
	dollar := first && bytes.HasPrefix(topic[0], []byte("$"))
	switch string(filter[0]) {
	case "#":
		return !dollar
	case "+":
		return !dollar && len(topic) > 0 && matchLevels(filter[1:], topic[1:], false)
	}
	return len(topic) > 0 && bytes.Equal(filter[0], topic[0]) && matchLevels(filter[1:], topic[1:], false)
}
