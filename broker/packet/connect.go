package packet

// Connect is the CONNECT packet. The slices alias the body it was decoded from.
type Connect struct {
	Version    Version // 3, 4 or 5; after Reason 0x84 the level as it was sent
	Bridge     bool    // 3.1 and 3.1.1: the level was sent with 0x80 added, as bridges do
	CleanStart bool    // 3.1 and 3.1.1: clean session
	KeepAlive  uint16  // seconds; 0: none
	ClientID   []byte  // may be empty: what then is the server's policy

	HasUsername, HasPassword bool
	Username, Password       []byte

	HasWill bool
	Will    WillMessage

	Properties ConnectProperties // all zero before 5.0
}

// WillMessage is the message to publish when the connection ends without a DISCONNECT. Of the PublishProperties it
// never has an alias or subscription identifiers; all of them are zero before 5.0.
type WillMessage struct {
	Topic, Payload []byte
	QoS            byte
	Retain         bool
	WillDelay      uint32 // seconds; 5.0
	PublishProperties
}

// ConnectProperties are the properties of CONNECT. The zero value of each is what the standard assumes when it is absent.
type ConnectProperties struct {
	SessionExpiry              uint32 // seconds; 0: ends with the connection; 0xFFFFFFFF: never
	ReceiveMaximum             uint16 // 0: absent, which means 65,535
	MaximumPacketSize          uint32 // bytes; 0: absent, no limit
	TopicAliasMaximum          uint16
	RequestResponseInformation bool
	SuppressProblemInformation bool   // Request Problem Information was sent as 0
	AuthenticationMethod       []byte // nil: absent
	AuthenticationData         []byte // nil: absent
	UserProperties             []UserProperty
}

// Decode reads the body of a CONNECT and finds the version. It overwrites every field, reuses the capacity of the
// slices of properties, and aliases body. Client identifiers are not judged beyond UTF-8: which are acceptable is
// the server's policy. The error is an *Error; for a level nobody speaks its Reason is
// [ReasonUnsupportedProtocolVersion] and p.Version is the level as sent.
func (p *Connect) Decode(body []byte) error { panic("BUG: packet: not built") }

// Append appends the packet in the form of p.Version.
func (p *Connect) Append(dst []byte) []byte { panic("BUG: packet: not built") }

// Connack is the CONNACK packet.
type Connack struct {
	SessionPresent bool   // never set in 3.1
	Reason         Reason // before 5.0 translated, see [Reason.ReturnCode]
	Properties     ConnackProperties
}

// ConnackProperties are the properties of CONNACK. The zero value of each is what the standard assumes when it is absent.
type ConnackProperties struct {
	HasSessionExpiry       bool // absent: as CONNECT asked
	SessionExpiry          uint32
	ReceiveMaximum         uint16 // 0: absent, which means 65,535
	HasMaximumQoS          bool   // absent: QoS 2
	MaximumQoS             byte   // 0 or 1
	NoRetain               bool   // Retain Available was sent as 0
	MaximumPacketSize      uint32 // bytes; 0: absent, no limit
	AssignedClientID       []byte // nil: absent
	TopicAliasMaximum      uint16
	ReasonString           []byte // nil: absent
	NoWildcardSubscription bool   // Wildcard Subscription Available was sent as 0
	NoSubscriptionID       bool   // Subscription Identifiers Available was sent as 0
	NoSharedSubscription   bool   // Shared Subscription Available was sent as 0
	HasServerKeepAlive     bool   // absent: as CONNECT asked
	ServerKeepAlive        uint16 // seconds; 0: none
	ResponseInformation    []byte // nil: absent
	ServerReference        []byte // nil: absent
	AuthenticationMethod   []byte // nil: absent
	AuthenticationData     []byte // nil: absent
	UserProperties         []UserProperty
}

// Decode reads a CONNACK; the rules of [Publish.Decode] about memory hold.
func (p *Connack) Decode(f Frame, v Version) error { panic("BUG: packet: not built") }

// Append appends the packet as version v has it; what v lacks is left out.
func (p *Connack) Append(dst []byte, v Version) []byte { panic("BUG: packet: not built") }
