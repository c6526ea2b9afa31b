package edge

import (
	"strings"

	"forebay/broker/packet"
)

// getSuffix behind the topic of a tag is where a read on demand is asked for:
// whatever is published there, its payload does not matter. What is read comes
// on the topic of the tag, even if it has not changed.
const getSuffix = "/get"

// onDemand hands a message on …/get to the poller and reports whether it is one.
// It is called by the broker's loop and does not wait; a request that finds too
// many others is counted and dropped, a retained one is as old as its retention.
func (c *commands) onDemand(p *packet.Publish) bool {
	topic, ok := strings.CutSuffix(string(p.Topic), getSuffix)
	if !ok {
		return false
	}
	to, ok := c.targets[topic+setSuffix]
	if !ok {
		return false
	}
	if p.Retain {
		return true
	}
	if c.reader.ReadNow(to.link, to.unit, to.tag) != nil {
		c.missed.Add(1)
	}
	return true
}
