package bridge

import (
	"slices"
	"strconv"

	"forebay/broker/packet"
)

// hopsName is the user property that counts how many bridges a message has passed, up or down.
const hopsName = "forebay-hops"

// dropLoop is the cause of messages that have passed too many.
const dropLoop = "loop"

// hops counts bridges. The zero value does not count. It is constant.
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

// next counts p one bridge further. It returns false, and leaves p alone, when p has passed as many as it may. What it
// puts into p is constant.
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

// shed takes the count out of p again, if it has been begun here, and returns whether it has: a message that the upstream
// would take without it is not too large.
func (h hops) shed(p *packet.PublishProperties) bool {
	for i, u := range p.UserProperties {
		if string(u.Name) == hopsName {
			if string(u.Value) != "1" {
				return false
			}
			p.UserProperties = slices.Delete(p.UserProperties, i, i+1)
			return true
		}
	}
	return false
}

// number reads the value of the property; what is none counts as no bridge, and a large one as all that there may be.
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

// hop counts the message being sent one bridge further, or drops it.
func (f *forwarder) hop(l *link, g *flight) bool {
	if f.hops.next(&f.publish.PublishProperties) || g.open {
		return true // an exchange that may be half way must end
	}
	f.bury(l, dropLoop, nil, g)
	return false
}

// fits returns the size of the message being sent, and whether the upstream takes it: if need be without the count.
func (f *forwarder) fits(l *link) (size int, ok bool) {
	p := &f.publish
	size = packet.PublishSize(p, l.peer.version)
	if size > l.peer.maxPacket && f.hops.shed(&p.PublishProperties) {
		size = packet.PublishSize(p, l.peer.version)
	}
	return size, size <= l.peer.maxPacket
}
