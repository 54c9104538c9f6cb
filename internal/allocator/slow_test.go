package allocator

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
)

// slow is a second allocator: obvious, and quadratic or worse in everything. It
// keeps a list of claims, scans it for every question, and lists every address
// of every pool. It shares no code with the first one but the hash.
type slow struct {
	World
	claims []*slowClaim
}

type slowClaim struct {
	s       *lb.Service
	addr    netip.Addr
	from    string
	leaving bool
	// promised is set until the status shows it.
	promised bool
	// withdrawn is set while another writer keeps it out of the status.
	withdrawn bool
	// unrecorded is set when no record says that the Service was given it.
	unrecorded bool
}

type slowDecision struct {
	Service     lb.ServiceKey
	Assigned    []Assignment
	Reason      Reason
	Released    []netip.Addr
	Left        []netip.Addr
	Reallocated string
	Terms       string
}

func planSlowly(w World) []slowDecision {
	w.Services = slices.SortedFunc(slices.Values(w.Services), func(a, b lb.Service) int { return olderService(&a, &b) })
	o := &slow{World: w}
	for i := range w.Services {
		s := &w.Services[i]
		var seen []lb.Family
		for j, a := range s.Assigned {
			c := &slowClaim{s: s, addr: a, withdrawn: slices.Contains(s.Withdrawn, a)}
			if j < len(s.AssignedPools) {
				c.from = s.AssignedPools[j]
			}
			if !o.ours(s, a) {
				continue
			}
			c.unrecorded = c.from == ""
			if c.from == "" && covers(o.pool(s.Request.Pool), a) {
				c.from = s.Request.Pool
			}
			families := slowFamilies(s)
			known := len(families) > 0
			want := requested(s, lb.FamilyOf(a))
			c.leaving = s.Released || s.Headless || want.IsValid() && want != a && slices.Contains(s.Assigned, want) && o.ours(s, want) || slices.Contains(seen, lb.FamilyOf(a)) || known && !slices.Contains(families, lb.FamilyOf(a))
			if !c.leaving {
				seen = append(seen, lb.FamilyOf(a))
			}
			if !slices.ContainsFunc(o.claims, func(d *slowClaim) bool { return d.s == s && d.addr == a }) {
				o.claims = append(o.claims, c)
			}
		}
	}
	decisions := make([]*slowDecision, len(w.Services))
	for i := range w.Services {
		if d, need := o.look(&w.Services[i]); !need {
			decisions[i] = &d
		}
	}
	var all []slowDecision
	for i := range w.Services {
		if decisions[i] == nil {
			d := o.serve(&w.Services[i])
			decisions[i] = &d
		}
		all = append(all, *decisions[i])
	}
	slices.SortFunc(all, func(a, b slowDecision) int { return a.Service.Compare(b.Service) })
	return all
}

func olderService(a, b *lb.Service) int {
	return cmp.Or(a.Created.Compare(b.Created), a.Key.Compare(b.Key))
}

func slowFamilies(s *lb.Service) []lb.Family {
	if s.FamilyPolicy == lb.SingleStack && len(s.Families) > 1 {
		return s.Families[:1]
	}
	if s.FamilyPolicy == lb.RequireDualStack && len(s.Families) == 1 {
		return nil
	}
	return s.Families
}

func (o *slow) pool(name string) *lb.Pool {
	for i := range o.Pools {
		if o.Pools[i].Name == name {
			return &o.Pools[i]
		}
	}
	return nil
}

// covers reports whether the address is one of the pool's, whoever hands it out.
func covers(p *lb.Pool, a netip.Addr) bool {
	in := func(r lb.AddressRange) bool { return r.Contains(a) }
	return p != nil && (slices.ContainsFunc(p.Ranges, in) || slices.ContainsFunc(p.Lost, in))
}

// first is the first pool by right of those that one asks for.
func (o *slow) first(of func(*lb.Pool) bool) *lb.Pool {
	var best *lb.Pool
	late := func(p *lb.Pool) int {
		if p.Deleting {
			return 1
		}
		return 0
	}
	for i := range o.Pools {
		p := &o.Pools[i]
		if of(p) && (best == nil || cmp.Or(cmp.Compare(late(p), late(best)), p.Created.Compare(best.Created), cmp.Compare(p.Name, best.Name)) < 0) {
			best = p
		}
	}
	return best
}

// owner is the one that hands the address out.
func (o *slow) owner(a netip.Addr) *lb.Pool {
	return o.first(func(p *lb.Pool) bool { return covers(p, a) })
}

// recorded names the pool that a Service's status says an address is from, or else the
// status of a pool.
func (o *slow) recorded(s *lb.Service, a netip.Addr) string {
	if i := slices.Index(s.Assigned, a); i >= 0 && i < len(s.AssignedPools) && s.AssignedPools[i] != "" {
		return s.AssignedPools[i]
	}
	if p := o.first(func(p *lb.Pool) bool { return slices.Contains(p.Records, a) }); p != nil {
		return p.Name
	}
	return ""
}

// ours reports whether an address in a Service's status is.
func (o *slow) ours(s *lb.Service, a netip.Addr) bool {
	for _, other := range s.AssignedPools {
		if other != "" && s.RecordOf(a) == "" {
			return false // there is a record, and it names another
		}
	}
	return o.owner(a) != nil && !o.onNode(a) || o.recorded(s, a) != ""
}

func (o *slow) onNode(a netip.Addr) bool {
	return slices.ContainsFunc(o.Nodes, func(n lb.Node) bool { return slices.Contains(n.Addresses, a) })
}

// external reports whether externalIPs of another Service, one of those, name an address.
func (o *slow) external(key lb.ServiceKey, a netip.Addr, of func(lb.ServiceKey) bool) bool {
	return slices.ContainsFunc(o.External, func(e lb.ExternalIP) bool { return e.Address == a && e.Service != key && of(e.Service) })
}

func (o *slow) lends(p *lb.Pool, a netip.Addr) bool { return o.lendsTo(lb.ServiceKey{}, p, a) }

func (o *slow) lendsTo(key lb.ServiceKey, p *lb.Pool, a netip.Addr) bool {
	if o.owner(a) != p || o.onNode(a) || o.external(key, a, func(lb.ServiceKey) bool { return true }) {
		return false
	}
	last := a.As16()[15]
	return !p.AvoidBuggyIPs || !a.Is4() || last != 0 && last != 255
}

// addresses lists what the pool may ever lend of a family, lowest first.
func (o *slow) addresses(p *lb.Pool, f lb.Family) (all []netip.Addr) {
	for _, r := range slices.Concat(p.Ranges, p.Lost) {
		for a := r.First; r.Contains(a); a = a.Next() {
			if lb.FamilyOf(a) == f && o.lends(p, a) {
				all = append(all, a)
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// on lists the claims to an address: who stays before who leaves, who has a record
// before who has none, by age.
func (o *slow) on(a netip.Addr) (all []*slowClaim) {
	for place := range 4 {
		for i := range o.Services {
			for _, c := range o.claims {
				if c.addr == a && c.unrecorded == (place&1 > 0) && c.leaving == (place&2 > 0) && c.s == &o.Services[i] {
					all = append(all, c)
				}
			}
		}
	}
	return all
}

func slowlyShares(a, b *lb.Service) bool {
	if a.Request.SharingKey == "" || a.Request.SharingKey != b.Request.SharingKey || a.TrafficPolicy != b.TrafficPolicy {
		return false
	}
	if a.TrafficPolicy == lb.TrafficLocal && a.PodSelector != b.PodSelector {
		return false
	}
	return !slices.ContainsFunc(a.Ports, func(p lb.Port) bool { return slices.Contains(b.Ports, p) })
}

// contestants are who claim an address, those last who were edited since, after
// them those whose status does not show it, and then those without a record.
func (o *slow) contestants(a netip.Addr) (all []*slowClaim) {
	for place := range 16 {
		for _, c := range o.on(a) {
			edited := !c.promised && !c.s.Foreign && c.s.Terms != "" && c.s.Terms != terms(c.s)
			if edited == (place&1 > 0) && c.withdrawn == (place&2 > 0) && c.unrecorded == (place&4 > 0) && c.leaving == (place&8 > 0) {
				all = append(all, c)
			}
		}
	}
	return all
}

// keeps reports whether the contest leaves the claim its address.
func (o *slow) keeps(c *slowClaim) bool {
	var winners []*slowClaim
	for _, d := range o.contestants(c.addr) {
		won := !slices.ContainsFunc(winners, func(w *slowClaim) bool { return !slowlyShares(w.s, d.s) })
		if d == c {
			return won && !c.leaving
		}
		if won {
			winners = append(winners, d)
		}
	}
	panic("a claim that is not on its address")
}

func (o *slow) nameOf(a netip.Addr) string {
	c := o.on(a)[0]
	from := c.from
	if from == "" {
		from = o.recorded(c.s, a)
	}
	giver := o.pool(from)
	if p := o.owner(a); p != nil && !covers(giver, a) && (giver == nil || giver.Deleting) {
		return p.Name
	}
	return from
}

func (o *slow) orphan(a netip.Addr) bool {
	p := o.pool(o.nameOf(a))
	return !covers(p, a) || p.Deleting
}

func (o *slow) held(s *lb.Service, f lb.Family) *slowClaim {
	for i := len(o.claims) - 1; i >= 0; i-- {
		if c := o.claims[i]; c.s == s && lb.FamilyOf(c.addr) == f && o.keeps(c) {
			return c
		}
	}
	return nil
}

func slowlyAdmits(p *lb.Pool, s *lb.Service) bool {
	a := p.Allocation
	if a == nil {
		return true
	}
	namespace := len(a.Namespaces)+len(a.NamespaceSelectors) == 0
	for _, n := range a.Namespaces {
		namespace = namespace || n == s.Key.Namespace
	}
	for _, sel := range a.NamespaceSelectors {
		namespace = namespace || sel.Matches(s.NamespaceLabels)
	}
	service := len(a.ServiceSelectors) == 0
	for _, sel := range a.ServiceSelectors {
		service = service || sel.Matches(lbtest.LabelMap(s.Labels))
	}
	return namespace && service
}

func requested(s *lb.Service, f lb.Family) netip.Addr {
	for _, a := range s.Request.Addresses {
		if lb.FamilyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}

// needs returns the families for which s has to find an address.
func (o *slow) needs(s *lb.Service, anew bool) (need []lb.Family) {
	for _, f := range slowFamilies(s) {
		c := o.held(s, f)
		switch want := requested(s, f); {
		case c == nil:
			need = append(need, f)
		case want.IsValid():
			if c.addr != want {
				need = append(need, f)
			}
		case s.Request.Pool != "" && o.nameOf(c.addr) != s.Request.Pool:
			need = append(need, f)
		case anew:
			need = append(need, f)
		default:
			if p := o.pool(o.nameOf(c.addr)); o.orphan(c.addr) && p != nil && p.Orphans == lb.OrphanReassign {
				need = append(need, f)
			}
		}
	}
	return need
}

func (o *slow) refused(s *lb.Service) Reason {
	switch {
	case s.Released, s.Foreign:
		return NotOurs
	case s.Headless:
		return Headless
	case len(slowFamilies(s)) == 0:
		return WaitingForClusterIP
	case len(s.Request.Problems) > 0:
		return BadRequest
	}
	for _, a := range s.Request.Addresses {
		if !slices.Contains(slowFamilies(s), lb.FamilyOf(a)) {
			return BadRequest
		}
	}
	return Allocated
}

func (o *slow) anew(s *lb.Service) bool {
	given := func(f lb.Family) bool { c := o.held(s, f); return c != nil && s.RecordOf(c.addr) != "" }
	return s.Request.Reallocate != "" && s.Request.Reallocate != s.Reallocated && (given(lb.IPv4) || given(lb.IPv6))
}

// look decides for a Service that needs nothing.
func (o *slow) look(s *lb.Service) (slowDecision, bool) {
	why := o.refused(s)
	if why == Allocated && len(o.needs(s, o.anew(s))) > 0 {
		return slowDecision{}, true
	}
	return o.conclude(s, nil, why), false
}

func (o *slow) serve(s *lb.Service) slowDecision {
	if len(o.needs(s, o.anew(s))) == 0 { // an older one made way meanwhile
		return o.conclude(s, nil, Allocated)
	}
	return o.find(s, o.needs(s, o.anew(s)), o.anew(s))
}

func (o *slow) find(s *lb.Service, need []lb.Family, anew bool) slowDecision {
	families := slowFamilies(s)
	nothing := o.held(s, lb.IPv4) == nil && o.held(s, lb.IPv6) == nil
	got, why := o.search(s, need, nil)
	if s.FamilyPolicy == lb.PreferDualStack && nothing && len(got) == 1 && len(families) == 2 && got[families[0]] == nil {
		if first, _ := o.search(s, families[:1], nil); len(first) == 1 {
			got, why = o.search(s, families[1:], first)
		}
	}
	both := o.notBoth(s, need)
	if anew {
		for _, f := range []lb.Family{lb.IPv4, lb.IPv6} {
			if slices.Contains(need, f) && o.held(s, f) != nil && got[f] == nil && !requested(s, f).IsValid() {
				unmet := why[f]
				if other := lb.IPv4 + lb.IPv6 - f; len(need) == 2 && (o.held(s, other) != nil || got[other] != nil) && !requested(s, other).IsValid() {
					unmet = both
				}
				rest := o.needs(s, false)
				var d slowDecision
				if len(rest) == 0 {
					d = o.conclude(s, nil, Allocated)
				} else {
					d = o.find(s, rest, false)
				}
				d.Reason, d.Reallocated = unmet, s.Reallocated
				return d
			}
		}
	}
	for _, f := range families {
		if slices.Contains(need, f) && got[f] == nil && nothing && (len(got) == 0 || s.FamilyPolicy == lb.RequireDualStack) {
			if s.FamilyPolicy == lb.RequireDualStack {
				return o.conclude(s, nil, both)
			}
			return o.conclude(s, nil, why[f])
		}
	}
	for _, f := range families {
		if !slices.Contains(need, f) || got[f] != nil {
			continue
		}
		r := why[f]
		other := lb.IPv4 + lb.IPv6 - f
		hasOther := got[other] != nil || o.held(s, other) != nil
		ordinary := slices.Contains([]Reason{Exhausted, LimitReached, Draining, FamilyUnavailable, NoPool}, r)
		if s.FamilyPolicy == lb.PreferDualStack && hasOther && o.held(s, f) == nil && ordinary {
			r = PartialDualStack
		}
		return o.conclude(s, got, r)
	}
	return o.conclude(s, got, Allocated)
}

// leaves lists the addresses that s gives up when it gets what it needs.
func (o *slow) leaves(s *lb.Service, need []lb.Family) (gone []netip.Addr) {
	for _, c := range o.claims {
		if c.s == s && (o.held(s, lb.FamilyOf(c.addr)) != c || slices.Contains(need, lb.FamilyOf(c.addr))) {
			gone = append(gone, c.addr)
		}
	}
	return gone
}

// room is how many addresses of p the namespace of s would still get.
func (o *slow) room(p *lb.Pool, s *lb.Service, need []lb.Family, got map[lb.Family]*Assignment) int {
	if p.Allocation == nil || p.Allocation.PerNamespaceLimit == 0 {
		return 1000
	}
	has := map[netip.Addr]bool{}
	gone := o.leaves(s, need)
	for _, c := range o.claims {
		if c.s.Key.Namespace == s.Key.Namespace && o.nameOf(c.addr) == p.Name && !(c.s == s && slices.Contains(gone, c.addr)) {
			has[c.addr] = true
		}
	}
	// An address that stays in use by the namespace costs nothing more, but one
	// that it only leaves behind was not counted above.
	for _, g := range got {
		if g.Pool == p.Name {
			has[g.Address] = true
		}
	}
	return p.Allocation.PerNamespaceLimit - len(has)
}

func (o *slow) joins(s *lb.Service, a netip.Addr) bool {
	all := o.on(a)
	p := o.pool(o.nameOf(a))
	if o.orphan(a) || p != o.owner(a) {
		return false
	}
	for i, c := range all {
		if !slowlyShares(c.s, s) || c.s == s || !p.SharedAcrossNamespaces && c.s.Key.Namespace != s.Key.Namespace {
			return false
		}
		for _, d := range all[:i] {
			if !slowlyShares(c.s, d.s) {
				return false
			}
		}
	}
	return true
}

func (o *slow) namespaceHas(s *lb.Service, a netip.Addr) bool {
	return slices.ContainsFunc(o.on(a), func(c *slowClaim) bool { return c.s.Key.Namespace == s.Key.Namespace })
}

// freed returns the free list's entry for an address nobody holds.
func (o *slow) freed(a netip.Addr) (last lb.FreedAddress, known bool) {
	for _, p := range o.Pools {
		for _, e := range p.Freed {
			if e.Address == a && (!known || cmp.Or(last.At.Compare(e.At), last.Service.Compare(e.Service)) < 0) {
				last, known = e, true
			}
		}
	}
	p := o.owner(a)
	if known && p.Strategy != lb.LeastRecentlyUsed && o.reservedUntil(last).IsZero() {
		return lb.FreedAddress{}, false
	}
	return last, known
}

func (o *slow) reservedUntil(e lb.FreedAddress) time.Time {
	p := o.owner(e.Address)
	if ends := e.At.Add(p.Retention); p.Retention > 0 && e.Service != (lb.ServiceKey{}) && o.Now.Before(ends) {
		return ends
	}
	return time.Time{}
}

// free lists the addresses of p that s could take, best first.
func (o *slow) free(p *lb.Pool, s *lb.Service, f lb.Family) []netip.Addr {
	var fresh []netip.Addr
	var rested []lb.FreedAddress
	for _, a := range o.addresses(p, f) {
		if len(o.on(a)) > 0 {
			continue
		}
		if e, known := o.freed(a); !known {
			fresh = append(fresh, a)
		} else if o.reservedUntil(e).IsZero() {
			rested = append(rested, e)
		}
	}
	slices.SortStableFunc(rested, func(a, b lb.FreedAddress) int { return a.At.Compare(b.At) })
	if p.Strategy == lb.Hash && len(fresh) > 0 {
		var every []netip.Addr // buggy ones and Nodes' too: the place must not move when those change
		for _, r := range p.Ranges {
			for a := r.First; r.Contains(a); a = a.Next() {
				if lb.FamilyOf(a) == f && o.owner(a) == p {
					every = append(every, a)
				}
			}
		}
		slices.SortFunc(every, netip.Addr.Compare)
		start := every[hash(s.Key)%uint64(len(every))]
		slices.SortStableFunc(fresh, func(a, b netip.Addr) int {
			before := func(x netip.Addr) int {
				if x.Less(start) {
					return 1
				}
				return 0
			}
			return cmp.Compare(before(a), before(b))
		})
	}
	for _, e := range rested {
		fresh = append(fresh, e.Address)
	}
	return fresh
}

// ownsAny reports whether an older pool leaves p some of a range.
func (o *slow) ownsAny(p *lb.Pool, r lb.AddressRange, f lb.Family) bool {
	for a := r.First; r.Contains(a); a = a.Next() {
		if lb.FamilyOf(a) == f && o.owner(a) == p {
			return true
		}
	}
	return false
}

// reasonOf is Allocated when p can give s n addresses, of family f among them.
func (o *slow) reasonOf(p *lb.Pool, s *lb.Service, f lb.Family, n int, need []lb.Family, got map[lb.Family]*Assignment) Reason {
	switch {
	case !slices.ContainsFunc(slices.Concat(p.Ranges, p.Lost), func(r lb.AddressRange) bool { return o.ownsAny(p, r, f) }):
		return FamilyUnavailable
	case p.Drain || p.Deleting:
		return Draining
	case o.room(p, s, need, got) < n:
		return LimitReached
	case len(o.free(p, s, f)) == 0:
		return Exhausted
	}
	return Allocated
}

// notBoth is why one who takes two addresses or none gets none: what keeps one
// family away whoever holds something, else that not both are free.
func (o *slow) notBoth(s *lb.Service, need []lb.Family) Reason {
	pools := o.scope(s)
	if name := s.Request.Pool; name != "" {
		pools = nil
		if p := o.pool(name); p != nil {
			pools = []*lb.Pool{p}
		}
	}
	var may []*lb.Pool
	for _, f := range slowFamilies(s) {
		if a := requested(s, f); a.IsValid() {
			near := func(by lb.ServiceKey) bool { return by.Namespace == s.Key.Namespace }
			inUseElsewhere := o.owner(a) != nil && !o.external(s.Key, a, near) && (o.external(s.Key, a, func(lb.ServiceKey) bool { return true }) || !o.neighbors(s, a))
			if r := o.fetch(s, a, need, nil); r != Allocated && (r != AddressInUse || !inUseElsewhere) {
				return r
			}
			may = append(may, o.owner(a))
			continue
		}
		if s.Request.Pool != "" && len(pools) == 0 {
			return PoolNotFound
		}
		if s.Request.Pool != "" && !slowlyAdmits(pools[0], s) {
			return NotPermitted
		}
		why := NoPool
		for _, p := range pools {
			v := max(o.reasonOf(p, s, f, 1, need, nil), Exhausted)
			why = min(why, v)
			if v == Exhausted {
				may = append(may, p)
			}
		}
		if why != Exhausted {
			return why
		}
	}
	if len(may) == 2 && may[0] == may[1] && o.room(may[0], s, need, nil) < 2 {
		return LimitReached
	}
	return Exhausted
}

// neighbors reports whether another Service of the namespace holds the address and cannot
// share it.
func (o *slow) neighbors(s *lb.Service, a netip.Addr) bool {
	return slices.ContainsFunc(o.on(a), func(c *slowClaim) bool {
		return c.s != s && c.s.Key.Namespace == s.Key.Namespace && !slowlyShares(c.s, s)
	})
}

func (o *slow) fetch(s *lb.Service, a netip.Addr, need []lb.Family, got map[lb.Family]*Assignment) Reason {
	p := o.owner(a)
	switch {
	case s.Request.Pool != "" && o.pool(s.Request.Pool) == nil:
		return PoolNotFound
	case o.onNode(a):
		return NodeAddress
	case p == nil, s.Request.Pool != "" && p.Name != s.Request.Pool:
		return AddressNotInPool
	case !slowlyAdmits(p, s):
		return NotPermitted
	case o.external(s.Key, a, func(lb.ServiceKey) bool { return true }):
		return AddressInUse
	case !o.lendsTo(s.Key, p, a):
		return AddressNotInPool
	case p.Drain || p.Deleting:
		return Draining
	case !o.namespaceHas(s, a) && o.room(p, s, need, got) < 1:
		return LimitReached
	}
	if len(o.on(a)) > 0 {
		if o.joins(s, a) {
			return Allocated
		}
		if o.neighbors(s, a) && s.Request.SharingKey != "" {
			return SharingConflict
		}
		return AddressInUse
	}
	if e, known := o.freed(a); known && !o.reservedUntil(e).IsZero() && e.Service != s.Key {
		if e.Service.Namespace != s.Key.Namespace {
			return AddressInUse
		}
		return AddressReserved
	}
	return Allocated
}

// scope lists the pools that serve s unasked.
func (o *slow) scope(s *lb.Service) []*lb.Pool {
	var selecting, open []*lb.Pool
	for i := range o.Pools {
		switch p := &o.Pools[i]; {
		case !p.AutoAssign:
		case p.Allocation == nil:
			open = append(open, p)
		case slowlyAdmits(p, s):
			selecting = append(selecting, p)
		}
	}
	byName := func(a, b *lb.Pool) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(open, byName)
	slices.SortFunc(selecting, func(a, b *lb.Pool) int {
		last := func(p *lb.Pool) int {
			if p.Allocation.Priority == 0 {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(last(a), last(b)), cmp.Compare(a.Allocation.Priority, b.Allocation.Priority), byName(a, b))
	})
	return append(selecting, open...)
}

func (o *slow) search(s *lb.Service, need []lb.Family, first map[lb.Family]*Assignment) (map[lb.Family]*Assignment, map[lb.Family]Reason) {
	got, why := map[lb.Family]*Assignment{}, map[lb.Family]Reason{}
	for f, a := range first {
		got[f] = a
	}
	var open []lb.Family
	for _, f := range need {
		if a := requested(s, f); !a.IsValid() {
			open = append(open, f)
		} else if why[f] = o.fetch(s, a, need, got); why[f] == Allocated {
			got[f] = &Assignment{Address: a, Pool: o.owner(a).Name}
		}
	}
	pools := o.scope(s)
	if name := s.Request.Pool; name != "" {
		p := o.pool(name)
		if p == nil || !slowlyAdmits(p, s) {
			for _, f := range open {
				why[f] = NotPermitted
				if p == nil {
					why[f] = PoolNotFound
				}
			}
			return got, why
		}
		pools = []*lb.Pool{p}
	}
	give := func(f lb.Family, a netip.Addr, p *lb.Pool) {
		got[f] = &Assignment{Address: a, Pool: p.Name}
		open = slices.DeleteFunc(slices.Clone(open), func(o lb.Family) bool { return o == f })
	}

	if len(open) == 2 {
	pair:
		for _, four := range o.shared(s, lb.IPv4, pools, need, got) {
			for _, six := range o.shared(s, lb.IPv6, pools, need, map[lb.Family]*Assignment{lb.IPv4: &four}) {
				if o.together(four.Address, six.Address) {
					give(lb.IPv4, four.Address, o.pool(four.Pool))
					give(lb.IPv6, six.Address, o.pool(six.Pool))
					break pair
				}
			}
		}
	}
	for _, f := range open {
		if all := o.shared(s, f, pools, need, got); len(all) > 0 {
			other := lb.IPv4 + lb.IPv6 - f
			with := got[other]
			if c := o.held(s, other); with == nil && c != nil {
				with = &Assignment{Address: c.addr}
			}
			best := slices.IndexFunc(all, func(a Assignment) bool { return with != nil && o.together(a.Address, with.Address) })
			best = max(best, 0)
			give(f, all[best].Address, o.pool(all[best].Pool))
			continue
		}
		var kept []lb.FreedAddress
		for _, p := range pools {
			for _, a := range o.addresses(p, f) {
				if e, known := o.freed(a); known && len(o.on(a)) == 0 && !o.reservedUntil(e).IsZero() && e.Service == s.Key &&
					!p.Drain && !p.Deleting && o.room(p, s, need, got) >= 1 {
					kept = append(kept, e)
				}
			}
		}
		slices.SortFunc(kept, func(a, b lb.FreedAddress) int { return cmp.Or(b.At.Compare(a.At), b.Address.Compare(a.Address)) })
		if len(kept) > 0 {
			give(f, kept[0].Address, o.owner(kept[0].Address))
		}
	}
	if len(open) == 1 {
		f, other := open[0], lb.IPv4+lb.IPv6-open[0]
		var partner string
		if got[other] != nil {
			partner = got[other].Pool
		} else if c := o.held(s, other); c != nil {
			partner = o.nameOf(c.addr)
		}
		for _, p := range pools {
			if p.Name == partner && o.reasonOf(p, s, f, 1, need, got) == Allocated {
				give(f, o.free(p, s, f)[0], p)
			}
		}
	}
	if len(open) == 2 {
		for _, p := range pools {
			if o.reasonOf(p, s, lb.IPv4, 2, need, got) == Allocated && o.reasonOf(p, s, lb.IPv6, 2, need, got) == Allocated {
				give(lb.IPv4, o.free(p, s, lb.IPv4)[0], p)
				give(lb.IPv6, o.free(p, s, lb.IPv6)[0], p)
				break
			}
		}
	}
	for _, f := range open {
		why[f] = NoPool
		for _, p := range pools {
			v := o.reasonOf(p, s, f, 1, need, got)
			if v == Allocated {
				give(f, o.free(p, s, f)[0], p)
				break
			}
			rank := []Reason{Exhausted, LimitReached, Draining, FamilyUnavailable, NoPool}
			if slices.Index(rank, v) < slices.Index(rank, why[f]) {
				why[f] = v
			}
		}
	}
	return got, why
}

// shared lists the addresses that s may join others of its key on, best first.
func (o *slow) shared(s *lb.Service, f lb.Family, pools []*lb.Pool, need []lb.Family, got map[lb.Family]*Assignment) (all []Assignment) {
	if s.Request.SharingKey == "" {
		return nil
	}
	others := slices.SortedFunc(slices.Values(o.Pools), func(a, b lb.Pool) int { return cmp.Compare(a.Name, b.Name) })
	order := slices.Clone(pools)
	for _, p := range others {
		if !slices.Contains(order, o.pool(p.Name)) {
			order = append(order, o.pool(p.Name))
		}
	}
	for _, p := range order {
		if p.Drain || p.Deleting || !slowlyAdmits(p, s) || s.Request.Pool != "" && p.Name != s.Request.Pool {
			continue
		}
		for _, a := range o.addresses(p, f) {
			if len(o.on(a)) == 0 || o.nameOf(a) != p.Name || !o.joins(s, a) || !o.namespaceHas(s, a) && o.room(p, s, need, got) < 1 {
				continue
			}
			all = append(all, Assignment{Address: a, Pool: p.Name})
		}
	}
	return all
}

// together reports whether one Service claims both addresses.
func (o *slow) together(a, b netip.Addr) bool {
	return slices.ContainsFunc(o.on(a), func(c *slowClaim) bool {
		return slices.ContainsFunc(o.on(b), func(d *slowClaim) bool { return c.s == d.s })
	})
}

func (o *slow) conclude(s *lb.Service, got map[lb.Family]*Assignment, why Reason) slowDecision {
	d := slowDecision{Service: s.Key, Reason: why, Reallocated: s.Reallocated}
	before := map[lb.Family]*slowClaim{lb.IPv4: o.held(s, lb.IPv4), lb.IPv6: o.held(s, lb.IPv6)}
	families := slowFamilies(s)
	if len(families) == 0 {
		for _, a := range s.Assigned {
			if !slices.Contains(families, lb.FamilyOf(a)) {
				families = append(families, lb.FamilyOf(a))
			}
		}
	}
	for _, f := range families {
		c := before[f]
		if g := got[f]; g != nil {
			o.claims = append(o.claims, &slowClaim{s: s, addr: g.Address, from: g.Pool, promised: true})
			d.Assigned = append(d.Assigned, *g)
			continue
		}
		if c == nil {
			continue
		}
		a := Assignment{Address: c.addr, Pool: o.nameOf(c.addr), Orphan: o.orphan(c.addr)}
		d.Assigned = append(d.Assigned, a)
		p := o.pool(a.Pool)
		switch {
		case d.Reason != Allocated:
		case a.Orphan:
			d.Reason = Orphaned
		case p != o.owner(c.addr), p.Drain, !slowlyAdmits(p, s), o.onNode(c.addr):
			d.Reason = Kept
		}
	}
	for _, c := range o.claims {
		if c.s == s && !slices.ContainsFunc(d.Assigned, func(a Assignment) bool { return a.Address == c.addr }) {
			d.Released = append(d.Released, c.addr)
		}
	}
	slices.SortFunc(d.Released, netip.Addr.Compare)
	if len(d.Assigned) == 0 {
		for _, a := range s.Assigned {
			if !o.ours(s, a) {
				d.Left = append(d.Left, a)
			}
		}
		if why := d.Reason; len(d.Left)+len(s.Others) > 0 && why >= PartialDualStack && why < WaitingForClusterIP {
			d.Reason = ForeignAddress
		}
	}
	unheard := []Reason{BadRequest, WaitingForClusterIP, Headless, NotOurs}
	if s.Request.Reallocate != "" && len(d.Assigned) > 0 && !slices.Contains(unheard, why) {
		d.Reallocated = s.Request.Reallocate
	}
	switch {
	case s.Foreign:
		d.Terms = s.Terms
	case len(d.Assigned) > 0:
		d.Terms = terms(s)
	}
	return d
}
