package core_test

import (
	"bytes"
	"fmt"
	"testing"

	"forebay/broker/brokertest"
	"forebay/broker/core"
)

// BenchmarkRoute is the core's part of one delivered message, without sockets: ns/op is for one message to one
// subscriber (fan-out: to ten).
func BenchmarkRoute(b *testing.B) {
	for _, tc := range []struct {
		name, version, message string
		subscribers            int
	}{
		{"3.1.1 QoS 0", "v4", "publish plant/press/temperature", 1},
		{"5.0 QoS 0", "v5", "publish plant/press/temperature", 1},
		{"5.0 QoS 0 aliases", "v5 aliases=10", "publish plant/press/temperature", 1},
		{"3.1.1 QoS 0 fan-out 10", "v4", "publish plant/press/temperature", 10},
		{"nobody", "v4", "publish plant/press/temperature q1 id=7", 0},
		{"nobody QoS 0", "v4", "publish plant/press/temperature", 0},
	} {
		b.Run(tc.name, func(b *testing.B) {
			bench := newBench(core.Config{})
			for i := range tc.subscribers {
				bench.connect(fmt.Sprintf("connect s%d %s clean", i, tc.version), "subscribe 1 plant/+/temperature:1")
			}
			pub := bench.connect("connect p " + tc.version + " clean")
			p, _ := brokertest.Parse(tc.message+" ="+string(bytes.Repeat([]byte("x"), 100)), pub.Version())
			const batch = 400 // what one read of the loop brings
			input := bytes.Repeat(p, batch)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += batch {
				bench.core.Tick(bench.now) // a round has its bound
				bench.receive(pub, input)
				bench.round()
			}
		})
	}
}

// BenchmarkMiss is the walk through the tree that a topic costs which the cache does not have.
func BenchmarkMiss(b *testing.B) {
	bench := newBench(core.Config{})
	for i := range 1000 {
		bench.connect(fmt.Sprintf("connect s%d clean", i), fmt.Sprintf("subscribe 1 plant/%d/+:0 plant/%d/#:0", i, i))
	}
	pub := bench.connect("connect p v4 clean")
	topics := make([][]byte, 50_000)
	for i := range topics {
		topics[i], _ = brokertest.Parse(fmt.Sprintf("publish plant/%d/temperature/%d", i%1000, i), pub.Version())
	}
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		bench.receive(pub, topics[n%len(topics)])
		if n%400 == 0 {
			bench.core.Tick(bench.now) // a round has its bound
			bench.round()
		}
	}
}
