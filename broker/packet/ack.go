package packet

// Ack is one of PUBACK, PUBREC, PUBREL and PUBCOMP.
type Ack struct {
	Type           Type
	PacketID       uint16
	Reason         Reason // before 5.0 always success, and not sent
	ReasonString   []byte // nil: absent
	UserProperties []UserProperty
}

// Decode reads any of the four and sets Type; the rules of [Publish.Decode] about memory hold.
func (p *Ack) Decode(f Frame, v Version) error { panic("BUG: packet: not built") }

// Append appends the packet as version v has it, in its shortest form.
func (p *Ack) Append(dst []byte, v Version) []byte { panic("BUG: packet: not built") }

// Disconnect is the DISCONNECT packet; before 5.0 it is empty and only clients send it.
type Disconnect struct {
	Reason           Reason
	HasSessionExpiry bool // absent: as CONNECT said
	SessionExpiry    uint32
	ReasonString     []byte // nil: absent
	ServerReference  []byte // nil: absent
	UserProperties   []UserProperty
}

// Decode reads a DISCONNECT; the rules of [Publish.Decode] about memory hold.
func (p *Disconnect) Decode(f Frame, v Version) error { panic("BUG: packet: not built") }

// Append appends the packet as version v has it, in its shortest form.
func (p *Disconnect) Append(dst []byte, v Version) []byte { panic("BUG: packet: not built") }

// Auth is the AUTH packet of 5.0.
type Auth struct {
	Reason               Reason // success, continue authentication or re-authenticate
	AuthenticationMethod []byte // nil: absent, which only the empty form of success may be
	AuthenticationData   []byte // nil: absent
	ReasonString         []byte // nil: absent
	UserProperties       []UserProperty
}

// Decode reads an AUTH; the rules of [Publish.Decode] about memory hold.
func (p *Auth) Decode(f Frame, v Version) error { panic("BUG: packet: not built") }

// Append appends the packet; v must be [V5].
func (p *Auth) Append(dst []byte, v Version) []byte { panic("BUG: packet: not built") }

// AppendPingreq appends a PINGREQ.
func AppendPingreq(dst []byte) []byte { return append(dst, byte(PINGREQ)<<4, 0) }

// AppendPingresp appends a PINGRESP.
func AppendPingresp(dst []byte) []byte { return append(dst, byte(PINGRESP)<<4, 0) }
