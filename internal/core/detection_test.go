package core

import (
	"net/netip"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// A Node's word counts more than the speaker's flag, and others are told at once.
func TestTheNodesWordAboutDetectionCounts(t *testing.T) {
	now := time.Unix(1000, 0)
	c := New(Config{Node: "n1", Gossip: netip.MustParseAddr("2001:db8::1"), Detection: lb.DetectFast})
	for _, step := range []struct {
		said, want lb.Detection
	}{
		{lb.DetectAsConfigured, lb.DetectFast}, {lb.DetectStandard, lb.DetectStandard}, {lb.DetectFast, lb.DetectFast}, {lb.DetectAsConfigured, lb.DetectFast},
	} {
		now = now.Add(time.Second)
		before := c.gossip.Detection
		c.Configure(now, lb.Snapshot{Nodes: []lb.Node{{Name: "n0", Detection: lb.DetectStandard}, {Name: "n1", Detection: step.said}}})
		e := c.Settle(now)
		if c.gossip.Detection != step.want || e.View == nil || e.View.Detection != step.want {
			t.Errorf("its Node says %q: %q is in effect, want %q", step.said, c.gossip.Detection, step.want)
		}
		if told := e.Gossip != nil; told != (before != step.want) {
			t.Errorf("its Node says %q: others are told %v, though it was %q and is %q", step.said, told, before, step.want)
		}
	}
}

// Others are told of the interface by which this node gossips, if no advertisement lets
// any node announce there, and of no other.
func TestTheInterfaceOfGossipIsTold(t *testing.T) {
	on := func(index int, name, prefix string) lb.Interface {
		return lb.Interface{Index: index, Name: name, MAC: lb.MAC{2, 5: byte(index)}, Up: true, Carrier: true, Addresses: []netip.Prefix{netip.MustParsePrefix(prefix)}}
	}
	down := func(i lb.Interface) lb.Interface { i.Up = false; return i }
	eth0, storage, vlan50 := on(2, "eth0", "2001:db8::1/64"), on(3, "eth1", "2001:db8:1::1/64"), on(4, "vlan50", "fe80::1/64")
	for what, c := range map[string]struct {
		advertised     []string
		interfaces     []lb.Interface
		want, announce int
	}{
		"another one announces":          {[]string{"vlan50"}, []lb.Interface{eth0, storage, vlan50}, 2, 1},
		"it announces":                   {[]string{"vlan50", "eth0"}, []lb.Interface{eth0, storage, vlan50}, 0, 2},
		"it is down":                     {[]string{"vlan50"}, []lb.Interface{down(eth0), storage, vlan50}, 0, 1},
		"its address is on no interface": {[]string{"vlan50"}, []lb.Interface{storage, vlan50}, 0, 1},
	} {
		c0 := New(Config{Node: "n1", Gossip: netip.MustParseAddr("2001:db8::1")})
		now := time.Unix(1000, 0)
		c0.SetInterfaces(c.interfaces)
		c0.SetMembers(now, nil)
		c0.Configure(now, lb.Snapshot{Nodes: []lb.Node{{Name: "n1"}}, L2Advertisements: []lb.L2Advertisement{{Name: "all", Interfaces: c.advertised}}})
		told := c0.Settle(now).Gossip
		index := 0
		for _, i := range told.Management {
			index += i.Index
		}
		if index != c.want || len(told.Interfaces) != c.announce {
			t.Errorf("%s: others are told of %v, and of %d that announce", what, told.Management, len(told.Interfaces))
		}
	}
}
