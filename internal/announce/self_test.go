package announce

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
)

func TestAnAdvertisementIsStrandedWhereNoInterfaceItPermitsCanAnnounce(t *testing.T) {
	up := func(name string) lb.Interface {
		return lb.Interface{Name: name, MAC: lb.MAC{2}, Up: true, Carrier: true}
	}
	down := func(name string) lb.Interface {
		i := up(name)
		i.Carrier = false
		return i
	}
	ix := NewIndex(lb.Snapshot{
		Nodes: []lb.Node{{Name: "a", Labels: map[string]string{"gateway": ""}}, {Name: "b"}},
		L2Advertisements: []lb.L2Advertisement{
			{Name: "z-everything"}, // the oldest
			{Name: "bond", Created: time.Unix(1, 0), Interfaces: []string{"bond*"}},
			{Name: "gateways", Created: time.Unix(3, 0), Scope: lb.Scope{NodeSelectors: []lb.Selector{{{Key: "gateway", Operator: lb.Exists}}}}, Interfaces: []string{"wan"}},
			{Name: "not-eth", Created: time.Unix(2, 0), ExcludeInterfaces: []string{"eth*"}},
		},
	}, eligibility.Options{})
	for _, c := range []struct {
		node       string
		interfaces []lb.Interface
		want       []string
	}{
		{"a", []lb.Interface{up("eth0")}, []string{"bond", "gateways", "not-eth"}},
		{"b", []lb.Interface{up("eth0")}, []string{"bond", "not-eth"}},
		{"b", []lb.Interface{up("eth0"), up("bond0")}, nil},
		{"b", []lb.Interface{up("eth0"), down("bond0")}, []string{"bond", "not-eth"}},
		{"b", nil, []string{"bond", "not-eth", "z-everything"}},
		{"nobody", nil, nil},
	} {
		if got := ix.Stranded(c.node, c.interfaces); !slices.Equal(got, c.want) {
			t.Errorf("on %s with %v: %v, want %v", c.node, c.interfaces, got, c.want)
		}
	}
	for _, c := range []struct {
		node, name string
		want       bool
	}{{"a", "wan", true}, {"nobody", "wan", false}} {
		if got := ix.AdvertisesOn(c.node, c.name); got != c.want {
			t.Errorf("%s permitted on %s: %v", c.name, c.node, got)
		}
	}
	narrow := NewIndex(lb.Snapshot{
		Nodes: []lb.Node{{Name: "a", Labels: map[string]string{"gateway": ""}}, {Name: "b"}},
		L2Advertisements: []lb.L2Advertisement{
			{Name: "gateways", Scope: lb.Scope{NodeSelectors: []lb.Selector{{{Key: "gateway", Operator: lb.Exists}}}}, Interfaces: []string{"wan"}},
		},
	}, eligibility.Options{})
	if !narrow.AdvertisesOn("a", "wan") || narrow.AdvertisesOn("a", "eth0") || narrow.AdvertisesOn("b", "wan") {
		t.Error("not wan on a, and nothing else, is permitted")
	}
}

// An interface is left out only if another one answers in all of its subnets, whatever
// advertisement is asked.
func TestAnInterfaceIsSpareWhereAnotherOneAnswersOnItsSegment(t *testing.T) {
	on := func(index int, name string, prefixes ...string) lb.Interface {
		i := lb.Interface{Index: index, Name: name, MAC: lb.MAC{2, 5: byte(index)}, Up: true, Carrier: true}
		for _, p := range prefixes {
			i.Addresses = append(i.Addresses, netip.MustParsePrefix(p))
		}
		return i
	}
	elsewhere := func(i lb.Interface, prefixes ...string) lb.Interface {
		for _, p := range prefixes {
			i.Elsewhere = append(i.Elsewhere, netip.MustParsePrefix(p))
		}
		return i
	}
	down := func(i lb.Interface) lb.Interface { i.Carrier = false; return i }
	eth0, wlan0 := on(2, "eth0", "fe80::1/64", "192.0.2.11/24"), on(3, "wlan0", "fe80::1/64", "192.0.2.12/24")
	all, wlans := lb.L2Advertisement{Name: "all"}, lb.L2Advertisement{Name: "wlans", Interfaces: []string{"wlan*"}}
	for what, c := range map[string]struct {
		ads        []lb.L2Advertisement
		interfaces []lb.Interface
		want       []string
	}{
		"the older one answers":          {[]lb.L2Advertisement{all}, []lb.Interface{eth0, wlan0}, []string{"wlan0: eth0 answers on its segment: it is in 192.0.2.0/24, too"}},
		"the one with the route answers": {[]lb.L2Advertisement{all}, []lb.Interface{elsewhere(eth0, "192.0.2.0/24"), wlan0}, []string{"eth0: wlan0 answers on its segment: the route to 192.0.2.0/24 leads there"}},
		"the other one cannot answer":    {[]lb.L2Advertisement{all}, []lb.Interface{down(eth0), wlan0}, nil},
		"the other one may not answer":   {[]lb.L2Advertisement{wlans}, []lb.Interface{eth0, wlan0}, nil},
		"one advertisement needs it":     {[]lb.L2Advertisement{all, wlans}, []lb.Interface{eth0, wlan0}, nil},
		"it has a subnet of its own":     {[]lb.L2Advertisement{all}, []lb.Interface{eth0, on(3, "wlan0", "192.0.2.12/24", "2001:db8::12/64")}, nil},
		"the families differ": {
			[]lb.L2Advertisement{all},
			[]lb.Interface{elsewhere(on(2, "eth0", "192.0.2.11/24", "2001:db8::11/64"), "192.0.2.0/24"), elsewhere(on(3, "wlan0", "192.0.2.12/24", "2001:db8::12/64"), "2001:db8::/64")},
			nil,
		},
		"only link-local subnets are common": {[]lb.L2Advertisement{all}, []lb.Interface{on(2, "eth0", "fe80::1/64"), on(3, "eth1", "fe80::1/64")}, nil},
		"nothing selects the node":           {nil, []lb.Interface{eth0, wlan0}, nil},
	} {
		ix := NewIndex(lb.Snapshot{Nodes: []lb.Node{{Name: "a"}}, L2Advertisements: c.ads}, eligibility.Options{})
		var got []string
		for _, s := range ix.Spares("a", c.interfaces) {
			got = append(got, s.Name+": "+s.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
		if ix.Spares("nobody", c.interfaces) != nil {
			t.Error("a node that is not known has spare interfaces")
		}
	}
}
