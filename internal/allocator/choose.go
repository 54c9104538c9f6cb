package allocator

import (
	"cmp"
	"math"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// A wish is what a Service holds and what it still needs.
type wish struct {
	families []lb.Family // primary first
	held     [2]*claim
	need     [2]bool
	asked    [2]bool // for an address
	address  [2]addr
	// anew is set while a reallocation is due, unmet when it is not to be had.
	anew  bool
	unmet refusal
}

// A grant is an address found.
type grant struct {
	addr
	pool *pool // nil: nothing found
}

// A refusal is why nothing was found.
type refusal struct {
	Reason
	Detail
}

// A scope is the pools that serve a Service unasked, in order.
type scope struct {
	generation int
	pools      []*pool
	// closed do not admit the Service; unasked do, but are not automatic.
	told            bool
	closed, unasked [2][]*pool
}

func byPriority(a, b *pool) int { return cmp.Compare(a.priority(), b.priority()) }

// scopeOf returns the pools for a Service: those whose serviceAllocation
// selects it by priority and name, then the unrestricted ones by name.
func (p *Planner) scopeOf(s *service) *scope {
	if s.scope != nil && s.scope.generation == p.generation {
		return s.scope
	}
	pools := p.public
	var selecting []*pool
	for _, at := range p.restricted {
		if at.admits(&s.Service) {
			selecting = append(selecting, at)
		}
	}
	if selecting != nil {
		pools = append(selecting, p.public...)
	}
	s.scope = &scope{generation: p.generation, pools: pools}
	return s.scope
}

// tell finds out which pools would serve the Service if its owner asked, or if
// their serviceAllocation were changed.
func (p *Planner) tell(s *service, sc *scope) {
	if sc.told {
		return
	}
	sc.told = true
	for _, at := range p.pools {
		for f := range at.half {
			switch {
			case len(at.half[f].spans) == 0 || at.drains():
			case !at.admits(&s.Service):
				sc.closed[f] = append(sc.closed[f], at)
			case !at.AutoAssign:
				sc.unasked[f] = append(sc.unasked[f], at)
			}
		}
	}
}

// examine decides for a Service that needs no address; ok is false for one that
// does.
func (p *Planner) examine(s *service) (d Decision, ok bool) {
	w, why := p.wish(s)
	if why.Reason != Allocated || w.need == [2]bool{} {
		return p.conclude(s, w, [2]grant{}, why), true
	}
	return Decision{}, false
}

// wish says what a Service needs, or why that is not the question.
func (p *Planner) wish(s *service) (w wish, why refusal) {
	for _, a := range s.Request.Addresses {
		f := number(a).family()
		w.asked[f], w.address[f] = true, number(a)
	}
	for _, c := range s.claims {
		f := c.use.family()
		suits := w.held[f] == nil || c.promised && w.held[f].use.addr != w.address[f] || c.use.addr == w.address[f]
		if c.holds() && suits {
			w.held[f] = c
		}
	}
	if w.families = wanted(&s.Service); w.families == nil {
		for _, a := range s.Assigned {
			if f := lb.FamilyOf(a); !slices.Contains(w.families, f) {
				w.families = append(w.families, f)
			}
		}
	}
	switch {
	case s.Released, s.Foreign:
		why.Reason = NotOurs
	case s.Headless:
		why.Reason = Headless
	case wanted(&s.Service) == nil:
		why.Reason = WaitingForClusterIP
	case len(s.Request.Problems) > 0:
		why = refusal{BadRequest, Detail{Problems: s.Request.Problems}}
	}
	for _, a := range s.Request.Addresses {
		f := number(a).family()
		if why.Reason == Allocated && !wantsFamily(&s.Service, f) {
			why = refusal{BadRequest, Detail{Address: a, Family: families[f]}}
		}
	}
	if why.Reason != Allocated {
		return w, why
	}
	token := s.Request.Reallocate
	w.anew = token != "" && token != s.recorded() && w.held != [2]*claim{}
	p.needs(s, &w)
	return w, why
}

// needs says of each family whether an address must be found.
func (p *Planner) needs(s *service, w *wish) {
	for _, want := range w.families {
		f := index(want)
		switch c := w.held[f]; {
		case c == nil:
			w.need[f] = true
		case w.asked[f]:
			w.need[f] = c.use.addr != w.address[f]
		case s.Request.Pool != "" && c.use.name != s.Request.Pool:
			w.need[f] = true
		default:
			w.need[f] = w.anew || c.reassigns()
		}
	}
}

// reassigns reports whether the pool wants the address moved off.
func (c *claim) reassigns() bool {
	return c.use.orphan && c.use.pool != nil && c.use.pool.Orphans == lb.OrphanReassign
}

// attempt looks for what a Service needs and promises it.
func (p *Planner) attempt(s *service) Decision {
	w, _ := p.wish(s) // a refusal is for examine to find
	return p.find(s, w)
}

func (p *Planner) find(s *service, w wish) Decision {
	primary, nothing := index(w.families[0]), w.held == [2]*claim{}
	got, why := p.look(s, &w, w.need, [2]grant{})
	missing := func(f family) bool { return w.need[f] && got[f].pool == nil }
	if s.FamilyPolicy == lb.PreferDualStack && nothing && missing(primary) && got[1-primary].pool != nil {
		// The other may have taken the last that a limit allows.
		if first, _ := p.look(s, &w, only(primary), [2]grant{}); first[primary].pool != nil {
			got, why = p.look(s, &w, only(1-primary), first)
		}
	}

	// Reallocation is all or nothing: half of it would be done over and over.
	for f, c := range w.held {
		if w.anew && c != nil && w.need[f] && got[f].pool == nil && !w.asked[f] {
			w.anew, w.need, w.unmet = false, [2]bool{}, why[f]
			w.unmet.Reallocate = true
			p.needs(s, &w)
			return p.find(s, w)
		}
	}

	for _, want := range w.families {
		if f := index(want); missing(f) && nothing && (s.FamilyPolicy == lb.RequireDualStack || got[1-f].pool == nil) {
			return p.conclude(s, w, [2]grant{}, why[f])
		}
	}
	for _, want := range w.families {
		f := index(want)
		if !missing(f) {
			continue
		}
		r := why[f]
		hasOther := got[1-f].pool != nil || w.held[1-f] != nil
		if s.FamilyPolicy == lb.PreferDualStack && hasOther && w.held[f] == nil && r.Reason >= Exhausted && r.Reason <= NoPool {
			r.Reason = PartialDualStack
		}
		return p.conclude(s, w, got, r)
	}
	return p.conclude(s, w, got, refusal{})
}

func only(f family) (which [2]bool) {
	which[f] = true
	return which
}

// look looks for addresses of some families, given what was got of the other.
func (p *Planner) look(s *service, w *wish, which [2]bool, got [2]grant) ([2]grant, [2]refusal) {
	var why [2]refusal
	var search [2]bool
	for _, want := range w.families {
		f := index(want)
		if which[f] && w.asked[f] {
			got[f], why[f] = p.fetch(s, w, got, w.address[f])
		}
		search[f] = which[f] && !w.asked[f]
	}
	p.search(s, w, search, &got, &why)
	return got, why
}

// fetch looks at the address that a Service asks for.
func (p *Planner) fetch(s *service, w *wish, got [2]grant, a addr) (grant, refusal) {
	at := p.land.owner(a)
	d := Detail{Family: families[a.family()], Address: a.netip(), Pool: s.Request.Pool}
	if at != nil {
		d.Owner = at.Name
	}
	u := p.uses[a]
	switch {
	case d.Pool != "" && p.byName[d.Pool] == nil:
		return grant{}, refusal{PoolNotFound, d}
	case p.nodes[a] != "":
		d.Node = p.nodes[a]
		return grant{}, refusal{NodeAddress, d}
	case at == nil, d.Pool != "" && d.Pool != at.Name, !p.lendable(at, a):
		return grant{}, refusal{AddressNotInPool, d}
	case !at.admits(&s.Service):
		return grant{}, refusal{NotPermitted, d}
	case at.drains():
		return grant{}, refusal{Draining, d}
	case u != nil:
		if d.Clash, d.Port = u.refuses(s); d.Clash != NoClash {
			d.Holder = u.holder(s, d.Port)
			if s.Request.SharingKey == "" {
				return grant{}, refusal{AddressInUse, d}
			}
			return grant{}, refusal{SharingConflict, d}
		}
		if u.has(s.Key.Namespace) > 0 {
			return grant{a, at}, refusal{}
		}
	}
	h := &at.half[a.family()]
	if u == nil && h.reserved > 0 && !h.fresh.contains(a) {
		i := slices.IndexFunc(h.journal, func(e freed) bool { return e.addr == a })
		if i >= 0 && h.journal[i].reserved && h.journal[i].last != s.Key {
			d.Holder, d.Until = h.journal[i].last, h.journal[i].at.Add(at.Retention)
			return grant{}, refusal{AddressReserved, d}
		}
	}
	if p.room(s, w, got, at) < 1 {
		d.Pools = []PoolVerdict{{at.Name, LimitReached, h.total, p.counted(s, w, got, at), at.limit()}}
		return grant{}, refusal{LimitReached, d}
	}
	return grant{a, at}, refusal{}
}

// search looks for an address of each family, both from one pool if one can.
func (p *Planner) search(s *service, w *wish, families [2]bool, got *[2]grant, why *[2]refusal) {
	if families == [2]bool{} {
		return
	}
	pools := p.scopeOf(s).pools
	if name := s.Request.Pool; name != "" {
		at := p.byName[name]
		switch {
		case at == nil:
			p.refuseAll(families, why, refusal{PoolNotFound, Detail{Pool: name}})
			return
		case !at.admits(&s.Service):
			p.refuseAll(families, why, refusal{NotPermitted, Detail{Pool: name}})
			return
		}
		pools = []*pool{at}
	}
	open := func(f family) bool { return families[f] && got[f].pool == nil }
	take := func(f family, at *pool) { got[f] = grant{at.pick(f, s.Key), at} }

	if open(v4) && open(v6) && s.Request.SharingKey != "" {
		*got = p.joinPair(s, w, *got, pools)
	}
	for _, want := range w.families {
		f := index(want)
		if open(f) && s.Request.SharingKey != "" {
			got[f] = p.join(s, w, *got, f, pools)
		}
		if open(f) {
			got[f] = p.returning(s, w, *got, f, pools)
		}
	}
	for _, want := range w.families {
		// When the other family is settled, its pool comes first.
		if f := index(want); open(f) && !open(1-f) {
			partner := got[1-f].pool
			if c := w.held[1-f]; partner == nil && c != nil {
				partner = c.use.pool
			}
			if slices.Contains(pools, partner) && p.verdict(s, w, *got, partner, f, 1) == Allocated {
				take(f, partner)
			}
		}
	}
	if open(v4) && open(v6) {
		for _, at := range pools {
			if p.verdict(s, w, *got, at, v4, 2) == Allocated && p.verdict(s, w, *got, at, v6, 2) == Allocated {
				take(v4, at)
				take(v6, at)
				break
			}
		}
	}
	for _, want := range w.families {
		f := index(want)
		for _, at := range pools {
			if !open(f) {
				break
			}
			if p.verdict(s, w, *got, at, f, 1) == Allocated {
				take(f, at)
			}
		}
		if open(f) {
			why[f] = p.explain(s, w, *got, f, pools)
		}
	}
}

func (p *Planner) refuseAll(which [2]bool, why *[2]refusal, r refusal) {
	for f := range which {
		if which[f] {
			why[f] = r
			why[f].Family = families[f]
		}
	}
}

// verdict says whether a pool has an address of the family for a Service that
// is to get n of the pool's.
func (p *Planner) verdict(s *service, w *wish, got [2]grant, at *pool, f family, n int) Reason {
	switch {
	case len(at.half[f].spans) == 0:
		return FamilyUnavailable
	case at.drains():
		return Draining
	case p.room(s, w, got, at) < n:
		return LimitReached
	case at.dry(f):
		return Exhausted
	default:
		return Allocated
	}
}

// room returns how many more addresses of the pool the Service may take. Those
// that it gives up for them do not count.
func (p *Planner) room(s *service, w *wish, got [2]grant, at *pool) int {
	limit := at.limit()
	if limit == 0 {
		return math.MaxInt
	}
	n := limit - at.namespaces[s.Key.Namespace]
	for _, c := range s.claims {
		if f := c.use.family(); c.use.pool == at && c.use.has(s.Key.Namespace) == 1 && (w.held[f] != c || w.need[f]) {
			n++
		}
	}
	for _, g := range got {
		if u := p.uses[g.addr]; g.pool == at && (u == nil || u.has(s.Key.Namespace) == 0) {
			n--
		}
	}
	return n
}

// counted returns how many addresses of the pool count for the namespace once
// the Service has what was got, which RequireDualStack has both of or none.
func (p *Planner) counted(s *service, w *wish, got [2]grant, at *pool) int {
	if s.FamilyPolicy == lb.RequireDualStack && w.held == [2]*claim{} {
		got = [2]grant{}
	}
	return at.limit() - p.room(s, w, got, at)
}

// A preference orders addresses that could be shared: those of the first of the
// Service's pools, then those of any other that admits it, the lowest.
type preference []*pool

func (r preference) compare(a, b *use) int {
	rank := func(at *pool) int {
		if i := slices.Index(r, at); i >= 0 {
			return i
		}
		return len(r)
	}
	return cmp.Or(cmp.Compare(rank(a.pool), rank(b.pool)), cmp.Compare(a.name, b.name), a.compare(b.addr))
}

// join finds an address that is already used with the Service's key: of those
// that go with the address of the other family, if that is settled, else of any.
func (p *Planner) join(s *service, w *wish, got [2]grant, f family, pools []*pool) grant {
	var partners map[*use]int
	if g := got[1-f]; g.pool != nil && p.uses[g.addr] != nil {
		partners = p.uses[g.addr].partners
	} else if c := w.held[1-f]; g.pool == nil && c != nil {
		partners = c.use.partners
	}
	if u := p.partner(s, w, got, partners, pools); u != nil {
		return grant{u.addr, u.pool}
	}
	u := p.best(s, w, got, int(f), pools, func(*use) bool { return true })
	if u == nil {
		return grant{}
	}
	return grant{u.addr, u.pool}
}

// joinPair finds a pair of addresses that one Service with the same key uses both.
func (p *Planner) joinPair(s *service, w *wish, got [2]grant, pools []*pool) [2]grant {
	four := p.best(s, w, got, pairs, pools, func(u *use) bool {
		return p.partner(s, w, [2]grant{v4: {u.addr, u.pool}}, u.partners, pools) != nil
	})
	if four == nil {
		return got
	}
	got[v4] = grant{four.addr, four.pool}
	six := p.partner(s, w, got, four.partners, pools)
	got[v6] = grant{six.addr, six.pool}
	return got
}

// partner returns the best of some addresses that the Service may join.
func (p *Planner) partner(s *service, w *wish, got [2]grant, of map[*use]int, pools []*pool) (best *use) {
	for u := range of {
		if (best == nil || preference(pools).compare(u, best) < 0) && p.joinable(s, w, got, u) {
			best = u
		}
	}
	return best
}

// best returns the best address that the Service may join of a shelf of the
// groups of its key.
func (p *Planner) best(s *service, w *wish, got [2]grant, which int, pools []*pool, suits func(*use) bool) (best *use) {
	for _, namespace := range [...]string{s.Key.Namespace, ""} {
		g := p.groups[groupKey{s.Request.SharingKey, namespace}]
		if g == nil || g.shelves[which].full(s) {
			continue
		}
		for _, u := range g.shelves[which].open(s) {
			if best != nil && preference(pools).compare(u, best) >= 0 || !p.joinable(s, w, got, u) || !suits(u) {
				continue
			}
			if best = u; len(g.shelves[which].pools) == 1 {
				break // the others are of the same pool, and higher
			}
		}
	}
	return best
}

// joinable reports whether the Service may come to share an address.
func (p *Planner) joinable(s *service, w *wish, got [2]grant, u *use) bool {
	if u.group == nil || s.Request.Pool != "" && u.name != s.Request.Pool || !u.pool.admits(&s.Service) || !p.lendable(u.pool, u.addr) {
		return false
	}
	if slices.ContainsFunc(s.claims, func(c *claim) bool { return c.use == u }) {
		return false
	}
	why, _ := u.refuses(s)
	return why == NoClash && (u.has(s.Key.Namespace) > 0 || p.room(s, w, got, u.pool) >= 1)
}

// returning finds the address that retention keeps for the Service: the one it
// held last.
func (p *Planner) returning(s *service, w *wish, got [2]grant, f family, pools []*pool) grant {
	var best freed
	var from *pool
	for _, e := range p.reserved[s.Key] {
		at := p.land.owner(e.addr)
		if e.family() != f || !slices.Contains(pools, at) || at.drains() || p.room(s, w, got, at) < 1 {
			continue
		}
		if from == nil || best.compare(e) < 0 {
			best, from = e, at
		}
	}
	return grant{best.addr, from}
}

// explain says why none of the pools has an address of the family.
func (p *Planner) explain(s *service, w *wish, got [2]grant, f family, pools []*pool) refusal {
	r := refusal{NoPool, Detail{Family: families[f], Pool: s.Request.Pool, NoPools: len(p.pools) == 0}}
	for _, at := range pools {
		v := PoolVerdict{Pool: at.Name, Reason: p.verdict(s, w, got, at, f, 1), Total: at.half[f].total}
		if v.Reason == LimitReached {
			v.Limit = at.limit()
			v.Held = p.counted(s, w, got, at)
		}
		if r.Reason == NoPool || v.Reason < r.Reason {
			r.Reason = v.Reason
		}
		r.Pools = append(r.Pools, v)
	}
	if s.Request.Pool == "" {
		sc := p.scopeOf(s)
		p.tell(s, sc)
		r.Closed, r.Unasked = withRoom(sc.closed[f], f), withRoom(sc.unasked[f], f)
	}
	return r
}

// withRoom names the pools that have a free address of the family.
func withRoom(pools []*pool, f family) (names []string) {
	for _, at := range pools {
		if !at.dry(f) {
			names = append(names, at.Name)
		}
	}
	return names
}

// conclude makes the promises and states the decision.
func (p *Planner) conclude(s *service, w wish, got [2]grant, why refusal) Decision {
	if w.unmet.Reallocate {
		why = w.unmet
	}
	d := Decision{Service: s.Key, Reason: why.Reason, Reallocated: s.recorded()}
	detail := why.Detail
	var kept [2]*claim
	for _, want := range w.families {
		f := index(want)
		if kept[f] = w.held[f]; got[f].pool != nil {
			kept[f] = p.claim(s, got[f].addr, got[f].pool.Name, true, false)
		}
		if kept[f] != nil {
			u := kept[f].use
			d.Assignments = append(d.Assignments, Assignment{u.netip(), u.name, u.orphan})
			if d.Reason == Allocated {
				d.Reason, detail = p.lapse(s, u)
			}
		}
	}
	if d.Reason != Allocated {
		facts := detail // the common case has none, and costs no allocation
		d.Detail = &facts
	}
	d.Short = served(&s.Service) && (len(d.Assignments) == 0 || s.FamilyPolicy == lb.RequireDualStack && len(d.Assignments) < 2)
	heard := why.Reason == Allocated || why.Reason >= PartialDualStack && why.Reason < BadRequest
	if token := s.Request.Reallocate; token != "" && heard && len(d.Assignments) > 0 && !why.Reallocate {
		d.Reallocated = token
	}
	switch {
	case s.Foreign:
		d.Terms = s.Terms
	case len(d.Assignments) > 0:
		d.Terms = s.terms
	}
	s.honoured, s.agreed = d.Reallocated, d.Terms

	for i := len(s.claims) - 1; i >= 0; i-- {
		c := s.claims[i]
		switch f := c.use.family(); {
		case kept[f] == c:
			c.revocable = false
			if c.promised {
				p.reconsider(c.use) // it is promised on other terms, perhaps
			}
		case c.promised && c.revocable:
			p.unclaim(c, false)
		case c.promised:
			if kept[f] != nil && !c.leaving {
				p.alter(c, c.from, true, true)
			}
		default:
			d.Released = append(d.Released, c.release(kept[f] != nil, w.asked[f], d.Reallocated != s.Reallocated))
		}
	}
	p.resolve()
	slices.SortFunc(d.Released, func(a, b Release) int { return a.Address.Compare(b.Address) })
	return d
}

// lapse says whether a pool would hand out again what it once did.
func (p *Planner) lapse(s *service, u *use) (Reason, Detail) {
	d := Detail{Address: u.netip(), Pool: u.name}
	switch {
	case u.pool == nil:
		d.Lapse = LapseGone
	case u.pool.Deleting:
		d.Lapse = LapseDeleting
	case u.orphan:
		d.Lapse = LapseShrunk
	case u.pool.Drain:
		d.Lapse = LapseDrains
		return Kept, d
	case !u.pool.admits(&s.Service):
		d.Lapse = LapseRestricted
		return Kept, d
	case p.nodes[u.addr] != "":
		d.Lapse, d.Node = LapseNode, p.nodes[u.addr]
		return Kept, d
	default:
		return Allocated, Detail{}
	}
	return Orphaned, d
}

// release says why a Service gives up an address: for another of the family,
// perhaps, that it asked for, or anew.
func (c *claim) release(another, asked, anew bool) Release {
	r := Release{Address: c.use.netip(), Pool: c.use.name}
	switch {
	case !served(&c.Service):
		r.Cause = NoLongerServed
	case c.lost:
		r.Cause = LostToOlder
		if c.edited() {
			r.Cause = SharingEnded
		}
		r.Holder, r.Clash, r.Port = c.rival()
	case c.leaving || !another:
		r.Cause = FamilyDropped
	case asked || c.Request.Pool != "" && c.use.name != c.Request.Pool:
		r.Cause = Requested
	case anew:
		r.Cause = Reallocated
	default:
		r.Cause = Reassigned
	}
	return r
}
