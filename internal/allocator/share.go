package allocator

import (
	"cmp"
	"slices"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
)

// A claim is one Service's hold on one address: its status shows the address,
// or a decision promised it.
type claim struct {
	*service
	use *use
	// from is the pool that it comes from by our record; empty without one.
	from string
	// promised is set until the status shows the address; revocable from when a
	// newer version of the Service is put, as then no write can fulfill the
	// promise any more, to when it is promised again.
	promised, revocable bool
	// withdrawn is set while another writer keeps the address out of the status.
	withdrawn bool
	// unrecorded is set when only the status says that it is the Service's.
	unrecorded bool
	// leaving is set when the Service gives the address up in any case.
	leaving bool
	// lost is set when another that comes before it holds the address and does not
	// share; keeps while the address is not settled and the claim is one of those
	// who go before.
	lost, keeps bool
}

// holds reports whether the Service may go on with the address.
func (c *claim) holds() bool { return !c.leaving && !c.lost }

// older orders claims to one address: those who leave yield to those who stay, and
// those that only a status makes to those that our record has.
func (c *claim) older(o *claim) int {
	return cmp.Or(last(c.leaving, o.leaving), last(c.unrecorded, o.unrecorded), c.service.older(o.service))
}

// A use is one address in use.
type use struct {
	addr
	owner *pool // which may hand it out; nil when none may
	// pool is the one it is held under, nil when that is gone; name names it.
	pool *pool
	name string
	// orphan is set when that pool no longer covers it, or is being deleted.
	orphan bool
	// was is its entry in the free list when it came into use.
	was    freed
	claims []*claim // oldest first
	// settled is set while all claims agree to share; else a contest decides, which
	// is still to come while disputed is set.
	settled, disputed bool
	// ports and namespaces count the claims; nil while there is one claim.
	ports      multiset
	namespaces map[string]int
	group      *group // nil while it is not open to others
	// partners counts, for each address of the other family, the Services that
	// claim both.
	partners counts[*use]
}

// A group is the addresses that Services of one key may share: those of each
// family, and the IPv4 ones of pairs.
type group struct {
	groupKey
	shelves [3]shelf
}

// pairs is the index of the shelf of IPv4 addresses that have partners.
const pairs = 2

// A groupKey names a group; the namespace is empty for pools that are shared
// across namespaces.
type groupKey struct{ key, namespace string }

// A shelf is some of the addresses of a group.
type shelf struct {
	uses []*use // by address
	// runs say of ports how many addresses, from the lowest on, serve them: none has
	// to be looked there for one that does not. Only runs of minRun or more are kept.
	runs tally
	// pools counts the addresses by pool, which is the one that owns them.
	pools counts[*pool]
}

// clash returns why two Services cannot share an address, leaving ports aside.
func clash(a, b *lb.Service) Clash {
	switch {
	case a.Request.SharingKey == "" || a.Request.SharingKey != b.Request.SharingKey:
		return ClashKey
	case a.TrafficPolicy != b.TrafficPolicy:
		return ClashTrafficPolicy
	case a.TrafficPolicy == lb.TrafficLocal && a.PodSelector != b.PodSelector:
		return ClashSelector
	default:
		return NoClash
	}
}

// serves reports whether a Service that holds the address serves the port.
func (u *use) serves(p lb.Port) bool {
	if u.ports != nil {
		return u.ports.of(p) > 0
	}
	return slices.Contains(u.claims[0].Ports, p)
}

// has counts the claims of a namespace.
func (u *use) has(namespace string) int {
	if u.namespaces != nil {
		return u.namespaces[namespace]
	}
	if u.claims[0].Key.Namespace == namespace {
		return 1
	}
	return 0
}

// takes reports whether the Service may come to share the address with those who hold it.
func (u *use) takes(s *service) bool {
	switch {
	case !u.settled || slices.ContainsFunc(s.claims, func(c *claim) bool { return c.use == u }):
		return false // it is about to move, or to be given up by the Service itself
	case u.orphan || u.pool != u.owner:
		return false
	case !u.pool.SharedAcrossNamespaces && (u.has(s.Key.Namespace) == 0 || len(u.namespaces) > 1):
		return false
	}
	return clash(&s.Service, &u.claims[0].Service) == NoClash && !slices.ContainsFunc(s.Ports, u.serves)
}

// neighbor returns the oldest Service of the same namespace that holds the address
// and cannot share it with this one, and why. None when only others keep it away: what
// those of other namespaces do is not told, so that it need not be told again whenever
// they do something else.
func (u *use) neighbor(s *service) (lb.ServiceKey, Clash, lb.Port) {
	if u.has(s.Key.Namespace) == 0 {
		return lb.ServiceKey{}, NoClash, lb.Port{}
	}
	for _, c := range u.claims {
		if c.service == s || c.Key.Namespace != s.Key.Namespace {
			continue
		}
		if why, port := c.clashes(s); why != NoClash {
			return c.Key, why, port
		}
	}
	return lb.ServiceKey{}, NoClash, lb.Port{}
}

// clashes returns why the claim and a Service cannot share an address.
func (c *claim) clashes(s *service) (Clash, lb.Port) {
	if why := clash(&s.Service, &c.Service); why != NoClash {
		return why, lb.Port{}
	}
	for _, p := range s.Ports {
		if slices.Contains(c.Ports, p) {
			return ClashPort, p
		}
	}
	return NoClash, lb.Port{}
}

// rival returns the oldest of those who keep the address of a lost claim and cannot
// share it with the Service, and why: one of its own namespace, if there is one. Others
// are not named to it.
func (c *claim) rival() (key lb.ServiceKey, why Clash, port lb.Port) {
	for _, o := range c.use.claims {
		if !o.keeps {
			continue
		}
		clash, on := o.clashes(c.service)
		switch {
		case clash == NoClash:
		case o.Key.Namespace == c.Key.Namespace:
			return o.Key, clash, on
		case why == NoClash:
			why, port = clash, on
		}
	}
	return lb.ServiceKey{}, why, port
}

// claim enters a Service's claim to an address.
func (p *Planner) claim(s *service, t tenure) *claim {
	u := p.uses[t.addr]
	if u == nil {
		u = &use{addr: t.addr, owner: p.owner(t.addr), settled: true}
		p.uses[t.addr] = u
		p.take(u)
	}
	c := &claim{
		service: s, use: u, from: t.from, promised: t.promised, revocable: t.revocable,
		withdrawn: t.withdrawn, leaving: t.leaving, unrecorded: t.unrecorded,
	}
	p.uncount(u)
	i, _ := slices.BinarySearchFunc(u.claims, c, (*claim).older)
	u.claims = slices.Insert(u.claims, i, c)
	switch {
	case len(u.claims) == 1:
	case u.settled && u.agrees(c):
		u.tally(c)
	default:
		p.dispute(u)
	}
	p.recount(u)
	for _, o := range s.claims {
		if o.use.family() != u.family() {
			u.pair(o.use, +1)
		}
	}
	s.claims = append(s.claims, c)
	return c
}

// unclaim takes a claim back. A Service that is gone leaves its name in the
// free list, so that it finds its address again.
func (p *Planner) unclaim(c *claim, gone bool) {
	u := c.use
	c.service.claims = slices.DeleteFunc(c.service.claims, func(o *claim) bool { return o == c })
	for _, o := range c.service.claims {
		if o.use.family() != u.family() {
			u.pair(o.use, -1)
		}
	}
	p.uncount(u)
	i := u.find(c)
	u.claims = slices.Delete(u.claims, i, i+1)
	u.shorten(c)
	p.loosened = true
	if len(u.claims) == 0 {
		p.enter(u, nil)
		delete(p.uses, u.addr)
		p.giveBack(u)
	}
	p.leave(c, gone)
	if len(u.claims) == 0 {
		return
	}
	if u.settled {
		u.untally(c)
	} else {
		p.dispute(u)
	}
	p.recount(u)
}

// find returns the place of a claim among those to its address. Of one Service
// there is one claim.
func (u *use) find(c *claim) int {
	i, found := slices.BinarySearchFunc(u.claims, c, (*claim).older)
	if !found || u.claims[i] != c {
		panic("a claim is not where its age puts it")
	}
	return i
}

// dispute leaves it to resolve which Service keeps an address. Until then none counts
// for it, and none joins.
func (p *Planner) dispute(u *use) {
	if !u.disputed {
		u.disputed, u.settled = true, false
		p.enter(u, nil)
		p.disputes = append(p.disputes, u)
	}
}

// reconsider disputes an address again whose claims do not all share.
func (p *Planner) reconsider(u *use) {
	if !u.settled {
		p.uncount(u)
		p.dispute(u)
	}
}

// resolve decides the disputes that have come up: each once, however many claims
// have come and gone.
func (p *Planner) resolve() {
	for _, u := range p.disputes {
		u.disputed = false
		if len(u.claims) > 0 {
			p.contest(u)
			p.recount(u)
		}
	}
	p.disputes = p.disputes[:0]
}

// agrees reports whether a new claim shares with all others of a settled use.
func (u *use) agrees(c *claim) bool {
	other := u.claims[0]
	if other == c {
		other = u.claims[1]
	}
	if clash(&c.Service, &other.Service) != NoClash {
		return false
	}
	if u.ports == nil {
		return !slices.ContainsFunc(c.Ports, func(p lb.Port) bool { return slices.Contains(other.Ports, p) })
	}
	return !slices.ContainsFunc(c.Ports, u.serves)
}

func (u *use) tally(c *claim) {
	if u.ports == nil {
		u.count()
		return
	}
	u.ports.add(c.Ports)
	u.namespaces[c.Key.Namespace]++
}

func (u *use) untally(c *claim) {
	if len(u.claims) == 1 {
		u.ports, u.namespaces = nil, nil
		return
	}
	u.ports.remove(c.Ports)
	if n := c.Key.Namespace; u.namespaces[n] == 1 {
		delete(u.namespaces, n)
	} else {
		u.namespaces[n]--
	}
}

// count counts ports and namespaces anew. A promise that is lost counts for
// nothing: it takes effect in no case, and there may be no write to end it.
func (u *use) count() {
	u.ports, u.namespaces = nil, nil
	if len(u.claims) < 2 {
		return
	}
	u.ports, u.namespaces = multiset{}, map[string]int{}
	for _, c := range u.claims {
		if !c.promised || !c.lost {
			u.tally(c)
		}
	}
}

// contestants returns the claims in the order in which they may keep the address:
// those who leave yield to those who stay, those that our record does not give it to
// to those that it does, those whose status does not show it to those whose does, those
// who were edited since they came to hold it to those who were not, and the younger to
// the older.
func (u *use) contestants() []*claim {
	all := slices.Clone(u.claims)
	slices.SortStableFunc(all, func(a, b *claim) int {
		return cmp.Or(last(a.leaving, b.leaving), last(a.unrecorded, b.unrecorded),
			last(a.withdrawn, b.withdrawn), last(a.edited(), b.edited()), a.older(b))
	})
	return all
}

// last puts what is so after what is not.
func last(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// contest decides an address that several hold, not all of whom share: each, in
// the order of contestants, keeps it if it shares with all who keep it already. So
// the one whose edit breaks a shared address loses it, and where that is not known
// the older keeps it.
func (p *Planner) contest(u *use) {
	u.settled = true
	first := (*claim)(nil)
	ports := map[lb.Port]bool{}
	for _, c := range u.contestants() {
		c.keeps = (first == nil || clash(&c.Service, &first.Service) == NoClash) &&
			!slices.ContainsFunc(c.Ports, func(p lb.Port) bool { return ports[p] })
		u.settled = u.settled && c.keeps
		if lost := !c.keeps && !c.leaving; lost != c.lost {
			c.lost = lost
			p.mark(c.service)
		}
		if !c.keeps {
			continue
		}
		if first == nil {
			first = c
		}
		for _, port := range c.Ports {
			ports[port] = true
		}
	}
	u.count()
}

// outranked reports whether a lost claim has no record and one that keeps the address
// does.
func (c *claim) outranked() bool {
	return c.unrecorded && slices.ContainsFunc(c.use.claims, func(o *claim) bool { return o.keeps && !o.unrecorded })
}

// recount enters a use into the books of the pool that it is held under, and
// into its group; uncount takes it out of the former. Between the two it may
// change.
func (p *Planner) recount(u *use) {
	if u.disputed {
		return
	}
	name := u.name
	o := p.origins.Find(u.netip(), u.claims[0].from)
	u.name, u.pool = o.Pool, p.byName[o.Pool]
	u.orphan = o.Standing != origin.Covered || u.pool.Deleting
	if (len(u.claims) > 1 || name != "") && u.name != name {
		for _, c := range u.claims {
			p.mark(c.service)
		}
	}
	if u.pool != nil {
		p.book(u, +1)
	}
	if u.claims[0].Request.SharingKey != "" {
		p.loosened = true
		p.enter(u, p.groupOf(u))
	} else {
		p.enter(u, nil)
	}
	if p.asked[u.addr] > 0 {
		p.loosened = true
	}
}

func (p *Planner) uncount(u *use) {
	if !u.disputed && u.pool != nil {
		p.book(u, -1)
	}
}

func (p *Planner) book(u *use, n int) {
	at, f := u.pool, u.family()
	at.stale = true
	at.held[f] += uint64(n)
	if u.orphan {
		at.orphans[f] += uint64(n)
	}
	if u.namespaces == nil {
		p.bookNamespace(at, u.claims[0].Key.Namespace, n)
		return
	}
	for namespace := range u.namespaces {
		p.bookNamespace(at, namespace, n)
	}
}

func (p *Planner) bookNamespace(at *pool, namespace string, n int) {
	p.version++
	if at.namespaces[namespace] += n; at.namespaces[namespace] == 0 {
		delete(at.namespaces, namespace)
	}
	if limit := at.limit(); limit > 0 && at.namespaces[namespace] >= limit-1 { // one less matters to those who need two
		p.loosened = true
	}
}

// groupOf returns the group in which others of the same key find the address;
// nil while none may join.
func (p *Planner) groupOf(u *use) *group {
	if !u.settled || u.orphan || u.pool != u.owner || u.pool.drains() {
		return nil
	}
	key := groupKey{key: u.claims[0].Request.SharingKey}
	if !u.pool.SharedAcrossNamespaces {
		key.namespace = u.claims[0].Key.Namespace
	}
	g := p.groups[key]
	if g == nil {
		g = &group{groupKey: key}
		p.groups[key] = g
	}
	return g
}

// enter moves an address into another group, or into none.
func (p *Planner) enter(u *use, next *group) {
	if u.group == next {
		return
	}
	last := u.group
	if last != nil {
		for _, h := range last.shelvesOf(u) {
			h.remove(u)
		}
		if len(last.shelves[v4].uses)+len(last.shelves[v6].uses) == 0 {
			delete(p.groups, last.groupKey)
		}
	}
	if u.group = next; next != nil {
		for _, h := range next.shelvesOf(u) {
			h.put(u)
		}
	}
}

// shelvesOf returns where an address stands in the group.
func (g *group) shelvesOf(u *use) []*shelf {
	shelves := []*shelf{&g.shelves[u.family()]}
	if u.family() == v4 && len(u.partners) > 0 {
		shelves = append(shelves, &g.shelves[pairs])
	}
	return shelves
}

// shorten ends at its address the runs of the ports of a claim that is taken back.
func (u *use) shorten(of *claim) {
	if u.group == nil {
		return
	}
	for _, h := range u.group.shelvesOf(u) {
		i := h.find(u)
		for _, p := range of.Ports {
			h.runs.set(p, worth(min(h.runs.of(p), i)))
		}
	}
}

// pair enters that one Service more, or less, claims both addresses.
func (u *use) pair(o *use, n int) {
	for _, of := range [2][2]*use{{u, o}, {o, u}} {
		mine, other := of[0], of[1]
		before := len(mine.partners)
		mine.partners.add(other, n)
		if mine.group == nil || mine.family() != v4 {
			continue
		}
		switch h := &mine.group.shelves[pairs]; {
		case before == 0:
			h.put(mine)
		case len(mine.partners) == 0:
			h.remove(mine)
		}
	}
}

func byAddress(a, b *use) int { return a.compare(b.addr) }

// find returns the place of an address on the shelf, or where to put it.
func (h *shelf) find(u *use) int {
	i, _ := slices.BinarySearchFunc(h.uses, u, byAddress)
	return i
}

func (h *shelf) put(u *use) {
	i := h.find(u)
	h.uses = slices.Insert(h.uses, i, u)
	h.pools.add(u.owner, +1)
	h.runs.update(func(p lb.Port, run int) int {
		switch {
		case run <= i:
			return run
		case u.serves(p):
			return run + 1
		default:
			return worth(i)
		}
	})
}

// minRun is how long a run is that is kept. A shorter one is soon found again, and would
// cost as much: a few Services of one key that have all ports in common each know all of
// them.
const minRun = 8

// worth returns the length of a run, or 0 where it is not kept.
func worth(run int) int {
	if run < minRun {
		return 0
	}
	return run
}

func (h *shelf) remove(u *use) {
	i := h.find(u)
	h.uses = slices.Delete(h.uses, i, i+1)
	h.pools.add(u.owner, -1)
	h.runs.update(func(_ lb.Port, run int) int {
		if run > i {
			return worth(run - 1)
		}
		return run
	})
}

// open returns the addresses from the first on that may have a Service's ports
// to spare.
func (h *shelf) open(s *service) []*use {
	from := 0
	for _, p := range s.Ports {
		known := h.runs.of(p)
		run := known
		for run < len(h.uses) && h.uses[run].serves(p) {
			run++
		}
		if run > known {
			h.runs.set(p, worth(run))
		}
		from = max(from, run)
	}
	return h.uses[from:]
}

// alter changes what is known of a claim.
func (p *Planner) alter(c *claim, t tenure) {
	u := c.use
	p.uncount(u)
	c.from, c.promised, c.withdrawn = t.from, t.promised, t.withdrawn
	if c.leaving != t.leaving || c.unrecorded != t.unrecorded {
		c.leaving, c.unrecorded = t.leaving, t.unrecorded
		slices.SortFunc(u.claims, (*claim).older)
	}
	if !u.settled {
		p.dispute(u)
	}
	p.recount(u)
	p.loosened = true
}
