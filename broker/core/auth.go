package core

import (
	"bytes"

	"forebay/broker/packet"
)

// Enhanced authentication of 5.0 (4.12). The core knows the order of packets; what stands in them is the business of
// whoever answers Events.Authenticate.

// AuthStep is what a client has sent in an enhanced authentication.
type AuthStep struct {
	Method string
	Data   []byte // valid during the call only; nil: there was none
	Begin  bool   // the first of an exchange
	Again  bool   // the client is connected and authenticates itself once more
}

// AuthAnswer is what comes of it: a refusal (Reason from 0x80), one more exchange (More), or success.
type AuthAnswer struct {
	Reason   packet.Reason
	More     bool
	Data     []byte // for the client, not kept; nil: none
	Username string // with success: who the client is
}

// authState is that of a connection with an authentication method.
type authState struct {
	method string // of CONNECT
	asked  bool   // AuthResult has not been called yet
	again  bool   // a re-authentication is under way
	final  []byte // for CONNACK
}

// beginAuth asks about the CONNECT of a client with an authentication method.
func (conn *Conn) beginAuth(p *packet.Connect) {
	conn.auth = &authState{method: string(p.Properties.AuthenticationMethod)}
	conn.authenticate(AuthStep{Data: p.Properties.AuthenticationData, Begin: true})
}

func (conn *Conn) authenticate(step AuthStep) {
	step.Method, step.Again = conn.auth.method, conn.auth.again
	conn.auth.asked = true
	conn.core.events.Authenticate(conn, step)
}

// deciding reports that the login is in the hands of whoever is asked, not in those of the client.
func (conn *Conn) deciding() bool { return conn.login != nil && (conn.auth == nil || conn.auth.asked) }

// beforeConnack refuses what a client may not send during its authentication [MQTT-3.1.2-30].
func (conn *Conn) beforeConnack(f packet.Frame) error {
	if conn.login == nil || f.Type() == packet.AUTH || f.Type() == packet.DISCONNECT {
		return nil
	}
	return &packet.Error{Reason: packet.ReasonProtocolError, Statement: "MQTT-3.1.2-30", Detail: f.Type().String() + " before CONNACK"}
}

// onAuth goes on with an authentication, or begins another one.
func (conn *Conn) onAuth(f packet.Frame) error {
	if conn.auth == nil {
		// No authentication method was accepted in CONNECT, so there is nothing to continue or repeat.
		return &packet.Error{Reason: packet.ReasonProtocolError, Statement: "MQTT-4.12.0-7", Detail: "AUTH without an authentication method"}
	}
	var p packet.Auth
	if err := p.Decode(f, conn.version); err != nil {
		return err
	}
	a := conn.auth
	continues := a.again || conn.login != nil
	switch {
	case string(p.AuthenticationMethod) != a.method:
		return &packet.Error{Reason: packet.ReasonProtocolError, Statement: "MQTT-4.12.1-1", Detail: "another authentication method than in CONNECT"}
	case a.asked:
		return &packet.Error{Reason: packet.ReasonProtocolError, Detail: "AUTH before the last one was answered"}
	case p.Reason == packet.ReasonContinueAuthentication && continues: // [MQTT-4.12.0-3]
	case p.Reason == packet.ReasonReauthenticate && !continues:
		a.again = true
		conn.authenticate(AuthStep{Data: p.AuthenticationData, Begin: true})
		return nil
	default:
		return &packet.Error{Reason: packet.ReasonProtocolError, Statement: "MQTT-4.12.0-3", Detail: "AUTH with a reason code out of turn"}
	}
	conn.authenticate(AuthStep{Data: p.AuthenticationData})
	return nil
}

// AuthResult is the answer to [Events.Authenticate]. It may be called within it.
func (c *Core) AuthResult(conn *Conn, answer AuthAnswer) {
	if conn.over || conn.auth == nil || !conn.auth.asked {
		return // the client has gone in the meantime
	}
	a := conn.auth
	a.asked = false
	c.touch(conn)
	switch {
	case answer.Reason >= 0x80:
		conn.authFailed(answer.Reason)
	case answer.More:
		conn.sendAuth(packet.ReasonContinueAuthentication, answer.Data) // [MQTT-4.12.0-2]
	case a.again && answer.Username != conn.username:
		conn.authFailed(packet.ReasonNotAuthorized)
	case a.again:
		a.again = false
		conn.sendAuth(packet.ReasonSuccess, answer.Data)
	case conn.username != "" && conn.username != answer.Username:
		conn.authFailed(packet.ReasonBadUserNameOrPassword) // two names: which of them would the access file mean?
	default:
		conn.username = answer.Username
		a.final = bytes.Clone(answer.Data)
		c.LoginResult(conn, true, 0)
	}
}

// authFailed ends the connection [MQTT-4.12.0-4] [MQTT-4.12.1-2].
func (conn *Conn) authFailed(reason packet.Reason) {
	if conn.auth.again {
		conn.close(reason, "re-authentication refused")
		return
	}
	conn.login = nil
	conn.reject(reason, "authentication refused") // [MQTT-4.12.0-1]
}

// sendAuth sends an AUTH with the method of CONNECT [MQTT-4.12.0-5]. It never goes to a client without one
// [MQTT-4.12.0-6].
func (conn *Conn) sendAuth(reason packet.Reason, data []byte) {
	p := packet.Auth{Reason: reason, AuthenticationMethod: []byte(conn.auth.method), AuthenticationData: data} // [MQTT-3.15.2-1]
	b := p.Append(nil, conn.version)
	if uint64(len(b)) > uint64(conn.maxPacket) {
		conn.authFailed(packet.ReasonPacketTooLarge)
		return
	}
	conn.writePacket(b)
}
