package bgp

import (
	"fmt"
	fnv1a "hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
)

// anyCluster has a few nodes of two racks, peers, advertisements and Services.
func anyCluster(rnd *rand.Rand) lb.Snapshot {
	var s lb.Snapshot
	// What is assigned comes from a pool, and so is ours.
	s.Pools = []lb.Pool{{Name: "all", Ranges: []lb.AddressRange{
		{First: netip.MustParseAddr("198.51.100.0"), Last: netip.MustParseAddr("198.51.100.255")},
		{First: netip.MustParseAddr("2001:db8::"), Last: netip.MustParseAddr("2001:db8::ff")},
	}}}
	rack := func() []lb.Selector {
		if rnd.IntN(2) == 0 {
			return nil
		}
		return []lb.Selector{{{Key: "rack", Operator: lb.In, Values: []string{fmt.Sprint(rnd.IntN(2))}}}}
	}
	for i := range 1 + rnd.IntN(5) {
		n := lb.Node{Name: fmt.Sprintf("n%d", i), Labels: map[string]string{"rack": fmt.Sprint(rnd.IntN(2))}, NetworkUnavailable: rnd.IntN(8) == 0}
		if rnd.IntN(8) == 0 {
			n.Labels[lb.LabelExcludeLB] = ""
		}
		s.Nodes = append(s.Nodes, n)
	}
	for i := range rnd.IntN(4) {
		p := lb.BGPPeer{
			Name: fmt.Sprintf("p%d", i), Created: time.Unix(int64(rnd.IntN(3)), 0), MyASN: 1, PeerASN: uint32(1 + rnd.IntN(2)),
			Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(rnd.IntN(3))}), NodeSelectors: rack(),
		}
		if rnd.IntN(2) == 0 {
			p.Families = []lb.Family{lb.IPv4, lb.IPv6}
		}
		s.BGPPeers = append(s.BGPPeers, p)
	}
	for i := range rnd.IntN(4) {
		ad := lb.BGPAdvertisement{Name: fmt.Sprintf("ad%d", i), Created: time.Unix(int64(rnd.IntN(3)), 0), Scope: lb.Scope{NodeSelectors: rack()}}
		if rnd.IntN(2) == 0 {
			ad.Peers = []string{fmt.Sprintf("p%d", rnd.IntN(3))}
		}
		if rnd.IntN(2) == 0 {
			ad.MED = new(uint32(rnd.IntN(2)))
		}
		s.BGPAdvertisements = append(s.BGPAdvertisements, ad)
	}
	for i := range 1 + rnd.IntN(4) {
		svc := lb.Service{
			Key: lb.ServiceKey{Namespace: "web", Name: fmt.Sprint(i)}, TrafficPolicy: lb.TrafficPolicy(rnd.IntN(2)), Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{}, IPv6: lb.NodeEndpoints{}},
			AssignedPools: []string{"all", "all"},
			Assigned:      []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, byte(rnd.IntN(3))}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", rnd.IntN(3)))},
		}
		for _, n := range s.Nodes {
			if rnd.IntN(3) == 0 {
				svc.Endpoints.IPv4[n.Name] = lb.EndpointCount{Ready: rnd.IntN(2), Terminating: rnd.IntN(2)}
				svc.Endpoints.IPv6[n.Name] = lb.EndpointCount{Ready: rnd.IntN(2), Terminating: rnd.IntN(2)}
			}
		}
		s.Services = append(s.Services, svc)
	}
	return s
}

// What is told of all nodes is what each of them decides.
func TestASurveyAgreesWithEveryNode(t *testing.T) {
	judged := 0
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s, o := anyRichCluster(rnd), Options{Options: eligibility.Options{IgnoreExcludeLB: rnd.IntN(2) == 0}}
		for i := range s.Nodes {
			s.Nodes[i].Drain = rnd.IntN(6) == 0
		}
		rnd.Shuffle(len(s.Nodes), func(i, j int) { s.Nodes[i], s.Nodes[j] = s.Nodes[j], s.Nodes[i] })
		survey := NewSurvey(s, eligibility.Addresses(s), o)
		conflicts, rivals := survey.Contradictions()
		reasons := map[netip.Addr]map[eligibility.Reason]int{}
		advertisers := map[netip.Addr][]string{}
		// Of all sessions every second one is established.
		established := map[string][]lb.SessionID{}
		for i, n := range s.Nodes {
			o.Phase, _ = PhaseAt(n.Drain, time.Time{}, time.Time{}, 0)
			intent := Decide(s, n.Name, o)
			judged += len(intent.Decisions)
			up := map[string]bool{}
			for j, session := range intent.Sessions {
				if (i+j)%2 == 0 {
					up[session.Peer.Name] = true
					for _, f := range Families(session.Peer) {
						established[n.Name] = append(established[n.Name], SessionID(session.Peer.Name, f))
					}
				}
			}
			for _, v := range intent.Decisions {
				if reasons[v.Address] == nil {
					reasons[v.Address] = map[eligibility.Reason]int{}
				}
				reasons[v.Address][v.Reason]++
				if slices.ContainsFunc(v.Peers, func(p string) bool { return up[p] }) {
					advertisers[v.Address] = append(advertisers[v.Address], n.Name)
				}
			}
			for _, c := range intent.Conflicts {
				if !slices.ContainsFunc(conflicts, func(o Conflict) bool { return o.Advertisement == c.Advertisement && o.Older == c.Older }) {
					t.Errorf("seed %d: node %s finds %v, the survey %v", seed, n.Name, c, conflicts)
				}
			}
			for _, r := range intent.Rivals {
				if !slices.Contains(rivals, r) {
					t.Errorf("seed %d: node %s finds the rivals %v, the survey %v", seed, n.Name, r, rivals)
				}
			}
		}
		for a, want := range reasons {
			if got := survey.Reasons(a); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("seed %d: %v: the nodes say %v, the survey %v", seed, a, want, got)
			}
			slices.Sort(advertisers[a])
			if got := survey.Advertisers(a, established); !slices.Equal(got, advertisers[a]) {
				t.Errorf("seed %d: %v: advertised from %v, the survey says %v", seed, a, advertisers[a], got)
			}
		}
		if t.Failed() {
			return
		}
	}
	if judged < 3000 {
		t.Errorf("only %d addresses are judged", judged)
	}
}

func TestSessionIDsAreOfEstablishedSessionsThatCanSend(t *testing.T) {
	v := SessionView{Peer: "tor", State: Established, Negotiated: &Negotiated{Families: []lb.Family{lb.IPv4, lb.IPv6}}, Unsendable: map[lb.Family]int{lb.IPv6: 1}}
	if got := SessionIDs(v); !slices.Equal(got, []lb.SessionID{SessionID("tor", lb.IPv4)}) {
		t.Errorf("%v", got)
	}
	shared := v.Unsendable
	v.Routes = 9
	v.Lack(lb.IPv4, 0)
	v.Lack(lb.IPv4, 2)
	v.Lack(lb.IPv6, 1)
	if got := SessionIDs(v); got != nil || v.Routes != 6 || v.Unsendable[lb.IPv4] != 2 || v.Unsendable[lb.IPv6] != 2 || shared[lb.IPv6] != 1 {
		t.Errorf("%v %+v", got, v)
	}
	v.Unsendable = nil
	if got := SessionIDs(v); len(got) != 2 || !slices.IsSorted(got) {
		t.Errorf("%v", got)
	}
	v.State = OpenConfirm
	if got := SessionIDs(v); got != nil {
		t.Errorf("%v", got)
	}
	v.State, v.Negotiated = Established, nil
	if got := SessionIDs(v); got != nil {
		t.Errorf("%v", got)
	}
}

// Speakers of all versions mean the same by a number: it is FNV-1a of the peer's name and
// the family's.
func TestASessionIDIsTheSameInAllVersions(t *testing.T) {
	for _, f := range []lb.Family{lb.IPv4, lb.IPv6} {
		h := fnv1a.New32a()
		_, _ = h.Write([]byte("tor" + f.String()))
		if got := SessionID("tor", f); uint32(got) != h.Sum32() {
			t.Errorf("%v: %d, want %d", f, got, h.Sum32())
		}
	}
}
