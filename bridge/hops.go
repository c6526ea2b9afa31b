package bridge

import (
	"strconv"

	"forebay/broker/packet"
)

// hopsName is the user property that counts how many times a bridge has brought a message down. Whoever goes in circles
// comes down each time; what goes up has no bytes added, and keeps what it has.
const hopsName = "forebay-hops"

// dropLoop is the cause of messages that have come down too often.
const dropLoop = "loop"

// hops counts. The zero value does not count. It is constant.
type hops struct {
	max   int
	name  []byte
	texts [][]byte // of the numbers from 1 to max
}

func newHops(limit int) hops {
	h := hops{max: limit, name: []byte(hopsName)}
	for n := 1; n <= limit; n++ {
		h.texts = append(h.texts, strconv.AppendInt(nil, int64(n), 10))
	}
	return h
}

// next counts p once more. It returns false, and leaves p alone, when p has come down as often as it may. What it puts
// into p is constant.
func (h hops) next(p *packet.PublishProperties) bool {
	if h.max == 0 {
		return true
	}
	passed, at := 0, -1
	for i, u := range p.UserProperties {
		if string(u.Name) == hopsName {
			passed, at = h.number(u.Value), i
			break
		}
	}
	if passed >= h.max {
		return false
	}
	if at < 0 {
		at = len(p.UserProperties)
		p.UserProperties = append(p.UserProperties, packet.UserProperty{Name: h.name})
	}
	p.UserProperties[at].Value = h.texts[passed]
	return true
}

// number reads the value of the property; what is none counts as never, and a large one as as often as may be.
func (h hops) number(text []byte) int {
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0
		}
		n = min(10*n+int(c-'0'), h.max)
	}
	return n
}
