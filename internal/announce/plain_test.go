package announce

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
	"github.com/belfrylb/belfry/internal/origin"
)

// A plain decider looks at every advertisement, Service, endpoint, claim and interface
// anew for each address and each node.
type plain struct {
	lb.Snapshot
	members []election.Member
}

// addresses are those that somebody is to answer for, with the Services that use each.
func (p plain) addresses() map[netip.Addr][]lb.Service {
	origins := origin.New(p.Pools, p.Nodes)
	used := map[netip.Addr][]lb.Service{}
	for _, s := range p.Services {
		for _, a := range s.Assigned {
			sameKey := func(o lb.Service) bool { return o.Key == s.Key }
			if !s.Released && !s.Foreign && origins.Of(&s, a).Standing != origin.Foreign && !slices.ContainsFunc(used[a], sameKey) {
				used[a] = append(used[a], s)
			}
		}
	}
	for _, services := range used {
		slices.SortFunc(services, func(a, b lb.Service) int { return a.Key.Compare(b.Key) })
	}
	return used
}

// advertisements are those that select an address, the oldest first.
func (p plain) advertisements(a netip.Addr, services []lb.Service) (selecting []lb.L2Advertisement) {
	origins := origin.New(p.Pools, p.Nodes)
	for _, ad := range p.L2Advertisements {
		all := true
		for _, s := range services {
			from := origins.Of(&s, a)
			pool := len(ad.Pools) == 0 && len(ad.PoolSelectors) == 0 || slices.Contains(ad.Pools, from.Pool)
			for _, has := range p.Pools {
				pool = pool || has.Name == from.Pool && lb.MatchesAny(ad.PoolSelectors, has.Labels)
			}
			all = all && pool && (len(ad.ServiceSelectors) == 0 || lb.MatchesAny(ad.ServiceSelectors, lbtest.LabelMap(s.Labels))) && from.Node == ""
		}
		if all {
			selecting = append(selecting, ad)
		}
	}
	slices.SortFunc(selecting, func(a, b lb.L2Advertisement) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	})
	return selecting
}

func selectsNode(n lb.Node) func(lb.L2Advertisement) bool {
	return func(ad lb.L2Advertisement) bool {
		return len(ad.NodeSelectors) == 0 || lb.MatchesAny(ad.NodeSelectors, n.Labels)
	}
}

// fitness is what configuration says of a node, endpoints left aside.
func fitness(n lb.Node, ads []lb.L2Advertisement) eligibility.Reason {
	_, excluded := n.Labels[lb.LabelExcludeLB]
	switch {
	case !slices.ContainsFunc(ads, selectsNode(n)):
		return eligibility.NodeNotSelected
	case excluded:
		return eligibility.NodeExcluded
	case n.NetworkUnavailable:
		return eligibility.NetworkUnavailable
	case n.Drain:
		return eligibility.Draining
	}
	return eligibility.Eligible
}

// configured is what configuration says of every node about an address.
func (p plain) configured(a netip.Addr, services []lb.Service, ads []lb.L2Advertisement) map[string]eligibility.Reason {
	var own string
	local, usable := true, false
	steady, ending := map[string]bool{}, map[string]bool{}
	for _, s := range services {
		own = cmp.Or(own, origin.New(p.Pools, p.Nodes).Of(&s, a).Node)
		served := false
		for node, c := range s.Endpoints.Of(lb.FamilyOf(a)) {
			steady[node] = steady[node] || c.Serving() == lb.Steady
			ending[node] = ending[node] || c.Serving() == lb.Ending
			served = served || c.Serving() != lb.Idle
		}
		usable = usable || served
		local = local && (s.TrafficPolicy == lb.TrafficLocal || !served)
	}
	ready := slices.ContainsFunc(p.Nodes, func(n lb.Node) bool { return steady[n.Name] && fitness(n, ads) == eligibility.Eligible })
	reasons := map[string]eligibility.Reason{}
	for _, n := range p.Nodes {
		switch {
		case own != "":
			reasons[n.Name] = eligibility.NodeAddress
		case len(ads) == 0:
			reasons[n.Name] = eligibility.NoAdvertisement
		case !usable:
			reasons[n.Name] = eligibility.NoEndpoint
		case local && !steady[n.Name] && (ready || !ending[n.Name]):
			reasons[n.Name] = eligibility.NoLocalEndpoint
		default:
			reasons[n.Name] = fitness(n, ads)
		}
	}
	return reasons
}

// permitted returns the interfaces on which a member may answer, by index, and which
// of them advertisements name. What selects the node not any more counts while nothing
// else does: it may have an address to hold.
func permitted(m election.Member, n lb.Node, ads []lb.L2Advertisement) (all []lb.Interface, named map[int]bool) {
	if slices.ContainsFunc(ads, selectsNode(n)) {
		ads = slices.DeleteFunc(slices.Clone(ads), func(ad lb.L2Advertisement) bool { return !selectsNode(n)(ad) })
	}
	named = map[int]bool{}
	for _, i := range m.Interfaces {
		may := false
		for _, ad := range ads {
			if i.Fault() == lb.InterfaceOK && advertisesOn(&ad, i.Name) {
				may = true
				named[i.Index] = named[i.Index] || len(ad.Interfaces) > 0
			}
		}
		if may {
			all = append(all, i)
		}
	}
	slices.SortFunc(all, func(a, b lb.Interface) int { return cmp.Compare(a.Index, b.Index) })
	return all, named
}

func anyOnLink(all []lb.Interface, a netip.Addr) bool {
	return slices.ContainsFunc(all, func(i lb.Interface) bool { return i.OnLink(a) })
}

// answering returns those of the permitted interfaces that answer for an address: of
// each segment the best one.
func answering(all []lb.Interface, named map[int]bool, a netip.Addr) []lb.Interface {
	var best []lb.Interface
	for _, wire := range wires(all) {
		may := slices.DeleteFunc(wire, func(i lb.Interface) bool { return !i.OnLink(a) && !named[i.Index] && anyOnLink(all, a) })
		slices.SortFunc(may, func(x, y lb.Interface) int {
			rank := func(i lb.Interface) int {
				switch n := slices.IndexFunc(i.Elsewhere, func(p netip.Prefix) bool { return !i.OnLink(a) || p.Contains(a) }); {
				case i.OnLink(a) && n < 0:
					return 0
				case i.OnLink(a):
					return 1
				case n < 0:
					return 2
				default:
					return 3
				}
			}
			return cmp.Or(rank(x)-rank(y), x.Index-y.Index)
		})
		if len(may) > 0 {
			best = append(best, may[0])
		}
	}
	slices.SortFunc(best, func(x, y lb.Interface) int { return x.Index - y.Index })
	return best
}

// wires groups interfaces that have subnets in common.
func wires(all []lb.Interface) (wires [][]lb.Interface) {
	for _, i := range all {
		wire := []lb.Interface{i}
		var apart [][]lb.Interface
		for _, w := range wires {
			if slices.ContainsFunc(w, func(o lb.Interface) bool { return election.SameSegment(i, o) }) {
				wire = append(wire, w...)
			} else {
				apart = append(apart, w)
			}
		}
		wires = append(apart, wire)
	}
	return wires
}

// decide decides about one address for one node, and gives every node's reason.
func (p plain) decide(a netip.Addr, services []lb.Service, self string) (Decision, map[string]eligibility.Reason) {
	d := Decision{Address: a}
	for _, s := range services {
		d.Services = append(d.Services, s.Key)
		d.Placed = cmp.Or(d.Placed, s.PlaceOf(a))
	}
	d.Place = d.Placed
	ads := p.advertisements(a, services)
	reasons := p.configured(a, services, ads)
	if len(ads) > 0 {
		d.Failback, d.Conflict = ads[0].Failback, ads[0].ConflictPolicy
	}
	configured := maps.Clone(reasons)
	reason, known := configured[self]
	d.Barred = known && reason != eligibility.Eligible
	var candidates, holders []election.Candidate
	claimed := false
	nearest := eligibility.NoNode
	interfaces := map[string][]int{}
	for _, n := range p.Nodes {
		i := slices.IndexFunc(p.members, func(m election.Member) bool { return m.Node == n.Name })
		var all []lb.Interface
		if i >= 0 {
			m := p.members[i]
			var named map[int]bool
			all, named = permitted(m, n, ads)
			for _, on := range answering(all, named, a) {
				interfaces[n.Name] = append(interfaces[n.Name], on.Index)
			}
			c := election.Candidate{Node: n.Name, State: m.State, OnLink: anyOnLink(all, a), Claim: m.Claims[a]}
			for _, ad := range ads {
				sum := 0
				for _, preferred := range ad.PreferredNodes {
					if preferred.Preference.Matches(n.Labels) {
						sum += preferred.Weight
					}
				}
				if selectsNode(n)(ad) {
					c.Weight = max(c.Weight, sum)
				}
			}
			switch {
			case configured[n.Name] != eligibility.Eligible && len(all) > 0 && !c.Claim.None():
				holders = append(holders, election.Candidate{Node: n.Name, State: election.Alive, Claim: c.Claim})
			case configured[n.Name] == eligibility.Eligible && len(all) > 0 && m.State != election.Joining:
				candidates = append(candidates, c)
				claimed = claimed || !c.Claim.None()
			}
		}
		if configured[n.Name] == eligibility.Eligible {
			switch {
			case i < 0:
				reasons[n.Name] = eligibility.NotAMember
			case p.members[i].State == election.Joining:
				reasons[n.Name] = eligibility.Joining
			case len(all) == 0:
				reasons[n.Name] = eligibility.NoUsableInterface
			case p.members[i].State == election.Leaving:
				reasons[n.Name] = eligibility.Leaving
			}
		}
		nearest = max(nearest, reasons[n.Name])
	}
	place := election.Place{Node: d.Placed, Failback: d.Failback}
	d.Role, d.Owner = election.RoleOf(self, a, place, candidates)
	if d.Owner == "" {
		d.Reason = nearest
		return d, reasons
	}
	d.Reason = eligibility.Owner
	if d.Failback == lb.FailbackNever {
		d.Place = d.Owner
	}
	d.Fit = d.Owner != d.Placed && election.Fit(d.Placed, candidates)
	if holder, held := election.Winner(a, election.Place{}, holders); held && holder == self && !claimed {
		d.Role = election.Retiring
	}
	if d.Role != election.Backup {
		d.Interfaces = interfaces[self]
	}
	for n, r := range reasons {
		switch {
		case n == d.Owner:
			reasons[n] = eligibility.Owner
		case r == eligibility.Eligible:
			reasons[n] = eligibility.Lost
		}
	}
	return d, reasons
}

// reach returns the interface by which a node answers for an address: the first that is
// on-link, or else the first.
func (p plain) reach(n lb.Node, a netip.Addr, services []lb.Service) (lb.Interface, bool) {
	for _, m := range p.members {
		if m.Node != n.Name {
			continue
		}
		all, named := permitted(m, n, p.advertisements(a, services))
		all = answering(all, named, a)
		for _, i := range all {
			if i.OnLink(a) {
				return i, true
			}
		}
		if len(all) > 0 {
			return all[0], true
		}
	}
	return lb.Interface{}, false
}

// Decide, which looks at classes of addresses and at as few candidates as it can,
// decides what looking at all would.
func TestDecidesLikeThePlainWay(t *testing.T) {
	reasons := map[eligibility.Reason]int{}
	retiring, fit := 0, 0
	for seed := range uint64(1500) {
		rng := rand.New(rand.NewPCG(seed, 9))
		s, members := randomWorld(rng)
		if rng.IntN(2) == 0 { // claims as they are at rest: one for each address
			claimed := map[netip.Addr]bool{}
			for _, m := range members {
				maps.DeleteFunc(m.Claims, func(a netip.Addr, _ election.Claim) bool { was := claimed[a]; claimed[a] = true; return was })
			}
		}
		ix := NewIndex(s, eligibility.Options{})
		slow := plain{s, members}
		used := slow.addresses()
		if got, want := ix.Addresses(), slices.SortedFunc(maps.Keys(used), netip.Addr.Compare); !slices.Equal(got, want) {
			t.Fatalf("seed %d: addresses %v, want %v", seed, got, want)
		}
		d := newDecider(ix, members, "")
		for i := range ix.groups {
			candidates := d.candidates(i, d.viewsOf(ix.groups[i].class))
			for n := range candidates[:max(0, len(candidates)-1)] {
				if candidates[n].Claim.None() && !candidates[n+1].Claim.None() {
					t.Fatalf("seed %d: claimants of %v do not come first: %v", seed, ix.groups[i].Addr, candidates)
				}
			}
		}
		for _, site := range ix.Sites() {
			if once := slices.Compact(slices.Sorted(slices.Values(site.Local))); !slices.Equal(site.Local, once) {
				t.Fatalf("seed %d: %v has endpoints on %v of its nodes", seed, site.Address, site.Local)
			}
		}
		reach := NewReach(ix, members)
		for a, services := range used {
			for _, n := range append(slices.Clone(s.Nodes), lb.Node{Name: "nobody"}) {
				got, answers := reach.Interface(n.Name, a)
				want, able := slow.reach(n, a, services)
				if answers != able || able && got.Index != want.Index {
					t.Fatalf("seed %d: %s answers for %v: %v by %v, want %v by %v", seed, n.Name, a, answers, got, able, want)
				}
			}
		}
		if got, answers := reach.Interface("n0", netip.MustParseAddr("2001:db8:99::1")); answers || got != nil {
			t.Fatalf("seed %d: n0 answers for what is not in use", seed)
		}
		for _, self := range []string{"n0", "n1", "n2", "nobody"} {
			for _, got := range Decide(ix, members, nil, self).Decisions {
				want, why := slow.decide(got.Address, used[got.Address], self)
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, %s:\n%+v, want\n%+v", seed, self, got, want)
				}
				if got.Role == election.Retiring && got.Barred {
					retiring++
				}
				if got.Fit {
					fit++
				}
				for _, n := range Explain(ix, members, got.Address) {
					if n.Reason != why[n.Node] {
						t.Fatalf("seed %d: %v on %s is explained by %v, want %v", seed, got.Address, n.Node, n.Reason, why[n.Node])
					}
					reasons[n.Reason]++
				}
			}
		}
	}
	if retiring < 100 || fit < 20 {
		t.Errorf("%d are answered for by one who may not have them, %d could go back: the test has lost its point", retiring, fit)
	}
	for r := eligibility.NodeAddress; r <= eligibility.Owner; r++ {
		switch r {
		case eligibility.NoPeer, eligibility.FamilyNotOffered, eligibility.Eligible, eligibility.AddressConflict, eligibility.NoSession, eligibility.Unclaimed: // are not of layer 2's decision
		default:
			if reasons[r] < 100 {
				t.Errorf("%v is reached %d times", r, reasons[r])
			}
		}
	}
}
