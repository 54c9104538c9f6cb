package ranges

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
)

// The model of a set of addresses is the list of all addresses of a small world
// and whether each is in. Its worlds lie where arithmetic goes wrong: at both
// ends of a family, and across octets and groups.
type world []netip.Addr

func worlds(t testing.TB) map[string]world {
	all := map[string]world{}
	for _, first := range []string{
		"0.0.0.0", "10.0.0.240", "255.255.255.224",
		"::", "2001:db8::fff0", "2001:db8::ffff:ffff:ffff:fff0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffe0",
	} {
		a, w := netip.MustParseAddr(first), world{}
		for range 32 {
			if !a.IsValid() {
				t.Fatalf("the world from %s leaves its family", first)
			}
			w, a = append(w, a), a.Next()
		}
		all[first] = w
	}
	return all
}

// random returns some ranges in no order, and the model of their union.
func (w world) random(rng *rand.Rand) ([]lb.AddressRange, []bool) {
	in := make([]bool, len(w))
	var ranges []lb.AddressRange
	for range rng.IntN(6) {
		i := rng.IntN(len(w))
		j := min(len(w)-1, i+rng.IntN(1+rng.IntN(len(w))))
		ranges = append(ranges, lb.AddressRange{First: w[i], Last: w[j]})
		for k := i; k <= j; k++ {
			in[k] = true
		}
	}
	return ranges, in
}

func (w world) model(set []lb.AddressRange) []bool {
	in := make([]bool, len(w))
	for _, r := range set {
		for i, a := range w {
			in[i] = in[i] || r.Contains(a)
		}
	}
	return in
}

// canonical tells what is wrong with the form of a set.
func canonical(set []lb.AddressRange) error {
	for i, r := range set {
		if r.First.BitLen() != r.Last.BitLen() || r.Last.Less(r.First) {
			return fmt.Errorf("%v is not a range", r)
		}
		if i > 0 && (!set[i-1].Last.Less(r.First) || set[i-1].Last.Next() == r.First) {
			return fmt.Errorf("%v and %v are not two ranges in order", set[i-1], r)
		}
	}
	return nil
}

func TestSetsOfRangesBehaveLikeSetsOfAddresses(t *testing.T) {
	for name, w := range worlds(t) {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(len(name))))
			for range 2000 {
				ra, ma := w.random(rng)
				rb, mb := w.random(rng)
				a, b := Union(ra), Union(rb)
				for _, c := range []struct {
					op   string
					got  []lb.AddressRange
					want func(a, b bool) bool
				}{
					{"union of one", a, func(a, _ bool) bool { return a }},
					{"union", Union(ra, rb), func(a, b bool) bool { return a || b }},
					{"intersection", Intersect(a, b), func(a, b bool) bool { return a && b }},
					{"difference", Subtract(a, b), func(a, b bool) bool { return a && !b }},
				} {
					want := make([]bool, len(w))
					for i := range w {
						want[i] = c.want(ma[i], mb[i])
					}
					if got := w.model(c.got); !slices.Equal(got, want) {
						t.Fatalf("%s of %v and %v: %v", c.op, ra, rb, c.got)
					}
					if err := canonical(c.got); err != nil {
						t.Fatalf("%s of %v and %v: %v: %v", c.op, ra, rb, c.got, err)
					}
				}
			}
		})
	}
}

func TestFamiliesDoNotMeetInSets(t *testing.T) {
	v4 := lb.AddressRange{First: netip.MustParseAddr("0.0.0.0"), Last: netip.MustParseAddr("255.255.255.255")}
	v6 := Of(netip.MustParsePrefix("::/0"))
	both := Union([]lb.AddressRange{v6}, []lb.AddressRange{v4})
	if want := []lb.AddressRange{v4, v6}; !slices.Equal(both, want) {
		t.Errorf("union: %v, want %v", both, want)
	}
	if got := Intersect([]lb.AddressRange{v4}, []lb.AddressRange{v6}); len(got) > 0 {
		t.Errorf("the families have %v in common", got)
	}
	if got := Subtract(both, []lb.AddressRange{v4}); !slices.Equal(got, []lb.AddressRange{v6}) {
		t.Errorf("difference: %v", got)
	}
	if got := Prefixes(both, 9); len(got) != 2 || got[0].String() != "0.0.0.0/0" || got[1].String() != "::/0" {
		t.Errorf("prefixes: %v", got)
	}
}

// fewest counts the prefixes that cover a set within p, by halving p: none when
// p and the set are apart, one when the set has all of p.
func fewest(p netip.Prefix, set []lb.AddressRange) int {
	switch common := Intersect([]lb.AddressRange{Of(p)}, set); {
	case len(common) == 0:
		return 0
	case common[0] == Of(p):
		return 1
	}
	lower := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	upper := netip.PrefixFrom(Of(lower).Last.Next(), p.Bits()+1)
	return fewest(lower, set) + fewest(upper, set)
}

func TestPrefixesAreTheFewestThatCoverASet(t *testing.T) {
	for name, w := range worlds(t) {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(2, uint64(len(name))))
			for range 500 {
				ranges, _ := w.random(rng)
				set := Union(ranges)
				prefixes := Prefixes(set, 1000)
				var covered []lb.AddressRange
				for i, p := range prefixes {
					if p != p.Masked() || i > 0 && !prefixes[i-1].Addr().Less(p.Addr()) {
						t.Fatalf("prefixes of %v: %v are not masked and in order", set, prefixes)
					}
					covered = append(covered, Of(p))
				}
				if got := Union(covered); !slices.Equal(got, set) {
					t.Fatalf("prefixes of %v: %v cover %v", set, prefixes, got)
				}
				if want := fewest(netip.PrefixFrom(w[0], 0).Masked(), set); len(prefixes) != want {
					t.Fatalf("prefixes of %v: %v are %d, %d are enough", set, prefixes, len(prefixes), want)
				}
				if len(prefixes) > 1 {
					if got := Prefixes(set, 1); !slices.Equal(got, prefixes[:1]) {
						t.Fatalf("one prefix of %v: %v", set, got)
					}
				}
			}
		})
	}
}
