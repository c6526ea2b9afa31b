package core

import (
	"iter"
	"maps"
	"slices"
)

// subscriptions are those of one session, by filter. Most sessions have one or two, for which a map would be larger
// than all else.
type subscriptions struct {
	few  []*subscription          // as long as many is nil
	many map[string]*subscription // by filter
}

// fewSubscriptions is how many are looked through one by one.
const fewSubscriptions = 8

func (t *subscriptions) len() int { return len(t.few) + len(t.many) }

// find returns the subscription with a filter, nil if there is none.
func (t *subscriptions) find(filter []byte) *subscription {
	for _, sub := range t.few {
		if sub.filter == string(filter) {
			return sub
		}
	}
	return t.many[string(filter)]
}

// add puts in a subscription of which there is none with that filter.
func (t *subscriptions) add(sub *subscription) {
	if t.many == nil && len(t.few) < fewSubscriptions {
		t.few = append(t.few, sub)
		return
	}
	if t.many == nil {
		t.many = map[string]*subscription{}
		for _, old := range t.few {
			t.many[old.filter] = old
		}
		t.few = nil
	}
	t.many[sub.filter] = sub
}

// remove takes out a subscription; it need not be there.
func (t *subscriptions) remove(sub *subscription) {
	if i := slices.Index(t.few, sub); i >= 0 {
		t.few = slices.Delete(t.few, i, i+1)
	}
	delete(t.many, sub.filter)
}

// all goes through them in any order. None may be added or removed meanwhile.
func (t *subscriptions) all() iter.Seq[*subscription] {
	if t.many != nil {
		return maps.Values(t.many)
	}
	return slices.Values(t.few)
}
