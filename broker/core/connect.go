package core

import (
	"bytes"
	"math"
	"strconv"
	"time"

	"forebay/broker/packet"
)

// onConnect checks a CONNECT and asks for the login. It copies what it needs, because the answer may come later.
func (conn *Conn) onConnect(f packet.Frame) error {
	if conn.version != 0 { // so that there is one CONNACK only [MQTT-3.2.0-2]
		return &packet.Error{Reason: packet.ReasonProtocolError, Statement: "MQTT-3.1.0-2", Detail: "a second CONNECT"}
	}
	p := &packet.Connect{}
	err := p.Decode(bytes.Clone(f.Body))
	if p.Properties.MaximumPacketSize != 0 {
		conn.maxPacket = p.Properties.MaximumPacketSize // [MQTT-3.1.2-24]
	}
	conn.curt = p.Properties.SuppressProblemInformation
	if err != nil {
		conn.rejectUndecoded(p, err)
		return nil
	}
	conn.version = p.Version
	conn.clientID = string(p.ClientID)
	if p.HasUsername {
		conn.username = string(p.Username)
	}
	if conn.info.User != "" {
		conn.username = conn.info.User
	}
	conn.bridge = p.Bridge
	if reason, why := conn.checkConnect(p); reason != packet.ReasonSuccess {
		conn.reject(reason, why)
		return nil
	}
	c := conn.core
	conn.login = p
	if p.Properties.AuthenticationMethod != nil {
		conn.beginAuth(p)
		return nil
	}
	c.events.Login(conn, conn.username, p.HasUsername, p.Password)
	return nil
}

// rejectUndecoded answers a CONNECT that cannot be read: with CONNACK where the client can be expected to read that.
func (conn *Conn) rejectUndecoded(p *packet.Connect, err error) {
	fault, ok := err.(*packet.Error)
	_, why := whyOf(err)
	switch {
	case ok && fault.Reason == packet.ReasonUnsupportedProtocolVersion:
		// 3.1.1 [MQTT-3.1.2-2]: return code 1 for a level not known; from above 5 a client knows CONNACK of 5.0.
		conn.version = packet.V311
		if p.Version > packet.V5 {
			conn.version = packet.V5
		}
		conn.reject(fault.Reason, why)
	case ok && p.Version == packet.V5:
		conn.version = packet.V5
		conn.reject(fault.Reason, why)
	default:
		conn.end(packet.ReasonMalformedPacket, why) // [MQTT-3.1.4-1]
	}
}

// checkConnect has the rules that need no credentials.
func (conn *Conn) checkConnect(p *packet.Connect) (packet.Reason, string) {
	c := conn.core
	switch {
	case len(p.ClientID) > maxClientID:
		return packet.ReasonClientIdentifierNotValid, "client identifier too long" // [MQTT-3.1.3-8]
	case len(p.ClientID) == 0 && p.Version == packet.V31:
		return packet.ReasonClientIdentifierNotValid, "no client identifier"
	case len(p.ClientID) == 0 && p.Version == packet.V311 && !p.CleanStart:
		return packet.ReasonClientIdentifierNotValid, "no client identifier and no clean session" // 3.1.1 [MQTT-3.1.3-8]
	}
	if !p.HasWill {
		return packet.ReasonSuccess, "" // and none is published, 3.1.1 [MQTT-3.1.2-12]
	}
	if reason := c.checkTopic(p.Will.Topic); reason != packet.ReasonSuccess {
		return reason, "will topic not allowed"
	}
	return packet.ReasonSuccess, ""
}

// reject answers CONNECT with a refusal and ends the connection [MQTT-3.2.2-7].
func (conn *Conn) reject(reason packet.Reason, why string) {
	if conn.over {
		return
	}
	if conn.version != 0 && reason >= 0x80 {
		conn.tellConnack(reason, why)
	}
	conn.end(reason, why)
}

// LoginResult is the answer to [Events.Login]. reason is for the client when ok is false.
func (c *Core) LoginResult(conn *Conn, ok bool, reason packet.Reason) {
	p := conn.login
	if p == nil || conn.over {
		return // the client has gone in the meantime
	}
	conn.login = nil
	c.touch(conn)
	if !ok {
		if reason < 0x80 {
			reason = packet.ReasonNotAuthorized
		}
		conn.reject(reason, "login refused") // [MQTT-3.1.4-2]
		return
	}
	if p.HasWill && c.cfg.Authorizer != nil && !c.cfg.Authorizer.MayPublish(conn.clientID, conn.username, p.Will.Topic) {
		conn.reject(packet.ReasonNotAuthorized, "will topic not authorised")
		return
	}
	conn.begin(p)
}

// begin gives the client its session and answers CONNECT, once the session's state is durable (D3).
func (conn *Conn) begin(p *packet.Connect) {
	c := conn.core
	conn.limits(p)
	if conn.clientID == "" {
		conn.clientID, conn.assigned = c.assignClientID(), true // [MQTT-3.1.3-6] [MQTT-3.1.3-7]
	}
	expiry := c.expiryOf(p)
	if uint64(len(conn.connack(p, expiry, false))) > uint64(conn.maxPacket) {
		conn.reject(packet.ReasonPacketTooLarge, "the maximum packet size leaves no room for CONNACK") // [MQTT-3.1.2-24]
		return
	}
	s, present, why := c.enter(conn, p, expiry)
	if s == nil {
		reason := packet.ReasonServerUnavailable
		if why == tooManySessions {
			reason = packet.ReasonQuotaExceeded
		}
		conn.reject(reason, why)
		return
	}
	conn.session = s
	s.conn = conn
	s.resumes = present
	c.events.Connected(conn)
	conn.answer(ack{seq: s.stateSeq, kind: packet.CONNACK, body: conn.connack(p, s.expiry, present)})
}

// limits takes over what the client allows.
func (conn *Conn) limits(p *packet.Connect) {
	c := conn.core
	conn.inflight = int32(c.cfg.Inflight)
	conn.askedExpiry = p.Properties.SessionExpiry
	keepAlive := p.KeepAlive // [MQTT-3.2.2-22]
	if p.Version == packet.V5 {
		if p.Properties.ReceiveMaximum != 0 {
			conn.inflight = min(conn.inflight, int32(p.Properties.ReceiveMaximum)) // [MQTT-3.3.4-9] [MQTT-4.9.0-1]
		}
		keepAlive = c.capKeepAlive(keepAlive)
		conn.allowAliases(p.Properties.TopicAliasMaximum)
	}
	conn.quiet = time.Duration(keepAlive) * time.Second * 3 / 2 // [MQTT-3.1.2-22]
}

// capKeepAlive is the server keep alive of 5.0.
func (c *Core) capKeepAlive(asked uint16) uint16 {
	if limit := c.cfg.KeepAlive; limit != 0 && (asked == 0 || asked > limit) {
		return limit
	}
	return asked
}

// neverExpires is the session expiry that means so.
const neverExpires = math.MaxUint32

// capExpiry limits a session expiry in seconds to the configured one.
func (c *Core) capExpiry(asked uint32) uint32 {
	return uint32(min(uint64(asked), uint64(c.cfg.SessionExpiry/time.Second)))
}

// expiryOf returns the seconds that the session outlives its connection. Before 5.0 a session that is not clean has
// no end by itself; ours ends at the cap.
func (c *Core) expiryOf(p *packet.Connect) uint32 {
	switch {
	case p.Version == packet.V5:
		return c.capExpiry(p.Properties.SessionExpiry)
	case p.CleanStart:
		return 0
	}
	return c.capExpiry(neverExpires)
}

// assignClientID makes an identifier that no session has. It begins with the time of the start, so that those of an
// earlier run do not come back.
func (c *Core) assignClientID() string {
	for {
		c.assigned++
		id := "forebay-" + strconv.FormatInt(c.startWall, 36) + "-" + strconv.FormatUint(c.assigned, 36)
		if c.sessions[id] == nil {
			return id
		}
	}
}

// connack encodes the acceptance [MQTT-3.1.4-5].
func (conn *Conn) connack(p *packet.Connect, expiry uint32, present bool) []byte {
	c := conn.core
	ack := packet.Connack{SessionPresent: present} // [MQTT-3.2.2-2] [MQTT-3.2.2-3]
	if conn.version == packet.V5 {
		q := &ack.Properties
		q.ReceiveMaximum = c.cfg.ReceiveMaximum
		q.MaximumPacketSize = c.cfg.PacketSize
		q.TopicAliasMaximum = c.cfg.TopicAliasMaximum
		if expiry != p.Properties.SessionExpiry {
			q.HasSessionExpiry, q.SessionExpiry = true, expiry
		}
		if conn.assigned {
			q.AssignedClientID = []byte(conn.clientID) // [MQTT-3.2.2-16]
		}
		if keepAlive := c.capKeepAlive(p.KeepAlive); keepAlive != p.KeepAlive {
			q.HasServerKeepAlive, q.ServerKeepAlive = true, keepAlive
		}
		q.ResponseInformation = conn.responseInformation(p)
		if a := conn.auth; a != nil {
			q.AuthenticationMethod, q.AuthenticationData = []byte(a.method), a.final // [MQTT-4.12.0-5]
		}
	}
	return ack.Append(nil, conn.version)
}

// open is the moment CONNACK has left: the first packet the client gets [MQTT-3.2.0-1]. What it has not acknowledged
// in an earlier connection follows.
func (conn *Conn) open() {
	conn.established = true
	s := conn.session
	if s.queue != nil {
		s.resume()
	}
	conn.core.wantPull(s)
	conn.core.touch(conn)
}
