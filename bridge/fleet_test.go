package bridge

import (
	"math/rand/v2"
	"testing"
	"time"
)

// These tests let 100,000 gateways return to one upstream, in virtual time and with the bridge's own backoff. The
// arithmetic is in doc.go.

const fleetSize = 100_000

// fleet is what the gateways have in common.
type fleet struct {
	reconnect ReconnectConfig
	random    *rand.Rand
	// serve is the upstream at a time: whether it takes a connection, and for how long; always if hold is 0.
	serve func(at time.Duration) (taken bool, hold time.Duration)
}

// attempts are counted per second of virtual time.
type attempts struct {
	perSecond []int
	last      time.Duration // when the last gateway was taken for good
}

func (a *attempts) count(at time.Duration) {
	second := int(at / time.Second)
	for len(a.perSecond) <= second {
		a.perSecond = append(a.perSecond, 0)
	}
	a.perSecond[second]++
}

// peak returns the most attempts in a second from a time on.
func (a *attempts) peak(from time.Duration) int {
	most := 0
	for i := int(from / time.Second); i < len(a.perSecond); i++ {
		most = max(most, a.perSecond[i])
	}
	return most
}

// run has all of the fleet lose a stable connection at 0, and follows it until all are back or the time is over.
func (f *fleet) run(until time.Duration) *attempts {
	var a attempts
	gateways := make([]backoff, fleetSize)
	at := make([]time.Duration, fleetSize) // of the next attempt of each
	due := make([][]int, until/time.Second)
	plan := func(i int) {
		if second := int(at[i] / time.Second); second < len(due) {
			due[second] = append(due[second], i)
		}
	}
	for i := range gateways {
		gateways[i] = backoff{min: f.reconnect.Min, max: f.reconnect.Max, random: f.random.Float64}
		at[i] = gateways[i].next()
		plan(i)
	}
	for second := range due {
		for k := 0; k < len(due[second]); k++ { // it may grow meanwhile
			i := due[second][k]
			a.count(at[i])
			taken, hold := f.serve(at[i])
			if taken && hold == 0 {
				a.last = at[i]
				continue
			}
			if taken {
				gateways[i].held(hold, defaultPatience().stable)
			}
			at[i] += hold + gateways[i].next()
			plan(i)
		}
		due[second] = nil
	}
	return &a
}

// newFleet has the default waits, and a seed of its own, so that each run is the same.
func newFleet(serve func(at time.Duration) (bool, time.Duration)) *fleet {
	cfg := Config{}
	cfg.SetDefaults()
	return &fleet{reconnect: cfg.Reconnect, random: rand.New(rand.NewPCG(1, 2)), serve: serve}
}

// atMost checks a peak against what arithmetic says, with room for chance: four times the root of it.
func atMost(t *testing.T, what string, got, want int) {
	t.Helper()
	room := 0
	for room*room < 16*want {
		room++
	}
	t.Logf("%s: %d attempts in a second at the peak, %d by arithmetic", what, got, want)
	if got > want+room {
		t.Errorf("%s: %d attempts in a second, want at most %d + %d", what, got, want, room)
	}
}

func TestFleetReturnsAfterALongOutage(t *testing.T) {
	const back = 10 * time.Minute
	f := newFleet(func(at time.Duration) (bool, time.Duration) { return at >= back, 0 })
	a := f.run(time.Hour)
	atMost(t, "while it is away", a.peak(5*time.Minute), 2*fleetSize/60)
	atMost(t, "when it is back", a.peak(back), 2*fleetSize/60)
	if a.last > back+time.Minute {
		t.Errorf("the last one is back after %s", a.last-back)
	}
}

func TestFleetThatIsCutForAMoment(t *testing.T) {
	for min, want := range map[time.Duration]int{time.Second: fleetSize, 30 * time.Second: fleetSize / 30} {
		f := newFleet(func(time.Duration) (bool, time.Duration) { return true, 0 })
		f.reconnect.Min = min
		atMost(t, "reconnect.min of "+min.String(), f.run(time.Hour).peak(0), want)
	}
}

// TestFleetAndAnUpstreamThatDropsEverybody: it takes connections and breaks under them, again and again.
func TestFleetAndAnUpstreamThatDropsEverybody(t *testing.T) {
	f := newFleet(func(time.Duration) (bool, time.Duration) { return true, 5 * time.Second })
	atMost(t, "after four minutes", f.run(6*time.Minute).peak(4*time.Minute), fleetSize/35) // 30 s on average, and 5 s of hope
}

// TestFleetAndAnUpstreamThatTakesAThousandASecond: it refuses the others, as with "Quota exceeded", and gets all of
// them in the end, at nearly its own rate.
func TestFleetAndAnUpstreamThatTakesAThousandASecond(t *testing.T) {
	second, room := -1, 0
	const back = 2 * time.Minute
	f := newFleet(func(at time.Duration) (bool, time.Duration) {
		if s := int(at / time.Second); s != second {
			second, room = s, 1000
		}
		room--
		return at >= back && room >= 0, 0
	})
	a := f.run(time.Hour)
	atMost(t, "refused or not", a.peak(back), 2*fleetSize/60)
	t.Logf("all are back after %s", a.last-back)
	if took := a.last - back; took > 5*time.Minute || a.last == 0 {
		t.Errorf("all are back after %s, want 100 s and a little", took)
	}
}
