package packet

import "strconv"

// Reason is a 5.0 reason code; from 0x80 it tells of a failure. It is also what CONNACK and SUBACK of the older
// versions are translated from and to, so that callers know one vocabulary only.
type Reason byte

// The reason codes (MQTT 5.0 table 2-6). Zero has three names, one per use.
const (
	ReasonSuccess                             Reason = 0x00
	ReasonNormalDisconnection                 Reason = 0x00
	ReasonGrantedQoS0                         Reason = 0x00
	ReasonGrantedQoS1                         Reason = 0x01
	ReasonGrantedQoS2                         Reason = 0x02
	ReasonDisconnectWithWill                  Reason = 0x04
	ReasonNoMatchingSubscribers               Reason = 0x10
	ReasonNoSubscriptionExisted               Reason = 0x11
	ReasonContinueAuthentication              Reason = 0x18
	ReasonReauthenticate                      Reason = 0x19
	ReasonUnspecifiedError                    Reason = 0x80
	ReasonMalformedPacket                     Reason = 0x81
	ReasonProtocolError                       Reason = 0x82
	ReasonImplementationSpecificError         Reason = 0x83
	ReasonUnsupportedProtocolVersion          Reason = 0x84
	ReasonClientIdentifierNotValid            Reason = 0x85
	ReasonBadUserNameOrPassword               Reason = 0x86
	ReasonNotAuthorized                       Reason = 0x87
	ReasonServerUnavailable                   Reason = 0x88
	ReasonServerBusy                          Reason = 0x89
	ReasonBanned                              Reason = 0x8A
	ReasonServerShuttingDown                  Reason = 0x8B
	ReasonBadAuthenticationMethod             Reason = 0x8C
	ReasonKeepAliveTimeout                    Reason = 0x8D
	ReasonSessionTakenOver                    Reason = 0x8E
	ReasonTopicFilterInvalid                  Reason = 0x8F
	ReasonTopicNameInvalid                    Reason = 0x90
	ReasonPacketIdentifierInUse               Reason = 0x91
	ReasonPacketIdentifierNotFound            Reason = 0x92
	ReasonReceiveMaximumExceeded              Reason = 0x93
	ReasonTopicAliasInvalid                   Reason = 0x94
	ReasonPacketTooLarge                      Reason = 0x95
	ReasonMessageRateTooHigh                  Reason = 0x96
	ReasonQuotaExceeded                       Reason = 0x97
	ReasonAdministrativeAction                Reason = 0x98
	ReasonPayloadFormatInvalid                Reason = 0x99
	ReasonRetainNotSupported                  Reason = 0x9A
	ReasonQoSNotSupported                     Reason = 0x9B
	ReasonUseAnotherServer                    Reason = 0x9C
	ReasonServerMoved                         Reason = 0x9D
	ReasonSharedSubscriptionsNotSupported     Reason = 0x9E
	ReasonConnectionRateExceeded              Reason = 0x9F
	ReasonMaximumConnectTime                  Reason = 0xA0
	ReasonSubscriptionIdentifiersNotSupported Reason = 0xA1
	ReasonWildcardSubscriptionsNotSupported   Reason = 0xA2
)

// The CONNACK return codes of 3.1 and 3.1.1 (MQTT 3.1.1 table 3.1).
const (
	ConnackAccepted                    byte = 0
	ConnackUnacceptableProtocolVersion byte = 1
	ConnackIdentifierRejected          byte = 2
	ConnackServerUnavailable           byte = 3
	ConnackBadUserNameOrPassword       byte = 4
	ConnackNotAuthorized               byte = 5
)

// String returns the name of the reason as the standard writes it, or its number.
func (r Reason) String() string {
	switch r {
	case ReasonSuccess:
		return "Success"
	case ReasonGrantedQoS1:
		return "Granted QoS 1"
	case ReasonGrantedQoS2:
		return "Granted QoS 2"
	case ReasonDisconnectWithWill:
		return "Disconnect with Will Message"
	case ReasonNoMatchingSubscribers:
		return "No matching subscribers"
	case ReasonNoSubscriptionExisted:
		return "No subscription existed"
	case ReasonContinueAuthentication:
		return "Continue authentication"
	case ReasonReauthenticate:
		return "Re-authenticate"
	}
	// The failures are numbered without gaps.
	if i := int(r) - 0x80; i >= 0 && i < len(failureNames) {
		return failureNames[i]
	}
	return "reason 0x" + strconv.FormatUint(uint64(r), 16)
}

// failureNames are the names of the reasons from 0x80 on. Constant.
var failureNames = [...]string{
	"Unspecified error", "Malformed Packet", "Protocol Error", "Implementation specific error",
	"Unsupported Protocol Version", "Client Identifier not valid", "Bad User Name or Password", "Not authorized",
	"Server unavailable", "Server busy", "Banned", "Server shutting down", "Bad authentication method",
	"Keep Alive timeout", "Session taken over", "Topic Filter invalid", "Topic Name invalid",
	"Packet Identifier in use", "Packet Identifier not found", "Receive Maximum exceeded", "Topic Alias invalid",
	"Packet too large", "Message rate too high", "Quota exceeded", "Administrative action",
	"Payload format invalid", "Retain not supported", "QoS not supported", "Use another server", "Server moved",
	"Shared Subscriptions not supported", "Connection rate exceeded", "Maximum connect time",
	"Subscription Identifiers not supported", "Wildcard Subscriptions not supported",
}

// ReturnCode is the 3.1 and 3.1.1 CONNACK return code nearest to r: 0 for every success, else 1 to 5. A failure
// without a near relation becomes "server unavailable"; the standard would rather have the connection closed
// without CONNACK then (3.1.1 [MQTT-3.2.2-6]), which is for the caller to do.
func (r Reason) ReturnCode() byte {
	switch r {
	case ReasonUnsupportedProtocolVersion:
		return ConnackUnacceptableProtocolVersion
	case ReasonClientIdentifierNotValid:
		return ConnackIdentifierRejected
	case ReasonBadUserNameOrPassword:
		return ConnackBadUserNameOrPassword
	case ReasonNotAuthorized, ReasonBanned, ReasonBadAuthenticationMethod:
		return ConnackNotAuthorized
	}
	if r < 0x80 {
		return ConnackAccepted
	}
	return ConnackServerUnavailable
}

// reasonOfReturnCode is the inverse of ReturnCode for the six codes that exist; ok is false for others.
func reasonOfReturnCode(code byte) (r Reason, ok bool) {
	switch code {
	case ConnackAccepted:
		return ReasonSuccess, true
	case ConnackUnacceptableProtocolVersion:
		return ReasonUnsupportedProtocolVersion, true
	case ConnackIdentifierRejected:
		return ReasonClientIdentifierNotValid, true
	case ConnackServerUnavailable:
		return ReasonServerUnavailable, true
	case ConnackBadUserNameOrPassword:
		return ReasonBadUserNameOrPassword, true
	case ConnackNotAuthorized:
		return ReasonNotAuthorized, true
	}
	return 0, false
}

// validIn reports whether a packet of type t may carry r in 5.0, whoever sends it (MQTT 5.0 table 2-6).
func (r Reason) validIn(t Type) bool {
	switch t {
	case CONNACK:
		switch r {
		case ReasonKeepAliveTimeout, ReasonSessionTakenOver, ReasonServerShuttingDown, ReasonTopicFilterInvalid,
			ReasonPacketIdentifierInUse, ReasonPacketIdentifierNotFound, ReasonReceiveMaximumExceeded,
			ReasonTopicAliasInvalid, ReasonMessageRateTooHigh, ReasonAdministrativeAction,
			ReasonSharedSubscriptionsNotSupported:
			return false
		}
		return r == ReasonSuccess || r >= ReasonUnspecifiedError && r <= ReasonConnectionRateExceeded
	case PUBACK, PUBREC:
		switch r {
		case ReasonSuccess, ReasonNoMatchingSubscribers, ReasonUnspecifiedError, ReasonImplementationSpecificError,
			ReasonNotAuthorized, ReasonTopicNameInvalid, ReasonPacketIdentifierInUse, ReasonQuotaExceeded,
			ReasonPayloadFormatInvalid:
			return true
		}
	case PUBREL, PUBCOMP:
		return r == ReasonSuccess || r == ReasonPacketIdentifierNotFound
	case SUBACK:
		switch r {
		case ReasonGrantedQoS0, ReasonGrantedQoS1, ReasonGrantedQoS2, ReasonUnspecifiedError,
			ReasonImplementationSpecificError, ReasonNotAuthorized, ReasonTopicFilterInvalid,
			ReasonPacketIdentifierInUse, ReasonQuotaExceeded, ReasonSharedSubscriptionsNotSupported,
			ReasonSubscriptionIdentifiersNotSupported, ReasonWildcardSubscriptionsNotSupported:
			return true
		}
	case UNSUBACK:
		switch r {
		case ReasonSuccess, ReasonNoSubscriptionExisted, ReasonUnspecifiedError, ReasonImplementationSpecificError,
			ReasonNotAuthorized, ReasonTopicFilterInvalid, ReasonPacketIdentifierInUse:
			return true
		}
	case DISCONNECT:
		switch r {
		case ReasonUnsupportedProtocolVersion, ReasonClientIdentifierNotValid, ReasonBadUserNameOrPassword,
			ReasonServerUnavailable, ReasonBanned, ReasonPacketIdentifierInUse, ReasonPacketIdentifierNotFound:
			return false
		}
		return r == ReasonNormalDisconnection || r == ReasonDisconnectWithWill ||
			r >= ReasonUnspecifiedError && r <= ReasonWildcardSubscriptionsNotSupported
	case AUTH:
		return r == ReasonSuccess || r == ReasonContinueAuthentication || r == ReasonReauthenticate
	}
	return false
}

// reason reads a 5.0 reason code of a packet of type t.
func (c *cursor) reason(t Type) Reason {
	r := Reason(c.byte())
	if r == ReasonSuccess || r.validIn(t) {
		return r
	}
	var statement string
	switch t {
	case CONNACK:
		statement = "MQTT-3.2.2-8"
	case PUBACK:
		statement = "MQTT-3.4.2-1"
	case PUBREC:
		statement = "MQTT-3.5.2-1"
	case PUBREL:
		statement = "MQTT-3.6.2-1"
	case PUBCOMP:
		statement = "MQTT-3.7.2-1"
	case SUBACK:
		statement = "MQTT-3.9.3-2"
	case UNSUBACK:
		statement = "MQTT-3.11.3-2"
	case DISCONNECT:
		statement = "MQTT-3.14.2-1"
	case AUTH:
		statement = "MQTT-3.15.2-1"
	}
	c.fail(ReasonProtocolError, statement, t.String()+" with a reason code it cannot have")
	return r
}
