package election

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

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
		a, b := Stander{"a", SpotOf("a"), c.a, nil, true}, Stander{"b", SpotOf("b"), c.b, nil, false}
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

// Of all pairs of addresses that are on-link for each other both ends choose the one that
// comes first, whichever end is asked.
func TestBothEndsChooseTheFirstPairOfAll(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 9))
		some := func(mac byte) (all []lb.Interface) {
			for k := range 1 + r.IntN(2) {
				i := lb.Interface{Index: 2 + k, MAC: lb.MAC{2, 4: byte(k), 5: mac}, Up: true, Carrier: true}
				for range 1 + r.IntN(3) {
					a := netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(8))})
					bits := 24 + r.IntN(8)
					if r.IntN(2) == 0 {
						a, bits = netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 15: byte(r.IntN(8))}), 64
					}
					i.Addresses = append(i.Addresses, netip.PrefixFrom(a, bits))
				}
				all = append(all, i)
			}
			return all
		}
		ours, theirs := some(1), some(2)
		var pairs [][2]netip.Addr
		for _, i := range ours {
			for _, o := range theirs {
				for _, p := range i.Addresses {
					for _, q := range o.Addresses {
						if x, y := p.Addr(), q.Addr(); x != y && p.Contains(y) && q.Contains(x) {
							pairs = append(pairs, [2]netip.Addr{x, y})
						}
					}
				}
			}
		}
		got, found := pairOf(ours, theirs)
		back, foundBack := pairOf(theirs, ours)
		if found != (len(pairs) > 0) || foundBack != found {
			t.Fatalf("seed %d: found %v, from there %v, of %v", seed, found, foundBack, pairs)
		}
		if !found {
			continue
		}
		text := func(p [2]netip.Addr) string { // in the order of addresses of one length
			return fmt.Sprint(slices.SortedFunc(slices.Values(p[:]), netip.Addr.Compare))
		}
		first := slices.MinFunc(pairs, func(a, b [2]netip.Addr) int {
			if a[0].BitLen() != b[0].BitLen() {
				return a[0].BitLen() - b[0].BitLen()
			}
			return strings.Compare(text(a), text(b))
		})
		if text([2]netip.Addr{got.local, got.remote}) != text(first) || text([2]netip.Addr{back.local, back.remote}) != text(first) {
			t.Fatalf("seed %d: %v, from there %v, of %v", seed, got, back, pairs)
		}
	}
}

// Of two members with one spot, each is watched by the same others as if they had two,
// in the order of their names, whichever is heard of first.
func TestMembersOfOneSpotStandInTheOrderOfTheirNames(t *testing.T) {
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		all := ring(4, family, always, none)
		all[1].Spot, all[2].Spot = all[0].Spot+7, all[0].Spot+7
		all[3].Spot = all[0].Spot + 9
		want := RingOf(all[0], all[1:])
		if got := RingOf(all[0], []Stander{all[2], all[1], all[3]}); !got.Equal(want) || want.Watches[1].Node != "n1" {
			t.Errorf("after it: %v, want %v by n1", got, want)
		}
		all[3].Spot = all[0].Spot + 5
		want = RingOf(all[0], all[1:])
		if got := RingOf(all[0], []Stander{all[2], all[3], all[1]}); !got.Equal(want) || want.Watches[0].Node != "n1" {
			t.Errorf("before it: %v, want %v by n1", got, want)
		}
	}
}

// A member that is watched on two segments is in sight while it is on either, and what is
// seen by a session that is none of these does not count.
func TestWhatAnySessionSeesIsInSight(t *testing.T) {
	on := func(last byte, mac byte) []lb.Interface {
		var all []lb.Interface
		for k := range byte(2) {
			all = append(all, lb.Interface{
				Name: fmt.Sprint("eth", k), Index: int(2 + k), MAC: lb.MAC{2, 4: k, 5: mac}, Up: true, Carrier: true,
				Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, k, 0, last}), 24)},
			})
		}
		return all
	}
	for range 20 { // in whichever order the sessions come
		f := newFixture(t)
		f.v.SetPeers(f.now, []netip.Addr{addrA, addrB})
		f.v.Heard(f.now, "b", addrB)
		r := rec("b", addrB, 1, false, Claims{v4: claim(Majority, 5)})
		r.Interfaces = on(2, 2)
		f.v.Receive(f.now, r, Direct)
		f.v.Watchable("b", true)
		f.v.SetLocal(Local{Detection: lb.DetectFast, Interfaces: on(1, 1)})
		f.settle()
		watches := f.last.Ring.Watches
		if len(watches) != 2 {
			t.Fatalf("watches %v", watches)
		}
		for _, w := range watches {
			f.v.Sighted(f.now, w, InSight)
		}
		f.v.Sighted(f.now, watches[0], OutOfSight)
		stale := watches[0]
		stale.Interface = 9
		f.v.Sighted(f.now, stale, InSight)
		f.v.Sighted(f.now, Watch{Node: "z"}, OutOfSight)
		f.settle()
		if q := f.did().Questions; len(q) > 0 {
			t.Fatalf("asks %v though it is in sight", q)
		}
		f.v.Sighted(f.now, watches[1], OutOfSight)
		f.settle()
		if q := f.did().Questions; len(q) != 1 {
			t.Fatalf("asks %v though it is out of sight", q)
		}
		// Nobody else is there to be told.
		f.pass(7 * time.Millisecond)
		if a := f.last.Alarms; len(a) > 0 {
			t.Fatalf("alarms %v", a)
		}
	}
}

// Members whose announcing interfaces share no subnet watch each other on their
// management network; those that share one do not.
func TestMembersThatShareNoSegmentAreWatchedByTheirManagementNetwork(t *testing.T) {
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		all := ring(4, family, always, always)
		for i := range all {
			s := &all[i]
			s.Interfaces, s.Management = s.Interfaces[:1], s.Interfaces[1:]
			if i < 2 {
				s.Interfaces[0].Addresses = nil
			}
		}
		parts := rings(all)
		for i, s := range all {
			networks := map[int]map[string]bool{2: {}, 3: {}} // by index of the interface
			for _, w := range parts[s.Node].Watches {
				networks[w.Interface][w.Node] = true
				if mirror := (Watch{s.Node, w.Interface, w.Remote, w.Local}); !slices.Contains(parts[w.Node].Watches, mirror) && i >= 2 == (w.Interface == 2) {
					t.Errorf("%s has a session %+v of which %s does not know", s.Node, w, w.Node)
				}
			}
			switch {
			case i < 2 && (len(networks[2]) != 0 || len(networks[3]) != 2):
				t.Errorf("%s without an address watches %v", s.Node, networks)
			case i >= 2 && (len(networks[2]) != 1 || networks[3]["n2"] || networks[3]["n3"]):
				t.Errorf("%s watches %v", s.Node, networks)
			}
			if len(parts[s.Node].Soundings) == 0 {
				t.Errorf("%s does not know how late answers are", s.Node)
			}
		}
	}
}
