package allocator

import (
	"cmp"
	"math"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
)

// A demand is what a Service holds and what it still needs.
type demand struct {
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

func byPriority(a, b *pool) int { return cmp.Compare(a.priority(), b.priority()) }

// examine decides for a Service that needs no address; ok is false for one that
// does.
func (p *Planner) examine(s *service) (d Decision, ok bool) {
	w, why := p.demand(s)
	if why.Reason != Allocated || w.need == [2]bool{} {
		return p.conclude(s, w, [2]grant{}, why), true
	}
	return Decision{}, false
}

// demand says what a Service needs, or why that is not the question.
func (p *Planner) demand(s *service) (w demand, why refusal) {
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
	w.anew = token != "" && token != s.recorded() && s.given(&w)
	p.needs(s, &w)
	return w, why
}

// given reports whether it was we who gave the Service one of its addresses. A token
// that comes with addresses which others gave asks for nothing yet.
func (s *service) given(w *demand) bool {
	return slices.ContainsFunc(w.held[:], func(c *claim) bool {
		return c != nil && (c.promised || s.RecordOf(c.use.netip()) != "")
	})
}

// needs says of each family whether an address must be found.
func (p *Planner) needs(s *service, w *demand) {
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
	w, _ := p.demand(s) // a refusal is for examine to find
	return p.find(s, w)
}

func (p *Planner) find(s *service, w demand) Decision {
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
			w.unmet = why[f]
			if other := w.held[1-f] != nil || got[1-f].pool != nil; other && w.need[1-f] && !w.asked[1-f] {
				w.unmet = p.notBoth(s, &w)
			}
			w.anew, w.need, w.unmet.Reallocate = false, [2]bool{}, true
			p.needs(s, &w)
			return p.find(s, w)
		}
	}

	for _, want := range w.families {
		if f := index(want); missing(f) && nothing && (s.FamilyPolicy == lb.RequireDualStack || got[1-f].pool == nil) {
			if s.FamilyPolicy == lb.RequireDualStack {
				return p.conclude(s, w, [2]grant{}, p.notBoth(s, &w))
			}
			return p.conclude(s, w, [2]grant{}, why[f])
		}
	}
	for _, want := range w.families {
		f := index(want)
		if !missing(f) {
			continue
		}
		r := why[f]
		if s.FamilyPolicy == lb.PreferDualStack && w.held[f] == nil && r.Reason >= Exhausted && r.Reason <= NoPool {
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
func (p *Planner) look(s *service, w *demand, which [2]bool, got [2]grant) ([2]grant, [2]refusal) {
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
func (p *Planner) fetch(s *service, w *demand, got [2]grant, a addr) (grant, refusal) {
	at := p.owner(a)
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
	case at != nil && !at.admits(&s.Service):
		d.Owner = "" // is none of the Service's business
		if d.Pool == "" || d.Pool == at.Name {
			return grant{}, refusal{NotPermitted, d}
		}
		return grant{}, refusal{AddressNotInPool, d}
	case at == nil, d.Pool != "" && d.Pool != at.Name:
		return grant{}, refusal{AddressNotInPool, d}
	case p.othersExternal(s.Key, a):
		d.Clash, d.Owner = ClashExternal, ""
		for _, by := range p.external[a] {
			if by != s.Key && by.Namespace == s.Key.Namespace {
				d.Holder = by
				break
			}
		}
		return grant{}, refusal{AddressInUse, d}
	case !p.lendableTo(s.Key, at, a):
		return grant{}, refusal{AddressNotInPool, d}
	case at.drains():
		return grant{}, refusal{Draining, d}
	case (u == nil || u.has(s.Key.Namespace) == 0) && p.room(s, w, got, at) < 1:
		d.Pools = []PoolRefusal{{Pool: at.Name, Reason: LimitReached, Held: p.counted(s, w, got, at), Limit: at.limit()}}
		return grant{}, refusal{LimitReached, d}
	}
	if u != nil {
		if u.takes(s) {
			return grant{a, at}, refusal{}
		}
		if d.Holder, d.Clash, d.Port = u.neighbor(s); d.Holder == (lb.ServiceKey{}) || s.Request.SharingKey == "" {
			return grant{}, refusal{AddressInUse, d}
		}
		return grant{}, refusal{SharingConflict, d}
	}
	if h := &at.perFamily[a.family()]; h.reserved > 0 && !h.fresh.contains(a) {
		i := slices.IndexFunc(h.freeList, func(e freed) bool { return e.addr == a })
		if i >= 0 && h.freeList[i].reserved && h.freeList[i].last != s.Key {
			if h.freeList[i].last.Namespace != s.Key.Namespace {
				return grant{}, refusal{AddressInUse, d}
			}
			d.Holder, d.Until = h.freeList[i].last, h.freeList[i].at.Add(at.Retention)
			return grant{}, refusal{AddressReserved, d}
		}
	}
	return grant{a, at}, refusal{}
}

// search looks for an address of each family, both from one pool if one can.
func (p *Planner) search(s *service, w *demand, families [2]bool, got *[2]grant, why *[2]refusal) {
	if families == [2]bool{} {
		return
	}
	sc, refused := p.scopeOf(s)
	if refused.Reason != Allocated {
		p.refuseAll(families, why, refused)
		return
	}
	open := func(f family) bool { return families[f] && got[f].pool == nil }
	take := func(f family, at *pool) { got[f] = grant{at.pick(f, s.Key), at} }

	if open(v4) && open(v6) && s.Request.SharingKey != "" {
		*got = p.joinPair(s, w, *got, sc)
	}
	for _, want := range w.families {
		f := index(want)
		if open(f) && s.Request.SharingKey != "" {
			got[f] = p.join(s, w, *got, f, sc)
		}
		if open(f) {
			got[f] = p.returning(s, w, *got, f, sc)
		}
	}
	for _, want := range w.families {
		// When the other family is settled, its pool comes first.
		if f := index(want); open(f) && !open(1-f) {
			partner := got[1-f].pool
			if c := w.held[1-f]; partner == nil && c != nil {
				partner = c.use.pool
			}
			if sc.has(partner) && p.reasonOf(s, w, *got, partner, f, 1) == Allocated {
				take(f, partner)
			}
		}
	}
	if open(v4) && open(v6) {
		if at := p.survey(s, w, *got, sc).both(); at != nil {
			take(v4, at)
			take(v6, at)
		}
	}
	for _, want := range w.families {
		f := index(want)
		if !open(f) {
			continue
		}
		v := p.survey(s, w, *got, sc)
		if at := v.first(f); at != nil {
			take(f, at)
		} else {
			why[f] = v.refusal(f)
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

// reasonOf says whether a pool has an address of the family for a Service that
// is to get n of the pool's.
func (p *Planner) reasonOf(s *service, w *demand, got [2]grant, at *pool, f family, n int) Reason {
	switch {
	case len(at.perFamily[f].spans) == 0:
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
func (p *Planner) room(s *service, w *demand, got [2]grant, at *pool) int {
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
func (p *Planner) counted(s *service, w *demand, got [2]grant, at *pool) int {
	if s.FamilyPolicy == lb.RequireDualStack && w.held == [2]*claim{} {
		got = [2]grant{}
	}
	return at.limit() - p.room(s, w, got, at)
}

// join finds an address that is already used with the Service's key: of those
// that go with the address of the other family, if that is settled, else of any.
func (p *Planner) join(s *service, w *demand, got [2]grant, f family, sc *scope) grant {
	var partners counts[*use]
	if g := got[1-f]; g.pool != nil && p.uses[g.addr] != nil {
		partners = p.uses[g.addr].partners
	} else if c := w.held[1-f]; g.pool == nil && c != nil {
		partners = c.use.partners
	}
	if u := p.partner(s, w, got, partners, sc); u != nil {
		return grant{u.addr, u.pool}
	}
	u := p.best(s, w, got, int(f), sc, func(*use) bool { return true })
	if u == nil {
		return grant{}
	}
	return grant{u.addr, u.pool}
}

// joinPair finds a pair of addresses that one Service with the same key uses both.
func (p *Planner) joinPair(s *service, w *demand, got [2]grant, sc *scope) [2]grant {
	four := p.best(s, w, got, pairs, sc, func(u *use) bool {
		return p.partner(s, w, [2]grant{v4: {u.addr, u.pool}}, u.partners, sc) != nil
	})
	if four == nil {
		return got
	}
	got[v4] = grant{four.addr, four.pool}
	six := p.partner(s, w, got, four.partners, sc)
	got[v6] = grant{six.addr, six.pool}
	return got
}

// partner returns the best of some addresses that the Service may join.
func (p *Planner) partner(s *service, w *demand, got [2]grant, of counts[*use], sc *scope) (best *use) {
	for _, c := range of {
		u := c.of
		if p.joinable(s, w, got, u) && (best == nil || sc.compare(u, best) < 0) {
			best = u
		}
	}
	return best
}

// best returns the best address that the Service may join of a shelf of the
// groups of its key.
func (p *Planner) best(s *service, w *demand, got [2]grant, which int, sc *scope, suits func(*use) bool) (best *use) {
	for _, namespace := range [...]string{s.Key.Namespace, ""} {
		g := p.groups[groupKey{s.Request.SharingKey, namespace}]
		if g == nil {
			continue
		}
		for _, u := range g.shelves[which].open(s) {
			if best != nil && sc.compare(u, best) >= 0 || !p.joinable(s, w, got, u) || !suits(u) {
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
func (p *Planner) joinable(s *service, w *demand, got [2]grant, u *use) bool {
	if u.group == nil || s.Request.Pool != "" && u.name != s.Request.Pool || !u.pool.admits(&s.Service) || !p.lendable(u.pool, u.addr) {
		return false
	}
	return u.takes(s) && (u.has(s.Key.Namespace) > 0 || p.room(s, w, got, u.pool) >= 1)
}

// returning finds the address that retention keeps for the Service: the one it
// held last.
func (p *Planner) returning(s *service, w *demand, got [2]grant, f family, sc *scope) grant {
	var best freed
	var from *pool
	for _, e := range p.reserved[s.Key] {
		at := p.owner(e.addr)
		if e.family() != f || !sc.has(at) || at.drains() || p.room(s, w, got, at) < 1 {
			continue
		}
		if from == nil || best.compare(e) < 0 {
			best, from = e, at
		}
	}
	return grant{best.addr, from}
}

// conclude makes the promises and states the decision.
func (p *Planner) conclude(s *service, w demand, got [2]grant, why refusal) Decision {
	if w.unmet.Reallocate {
		why = w.unmet
	}
	d := Decision{Service: s.Key, Reason: why.Reason, Reallocated: s.Reallocated}
	stays := func(c *claim) bool {
		f := c.use.family()
		return !c.revocable || c == w.held[f] && slices.Contains(w.families, families[f])
	}
	if slices.ContainsFunc(s.claims, func(c *claim) bool { return c.promised && stays(c) }) {
		d.Reallocated = s.honored // a promise that is dropped below has honored nothing
	}
	detail := why.Detail
	var kept [2]*claim
	for _, want := range w.families {
		f := index(want)
		if kept[f] = w.held[f]; got[f].pool != nil {
			kept[f] = p.claim(s, tenure{addr: got[f].addr, from: got[f].pool.Name, promised: true})
		}
		if kept[f] != nil {
			u := kept[f].use
			d.Assignments = append(d.Assignments, Assignment{u.netip(), u.name, u.orphan})
			if d.Reason == Allocated {
				d.Reason, detail = p.keptReason(s, u)
			}
		}
	}
	if len(d.Assignments) == 0 {
		d.Left = s.foreign
		if s.shows() && d.Reason.Waiting() && d.Reason != WaitingForClusterIP {
			detail.Shown, detail.Cause, d.Reason = p.shown(s), d.Reason, ForeignAddress
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
	s.honored, s.agreed = d.Reallocated, d.Terms

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
				p.alter(c, tenure{from: c.from, promised: true, leaving: true})
			}
		default:
			d.Released = append(d.Released, c.release(kept[f] != nil, w.asked[f], d.Reallocated != s.Reallocated))
		}
	}
	p.resolve()
	slices.SortFunc(d.Released, func(a, b Release) int { return a.Address.Compare(b.Address) })
	return d
}

// shown lists the first of what a Service's status shows that is not ours.
func (p *Planner) shown(s *service) (all []Shown) {
	for _, a := range s.foreign[:min(len(s.foreign), listed)] {
		all = append(all, Shown{a.String(), p.nodes[number(a)]})
	}
	for _, text := range s.Others {
		all = append(all, Shown{Text: text})
	}
	return all
}

// keptReason says whether a pool would hand out again what it once did.
func (p *Planner) keptReason(s *service, u *use) (Reason, Detail) {
	d := Detail{Address: u.netip(), Pool: u.name}
	switch {
	case u.pool == nil:
		d.KeptReason = KeptGone
	case u.pool.Deleting:
		d.KeptReason = KeptDeleting
	case u.orphan:
		d.KeptReason = KeptShrunk
	case u.pool != u.owner:
		d.KeptReason = KeptLost
		return Kept, d
	case u.pool.Drain:
		d.KeptReason = KeptDrains
		return Kept, d
	case !u.pool.admits(&s.Service):
		d.KeptReason = KeptRestricted
		return Kept, d
	case p.nodes[u.addr] != "":
		d.KeptReason, d.Node = KeptNode, p.nodes[u.addr]
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
		switch {
		case c.withdrawn:
			r.Cause = GivenAway
		case c.outranked():
			r.Cause = NeverGiven
		case c.edited():
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
