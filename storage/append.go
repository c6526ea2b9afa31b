package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Append copies r (nothing of r is kept) and never waits for the disk. After a
// crash all of r is there or nothing. Each delivery gets its consumer's next n.
//
// Errors: *FullError (a consumer with policy Reject, or the store, is full:
// nothing was appended), ErrFailed, ErrClosed, or a record beyond the limits
// of this package. A consumer at its limit with DropNewest is left out and
// counted; with DropOldest its oldest unread entries go and are counted.
// Deliveries to a consumer that no longer exists are left out.
func (l *Log) Append(r *Record) (Seq, error) {
	room, err := r.room()
	if err != nil {
		return 0, err
	}
	var few [8]func()
	l.mu.Lock()
	seq, notify, err := l.appendLocked(r, room, few[:0])
	l.mu.Unlock()
	if err != nil {
		return 0, err
	}
	l.kickCommitter()
	for _, fn := range notify {
		fn()
	}
	return seq, nil
}

// room checks the limits of the package and returns how many bytes the frame
// of r takes at most.
func (r *Record) room() (int, error) {
	n := int64(frameHeader + 6*binary.MaxVarintLen64 + len(r.Message))
	if len(r.Message) > MaxMessage {
		return 0, fmt.Errorf("storage: append: message of %d bytes", len(r.Message))
	}
	if len(r.Deliveries) > MaxDeliveries || len(r.Changes) > MaxDeliveries {
		return 0, errors.New("storage: append: too many deliveries or changes")
	}
	for i := range r.Deliveries {
		x := len(r.Deliveries[i].Extra)
		if x > MaxExtra {
			return 0, fmt.Errorf("storage: append: extra of %d bytes", x)
		}
		n += int64(2*binary.MaxVarintLen64 + 4 + x)
	}
	for i := range r.Changes {
		c := &r.Changes[i]
		if len(c.Key) == 0 || len(c.Key) > MaxKey || len(c.Value) > MaxMessage {
			return 0, fmt.Errorf("storage: append: row with a key of %d and a value of %d bytes", len(c.Key), len(c.Value))
		}
		n += int64(2*binary.MaxVarintLen64 + 1 + len(c.Key) + len(c.Value))
	}
	if n > 1<<30 {
		return 0, fmt.Errorf("storage: append: record of %d bytes", n)
	}
	return int(n), nil
}

// appendLocked does the work of Append. notify collects the functions to call
// once l.mu, which is held, is free again.
func (l *Log) appendLocked(r *Record, room int, notify []func()) (Seq, []func(), error) {
	if err := l.usable(); err != nil {
		return 0, nil, err
	}
	count, err := l.admit(r, room)
	if err != nil {
		return 0, nil, err
	}
	if count == 0 && len(r.Changes) == 0 {
		// Nobody wants it: nothing to store, yet its Seq becomes safe in turn.
		l.seq++
		l.lazy.note(l, -1)
		l.urgent = true
		return l.seq, notify, nil
	}
	ch := l.space(room)
	l.seq++
	start, message := len(ch.buf), r.Message
	if count == 0 {
		message = nil
	}
	b := beginFrame(ch.buf, frameMessage)
	b = binary.AppendUvarint(b, uint64(l.seq))
	b = binary.AppendVarint(b, r.Time)
	b = binary.AppendUvarint(b, uint64(len(message)))
	b = binary.AppendUvarint(b, uint64(count))
	lazy := l.cfg.MaxAckDelay > 0 && count > 0 && len(r.Changes) == 0
	for i, c := range l.taken {
		if c == nil {
			continue
		}
		d := &r.Deliveries[i]
		ref := ref{ch: ch, rec: uint32(start), del: uint32(len(b))}
		b = appendDelivery(b, d, c.last+1)
		c.push(ref, int64(len(message)+len(d.Extra)), r.Time)
		if d.Hold {
			c.held = c.last
		}
		lazy = lazy && c.live && !d.Hold
		if c.idle && c.notify != nil {
			c.idle = false
			notify = append(notify, c.notify)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(r.Changes)))
	for i := range r.Changes {
		b = appendChange(b, &r.Changes[i])
		l.setRow(r.Changes[i].Table, r.Changes[i].Key, r.Changes[i].Value)
	}
	ch.buf = endFrame(append(b, message...), start)
	l.grown(ch, len(ch.buf)-start)
	if lazy && (l.waiting < int64(l.tune.tail)/4 || l.release()) {
		l.lazy.note(l, int32(count))
	} else {
		l.lazy.note(l, -1)
		l.urgent = true
	}
	return l.seq, notify, nil
}

// admit decides for each delivery whether its consumer takes it, and leaves the
// cursor or nil in l.taken. When the record is refused nothing has changed;
// otherwise entries have been dropped as the policies say.
func (l *Log) admit(r *Record, room int) (count int, err error) {
	if limit := l.storeFull(r, room); limit != "" {
		l.refused[limit]++
		l.strained(nil, limit, refused, int64(room))
		return 0, &FullError{Limit: limit}
	}
	l.taken = l.taken[:0]
	for i := range r.Deliveries {
		c := l.byID[r.Deliveries[i].Consumer]
		if c != nil && c.limits.WhenFull == Reject {
			size := int64(len(r.Message) + len(r.Deliveries[i].Extra))
			if limit := c.full(size); limit != "" {
				c.countRefusal(limit)
				l.strained(c, limit, refused, size)
				return 0, &FullError{Consumer: c.name, Limit: limit}
			}
		}
		l.taken = append(l.taken, c)
	}
	for i, c := range l.taken {
		if c == nil {
			continue
		}
		size := int64(len(r.Message) + len(r.Deliveries[i].Extra))
		if c.limits.WhenFull != Reject && !c.makeRoom(size) {
			l.strained(c, c.full(size), droppedNewest, size)
			c.countDrop(CauseFull, 1)
			l.taken[i] = nil
			continue
		}
		count++
	}
	return count, nil
}

// The limits of the store in FullError.Limit.
const (
	limitStore   = "store"
	limitWaiting = "waiting"
	limitDisk    = "disk"
)

// storeFull returns which limit of the store keeps r out, or "": it would not
// fit on the disk, or in memory while the disk does not keep up, or the disk has
// no room for the reserve, without which it could be filled so far that the
// store cannot be opened any more. What has no
// deliveries may use half of the reserve.
func (l *Log) storeFull(r *Record, room int) string {
	if l.waiting > maxWaiting {
		return limitWaiting
	}
	if l.unreserved && len(r.Deliveries) > 0 {
		return limitDisk
	}
	limit := l.cfg.MaxSize - reserved
	if len(r.Deliveries) == 0 {
		limit += reserved / 2
	}
	if l.disk()+l.journaledSize+l.waiting+int64(room) > limit {
		return limitStore
	}
	return ""
}

// space returns the open chunk, or a new one, with room bytes free. The caller
// puts the record with the next Seq there.
func (l *Log) space(room int) *chunk {
	if k := len(l.open); k > 0 {
		if ch := l.open[k-1]; cap(ch.buf)-len(ch.buf) >= room {
			return ch
		}
		l.closeChunk()
	}
	if cap(l.slab)-len(l.slab) < room {
		l.slab = make([]byte, 0, max(room, l.tune.slab))
	}
	ch := &chunk{first: l.seq + 1, buf: l.slab}
	l.open = append(l.open, ch)
	return ch
}

// closeChunk ends the open chunk; what it left of its slab is free again.
func (l *Log) closeChunk() {
	ch := l.open[len(l.open)-1]
	l.slab = ch.buf[len(ch.buf):]
	ch.buf = ch.buf[:len(ch.buf):len(ch.buf)]
}

// grown accounts for n more bytes in ch.
func (l *Log) grown(ch *chunk, n int) {
	ch.cost += n
	l.waiting += int64(n)
	l.current.filled += int64(n)
	l.records++
}

// setRow remembers a change for the next checkpoint.
func (l *Log) setRow(t Table, key, value []byte) {
	k := make([]byte, 0, 1+len(key))
	k = append(append(k, byte(t)), key...)
	r := row{deleted: value == nil}
	if value != nil {
		r.value = append([]byte{}, value...)
	}
	l.rows[string(k)] = r
	l.rowBytes += len(key) + len(value) + 64
}
