// Package quarantine finds out over which Services a decision panics, and keeps them
// from it.
//
// A panic in a decision is an error of ours that some object brings to light. All
// decide on the same objects, so whatever is started again panics again: nothing would
// be announced or assigned any more because of one Service. [Search] names it, and a
// [Ward] has the others served meanwhile, and the Service itself as it was before, if
// that was well.
package quarantine

import (
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// Search returns the Services, as indexes in their order, without which a decision
// survives. It tries a decision about ever more of them, and blames the one that
// comes last where it begins to panic: of several that panic only together, that is the last. It costs about log2(len(services)) decisions for each that it finds.
func Search(services []lb.Service, decide func([]lb.Service)) (found []int) {
	rest := make([]int, len(services))
	for i := range rest {
		rest[i] = i
	}
	some := func(n int) []lb.Service {
		out := make([]lb.Service, n)
		for i, at := range rest[:n] {
			out[i] = services[at]
		}
		return out
	}
	for !survives(some(len(rest)), decide) {
		// The first n survive, the first m do not.
		n, m := 0, len(rest)
		if m == 0 || !survives(nil, decide) {
			return found // it is none of them
		}
		for m-n > 1 {
			if middle := (n + m) / 2; survives(some(middle), decide) {
				n = middle
			} else {
				m = middle
			}
		}
		found = append(found, rest[n])
		rest = slices.Delete(rest, n, m)
	}
	slices.Sort(found)
	return found
}

func survives(services []lb.Service, decide func([]lb.Service)) (well bool) {
	defer func() { _ = recover() }()
	decide(services)
	return true
}

// A Ward has the Services that are set aside.
type Ward struct{ patients map[lb.ServiceKey]patient }

// A patient is a Service that is set aside.
type patient struct {
	edition uint64
	// before is what it was when all was well; nil where it is to be left out.
	before *lb.Service
}

// Treat returns the Services to decide about: those that are set aside as they were
// before, or not at all. One that has changed since it was set aside, in whatever way,
// is not set aside any more.
func (w *Ward) Treat(services []lb.Service) []lb.Service {
	if len(w.patients) == 0 {
		return services
	}
	treated := make([]lb.Service, 0, len(services))
	still := map[lb.ServiceKey]patient{}
	for _, s := range services {
		p, is := w.patients[s.Key]
		switch {
		case !is || p.edition != edition(s):
			treated = append(treated, s)
			continue
		case p.before != nil:
			treated = append(treated, *p.before)
		}
		still[s.Key] = p
	}
	w.patients = still
	return treated
}

// Admit sets aside the Services over which a decision panics, and returns them. Before
// are the Services of the last decision that did not.
func (w *Ward) Admit(services, before []lb.Service, decide func([]lb.Service)) (admitted []lb.ServiceKey) {
	treated := w.Treat(services)
	for _, i := range Search(treated, decide) {
		key := treated[i].Key
		admitted = append(admitted, key)
		if w.patients == nil {
			w.patients = map[lb.ServiceKey]patient{}
		}
		is := slices.IndexFunc(services, func(s lb.Service) bool { return s.Key == key })
		w.patients[key] = patient{edition: edition(services[is])}
	}
	for _, key := range admitted {
		was := slices.IndexFunc(before, func(s lb.Service) bool { return s.Key == key })
		if was < 0 {
			continue
		}
		without := w.patients[key]
		w.patients[key] = patient{without.edition, &before[was]}
		if !survives(w.Treat(services), decide) {
			w.patients[key] = without
		}
	}
	return admitted
}

// Names returns the Services that are set aside, in their order.
func (w *Ward) Names() []lb.ServiceKey {
	names := make([]lb.ServiceKey, 0, len(w.patients))
	for key := range w.patients {
		names = append(names, key)
	}
	slices.SortFunc(names, lb.ServiceKey.Compare)
	return names
}

// edition tells one version of a Service from another. What the controller tells of it
// makes no difference.
func edition(s lb.Service) uint64 {
	s.Announced = false
	h := fnv.New64a()
	fmt.Fprintf(h, "%+v", s)
	return h.Sum64()
}
