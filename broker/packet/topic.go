package packet

import (
	"bytes"
	"encoding/binary"
)

// CheckTopicName reports whether t may be published to: 1 to 65,535 bytes of well-formed UTF-8 without U+0000 and
// without wildcards. The error is an *Error with the statement numbers of 5.0.
func CheckTopicName(t []byte) error {
	if err := checkTopicName(t, V5, "MQTT-4.7.0-1"); err != nil {
		return err
	}
	return nil
}

// CheckTopicFilter reports whether f is a topic filter: 1 to 65,535 bytes of well-formed UTF-8 without U+0000,
// wildcards only where they may stand. The $share/ prefix is nothing special here: see [SplitShared]. The error is
// an *Error with the statement numbers of 5.0.
func CheckTopicFilter(f []byte) error {
	if err := checkTopicFilter(f, V5); err != nil {
		return err
	}
	return nil
}

// checkTopicName is CheckTopicName for the numbers of version v; wildcard is the statement that a wildcard breaks.
func checkTopicName(t []byte, v Version, wildcard string) *Error {
	if len(t) > 0 && len(t) <= MaxString && plainName(t) {
		return nil
	}
	if err := checkTopicText(t, v); err != nil {
		return err
	}
	if bytes.IndexByte(t, '+') >= 0 || bytes.IndexByte(t, '#') >= 0 {
		return &Error{ReasonMalformedPacket, wildcard, "a topic name holds a wildcard"}
	}
	return nil
}

// checkTopicFilter is CheckTopicFilter for the numbers of version v.
func checkTopicFilter(f []byte, v Version) *Error {
	if err := checkTopicText(f, v); err != nil {
		return err
	}
	for i, x := range f {
		first := i == 0 || f[i-1] == '/'
		last := i == len(f)-1
		if x == '#' && !(first && last) {
			return &Error{ReasonMalformedPacket, byVersion(v, "MQTT-4.7.1-1", "MQTT-4.7.1-2"),
				"# is not the whole last level of a topic filter"}
		}
		if x == '+' && !(first && (last || f[i+1] == '/')) {
			return &Error{ReasonMalformedPacket, byVersion(v, "MQTT-4.7.1-2", "MQTT-4.7.1-3"),
				"+ is not a whole level of a topic filter"}
		}
	}
	return nil
}

// checkTopicText has the rules that names and filters share.
func checkTopicText(t []byte, v Version) *Error {
	if len(t) == 0 {
		return &Error{ReasonMalformedPacket, "MQTT-4.7.3-1", "an empty topic"}
	}
	if len(t) > MaxString {
		return &Error{ReasonMalformedPacket, "MQTT-4.7.3-3", "a topic longer than 65,535 bytes"}
	}
	return checkText(t, v)
}

// plainName is [plain] that also refuses wildcards.
func plainName(b []byte) bool {
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		plus, hash := x^'+'*lows, x^'#'*lows // 0 in a byte that is the wildcard
		if (x|(x-lows)|(plus-lows)|(hash-lows))&highs != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c-1 >= 0x7F || c == '+' || c == '#' {
			return false
		}
	}
	return true
}

// SplitShared takes a filter that has passed [CheckTopicFilter]. If it begins with $share/ it is a shared
// subscription of 5.0: group and rest are its parts, or err is an *Error. Otherwise shared is false and rest is the
// filter itself. The results alias filter.
func SplitShared(filter []byte) (group, rest []byte, shared bool, err error) {
	group, rest, shared = cutShared(filter)
	if !shared {
		return nil, filter, false, nil
	}
	if fault := checkShared(group, rest); fault != nil {
		return nil, nil, true, fault
	}
	return group, rest, true, nil
}

// cutShared cuts a shared subscription in two without judging the parts.
func cutShared(filter []byte) (group, rest []byte, shared bool) {
	const prefix = "$share/"
	if len(filter) < len(prefix) || string(filter[:len(prefix)]) != prefix {
		return nil, nil, false
	}
	group, rest, _ = bytes.Cut(filter[len(prefix):], []byte{'/'})
	return group, rest, true
}

// checkShared judges the parts of a shared subscription that is a topic filter as a whole.
func checkShared(group, rest []byte) *Error {
	switch {
	case len(group) == 0:
		return &Error{ReasonMalformedPacket, "MQTT-4.8.2-1", "a shared subscription without a share name"}
	case bytes.IndexByte(group, '+') >= 0 || bytes.IndexByte(group, '#') >= 0:
		return &Error{ReasonMalformedPacket, "MQTT-4.8.2-2", "a share name holds a wildcard"}
	case len(rest) == 0:
		return &Error{ReasonMalformedPacket, "MQTT-4.8.2-2", "a shared subscription without a topic filter"}
	}
	return nil
}

// Match reports whether topic is matched by filter, both of which have passed their checks; filter has no $share/
// prefix. A wildcard in the first place does not match a topic that begins with $ [MQTT-4.7.2-1]. Bytes are
// compared as they are: nothing is normalised [MQTT-4.7.3-4].
func Match(filter, topic []byte) bool {
	if len(filter) == 0 || len(topic) == 0 {
		return false
	}
	if topic[0] == '$' && (filter[0] == '#' || filter[0] == '+') {
		return false
	}
	j := 0
	for i := 0; i < len(filter); i++ {
		switch {
		case filter[i] == '#':
			return true
		case filter[i] == '+':
			for j < len(topic) && topic[j] != '/' {
				j++
			}
		case j == len(topic):
			return string(filter[i:]) == "/#" // the parent level belongs to # too
		case filter[i] != topic[j]:
			return false
		default:
			j++
		}
	}
	return j == len(topic)
}
