package bridge

import (
	"bytes"
	"fmt"
	"time"

	"forebay/storage"
)

// Successor returns a bridge of the same name with another configuration, on which SetDefaults has been called. The
// queue and all that is known of the session go over to it: what waits goes the new way, and what may be in flight is
// accounted for. Call it when Run of b has returned, or before Run. After an error, which is that of a configuration
// that is not valid, b is as it was; else nothing but Status of b may be called any more. Attach and Run are to be
// called on the successor as after New.
func (b *Bridge) Successor(cfg Config) (*Bridge, error) {
	if cfg.Name != b.cfg.Name {
		panic("BUG: bridge: a successor of another name")
	}
	// What the tables of the store say was true when it was opened; b knows what is true now.
	next, err := New(cfg, Environment{Site: b.env.Site, Broker: b.env.Broker, Log: forgetful{b.env.Log}, Logger: b.env.Logger})
	if err != nil {
		return nil, err
	}
	next.env.Log = b.env.Log
	next.safety = newSafety(b.env.Log)
	for _, p := range b.safety.promises { // what was asked of the store may have ended with Run: it is asked again
		next.safety.add(p)
	}
	next.accounts, next.settled, next.drops = b.accounts, b.settled, b.drops
	next.live.offline, next.live.overflow = b.live.dropped()
	// The broker may still answer for messages that came down: it tells the downlink that offered them, which goes over.
	b.down.adopt(next.down)
	b.down.safety = next.safety
	next.down = b.down
	next.letters, next.ledger, next.stamps.queue = b.letters, b.ledger, b.stamps.queue
	next.predecessor = b.forward
	if b.forward == nil {
		next.predecessor = b.predecessor
	}
	return next, nil
}

// adopt takes the rules and the client identifier of what would have been another downlink. With another client
// identifier the upstream has another session, which nothing is known of.
func (d *downlink) adopt(next *downlink) {
	d.known = d.known && d.clientID == next.clientID
	d.clientID, d.rules, d.hops, d.subscribed = next.clientID, next.rules, next.hops, false
}

// inherit goes on with the account of what may be in flight.
func (f *forwarder) inherit(old *forwarder) {
	f.received, f.resent, f.lateUntil, f.late = old.received, old.resent, old.lateUntil, old.late
	for _, a := range f.lanes {
		for _, was := range old.lanes {
			if was.cursor == a.cursor { // see storage.Log.OpenConsumer
				a.sentHigh = was.sentHigh
			}
		}
	}
}

// forgetful is a store without anything in its tables.
type forgetful struct{ Log }

func (forgetful) Each(storage.Table, func(key, value []byte) error) error { return nil }

// Afresh returns a Log for a bridge of which Forget has removed what the store knew: rows that Each of a Log tells of
// are as old as its opening.
func Afresh(log Log) Log { return forgetful{log} }

// Forget removes what the store knows about a bridge that is not in use: rows that were there when the log was opened,
// and those that removed, which may be nil, has left since. What waits for the bridge is the consumer's
// and not touched. It is durable when Safe reaches the Seq.
func Forget(name string, removed *Bridge, log Log) (storage.Seq, error) {
	r := storage.Record{Time: time.Now().UnixMilli()}
	d := &downlink{name: name}
	remove := func(key []byte) {
		r.Changes = append(r.Changes, storage.Change{Table: storage.Bridges, Key: key})
	}
	remove(d.sessionKey())
	remove(stampKey(name))
	prefix := append([]byte(name), 0)
	err := log.Each(storage.Bridges, func(key, _ []byte) error {
		if bytes.HasPrefix(key, prefix) {
			remove(bytes.Clone(key))
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
		removed.letters.eachKey(remove)
		removed.ledger.eachKey(remove)
	}
	seq, err := log.Append(&r)
	if err != nil {
		return 0, fmt.Errorf("bridge: forget %q: %w", name, err)
	}
	return seq, nil
}
