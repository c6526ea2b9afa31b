package bridge

import (
	"fmt"
	"math/rand/v2"
	"time"

	"forebay/storage"
)

// Change gives the bridge another configuration of the same name, on which SetDefaults has been called. Its queue and
// all that is known of its session stay: what waits goes the new way. Call it when Run has returned, or before Run,
// and Run again afterwards; nothing else of the bridge may be called meanwhile. When cfg is not valid the bridge stays as
// it was; any other error is that of the broker or the store, and the filters are those of before.
func (b *Bridge) Change(cfg Config) error {
	if cfg.Name != b.cfg.Name {
		panic("BUG: bridge: Change to another name")
	}
	// A bridge of its own shows whether all is well. It is never run; the store is not asked again.
	next, err := New(cfg, Environment{Site: b.env.Site, Broker: b.env.Broker, Log: forgetful{b.env.Log}, Logger: b.env.Logger})
	if err != nil {
		return err
	}
	b.cfg, b.clientID, b.username, b.addresses, b.up = cfg, next.clientID, next.username, next.addresses, next.up
	b.backoff = backoff{min: cfg.Reconnect.Min, max: cfg.Reconnect.Max, random: rand.Float64}
	b.dial, b.proxy, b.resource = next.dial, next.proxy, next.resource
	b.patience.connect, b.patience.ack = cfg.ConnectTimeout, cfg.AckTimeout
	b.watch = watch{files: cfg.files()}
	b.dialects, b.reported = map[string]dialect{}, map[string]bool{}
	b.first, b.suspect, b.sentOn, b.proven = 0, false, nil, nil
	b.down.adopt(next.down)
	// A question to the store may have ended with Run: it is asked again.
	promises := b.safety.promises
	b.safety = newSafety(b.env.Log)
	b.down.safety = b.safety
	for _, p := range promises {
		b.safety.add(p)
	}
	// The filters and the limits are new, the account of what may be in flight goes on.
	forward, cursor := b.forward, b.cursor.Load()
	b.cursor.Store(nil)
	err = b.Attach()
	if forward != nil {
		forward.rules, forward.safety = b.up, b.safety
		b.forward = forward
		b.cursor.Store(cursor) // the same one, see storage.Log.OpenConsumer
	}
	return err
}

// adopt takes the rules and the client identifier of a bridge that is to replace this one. With another client
// identifier the upstream has another session, which nothing is known of.
func (d *downlink) adopt(next *downlink) {
	d.known = d.known && d.clientID == next.clientID
	d.clientID, d.rules, d.hops, d.subscribed = next.clientID, next.rules, next.hops, false
}

// forgetful is a store without anything in its tables.
type forgetful struct{ Log }

func (forgetful) Each(storage.Table, func(key, value []byte) error) error { return nil }

// Afresh returns a Log for a bridge of which Forget has removed what the store knew: rows that Each of a Log tells of
// are as old as its opening.
func Afresh(log Log) Log { return forgetful{log} }

// Forget removes what the store knows about the session of a bridge that is not in use: rows that were there when the
// log was opened, and those that removed, which may be nil, has left since. What waits for the bridge is the consumer's
// and not touched. It is durable when Safe reaches the Seq.
func Forget(name string, removed *Bridge, log Log) (storage.Seq, error) {
	r := storage.Record{Time: time.Now().UnixMilli()}
	d := &downlink{name: name}
	remove := func(key []byte) {
		r.Changes = append(r.Changes, storage.Change{Table: storage.Bridges, Key: key})
	}
	remove(d.sessionKey())
	prefix := name + "\x00i"
	err := log.Each(storage.Bridges, func(key, _ []byte) error {
		if text := string(key); len(text) == len(prefix)+2 && text[:len(prefix)] == prefix {
			remove([]byte(text))
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("bridge: forget %q: %w", name, err)
	}
	if removed != nil {
		for id := range removed.down.inbound {
			remove(d.inboundKey(id))
		}
	}
	seq, err := log.Append(&r)
	if err != nil {
		return 0, fmt.Errorf("bridge: forget %q: %w", name, err)
	}
	return seq, nil
}
