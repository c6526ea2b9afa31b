package core

// window knows the messages in flight to one client: by their running number n, of which the packet identifier is
// n mod 65535 + 1. Because all numbers in it lie within 65,535 of each other, an identifier belongs to one number only
// and two messages in flight never share one [MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.3-1]. The zero window is empty.
type window struct {
	first uint64   // the lowest number that may be in flight; places outside first..end are landed
	end   uint64   // one behind the highest
	slots []flight // a ring with a power of two places; n has place n & (len-1)
	count int
}

// flight is the state of one message.
type flight byte

const (
	landed    flight = iota // not in flight
	awaitAck                // QoS 1: PUBLISH sent [MQTT-4.3.2-3]
	awaitRec                // QoS 2: PUBLISH sent [MQTT-4.3.3-3]
	awaitComp               // QoS 2: PUBREC received, PUBREL sent or waiting for the disk [MQTT-4.3.3-5]
)

// identifier is the packet identifier of number n. It is never 0 [MQTT-2.2.1-4].
func identifier(n uint64) uint16 { return uint16(n%maxIdentifiers) + 1 }

// add puts n in flight. It returns false if n is too far from what is in flight already.
func (w *window) add(n uint64, state flight) bool {
	if w.count == 0 {
		w.first, w.end = n, n
	}
	low, high := min(w.first, n), max(w.end, n+1)
	if high-low > maxIdentifiers {
		return false
	}
	w.grow(int(high - low))
	w.first, w.end = low, high
	slot := &w.slots[n&uint64(len(w.slots)-1)]
	if *slot != landed {
		panic("BUG: core: a number twice in flight")
	}
	*slot = state
	w.count++
	return true
}

// grow makes the ring at least n places long.
func (w *window) grow(n int) {
	if n <= len(w.slots) {
		return
	}
	size := max(16, len(w.slots))
	for size < n {
		size *= 2
	}
	slots := make([]flight, size)
	for i := w.first; i < w.end; i++ {
		slots[i&uint64(size-1)] = w.slots[i&uint64(len(w.slots)-1)]
	}
	w.slots = slots
}

// find returns the number in flight with that packet identifier and its state; landed: there is none.
func (w *window) find(id uint16) (n uint64, state flight) {
	if id == 0 || w.count == 0 {
		return 0, landed
	}
	n = w.first + (uint64(id)-1+maxIdentifiers-w.first%maxIdentifiers)%maxIdentifiers
	if n >= w.end {
		return 0, landed
	}
	return n, w.slots[n&uint64(len(w.slots)-1)]
}

// set changes the state of n, which is in flight.
func (w *window) set(n uint64, state flight) { w.slots[n&uint64(len(w.slots)-1)] = state }

// land takes n, which is in flight, out.
func (w *window) land(n uint64) {
	w.set(n, landed)
	w.count--
	for w.first < w.end && w.slots[w.first&uint64(len(w.slots)-1)] == landed {
		w.first++
	}
}

// reset empties the window.
func (w *window) reset() { *w = window{} }
