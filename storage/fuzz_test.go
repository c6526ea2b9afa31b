package storage

import (
	"bytes"
	"testing"
)

// FuzzChunk feeds the reader of chunks: no panic, no more memory than the input
// explains, and what is accepted reads the same when written again.
func FuzzChunk(f *testing.F) {
	body := beginFrame(nil, frameMessage)
	body = append(body, 7, 2, 2, 1)
	body = appendDelivery(body, &Delivery{Consumer: 3, Options: 1, Extra: []byte("x"), Hold: true}, 9)
	body = append(body, 1)
	body = appendChange(body, &Change{Table: Retained, Key: []byte("k"), Value: []byte("v")})
	body = endFrame(append(body, "hi"...), 0)
	marks := beginFrame(nil, frameMarks)
	marks = append(marks, 8, 2, 3)
	marks = appendSpans(append(marks, markAck), spans{{1, 4}, {9, 9}})
	marks = appendCounts(append(marks, 3, markDropped), map[string]uint64{"age": 2})
	marks = endFrame(marks, 0)
	create := endFrame(append(beginFrame(nil, frameCreate), 6, 3, 1, 'c'), 0)
	f.Add(appendChunk(nil, 6, []share{{3, 9, 9}}, append(append(bytes.Clone(create), body...), marks...)))
	f.Add(appendChunk(nil, 7, nil, body))
	f.Add([]byte(chunkMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		first, index, frames, err := splitChunk(b)
		if err != nil {
			return
		}
		if again := appendChunk(nil, first, index, frames); len(again) <= len(b) && !bytes.Equal(again, b) {
			// Varints may have been longer than needed; then it got shorter.
			if first2, index2, frames2, err := splitChunk(again); err != nil || first2 != first || len(index2) != len(index) || !bytes.Equal(frames, frames2) {
				t.Errorf("written again it reads differently: %v", err)
			}
		}
		r := &recovery{log: newFuzzLog(), census: true}
		g := &segment{id: 1}
		_ = r.applyChunk(g, frames) // an error is as good as none
		fetch := &fetch{consumer: 3, until: 1 << 62, budget: 1000}
		_, _, _ = fetch.scan(frames, 0)
		walkFuzz(t, frames)
	})
}

// walkFuzz looks at frames as the tools do, and copies what they would.
func walkFuzz(t *testing.T, frames []byte) {
	t.Helper()
	count := func(frames []byte) (held int) {
		w := walk{
			view:    &View{held: map[ConsumerID]*holding{3: {name: "c", last: 1 << 62}}},
			message: func(*Held) error { held++; return nil }, damage: func(Finding) {},
		}
		if err := w.frames(1, frames); err != nil {
			t.Errorf("an error of nobody: %v", err)
		}
		return held
	}
	whole := readable(frames)
	indexOf(whole) // which panics if a copy does not parse
	if held, again := count(frames), count(whole); again != held {
		t.Errorf("of %d messages %d are copied", held, again)
	}
}

// FuzzBody gives frames with a right checksum to the parsers behind it.
func FuzzBody(f *testing.F) {
	f.Add(byte(frameMessage), []byte{7, 2, 2, 1, 3, 9, 1, 0, 0, 'h', 'i'})
	f.Add(byte(frameMarks), []byte{8, 1, 3, markAck, 1, 1, 3})
	f.Add(byte(frameCreate), []byte{6, 3, 1, 'c'})
	f.Add(byte(frameCensus), []byte{3, 1, 3, 1, 'c', 9, 2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, typ byte, body []byte) {
		frame := endFrame(append(beginFrame(nil, typ), body...), 0)
		r := &recovery{log: newFuzzLog(), census: true}
		_ = r.applyChunk(&segment{id: 1}, frame) // an error is as good as none
		_ = r.applyCensus(frame)
		_ = newCursor(r.log, 1, "").decode(&parser{b: body}, func(id uint32) *segment { return &segment{id: id} })
		_, _ = decodeCheckpoint(body)
		_, _, _ = (&fetch{consumer: 3, until: 1 << 62, budget: 1000}).scan(frame, 0)
		walkFuzz(t, append(frame, frame...))
	})
}

func newFuzzLog() *Log {
	return &Log{
		log: discard(), tune: defaults(), kick: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		cursors: map[string]*Cursor{}, byID: map[ConsumerID]*Cursor{}, rows: map[string]row{}, segments: map[uint32]*segment{},
		refused: map[string]uint64{}, episodes: map[episodeKey]*episode{},
	}
}
