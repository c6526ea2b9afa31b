package packet

// Publish is the PUBLISH packet. The slices alias the frame it was decoded from.
type Publish struct {
	Dup, Retain bool
	QoS         byte   // 0, 1 or 2
	PacketID    uint16 // 0 for QoS 0
	Topic       []byte // empty with an alias in 5.0
	Payload     []byte
	PublishProperties
}

// PublishProperties are the properties of an application message; all zero before 5.0.
type PublishProperties struct {
	HasPayloadFormat bool
	PayloadFormat    byte // 0: bytes; 1: UTF-8, which is not checked here
	HasExpiry        bool
	Expiry           uint32 // seconds
	TopicAlias       uint16 // 0: none
	ContentType      []byte // nil: absent
	ResponseTopic    []byte // nil: absent
	HasCorrelation   bool   // Correlation may be empty and yet present
	Correlation      []byte
	SubscriptionIDs  []uint32       // 1 to 268,435,455 each, in order
	UserProperties   []UserProperty // in order
}

// Decode reads a PUBLISH that [Next] has returned. Like every Decode it overwrites every field, reuses the capacity
// of p's slices of slices, aliases f, and allocates nothing once those have grown; memory is at most ten times the packet.
// The error is an *Error; p is then not to be used.
func (p *Publish) Decode(f Frame, v Version) error { panic("BUG: packet: not built") }

// Append appends the packet as version v has it; before 5.0 the properties are left out. Like every Append it does
// not check what the caller put in: text must have passed the rules of topics and UTF-8, a string or binary data
// beyond [MaxString] or a packet beyond [MaxPacket] is the caller's bug and panics.
func (p *Publish) Append(dst []byte, v Version) []byte { panic("BUG: packet: not built") }

// PublishSize returns the exact number of bytes that [Publish.Append] would append, without encoding.
func PublishSize(p *Publish, v Version) int { panic("BUG: packet: not built") }

// PublishIDOffset returns the index into f.Whole of the packet identifier of a PUBLISH with QoS 1 or 2 that
// has been decoded without error.
func PublishIDOffset(f Frame) int { panic("BUG: packet: not built") }
