package broker

import (
	"errors"
	"testing"

	"forebay/storage"
)

func TestInboxWakesASleepingLoopOncePerBatch(t *testing.T) {
	woken := 0
	in := &inbox{wake: func() { woken++ }}
	in.postSafe(1, nil)
	if woken != 0 {
		t.Fatal("woke a loop that does not sleep")
	}
	if in.sleep() {
		t.Fatal("the loop may sleep though something has come")
	}
	var m mail
	in.take(&m)
	m.reset()
	if !in.sleep() {
		t.Fatal("the loop may not sleep though nothing has come")
	}
	in.postSafe(2, nil)
	in.postQueue(7)
	in.postStop()
	if woken != 1 {
		t.Fatalf("woken %d times for one batch, want once", woken)
	}
	in.take(&m)
	if m.safe != 2 || len(m.queues) != 1 || !m.stop {
		t.Errorf("batch %+v", m)
	}
}

func TestInboxKeepsTheLatestProgressAndTheFailure(t *testing.T) {
	in := &inbox{wake: func() {}}
	failed := errors.New("disk gone")
	in.postSafe(5, nil)
	in.postSafe(9, nil)
	in.postSafe(7, failed)
	var m mail
	in.take(&m)
	if m.safe != storage.Seq(9) || m.failed != failed {
		t.Errorf("safe %d, failed %v", m.safe, m.failed)
	}
}

func TestInboxIsBounded(t *testing.T) {
	t.Run("number", func(t *testing.T) {
		in := &inbox{wake: func() {}}
		for i := range maxWaitingMessages {
			if err := in.postMessage(injection{message: &Message{}}); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
		}
		if err := in.postMessage(injection{message: &Message{}}); err != ErrBusy {
			t.Errorf("one message too many: %v", err)
		}
		var m mail
		in.take(&m)
		if err := in.postMessage(injection{message: &Message{}}); err != nil {
			t.Errorf("after the loop has taken them: %v", err)
		}
	})
	t.Run("of one round", func(t *testing.T) {
		in := &inbox{wake: func() {}}
		for i := range 2*messagesPerRound + 1 {
			if err := in.postMessage(injection{message: &Message{Topic: "t", Retain: i == messagesPerRound}}); err != nil {
				t.Fatal(err)
			}
		}
		var m mail
		for round, want := range []int{messagesPerRound, messagesPerRound, 1} {
			if in.sleep() {
				t.Fatalf("round %d: the loop may sleep though messages wait", round)
			}
			in.take(&m)
			if len(m.messages) != want || m.messages[0].message.Retain != (round == 1) {
				t.Errorf("round %d has %d messages, want %d in order", round, len(m.messages), want)
			}
			m.reset()
		}
		if !in.sleep() || in.mail.bytes != 0 {
			t.Errorf("%d bytes wait in the end", in.mail.bytes)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		in := &inbox{wake: func() {}}
		if err := in.postMessage(injection{message: &Message{Payload: make([]byte, 2*maxWaitingBytes)}}); err != nil {
			t.Errorf("a large message alone: %v", err)
		}
		if err := in.postMessage(injection{message: &Message{Payload: []byte{1}}}); err != ErrBusy {
			t.Errorf("a message behind the large one: %v", err)
		}
	})
	t.Run("calls", func(t *testing.T) {
		in := &inbox{wake: func() {}}
		var err error
		for range maxWaitingCalls + 1 {
			err = in.postCall(func() {})
		}
		if err != ErrBusy {
			t.Errorf("one call too many: %v", err)
		}
	})
}

func TestInboxRefusesAfterClose(t *testing.T) {
	in := &inbox{wake: func() { t.Error("a closed inbox wakes nobody") }}
	if !in.sleep() {
		t.Fatal("not empty")
	}
	in.close()
	if err := in.postMessage(injection{message: &Message{}}); err != ErrClosed {
		t.Errorf("message: %v", err)
	}
	if err := in.postCall(func() {}); err != ErrClosed {
		t.Errorf("call: %v", err)
	}
	in.postSafe(1, nil)
	in.postQueue(1)
	in.postLogin(loginAnswer{})
	in.postStop()
	var m mail
	in.take(&m)
	if !m.empty() {
		t.Errorf("took %+v", m)
	}
}

// What a round had no room for comes before what has been posted since.
func TestInboxKeepsTheOrderOfWhatIsGivenBack(t *testing.T) {
	in := &inbox{wake: func() {}}
	post := func(topics ...string) {
		for _, topic := range topics {
			if err := in.postMessage(injection{message: &Message{Topic: topic}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	post("1", "2", "3")
	var m mail
	in.take(&m)
	post("4")
	in.giveBack(m.messages[1:])
	m.reset()
	if in.sleep() {
		t.Error("the loop may sleep over what was given back")
	}
	in.take(&m)
	got := ""
	for _, i := range m.messages {
		got += i.message.Topic
	}
	if got != "234" || m.bytes != 3 {
		t.Errorf("got %s with %d bytes", got, m.bytes)
	}
}
