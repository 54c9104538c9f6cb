package origin_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
	"github.com/belfrylb/belfry/internal/ranges"
)

var epoch = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func named(name string, age int, prefixes ...string) lb.Pool {
	var all []lb.AddressRange
	for _, p := range prefixes {
		all = append(all, ranges.Of(netip.MustParsePrefix(p)))
	}
	return lb.Pool{Name: name, Created: epoch.Add(-time.Duration(age) * time.Hour), Ranges: ranges.Union(all)}
}

func TestAnAddressInUseBelongsToThePoolThatGaveItOrElseToTheOneThatCoversIt(t *testing.T) {
	deleting := named("deleting", 9, "10.0.2.0/24", "fd00:2::/64")
	deleting.Deleting = true
	shrunk := named("shrunk", 5, "10.0.4.0/30", "fd00:4::/126")
	shrunk.Records = []netip.Addr{addr("10.0.4.9"), addr("fd00:4::9"), addr("10.0.5.5")}
	pools := []lb.Pool{
		named("grown", 3, "10.0.0.0/23", "fd00::/63"), named("young", 1, "10.0.1.0/24", "fd00:0:0:1::/64"),
		deleting, named("new", 0, "10.0.2.0/24", "fd00:2::/64"), shrunk,
		named("nodes", 0, "192.0.2.0/24", "2001:db8::/64"),
	}
	origin.Divide(pools)
	ix := origin.New(pools, []lb.Node{
		{Name: "n2", Addresses: []netip.Addr{addr("192.0.2.11"), addr("2001:db8::11")}},
		{Name: "n1", Addresses: []netip.Addr{addr("192.0.2.11"), addr("198.51.100.1")}},
	})
	for _, c := range []struct {
		what, four, six, recorded string
		want                      origin.Origin
	}{
		{"covered", "10.0.0.3", "fd00::3", "", origin.Origin{Standing: origin.Covered, Pool: "grown"}},
		{"taken out of the pool that gave it, covered by another", "10.0.0.3", "fd00::3", "young", origin.Origin{Standing: origin.Orphan, Pool: "young"}},
		{"likewise, and that pool is being deleted", "10.0.0.3", "fd00::3", "deleting", origin.Origin{Standing: origin.Covered, Pool: "grown"}},
		{"of a pool that is gone, covered by another", "10.0.0.3", "fd00::3", "gone", origin.Origin{Standing: origin.Covered, Pool: "grown"}},
		{"grown over", "10.0.1.3", "fd00:0:0:1::3", "young", origin.Origin{Standing: origin.Covered, Pool: "young"}},
		{"given by the one that grew", "10.0.1.3", "fd00:0:0:1::3", "grown", origin.Origin{Standing: origin.Covered, Pool: "grown"}},
		{"of two pools, without a record", "10.0.1.3", "fd00:0:0:1::3", "", origin.Origin{Standing: origin.Covered, Pool: "grown"}},
		{"in use of a pool being deleted", "10.0.2.3", "fd00:2::3", "deleting", origin.Origin{Standing: origin.Covered, Pool: "deleting"}},
		{"given by its successor", "10.0.2.3", "fd00:2::3", "new", origin.Origin{Standing: origin.Covered, Pool: "new"}},
		{"orphan by the Service's record", "10.0.4.8", "fd00:4::8", "shrunk", origin.Origin{Standing: origin.Orphan, Pool: "shrunk"}},
		{"orphan of a pool that is gone", "203.0.113.1", "2001:db8:9::1", "gone", origin.Origin{Standing: origin.Orphan, Pool: "gone"}},
		{"orphan by the pool's record", "10.0.4.9", "fd00:4::9", "", origin.Origin{Standing: origin.Orphan, Pool: "shrunk"}},
		{"of both, the Service's was written with the address", "10.0.4.9", "fd00:4::9", "gone", origin.Origin{Standing: origin.Orphan, Pool: "gone"}},
		{"foreign", "203.0.113.7", "2001:db8:9::7", "", origin.Origin{}},
		{"a Node's, in a pool", "192.0.2.11", "", "", origin.Origin{Node: "n1"}},
		{"a Node's, in a pool", "", "2001:db8::11", "", origin.Origin{Node: "n2"}},
		{"a Node's that we gave before", "", "2001:db8::11", "nodes", origin.Origin{Standing: origin.Covered, Pool: "nodes", Node: "n2"}},
		{"a Node's that a pool gave which is gone, covered by another", "192.0.2.11", "", "gone", origin.Origin{Standing: origin.Covered, Pool: "nodes", Node: "n1"}},
		{"likewise", "", "2001:db8::11", "gone", origin.Origin{Standing: origin.Covered, Pool: "nodes", Node: "n2"}},
		{"a Node's that an orphan is", "198.51.100.1", "", "gone", origin.Origin{Standing: origin.Orphan, Pool: "gone", Node: "n1"}},
		{"a Node's", "198.51.100.1", "", "", origin.Origin{Node: "n1"}},
	} {
		for _, text := range []string{c.four, c.six} {
			if text == "" {
				continue
			}
			s := &lb.Service{Assigned: []netip.Addr{addr("10.9.9.9"), addr(text)}, AssignedPools: []string{"", c.recorded}}
			if got := ix.Of(s, addr(text)); got != c.want {
				t.Errorf("%s (%s, recorded %q): %+v, want %+v", c.what, text, c.recorded, got, c.want)
			}
		}
	}
}

// Our record and the status are written together, so what stands beside an address that
// is recorded is another writer's, whatever pool covers it.
func TestWhatStandsBesideARecordedAddressIsForeign(t *testing.T) {
	pools := []lb.Pool{named("edge", 1, "10.0.0.0/24", "fd00::/64")}
	ix := origin.New(pools, []lb.Node{{Name: "n1", Addresses: []netip.Addr{addr("10.0.0.9"), addr("fd00::9")}}})
	for _, c := range []struct {
		shown, recorded string
		want            origin.Origin
	}{
		{"10.0.0.1", "fd00::1", origin.Origin{}},
		{"fd00::1", "10.0.0.1", origin.Origin{}},
		{"10.0.0.1", "10.0.0.2", origin.Origin{}},
		{"fd00::1", "fd00::2", origin.Origin{}},
		{"10.0.0.9", "10.0.0.1", origin.Origin{Node: "n1"}},
		{"fd00::9", "fd00::1", origin.Origin{Node: "n1"}},
		{"10.0.0.1", "", origin.Origin{Standing: origin.Covered, Pool: "edge"}},
		{"fd00::1", "", origin.Origin{Standing: origin.Covered, Pool: "edge"}},
	} {
		s := &lb.Service{Assigned: []netip.Addr{addr(c.shown)}, AssignedPools: []string{""}}
		if c.recorded != "" {
			s.Assigned, s.AssignedPools = append(s.Assigned, addr(c.recorded)), append(s.AssignedPools, "edge")
		}
		if got := ix.Of(s, addr(c.shown)); got != c.want {
			t.Errorf("%s beside %q: %+v, want %+v", c.shown, c.recorded, got, c.want)
		}
	}
}

// A small world of addresses at the edges of families and octets, for models that look
// at each address.
func small() []netip.Addr {
	var all []netip.Addr
	for _, first := range []string{"10.0.0.248", "255.255.255.248", "fd00::fff8", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8"} {
		for a, n := addr(first), 0; a.IsValid() && n < 16; a, n = a.Next(), n+1 {
			all = append(all, a)
		}
	}
	return all
}

func random(rng *rand.Rand, world []netip.Addr) []lb.Pool {
	var pools []lb.Pool
	for i := range rng.IntN(6) {
		var set []lb.AddressRange
		for range rng.IntN(5) {
			a := rng.IntN(len(world))
			b := min(len(world)-1, a+rng.IntN(6))
			if world[a].Is4() == world[b].Is4() {
				set = append(set, lb.AddressRange{First: world[a], Last: world[b]})
			}
		}
		pools = append(pools, lb.Pool{
			Name: string(rune('a' + i)), Created: epoch.Add(time.Duration(rng.IntN(3)) * time.Second),
			Deleting: rng.IntN(4) == 0, Ranges: ranges.Union(set),
		})
	}
	return pools
}

func names(p lb.Pool, a netip.Addr) bool {
	return slices.ContainsFunc(p.Ranges, func(r lb.AddressRange) bool { return r.Contains(a) })
}

// across compares what pools hand out of a range with who hands out each address of it.
func across(t *testing.T, rng *rand.Rand, ix *origin.Index, world []netip.Addr) {
	t.Helper()
	i := rng.IntN(len(world))
	r := lb.AddressRange{First: world[i], Last: world[min(len(world)-1, i+rng.IntN(8))]}
	if r.First.Is4() != r.Last.Is4() {
		r.Last = r.First
	}
	parts := map[netip.Addr]string{}
	var last netip.Addr
	ix.Across(r, func(p *lb.Pool, part lb.AddressRange) {
		if last.IsValid() && !last.Less(part.First) {
			t.Fatalf("%v: %v comes after %v", r, part, last)
		}
		if last = part.Last; part.Last.Less(part.First) || !r.Contains(part.First) || !r.Contains(part.Last) {
			t.Fatalf("%v: it has no %v", r, part)
		}
		for _, a := range world {
			if part.Contains(a) {
				parts[a] = p.Name
			}
		}
	})
	for _, a := range world {
		want := ""
		if p := ix.Owner(a); p != nil && r.Contains(a) {
			want = p.Name
		}
		if parts[a] != want {
			t.Fatalf("across %v %v is of %q, want %q", r, a, parts[a], want)
		}
	}
}

func TestAPersonIsToldOfSomeOverlapsOnly(t *testing.T) {
	old := lb.Pool{Name: "old", Created: epoch}
	for i := range 70 {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(2 * i)})
		old.Ranges = append(old.Ranges, lb.AddressRange{First: a, Last: a})
	}
	pools := []lb.Pool{named("young", -1, "10.0.0.0/24"), old}
	got := origin.Divide(pools)
	if len(got[0]) != 1 || len(got[0][0].Ranges) != 64 || len(pools[0].Lost) != 70 {
		t.Errorf("%d ranges are lost, and told are %v", len(pools[0].Lost), got[0])
	}
}

func TestPoolsAreDividedLikeTheModelDoes(t *testing.T) {
	world := small()
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 9))
		before := random(rng, world)
		pools := slices.Clone(before)
		rng.Shuffle(len(pools), func(i, j int) { pools[i], pools[j] = pools[j], pools[i] })
		overlaps := origin.Divide(pools)
		ix := origin.New(pools, nil)
		across(t, rng, ix, world)
		for _, a := range world {
			var best *lb.Pool
			for i := range before {
				p := &before[i]
				if !names(*p, a) {
					continue
				}
				right := func(p *lb.Pool) string { return fmt.Sprint(p.Deleting, p.Created.Unix(), p.Name) }
				if best == nil || right(p) < right(best) {
					best = p
				}
			}
			owner := ix.Owner(a)
			if (owner == nil) != (best == nil) || owner != nil && owner.Name != best.Name {
				t.Fatalf("seed %d: %v is handed out by %v, want %v, of %+v", seed, a, owner, best, before)
			}
			for i, p := range pools {
				if !slices.Equal(p.Ranges, ranges.Union(p.Ranges)) || !slices.Equal(p.Lost, ranges.Union(p.Lost)) {
					t.Fatalf("seed %d: pool %s is in pieces: %v, lost %v", seed, p.Name, p.Ranges, p.Lost)
				}
				was := before[slices.IndexFunc(before, func(b lb.Pool) bool { return b.Name == p.Name })]
				lost := names(lb.Pool{Ranges: p.Lost}, a)
				if has := names(p, a); names(was, a) != (has || lost) || has && lost || has != (best != nil && best.Name == p.Name) {
					t.Fatalf("seed %d: %v of pool %s: has %t, lost %t; named %t", seed, a, p.Name, has, lost, names(was, a))
				}
				told := slices.ContainsFunc(overlaps[i], func(o origin.Overlap) bool {
					return owner != nil && o.With == owner.Name && names(lb.Pool{Ranges: o.Ranges}, a)
				})
				if told != lost {
					t.Fatalf("seed %d: pool %s has lost %v: %t, is told so: %t (%v)", seed, p.Name, a, lost, told, overlaps[i])
				}
			}
		}
	}
}

func TestOverlapsAreTheOldersFirst(t *testing.T) {
	pools := []lb.Pool{named("young", 0, "10.0.0.0/8", "fd00::/16"), named("old", 1, "10.1.0.0/16"), named("older", 2, "10.2.0.0/16", "fd00:1::/32")}
	got := origin.Divide(pools)
	if len(got[0]) != 2 || got[0][0].With != "older" || len(got[0][0].Ranges) != 2 || got[0][1].With != "old" || len(got[1])+len(got[2]) > 0 {
		t.Errorf("%v", got)
	}
}

// Whatever pools there are, dividing them and asking for each address costs nearly
// linear time: also where all name the same, or each lies within the next.
func TestThousandsOfPoolsCostNearlyLinearTime(t *testing.T) {
	const n = 8000
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for what, of := range map[string]func(i int) lb.AddressRange{
		"disjoint": func(i int) lb.AddressRange { return lb.AddressRange{First: at(4 * i), Last: at(4*i + 3)} },
		"equal":    func(int) lb.AddressRange { return lb.AddressRange{First: at(0), Last: at(9)} },
		"nested":   func(i int) lb.AddressRange { return lb.AddressRange{First: at(i), Last: at(2*n - i)} },
		"chained":  func(i int) lb.AddressRange { return lb.AddressRange{First: at(i), Last: at(i + 99)} },
	} {
		t.Run(what, func(t *testing.T) {
			pools := make([]lb.Pool, n)
			for i := range pools {
				pools[i] = lb.Pool{Name: fmt.Sprintf("p%04d", i), Created: epoch.Add(-time.Duration(i) * time.Second), Ranges: []lb.AddressRange{of(i)}}
			}
			began := time.Now()
			origin.Divide(pools)
			ix := origin.New(pools, nil)
			for i := range 3 * n {
				ix.Find(at(i), pools[i%n].Name)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}
