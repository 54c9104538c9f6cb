package allocator

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// ledger checks the books that a planner keeps of its claims against the claims
// themselves, each counted anew.
func (p *Planner) ledger() error {
	uses := map[*use][]*claim{}
	for key, s := range p.services {
		if s.Key != key || s.deleted {
			return fmt.Errorf("%v is kept as %v, deleted %v", s.Key, key, s.deleted)
		}
		for _, c := range s.claims {
			if c.service != s || p.uses[c.use.addr] != c.use {
				return fmt.Errorf("%v has a claim to %v that is not entered", key, c.use.netip())
			}
			uses[c.use] = append(uses[c.use], c)
		}
	}
	if len(uses) != len(p.uses) {
		return fmt.Errorf("%d addresses in use, %d entered", len(uses), len(p.uses))
	}
	for u, claims := range uses {
		if err := p.checkUse(u, claims); err != nil {
			return fmt.Errorf("%v: %w", u.netip(), err)
		}
	}
	for _, check := range []func(map[*use][]*claim) error{p.checkLine, p.checkPools, p.checkGroups, p.checkSurveys} {
		if err := check(uses); err != nil {
			return err
		}
	}
	return nil
}

// checkUse checks what is known of one address in use.
func (p *Planner) checkUse(u *use, claims []*claim) error {
	slices.SortFunc(claims, (*claim).older)
	if !slices.Equal(u.claims, claims) || u.owner != p.owner(u.addr) || u.disputed {
		return fmt.Errorf("claims %v, owner %v, disputed %v", u.claims, u.owner, u.disputed)
	}
	o := p.origins.Find(u.netip(), claims[0].from)
	if u.name != o.Pool || u.pool != p.byName[o.Pool] {
		return fmt.Errorf("held under %q, want %q", u.name, o.Pool)
	}
	settled := true
	for i, c := range claims {
		for _, o := range claims[:i] {
			settled = settled && slowlyShares(&c.Service, &o.Service)
		}
	}
	if u.settled != settled {
		return fmt.Errorf("settled %v, want %v", u.settled, settled)
	}
	ports, namespaces := multiset{}, map[string]int{}
	for _, c := range claims {
		if !c.promised || !c.lost {
			namespaces[c.Key.Namespace]++
			ports = append(ports, c.Ports...)
		}
	}
	slices.SortFunc(ports, lb.Port.Compare)
	if len(claims) > 1 && (!slices.Equal(u.ports, ports) || !maps.Equal(u.namespaces, namespaces)) || len(claims) == 1 && (u.ports != nil || u.namespaces != nil) {
		return fmt.Errorf("ports %v and namespaces %v, want %v and %v", u.ports, u.namespaces, ports, namespaces)
	}
	partners := map[*use]int{}
	for _, c := range claims {
		for _, o := range c.service.claims {
			if o.use.family() != u.family() {
				partners[o.use]++
			}
		}
	}
	if !maps.Equal(u.partners.asMap(), partners) {
		return fmt.Errorf("%d partners, want %d", len(u.partners), len(partners))
	}
	key := groupKey{key: claims[0].Request.SharingKey}
	if open := key.key != "" && settled && !u.orphan && u.pool == u.owner && !u.pool.drains(); !open {
		if u.group != nil {
			return fmt.Errorf("none may join, and it is in group %v", u.group.groupKey)
		}
		return nil
	}
	if !u.pool.SharedAcrossNamespaces {
		key.namespace = claims[0].Key.Namespace
	}
	if u.group == nil || u.group.groupKey != key || p.groups[key] != u.group {
		return fmt.Errorf("it is not in group %v", key)
	}
	return nil
}

// checkLine checks who waits, and what is asked for meanwhile.
func (p *Planner) checkLine(map[*use][]*claim) error {
	var line []*service
	asked, tally := map[addr]int{}, [len(reasons)]int{}
	for _, s := range p.services {
		if w, why := p.demand(s); s.waiting != (why.Reason == Allocated && w.need != [2]bool{}) {
			return fmt.Errorf("%v needs %v and waits: %v", s.Key, w.need, s.waiting)
		}
		if s.waiting {
			line = append(line, s)
			for _, a := range s.Request.Addresses {
				asked[number(a)]++
			}
		}
		tally[s.decision.Reason]++
	}
	slices.SortFunc(line, (*service).older)
	switch {
	case !slices.Equal(p.waiting, line):
		return fmt.Errorf("%d wait in line, want %d", len(p.waiting), len(line))
	case !maps.Equal(p.asked, asked):
		return fmt.Errorf("asked for are %v, want %v", p.asked, asked)
	case p.tally != tally:
		return fmt.Errorf("reasons are counted as %v, want %v", p.tally, tally)
	case len(p.left)+len(p.dirty)+len(p.touched)+len(p.disputes) > 0:
		return fmt.Errorf("left over: %d addresses, %d and %d services, %d disputes", len(p.left), len(p.dirty), len(p.touched), len(p.disputes))
	}
	return nil
}

// checkPools checks what is counted of each pool, and the free lists.
func (p *Planner) checkPools(uses map[*use][]*claim) error {
	reserved := map[lb.ServiceKey][]addr{}
	for _, at := range p.pools {
		var held, orphans, taken, odd [2]uint64
		namespaces := map[string]int{}
		for u, claims := range uses {
			f := u.family()
			if u.owner == at {
				taken[f]++
				if !p.lendable(at, u.addr) {
					odd[f]++
				}
			}
			if u.pool != at {
				continue
			}
			held[f]++
			if u.orphan {
				orphans[f]++
			}
			in := map[string]bool{}
			for _, c := range claims {
				if len(claims) == 1 || !c.promised || !c.lost {
					in[c.Key.Namespace] = true
				}
			}
			for namespace := range in {
				namespaces[namespace]++
			}
		}
		if at.held != held || at.orphans != orphans || !maps.Equal(at.namespaces, namespaces) {
			return fmt.Errorf("pool %s: held %v, orphans %v, by namespace %v; want %v, %v, %v", at.Name, at.held, at.orphans, at.namespaces, held, orphans, namespaces)
		}
		for f := range at.perFamily {
			h := &at.perFamily[f]
			if h.taken != taken[f] || h.odd != odd[f] || !slices.IsSortedFunc(h.freeList, freed.compare) {
				return fmt.Errorf("pool %s: taken %d, odd %d, want %d, %d; free list %v", at.Name, h.taken, h.odd, taken[f], odd[f], h.freeList)
			}
			for _, e := range h.freeList {
				if e.reserved != (at.Retention > 0 && e.last != (lb.ServiceKey{}) && p.now.Before(e.at.Add(at.Retention))) {
					return fmt.Errorf("pool %s: %v reserved: %v", at.Name, e.netip(), e.reserved)
				}
				if e.reserved {
					reserved[e.last] = append(reserved[e.last], e.addr)
				} else if at.Strategy != lb.LeastRecentlyUsed {
					return fmt.Errorf("pool %s: %v stays in the free list", at.Name, e.netip())
				}
			}
		}
		if at.stale || !reflect.DeepEqual(at.said, at.decision()) {
			return fmt.Errorf("pool %s says %+v, and is %+v", at.Name, at.said, at.decision())
		}
	}
	has := map[lb.ServiceKey][]addr{}
	for key, all := range p.reserved {
		for _, e := range all {
			has[key] = append(has[key], e.addr)
		}
		slices.SortFunc(has[key], addr.compare)
		slices.SortFunc(reserved[key], addr.compare)
	}
	if !reflect.DeepEqual(has, reserved) {
		return fmt.Errorf("reserved are %v, want %v", has, reserved)
	}
	return nil
}

// asMap returns the numbers by what they are of.
func (c counts[T]) asMap() map[T]int {
	out := map[T]int{}
	for _, e := range c {
		out[e.of] += e.n
	}
	return out
}

// checkGroups checks where those of a key find each other.
func (p *Planner) checkGroups(uses map[*use][]*claim) error {
	type place struct {
		g     *group
		shelf int
	}
	stands := map[place][]*use{}
	for u := range uses {
		if u.group != nil {
			at := place{u.group, int(u.family())}
			stands[at] = append(stands[at], u)
			if u.family() == v4 && len(u.partners) > 0 {
				at.shelf = pairs
				stands[at] = append(stands[at], u)
			}
		}
	}
	for key, g := range p.groups {
		if g.groupKey != key || len(g.shelves[v4].uses)+len(g.shelves[v6].uses) == 0 {
			return fmt.Errorf("group %v is kept as %v, or is empty", g.groupKey, key)
		}
		for i := range g.shelves {
			h, all := &g.shelves[i], stands[place{g, i}]
			slices.SortFunc(all, byAddress)
			pools := map[*pool]int{}
			for _, u := range all {
				pools[u.owner]++
			}
			if !slices.Equal(h.uses, all) || !maps.Equal(h.pools.asMap(), pools) {
				return fmt.Errorf("group %v, shelf %d: %d addresses, want %d", key, i, len(h.uses), len(all))
			}
			for _, run := range h.runs {
				if int(run.n) < minRun || int(run.n) > len(all) {
					return fmt.Errorf("group %v, shelf %d: a run of %d for %v", key, i, run.n, run.Port)
				}
				for _, u := range all[:run.n] {
					if !slices.ContainsFunc(u.claims, func(c *claim) bool { return slices.Contains(c.Ports, run.Port) }) {
						return fmt.Errorf("group %v, shelf %d: %v has %v to spare, and is in the run of it", key, i, u.netip(), run.Port)
					}
				}
			}
		}
	}
	return nil
}

// checkSurveys checks what is remembered of what pools have for a namespace.
func (p *Planner) checkSurveys(map[*use][]*claim) error {
	scopes := slices.Collect(maps.Values(p.scopes))
	for _, at := range p.pools {
		if at.alone != nil {
			scopes = append(scopes, at.alone)
		}
	}
	for _, sc := range scopes {
		if sc.version != p.version {
			continue
		}
		for namespace, v := range sc.surveys {
			fresh := p.survey(&service{Service: lb.Service{Key: lb.ServiceKey{Namespace: namespace}}}, &demand{}, [2]grant{}, newScope(sc.pools, sc.unasked))
			for f := range families {
				if v.looked[f] && v.firsts[f] != fresh.first(family(f)) || v.paired && v.pair != fresh.both() {
					return fmt.Errorf("what is remembered of the pools for namespace %s has changed", namespace)
				}
				if r := v.refusals[f]; r != nil && !reflect.DeepEqual(*r, fresh.refusal(family(f))) {
					return fmt.Errorf("namespace %s is told %+v, and it is %+v", namespace, *r, fresh.refusal(family(f)))
				}
			}
		}
	}
	return nil
}

// results checks that a planning returns what is news, once and in order, and nothing else.
func (h *history) results(r Result, before map[lb.ServiceKey]Decision, said map[string]PoolDecision) {
	var services []lb.ServiceKey
	for key, s := range h.planner.services {
		if was, known := before[key]; h.touched[key] || !known || !was.Equal(s.decision) {
			services = append(services, key)
		}
	}
	slices.SortFunc(services, lb.ServiceKey.Compare)
	if !slices.EqualFunc(services, r.Services, func(key lb.ServiceKey, d Decision) bool {
		return d.Service == key && d.Equal(h.planner.services[key].decision)
	}) {
		h.t.Errorf("it decides of %d services, want those of %v", len(r.Services), services)
	}
	clear(h.touched)
	var pools []string
	first := time.Time{}
	for _, at := range h.planner.pools {
		if was, known := said[at.Name]; !known || !was.Equal(at.decision()) {
			pools = append(pools, at.Name)
		}
		for f := range at.perFamily {
			for _, e := range at.perFamily[f].freeList {
				if ends := e.at.Add(at.Retention); e.reserved && (first.IsZero() || ends.Before(first)) {
					first = ends
				}
			}
		}
	}
	if !slices.EqualFunc(pools, r.Pools, func(name string, d PoolDecision) bool { return d.Pool == name }) {
		h.t.Errorf("it decides of %d pools, want %v", len(r.Pools), pools)
	}
	if !r.Until.Equal(first) {
		h.t.Errorf("it is worth planning again at %v, want %v", r.Until, first)
	}
}

// A planner that looks again only at what may have changed decides like one that is
// told the same and looks at everything each time.
func TestWhoLooksOnlyAtWhatMayHaveChangedDecidesLikeWhoLooksAtAll(t *testing.T) {
	histories(t, 800, func(h *history) {
		h.eager = New()
		h.crowded = h.one(70)
		for n := 0; n < 160 && !t.Failed(); n++ {
			h.happen()
		}
	})
}

func compareEager(h *history) {
	h.eager.loosened = true
	for _, s := range h.eager.services {
		h.eager.mark(s)
	}
	h.eager.Plan(h.now)
	for key, s := range h.planner.services {
		if want := h.eager.services[key].decision; !s.decision.Equal(want) {
			h.t.Errorf("%v: decides %+v %q, and who looks at everything %+v %q", key, s.decision, s.decision.Sentence(), want, want.Sentence())
		}
	}
	for i, at := range h.planner.pools {
		if got, want := at.decision(), h.eager.pools[i].decision(); !reflect.DeepEqual(got, want) {
			h.t.Errorf("pool %s: says %+v, and who looks at everything %+v", at.Name, got, want)
		}
	}
}

// Of two Services of one name the second is another one, however soon it comes: the
// address of the first is remembered as one that a Service of that name had.
func TestWhoComesAgainUnderOneNameIsAnother(t *testing.T) {
	for _, a := range []string{"198.51.100.0/30", "2001:db8::/126"} {
		r := rangeOf(a)
		s := lb.Service{
			Key: lb.ServiceKey{Namespace: "web", Name: "a"}, UID: "1", Created: epoch, Families: []lb.Family{lb.FamilyOf(r.First)},
			Assigned: []netip.Addr{r.First}, AssignedPools: []string{"edge"},
		}
		p := New()
		p.SetPools([]lb.Pool{{Name: "edge", AutoAssign: true, Ranges: []lb.AddressRange{r}, Strategy: lb.LeastRecentlyUsed}})
		p.Put(s)
		p.Plan(epoch)
		s.UID, s.Assigned, s.AssignedPools = "2", nil, nil
		p.Put(s)
		got := p.Plan(epoch)
		if len(got.Pools) != 1 || len(got.Pools[0].Freed) != 1 || got.Pools[0].Freed[0].Service != s.Key || got.Services[0].Assignments[0].Address != r.First.Next() {
			t.Errorf("%s: %+v", a, got)
		}
	}
}

// An address whose reservation has ended may be asked for by any, though others are
// still reserved.
func TestAnAddressWhoseReservationHasEndedMayBeAskedFor(t *testing.T) {
	for _, a := range []string{"198.51.100.0/30", "2001:db8::/126"} {
		r := rangeOf(a)
		key := func(name string) lb.ServiceKey { return lb.ServiceKey{Namespace: "web", Name: name} }
		ask := func(name string, address netip.Addr) lb.Service {
			return lb.Service{Key: key(name), UID: name, Created: epoch, Families: []lb.Family{lb.FamilyOf(r.First)}, Request: lb.Request{Addresses: []netip.Addr{address}}}
		}
		pool := lb.Pool{Name: "edge", AutoAssign: true, Ranges: []lb.AddressRange{r}, Strategy: lb.LeastRecentlyUsed, Retention: time.Hour}
		pool.Freed = []lb.FreedAddress{{Address: r.First.Next(), Service: key("b"), At: epoch.Add(-2 * time.Hour)}, {Address: r.First, Service: key("a"), At: epoch}}
		got := Plan(World{Pools: []lb.Pool{pool}, Services: []lb.Service{ask("c", r.First.Next()), ask("d", r.First)}, Now: epoch.Add(time.Minute)})
		if got.Services[0].Reason != Allocated || got.Services[1].Reason != AddressReserved {
			t.Errorf("%s: %v and %v", a, got.Services[0].Reason, got.Services[1].Reason)
		}
	}
}

// A promise that is dropped before it was written has honored no request to reallocate.
func TestADroppedPromiseHasHonoredNothing(t *testing.T) {
	for _, a := range []string{"198.51.100.0/30", "2001:db8::/126"} {
		r := rangeOf(a)
		s := lb.Service{Key: lb.ServiceKey{Namespace: "web", Name: "a"}, UID: "1", Created: epoch, Families: []lb.Family{lb.FamilyOf(r.First)}, Request: lb.Request{Reallocate: "1"}}
		p := New()
		p.SetPools([]lb.Pool{{Name: "edge", AutoAssign: true, Ranges: []lb.AddressRange{r}}})
		p.Put(s)
		if d := p.Plan(epoch).Services[0]; d.Reallocated != "1" || len(d.Assignments) != 1 {
			t.Errorf("%s: promised is %+v", a, d)
		}
		s.Request.Problems = []string{"the request contradicts itself"}
		p.Put(s)
		if d := p.Plan(epoch).Services[0]; d.Reallocated != "1" || d.Reason != BadRequest || len(d.Assignments) != 1 {
			t.Errorf("%s: a promise that stays: %+v", a, d)
		}
		s.FamilyPolicy = lb.RequireDualStack // and the other family is not known yet
		p.Put(s)
		if d := p.Plan(epoch).Services[0]; d.Reallocated != "" || d.Reason != WaitingForClusterIP {
			t.Errorf("%s: %v, honored %q", a, d.Reason, d.Reallocated)
		}
	}
}

// Of several who leave an address between two plannings, one that is gone counts before
// one that moved, that before one that was only promised it, and then the older, in
// whichever order they leave.
func TestTheFreeListDoesNotDependOnTheOrderInWhichTheyLeave(t *testing.T) {
	for _, text := range []string{"198.51.100.0/30", "2001:db8::/126"} {
		r := rangeOf(text)
		service := func(name string, age int, port uint16) lb.Service {
			return lb.Service{
				Key: lb.ServiceKey{Namespace: "web", Name: name}, UID: name, Created: epoch.Add(-time.Duration(age) * time.Hour), Families: []lb.Family{lb.FamilyOf(r.First)},
				Ports: []lb.Port{{Protocol: lb.TCP, Number: port}}, Request: lb.Request{SharingKey: "k", Addresses: []netip.Addr{r.First}},
			}
		}
		holds := func(s lb.Service) lb.Service {
			s.Assigned, s.AssignedPools = []netip.Addr{r.First}, []string{"edge"}
			return s
		}
		gone := func(name string) func(*Planner) {
			return func(p *Planner) { p.Delete(lb.ServiceKey{Namespace: "web", Name: name}) }
		}
		moves := func(s lb.Service) func(*Planner) {
			s.Request = lb.Request{Problems: []string{"it asks for nothing now"}}
			return func(p *Planner) { p.Put(s) }
		}
		older, younger := service("z-older", 2, 1), service("a-younger", 1, 2)
		for _, c := range []struct {
			name  string
			has   []lb.Service
			leave [2]func(*Planner)
			want  string
		}{
			{"both are gone", []lb.Service{holds(older), holds(younger)}, [2]func(*Planner){gone("z-older"), gone("a-younger")}, "web/z-older"},
			{"the younger is gone", []lb.Service{holds(older), holds(younger)}, [2]func(*Planner){moves(older), gone("a-younger")}, "web/a-younger"},
			{"both move", []lb.Service{holds(older), holds(younger)}, [2]func(*Planner){moves(older), moves(younger)}, "/"},
			{"one was only promised it", []lb.Service{older, holds(younger)}, [2]func(*Planner){gone("z-older"), moves(younger)}, "/"},
			{"both were only promised it", []lb.Service{older, younger}, [2]func(*Planner){gone("z-older"), gone("a-younger")}, "fresh"},
		} {
			for first := range 2 {
				p := New()
				p.SetPools([]lb.Pool{{Name: "edge", Ranges: []lb.AddressRange{r}, Strategy: lb.LeastRecentlyUsed}})
				for _, s := range c.has {
					p.Put(s)
				}
				if got := p.Plan(epoch).Pools[0].V4.Assigned + p.pools[0].decision().V6.Assigned; got != 1 {
					t.Fatalf("%s, %s: %d addresses are assigned", text, c.name, got)
				}
				c.leave[first](p)
				c.leave[1-first](p)
				p.Plan(epoch.Add(time.Minute))
				got := "fresh"
				if freed := p.pools[0].decision().Freed; len(freed) > 0 {
					got = freed[0].Service.String()
				}
				if got != c.want {
					t.Errorf("%s, %s, the %d. first: the free list says %q, want %q", text, c.name, first, got, c.want)
				}
			}
		}
	}
}

// An address that was promised and never given goes back to where it was in the free list.
func TestAnAddressThatWasOnlyPromisedGoesBackToItsPlace(t *testing.T) {
	for _, text := range []string{"198.51.100.1/32", "2001:db8::1/128"} {
		r := rangeOf(text)
		was := []lb.FreedAddress{{Address: r.First, Service: lb.ServiceKey{Namespace: "web", Name: "last"}, At: epoch}}
		s := lb.Service{Key: lb.ServiceKey{Namespace: "web", Name: "a"}, UID: "1", Families: []lb.Family{lb.FamilyOf(r.First)}}
		p := New()
		p.SetPools([]lb.Pool{{Name: "edge", AutoAssign: true, Ranges: []lb.AddressRange{r}, Strategy: lb.LeastRecentlyUsed, Freed: was}})
		p.Put(s)
		if d := p.Plan(epoch.Add(time.Hour)); len(d.Services[0].Assignments) != 1 || len(d.Pools[0].Freed) > 0 {
			t.Errorf("%s: %+v", text, d)
		}
		p.Delete(s.Key)
		if d := p.Plan(epoch.Add(2 * time.Hour)); !reflect.DeepEqual(d.Pools[0].Freed, was) {
			t.Errorf("%s: freed are %v, want %v", text, d.Pools[0].Freed, was)
		}
	}
}

// Where the free list is full the oldest goes, of whichever family.
func TestTheOldestLeavesAFullFreeList(t *testing.T) {
	four, six := rangeOf("198.51.100.0/22"), rangeOf("2001:db8::/112")
	for _, c := range []struct{ oldest, others lb.AddressRange }{{four, six}, {six, four}} {
		pool := lb.Pool{Name: "edge", AutoAssign: true, Ranges: []lb.AddressRange{four, six}, Strategy: lb.LeastRecentlyUsed}
		pool.Freed = []lb.FreedAddress{{Address: c.oldest.First, At: epoch}}
		a := c.others.First
		for i := range freeListLimit {
			pool.Freed = append(pool.Freed, lb.FreedAddress{Address: a, At: epoch.Add(time.Duration(i+1) * time.Second)})
			a = a.Next()
		}
		got := Plan(World{Pools: []lb.Pool{pool}, Now: epoch.Add(time.Hour)}).Pools[0].Freed
		if !reflect.DeepEqual(got, pool.Freed[1:]) {
			t.Errorf("%v: %d are kept, the first %v", c.oldest.First, len(got), got[0])
		}
	}
}
