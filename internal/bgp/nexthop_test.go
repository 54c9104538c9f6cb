package bgp

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
)

// hostAddress reads "PREFIX WORD...", the words being flags and whose it is.
func hostAddress(text string) HostAddress {
	words := strings.Fields(text)
	a := HostAddress{Prefix: netip.MustParsePrefix(words[0])}
	for _, w := range words[1:] {
		switch w {
		case "tentative":
			a.Flags |= lb.AddressTentative
		case "deprecated":
			a.Flags |= lb.AddressDeprecated
		case "temporary":
			a.Flags |= lb.AddressTemporary
		case "secondary":
			a.Flags |= lb.AddressSecondary
		case "dynamic":
			a.Flags |= lb.AddressDynamic
		case "node":
			a.Node = true
		case "lent":
			a.Lent = true
		case "pooled":
			a.Pooled = true
		default:
			panic(w)
		}
	}
	return a
}

func hostInterface(name string, addresses ...string) HostInterface {
	i := HostInterface{Name: name}
	for _, a := range addresses {
		i.Addresses = append(i.Addresses, hostAddress(a))
	}
	return i
}

func TestNextHopIsAlwaysOurselves(t *testing.T) {
	both := []lb.Family{lb.IPv4, lb.IPv6}
	here := []HostInterface{
		hostInterface("lo", "127.0.0.1/8", "::1/128"),
		hostInterface("eth0", "192.0.2.10/24", "2001:db8::10/64", "fe80::10/64"),
		hostInterface("eth1", "203.0.113.10/24", "2001:db8:1::10/64", "fe80::10/64"),
		hostInterface("eth2", "198.51.100.10/24", "fe80::12/64"),
	}
	for _, c := range []struct {
		name, local string
		families    []lb.Family
		extended    bool
		v4, v6      string
	}{
		{"over IPv4", "192.0.2.10", both, false, "192.0.2.10", "2001:db8::10"},
		{"over IPv4, the other interface", "203.0.113.10", both, false, "203.0.113.10", "2001:db8:1::10"},
		{"over IPv4 to a router that has RFC 8950", "192.0.2.10", both, true, "192.0.2.10", "2001:db8::10"},
		{"over IPv6 by RFC 8950", "2001:db8::10", both, true, "2001:db8::10", "2001:db8::10"},
		{"over IPv6 to a router that has it not", "2001:db8:1::10", both, false, "203.0.113.10", "2001:db8:1::10"},
		{"unnumbered", "fe80::10%eth1", both, true, "fe80::10", "fe80::10"},
		{"unnumbered to a router that has RFC 8950 not", "fe80::10%eth1", both, false, "203.0.113.10", "fe80::10"},
		{"IPv4 alone", "192.0.2.10", both[:1], false, "192.0.2.10", "the router does not carry IPv6 in this session"},
		{"IPv6 alone", "2001:db8::10", both[1:], true, "the router does not carry IPv4 in this session", "2001:db8::10"},
		{"no IPv6 there", "198.51.100.10", both, false, "198.51.100.10", "eth2 has no IPv6 address that the router could use as next hop; give it one"},
		{"an address that is gone", "192.0.2.99", both, false, "192.0.2.99", "no interface of the node has the session's own address, so there is no next hop for IPv6"},
	} {
		next := NextHops(here, addr(c.local), Negotiated{Families: c.families, ExtendedNextHop: c.extended}, nil)
		for f, want := range map[lb.Family]string{lb.IPv4: c.v4, lb.IPv6: c.v6} {
			got := next[f].Sentence(f)
			if next[f].Lack == HopFound {
				got = next[f].Address.String()
			}
			if got != want {
				t.Errorf("%s: %v has %s, want %s", c.name, f, got, want)
			}
		}
	}
	without := NextHops(here, netip.Addr{}, Negotiated{Families: both, ExtendedNextHop: true}, nil)
	for _, f := range both {
		if h := without[f]; h.Lack != InterfaceUnknown {
			t.Errorf("without a session %v has %+v", f, h)
		}
	}
	// An address of lo that others reach by way of an interface that has it too.
	lo, dummy := hostInterface("lo", "127.0.0.1/8", "198.51.100.1/32", "2001:db8:9::1/128"), hostInterface("dummy0", "198.51.100.1/32", "2001:db8::1/64")
	last := hostInterface("dummy1", "198.51.100.1/32", "2001:db8:2::1/64")
	for want, order := range map[string][]HostInterface{
		"2001:db8::1": {lo, dummy, last}, "2001:db8:2::1": {last, lo, dummy},
		"2001:db8:9::1": {lo, hostInterface("lo1", "127.0.0.2/8", "198.51.100.1/32", "2001:db8:7::1/128")},
	} {
		if h := NextHops(order, addr("198.51.100.1"), Negotiated{Families: both}, nil)[lb.IPv6]; h.Address != addr(want) {
			t.Errorf("of lo and others %v: %+v, want %s", order, h, want)
		}
	}
}

// What an operator would name. Over is the session's own address, eth0 has it.
func TestNextHopIsTheAddressThatAnOperatorWouldName(t *testing.T) {
	const v4, v6 = "192.0.2.10/24", "2001:db8::10/64"
	for _, c := range []struct {
		name      string
		over      string
		addresses []string
		before    string
		want      string
	}{
		{"a deprecated one is the last resort", v4, []string{"2001:db8::1/64 deprecated", "2001:db8::2/64 dynamic"}, "", "2001:db8::2"},
		{"but it is one", v4, []string{"2001:db8::1/64 deprecated"}, "", "2001:db8::1"},
		{"a deprecated one is left", v4, []string{"2001:db8::1/64 deprecated", "2001:db8::2/64"}, "2001:db8::1", "2001:db8::2"},
		{"a temporary one is not taken", v4, []string{"2001:db8::1/64 temporary dynamic", "2001:db8::2/64 dynamic"}, "", "2001:db8::2"},
		{"nor kept", v4, []string{"2001:db8::1/64 temporary dynamic", "2001:db8::2/64 dynamic"}, "2001:db8::1", "2001:db8::2"},
		{"unless all else is deprecated", v4, []string{"2001:db8::1/64 temporary dynamic", "2001:db8::2/64 dynamic deprecated"}, "", "2001:db8::1"},
		{"a tentative one is waited for", v4, []string{"2001:db8::1/64 tentative"}, "", "AddressTentative"},
		{"or passed over", v4, []string{"2001:db8::1/64 tentative", "2001:db8::2/64"}, "", "2001:db8::2"},
		{"a Service's is not ours", v4, []string{"2001:db8::1/64 lent", "2001:db8::2/64 deprecated"}, "", "2001:db8::2"},
		{"even alone", v4, []string{"2001:db8::1/64 lent"}, "2001:db8::1", "AddressLent"},
		{"a pool's may be ours, as the last resort", v4, []string{"2001:db8::1/64 pooled", "2001:db8::2/64 deprecated"}, "", "2001:db8::2"},
		{"where there is no other", v4, []string{"2001:db8::1/64 pooled"}, "", "2001:db8::1"},
		{"what kube-vip keeps", v4, []string{"2001:db8::1/128", "2001:db8::2/64 temporary dynamic"}, "", "2001:db8::2"},
		{"what keepalived keeps, alone", v4, []string{"2001:db8::1/128 deprecated"}, "", "AddressLent"},
		{"what DHCPv6 gave", v4, []string{"2001:db8::1/128 dynamic"}, "", "2001:db8::1"},
		{"what DHCPv6 gave, its lease about to end", v4, []string{"2001:db8::1/128 dynamic deprecated"}, "", "2001:db8::1"},
		{"single addresses on a node that has only such", "192.0.2.10/32", []string{"2001:db8::1/128", "2001:db8::2/64"}, "", "2001:db8::1"},
		{"the Node's, however it is written", v4, []string{"2001:db8::1/64", "2001:db8::2/128 node"}, "2001:db8::1", "2001:db8::2"},
		{"a unique local one gives way", v4, []string{"fd00::1/64", "2001:db8::2/64 dynamic"}, "fd00::1", "2001:db8::2"},
		{"but is one", v4, []string{"fd00::1/64"}, "", "fd00::1"},
		{"unless the Node is known by it", v4, []string{"fd00::1/64 node", "2001:db8::2/64"}, "", "fd00::1"},
		{"an equal one changes nothing", v4, []string{"2001:db8::1/64", "2001:db8::2/64"}, "2001:db8::2", "2001:db8::2"},
		{"nor does one that was configured", v4, []string{"2001:db8::1/64", "2001:db8::2/64 dynamic"}, "2001:db8::2", "2001:db8::2"},
		{"which else comes first", v4, []string{"2001:db8::1/64 dynamic", "2001:db8::2/64"}, "", "2001:db8::2"},
		{"what was chosen is gone", v4, []string{"2001:db8::1/64", "2001:db8::3/64"}, "2001:db8::2", "2001:db8::1"},
		{"link-local ones are no next hop of another family", v4, []string{"fe80::1/64"}, "", "AddressAbsent"},
		{"IPv4: the first of its subnet", v6, []string{"192.0.2.1/24 secondary", "192.0.2.2/24"}, "", "192.0.2.2"},
		{"IPv4: the Node's", v6, []string{"192.0.2.1/24 node secondary", "192.0.2.2/24"}, "", "192.0.2.1"},
		{"IPv4: a virtual one", v6, []string{"192.0.2.1/32", "192.0.2.2/24"}, "192.0.2.1", "192.0.2.2"},
		{"IPv4: a Service's", v6, []string{"192.0.2.1/32 lent"}, "", "AddressLent"},
		{"IPv4: private is as good as any", v6, []string{"10.0.0.1/24", "192.0.2.2/24"}, "", "10.0.0.1"},
		{"IPv4: link-local and loopback are not", v6, []string{"169.254.0.1/16", "127.0.0.2/8"}, "", "AddressAbsent"},
	} {
		here := []HostInterface{hostInterface("eth1", "2001:db8::9/64", "192.0.2.9/24"), hostInterface("eth0", append(c.addresses, c.over)...)}
		own := netip.MustParsePrefix(c.over).Addr()
		f := lb.IPv6
		if own.Is6() {
			f = lb.IPv4
		}
		before := map[lb.Family]NextHop{}
		if c.before != "" {
			before[f] = NextHop{Address: addr(c.before)}
		}
		h := NextHops(here, own, Negotiated{Families: []lb.Family{lb.IPv4, lb.IPv6}}, before)[f]
		got := h.Lack.String()
		if h.Lack == HopFound {
			got = h.Address.String()
		}
		if got != c.want || h.Lack != HopFound && (h.Address.IsValid() || h.Sentence(f) == "") {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestHostInterfacesKnowWhoseAnAddressIs(t *testing.T) {
	deprecated := netip.MustParsePrefix("2001:db8::1/64")
	s := lb.Snapshot{
		Nodes: []lb.Node{{Name: "b", Addresses: []netip.Addr{addr("192.0.2.11")}}, {Name: "a", Addresses: []netip.Addr{addr("192.0.2.10"), addr("2001:db8::10")}}},
		Services: []lb.Service{
			{Assigned: []netip.Addr{addr("198.51.100.1"), addr("2001:db8::5")}},
			{Assigned: []netip.Addr{addr("192.0.2.10")}}, // a Node's own is its own, whoever says that it is in use
		},
		Pools: []lb.Pool{{Ranges: []lb.AddressRange{
			{First: addr("127.0.0.0"), Last: addr("127.0.0.255")}, // which nobody is given
			{First: addr("198.51.100.0"), Last: addr("198.51.100.255")},
		}}},
	}
	got := HostInterfaces(s, "a", []lb.Interface{
		{Index: 1, Name: "lo", Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
		{
			Index: 2, Name: "eth0", Flags: map[netip.Prefix]lb.AddressFlags{deprecated: lb.AddressDeprecated},
			Addresses: []netip.Prefix{
				netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("192.0.2.11/32"), netip.MustParsePrefix("198.51.100.1/32"),
				netip.MustParsePrefix("198.51.100.2/24"), deprecated, netip.MustParsePrefix("2001:db8::5/128"), netip.MustParsePrefix("2001:db8::10/64"),
			},
		},
	})
	want := []HostInterface{hostInterface("lo", "127.0.0.1/8"), hostInterface("eth0", "192.0.2.10/24 node", "192.0.2.11/32 lent",
		"198.51.100.1/32 lent pooled", "198.51.100.2/24 pooled", "2001:db8::1/64 deprecated", "2001:db8::5/128 lent", "2001:db8::10/64 node")}
	if !reflect.DeepEqual(got, want) { // a HostAddress prints as its prefix
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// slowNextHop chooses as [otherFamily] does, by giving each address a word that sorts as
// the addresses are preferred.
func slowNextHop(i HostInterface, single bool, f lb.Family, before netip.Addr) netip.Addr {
	var words []string
	for _, a := range i.Addresses {
		virtual := a.Pooled || a.Bits() == a.Addr().BitLen() && !single && !a.Node && a.Flags&lb.AddressDynamic == 0
		is := func(f lb.AddressFlags) bool { return a.Flags&f != 0 }
		if lb.FamilyOf(a.Addr()) != f || !a.Addr().IsGlobalUnicast() || is(lb.AddressTentative) || a.Lent || virtual && is(lb.AddressDeprecated) {
			continue
		}
		word := ""
		for _, bad := range []bool{
			virtual, is(lb.AddressDeprecated), is(lb.AddressTemporary), !a.Node, is(lb.AddressSecondary),
			netip.MustParsePrefix("fc00::/7").Contains(a.Addr()), a.Addr() != before, is(lb.AddressDynamic),
		} {
			word += map[bool]string{false: "0", true: "1"}[bad]
		}
		words = append(words, word+" "+a.Addr().StringExpanded())
	}
	if len(words) == 0 {
		return netip.Addr{}
	}
	slices.Sort(words)
	return addr(strings.Fields(words[0])[1])
}

func TestNextHopsAreStableAndOrderDoesNotMatter(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	pool := []string{
		"2001:db8::1/64", "2001:db8::2/64", "2001:db8::3/128", "2001:db8:1::4/64", "fd00::5/64", "fd00::6/128", "fe80::7/64", "::1/128",
		"100.64.0.1/24", "100.64.0.2/24", "100.64.0.3/32", "172.16.0.4/16", "169.254.0.5/16",
	}
	words := []string{"tentative", "deprecated", "temporary", "secondary", "dynamic", "node", "lent", "pooled"}
	found := 0
	for range 20000 {
		var addresses []string
		for _, a := range pool {
			if rng.IntN(2) == 0 {
				for _, w := range words {
					if rng.IntN(5) == 0 {
						a += " " + w
					}
				}
				addresses = append(addresses, a)
			}
		}
		over, f := []string{"192.0.2.10/24", "192.0.2.10/32"}[rng.IntN(2)], lb.IPv6
		if rng.IntN(2) == 0 {
			over, f = []string{"2001:db8:f::10/64", "2001:db8:f::10/128"}[rng.IntN(2)], lb.IPv4
		}
		own := netip.MustParsePrefix(over)
		before := map[lb.Family]NextHop{f: {Address: netip.MustParsePrefix(pool[rng.IntN(len(pool))]).Addr()}}
		i := hostInterface("eth0", append(addresses, over)...)
		n := Negotiated{Families: []lb.Family{lb.IPv4, lb.IPv6}}
		next := NextHops([]HostInterface{i}, own.Addr(), n, before)
		if want := slowNextHop(i, own.IsSingleIP(), f, before[f].Address); next[f].Address != want || (next[f].Lack == HopFound) != want.IsValid() {
			t.Fatalf("%v over %v before %v: %+v, want %v", i, own, before[f].Address, next[f], want)
		}
		rng.Shuffle(len(i.Addresses), func(a, b int) { i.Addresses[a], i.Addresses[b] = i.Addresses[b], i.Addresses[a] })
		if again := NextHops([]HostInterface{i}, own.Addr(), n, before); again[f] != next[f] {
			t.Fatalf("%v: %+v in another order, %+v before", i, again[f], next[f])
		}
		if next[f].Lack != HopFound {
			continue
		}
		found++
		// Once chosen it stays, also when one comes that is as good: the same with
		// another address.
		at := slices.IndexFunc(i.Addresses, func(a HostAddress) bool { return a.Addr() == next[f].Address })
		equal := i.Addresses[at]
		equal.Prefix = netip.PrefixFrom(equal.Addr().Prev().Prev().Prev().Prev(), equal.Bits())
		if slices.ContainsFunc(i.Addresses, func(a HostAddress) bool { return a.Addr() == equal.Addr() }) || uniqueLocal(equal.Addr()) != uniqueLocal(next[f].Address) {
			continue
		}
		i.Addresses = append(i.Addresses, equal)
		if again := NextHops([]HostInterface{i}, own.Addr(), n, next); again[f].Address != next[f].Address {
			t.Fatalf("%v: left %v for the equal %v", i, next[f].Address, again[f].Address)
		}
	}
	if found < 1000 {
		t.Errorf("only %d worlds have a next hop", found)
	}
}
