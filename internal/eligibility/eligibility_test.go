package eligibility

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
)

// both are an address of each family, and endpoints of both.
var both = []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:e::1")}

func endpoints(e lb.NodeEndpoints) lb.Endpoints { return lb.Endpoints{IPv4: e, IPv6: e} }

func service(name string, policy lb.TrafficPolicy, e lb.NodeEndpoints, addresses ...netip.Addr) lb.Service {
	return lb.Service{Key: lb.ServiceKey{Namespace: "web", Name: name}, Assigned: addresses, TrafficPolicy: policy, Endpoints: endpoints(e)}
}

func TestAddressesAreThoseThatAreOursAndInUse(t *testing.T) {
	others := []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:ffff::9")}
	for i, a := range both {
		other := others[i]
		pool := lb.Pool{Name: "edge", Ranges: []lb.AddressRange{{First: a, Last: a}}}
		released, elsewhere := service("released", 0, nil, a), service("elsewhere", 0, nil, a)
		released.Released, elsewhere.Foreign = true, true
		given := service("given", 0, nil, other)
		given.AssignedPools = []string{"gone"}
		for _, c := range []struct {
			name     string
			services []lb.Service
			nodes    []lb.Node
			want     string
		}{
			{"none", nil, nil, "[]"},
			{"one", []lb.Service{service("a", 0, nil, a)}, nil, fmt.Sprintf("[%v: web/a of edge]", a)},
			{"shared, by key", []lb.Service{service("b", 0, nil, a), service("a", 0, nil, a)}, nil, fmt.Sprintf("[%v: web/a of edge web/b of edge]", a)},
			{"listed twice by one", []lb.Service{service("a", 0, nil, a, a)}, nil, fmt.Sprintf("[%v: web/a of edge]", a)},
			{"what others wrote", []lb.Service{service("a", 0, nil, other)}, nil, "[]"},
			{"an orphan", []lb.Service{given}, nil, fmt.Sprintf("[%v: web/given of gone]", other)},
			{"ascending", []lb.Service{given, service("a", 0, nil, a)}, nil, fmt.Sprintf("[%v: web/a of edge %v: web/given of gone]", a, other)},
			{"not ours any more", []lb.Service{released, elsewhere}, nil, "[]"},
			{"a Node's", []lb.Service{given}, []lb.Node{{Name: "n1", Addresses: []netip.Addr{other}}}, fmt.Sprintf("[%v: web/given of gone, n1's]", other)},
		} {
			got := []string{}
			for _, in := range Addresses(lb.Snapshot{Pools: []lb.Pool{pool}, Services: c.services, Nodes: c.nodes}) {
				text := in.Addr.String() + ":"
				for n, s := range in.Services {
					text += fmt.Sprintf(" %v of %s", s.Key, in.Pools[n])
				}
				if in.Node != "" {
					text += ", " + in.Node + "'s"
				}
				got = append(got, text)
			}
			if fmt.Sprint(got) != c.want {
				t.Errorf("%v: %s: %v, want %s", a, c.name, got, c.want)
			}
		}
	}
}

func TestTrafficGoesWhereKubeProxyHasEndpointsForIt(t *testing.T) {
	ready, ending, none := lb.EndpointCount{Ready: 1}, lb.EndpointCount{Terminating: 1}, lb.EndpointCount{}
	for _, a := range both {
		for _, c := range []struct {
			name     string
			services []lb.Service
			n1, n2   Reason
		}{
			{"Cluster, nothing", []lb.Service{service("a", lb.TrafficCluster, nil, a)}, NoEndpoint, NoEndpoint},
			{"Cluster, nothing ready", []lb.Service{service("a", lb.TrafficCluster, lb.NodeEndpoints{"n1": none}, a)}, NoEndpoint, NoEndpoint},
			{"Cluster", []lb.Service{service("a", lb.TrafficCluster, lb.NodeEndpoints{"n1": ready}, a)}, Eligible, Eligible},
			{"Cluster, terminating", []lb.Service{service("a", lb.TrafficCluster, lb.NodeEndpoints{"n1": ending}, a)}, Eligible, Eligible},
			{"Local", []lb.Service{service("a", lb.TrafficLocal, lb.NodeEndpoints{"n1": ready}, a)}, Eligible, NoLocalEndpoint},
			{"Local, terminating", []lb.Service{service("a", lb.TrafficLocal, lb.NodeEndpoints{"n1": ending}, a)}, Eligible, NoLocalEndpoint},
			{"Local, on a node that is not known", []lb.Service{service("a", lb.TrafficLocal, lb.NodeEndpoints{"n9": ready}, a)}, NoLocalEndpoint, NoLocalEndpoint},
			{"Local, two", []lb.Service{
				service("a", lb.TrafficLocal, lb.NodeEndpoints{"n1": ready}, a), service("b", lb.TrafficLocal, lb.NodeEndpoints{"n2": ready}, a),
			}, Eligible, Eligible},
			{"Local, and Cluster without endpoints", []lb.Service{
				service("a", lb.TrafficLocal, lb.NodeEndpoints{"n1": ready}, a), service("b", lb.TrafficCluster, nil, a),
			}, Eligible, NoLocalEndpoint},
			{"Cluster with endpoints, and Local", []lb.Service{
				service("a", lb.TrafficCluster, lb.NodeEndpoints{"n1": ready}, a), service("b", lb.TrafficLocal, nil, a),
			}, Eligible, Eligible},
			{"Local, and Cluster with endpoints", []lb.Service{
				service("a", lb.TrafficLocal, lb.NodeEndpoints{"n1": ready}, a), service("b", lb.TrafficCluster, lb.NodeEndpoints{"n1": ready}, a),
			}, Eligible, Eligible},
		} {
			in := Addresses(lb.Snapshot{Pools: []lb.Pool{lbtest.Everything()}, Services: c.services})
			if len(in) != 1 {
				t.Fatalf("%v: %s: %d addresses in use", a, c.name, len(in))
			}
			if n1, n2 := in[0].Idle("n1"), in[0].Idle("n2"); n1 != c.n1 || n2 != c.n2 {
				t.Errorf("%v: %s: n1 %v and n2 %v, want %v and %v", a, c.name, n1, n2, c.n1, c.n2)
			}
		}
	}
}

func TestEachServiceTellsOfTheNodesThatServeItsTraffic(t *testing.T) {
	ready, ending, none := lb.EndpointCount{Ready: 2}, lb.EndpointCount{Terminating: 1}, lb.EndpointCount{}
	for _, a := range both {
		in := Addresses(lb.Snapshot{Pools: []lb.Pool{lbtest.Everything()}, Services: []lb.Service{
			service("a", lb.TrafficLocal, lb.NodeEndpoints{"n1": ready, "n2": ending, "n3": none}, a),
			service("b", lb.TrafficLocal, lb.NodeEndpoints{"n1": ending}, a),
		}})
		var got []string
		in[0].Serving(func(node string, serving lb.Serving) { got = append(got, fmt.Sprint(node, " ", serving)) })
		slices.Sort(got)
		want := []string{fmt.Sprint("n1 ", ready.Serving()), fmt.Sprint("n1 ", ending.Serving()), fmt.Sprint("n2 ", ending.Serving())}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", a, got, want)
		}
	}
}

func TestEndpointsOfTheOtherFamilyTakeNoTraffic(t *testing.T) {
	s := service("a", lb.TrafficCluster, nil, both...)
	s.Endpoints.IPv4 = lb.NodeEndpoints{"n1": {Ready: 1}}
	var got []Reason
	for _, in := range Addresses(lb.Snapshot{Pools: []lb.Pool{lbtest.Everything()}, Services: []lb.Service{s}}) {
		got = append(got, in.Idle("n1"))
	}
	if want := []Reason{Eligible, NoEndpoint}; !slices.Equal(got, want) {
		t.Errorf("IPv4 and IPv6: %v, want %v", got, want)
	}
}

func TestAnAdvertisementSelectsWhatEveryServiceAndPoolAllows(t *testing.T) {
	tier := func(v string) []lb.Selector {
		return []lb.Selector{{{Key: "tier", Operator: lb.In, Values: []string{v}}}}
	}
	for _, a := range both {
		pools := []lb.Pool{
			{Name: "edge", Labels: map[string]string{"tier": "front"}, Ranges: []lb.AddressRange{{First: a, Last: a}}},
			{Name: "lab", Labels: map[string]string{"tier": "back"}},
		}
		x, y := service("x", 0, nil, a), service("y", 0, nil, a)
		x.Labels, y.Labels = "tier=front", "tier=back"
		for _, c := range []struct {
			name  string
			scope lb.Scope
			want  bool
		}{
			{"everything", lb.Scope{}, true},
			{"the pool", lb.Scope{Pools: []string{"lab", "edge"}}, true},
			{"another pool", lb.Scope{Pools: []string{"lab"}}, false},
			{"the pool's labels", lb.Scope{PoolSelectors: tier("front")}, true},
			{"another pool's labels", lb.Scope{PoolSelectors: tier("back")}, false},
			{"either is enough", lb.Scope{Pools: []string{"edge"}, PoolSelectors: tier("back")}, true},
			{"both Services", lb.Scope{ServiceSelectors: slices.Concat(tier("front"), tier("back"))}, true},
			{"one of the Services", lb.Scope{ServiceSelectors: tier("front")}, false},
		} {
			s := lb.Snapshot{Pools: pools, Services: []lb.Service{x, y}}
			in := Addresses(s)
			selection := NewSelection([]lb.Scope{{Pools: []string{"none"}}, c.scope}, s.Pools)
			if got := selection.Selects(1, &in[0]); got != c.want || selection.Selects(0, &in[0]) {
				t.Errorf("%v: %s: %v, want %v", a, c.name, got, c.want)
			}
			in[0].Node = "n1"
			if selection.Selects(1, &in[0]) {
				t.Errorf("%v: %s: selects an address that a Node has for itself", a, c.name)
			}
		}
	}
}

func TestAPoolThatIsGoneIsStillSelectedByName(t *testing.T) {
	for _, a := range both {
		orphan := service("a", 0, nil, a)
		orphan.AssignedPools = []string{"gone"}
		in := Addresses(lb.Snapshot{Services: []lb.Service{orphan}})
		if selection := NewSelection([]lb.Scope{{Pools: []string{"gone"}}}, nil); !selection.Selects(0, &in[0]) {
			t.Errorf("%v is not selected by the name of the pool that gave it", a)
		}
		if selection := NewSelection([]lb.Scope{{}}, nil); !selection.Selects(0, &in[0]) {
			t.Errorf("%v is not selected by what selects everything", a)
		}
	}
}

func TestANodeIsFitUnlessItIsExcludedOrHasNoNetworkOrDrains(t *testing.T) {
	excluded := map[string]string{lb.LabelExcludeLB: "false"} // the value does not matter
	for _, c := range []struct {
		node         lb.Node
		want, forced Reason
	}{
		{lb.Node{NotReady: true}, Eligible, Eligible},
		{lb.Node{Labels: excluded, NetworkUnavailable: true, Drain: true}, NodeExcluded, NetworkUnavailable},
		{lb.Node{Labels: excluded}, NodeExcluded, Eligible},
		{lb.Node{NetworkUnavailable: true, Drain: true}, NetworkUnavailable, NetworkUnavailable},
		{lb.Node{Drain: true}, Draining, Draining},
	} {
		got, forced := Options{}.Fitness(&c.node), Options{IgnoreExcludeLB: true}.Fitness(&c.node)
		if got != c.want || forced != c.forced {
			t.Errorf("%+v: %v, and %v where the label is ignored; want %v and %v", c.node, got, forced, c.want, c.forced)
		}
	}
}

func TestEveryReasonIsSaidInItsOwnWords(t *testing.T) {
	seen := map[string]Reason{}
	for r := range Reason(Reasons) {
		for _, text := range []string{r.String(), r.Sentence(), r.Among()} {
			if other, known := seen[text]; known || text == "" {
				t.Errorf("%d and %d are both %q", r, other, text)
			}
			seen[text] = r
		}
	}
}
