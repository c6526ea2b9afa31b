package storage

import (
	"cmp"
	"slices"
)

// span is the closed interval first..last.
type span struct{ first, last uint64 }

// spans is a set of numbers as ascending intervals that neither overlap nor
// touch. Acknowledgements come almost in order, so it has one or two elements
// nearly always.
type spans []span

// find returns the index of the first span whose last is at least n.
func (s spans) find(n uint64) int {
	i, _ := slices.BinarySearchFunc(s, n, func(e span, n uint64) int { return cmp.Compare(e.last, n) })
	return i
}

func (s spans) has(n uint64) bool {
	if len(s) == 0 {
		return false
	}
	i := s.find(n)
	return i < len(s) && s[i].first <= n
}

// next returns the lowest number that is at least n and not in the set.
func (s spans) next(n uint64) uint64 {
	if len(s) == 0 {
		return n
	}
	if i := s.find(n); i < len(s) && s[i].first <= n {
		return s[i].last + 1
	}
	return n
}

// add puts first..last in.
func (s *spans) add(first, last uint64) {
	v := *s
	if k := len(v); k > 0 && v[k-1].last < first { // in order: the common case
		if v[k-1].last+1 == first {
			v[k-1].last = last
			return
		}
		*s = append(v, span{first, last})
		return
	}
	i := 0
	if first > 0 {
		i = v.find(first - 1) // touching counts
	}
	j := i
	for j < len(v) && (v[j].first <= last || v[j].first == last+1) {
		first, last = min(first, v[j].first), max(last, v[j].last)
		j++
	}
	*s = slices.Replace(v, i, j, span{first, last})
}

// remove takes n out.
func (s *spans) remove(n uint64) {
	v := *s
	i := v.find(n)
	if i == len(v) || v[i].first > n {
		return
	}
	switch e := v[i]; {
	case e.first == e.last:
		*s = slices.Delete(v, i, i+1)
	case e.first == n:
		v[i].first++
	case e.last == n:
		v[i].last--
	default:
		v[i].last = n - 1
		*s = slices.Insert(v, i+1, span{n + 1, e.last})
	}
}

// count returns how many numbers of first..last are in the set.
func (s spans) count(first, last uint64) uint64 {
	k := uint64(0)
	for i := s.find(first); i < len(s) && s[i].first <= last; i++ {
		k += min(last, s[i].last) - max(first, s[i].first) + 1
	}
	return k
}

// total returns how many numbers are in the set.
func (s spans) total() uint64 { return s.count(0, 1<<64-1) }

// valid tells whether the order that the type promises holds.
func (s spans) valid() bool {
	for i, e := range s {
		if e.first == 0 || e.first > e.last || e.last == 1<<64-1 || i > 0 && e.first <= s[i-1].last+1 {
			return false
		}
	}
	return true
}
