package modbus

import "errors"

// total adds up a counter that begins again at 0 behind its greatest number. Its
// zero value has seen nothing.
type total struct {
	seen bool
	last uint64 // count of the device
	base uint64 // what the total is more than it
}

var (
	errTotalBegins = errors.New("the total begins here, with the count of the device")
	errCountBack   = errors.New("the count went back too far for a roll-over: the device began again")
)

// add takes the next count of a counter that has numbers of them and returns the
// total. The error says why it is uncertain.
//
// A count that went back has rolled over if that is a step of less than a quarter
// of the numbers. Otherwise the device has lost its count, and with it what it
// had counted since the last reading.
func (t *total) add(count, numbers uint64) (uint64, error) {
	last, seen := t.last, t.seen
	t.seen, t.last = true, count
	switch {
	case !seen:
		return count, errTotalBegins
	case count >= last:
		return t.base + count, nil
	case numbers-last+count < numbers/4:
		t.base += numbers
		return t.base + count, nil
	}
	t.base += last
	return t.base + count, errCountBack
}

// numbers returns how many numbers a counter has.
func (r *register) numbers() uint64 {
	if r.kind == typeBCD {
		return [...]uint64{16: 1e4, 32: 1e8}[r.size]
	}
	return 1 << r.size
}

// decodeTotal is decode of a counter with roll-over. It is called once for each
// reading.
func (t *tag) decodeTotal(words []byte) (Value, Quality, error) {
	r := &t.register
	if v, quality, err := r.decode(words); quality == Bad {
		return v, quality, err
	}
	count := r.rawBits(words)
	if r.kind == typeBCD {
		count, _ = fromBCD(count) // decode has found it good
	}
	sum, odd := t.total.add(count, r.numbers())
	v, quality, err := r.clamped(r.integerValue(sum, 0))
	if odd != nil {
		return v, Uncertain, odd
	}
	return v, quality, err
}
