package allocator

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
)

// A leaver is the Service that gave an address up.
type leaver struct {
	*service
	gone bool
	// unused is set when it was only promised the address, which then goes
	// back to where it was in the free list.
	unused bool
	was    freed
}

// owner returns the pool that may hand an address out, or nil.
func (p *Planner) owner(a addr) *pool {
	if at := p.origins.Owner(a.netip()); at != nil {
		return p.byName[at.Name]
	}
	return nil
}

// lendable reports whether an address of the pool's spans may be handed out.
func (p *Planner) lendable(at *pool, a addr) bool {
	return p.lendableTo(lb.ServiceKey{}, at, a)
}

// lendableTo is the same for one Service, which may have what its own externalIPs name.
func (p *Planner) lendableTo(key lb.ServiceKey, at *pool, a addr) bool {
	return !(at.AvoidBuggyIPs && a.buggy()) && p.nodes[a] == "" && !p.othersExternal(key, a)
}

// othersExternal reports whether externalIPs of another Service name an address.
func (p *Planner) othersExternal(key lb.ServiceKey, a addr) bool {
	return slices.ContainsFunc(p.external[a], func(by lb.ServiceKey) bool { return by != key })
}

// maxExternal is how many addresses the externalIPs in one namespace keep from being
// handed out, the lowest. Who may write Services of a namespace could keep whole pools
// from all others otherwise, whatever perNamespaceLimit says (docs/design/bounds.md).
const maxExternal = 16

// heed takes note of the externalIPs that lie in pools.
func (p *Planner) heed() {
	p.external = map[addr][]lb.ServiceKey{}
	heeded, last := map[string]int{}, map[string]netip.Addr{}
	for _, e := range p.givenExternal {
		a, namespace := number(e.Address), e.Service.Namespace
		if p.owner(a) == nil || p.nodes[a] != "" {
			continue
		}
		if last[namespace] != e.Address {
			if heeded[namespace] == maxExternal {
				continue
			}
			heeded[namespace]++
			last[namespace] = e.Address
		}
		p.external[a] = append(p.external[a], e.Service)
	}
	for a := range p.external {
		if at := p.owner(a); !(at.AvoidBuggyIPs && a.buggy()) {
			h := &at.perFamily[a.family()]
			h.fresh.remove(a)
			h.external++
		}
	}
}

// take enters an address that comes into use.
func (p *Planner) take(u *use) {
	at := u.owner
	if at == nil {
		return
	}
	h := &at.perFamily[u.family()]
	at.stale = true
	p.version++
	h.taken++
	if !p.lendable(at, u.addr) {
		h.odd++
		return
	}
	if !h.fresh.remove(u.addr) {
		u.was = p.forget(h, u.addr)
	}
}

// giveBack enters that it is no longer in use; bury makes it free.
func (p *Planner) giveBack(u *use) {
	at := u.owner
	if at == nil {
		return
	}
	h := &at.perFamily[u.family()]
	at.stale = true
	h.taken--
	if !p.lendable(at, u.addr) {
		h.odd--
	}
}

// leave notes who gave an address up. Of several between two plannings one that
// is gone counts before one that is not, and then the oldest, so that their
// order does not matter.
func (p *Planner) leave(c *claim, gone bool) {
	next := leaver{c.service, gone && !c.promised, c.promised, c.use.was}
	last, known := p.left[c.use.addr]
	rank := func(l leaver) int {
		switch {
		case l.gone:
			return 0
		case !l.unused:
			return 1
		default:
			return 2
		}
	}
	if !known || cmp.Or(cmp.Compare(rank(next), rank(last)), next.older(last.service)) < 0 {
		p.left[c.use.addr] = next
	}
}

// bury enters the addresses that no Service holds any more into the free lists.
func (p *Planner) bury() {
	for a, l := range p.left {
		at := p.owner(a)
		if at == nil || p.uses[a] != nil || !p.lendable(at, a) {
			continue
		}
		p.loosened = true
		p.version++
		e := freed{addr: a, at: p.now.UTC().Truncate(time.Second)} // as precise as the free list is kept
		switch {
		case l.gone:
			e.last = l.Key
		case l.unused && l.was.at.IsZero():
			at.perFamily[a.family()].fresh.add(a)
			continue
		case l.unused:
			e = l.was
		}
		p.remember(at, e)
	}
	clear(p.left)
}

// remember makes an address free that is neither in use nor fresh nor in the
// free list: fresh where the free list has no use for it.
func (p *Planner) remember(at *pool, e freed) {
	h := &at.perFamily[e.family()]
	at.stale = true
	ends := e.at.Add(at.Retention)
	e.reserved = at.Retention > 0 && e.last != lb.ServiceKey{} && p.now.Before(ends)
	if !e.reserved && at.Strategy != lb.LeastRecentlyUsed {
		h.fresh.add(e.addr)
		return
	}
	i, _ := slices.BinarySearchFunc(h.freeList, e, freed.compare)
	h.freeList = slices.Insert(h.freeList, i, e)
	if e.reserved {
		h.reserved++
		p.reserved[e.last] = append(p.reserved[e.last], e)
	}
	if four, six := &at.perFamily[v4], &at.perFamily[v6]; len(four.freeList)+len(six.freeList) > freeListLimit {
		oldest := four
		if len(four.freeList) == 0 || len(six.freeList) > 0 && six.freeList[0].compare(four.freeList[0]) < 0 {
			oldest = six
		}
		a := oldest.freeList[0].addr
		p.forget(oldest, a)
		oldest.fresh.add(a)
	}
}

// forget takes an address out of the free list and returns its entry.
func (p *Planner) forget(h *perFamily, a addr) freed {
	i := slices.IndexFunc(h.freeList, func(e freed) bool { return e.addr == a })
	if i < 0 {
		return freed{}
	}
	e := h.freeList[i]
	h.freeList = slices.Delete(h.freeList, i, i+1)
	if e.reserved {
		p.unreserve(h, e)
	}
	return e
}

func (p *Planner) unreserve(h *perFamily, e freed) {
	h.reserved--
	rest := slices.DeleteFunc(p.reserved[e.last], func(o freed) bool { return o.addr == e.addr })
	if p.reserved[e.last] = rest; len(rest) == 0 {
		delete(p.reserved, e.last)
	}
}

// expire ends the reservations whose time has come.
func (p *Planner) expire() {
	for _, at := range p.pools {
		if ends := at.nextExpiry(); ends.IsZero() || p.now.Before(ends) {
			continue
		}
		at.stale, p.loosened = true, true
		p.version++
		for f := range at.perFamily {
			h := &at.perFamily[f]
			h.freeList = slices.DeleteFunc(h.freeList, func(e freed) bool {
				return e.reserved && !p.now.Before(e.at.Add(at.Retention)) && at.Strategy != lb.LeastRecentlyUsed && p.free(h, e)
			})
			for i := range h.freeList {
				if e := &h.freeList[i]; e.reserved && !p.now.Before(e.at.Add(at.Retention)) {
					p.unreserve(h, *e)
					e.reserved = false
				}
			}
		}
	}
}

func (p *Planner) free(h *perFamily, e freed) bool {
	p.unreserve(h, e)
	h.fresh.add(e.addr)
	return true
}

// nextExpiry returns when the first reservation ends, or zero.
func (p *pool) nextExpiry() (first time.Time) {
	for f := range p.perFamily {
		if p.perFamily[f].reserved == 0 {
			continue
		}
		i := slices.IndexFunc(p.perFamily[f].freeList, func(e freed) bool { return e.reserved })
		if ends := p.perFamily[f].freeList[i].at.Add(p.Retention); first.IsZero() || ends.Before(first) {
			first = ends
		}
	}
	return first
}

// recall enters free lists, from wherever they are: of several entries for one
// address the newest counts, in the pool that has it now.
func (p *Planner) recall(entries []lb.FreedAddress) {
	slices.SortFunc(entries, func(a, b lb.FreedAddress) int {
		return cmp.Or(a.Address.Compare(b.Address), b.At.Compare(a.At), b.Service.Compare(a.Service))
	})
	entries = slices.CompactFunc(entries, func(a, b lb.FreedAddress) bool { return a.Address == b.Address })
	for _, e := range entries {
		a := number(e.Address)
		if at := p.owner(a); at != nil && p.lendable(at, a) && at.perFamily[a.family()].fresh.remove(a) {
			p.remember(at, freed{addr: a, last: e.Service, at: e.At})
		}
	}
}

// layOut compiles the pools anew and enters all claims again. The free list of a
// pool is read when the pool is first seen; then the planner is the one who
// writes it, and its own memory is ahead of what it reads back.
func (p *Planner) layOut() {
	var entries []lb.FreedAddress
	known := p.byName
	for _, at := range p.pools {
		entries = append(entries, at.decision().Freed...)
	}
	p.nodes = p.givenNodes
	nodes := make([]lb.Node, 0, len(p.nodes))
	for a, name := range p.nodes {
		nodes = append(nodes, lb.Node{Name: name, Addresses: []netip.Addr{a.netip()}})
	}
	p.origins = origin.New(p.given, nodes)
	p.pools, p.byName = compile(p.given, p.origins, p.nodes)
	p.heed()
	p.public, p.restricted, p.publicUnasked, p.restrictedUnasked = nil, nil, nil, nil
	for _, at := range p.pools {
		if last := known[at.Name]; last != nil {
			at.said = last.said
		} else {
			entries = append(entries, at.Freed...)
		}
		switch {
		case !at.AutoAssign && at.Allocation == nil:
			p.publicUnasked = append(p.publicUnasked, at)
		case !at.AutoAssign:
			p.restrictedUnasked = append(p.restrictedUnasked, at)
		case at.Allocation == nil:
			p.public = append(p.public, at)
		default:
			p.restricted = append(p.restricted, at)
		}
	}
	slices.SortStableFunc(p.restricted, byPriority)
	for i, at := range slices.Concat(p.restricted, p.public) {
		at.place = i
	}

	clear(p.uses)
	p.disputes = p.disputes[:0]
	clear(p.groups)
	clear(p.scopes)
	clear(p.reserved)
	p.generation++
	p.loosened = true
	for _, s := range p.services {
		var promised []tenure
		for _, c := range s.claims {
			if c.promised {
				promised = append(promised, tenure{addr: c.use.addr, from: c.from, promised: true, leaving: c.leaving, revocable: c.revocable})
			}
		}
		s.claims = nil
		var all []tenure
		all, s.foreign = p.tenures(&s.Service, promised)
		for _, t := range all {
			p.claim(s, t)
		}
		p.mark(s)
	}
	p.recall(entries)
}
