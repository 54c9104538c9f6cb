package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
)

func TestOnlyWhatCanDisagreeIsContestable(t *testing.T) {
	with := func(edit func(*lb.BGPAdvertisement)) lb.BGPAdvertisement {
		var ad lb.BGPAdvertisement
		edit(&ad)
		return ad
	}
	pref := func(n uint32) lb.BGPAdvertisement { return with(func(a *lb.BGPAdvertisement) { a.LocalPref = &n }) }
	med := func(n uint32) lb.BGPAdvertisement { return with(func(a *lb.BGPAdvertisement) { a.MED = &n }) }
	prepend := func(n int) lb.BGPAdvertisement {
		return with(func(a *lb.BGPAdvertisement) { a.ASPathPrepend = n })
	}
	var none lb.BGPAdvertisement
	many := func(from, n int) lb.BGPAdvertisement {
		return with(func(a *lb.BGPAdvertisement) {
			for i := range n {
				c, err := lb.ParseCommunity(fmt.Sprintf("65000:%d", from+i))
				if err != nil {
					t.Fatal(err)
				}
				a.Communities = append(a.Communities, c)
			}
		})
	}
	for _, c := range []struct {
		name string
		ads  []lb.BGPAdvertisement
		want bool
	}{
		{"none", nil, false},
		{"one", []lb.BGPAdvertisement{pref(1)}, false},
		{"silent", []lb.BGPAdvertisement{none, none}, false},
		{"one speaks", []lb.BGPAdvertisement{pref(1), none, med(1), prepend(1)}, false},
		{"both say the same", []lb.BGPAdvertisement{pref(1), med(2), prepend(3), pref(1), med(2), prepend(3)}, false},
		{"preference", []lb.BGPAdvertisement{pref(1), none, pref(2)}, true},
		{"preference none and zero", []lb.BGPAdvertisement{none, pref(0)}, false},
		{"preference zero and one", []lb.BGPAdvertisement{pref(0), pref(1)}, true},
		{"metric", []lb.BGPAdvertisement{med(2), none, med(1)}, true},
		{"prepending", []lb.BGPAdvertisement{prepend(1), prepend(2)}, true},
		{"prepending, the longer first", []lb.BGPAdvertisement{prepend(2), none, prepend(1)}, true},
		{"as many communities as fit", []lb.BGPAdvertisement{many(0, MaxCommunities-1), many(MaxCommunities-2, 2)}, false},
		{"one community more", []lb.BGPAdvertisement{many(0, MaxCommunities-1), many(MaxCommunities-1, 2)}, true},
	} {
		if got := Contestable(c.ads); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestTheYoungerOfTwoContradictsTheOlderOncePerPair(t *testing.T) {
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	ad := func(name string, created int, med uint32, nodes ...lb.Requirement) lb.BGPAdvertisement {
		a := lb.BGPAdvertisement{Name: name, Created: at(created), MED: &med}
		for _, n := range nodes {
			a.NodeSelectors = append(a.NodeSelectors, lb.Selector{n})
		}
		return a
	}
	rack := func(n string) lb.Requirement {
		return lb.Requirement{Key: "rack", Operator: lb.In, Values: []string{n}}
	}
	four, six := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:e::1")
	peer := func(name string, created int, address string) lb.BGPPeer {
		return lb.BGPPeer{Name: name, Created: at(created), Address: netip.MustParseAddr(address), Port: DefaultPort, MyASN: 65000, PeerASN: 65001, Families: []lb.Family{lb.IPv4, lb.IPv6}}
	}
	world := lb.Snapshot{
		Pools: []lb.Pool{{Name: "edge", Ranges: []lb.AddressRange{{First: four, Last: four}, {First: six, Last: six}}}},
		Nodes: []lb.Node{{Name: "a", Labels: map[string]string{"rack": "1"}}, {Name: "b", Labels: map[string]string{"rack": "2"}}, {Name: "c", Labels: map[string]string{"rack": "3"}}},
		BGPPeers: []lb.BGPPeer{
			peer("tor", 1, "192.0.2.1"), peer("second", 2, "2001:db8::1"),
			peer("y-twin", 3, "192.0.2.1"), peer("x-twin", 4, "192.0.2.1"),
		},
		BGPAdvertisements: []lb.BGPAdvertisement{
			ad("z-oldest", 1, 10), ad("b-young", 5, 20, rack("1")), ad("a-young", 6, 30, rack("1"), rack("2")), ad("alike", 7, 10),
		},
		Services: []lb.Service{{Key: lb.ServiceKey{Namespace: "web", Name: "a"}, Assigned: []netip.Addr{four, six}, AssignedPools: []string{"edge", "edge"}}},
	}
	for range 10 {
		conflicts, rivals := NewSurvey(world, eligibility.Addresses(world), Options{}).Contradictions()
		var got []string
		for _, c := range conflicts {
			got = append(got, fmt.Sprintf("%s %s %s %v %s", c.Advertisement, c.Older, c.Attribute, c.Prefix, c.Peer))
		}
		want := []string{"a-young z-oldest med 198.51.100.1/32 second", "b-young z-oldest med 198.51.100.1/32 second"}
		if !slices.Equal(got, want) {
			t.Fatalf("conflicts %q, want %q", got, want)
		}
		if want := []Rival{{"x-twin", "tor"}, {"y-twin", "tor"}}; !slices.Equal(rivals, want) {
			t.Fatalf("rivals %v, want %v", rivals, want)
		}
	}
	// Nothing that nobody uses is contradicted.
	world.Services = nil
	if conflicts, _ := NewSurvey(world, eligibility.Addresses(world), Options{}).Contradictions(); conflicts != nil {
		t.Errorf("conflicts without an address: %v", conflicts)
	}
}

func TestWhoEndedASession(t *testing.T) {
	ours := []Cause{AdminShutdown, Reconfigured, Leave}
	for c := range causes {
		if got, want := Cause(c).Ours(), slices.Contains(ours, Cause(c)); got != want {
			t.Errorf("%v is ours: %v", Cause(c), got)
		}
	}
}

func TestWhatCannotBeSentIsTakenFromWhatShouldBe(t *testing.T) {
	v := SessionView{Routes: 10, Unsendable: map[lb.Family]int{lb.IPv4: 1}}
	before := v.Unsendable
	v.Lack(lb.IPv6, 0)
	if _, is := v.Unsendable[lb.IPv6]; is {
		t.Errorf("lacks none of IPv6 and says so: %v", v.Unsendable)
	}
	v.Lack(lb.IPv6, 3)
	v.Lack(lb.IPv4, 2)
	if v.Routes != 5 || v.Unsendable[lb.IPv4] != 3 || v.Unsendable[lb.IPv6] != 3 || len(before) != 1 || before[lb.IPv4] != 1 {
		t.Errorf("%d, %v; the map that others have is %v", v.Routes, v.Unsendable, before)
	}
}

// One that restarts is who it was. The value is that of an FNV-1a written elsewhere.
func TestARouterIDWithoutAnIPv4AddressIsMadeOfTheName(t *testing.T) {
	for _, c := range []struct {
		addresses []string
		want      string
	}{
		{[]string{"127.0.0.1", "0.0.0.0", "2001:db8::1", "192.0.2.9", "192.0.2.8"}, "192.0.2.9"},
		{[]string{"0.0.0.0", "127.0.0.1", "2001:db8::1"}, "244.196.51.131"},
	} {
		n := lb.Node{Name: "node-1"}
		for _, a := range c.addresses {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
		}
		if got := RouterID(lb.BGPPeer{}, n).String(); got != c.want {
			t.Errorf("%v: %s, want %s", c.addresses, got, c.want)
		}
	}
}

func TestLongLivedRestartIsOfferedAsLongAsItCanBeSaid(t *testing.T) {
	for _, c := range []struct {
		configured time.Duration
		want       uint32 // seconds; 0: not offered
	}{{0, 0}, {time.Second, 1}, {time.Hour, 3600}, {1 << 24 * time.Second, 1<<24 - 1}} {
		p := lb.BGPPeer{MyASN: 65000, Address: netip.MustParseAddr("2001:db8::1"), GracefulRestart: &lb.GracefulRestart{LongLived: c.configured}}
		o := LocalOpen(p, netip.MustParseAddr("192.0.2.9"), false)
		if !o.RouteRefresh || !o.FourOctetAS {
			t.Errorf("%+v", o)
		}
		for _, l := range o.LongLived {
			if l.Time != c.want || !l.Forwarding {
				t.Errorf("%v is offered as %+v", c.configured, l)
			}
		}
		if offered := len(o.LongLived) == len(o.Families); offered != (c.want > 0) {
			t.Errorf("%v: offered %v", c.configured, o.LongLived)
		}
	}
}
