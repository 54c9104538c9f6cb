package allocator

import (
	"cmp"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// A scope is the pools that may serve a Service, in order. Services for which they
// are the same have the same scope, so that what one of them costs does not depend on
// how many pools there are.
type scope struct {
	pools []*pool // by place
	// unasked are the pools that the Service could ask for: they admit it, but are
	// not automatic.
	unasked []*pool
	// surveys are what the pools have for the Services of a namespace at a time when
	// version was that of the planner.
	surveys map[string]*survey
	version uint64
}

func newScope(pools, unasked []*pool) *scope {
	return &scope{pools: pools, unasked: unasked, surveys: map[string]*survey{}}
}

// rank returns the place of a pool among those of the scope; len(sc.pools) for others.
func (sc *scope) rank(at *pool) int {
	i, _ := slices.BinarySearchFunc(sc.pools, at, func(a, b *pool) int { return cmp.Compare(a.place, b.place) })
	if i < len(sc.pools) && sc.pools[i] == at {
		return i
	}
	return len(sc.pools)
}

// has reports whether a pool, if any, is among those of the scope.
func (sc *scope) has(at *pool) bool { return at != nil && sc.rank(at) < len(sc.pools) }

// compare orders addresses that could be shared: those of the first of the pools,
// then those of any other that admits the Service, the lowest.
func (sc *scope) compare(a, b *use) int {
	return cmp.Or(cmp.Compare(sc.rank(a.pool), sc.rank(b.pool)), cmp.Compare(a.name, b.name), a.compare(b.addr))
}

// scopeOf returns the pools for a Service: the one that it asks for, else those whose
// serviceAllocation selects it by priority and name, then the unrestricted ones by
// name. The refusal is why it may not have the one it asks for.
func (p *Planner) scopeOf(s *service) (*scope, refusal) {
	if name := s.Request.Pool; name != "" {
		at := p.byName[name]
		switch {
		case at == nil:
			return nil, refusal{PoolNotFound, Detail{Pool: name}}
		case !at.admits(&s.Service):
			return nil, refusal{NotPermitted, Detail{Pool: name}}
		case at.alone == nil:
			at.alone = newScope([]*pool{at}, nil)
		}
		return at.alone, refusal{}
	}
	if s.scope != nil && s.generation == p.generation {
		return s.scope, refusal{}
	}
	// The restricted pools that admit it, one bit each, name its scope.
	name := make([]byte, (len(p.restricted)+len(p.restrictedUnasked)+7)/8)
	admitted := func(i int, at *pool) {
		if at.admits(&s.Service) {
			name[i/8] |= 1 << (i % 8)
		}
	}
	for i, at := range p.restricted {
		admitted(i, at)
	}
	for i, at := range p.restrictedUnasked {
		admitted(len(p.restricted)+i, at)
	}
	s.generation = p.generation
	if s.scope = p.scopes[string(name)]; s.scope == nil {
		pools, unasked := p.public, p.publicUnasked
		if len(name) > 0 {
			pools = append(admitting(p.restricted, &s.Service), p.public...)
			unasked = append(admitting(p.restrictedUnasked, &s.Service), p.publicUnasked...)
		}
		s.scope = newScope(pools, unasked)
		p.scopes[string(name)] = s.scope
	}
	return s.scope, refusal{}
}

func admitting(pools []*pool, s *lb.Service) (all []*pool) {
	for _, at := range pools {
		if at.admits(s) {
			all = append(all, at)
		}
	}
	return all
}

// A survey is what the pools of a scope have for one Service, or for all of a
// namespace that give nothing up and got nothing that counts. Each question is
// answered once.
type survey struct {
	scope    *scope
	reasonOf func(at *pool, f family, n int) Reason
	counted  func(at *pool) int
	noPools  bool
	refusals [2]*refusal
	firsts   [2]*pool
	looked   [2]bool // firsts are known
	pair     *pool
	paired   bool // pair is known
}

// survey returns what the pools have for a Service that has got something already.
func (p *Planner) survey(s *service, w *demand, got [2]grant, sc *scope) *survey {
	plain := true
	for _, c := range s.claims {
		f := c.use.family()
		plain = plain && w.held[f] == c && !w.need[f]
	}
	for _, g := range got {
		plain = plain && (g.pool == nil || g.pool.limit() == 0)
	}
	if plain {
		if sc.version != p.version {
			clear(sc.surveys)
			sc.version = p.version
		}
		if v := sc.surveys[s.Key.Namespace]; v != nil {
			return v
		}
		s, w, got = &service{Service: lb.Service{Key: lb.ServiceKey{Namespace: s.Key.Namespace}}}, &demand{}, [2]grant{}
	}
	v := &survey{
		scope: sc, noPools: len(p.pools) == 0,
		reasonOf: func(at *pool, f family, n int) Reason { return p.reasonOf(s, w, got, at, f, n) },
		counted:  func(at *pool) int { return p.counted(s, w, got, at) },
	}
	if plain {
		sc.surveys[s.Key.Namespace] = v
	}
	return v
}

// first returns the first pool that has an address of the family.
func (v *survey) first(f family) *pool {
	if !v.looked[f] {
		v.looked[f] = true
		for _, at := range v.scope.pools {
			if v.reasonOf(at, f, 1) == Allocated {
				v.firsts[f] = at
				break
			}
		}
	}
	return v.firsts[f]
}

// both returns the first pool that has an address of each family.
func (v *survey) both() *pool {
	if !v.paired {
		v.paired = true
		for _, at := range v.scope.pools {
			if v.reasonOf(at, v4, 2) == Allocated && v.reasonOf(at, v6, 2) == Allocated {
				v.pair = at
				break
			}
		}
	}
	return v.pair
}

// refusal says why the pools have no address of the family. What it says depends on
// the pools and on what the namespace holds, not on who else holds something: no
// Service of one namespace changes what those of another are told.
func (v *survey) refusal(f family) refusal {
	if r := v.refusals[f]; r != nil {
		return *r
	}
	r := refusal{NoPool, Detail{Family: families[f], NoPools: v.noPools}}
	for _, at := range v.scope.pools {
		reason := v.reasonOf(at, f, 1)
		r.Reason = min(r.Reason, max(reason, Exhausted))
	}
	for _, at := range v.scope.pools {
		refusal := PoolRefusal{Pool: at.Name, Reason: max(v.reasonOf(at, f, 1), Exhausted), Total: at.perFamily[f].total, Nodes: at.perFamily[f].nodes}
		switch {
		case r.Reason != FamilyUnavailable && refusal.Reason == FamilyUnavailable:
			continue // there are some that are nearer to it
		case len(r.Pools) == listed:
			r.MorePools++
			continue
		case refusal.Reason == LimitReached:
			refusal.Held, refusal.Limit = v.counted(at), at.limit()
		}
		r.Pools = append(r.Pools, refusal)
	}
	for _, at := range v.scope.unasked {
		switch {
		case len(at.perFamily[f].spans) == 0 || at.drains():
		case len(r.Unasked) == listed:
			r.MoreUnasked++
		default:
			r.Unasked = append(r.Unasked, at.Name)
		}
	}
	v.refusals[f] = &r
	return r
}

// notBoth says why a Service that takes two addresses or none gets none. Which of the
// two is free just now is no answer: it may change with each Service of any namespace.
// So what keeps one family away, even if the other is held, is told first.
func (p *Planner) notBoth(s *service, w *demand) refusal {
	sc, refused := p.scopeOf(s)
	var may [2]*pool
	several := false
	for _, want := range w.families {
		f := index(want)
		if w.asked[f] {
			at := p.owner(w.address[f])
			if _, why := p.fetch(s, w, [2]grant{}, w.address[f]); why.Reason != Allocated && (why.Reason != AddressInUse || why.Holder != (lb.ServiceKey{})) {
				return why
			}
			may[f] = at
			continue
		}
		if refused.Reason != Allocated {
			refused.Family = want
			return refused
		}
		v := p.survey(s, w, [2]grant{}, sc)
		if why := v.refusal(f); why.Reason > Exhausted {
			return why
		}
		for _, at := range sc.pools {
			if v.reasonOf(at, f, 1) <= Exhausted {
				several = several || may[f] != nil
				may[f] = at
			}
		}
	}
	if at := may[v4]; at == may[v6] && !several && p.room(s, w, [2]grant{}, at) < 2 {
		d := Detail{Family: w.families[0]}
		d.Pools = []PoolRefusal{{Pool: at.Name, Reason: LimitReached, Held: p.counted(s, w, [2]grant{}, at), Limit: at.limit()}}
		return refusal{LimitReached, d}
	}
	return refusal{Exhausted, Detail{Both: true, Asked: s.Request.Addresses}}
}
