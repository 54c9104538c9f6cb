package election

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
)

// ring makes members of a segment; a member may have a foot in a second one.
func ring(n int, family lb.Family, owns, second func(i int) bool) []Stander {
	var all []Stander
	for i := range n {
		iface := func(segment int) lb.Interface {
			host := i + 1
			a := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(segment), byte(host >> 8), byte(host)}), 16)
			if family == lb.IPv6 {
				b := [16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 5: byte(segment), 14: byte(host >> 8), 15: byte(host)}
				a = netip.PrefixFrom(netip.AddrFrom16(b), 64)
			}
			return lb.Interface{
				Index: 2 + segment, Name: fmt.Sprintf("eth%d", segment), MAC: lb.MAC{2, byte(segment), 0, 0, byte(i >> 8), byte(i)}, Up: true, Carrier: true,
				Addresses: []netip.Prefix{netip.MustParsePrefix("fe80::1/64"), a},
			}
		}
		s := Stander{Node: fmt.Sprintf("n%d", i), Spot: SpotOf(fmt.Sprintf("n%d", i)), Interfaces: []lb.Interface{iface(0)}, Owns: owns(i)}
		if second(i) {
			s.Interfaces = append(s.Interfaces, iface(1))
		}
		all = append(all, s)
	}
	return all
}

func always(int) bool { return true }
func none(int) bool   { return false }

// rings returns the part of each.
func rings(all []Stander) map[string]Ring {
	out := map[string]Ring{}
	for i, s := range all {
		out[s.Node] = RingOf(s, slices.Delete(slices.Clone(all), i, i+1))
	}
	return out
}

// Each owner is watched by two others on each of its segments, as far as there are
// so many; nobody has more than two sessions on a segment; both ends know each
// session; and nothing is sent where nothing is owned.
func TestEachOwnerIsWatchedByTwoOthers(t *testing.T) {
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		for seed := range uint64(60) {
			r := rand.New(rand.NewPCG(seed, 8))
			share := []float64{0, 0.1, 0.5, 1}[r.IntN(4)]
			all := ring(1+r.IntN(40), family, func(int) bool { return r.Float64() < share }, func(int) bool { return r.IntN(3) == 0 })
			parts := rings(all)
			for i, s := range all {
				others := slices.Delete(slices.Clone(all), i, i+1)
				r.Shuffle(len(others), func(a, b int) { others[a], others[b] = others[b], others[a] })
				if again := RingOf(s, others); !again.Equal(parts[s.Node]) {
					t.Fatalf("seed %d: the order of members matters: %+v, %+v", seed, parts[s.Node], again)
				}
				for segment, iface := range s.Interfaces {
					on, owned := 0, s.Owns
					for _, o := range others {
						if len(o.Interfaces) > segment {
							on++
							owned = owned || o.Owns
						}
					}
					var here []Watch
					for _, w := range parts[s.Node].Watches {
						if w.Interface == iface.Index {
							here = append(here, w)
						}
						mirror := Watch{s.Node, w.Interface, w.Remote, w.Local}
						if !slices.Contains(parts[w.Node].Watches, mirror) {
							t.Fatalf("seed %d: %s has a session %+v of which %s does not know", seed, s.Node, w, w.Node)
						}
						if lb.FamilyOf(w.Local) != family || w.Local.IsLinkLocalUnicast() {
							t.Fatalf("seed %d: %+v", seed, w)
						}
					}
					if len(here) > 2 || s.Owns && len(here) != min(2, on) || !owned && len(here) > 0 {
						t.Fatalf("seed %d: %s (owns %v) has %v among %d others on a segment with owners %v", seed, s.Node, s.Owns, here, on, owned)
					}
				}
				if sounds := len(parts[s.Node].Soundings); sounds > len(s.Interfaces) || share == 0 && sounds > 0 {
					t.Fatalf("seed %d: %s sounds %v", seed, s.Node, parts[s.Node].Soundings)
				}
			}
		}
	}
}

// A member that comes or goes changes the sessions of its two neighbors only.
func TestAMemberThatGoesChangesItsNeighborsSessionsOnly(t *testing.T) {
	all := ring(150, lb.IPv4, always, none)
	before := rings(all)
	for _, gone := range []int{0, 7, 149} {
		after := rings(slices.Delete(slices.Clone(all), gone, gone+1))
		var changed []string
		for node, part := range after {
			if !part.Equal(before[node]) {
				changed = append(changed, node)
			}
		}
		if len(changed) != 2 {
			t.Errorf("without %s, %v have other sessions; want its two neighbors", all[gone].Node, changed)
		}
	}
}

// Addresses that change hands change sessions only where an end begins or ceases to
// own any at all.
func TestAnOwnerOfManyCostsNoMoreThanAnOwnerOfOne(t *testing.T) {
	nobody, one := ring(200, lb.IPv6, none, none), ring(200, lb.IPv6, func(i int) bool { return i == 5 }, none)
	sessions := 0
	for node, part := range rings(one) {
		sessions += len(part.Watches)
		if len(part.Watches) > 0 && node != "n5" && part.Watches[0].Node != "n5" {
			t.Errorf("%s, which owns nothing, watches %v", node, part.Watches)
		}
		if len(part.Soundings) != 1 {
			t.Errorf("%s sounds %v: each may have to ask", node, part.Soundings)
		}
	}
	if sessions != 4 {
		t.Errorf("%d ends of sessions, want 4: two others watch one owner", sessions)
	}
	for node, part := range rings(nobody) {
		if len(part.Watches)+len(part.Soundings) > 0 {
			t.Errorf("%s: %+v though nothing is owned", node, part)
		}
	}
}

func TestBothEndsChooseTheSameAddresses(t *testing.T) {
	iface := func(index int, addresses ...string) lb.Interface {
		i := lb.Interface{Index: index, Name: fmt.Sprintf("eth%d", index), MAC: lb.MAC{2, 0, 0, 0, 0, byte(index)}, Up: true, Carrier: true}
		for _, a := range addresses {
			i.Addresses = append(i.Addresses, netip.MustParsePrefix(a))
		}
		return i
	}
	for _, c := range []struct {
		name          string
		a, b          []lb.Interface
		local, remote string // empty: no session
	}{
		{"one of each", []lb.Interface{iface(2, "192.0.2.1/24")}, []lb.Interface{iface(3, "192.0.2.2/24")}, "192.0.2.1", "192.0.2.2"},
		{"IPv6", []lb.Interface{iface(2, "fe80::1/64", "2001:db8::1/64")}, []lb.Interface{iface(3, "2001:db8::2/64", "fe80::2/64")}, "2001:db8::1", "2001:db8::2"},
		{"both families, listed in another order", []lb.Interface{iface(2, "2001:db8::1/64", "192.0.2.1/24")}, []lb.Interface{iface(3, "192.0.2.2/24", "2001:db8::2/64")}, "192.0.2.1", "192.0.2.2"},
		{"several of one subnet", []lb.Interface{iface(2, "192.0.2.9/24", "192.0.2.1/24")}, []lb.Interface{iface(3, "192.0.2.7/24", "192.0.2.8/24")}, "192.0.2.1", "192.0.2.7"},
		{"two interfaces on one segment", []lb.Interface{iface(2, "192.0.2.5/24"), iface(4, "192.0.2.1/24")}, []lb.Interface{iface(3, "192.0.2.2/24"), iface(5, "192.0.2.102/24")}, "192.0.2.1", "192.0.2.2"},
		{"on-link for one end only", []lb.Interface{iface(2, "192.0.2.1/24")}, []lb.Interface{iface(3, "192.0.2.130/25")}, "", ""},
		{"link-local alone", []lb.Interface{iface(2, "fe80::1/64")}, []lb.Interface{iface(3, "fe80::2/64")}, "", ""},
		{"other subnets", []lb.Interface{iface(2, "192.0.2.1/24")}, []lb.Interface{iface(3, "198.51.100.2/24")}, "", ""},
		{"no addresses", []lb.Interface{iface(2)}, []lb.Interface{iface(3)}, "", ""},
		{"one address twice", []lb.Interface{iface(2, "192.0.2.1/24")}, []lb.Interface{iface(3, "192.0.2.1/24")}, "", ""},
	} {
		a, b := Stander{"a", SpotOf("a"), c.a, true}, Stander{"b", SpotOf("b"), c.b, false}
		here, there := RingOf(a, []Stander{b}).Watches, RingOf(b, []Stander{a}).Watches
		if c.local == "" {
			if len(here)+len(there) > 0 {
				t.Errorf("%s: %v, %v", c.name, here, there)
			}
			continue
		}
		local, remote := netip.MustParseAddr(c.local), netip.MustParseAddr(c.remote)
		if len(here) != 1 || len(there) != 1 || here[0].Local != local || here[0].Remote != remote || there[0].Local != remote || there[0].Remote != local {
			t.Errorf("%s: %v, %v; want one session between %v and %v", c.name, here, there, local, remote)
		}
	}
}

func BenchmarkRingOf(b *testing.B) {
	all := ring(1000, lb.IPv4, always, none)
	for b.Loop() {
		RingOf(all[0], all[1:])
	}
}

func TestAnInterfaceThatCannotBeUsedHasNoSession(t *testing.T) {
	all := ring(2, lb.IPv4, always, none)
	all[0].Interfaces[0].Carrier = false
	if r := RingOf(all[0], all[1:]); len(r.Watches)+len(r.Soundings) > 0 {
		t.Errorf("%+v", r)
	}
}
