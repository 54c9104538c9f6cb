package config_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/lb"
)

func TestAPoolIsToldWhatTheClusterHasForItself(t *testing.T) {
	pool := func(name string, addresses ...v1beta1.AddressRange) *v1beta1.IPAddressPool {
		p := &v1beta1.IPAddressPool{}
		p.Name, p.Spec.Addresses = name, addresses
		return p
	}
	pools := config.Compile(config.Objects{Pools: []*v1beta1.IPAddressPool{
		pool("apart", "198.51.100.0/24", "2001:db8:9::/64"),
		pool("mixed", "192.0.2.0/24", "2001:db8::/64"),
		pool("mixed-younger", "192.0.2.0/24"), // has nothing left
		pool("nodes", "203.0.113.11", "203.0.113.12", "2001:db8:1::11"),
		pool("pods", "10.244.0.128-10.244.1.127", "fd00:10::/64"),
		pool("many", "10.0.0.0/24"),
		pool("services", "10.96.0.0/30", "10.97.0.0/16", "fd00:96::/64"),
	}}).Pools
	nodes := []lb.Node{
		{
			Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("203.0.113.11")},
			PodNetworks: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:10::/80")},
		},
		{
			Name: "n2", Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::12"), netip.MustParseAddr("203.0.113.12"), netip.MustParseAddr("2001:db8:1::11")},
			PodNetworks: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
		},
		{Name: "n3"},
	}
	for i := range 7 {
		nodes[2].Addresses = append(nodes[2].Addresses, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	services := []lb.ServiceNetwork{
		{Name: "kubernetes", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}},
		{Name: "more", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.97.8.0/24")}},
	}
	want := map[string][]string{
		"mixed":    {"spec.addresses: Nodes' own addresses are neither handed out nor announced: 192.0.2.11 of n1, 2001:db8::12 of n2"},
		"nodes":    {"spec.addresses: there is nothing to hand out, since all addresses are Nodes' own: 203.0.113.11 of n1, 203.0.113.12 of n2, 2001:db8:1::11 of n2"},
		"pods":     {"spec.addresses: Pods may have the same addresses, so exclude the networks of Pods: 10.244.0.128-10.244.0.255 of n1, fd00:10::-fd00:10::ffff:ffff:ffff of n1, 10.244.1.0-10.244.1.127 of n2"},
		"services": {"spec.addresses: Services may have the same addresses as cluster IPs, so exclude the networks of Services: 10.96.0.0-10.96.0.3 of kubernetes, fd00:96::-fd00:96::ffff of kubernetes, 10.97.8.0-10.97.8.255 of more"},
		"many":     {"spec.addresses: Nodes' own addresses are neither handed out nor announced: 10.0.0.0 of n3, 10.0.0.1 of n3, 10.0.0.2 of n3, 10.0.0.3 of n3, 10.0.0.4 of n3 and 2 more"},
	}
	for range nodes {
		nodes = append(nodes[1:], nodes[0])
		got := config.Clashes(pools, nodes, services)
		for _, p := range pools {
			var told []string
			for _, problem := range got[p.Name] {
				if problem.Reason != v1beta1.ReasonOverlaps {
					t.Errorf("%s: %s", p.Name, problem.Reason)
				}
				told = append(told, problem.String())
			}
			if !slices.Equal(told, want[p.Name]) {
				t.Errorf("%s is told\n%q, want\n%q", p.Name, told, want[p.Name])
			}
		}
	}
}
