package packet

import "testing"

// The packet that most of the budget goes to: QoS 1, 100 bytes of payload, a topic of ordinary length.
func benchmarkPublish() Publish {
	return Publish{QoS: 1, PacketID: 1000, Topic: []byte("plant/press4/temperature"), Payload: make([]byte, 100)}
}

func BenchmarkNextDecodePublish(b *testing.B) {
	for _, v := range []Version{V311, V5} {
		b.Run(v.String(), func(b *testing.B) {
			source := benchmarkPublish()
			benchmarkDecode(b, source.Append(nil, v), v)
		})
	}
	b.Run("5.0 with properties", func(b *testing.B) {
		source := benchmarkPublish()
		source.HasExpiry, source.Expiry = true, 3600
		source.ContentType = []byte("application/json")
		source.UserProperties = []UserProperty{{[]byte("forebay-id"), []byte("0123456789")}}
		benchmarkDecode(b, source.Append(nil, V5), V5)
	})
}

func benchmarkDecode(b *testing.B, packet []byte, v Version) {
	var p Publish
	b.ReportAllocs()
	for b.Loop() {
		f, _, err := Next(packet, v, 1<<20)
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Decode(f, v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendPublish(b *testing.B) {
	for _, v := range []Version{V311, V5} {
		b.Run(v.String(), func(b *testing.B) {
			p := benchmarkPublish()
			out := make([]byte, 0, 1024)
			b.ReportAllocs()
			for b.Loop() {
				out = p.Append(out[:0], v)
			}
		})
	}
}

func BenchmarkAck(b *testing.B) {
	b.Run("append", func(b *testing.B) {
		p := Ack{Type: PUBACK, PacketID: 1000}
		out := make([]byte, 0, 64)
		for b.Loop() {
			out = p.Append(out[:0], V5)
		}
	})
	b.Run("decode", func(b *testing.B) {
		var p Ack
		packet := []byte{0x40, 2, 0, 9}
		for b.Loop() {
			f, _, err := Next(packet, V5, 0)
			if err == nil {
				err = p.Decode(f, V5)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	filter, topic := []byte("plant/+/temperature/#"), []byte("plant/press4/temperature/raw")
	for b.Loop() {
		if !Match(filter, topic) {
			b.Fatal("no match")
		}
	}
}
