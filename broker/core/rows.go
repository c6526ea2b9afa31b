package core

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"forebay/broker/packet"
)

// The rows of the state tables. Numbers are big-endian; each value begins with the version of its form.
//
//	sessions       version flags(1: connected, 2: will, 4: durable) expiry:4 quiet:4 (s) left:8 (Unix ms)
//	               username-length:2 username [will-delay:4 will: a 5.0 PUBLISH]
//	subscriptions  version options(QoS, 4: no local, 8: retain as published, 0x30: retain handling) identifier:4
//	retained       version QoS arrival:8 (Unix ms) publisher-length:2 publisher message: a 5.0 PUBLISH
//	inbound        version
const rowVersion = 1

const (
	rowConnected byte = 1 << iota
	rowWill
	rowDurable
)

const (
	rowNoLocal           byte = 0x04
	rowRetainAsPublished byte = 0x08
)

var errRow = errors.New("core: a row of the state tables cannot be read")

// rowKey is client identifier, 0, rest. Strings of MQTT hold no U+0000.
func rowKey(clientID, rest string) []byte {
	key := make([]byte, 0, len(clientID)+1+len(rest))
	key = append(key, clientID...)
	key = append(key, 0)
	return append(key, rest...)
}

func inboundKey(clientID string, id uint16) []byte {
	return rowKey(clientID, string([]byte{byte(id >> 8), byte(id)}))
}

func (c *Core) sessionRow(s *session, connected bool) Change {
	var flags byte
	left := c.wall
	if connected {
		flags |= rowConnected
	} else {
		left -= (c.clock - s.left).Milliseconds()
	}
	if s.will != nil {
		flags |= rowWill
	}
	if s.queue != nil {
		flags |= rowDurable
	}
	b := []byte{rowVersion, flags}
	b = binary.BigEndian.AppendUint32(b, s.expiry)
	b = binary.BigEndian.AppendUint32(b, uint32(s.quiet/time.Second))
	b = binary.BigEndian.AppendUint64(b, uint64(left))
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.username)))
	b = append(b, s.username...)
	if s.will != nil {
		b = binary.BigEndian.AppendUint32(b, s.will.delay)
		b = append(b, s.will.body...)
	}
	return Change{TableSessions, []byte(s.clientID), b}
}

func (c *Core) restoreSession(key string, b []byte) error {
	const fixed = 20
	if len(b) < fixed || b[0] != rowVersion || len(b) < fixed+int(binary.BigEndian.Uint16(b[18:])) {
		return errRow
	}
	s := c.restored(key)
	s.expiry = binary.BigEndian.Uint32(b[2:])
	s.quiet = time.Duration(binary.BigEndian.Uint32(b[6:])) * time.Second
	left := int64(binary.BigEndian.Uint64(b[10:]))
	rest := b[fixed:]
	n := int(binary.BigEndian.Uint16(b[18:]))
	s.username, rest = string(rest[:n]), rest[n:]
	flags := b[1]
	s.durable = flags&rowDurable != 0
	s.wasConnected = flags&rowConnected != 0
	if !s.wasConnected {
		// Behind a clock that has been set back the session has only just been left.
		s.away = time.Duration(max(0, c.wall-left)) * time.Millisecond
	}
	if flags&rowWill != 0 {
		if len(rest) < 4 {
			return errRow
		}
		w := &will{delay: binary.BigEndian.Uint32(rest), body: append([]byte(nil), rest[4:]...)}
		if err := decodeMessage(&packet.Publish{}, w.body); err != nil {
			return fmt.Errorf("%w: %w", errRow, err)
		}
		s.will = w
	}
	s.row = true
	return nil
}

func subscriptionRow(clientID string, sub *subscription) Change {
	options := sub.qos | sub.retainHandling<<4
	if sub.noLocal {
		options |= rowNoLocal
	}
	if sub.retainAsPublished {
		options |= rowRetainAsPublished
	}
	b := binary.BigEndian.AppendUint32([]byte{rowVersion, options}, sub.id)
	return Change{TableSubscriptions, rowKey(clientID, sub.filter), b}
}

func (c *Core) restoreSubscription(key string, b []byte) error {
	clientID, filter, ok := strings.Cut(key, "\x00")
	if !ok || len(b) != 6 || b[0] != rowVersion || packet.CheckTopicFilter([]byte(filter)) != nil || b[1]&3 == 3 {
		return errRow
	}
	if _, _, _, err := packet.SplitShared([]byte(filter)); err != nil {
		return errRow
	}
	s := c.restored(clientID)
	s.subscriptions = append(s.subscriptions, &subscription{
		filter: filter, qos: b[1] & 3, id: binary.BigEndian.Uint32(b[2:]),
		noLocal: b[1]&rowNoLocal != 0, retainAsPublished: b[1]&rowRetainAsPublished != 0, retainHandling: b[1] >> 4 & 3,
	})
	return nil
}

func retainedRow(r *retained) Change {
	b := make([]byte, 0, retainedFixed+len(r.publisher)+len(r.body))
	b = append(b, rowVersion, r.qos)
	b = binary.BigEndian.AppendUint64(b, uint64(r.time))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.publisher)))
	b = append(b, r.publisher...)
	return Change{TableRetained, []byte(r.topic), append(b, r.body...)}
}

const retainedFixed = 12

func (c *Core) restoreRetained(key string, b []byte) error {
	if len(b) < retainedFixed || b[0] != rowVersion || b[1] > 2 {
		return errRow
	}
	n := int(binary.BigEndian.Uint16(b[10:]))
	if len(b) < retainedFixed+n {
		return errRow
	}
	r := &retained{topic: key, qos: b[1], time: int64(binary.BigEndian.Uint64(b[2:]))}
	r.publisher = string(b[retainedFixed : retainedFixed+n])
	r.body = append([]byte(nil), b[retainedFixed+n:]...)
	p := packet.Publish{}
	if err := decodeMessage(&p, r.body); err != nil || string(p.Topic) != key {
		return errRow
	}
	r.expires = expiresAt(&p, r.time)
	c.retained.put(r)
	return nil
}

func (c *Core) restoreInbound(key string, b []byte) error {
	clientID, id, ok := strings.Cut(key, "\x00")
	if !ok || len(id) != 2 || len(b) != 1 || b[0] != rowVersion {
		return errRow
	}
	s := c.restored(clientID)
	s.inbound = append(s.inbound, uint16(id[0])<<8|uint16(id[1]))
	return nil
}
