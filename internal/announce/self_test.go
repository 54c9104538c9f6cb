package announce

import (
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
