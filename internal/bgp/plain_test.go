package bgp

import (
	"fmt"
	fnv1a "hash/fnv"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
)

// A second implementation, slow and obvious: it looks at every advertisement with
// every peer, and asks for each what is in the way.

// plainly returns why a node advertises an address, or what comes nearest to it, and
// to whom.
func plainly(s lb.Snapshot, node lb.Node, a netip.Addr, o Options) (nearest eligibility.Reason, peers []string) {
	family := lb.FamilyOf(a)
	var sharing []lb.Service
	for _, svc := range s.Services {
		if !svc.Released && !svc.Foreign && slices.Contains(svc.Assigned, a) {
			sharing = append(sharing, svc)
		}
	}
	for _, n := range s.Nodes {
		if slices.Contains(n.Addresses, a) {
			return eligibility.NodeAddress, nil
		}
	}
	nearest = eligibility.NoAdvertisement
	told := map[string]bool{}
	reach := func(r eligibility.Reason) { nearest = max(nearest, r) }
	for _, ad := range s.BGPAdvertisements {
		all := true
		for _, svc := range sharing {
			all = all && (len(ad.ServiceSelectors) == 0 || lb.MatchesAny(ad.ServiceSelectors, lbtest.LabelMap(svc.Labels)))
		}
		if !all {
			continue
		}
		if idle := plainIdle(sharing, node, family); idle != eligibility.Eligible {
			reach(idle)
			continue
		}
		if len(ad.NodeSelectors) > 0 && !lb.MatchesAny(ad.NodeSelectors, node.Labels) {
			reach(eligibility.NodeNotSelected)
			continue
		}
		reach(eligibility.NoPeer)
		for _, p := range s.BGPPeers {
			if !plainHolds(s, node, p) || len(ad.Peers) > 0 && !slices.Contains(ad.Peers, p.Name) {
				continue
			}
			carries := p.Families
			if len(carries) == 0 {
				carries = []lb.Family{lb.FamilyOf(p.Address)}
			}
			if !slices.Contains(carries, family) {
				reach(eligibility.FamilyNotOffered)
				continue
			}
			switch r := plainUnfit(node, p, o); r {
			case eligibility.Eligible:
				told[p.Name] = true
				reach(r)
			default:
				reach(r)
			}
		}
	}
	return nearest, slices.Sorted(maps.Keys(told))
}

// plainHolds reports whether a node holds a session with a peer: it selects the node,
// and no older one that is for the same router does.
func plainHolds(s lb.Snapshot, node lb.Node, p lb.BGPPeer) bool {
	selected := func(p lb.BGPPeer) bool {
		return len(p.NodeSelectors) == 0 || lb.MatchesAny(p.NodeSelectors, node.Labels)
	}
	older := func(o lb.BGPPeer) bool {
		return o.Created.Before(p.Created) || o.Created.Equal(p.Created) && o.Name < p.Name
	}
	if !selected(p) {
		return false
	}
	for _, o := range s.BGPPeers {
		// The older one holds it itself: whom it yields to is for the same router, too.
		if older(o) && selected(o) && o.SameRouter(p) {
			return false
		}
	}
	return true
}

func plainUnfit(node lb.Node, p lb.BGPPeer, o Options) eligibility.Reason {
	if _, excluded := node.Labels[lb.LabelExcludeLB]; excluded && !o.IgnoreExcludeLB {
		return eligibility.NodeExcluded
	}
	if node.NetworkUnavailable {
		return eligibility.NetworkUnavailable
	}
	if o.Phase == Left || o.Stop == Left && p.GracefulRestart == nil {
		return eligibility.Draining
	}
	return eligibility.Eligible
}

func plainIdle(sharing []lb.Service, node lb.Node, family lb.Family) eligibility.Reason {
	anywhere := false
	for _, svc := range sharing {
		for name, c := range svc.Endpoints.Of(family) {
			usable := c.Ready > 0 || c.Terminating > 0
			if usable && (svc.TrafficPolicy == lb.TrafficCluster || name == node.Name) {
				return eligibility.Eligible
			}
			anywhere = anywhere || usable
		}
	}
	if anywhere {
		return eligibility.NoLocalEndpoint
	}
	return eligibility.NoEndpoint
}

// anyRichCluster is [anyCluster] with all else that is in the way of an address.
func anyRichCluster(rnd *rand.Rand) lb.Snapshot {
	s := anyCluster(rnd)
	tier := func(n int) []lb.Selector {
		return []lb.Selector{{{Key: "tier", Operator: lb.In, Values: []string{fmt.Sprint(n)}}}}
	}
	for i := range s.BGPAdvertisements {
		if rnd.IntN(3) == 0 {
			s.BGPAdvertisements[i].ServiceSelectors = tier(rnd.IntN(2))
		}
	}
	for i := range s.BGPPeers {
		if rnd.IntN(3) == 0 {
			s.BGPPeers[i].GracefulRestart = &lb.GracefulRestart{}
		}
	}
	for i := range s.Services {
		svc := &s.Services[i]
		svc.Labels = lb.LabelsOf(map[string]string{"tier": fmt.Sprint(rnd.IntN(2))})
		svc.Released, svc.Foreign = rnd.IntN(8) == 0, rnd.IntN(8) == 0
	}
	if rnd.IntN(4) == 0 {
		s.Nodes[0].Addresses = []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")}
	}
	return s
}

func TestEachNodeAdvertisesWhatIsPlainlyItsToAdvertise(t *testing.T) {
	reached := map[eligibility.Reason]int{}
	for seed := range uint64(6000) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		s := anyRichCluster(rnd)
		o := Options{Options: eligibility.Options{IgnoreExcludeLB: rnd.IntN(2) == 0}, Phase: Phase(max(0, rnd.IntN(5)-2)), Stop: Phase(max(0, rnd.IntN(5)-2))}
		for _, n := range s.Nodes {
			intent := Decide(s, n.Name, o)
			decided := map[netip.Addr]bool{}
			for _, v := range intent.Decisions {
				decided[v.Address] = true
				reason, peers := plainly(s, n, v.Address, o)
				reached[reason]++
				if v.Reason != reason || !slices.Equal(v.Peers, peers) {
					t.Fatalf("seed %d: node %s: %v is %v to %v, plainly %v to %v", seed, n.Name, v.Address, v.Reason, v.Peers, reason, peers)
				}
			}
			for _, svc := range s.Services {
				for _, a := range svc.Assigned {
					if ours := !svc.Released && !svc.Foreign; ours && !decided[a] {
						t.Fatalf("seed %d: node %s says nothing of %v", seed, n.Name, a)
					}
				}
			}
		}
	}
	for r := eligibility.NodeAddress; r <= eligibility.Eligible; r++ {
		if reached[r] < 20 {
			t.Errorf("%v is reached %d times", r, reached[r])
		}
	}
}

// Any two attributes differ in one place only, and each difference is sent.
func TestAnyDifferenceOfARouteIsSent(t *testing.T) {
	prefix := netip.MustParsePrefix("2001:db8::1/128")
	all := []Attributes{
		{},
		{LocalPref: Some(1)},
		{LocalPref: Some(0)},
		{MED: Some(1)},
		{MED: Some(0)},
		{Prepend: 1},
		{Communities: []lb.Community{lb.GracefulShutdown}},
		{Endpoints: 1},
	}
	texts := map[string]bool{}
	for i, a := range all {
		texts[a.String()] = true
		for j, b := range all {
			changes := Diff([]Route{{prefix, a}}, []Route{{prefix, b}})
			if changes.Empty() != (i == j) {
				t.Errorf("from %q to %q: %+v", a, b, changes)
			}
		}
	}
	if len(texts) != len(all) {
		t.Errorf("some read the same: %v", texts)
	}
	one, other := []Route{{Prefix: prefix}}, []Route{{Prefix: netip.MustParsePrefix("192.0.2.1/32")}}
	for _, c := range []Changes{Diff(one, nil), Diff(nil, one), Diff(one, other)} {
		if c.Empty() {
			t.Errorf("%+v is empty", c)
		}
	}
}

func metric(n uint32) *uint32 { return &n }

// route returns the one route that a node has for the Services, told to an external peer or
// an internal one, and the conflicts.
func route(t *testing.T, as uint32, ads []lb.BGPAdvertisement, services ...lb.Service) (Route, []Conflict) {
	t.Helper()
	a := netip.MustParseAddr("2001:db8::")
	for i := range services {
		services[i].AssignedPools = []string{"all"}
	}
	for i := range ads {
		ads[i].Created = time.Unix(int64(i), 0)
	}
	intent := Decide(lb.Snapshot{
		Nodes:             []lb.Node{{Name: "n"}},
		Pools:             []lb.Pool{{Name: "all", Ranges: []lb.AddressRange{{First: a, Last: netip.MustParseAddr("2001:db8::ff")}}}},
		BGPPeers:          []lb.BGPPeer{{Name: "tor", MyASN: 65000, PeerASN: as, Address: netip.MustParseAddr("2001:db8:9::1")}},
		BGPAdvertisements: ads, Services: services,
	}, "n", Options{})
	if len(intent.Sessions) != 1 || len(intent.Sessions[0].Routes) != 1 {
		t.Fatalf("sessions: %+v", intent.Sessions)
	}
	return intent.Sessions[0].Routes[0], intent.Conflicts
}

// serves is a Service with so many ready endpoints on the node.
func serves(name, address string, ready int) lb.Service {
	return lb.Service{
		Key: lb.ServiceKey{Namespace: "web", Name: name}, Labels: lb.LabelsOf(map[string]string{"name": name}),
		Assigned:  []netip.Addr{netip.MustParseAddr(address)},
		Endpoints: lb.Endpoints{IPv6: lb.NodeEndpoints{"n": {Ready: ready}}},
	}
}

func TestAContradictionNamesTheOldestWhoSaidSoAndTheFirstAttribute(t *testing.T) {
	got, conflicts := route(t, 65000, []lb.BGPAdvertisement{
		{Name: "silent"},
		{Name: "oldest", MED: metric(1), LocalPref: metric(1)},
		{Name: "agrees", MED: metric(1), LocalPref: metric(1)},
		{Name: "youngest", MED: metric(2), LocalPref: metric(2)},
	}, serves("a", "2001:db8::1", 1))
	if want := []Conflict{{"youngest", "oldest", "localPref", got.Prefix, "tor"}}; !slices.Equal(conflicts, want) || got.MED != Some(1) || got.LocalPref != Some(1) {
		t.Errorf("%v, conflicts %v", got, conflicts)
	}
	for as, want := range map[uint32]Attributes{65001: {MED: Some(1), Prepend: 1}, 65000: {MED: Some(1), LocalPref: Some(1)}} {
		got, _ := route(t, as, []lb.BGPAdvertisement{{Name: "ad", MED: metric(1), LocalPref: metric(1), ASPathPrepend: 1}}, serves("a", "2001:db8::1", 1))
		if !got.Equal(want) {
			t.Errorf("to AS %d: %v, want %v", as, got, want)
		}
	}
}

// The endpoints of a Service count as a weight only if an advertisement that weighs
// selects it.
func TestAnAggregateWeighsWhatIsToBeWeighed(t *testing.T) {
	only := func(name string) []lb.Selector {
		return []lb.Selector{{{Key: "name", Operator: lb.In, Values: []string{name}}}}
	}
	got, _ := route(t, 65001, []lb.BGPAdvertisement{
		{Name: "weighs", AggregationLengthV6: 64, Scope: lb.Scope{ServiceSelectors: only("a")}, WeightByEndpoints: true},
		{Name: "does not", AggregationLengthV6: 64, Scope: lb.Scope{ServiceSelectors: only("b")}},
	}, serves("a", "2001:db8::1", 2), serves("b", "2001:db8::2", 5))
	if got.Endpoints != 2 || got.Prefix != netip.MustParsePrefix("2001:db8::/64") {
		t.Errorf("%v", got)
	}
	for length, want := range map[int]string{0: "2001:db8::1/128", 1: "::/1", 127: "2001:db8::/127", 128: "2001:db8::1/128", 129: "2001:db8::1/128"} {
		got, _ := route(t, 65001, []lb.BGPAdvertisement{{Name: "ad", AggregationLengthV6: length}}, serves("a", "2001:db8::1", 2))
		if got.Prefix != netip.MustParsePrefix(want) {
			t.Errorf("length %d: %v, want %s", length, got.Prefix, want)
		}
	}
}

// A failure to connect that follows the router's own words is told with them, whichever
// it is.
func TestARoutersWordsStayBesideWhatIsNew(t *testing.T) {
	words := &Fault{Cause: Notified, Text: "see you at noon"}
	for _, c := range []Cause{ConnectionRefused, Unanswered, MD5Suspected, Unreachable, Silent} {
		got := (&Fault{Cause: c, Text: "new"}).Succeed(words)
		if got.Cause != c || got.Text != "new; before that see you at noon" {
			t.Errorf("%v: %+v", c, got)
		}
		// And only once, however often it fails.
		if again := (&Fault{Cause: c, Text: "new"}).Succeed(got); again.Text != got.Text {
			t.Errorf("%v again: %+v", c, again)
		}
	}
	for _, c := range []Cause{ClosedBeforeOpen, ConnectionLost} {
		if got := (&Fault{Cause: c, Text: "a guess"}).Succeed(words); got != words {
			t.Errorf("%v: %+v", c, got)
		}
	}
}

// What a router's closing of connections may follow from stays, with what came since.
func TestAFactIsNotHiddenByWhatMayFollowFromIt(t *testing.T) {
	for c := ConnectionRefused; c <= InternalFault; c++ {
		for _, guess := range []Cause{ClosedBeforeOpen, ConnectionLost} {
			got := (&Fault{Cause: guess, Text: "closed"}).Succeed(&Fault{Cause: c, Text: "a fact"})
			want := Fault{Cause: guess, Text: "closed"}
			switch c {
			case OpenRejected, Malformed, HoldTimerExpired, SendTimeout, Silent, TTLTooLow, BFDDown:
				want = Fault{Cause: c, Text: "a fact; since then closed"}
			case Notified:
				want = Fault{Cause: c, Text: "a fact"}
			}
			if got.Cause != want.Cause || got.Text != want.Text {
				t.Errorf("%v after %v: %+v, want %+v", guess, c, got, want)
			}
		}
	}
	if got := TooFar(128, 255).Text; !strings.Contains(got, "turn on GTSM") {
		t.Errorf("a router that begins with 128: %s", got)
	}
	if got := TooFar(129, 255).Text; !strings.Contains(got, "127 hops away") {
		t.Errorf("a router that begins with 255: %s", got)
	}
	secured := lb.BGPPeer{TTLSecurity: 1}
	if got := Silence(secured, OpenSent, Trace{}).Text; got != "the router has taken the connection and sends no OPEN" {
		t.Errorf("a router that acknowledges: %s", got)
	}
	if got := Silence(secured, OpenSent, Trace{Unacknowledged: true}).Text; !strings.Contains(got, "ttlSecurity 1 lets in only") {
		t.Errorf("a router that does not: %s", got)
	}
}

// As many communities as there may be are no conflict, one more is, with the oldest of
// those that apply.
func TestSoManyCommunitiesAreNoConflict(t *testing.T) {
	some := func(from, n int) (all []lb.Community) {
		for i := range n {
			all = append(all, lb.Community{A: 65000, B: uint32(from + i)})
		}
		return all
	}
	for more := range 2 {
		got, conflicts := route(t, 65001, []lb.BGPAdvertisement{
			{Name: "other", Scope: lb.Scope{Pools: []string{"other"}}}, {Name: "first", Communities: some(0, 200)}, {Name: "second", Communities: some(200, MaxCommunities-200+more)},
		}, serves("a", "2001:db8::1", 1))
		if len(conflicts) != more || len(got.Communities) != MaxCommunities-more*(MaxCommunities-200) {
			t.Errorf("%d more than there may be: %d apply, conflicts %v", more, len(got.Communities), conflicts)
		}
		if more > 0 && (conflicts[0].Advertisement != "second" || conflicts[0].Older != "first") {
			t.Errorf("%v", conflicts)
		}
	}
}

// Peers for one router, the youngest of which has the first name.
func TestRivalsAreToldByName(t *testing.T) {
	s := lb.Snapshot{Nodes: []lb.Node{{Name: "a", Labels: map[string]string{"rack": "1"}}, {Name: "b", Labels: map[string]string{"rack": "2"}}}}
	for i, name := range []string{"z", "y", "x", "w"} {
		p := lb.BGPPeer{Name: name, Created: time.Unix(int64(i), 0), MyASN: 65000, PeerASN: 65001, Address: netip.MustParseAddr("2001:db8::1")}
		if name == "z" || name == "w" {
			p.NodeSelectors = []lb.Selector{{{Key: "rack", Operator: lb.In, Values: []string{"1"}}}}
		}
		s.BGPPeers = append(s.BGPPeers, p)
	}
	if got, want := Decide(s, "a", Options{}).Rivals, []Rival{{"w", "z"}, {"x", "z"}, {"y", "z"}}; !slices.Equal(got, want) {
		t.Errorf("on a: %v, want %v", got, want)
	}
	_, got := NewSurvey(s, eligibility.Addresses(s), Options{}).Contradictions()
	if want := []Rival{{"w", "z"}, {"x", "y"}, {"x", "z"}, {"y", "z"}}; !slices.Equal(got, want) {
		t.Errorf("in all: %v, want %v", got, want)
	}
}

// A route that has only just an endpoint says that it is about to go while another node
// serves, or did; one that has an entry and no endpoint does not.
func TestANewRouteGivesWayOnlyToWhoServes(t *testing.T) {
	for _, c := range []struct {
		there lb.EndpointCount
		gives bool
	}{{lb.EndpointCount{}, false}, {lb.EndpointCount{Terminating: 1}, true}, {lb.EndpointCount{Ready: 1}, true}} {
		svc := lb.Service{
			Key: lb.ServiceKey{Namespace: "web", Name: "a"}, TrafficPolicy: lb.TrafficLocal, AssignedPools: []string{"all"},
			Assigned: []netip.Addr{netip.MustParseAddr("2001:db8::1")}, Endpoints: lb.Endpoints{IPv6: lb.NodeEndpoints{"n": {Ready: 1}, "m": c.there}},
		}
		s := lb.Snapshot{
			Nodes: []lb.Node{{Name: "n"}, {Name: "m"}}, Services: []lb.Service{svc}, BGPAdvertisements: []lb.BGPAdvertisement{{Name: "all"}},
			BGPPeers: []lb.BGPPeer{{Name: "tor", MyASN: 65000, PeerASN: 65001, Address: netip.MustParseAddr("2001:db8:9::1")}},
		}
		r := Decide(s, "n", Options{Recent: map[ServiceFamily]bool{{svc.Key, lb.IPv6}: true}}).Sessions[0].Routes[0]
		if got := slices.Contains(r.Communities, lb.GracefulShutdown); got != c.gives {
			t.Errorf("with %+v elsewhere: %v", c.there, r)
		}
	}
}

// Whatever the node's name, its identifier is made of that alone, in class E.
func TestARouterIDOfANameIsItsHash(t *testing.T) {
	for i := range 20 {
		name := fmt.Sprint("node-", i)
		h := fnv1a.New32a()
		_, _ = h.Write([]byte(name))
		n := h.Sum32() | 0xf<<28
		want := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		if got := RouterID(lb.BGPPeer{}, lb.Node{Name: name, Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::1")}}); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// Roles are between autonomous systems (RFC 9234 section 4).
func TestARoleIsNothingWithinAnAS(t *testing.T) {
	p := lb.BGPPeer{MyASN: 65000, PeerASN: 65000, Address: netip.MustParseAddr("2001:db8::1"), Role: lb.RoleProvider, RequireRole: true}
	ours := LocalOpen(p, netip.MustParseAddr("192.0.2.9"), false)
	ours.Role = p.Role // whatever was said
	theirs := ours
	theirs.Role, theirs.ID = lb.NoRole, netip.MustParseAddr("192.0.2.8")
	if n, err := Negotiate(p, ours, theirs); err != nil || n.OnlyToCustomers != 0 {
		t.Errorf("%v, marked with %d", err, n.OnlyToCustomers)
	}
}

// A keepalive time that is shorter than a third of the hold time is kept, however short.
func TestAKeepaliveTimeIsKept(t *testing.T) {
	for _, k := range []time.Duration{time.Second, 2 * time.Second} {
		p := lb.BGPPeer{MyASN: 65000, PeerASN: 65001, Address: netip.MustParseAddr("2001:db8::1"), HoldTime: 9 * time.Second, KeepaliveTime: k}
		ours := LocalOpen(p, netip.MustParseAddr("192.0.2.9"), false)
		theirs := ours
		theirs.AS, theirs.ID = 65001, netip.MustParseAddr("192.0.2.8")
		n, err := Negotiate(p, ours, theirs)
		if err != nil || n.KeepaliveTime != k {
			t.Errorf("%v: %v, %v", k, n.KeepaliveTime, err)
		}
	}
}

func TestAPeerIsInternalByItsKindOrItsNumber(t *testing.T) {
	for _, c := range []struct {
		peer lb.BGPPeer
		want bool
	}{
		{lb.BGPPeer{Kind: lb.PeerInternal, MyASN: 65000}, true},
		{lb.BGPPeer{Kind: lb.PeerExternal, MyASN: 65000}, false},
		{lb.BGPPeer{MyASN: 65000, PeerASN: 65000}, true},
		{lb.BGPPeer{MyASN: 65000, PeerASN: 65001}, false},
	} {
		if got := Internal(c.peer); got != c.want {
			t.Errorf("%+v: internal %v", c.peer, got)
		}
	}
	if got := Families(lb.BGPPeer{Interface: "eth0"}); !slices.Equal(got, []lb.Family{lb.IPv4, lb.IPv6}) {
		t.Errorf("unnumbered: %v", got)
	}
}
