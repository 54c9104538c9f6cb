package announce

import (
	"cmp"
	"net/netip"
	"path"
	"slices"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
)

// An Intent is the complete decision of one speaker: what is absent from it is
// to be withdrawn.
type Intent struct {
	// Decisions have every address in use, ascending.
	Decisions []Decision
	// Mine are the indexes of those by which this node answers, ascending, and
	// Unclaimed of those about addresses that no node claimed when it was decided.
	Mine, Unclaimed []int
}

// A Decision is what is decided about one address.
type Decision struct {
	Address netip.Addr
	// Services share the address; by key.
	Services []lb.ServiceKey
	// Owner is the node that is to announce the address, empty when none can.
	Owner string
	// Role is what this node does about it, and Interfaces are the indexes of those
	// on which it answers unless it is a Backup, ascending. Many decisions share
	// one slice, which must not be changed.
	Role       election.Role
	Interfaces []int
	// Reason says why there is no owner; it is Owner when there is one.
	Reason eligibility.Reason
	// Placed is where the address is recorded to be, empty for nowhere, and Place
	// is where it should be: with its owner, so that it stays there when whoever
	// had it returns. With failback Immediate it is to go back, so the record
	// stays.
	Placed, Place string
	// Failback says whether it is to go back.
	Failback lb.Failback
	// Conflict says what to do about a foreign station that uses it.
	Conflict lb.ConflictPolicy
	// Fit is set when it is placed on another node than its owner that could own it.
	Fit bool
	// Barred is set when configuration does not let self have it, the node that this
	// is decided for.
	Barred bool
}

// Decide returns what the speaker of node self announces, given the living
// members of the cluster. It depends on the order of nothing, and two speakers
// with the same index and members never both own an address.
//
// A node that configuration takes an address away from (it is drained, say, or
// its last endpoint goes) is no candidate any more, but goes on answering until
// the new owner does, as long as there is one. That is what moving without a
// gap means; an address that no node may have is dropped at once.
//
// Turns says whose turn it is to claim what no node claims; nil: every node's.
func Decide(ix *Index, members []election.Member, turns *election.Holdoff, self string) Intent {
	d := newDecider(ix, members, self)
	d.turns = turns
	intent := Intent{Decisions: make([]Decision, len(ix.groups))}
	for i := range ix.groups {
		v, _ := d.decided(i)
		intent.Decisions[i] = v
		if v.Role != election.Backup {
			intent.Mine = append(intent.Mine, i)
		}
		if d.claims[i].count == 0 {
			intent.Unclaimed = append(intent.Unclaimed, i)
		}
	}
	return intent
}

// Confirms reports whether all that changed from one list of members to another
// is that nodes claim what the intent already says is theirs, so that Decide
// would return it again. While a cluster settles most changes are of this kind:
// every decision is followed by the claim of whom it favored.
//
// An address that self answers for is never left out of account: its claims are
// about who stops. Nor is one that is offered as soon as it is claimed: that is
// the turn of the node where it is placed. One that is not in use here is: others
// may have heard of its Service before us, and the Index will tell.
func (i *Intent) Confirms(before, after []election.Member, self string) bool {
	if len(before) != len(after) {
		return false
	}
	for n := range after {
		was, is := &before[n], &after[n]
		if was.Node != is.Node || was.State != is.State || !slices.EqualFunc(was.Interfaces, is.Interfaces, lb.Interface.Equal) ||
			!slices.Equal(was.Sessions, is.Sessions) {
			return false
		}
		if was.Version == is.Version && is.Version != (election.Version{}) {
			continue
		}
		for a, c := range is.Claims {
			if was.Claims[a] == c {
				continue
			}
			v, inUse := i.Decision(a)
			if inUse && (!was.Claims[a].None() || c.Quorum == election.Offered || v.Owner != is.Node || v.Role != election.Backup && is.Node != self) {
				return false
			}
		}
		for a := range was.Claims {
			if is.Claims[a].None() {
				if _, inUse := i.Decision(a); inUse {
					return false
				}
			}
		}
	}
	return true
}

// Explain returns, for every node by name, why it does not announce an address,
// or [eligibility.Owner]. Nil for an address that no Service holds.
func Explain(ix *Index, members []election.Member, a netip.Addr) []NodeReason {
	i, ok := ix.byAddr[a]
	if !ok {
		return nil
	}
	d := newDecider(ix, members, "")
	v, views := d.decide(i)
	out := make([]NodeReason, len(ix.nodes))
	for n, node := range ix.nodes {
		r := ix.groups[i].reason(n)
		if r == eligibility.Eligible {
			r = views[n].reason
		}
		switch {
		case node.Name == v.Owner:
			r = eligibility.Owner
		case r == eligibility.Eligible: // then another node owns it
			r = eligibility.Lost
		}
		out[n] = NodeReason{node.Name, r}
	}
	return out
}

// A decider is the state of one Decide.
type decider struct {
	ix      *Index
	self    int                // node index, or -1
	members []*election.Member // by node index; nil: none
	claims  []claimants        // by group
	turns   *election.Holdoff

	views   map[*class][]view
	permits map[permit]bool
	scratch []election.Candidate
	// indexes is for interfaces, and shared what it returned last.
	indexes, shared []int
}

type claimant struct {
	node  int
	claim election.Claim
}

// claimants are those of one group. Most have one, which is kept in place.
type claimants struct {
	count int
	first claimant
	rest  []claimant
}

func (c *claimants) add(by claimant) {
	if c.count++; c.count == 1 {
		c.first = by
	} else {
		c.rest = append(c.rest, by)
	}
}

// remove removes that of a node.
func (c *claimants) remove(node int) {
	all := c.rest
	if c.count > 0 {
		all = append([]claimant{c.first}, c.rest...)
	}
	*c = claimants{}
	for _, by := range all {
		if by.node != node {
			c.add(by)
		}
	}
}

// each calls do for each of them.
func (c *claimants) each(do func(claimant)) {
	if c.count > 0 {
		do(c.first)
	}
	for _, by := range c.rest {
		do(by)
	}
}

type permit struct {
	ad        int
	ifaceName string
}

// A view is what a node can do for the addresses of a class.
type view struct {
	// reason is Eligible, or what its membership lacks. A Leaving node is still
	// a candidate of last resort.
	reason eligibility.Reason
	state  election.State
	weight int
	ports  []port
	// doubled is set when two of the ports are on one segment.
	doubled bool
}

// onLink reports whether an address is on the subnet of one of the ports.
func (v *view) onLink(a netip.Addr) bool {
	return slices.ContainsFunc(v.ports, func(p port) bool { return p.OnLink(a) })
}

// A port is an interface that an advertisement permits and that can announce.
type port struct {
	*lb.Interface
	named   bool // by an advertisement, so that it answers off-link too
	segment int  // the index of an interface on its segment, the same for all of them
}

func newDecider(ix *Index, members []election.Member, self string) *decider {
	d := &decider{
		ix: ix, self: -1,
		members: make([]*election.Member, len(ix.nodes)),
		claims:  make([]claimants, len(ix.groups)),
		views:   map[*class][]view{},
		permits: map[permit]bool{},
	}
	if n, ok := ix.byNode[self]; ok {
		d.self = n
	}
	for i := range members {
		n, ok := ix.byNode[members[i].Node]
		if !ok {
			continue
		}
		d.members[n] = &members[i]
		for a, c := range members[i].Claims {
			if g, ok := ix.byAddr[a]; ok {
				d.claims[g].add(claimant{n, c})
			}
		}
	}
	return d
}

// decide returns the decision on group i, and the views of its class.
func (d *decider) decide(i int) (Decision, []view) {
	g := &d.ix.groups[i]
	v := Decision{Address: g.Addr, Services: g.keys, Placed: g.placed, Place: g.placed, Failback: g.class.failback, Conflict: g.class.conflict}
	v.Barred = d.self >= 0 && g.reason(d.self) != eligibility.Eligible
	views := d.viewsOf(g.class)
	candidates := d.candidates(i, views)
	if len(candidates) == 0 {
		v.Reason = d.refusal(g, views)
		return v, views
	}
	place := d.turns.Place(g.Addr, election.Place{Node: g.placed, Failback: g.class.failback})
	if d.self < 0 {
		v.Owner, _ = election.Winner(g.Addr, place, candidates)
	} else {
		v.Role, v.Owner = election.RoleOf(d.ix.nodes[d.self].Name, g.Addr, place, candidates)
	}
	v.Reason = eligibility.Owner
	if g.class.failback == lb.FailbackNever {
		v.Place = v.Owner
	}
	if v.Owner != g.placed {
		v.Fit = election.Fit(g.placed, candidates)
	}
	if d.retires(i, views, candidates) {
		v.Role = election.Retiring
	}
	return v, views
}

// decided returns the whole decision on group i, and whether its one claimant and the
// node where it is placed were all that had to be looked at.
func (d *decider) decided(i int) (v Decision, settled bool) {
	v, views := d.decide(i)
	if v.Role != election.Backup {
		v.Interfaces = d.interfaces(views[d.self], v.Address)
	}
	_, settled = d.undisputed(i, views)
	return v, settled
}

// candidates lists who may own group i, all of them fit. Claimants come first: a claim beats a
// hash, so that most addresses are decided without computing one.
func (d *decider) candidates(i int, views []view) []election.Candidate {
	g := &d.ix.groups[i]
	list := d.scratch[:0]
	claimed := 0
	add := func(n int) bool {
		v := &views[n]
		if v.reason != eligibility.Eligible && v.reason != eligibility.Leaving {
			return true
		}
		c := election.Candidate{Node: d.ix.nodes[n].Name, State: v.state, OnLink: v.onLink(g.Addr), Weight: v.weight}
		d.claims[i].each(func(by claimant) {
			if by.node == n {
				c.Claim = by.claim
			}
		})
		list = append(list, c)
		if !c.Claim.None() {
			last := len(list) - 1
			list[claimed], list[last] = list[last], list[claimed]
			claimed++
		}
		return true
	}
	if owner, is := d.undisputed(i, views); !is {
		g.candidates(add)
	} else if add(owner); g.place >= 0 && g.place != owner && g.reason(g.place) == eligibility.Eligible {
		add(g.place)
	}
	d.scratch = list
	return list
}

// undisputed returns the only node that claims group i, if it is as fit as any and
// claims count: it owns the address then, even if others could have it, and no other
// candidate but the one where it is placed has to be looked at. In a cluster at rest
// that is so of every address.
func (d *decider) undisputed(i int, views []view) (owner int, is bool) {
	g, by := &d.ix.groups[i], &d.claims[i]
	owner = by.first.node
	if by.count != 1 || g.placed == "" && g.class.failback != lb.FailbackNever {
		return owner, false
	}
	switch v := &views[owner]; v.state {
	case election.Alive, election.Suspected, election.Stalled, election.Cut:
		is = g.reason(owner) == eligibility.Eligible && v.onLink(g.Addr)
	}
	return owner, is
}

// retires reports whether self, no candidate for group i by configuration, goes
// on answering because no candidate does yet.
func (d *decider) retires(i int, views []view, candidates []election.Candidate) bool {
	if d.self < 0 || slices.ContainsFunc(candidates, func(c election.Candidate) bool { return !c.Claim.None() }) {
		return false
	}
	g := &d.ix.groups[i]
	var others []election.Candidate
	d.claims[i].each(func(by claimant) {
		if len(views[by.node].ports) > 0 && g.reason(by.node) != eligibility.Eligible {
			others = append(others, election.Candidate{Node: d.ix.nodes[by.node].Name, State: election.Alive, Claim: by.claim})
		}
	})
	last, _ := election.Winner(g.Addr, election.Place{}, others)
	return last == d.ix.nodes[d.self].Name
}

// refusal returns the reason of the nodes that came nearest to announcing.
func (d *decider) refusal(g *group, views []view) eligibility.Reason {
	worst := eligibility.NoNode
	for n := range d.ix.nodes {
		r := g.reason(n)
		if r == eligibility.Eligible {
			r = views[n].reason
		}
		worst = max(worst, r)
	}
	return worst
}

// viewsOf returns what every node can do for a class.
func (d *decider) viewsOf(c *class) []view {
	if v, ok := d.views[c]; ok {
		return v
	}
	views := make([]view, len(d.ix.nodes))
	for n := range views {
		views[n] = d.viewOf(c, n)
	}
	d.views[c] = views
	return views
}

// viewOf returns what node n can do for a class, be it a member or not.
func (d *decider) viewOf(c *class, n int) view {
	m := d.members[n]
	if m == nil {
		return view{reason: eligibility.NotAMember}
	}
	v := d.view(c, n, m)
	if n == d.self { // nobody asks where others answer
		v.doubled = segment(v.ports)
	}
	return v
}

func (d *decider) view(c *class, n int, m *election.Member) view {
	v := view{reason: eligibility.Eligible, state: m.State, weight: c.weights[n]}
	ads := slices.DeleteFunc(slices.Clone(c.ads), func(ad int) bool { return !d.ix.ads[ad].nodes[n] })
	if len(ads) == 0 {
		ads = c.ads // not selected any more: it may have an address to hold
	}
	for i := range m.Interfaces {
		if p, ok := d.port(ads, &m.Interfaces[i]); ok {
			v.ports = append(v.ports, p)
		}
	}
	slices.SortFunc(v.ports, func(a, b port) int { return a.Index - b.Index })
	switch {
	case m.State == election.Joining:
		v.reason = eligibility.Joining
	case len(v.ports) == 0:
		v.reason = eligibility.NoUsableInterface
	case m.State == election.Leaving:
		v.reason = eligibility.Leaving
	}
	return v
}

// port reports whether one of the advertisements lets an interface announce,
// and whether it does so by name.
func (d *decider) port(ads []int, i *lb.Interface) (port, bool) {
	p, ok := port{Interface: i}, false
	if i.Fault() != lb.InterfaceOK {
		return p, false
	}
	for _, ad := range ads {
		key := permit{ad, i.Name}
		permitted, known := d.permits[key]
		if !known {
			permitted = advertisesOn(d.ix.ads[ad].L2Advertisement, i.Name)
			d.permits[key] = permitted
		}
		ok = ok || permitted
		p.named = p.named || permitted && len(d.ix.ads[ad].Interfaces) > 0
	}
	return p, ok
}

// advertisesOn reports whether an advertisement lets the interface of that name
// announce.
func advertisesOn(ad *lb.L2Advertisement, name string) bool {
	matches := func(pattern string) bool {
		ok, _ := path.Match(pattern, name) // no match where the pattern is none
		return ok
	}
	return (len(ad.Interfaces) == 0 || slices.ContainsFunc(ad.Interfaces, matches)) &&
		!slices.ContainsFunc(ad.ExcludeInterfaces, matches)
}

// segment finds out which ports are on one segment, because they have a subnet in
// common or another port connects them, and whether any are.
func segment(ports []port) (doubled bool) {
	in := map[netip.Prefix]int{} // the place of a port
	for i := range ports {
		ports[i].segment = ports[i].Index
		for _, p := range ports[i].Addresses {
			if p.Addr().IsLinkLocalUnicast() {
				continue // every interface has that subnet
			}
			o, known := in[p.Masked()]
			if !known {
				in[p.Masked()] = i
				continue
			}
			if from, to := ports[i].segment, ports[o].segment; from != to {
				doubled = true
				for k := range ports[:i+1] {
					if ports[k].segment == from {
						ports[k].segment = to
					}
				}
			}
		}
	}
	return doubled
}

// interfaces returns on which interfaces to answer for an address.
func (d *decider) interfaces(v view, a netip.Addr) []int {
	d.indexes = d.indexes[:0]
	for p := range v.answering(a) {
		d.indexes = append(d.indexes, p.Index)
	}
	if !slices.Equal(d.indexes, d.shared) {
		d.shared = slices.Clone(d.indexes)
	}
	return d.shared
}

// answering yields the ports that answer for an address: those on whose subnet it is
// and those that an advertisement names; all when it is on the subnet of none. Of
// those on one segment a single one does, for its clients are to hear one answer.
func (v *view) answering(a netip.Addr) func(yield func(port) bool) {
	anywhere := !v.onLink(a)
	answers := func(p port) bool { return anywhere || p.named || p.OnLink(a) }
	return func(yield func(port) bool) {
		for _, p := range v.ports {
			outdone := v.doubled && slices.ContainsFunc(v.ports, func(o port) bool {
				return answers(o) && p.outdone(o, a)
			})
			if answers(p) && !outdone && !yield(p) {
				return
			}
		}
	}
}

// outdone reports whether another port is on the same segment and answers for an
// address instead: the one with a subnet of the address, else the one to which the
// kernel's route leads, by which the node's own traffic leaves as well, else the
// older one.
func (p port) outdone(o port, a netip.Addr) bool {
	return p.Index != o.Index && p.segment == o.segment &&
		cmp.Or(first(o.OnLink(a), p.OnLink(a)), first(!o.elsewhere(a), !p.elsewhere(a)), cmp.Compare(o.Index, p.Index)) < 0
}

// first orders what is before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	default:
		return 1
	}
}

// elsewhere reports whether the route to the subnet of an address, or to any of its
// subnets if none contains the address, leads by another interface.
func (p port) elsewhere(a netip.Addr) bool {
	onLink := p.OnLink(a)
	return slices.ContainsFunc(p.Elsewhere, func(subnet netip.Prefix) bool { return !onLink || subnet.Contains(a) })
}

// Find returns the index of the decision about an address, and whether it is in use.
func (i *Intent) Find(a netip.Addr) (n int, inUse bool) {
	return slices.BinarySearchFunc(i.Decisions, a, func(v Decision, a netip.Addr) int { return v.Address.Compare(a) })
}

// Decision returns what is decided about an address, and whether it is in use.
func (i *Intent) Decision(a netip.Addr) (Decision, bool) {
	n, ok := i.Find(a)
	if !ok {
		return Decision{}, false
	}
	return i.Decisions[n], true
}
