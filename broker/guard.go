package broker

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// guard slows those who guess passwords. Every wrong one fills a bucket of its address and user name, and one of its
// address; they drain slowly, and while one is full no password of theirs is looked at. So a device with an old
// password behind the same router as others keeps nobody out but itself. A right password costs nothing.
type guard struct {
	seed maphash.Seed // constant

	mu      sync.Mutex
	buckets map[suspect]bucket // guarded by mu
}

// suspect is whom a bucket is about.
type suspect struct {
	from netip.Addr // of IPv6 the network of 64 bits
	name uint64     // hash of the user name; names are as long as a client likes
	any  bool       // all names of the address
}

// bucket is how full it was at a time, in wrong passwords.
type bucket struct {
	level float64
	at    time.Time
}

const (
	// wrongPerName is how many wrong passwords fill the bucket of a name; it drains in a minute.
	wrongPerName = 10
	// wrongPerAddress is the same for all names of an address together.
	wrongPerAddress = 100
	// drainTimeOfGuard is how long a full bucket takes to drain.
	drainTimeOfGuard = time.Minute
	// maxSuspects bounds the buckets; when there are as many, some are forgotten for each new one.
	maxSuspects = 8192
)

func newGuard() *guard {
	return &guard{seed: maphash.MakeSeed(), buckets: map[suspect]bucket{}}
}

func (g *guard) suspects(from netip.Addr, name string) (named, all suspect) {
	from = networkOf(from)
	return suspect{from: from, name: maphash.String(g.seed, name)}, suspect{from: from, any: true}
}

// networkOf is what limits of an address count: an IPv6 host has 2^64 addresses to choose from.
func networkOf(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

func (s suspect) capacity() float64 {
	if s.any {
		return wrongPerAddress
	}
	return wrongPerName
}

// level returns how full a bucket is now. Called with mu held.
func (g *guard) level(s suspect, now time.Time) float64 {
	b, ok := g.buckets[s]
	if !ok {
		return 0
	}
	return max(0, b.level-now.Sub(b.at).Seconds()*s.capacity()/drainTimeOfGuard.Seconds())
}

// allows reports whether a password is to be looked at. Of a Unix socket, which has no address, all are.
func (g *guard) allows(from netip.Addr, name string, now time.Time) bool {
	if !from.IsValid() {
		return true
	}
	named, all := g.suspects(from, name)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.level(named, now) <= named.capacity()-1 && g.level(all, now) <= all.capacity()-1
}

// wrong counts a wrong password. It reports whether that has filled a bucket.
func (g *guard) wrong(from netip.Addr, name string, now time.Time) (full bool) {
	if !from.IsValid() {
		return false
	}
	named, all := g.suspects(from, name)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range [...]suspect{named, all} {
		level := g.level(s, now) + 1
		if _, known := g.buckets[s]; !known && len(g.buckets) >= maxSuspects {
			g.forget(now)
		}
		g.buckets[s] = bucket{level, now}
		full = full || level > s.capacity()-1
	}
	return full
}

// forget makes room: of some that it meets, which are others each time, those that have drained go, and the emptiest in
// any case. Called with mu held.
func (g *guard) forget(now time.Time) {
	const some = 8
	looked, emptiest, least := 0, suspect{}, 0.0
	for s := range g.buckets {
		level := g.level(s, now)
		if looked++; looked == 1 || level < least {
			emptiest, least = s, level
		}
		if level == 0 {
			delete(g.buckets, s)
		}
		if looked == some {
			break
		}
	}
	delete(g.buckets, emptiest)
}
