package packet

// CheckTopicName reports whether t may be published to: 1 to 65,535 bytes of well-formed UTF-8 without U+0000 and
// without wildcards. The error is an *Error.
func CheckTopicName(t []byte) error { panic("BUG: packet: not built") }

// CheckTopicFilter reports whether f is a topic filter: 1 to 65,535 bytes of well-formed UTF-8 without U+0000,
// wildcards only where they may stand. The $share/ prefix is nothing special here: see [SplitShared]. The error is an *Error.
func CheckTopicFilter(f []byte) error { panic("BUG: packet: not built") }

// SplitShared takes a filter that has passed [CheckTopicFilter]. If it begins with $share/ it is a shared
// subscription of 5.0: group and rest are its parts, or err is an *Error. Otherwise shared is false and rest is the
// filter itself. The results alias filter.
func SplitShared(filter []byte) (group, rest []byte, shared bool, err error) {
	panic("BUG: packet: not built")
}

// Match reports whether topic is matched by filter, both of which have passed their checks; filter has no $share/
// prefix. A wildcard in the first place does not match a topic that begins with $ [MQTT-4.7.2-1].
func Match(filter, topic []byte) bool { panic("BUG: packet: not built") }
