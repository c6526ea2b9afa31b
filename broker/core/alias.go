package core

import "forebay/broker/packet"

// The topic aliases that we set towards a client that allows them (3.3.2.3.4). They belong to one connection: what is
// sent again on the next one has its topic again.

// aliases are those of one connection, in both directions.
type aliases struct {
	theirs [][]byte // the topic of alias i+1 that the client has set; nil: not set
	ours   aliasTable
}

// aliasTable is a fixed number of aliases. A topic has one place in it, by its hash, and takes it over when it comes
// for the second time and the topic that has the place has not come in between: topics that come once are not worth
// an alias, and two that alternate do not drive each other out.
type aliasTable struct {
	slots []aliasSlot // alias i+1; the length is what the client allows, and at most maxAliases
}

type aliasSlot struct {
	topic     []byte // empty: not set
	candidate uint32 // hash of the last topic that was not this one; 0: none
}

const (
	// maxAliases and the length of topics bound what a connection holds to 8 KB.
	maxAliases     = 32
	maxAliasTopic  = 255
	leastAliasGain = 4 // an alias takes three bytes: shorter topics are sent as they are
)

// aliasing says how a topic goes out.
type aliasing byte

const (
	aliasNone aliasing = iota
	aliasSet           // the topic, and the alias that it has from now on
	aliasUse           // the alias alone
)

// find says what is to be done about a topic, and the alias. With aliasSet nothing is changed before set.
func (t *aliasTable) find(topic []byte, hash uint32) (alias uint16, do aliasing) {
	if len(t.slots) == 0 || len(topic) < leastAliasGain || len(topic) > maxAliasTopic {
		return 0, aliasNone
	}
	i := hash % uint32(len(t.slots))
	slot := &t.slots[i]
	switch {
	case string(slot.topic) == string(topic):
		slot.candidate = 0
		return uint16(i + 1), aliasUse
	case slot.candidate == hash:
		return uint16(i + 1), aliasSet
	}
	slot.candidate = hash
	return 0, aliasNone
}

// set gives the topic its alias. The memory of the slot is used again.
func (t *aliasTable) set(topic []byte, alias uint16) {
	slot := &t.slots[alias-1]
	slot.topic = append(slot.topic[:0], topic...)
	slot.candidate = 0
}

// allowAliases makes room for as many aliases as the client takes [MQTT-3.1.2-26] [MQTT-3.1.2-27]
// [MQTT-3.3.2-11].
func (conn *Conn) allowAliases(most uint16) {
	if most > 0 {
		conn.aliases = &aliases{ours: aliasTable{make([]aliasSlot, min(most, maxAliases))}}
	}
}

// hashTopic is FNV-1a; never 0.
func hashTopic(topic []byte) uint32 {
	h := uint32(2166136261)
	for _, b := range topic {
		h = (h ^ uint32(b)) * 16777619
	}
	return max(h, 1)
}

// way is a publication as one connection gets it.
type way struct {
	form  *form
	alias uint16
	do    aliasing
}

// wayOf returns the form that the client gets: with an alias if that saves bytes.
func (conn *Conn) wayOf(pub *publication, qos byte) way {
	c := conn.core
	if conn.aliases == nil {
		return way{form: c.formOf(pub, conn.version, qos, aliasNone)}
	}
	if pub.hash == 0 {
		pub.hash = hashTopic(pub.p.Topic)
	}
	alias, do := conn.aliases.ours.find(pub.p.Topic, pub.hash)
	w := way{c.formOf(pub, conn.version, qos, do), alias, do}
	if do == aliasSet && uint64(len(w.form.whole)) > uint64(conn.maxPacket) {
		return way{form: c.formOf(pub, conn.version, qos, aliasNone)} // the alias is what is too much
	}
	return w
}

// sendForm copies a form to the output.
func (conn *Conn) sendForm(pub *publication, w way, first byte, id uint16) {
	fm := w.form
	if uint64(len(fm.whole)) > uint64(conn.maxPacket) {
		conn.core.stats.DroppedTooLarge++ // [MQTT-3.1.2-25]
		return
	}
	if w.do != aliasNone {
		// All connections share the form; it is copied before the next one patches it.
		fm.whole[fm.aliasOffset], fm.whole[fm.aliasOffset+1] = byte(w.alias>>8), byte(w.alias)
		if w.do == aliasSet {
			conn.aliases.ours.set(pub.p.Topic, w.alias)
		}
	}
	conn.core.stats.Sent++
	conn.core.stats.SentPayload += uint64(len(pub.p.Payload))
	conn.writeForm(fm.whole, first, fm.idOffset, id)
}

// useAlias puts an alias into p if that saves bytes, and returns the size of the packet.
func (conn *Conn) useAlias(p *packet.Publish) (size int, do aliasing) {
	if conn.aliases != nil {
		p.TopicAlias, do = conn.aliases.ours.find(p.Topic, hashTopic(p.Topic))
	}
	if do == aliasUse {
		p.Topic = nil
	}
	size = packet.PublishSize(p, conn.version)
	if do == aliasSet && uint64(size) > uint64(conn.maxPacket) {
		p.TopicAlias = 0
		return packet.PublishSize(p, conn.version), aliasNone
	}
	return size, do
}
