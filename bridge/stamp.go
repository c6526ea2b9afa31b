package bridge

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"forebay/broker/packet"
	"forebay/storage"
)

// The user properties that a bridge can add; see Config.UserProperties.
const (
	propertyID   = "forebay-id"
	propertyTime = "forebay-time"
)

// stamps adds user properties to what is forwarded. Owned by Run.
type stamps struct {
	id, time bool   // which ones
	queue    string // tells the numbers of this bridge's queues from those of all others; a row of storage.Bridges

	idText, timeText []byte // scratch
}

func stampKey(bridge string) []byte { return append([]byte(bridge), 0, 'u') }

// restore reads the name of the queues. It is empty when there is none yet.
func (s *stamps) restore(log Rows, bridge string) error {
	key := stampKey(bridge)
	err := log.Each(storage.Bridges, func(k, value []byte) error {
		if bytes.Equal(k, key) {
			s.queue = string(value)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("bridge: %s: read the name of its queues: %w", bridge, err)
	}
	return nil
}

// prepare sees to it that the name of the queues is durable, if it is needed.
func (s *stamps) prepare(ctx context.Context, log Log, bridge string) error {
	if !s.id || s.queue != "" {
		return nil
	}
	random := make([]byte, 10)
	rand.Read(random) // never fails
	queue := base32.StdEncoding.EncodeToString(random)
	seq, err := log.Append(&storage.Record{Time: time.Now().UnixMilli(), Changes: []storage.Change{
		{Table: storage.Bridges, Key: stampKey(bridge), Value: []byte(queue)}}})
	if err == nil {
		err = log.WaitSafe(ctx, seq)
	}
	if err != nil {
		return fmt.Errorf("bridge: write the name of the queues: %w", err)
	}
	s.queue = queue
	return nil
}

// on adds the properties to p, which arrived at that time in Unix ms and has number n in its lane. n 0: it has none. They
// are valid until the next call.
func (s *stamps) on(p *packet.Publish, slot byte, n uint64, arrived int64) {
	if s.id && n > 0 {
		s.idText = append(append(s.idText[:0], s.queue...), '-')
		s.idText = append(hex.AppendEncode(s.idText, []byte{slot}), '-')
		s.idText = strconv.AppendUint(s.idText, n, 10)
		p.UserProperties = append(p.UserProperties, packet.UserProperty{Name: []byte(propertyID), Value: s.idText})
	}
	if s.time {
		s.timeText = time.UnixMilli(arrived).UTC().AppendFormat(s.timeText[:0], "2006-01-02T15:04:05.000Z07:00")
		p.UserProperties = append(p.UserProperties, packet.UserProperty{Name: []byte(propertyTime), Value: s.timeText})
	}
}
