package announce

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
)

// randomWorld returns some cluster, with members that claim at random what they
// have no right to.
func randomWorld(rng *rand.Rand) (lb.Snapshot, []election.Member) {
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	some := func(of ...string) (out []string) {
		for _, s := range of {
			if rng.IntN(3) == 0 {
				out = append(out, s)
			}
		}
		return out
	}
	var s lb.Snapshot
	if rng.IntN(2) == 0 {
		s.Pools = []lb.Pool{lbtest.Everything(), {Name: "p", Labels: map[string]string{pick("x", "y"): "1"}}}
	}
	crowd := []int{4, 130}[rng.IntN(2)] // how close addresses are to each other, and so how many Services share one
	for i := range 1 + rng.IntN(4) {
		ad := lb.L2Advertisement{
			Name: fmt.Sprint("ad", i), Created: time.Unix(int64(rng.IntN(3)), 0),
			Scope: lb.Scope{Pools: some("p", "q")}, Interfaces: some("eth0", "eth*", "lan?"), ExcludeInterfaces: some("lan1"),
			Failback: lb.Failback(rng.IntN(2)), ConflictPolicy: lb.ConflictPolicy(rng.IntN(3)),
		}
		if rng.IntN(3) == 0 {
			ad.NodeSelectors = parseSelectors(pick("x", "x=1|y=1", "!y"))
		}
		if rng.IntN(3) == 0 {
			ad.ServiceSelectors = parseSelectors(pick("app", "app=1"))
		}
		if rng.IntN(3) == 0 {
			ad.PreferredNodes = []lb.NodePreference{{Weight: 1 + rng.IntN(100), Preference: parseSelectors("x")[0]}, {Weight: 30, Preference: parseSelectors("y")[0]}}
		}
		if rng.IntN(4) == 0 {
			ad.PoolSelectors = parseSelectors(pick("x", "y=1"))
		}
		s.L2Advertisements = append(s.L2Advertisements, ad)
	}
	var members []election.Member
	for i := range 1 + rng.IntN(6) {
		n := lb.Node{Name: fmt.Sprint("n", i), Labels: map[string]string{}, NetworkUnavailable: rng.IntN(9) == 0, Drain: rng.IntN(9) == 0}
		for _, l := range some("x", "y", lb.LabelExcludeLB) {
			n.Labels[l] = pick("1", "2")
		}
		s.Nodes = append(s.Nodes, n)
		if rng.IntN(6) == 0 {
			continue
		}
		m := election.Member{Node: n.Name, State: election.State(rng.IntN(int(election.Gone))), Claims: election.Claims{}}
		for k, name := range shuffled(rng, []string{"eth0", "lan1", "veth7", "lan2"}) {
			m.Interfaces = append(m.Interfaces, lb.Interface{
				Index: 6 - k, Name: name, MAC: lb.MAC{2, 4: byte(i), 5: byte(k)}, Up: true, Carrier: rng.IntN(4) > 0,
				Addresses: []netip.Prefix{netip.MustParsePrefix(pick("192.0.2.99/26", "192.0.2.199/26", "192.0.2.9/24", "2001:db8::9/64", "2001:db8::9/32", "2001:db8:1::9/64"))},
			})
			on := &m.Interfaces[k]
			if rng.IntN(4) == 0 {
				on.Addresses = append(on.Addresses, netip.MustParsePrefix(pick("192.0.2.98/26", "2001:db8::8/64", "2001:db8:1::8/64")))
			}
			if rng.IntN(3) == 0 {
				on.Elsewhere = []netip.Prefix{on.Addresses[0].Masked()}
			}
		}
		members = append(members, m)
	}
	for i := range rng.IntN(12) {
		svc := lb.Service{
			Key: lb.ServiceKey{Namespace: "ns", Name: fmt.Sprint(i)}, TrafficPolicy: lb.TrafficPolicy(rng.IntN(2)),
			Labels: lb.LabelsOf(map[string]string{"app": pick("1", "2")}), Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{}, IPv6: lb.NodeEndpoints{}}, Placed: []string{pick("", "", "n0", "n1"), pick("", "n2")},
			AssignedPools: []string{pick("p", "q", ""), pick("p", "q", "")}, Released: rng.IntN(9) == 0,
		}
		for _, n := range some("n0", "n1", "n2", "n3", "elsewhere") {
			svc.Endpoints.IPv4[n] = lb.EndpointCount{Ready: rng.IntN(2), Terminating: rng.IntN(2)}
			svc.Endpoints.IPv6[n] = lb.EndpointCount{Ready: rng.IntN(2), Terminating: rng.IntN(2)}
		}
		v4, v6 := netip.MustParseAddr("192.0.2.64"), netip.MustParseAddr("2001:db8::")
		for range rng.IntN(crowd) {
			v4, v6 = v4.Next(), v6.Next()
		}
		svc.Assigned = []netip.Addr{v4, v6}
		if rng.IntN(8) == 0 { // whoever wrote that
			svc.Assigned, svc.AssignedPools = append(svc.Assigned, v4), append(svc.AssignedPools, "p")
		}
		if rng.IntN(40) == 0 {
			s.Nodes[0].Addresses = []netip.Addr{v6}
		}
		for _, m := range members {
			if rng.IntN(4) == 0 {
				m.Claims[v4] = election.Claim{Quorum: election.Quorum(1 + rng.IntN(4)), Epoch: uint64(rng.IntN(4))}
			}
			if rng.IntN(4) == 0 {
				m.Claims[v6] = election.Claim{Quorum: election.Majority, Epoch: uint64(rng.IntN(4))}
			}
		}
		s.Services = append(s.Services, svc)
	}
	return s, members
}

func shuffled[T any](rng *rand.Rand, in []T) []T {
	out := slices.Clone(in)
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func TestTheOrderOfTheInputDoesNotMatter(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s, members := randomWorld(rng)
		other := lb.Snapshot{
			Pools: s.Pools, L2Advertisements: shuffled(rng, s.L2Advertisements),
			Services: shuffled(rng, s.Services), Nodes: shuffled(rng, s.Nodes),
		}
		for _, self := range []string{"n0", "n1", "nobody"} {
			a := Decide(NewIndex(s, eligibility.Options{}), members, nil, self)
			b := Decide(NewIndex(other, eligibility.Options{}), shuffled(rng, members), nil, self)
			if !reflect.DeepEqual(a, b) {
				t.Fatalf("seed %d, %s:\n%v\n%v", seed, self, a, b)
			}
		}
	}
}

// All selves agree on the owner; it is the only one; nobody else answers once
// it claims; and the reasons say the same.
func TestOneOwnerAtMostOverAllSelves(t *testing.T) {
	for seed := range uint64(600) {
		rng := rand.New(rand.NewPCG(seed, 2))
		s, members := randomWorld(rng)
		ix := NewIndex(s, eligibility.Options{})
		outside := Decide(ix, members, nil, "")
		if i := slices.IndexFunc(outside.Decisions, func(d Decision) bool { return d.Role != election.Backup }); i >= 0 {
			t.Fatalf("seed %d: an observer answers: %v", seed, outside.Decisions[i])
		}
		roles := map[netip.Addr]map[election.Role][]string{}
		for _, m := range members {
			intent := Decide(ix, members, nil, m.Node)
			for i, v := range intent.Decisions {
				if want := outside.Decisions[i]; v.Owner != want.Owner || v.Reason != want.Reason {
					t.Fatalf("seed %d: %s says %v, others %v", seed, m.Node, v, want)
				}
				if roles[v.Address] == nil {
					roles[v.Address] = map[election.Role][]string{}
				}
				roles[v.Address][v.Role] = append(roles[v.Address][v.Role], m.Node)
			}
			for _, d := range intent.Decisions {
				if (d.Role == election.Backup) != (len(d.Interfaces) == 0) {
					t.Fatalf("seed %d: %s is %v of %v on interfaces %v", seed, m.Node, d.Role, d.Address, d.Interfaces)
				}
			}
		}
		for _, v := range outside.Decisions {
			owners, retiring := roles[v.Address][election.Owner], roles[v.Address][election.Retiring]
			switch {
			case v.Owner == "" && len(owners)+len(retiring) > 0:
				t.Errorf("seed %d: nobody may have %v, but %v own and %v answer for it", seed, v.Address, owners, retiring)
			case v.Owner != "" && !slices.Equal(owners, []string{v.Owner}):
				t.Errorf("seed %d: %v belongs to %s, and %v own it", seed, v.Address, v.Owner, owners)
			case len(retiring) > 1:
				t.Errorf("seed %d: %v is answered for until another does by %v", seed, v.Address, retiring)
			case (v.Owner == "") == (v.Reason == eligibility.Owner):
				t.Errorf("seed %d: %v", seed, v)
			}
			reasons := Explain(ix, members, v.Address)
			for i, n := range reasons {
				if (n.Node == v.Owner) != (n.Reason == eligibility.Owner) || n.Reason == eligibility.Eligible {
					t.Errorf("seed %d: %v of %s: %v explains %v", seed, v.Address, v.Owner, reasons, n)
				}
				if c := ix.Candidates(v.Address)[i]; c.Reason != eligibility.Eligible && c.Reason != n.Reason {
					t.Errorf("seed %d: %v: %v by configuration, %v in all", seed, v.Address, c, n)
				}
			}
			if r := ix.Refusal(v.Address).Reason; r != eligibility.Eligible && v.Owner != "" {
				t.Errorf("seed %d: %v is refused for %v and announced by %s", seed, v.Address, r, v.Owner)
			}
		}
	}
}

func TestAWorldThatGossipedIsAtRest(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 3))
		s, members := randomWorld(rng)
		ix := NewIndex(s, eligibility.Options{})
		speakers := map[string]*speaker{}
		for range 6 {
			gossip(ix, members, speakers)
		}
		for _, m := range members {
			before := Decide(ix, members, nil, m.Node)
			for _, v := range before.Decisions {
				if v.Role == election.Retiring {
					t.Fatalf("seed %d: %s still holds %v for %s", seed, m.Node, v.Address, v.Owner)
				}
			}
			gossip(ix, members, speakers)
			if after := Decide(ix, members, nil, m.Node); !reflect.DeepEqual(before, after) {
				t.Fatalf("seed %d: %s\n%v\n%v", seed, m.Node, before, after)
			}
		}
		if c := election.Contested(members0(members), members); len(c) > 0 {
			t.Fatalf("seed %d: still contested: %v", seed, c)
		}
	}
}

// twoNodes returns a cluster of n0 and n1 that are both fit to answer for an address.
func twoNodes(a netip.Addr) (lb.Snapshot, []election.Member) {
	s := lb.Snapshot{L2Advertisements: []lb.L2Advertisement{{Name: "all"}}}
	var members []election.Member
	for i := range 2 {
		name := fmt.Sprint("n", i)
		s.Nodes = append(s.Nodes, lb.Node{Name: name})
		members = append(members, election.Member{Node: name, State: election.Alive, Interfaces: []lb.Interface{{
			Index: 2, Name: "eth0", MAC: lb.MAC{2, 5: byte(i)}, Up: true, Carrier: true,
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24"), netip.MustParsePrefix("2001:db8::9/64")},
		}}})
	}
	s.Services = []lb.Service{{
		Assigned: []netip.Addr{a}, AssignedPools: []string{"p"},
		Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{"n0": {Ready: 1}}, IPv6: lb.NodeEndpoints{"n0": {Ready: 1}}},
	}}
	return s, members
}

// The claim of who was expected is news when it offers the address: then it is
// the turn of the node where it is placed.
func TestAnOfferConfirmsNothing(t *testing.T) {
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		addr := netip.MustParseAddr(a)
		s, members := twoNodes(addr)
		for i, placed := range []string{"n0", "n1"} {
			s.Services[0].Placed = []string{placed}
			ix := NewIndex(s, eligibility.Options{})
			intent := Decide(ix, members, nil, placed)
			owner := slices.IndexFunc(members, func(m election.Member) bool { return m.Node == intent.Decisions[0].Owner })
			if owner == i {
				continue // by the order of the election it is placed there anyway
			}
			for quorum, confirms := range map[election.Quorum]bool{election.Offered: false, election.Majority: true} {
				after := slices.Clone(members)
				after[owner].Claims = election.Claims{addr: {Quorum: quorum, Epoch: 1}}
				if got := intent.Confirms(members, after, placed); got != confirms {
					t.Errorf("%v, placed on %s, claimed by %s as %v: confirms is %v", addr, placed, members[owner].Node, quorum, got)
				}
				if is := Decide(ix, after, nil, placed).Decisions[0].Owner; (is == placed) == confirms {
					t.Errorf("%v: %s owns it", addr, is)
				}
			}
		}
	}
}

// Speakers hear of a new Service one after the other. That one of them claims its
// address already, or still does, is nothing to whom it is not in use.
func TestClaimsOfWhatIsNotInUseAreNoNews(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 7))
	s, members := randomWorld(rng)
	for len(members) == 0 {
		s, members = randomWorld(rng)
	}
	intent := Decide(NewIndex(s, eligibility.Options{}), members, nil, "")
	for _, a := range []string{"203.0.113.1", "2001:db8:113::1"} {
		claiming := slices.Clone(members)
		claiming[0].Claims = maps.Clone(members[0].Claims)
		claiming[0].Claims[netip.MustParseAddr(a)] = election.Claim{Quorum: election.Offered, Epoch: 1}
		if !intent.Confirms(members, claiming, "") || !intent.Confirms(claiming, members, "") {
			t.Errorf("a claim of %s is news", a)
		}
	}
}

// Whatever changes between two lists of members: when the change is said to
// confirm an intent, deciding again gives the same intent.
func TestWhatConfirmsAnIntentDoesNotChangeIt(t *testing.T) {
	confirmed, news := 0, 0
	for seed := range uint64(1500) {
		rng := rand.New(rand.NewPCG(seed, 4))
		s, before := randomWorld(rng)
		ix := NewIndex(s, eligibility.Options{})
		self := fmt.Sprint("n", rng.IntN(6))
		intent := Decide(ix, before, nil, self)
		after := slices.Clone(before)
		for i := range after {
			claims := maps.Clone(after[i].Claims)
			if rng.IntN(4) == 0 { // an address of which the index knows nothing comes or goes, or both
				strange := netip.MustParseAddr("203.0.113.1")
				if rng.IntN(2) == 0 {
					strange = netip.MustParseAddr("2001:db8:113::1")
				}
				before[i].Claims = maps.Clone(before[i].Claims)
				before[i].Claims[strange] = election.Claim{Quorum: election.Majority, Epoch: uint64(rng.IntN(9))}
				claims[strange.Next()] = election.Claim{Quorum: election.Offered, Epoch: uint64(rng.IntN(9))}
			}
			for _, v := range intent.Decisions {
				switch {
				case v.Owner == after[i].Node && rng.IntN(2) == 0:
					quorum := election.Majority
					if rng.IntN(5) == 0 {
						quorum = election.Offered
					}
					claims[v.Address] = election.Claim{Quorum: quorum, Epoch: 9}
				case rng.IntN(40) == 0:
					delete(claims, v.Address)
				case rng.IntN(40) == 0:
					claims[v.Address] = election.Claim{Quorum: election.Majority, Epoch: uint64(rng.IntN(9))}
				}
			}
			after[i].Claims = claims
			switch rng.IntN(60) {
			case 0:
				after[i].State = election.State(rng.IntN(int(election.Gone)))
			case 1:
				after[i].Interfaces = slices.Clone(after[i].Interfaces)
				after[i].Interfaces[0].Carrier = !after[i].Interfaces[0].Carrier
			}
		}
		if rng.IntN(20) == 0 && len(after) > 0 {
			after = after[1:]
		}
		if !intent.Confirms(before, after, self) {
			news++
			continue
		}
		confirmed++
		again := Decide(ix, after, nil, self)
		again.Unclaimed = intent.Unclaimed // that is of then
		if !reflect.DeepEqual(intent, again) {
			t.Fatalf("seed %d, %s:\n%v\n%v\n%v\n%v", seed, self, before, after, intent, again)
		}
	}
	if confirmed < 150 || news < 150 {
		t.Errorf("%d confirmed, %d news: the test has lost its point", confirmed, news)
	}
}

// Who is first to claim what nobody claims is not for the order of the election to say
// while it is somebody's turn.
func TestWhoseTurnItIsDecidesWhatNobodyClaims(t *testing.T) {
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		addr := netip.MustParseAddr(a)
		s, members := twoNodes(addr)
		for _, placed := range []string{"n0", "n1"} {
			s.Services[0].Placed = []string{placed}
			ix := NewIndex(s, eligibility.Options{})
			var turns election.Holdoff
			turns.Leave(time.Unix(0, 0), addr, placed)
			for _, self := range []string{"n0", "n1"} {
				if d := Decide(ix, members, &turns, self).Decisions[0]; d.Owner != placed {
					t.Errorf("it is the turn of %s, and %s says that %v is %s's", placed, self, addr, d.Owner)
				}
			}
		}
	}
}

// What is asked about an address that is not in use is answered by nothing, whatever is
// known of those that are.
func TestAnIndexKnowsOnlyWhatIsInUse(t *testing.T) {
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		used := netip.MustParseAddr(a)
		s, _ := twoNodes(used)
		s.Services[0].Announced, s.Services[0].Placed = true, []string{"n0"}
		ix := NewIndex(s, eligibility.Options{})
		if !ix.Announced(used) || ix.Placed(used) != "n0" || len(ix.Services(used)) != 1 || !ix.Uses(used) || len(ix.Candidates(used)) != 2 {
			t.Errorf("%v is not known", used)
		}
		if got := ix.Nodes(); !slices.Equal(got, []string{"n0", "n1"}) {
			t.Errorf("nodes %v", got)
		}
		unused := used.Next()
		if ix.Announced(unused) || ix.Placed(unused) != "" || ix.Services(unused) != nil || ix.Uses(unused) || ix.Candidates(unused) != nil ||
			ix.Refusal(unused).Reason != eligibility.Eligible {
			t.Errorf("%v is known", unused)
		}
		s.Services[0].Announced = false
		if NewIndex(s, eligibility.Options{}).Announced(used) {
			t.Errorf("%v is announced", used)
		}
	}
}

// At rest an address costs a look at the node that claims it and at the one where it is
// placed, however large the cluster is.
func TestAtRestNobodyElseIsLookedAt(t *testing.T) {
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		addr := netip.MustParseAddr(a)
		for _, c := range []struct {
			state    election.State
			placed   string
			failback lb.Failback
			looks    int
		}{
			{election.Alive, "n0", lb.FailbackNever, 1},
			{election.Alive, "n0", lb.FailbackImmediate, 1},
			{election.Alive, "n1", lb.FailbackNever, 2},
			{election.Alive, "gone", lb.FailbackImmediate, 1},
			{election.Alive, "", lb.FailbackNever, 1},
			{election.Alive, "", lb.FailbackImmediate, 3}, // its claim counts for nothing
			{election.Suspected, "n0", lb.FailbackNever, 1},
			{election.Stalled, "n0", lb.FailbackNever, 1},
			{election.Cut, "n0", lb.FailbackNever, 1},
			{election.Leaving, "n0", lb.FailbackNever, 3}, // another is better
		} {
			s, members := twoNodes(addr)
			s.Nodes = append(s.Nodes, lb.Node{Name: "n2"})
			members = append(members, members[1])
			members[2].Node, members[0].State, members[0].Claims = "n2", c.state, election.Claims{addr: {Quorum: election.Majority, Epoch: 1}}
			s.Services[0].Placed, s.L2Advertisements[0].Failback = []string{c.placed}, c.failback
			d := newDecider(NewIndex(s, eligibility.Options{}), members, "n1")
			got := d.candidates(0, d.viewsOf(d.ix.groups[0].class))
			if len(got) != c.looks {
				t.Errorf("%v: %v claims what is placed on %q, failback %v: %d are looked at, want %d", addr, c.state, c.placed, c.failback, len(got), c.looks)
			}
		}
	}
}

// A cluster without nodes is told as such.
func TestWithoutNodesThatIsTheReason(t *testing.T) {
	s, members := twoNodes(netip.MustParseAddr("2001:db8::1"))
	s.Nodes = nil
	if d := Decide(NewIndex(s, eligibility.Options{}), members, nil, "").Decisions[0]; d.Reason != eligibility.NoNode || d.Owner != "" {
		t.Errorf("%+v", d)
	}
}

func members0(m []election.Member) string {
	if len(m) == 0 {
		return ""
	}
	return m[0].Node
}

func TestExclusionIsIgnoredOnRequest(t *testing.T) {
	s := lb.Snapshot{
		Pools:            []lb.Pool{lbtest.Everything()},
		L2Advertisements: []lb.L2Advertisement{{Name: "all"}},
		Nodes:            []lb.Node{{Name: "a", Labels: map[string]string{lb.LabelExcludeLB: ""}}},
		Services: []lb.Service{{
			Assigned:  []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
			Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{"": {Ready: 1}}, IPv6: lb.NodeEndpoints{"": {Ready: 1}}},
		}},
	}
	for _, a := range s.Services[0].Assigned {
		if r := NewIndex(s, eligibility.Options{}).Refusal(a); r.Reason != eligibility.NodeExcluded || r.Counts[eligibility.NodeExcluded] != 1 {
			t.Errorf("%v: %+v", a, r)
		}
		if r := NewIndex(s, eligibility.Options{IgnoreExcludeLB: true}).Refusal(a); r.Reason != eligibility.Eligible {
			t.Errorf("%v: %+v", a, r)
		}
	}
}

// bigWorld has one class of addresses, of which one node claims a share.
func bigWorld(addresses, nodes int) (lb.Snapshot, []election.Member) {
	s := lb.Snapshot{
		Pools:            []lb.Pool{{Name: "p"}},
		L2Advertisements: []lb.L2Advertisement{{Name: "all", ExcludeInterfaces: []string{"docker*", "veth*", "cali*"}}},
	}
	var members []election.Member
	for i := range nodes {
		s.Nodes = append(s.Nodes, lb.Node{Name: fmt.Sprintf("node-%03d", i)})
		members = append(members, election.Member{
			Node: s.Nodes[i].Name, State: election.Alive, Claims: election.Claims{},
			Interfaces: []lb.Interface{{Index: 2, Name: "eth0", MAC: lb.MAC{2, 5: byte(i)}, Up: true, Carrier: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}}},
		})
	}
	a := netip.MustParseAddr("10.1.0.0")
	for i := range addresses {
		a = a.Next()
		s.Services = append(s.Services, lb.Service{
			Key: lb.ServiceKey{Namespace: "ns", Name: fmt.Sprint(i)}, Assigned: []netip.Addr{a}, AssignedPools: []string{"p"},
			Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{"node-001": {Ready: 1}, "node-002": {Ready: 1}}},
		})
		members[i%nodes].Claims[a] = election.Claim{Quorum: election.Majority, Epoch: 1}
	}
	return s, members
}

func BenchmarkNewIndex(b *testing.B) {
	s, _ := bigWorld(10000, 100)
	for b.Loop() {
		NewIndex(s, eligibility.Options{})
	}
}

func BenchmarkDecide(b *testing.B) {
	s, members := bigWorld(10000, 100)
	ix := NewIndex(s, eligibility.Options{})
	b.Run("converged", func(b *testing.B) {
		for b.Loop() {
			Decide(ix, members, nil, "node-001")
		}
	})
	b.Run("one node lost", func(b *testing.B) {
		for b.Loop() {
			Decide(ix, members[1:], nil, "node-001")
		}
	})
	b.Run("confirmed", func(b *testing.B) {
		intent := Decide(ix, members, nil, "node-001")
		for b.Loop() {
			if !intent.Confirms(members, members, "node-001") {
				b.Fatal("it is not")
			}
		}
	})
	b.Run("nothing claimed", func(b *testing.B) {
		fresh := slices.Clone(members)
		for i := range fresh {
			fresh[i].Claims = nil
		}
		for b.Loop() {
			Decide(ix, fresh, nil, "node-001")
		}
	})
}

func TestWhereAdvertisementsContradictEachOtherTheOldestIsHeard(t *testing.T) {
	ads := []lb.L2Advertisement{
		{Name: "a-young", Created: time.Unix(2, 0), Failback: lb.FailbackImmediate, ConflictPolicy: lb.ConflictIgnore},
		{Name: "b-old", Created: time.Unix(1, 0), ConflictPolicy: lb.ConflictDefend},
		{Name: "c-old", Created: time.Unix(1, 0), Failback: lb.FailbackImmediate, ConflictPolicy: lb.ConflictWithhold},
	}
	s := lb.Snapshot{
		Pools: []lb.Pool{lbtest.Everything()},
		Nodes: []lb.Node{{Name: "n"}},
		Services: []lb.Service{{
			Assigned:  []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
			Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{"": {Ready: 1}}, IPv6: lb.NodeEndpoints{"": {Ready: 1}}},
		}},
	}
	for range ads {
		ads = append(ads[1:], ads[0])
		s.L2Advertisements = slices.Clone(ads)
		intent := Decide(NewIndex(s, eligibility.Options{}), nil, nil, "n")
		if len(intent.Decisions) != 2 {
			t.Fatalf("%d decisions, want 2", len(intent.Decisions))
		}
		for _, v := range intent.Decisions {
			if v.Failback != lb.FailbackNever || v.Conflict != lb.ConflictDefend {
				t.Errorf("%v: failback %v, conflict policy %v; want those of b-old", v.Address, v.Failback, v.Conflict)
			}
		}
	}
}
