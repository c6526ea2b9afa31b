package packet

// Subscription is one entry of SUBSCRIBE.
type Subscription struct {
	Filter                     []byte // with its $share/group/ prefix, if any
	QoS                        byte   // 0, 1 or 2
	NoLocal, RetainAsPublished bool   // 5.0
	RetainHandling             byte   // 5.0: 0, 1 or 2
}

// Subscribe is the SUBSCRIBE packet.
type Subscribe struct {
	PacketID       uint16
	SubscriptionID uint32 // 5.0; 0: none
	UserProperties []UserProperty
	Subscriptions  []Subscription // at least one
}

// Decode reads a SUBSCRIBE; the rules of [Publish.Decode] about memory hold. Every filter has then passed
// [CheckTopicFilter] and, in 5.0, [SplitShared].
func (p *Subscribe) Decode(f Frame, v Version) error { panic("BUG: packet: not built") }

// Append appends the packet as version v has it; what v lacks is left out.
func (p *Subscribe) Append(dst []byte, v Version) []byte { panic("BUG: packet: not built") }

// Suback is the SUBACK packet: one reason per subscription, in order.
type Suback struct {
	PacketID       uint16
	Reasons        []Reason // before 5.0 every failure is sent as 0x80
	ReasonString   []byte   // nil: absent
	UserProperties []UserProperty
}

// Decode reads a SUBACK; the rules of [Publish.Decode] about memory hold.
func (p *Suback) Decode(f Frame, v Version) error { panic("BUG: packet: not built") }

// Append appends the packet as version v has it; what v lacks is left out.
func (p *Suback) Append(dst []byte, v Version) []byte { panic("BUG: packet: not built") }

// Unsubscribe is the UNSUBSCRIBE packet.
type Unsubscribe struct {
	PacketID       uint16
	UserProperties []UserProperty
	Filters        [][]byte // at least one
}

// Decode reads an UNSUBSCRIBE; the rules of [Publish.Decode] about memory hold. Every filter has then passed
// [CheckTopicFilter] and, in 5.0, [SplitShared].
func (p *Unsubscribe) Decode(f Frame, v Version) error { panic("BUG: packet: not built") }

// Append appends the packet as version v has it; what v lacks is left out.
func (p *Unsubscribe) Append(dst []byte, v Version) []byte { panic("BUG: packet: not built") }

// Unsuback is the UNSUBACK packet: in 5.0 one reason per filter, in order.
type Unsuback struct {
	PacketID       uint16
	Reasons        []Reason // empty before 5.0
	ReasonString   []byte   // nil: absent
	UserProperties []UserProperty
}

// Decode reads an UNSUBACK; the rules of [Publish.Decode] about memory hold.
func (p *Unsuback) Decode(f Frame, v Version) error { panic("BUG: packet: not built") }

// Append appends the packet as version v has it; what v lacks is left out.
func (p *Unsuback) Append(dst []byte, v Version) []byte { panic("BUG: packet: not built") }
