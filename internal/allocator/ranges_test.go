package allocator

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/origin"
)

func at(s string) addr { return number(netip.MustParseAddr(s)) }

func TestAnAddressIsANumberAndBack(t *testing.T) {
	for _, c := range []struct {
		text string
		f    family
		next string
	}{
		{"0.0.0.0", v4, "0.0.0.1"},
		{"10.0.0.255", v4, "10.0.1.0"},
		{"255.255.255.254", v4, "255.255.255.255"},
		{"::", v6, "::1"},
		{"2001:db8::ffff:ffff:ffff:ffff", v6, "2001:db8:0:1::"},
		{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", v6, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	} {
		a := at(c.text)
		if got := a.netip().String(); got != c.text || a.family() != c.f {
			t.Errorf("%s is %s of family %d", c.text, got, a.family())
		}
		if got := a.next(); got != at(c.next) || got.prev() != a || !a.less(got) {
			t.Errorf("after %s comes %v, before that %v", c.text, got.netip(), got.prev().netip())
		}
	}
}

func TestRangesAreCountedWithoutBeingWalked(t *testing.T) {
	for _, c := range []struct {
		first, last   string
		size, buggies uint64
	}{
		{"10.0.0.0", "10.0.0.255", 256, 2},
		{"10.0.0.1", "10.0.0.254", 254, 0},
		{"10.0.0.255", "10.0.1.0", 2, 2},
		{"10.0.0.7", "10.0.0.7", 1, 0},
		{"10.0.0.0", "10.255.255.255", 1 << 24, 1 << 17},
		{"0.0.0.0", "255.255.255.255", 1 << 32, 1 << 25},
		{"2001:db8::", "2001:db8::f", 16, 0},
		{"2001:db8::", "2001:db8::ffff:ffff:ffff:ffff", math.MaxUint64, 0},
		{"2001:db8::", "2001:db8::ffff:ffff:ffff:fffd", math.MaxUint64 - 1, 0},
		{"::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", math.MaxUint64, 0},
	} {
		s := span{at(c.first), at(c.last)}
		if got := s.size(); got != c.size {
			t.Errorf("%s-%s has %d addresses, want %d", c.first, c.last, got, c.size)
		}
		if s.lo.family() == v4 && s.buggies() != c.buggies {
			t.Errorf("%s-%s has %d that end in .0 or .255, want %d", c.first, c.last, s.buggies(), c.buggies)
		}
	}
}

// The set is compared with a plain one, address by address, under changes that
// fragment it into several blocks and heal it again.
func TestASpanSetIsASetOfAddresses(t *testing.T) {
	for _, base := range []string{"10.0.0.0", "2001:db8::ffff:ffff:ffff:f000"} {
		const n = 1500
		r := rand.New(rand.NewPCG(1, 2))
		lo := at(base)
		set, plain := newSpanSet([]span{{lo, lo.plus(n - 1)}}), map[addr]bool{}
		for i := range uint64(n) {
			plain[lo.plus(i)] = true
		}
		most := 0
		for step := range 30000 {
			a := lo.plus(r.Uint64N(n))
			if grow := step%15000 > 7500; grow && !plain[a] {
				set.add(a)
				plain[a] = true
			} else if !grow {
				if set.remove(a) != plain[a] {
					t.Fatalf("%v: removing does not report whether it was in", a.netip())
				}
				delete(plain, a)
			}
			most = max(most, len(set.blocks))
			if step%500 == 0 {
				var first addr // from here on
				some := false
				for i := uint64(n); i > 0; i-- {
					a := lo.plus(i - 1)
					if set.contains(a) != plain[a] {
						t.Fatalf("step %d: %v is in: %v, want %v", step, a.netip(), set.contains(a), plain[a])
					}
					if plain[a] {
						first, some = a, true
					}
					if got, ok := set.from(a); ok != some || ok && got != first {
						t.Fatalf("step %d: the first from %v is %v %v, want %v %v", step, a.netip(), got.netip(), ok, first.netip(), some)
					}
				}
			}
			if set.empty() != (len(plain) == 0) {
				t.Fatalf("empty: %v with %d in it", set.empty(), len(plain))
			}
		}
		if most < 3 {
			t.Errorf("the set had at most %d blocks: the test does not reach several", most)
		}
		for i := range uint64(n) {
			if a := lo.plus(i); !set.contains(a) {
				set.add(a)
			}
		}
		if len(set.blocks) != 1 || len(set.blocks[0]) != 1 {
			t.Errorf("a full set is not one span: %v", set.blocks)
		}
	}
}

func TestIPv6LeavesOutThePlaceOfIPv4(t *testing.T) {
	whole := lb.AddressRange{First: netip.MustParseAddr("::"), Last: netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")}
	for _, c := range []struct {
		r     lb.AddressRange
		spans int
	}{
		{whole, 2},
		{lb.AddressRange{First: netip.MustParseAddr("::fffe:ffff:ffff"), Last: netip.MustParseAddr("::1:0:0:0")}, 2},
		{lb.AddressRange{First: netip.MustParseAddr("::1"), Last: netip.MustParseAddr("::2")}, 1},
	} {
		given := []lb.Pool{{Name: "all", Ranges: []lb.AddressRange{c.r}}}
		pools, _ := compile(given, origin.New(given, nil), nil)
		if got := pools[0].perFamily[v6].spans; len(got) != c.spans {
			t.Errorf("%v is %d spans, want %d", c.r, len(got), c.spans)
		}
	}
}

// The hash decides which address a name gets, so it must never change.
func TestTheHashIsKnown(t *testing.T) {
	for key, want := range map[lb.ServiceKey]uint64{
		{Namespace: "", Name: ""}:                0x23c49fa36281442f,
		{Namespace: "web", Name: "a"}:            0x7771461d1448204b,
		{Namespace: "web", Name: "b"}:            0xe32b976ad246cd10,
		{Namespace: "kube-system", Name: "dns"}:  0xc1583dbeabd714c3,
		{Namespace: "kube-system", Name: "dns2"}: 0x50ff384dd8ae610,
	} {
		if got := hash(key); got != want {
			t.Errorf("hash(%v) = %#x, want %#x", key, got, want)
		}
	}
}

func TestSpansAtTheEdgesOfNumbers(t *testing.T) {
	at := func(first, last string) span {
		return span{number(netip.MustParseAddr(first)), number(netip.MustParseAddr(last))}
	}
	for _, c := range []struct {
		first, last string
		size        uint64
		buggies     uint64
	}{
		{"2001:db8::", "2001:db8:0:1::5", math.MaxUint64, 0},
		{"2001:db8::", "2001:db8::5", 6, 0},
		{"0.0.0.0", "0.0.0.255", 256, 2},
		{"0.0.0.1", "0.0.0.255", 255, 1},
		{"0.0.0.1", "0.0.1.0", 256, 2},
	} {
		s := at(c.first, c.last)
		if got := s.size(); got != c.size {
			t.Errorf("%s-%s has %d addresses, want %d", c.first, c.last, got, c.size)
		}
		if s.lo.family() == v4 && s.buggies() != c.buggies {
			t.Errorf("%s-%s has %d that old equipment refuses, want %d", c.first, c.last, s.buggies(), c.buggies)
		}
	}
	// What is beside the place of IPv4 stays whole.
	for _, s := range []span{at("::1", "::2"), at("2001:db8::", "2001:db8::1")} {
		if left := s.without(mapped); len(left) != 1 || left[0] != s {
			t.Errorf("of %v %v is left", s, left)
		}
	}
}
