package core

import (
	"errors"
	"fmt"
	"strings"

	"forebay/broker/packet"
)

// What a client is told beside reason codes: reason strings, another server, where to reply. All of it is 5.0; the
// codec leaves it out for older clients.

// told is the part of a text for the log that a client may read: what stands behind a colon came from the store. It is
// nil for a client that wants no such texts; it could get them in CONNACK and DISCONNECT, but why should it.
func (conn *Conn) told(why string) []byte {
	if conn.curt {
		return nil
	}
	text, _, _ := strings.Cut(why, ": ")
	return []byte(text)
}

// whyOf is the text about an error in what a client sent.
func whyOf(err error) (packet.Reason, string) {
	var fault *packet.Error
	if !errors.As(err, &fault) {
		return packet.ReasonUnspecifiedError, err.Error()
	}
	if fault.Statement == "" {
		return fault.Reason, fault.Detail
	}
	return fault.Reason, fault.Detail + " [" + fault.Statement + "]"
}

// tellConnack answers CONNECT with a refusal, with why if there is room for that [MQTT-3.2.2-19].
func (conn *Conn) tellConnack(reason packet.Reason, why string) {
	p := packet.Connack{Reason: reason} // no session present [MQTT-3.2.2-6]
	if reason == packet.ReasonUseAnotherServer {
		p.Properties.ServerReference = []byte(conn.core.cfg.ServerReference) // (4.11)
	}
	plain := p.Append(nil, conn.version)
	p.Properties.ReasonString = conn.told(why)
	conn.writeFitting(p.Append(nil, conn.version), plain)
}

// tellDisconnect sends DISCONNECT, with why if there is room for that [MQTT-3.14.2-3].
func (conn *Conn) tellDisconnect(reason packet.Reason, why string) {
	p := packet.Disconnect{Reason: reason} // without session expiry [MQTT-3.14.2-2]
	plain := p.Append(nil, conn.version)
	if reason == packet.ReasonUseAnotherServer {
		p.ServerReference = []byte(conn.core.cfg.ServerReference) // (4.11)
	}
	p.ReasonString = conn.told(why)
	conn.writeFitting(p.Append(nil, conn.version), plain)
}

// writeFitting sends the first of the packets that is not larger than the client accepts [MQTT-3.1.2-24].
func (conn *Conn) writeFitting(packets ...[]byte) {
	for _, b := range packets {
		if uint64(len(b)) <= uint64(conn.maxPacket) {
			conn.writePacket(b)
			return
		}
	}
}

// writeAck sends an acknowledgement; a refusal says why if the client wants to know [MQTT-3.1.2-29] and has room for it
// [MQTT-3.4.2-2] [MQTT-3.5.2-2] [MQTT-3.6.2-2] [MQTT-3.7.2-2].
func (conn *Conn) writeAck(a *packet.Ack) {
	const longest = 16
	a.ReasonString = nil
	room := longest
	if a.Reason >= 0x80 && conn.version == packet.V5 && !conn.curt {
		a.ReasonString = refusals[a.Reason]
		if room += len(a.ReasonString); room > int(conn.maxPacket) {
			a.ReasonString = nil
		}
	}
	i := conn.reserve(room)
	conn.core.stats.PacketsSent++
	before := len(conn.out.chunks[i])
	conn.out.chunks[i] = a.Append(conn.out.chunks[i], conn.version)
	conn.added(len(conn.out.chunks[i]) - before)
}

// refusals are the reason strings of acknowledgements. Constant.
var refusals = map[packet.Reason][]byte{
	packet.ReasonNotAuthorized:               []byte("not allowed by the access file"),
	packet.ReasonTopicNameInvalid:            []byte("the topic begins with $ or is beyond the limits"),
	packet.ReasonQuotaExceeded:               []byte("no room in the store"),
	packet.ReasonImplementationSpecificError: []byte("the store has failed"),
	packet.ReasonPacketIdentifierNotFound:    []byte("no message with this packet identifier"),
}

// refused are those of SUBACK and UNSUBACK. Constant.
var refused = map[packet.Reason]string{
	packet.ReasonNotAuthorized:               "not allowed by the access file",
	packet.ReasonTopicFilterInvalid:          "beyond the limits, or a share name without filter",
	packet.ReasonQuotaExceeded:               "too many subscriptions, or no room in the store",
	packet.ReasonImplementationSpecificError: "the store has failed",
}

// why is the reason string of a SUBACK or UNSUBACK: about the first filter that is refused; nil: none is.
func (conn *Conn) why(reasons []packet.Reason) []byte {
	if conn.version != packet.V5 || conn.curt {
		return nil // [MQTT-3.1.2-29]
	}
	for i, r := range reasons {
		if r >= 0x80 {
			return fmt.Appendf(nil, "filter %d: %s", i+1, refused[r])
		}
	}
	return nil
}

// answerFitting is answer for a packet that may be large: plain is it without its reason string [MQTT-3.9.2-1]
// [MQTT-3.11.2-1]. One that is larger than the client accepts even so ends the connection [MQTT-3.1.2-24].
func (conn *Conn) answerFitting(a ack, plain []byte) {
	if uint64(len(a.body)) > uint64(conn.maxPacket) {
		a.body = plain
	}
	if uint64(len(a.body)) > uint64(conn.maxPacket) {
		a.kind, a.reason, a.body = 0, packet.ReasonPacketTooLarge, nil
		conn.ending = true
	}
	conn.answer(a)
}

// responseInformation is what a client is told of where to have replies sent; nil: nothing [MQTT-3.1.2-28].
func (conn *Conn) responseInformation(p *packet.Connect) []byte {
	text := conn.core.cfg.ResponseInformation
	if text == "" || !p.Properties.RequestResponseInformation {
		return nil
	}
	if strings.ContainsAny(conn.clientID+conn.username, "+#") && strings.ContainsRune(text, '%') {
		return nil // it would be no topic
	}
	text = strings.NewReplacer("%c", conn.clientID, "%u", conn.username).Replace(text)
	if len(text) > conn.core.cfg.TopicSize {
		return nil
	}
	return []byte(text)
}
