package election

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
)

func TestTheFirstOfSomeNodesIsTheOneWithTheLeastKey(t *testing.T) {
	nodes := []string{"a", "b", "c", "d", "e", "f"}
	for addr := v4; addr != netip.MustParseAddr("198.51.100.40"); addr = addr.Next() {
		for _, a := range []netip.Addr{addr, netip.AddrFrom16(addr.As16())} {
			want := slices.MinFunc(nodes, func(x, y string) int {
				k, l := key(a, x), key(a, y)
				return bytes.Compare(k[:], l[:])
			})
			for range nodes {
				if got := First(a, nodes); got != want {
					t.Fatalf("first of %v for %v is %s, want %s", nodes, a, got, want)
				}
				for _, n := range nodes {
					if Precedes(a, want, n) != (n != want) || Precedes(a, n, want) {
						t.Errorf("%v: %s before %s: %v, the other way round: %v", a, want, n, Precedes(a, want, n), Precedes(a, n, want))
					}
					// Of two equal claims the earlier node's is the better one.
					same := claim(Blind, 3)
					if n != want && (!same.Beats(same, a, want, n) || same.Beats(same, a, n, want)) {
						t.Errorf("%v: of equal claims %s's does not beat %s's", a, want, n)
					}
				}
				nodes = append(nodes[1:], nodes[0])
			}
		}
	}
	if got := First(v6, nil); got != "" {
		t.Errorf("first of none is %q", got)
	}
}

func TestASuspectIsAskedOnceForEachSegmentThatIsShared(t *testing.T) {
	on := func(index int, mac byte, prefixes ...string) lb.Interface {
		i := lb.Interface{Index: index, Name: fmt.Sprint("eth", index), MAC: lb.MAC{2, 5: mac}, Up: true, Carrier: true}
		for _, p := range prefixes {
			i.Addresses = append(i.Addresses, netip.MustParsePrefix(p))
		}
		return i
	}
	down := on(4, 1, "203.0.113.1/24")
	down.Up = false
	ours := []lb.Interface{down, on(2, 1, "fe80::1/64", "192.0.2.1/24", "2001:db8::1/64"), on(3, 2, "198.51.100.1/24"), on(5, 3, "10.0.0.1/8")}
	theirs := []lb.Interface{
		on(7, 11, "fe80::7/64", "203.0.113.7/24"), on(8, 12, "fe80::8/64", "2001:db8::8/64", "192.0.2.8/24"),
		on(9, 13, "198.51.100.9/24", "198.51.100.10/24"), on(10, 14, "172.16.0.1/12"),
	}
	var got []SegmentQuestion
	for q := range Shared(ours, Member{Interfaces: theirs}) {
		got = append(got, q)
	}
	want := []SegmentQuestion{
		{2, netip.MustParseAddr("2001:db8::8"), lb.MAC{2, 5: 12}},
		{3, netip.MustParseAddr("198.51.100.9"), lb.MAC{2, 5: 13}},
	}
	if !slices.Equal(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
	asked := 0
	for range Shared(ours, Member{Interfaces: theirs}) {
		asked++
		break
	}
	if asked != 1 {
		t.Errorf("%d were asked of one", asked)
	}

	// Its speaker is asked on each for what it claims there, if anything, and for another
	// one each time.
	suspect := Member{Interfaces: theirs, Claims: Claims{}}
	for range Voices(ours, suspect, 0) {
		t.Error("it claims nothing, and is asked for that")
	}
	for _, a := range []string{"192.0.2.50", "2001:db8::50", "192.0.2.51", "203.0.113.50"} {
		suspect.Claims[netip.MustParseAddr(a)] = claim(Majority, 1)
	}
	for round, want := range [][2]string{
		{"192.0.2.50", "192.0.2.51"}, {"192.0.2.51", "203.0.113.50"}, {"2001:db8::50", "2001:db8::50"}, {"192.0.2.50", "192.0.2.50"},
	} {
		var got [2]string
		n := 0
		for q := range Voices(ours, suspect, round) {
			got[n] = q.Target.String()
			n++
		}
		if n != 2 || got != want {
			t.Errorf("round %d: asked for %v on %d segments, want %v", round, got, n, want)
		}
	}
	for range Voices(ours, suspect, 1) {
		asked++
		break
	}
	if asked != 2 {
		t.Errorf("%d were asked of one", asked-1)
	}
}

// Where the interfaces on which both announce have no subnet in common, the kernel is
// asked on the management network, and the speaker on the interface of the same name.
func TestASuspectWithoutAnAddressThereIsAskedOnItsManagementNetwork(t *testing.T) {
	on := func(index int, name string, mac byte, prefixes ...string) lb.Interface {
		i := lb.Interface{Index: index, Name: name, MAC: lb.MAC{2, 5: mac}, Up: true, Carrier: true}
		for _, p := range prefixes {
			i.Addresses = append(i.Addresses, netip.MustParsePrefix(p))
		}
		return i
	}
	all := func(qs func(func(SegmentQuestion) bool)) (all []SegmentQuestion) {
		for q := range qs {
			all = append(all, q)
		}
		for range qs { // whoever has heard enough may stop
			break
		}
		return all
	}
	vip := netip.MustParseAddr("203.0.113.1")
	for _, family := range []struct{ ours, theirs, own string }{{"192.0.2.1/24", "192.0.2.2", "/24"}, {"2001:db8::1/64", "2001:db8::2", "/64"}} {
		ours := []lb.Interface{on(2, "eth0", 1, "fe80::1/64", family.ours), on(3, "vlan50", 2, "fe80::1/64"), on(4, "vlan60", 3, "10.0.1.1/30")}
		management := []lb.Interface{on(0, "eth9", 11, "fe80::2/64", family.theirs+family.own)}
		suspect := Member{
			Management: management, Claims: Claims{vip: claim(Majority, 1)},
			Interfaces: []lb.Interface{on(7, "vlan50", 12, "fe80::2/64"), on(8, "vlan60", 13, "10.0.1.5/30"), on(9, "vlan70", 14)},
		}
		if got, want := all(Shared(ours, suspect)), []SegmentQuestion{{2, netip.MustParseAddr(family.theirs), lb.MAC{2, 5: 11}}}; !slices.Equal(got, want) {
			t.Errorf("its kernel is asked %v, want %v", got, want)
		}
		if got, want := all(Voices(ours, suspect, 0)), []SegmentQuestion{{3, vip, lb.MAC{2, 5: 12}}, {4, vip, lb.MAC{2, 5: 13}}}; !slices.Equal(got, want) {
			t.Errorf("its speaker is asked %v, want %v", got, want)
		}
		ours[1].Carrier = false
		if got := all(Voices(ours, suspect, 0)); len(got) != 1 || got[0].Interface != 4 {
			t.Errorf("its speaker is asked %v with a cable that is out", got)
		}
		// A segment that both announce on is the only one that matters.
		suspect.Interfaces[1].Addresses[0] = netip.MustParsePrefix("10.0.1.2/30")
		if got, want := all(Shared(ours, suspect)), []SegmentQuestion{{4, netip.MustParseAddr("10.0.1.2"), lb.MAC{2, 5: 13}}}; !slices.Equal(got, want) {
			t.Errorf("its kernel is asked %v, want %v", got, want)
		}
	}
}
