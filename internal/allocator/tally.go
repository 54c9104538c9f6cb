package allocator

import (
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// Collections as lists: of a port in one four or eight bytes are kept, in a map several times
// as many, and a Service has up to a hundred (docs/design/bounds.md).

// counts has a number for each of a few things that have one other than 0.
type counts[T comparable] []counted[T]

type counted[T comparable] struct {
	of T
	n  int
}

// add adds n to the number of a thing.
func (c *counts[T]) add(of T, n int) {
	i := slices.IndexFunc(*c, func(e counted[T]) bool { return e.of == of })
	if i < 0 {
		*c = append(*c, counted[T]{of, n})
		return
	}
	if (*c)[i].n += n; (*c)[i].n == 0 {
		*c = slices.Delete(*c, i, i+1)
	}
}

// A multiset is ports, sorted, each as often as it was added.
type multiset []lb.Port

// of returns how often a port is in it.
func (m multiset) of(p lb.Port) (n int) {
	for i, _ := slices.BinarySearchFunc(m, p, lb.Port.Compare); i+n < len(m) && m[i+n] == p; {
		n++
	}
	return n
}

// add adds ports. A multiset is not nil afterwards.
func (m *multiset) add(ports []lb.Port) {
	sum := make(multiset, 0, len(*m)+len(ports))
	sum = append(append(sum, *m...), ports...)
	slices.SortFunc(sum, lb.Port.Compare)
	*m = sum
}

// remove takes out ports that were added.
func (m *multiset) remove(ports []lb.Port) {
	for _, p := range ports {
		if i, found := slices.BinarySearchFunc(*m, p, lb.Port.Compare); found {
			*m = slices.Delete(*m, i, i+1)
		}
	}
}

// A tally has a number for each port that has one other than 0, sorted by port.
type tally []tallied

type tallied struct {
	lb.Port
	n int32
}

func (t tally) find(p lb.Port) (int, bool) {
	return slices.BinarySearchFunc(t, p, func(e tallied, p lb.Port) int { return e.Compare(p) })
}

// of returns the number of a port.
func (t tally) of(p lb.Port) int {
	if i, found := t.find(p); found {
		return int(t[i].n)
	}
	return 0
}

// set gives a port a number.
func (t *tally) set(p lb.Port, n int) {
	switch i, found := t.find(p); {
	case found && n == 0:
		*t = slices.Delete(*t, i, i+1)
	case found:
		(*t)[i].n = int32(n)
	case n != 0:
		*t = slices.Insert(*t, i, tallied{p, int32(n)})
	}
}

// update gives each port that has a number the one that next returns.
func (t *tally) update(next func(lb.Port, int) int) {
	kept := (*t)[:0]
	for _, e := range *t {
		if e.n = int32(next(e.Port, int(e.n))); e.n != 0 {
			kept = append(kept, e)
		}
	}
	*t = kept
}
