package core_test

import (
	"errors"
	"testing"

	"forebay/broker/brokertest"
	"forebay/broker/core"
)

// The rows that come with a message from inside the process (the packet identifier of a downlink message, say) are in
// one record with it: no crash can part them, and a refusal is one of both. Apart, a gateway killed between the two
// took a QoS 2 message twice.
func TestMessageAndItsRowsAreOneRecord(t *testing.T) {
	const table = core.Table(200)
	b := newBench(core.Config{})
	b.connect("connect s v4", "subscribe 1 a/+:1")
	records := b.log.Records()

	var outcome []error
	inject := func(message string) {
		p := &core.Inject{Publish: *brokertest.Publish(message), Done: func(err error) { outcome = append(outcome, err) }}
		p.Changes = []core.Change{{Table: table, Key: []byte("cloud/7"), Value: []byte{1}}}
		b.core.Publish(p)
		b.round()
	}
	inject("publish a/b q1 id=1 =go")
	if n := b.log.Records() - records; n != 1 {
		t.Errorf("%d records for a message and its row, want 1", n)
	}
	if b.log.Rows(table) != 1 {
		t.Error("the row is missing")
	}
	if len(outcome) != 0 {
		t.Error("done was called before the record was durable")
	}
	b.core.Durable(b.log.Commit())
	if len(outcome) != 1 || outcome[0] != nil {
		t.Errorf("done: %v, want one nil", outcome)
	}

	// A message that nobody stores has its row stored all the same, and waits for it.
	outcome = nil
	inject("publish nobody/listens =go")
	if len(outcome) != 0 || b.log.Records() != records+2 {
		t.Errorf("QoS 0 with a row: done %v after %d records, want none after 2", outcome, b.log.Records()-records)
	}
	b.core.Durable(b.log.Commit())
	b.log.Full = true
	outcome = nil
	inject("publish nobody/listens =go")
	if len(outcome) != 1 || !errors.Is(outcome[0], core.ErrFull) {
		t.Errorf("with a full log: done %v, want ErrFull", outcome)
	}
}
