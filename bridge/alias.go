package bridge

import "forebay/broker/packet"

const (
	// maxAliases bounds the aliases of a link, whatever the upstream offers.
	maxAliases = 1000
	// aliasRoom is how many bytes an alias can add to a packet that has the topic as well.
	aliasRoom = 5
)

// alias puts a topic alias in the place of the topic of p, or beside it when the topic comes for the first time on this
// link. The first topics of a link get the aliases that the upstream allows, and keep them [MQTT-3.3.2-9]. p is sent
// next, and takes size bytes as it is.
func (l *link) alias(p *packet.Publish, size int) {
	if number, ok := l.aliases[string(p.Topic)]; ok {
		p.Topic, p.TopicAlias = nil, number
		return
	}
	if len(l.aliases) >= min(l.peer.aliases, maxAliases) || len(p.Topic) <= aliasRoom || size+aliasRoom > l.peer.maxPacket {
		return
	}
	if l.aliases == nil {
		l.aliases = map[string]uint16{}
	}
	p.TopicAlias = uint16(len(l.aliases) + 1)
	l.aliases[string(p.Topic)] = p.TopicAlias
}
