package link

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/bpf"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// machine returns a virtual machine that runs a filter. It has no packet types,
// so that every frame counts as sent to this host.
func machine(t *testing.T, program []bpf.Instruction) *bpf.VM {
	t.Helper()
	if _, err := bpf.Assemble(program); err != nil {
		t.Fatal(err)
	}
	program = slices.Clone(program)
	for i, in := range program {
		if in == (bpf.LoadExtension{Num: bpf.ExtType}) {
			program[i] = bpf.LoadConstant{Dst: bpf.RegA}
		}
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func passes(t *testing.T, vm *bpf.VM, frame []byte) bool {
	t.Helper()
	n, err := vm.Run(frame)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func filterOf(t *testing.T, watched []lb.AddressRange, claims []layer2.Claim) map[lb.Family]*bpf.VM {
	watched = merge(watched)
	return map[lb.Family]*bpf.VM{
		lb.IPv4: machine(t, filterARP(scopeOf(lb.IPv4, watched, claims))),
		lb.IPv6: machine(t, filterNDP(scopeOf(lb.IPv6, watched, claims))),
	}
}

// question asks for an address on behalf of one that concerns nobody.
func question(target netip.Addr) []byte {
	if target.Is4() {
		return requestARP(broadcast, lb.MAC{2, 1}, netip.MustParseAddr("203.0.113.1"), target)
	}
	return solicitation(lb.MAC{}, lb.MAC{2, 1}, netip.MustParseAddr("fe80::1"), target)
}

// announcement claims an address unasked.
func announcement(a netip.Addr) []byte {
	if a.Is4() {
		return gratuitousARP(layer2.GratuitousReply, lb.MAC{2, 1}, a)
	}
	return unsolicitedNA(layer2.UnsolicitedAdvertisement, lb.MAC{2, 1}, a)
}

// use is a frame by which somebody uses an address while asking for another.
func use(a netip.Addr) []byte {
	if a.Is4() {
		return requestARP(broadcast, lb.MAC{2, 1}, a, netip.MustParseAddr("203.0.113.9"))
	}
	return solicitation(lb.MAC{}, lb.MAC{2, 1}, a, netip.MustParseAddr("3fff::9"))
}

func TestFiltersLetInExactlyWhatFewRangesSay(t *testing.T) {
	r := func(first, last string) lb.AddressRange {
		return lb.AddressRange{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}
	}
	vms := filterOf(t, []lb.AddressRange{r("192.0.2.10", "192.0.2.20"), r("0.0.0.1", "0.0.0.1"), r("255.255.255.254", "255.255.255.255"), r("2001:db8::10", "2001:db8::1f"), r("2001:db8:5::", "2001:db8:5:ffff:ffff:ffff:ffff:ffff")},
		[]layer2.Claim{
			{Address: netip.MustParseAddr("198.51.100.1")},
			{Address: netip.MustParseAddr("192.0.2.11")},
			{Address: netip.MustParseAddr("2001:db8:1::1")},
			{Address: netip.MustParseAddr("2001:db8::11")},
		})
	const (
		refused = iota
		watched
		claimed
	)
	for a, kind := range map[string]int{
		"192.0.2.9": refused, "192.0.2.10": watched, "192.0.2.11": claimed, "192.0.2.20": watched, "192.0.2.21": refused,
		"198.51.100.1": claimed, "198.51.100.2": refused, "0.0.0.1": watched, "0.0.0.2": refused, "255.255.255.254": watched,
		"2001:db8::f": refused, "2001:db8::10": watched, "2001:db8::11": claimed, "2001:db8::1f": watched, "2001:db8::20": refused,
		"2001:db8:1::1": claimed, "2001:db8:1::2": refused,
		"2001:db8:5::1234:0:0": watched, "2001:db8:6::": refused, "2001:db8:4:ffff::": refused,
	} {
		address := netip.MustParseAddr(a)
		vm := vms[lb.FamilyOf(address)]
		if got := passes(t, vm, question(address)); got != (kind == claimed) {
			t.Errorf("question for %s: let in %v", a, got)
		}
		for what, frame := range map[string][]byte{"use": use(address), "probe": probeFrame(lb.MAC{2, 1}, address), "announcement": announcement(address)} {
			if got := passes(t, vm, frame); got != (kind != refused) {
				t.Errorf("%s of %s: let in %v", what, a, got)
			}
		}
	}
	if passes(t, filterOf(t, nil, nil)[lb.IPv4], question(vip4)) || passes(t, filterOf(t, nil, nil)[lb.IPv6], question(vip6)) {
		t.Error("a filter without ranges lets something in")
	}
}

// Other traffic of the segment must not wake us, and a truncated frame must not
// confuse the kernel.
func TestFiltersRefuseEverythingElse(t *testing.T) {
	everything := []lb.AddressRange{
		{First: netip.IPv4Unspecified(), Last: allOnes},
		{First: netip.IPv6Unspecified(), Last: netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")},
	}
	vms := filterOf(t, everything, []layer2.Claim{{Address: vip4}, {Address: vip6}})
	q := question(vip6)
	for what, change := range map[string]func([]byte){
		"TCP":                  func(b []byte) { b[etherLen+6] = 6 },
		"hop limit 254":        func(b []byte) { b[etherLen+7] = 254 },
		"echo request":         func(b []byte) { b[etherLen+ipv6Len] = 128 },
		"router advertisement": func(b []byte) { b[etherLen+ipv6Len] = 134 },
	} {
		b := slices.Clone(q)
		if change(b); passes(t, vms[lb.IPv6], b) {
			t.Errorf("%s is let in", what)
		}
	}
	if !passes(t, vms[lb.IPv6], q) || !passes(t, vms[lb.IPv4], question(vip4)) {
		t.Error("a question is refused")
	}
	for n := range etherLen + 28 {
		if passes(t, vms[lb.IPv4], question(vip4)[:n]) || passes(t, vms[lb.IPv6], q[:n]) {
			t.Errorf("a frame of %d bytes is let in", n)
		}
	}
}

// However many addresses and ranges there are, the program fits the kernel and
// nothing that matters is refused.
func TestFiltersStaySmallAndAreNeverTooNarrow(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 2))
		random := func(v6 bool) netip.Addr {
			if !v6 {
				return netip.AddrFrom4([4]byte{byte(rng.IntN(256)), byte(rng.IntN(4)), byte(rng.IntN(256)), byte(rng.IntN(256))})
			}
			a := [16]byte{0x20, 0x01, 0x0d, 0xb8}
			for i := range 4 {
				a[4+rng.IntN(12)] = byte(rng.IntN(256) >> (2 * i))
			}
			return netip.AddrFrom16(a)
		}
		var watched []lb.AddressRange
		var claims []layer2.Claim
		for range rng.IntN(120) {
			v6 := rng.IntN(2) == 0
			a, b := random(v6), random(v6)
			if b.Less(a) {
				a, b = b, a
			}
			watched = append(watched, lb.AddressRange{First: a, Last: b})
			if rng.IntN(2) == 0 {
				watched[len(watched)-1].Last = a
			}
		}
		for range rng.IntN(2000) {
			claims = append(claims, layer2.Claim{Address: random(rng.IntN(2) == 0)})
		}
		vms := filterOf(t, watched, claims)
		for _, f := range []lb.Family{lb.IPv4, lb.IPv6} {
			program := map[lb.Family]func(scope) []bpf.Instruction{lb.IPv4: filterARP, lb.IPv6: filterNDP}[f](scopeOf(f, merge(watched), claims))
			if len(program) > 4096 {
				t.Fatalf("seed %d: %v filter has %d instructions", seed, f, len(program))
			}
		}
		must := func(a netip.Addr, frames ...[]byte) {
			for _, f := range frames {
				if !passes(t, vms[lb.FamilyOf(a)], f) {
					t.Fatalf("seed %d: %v: % x is refused", seed, a, f)
				}
			}
		}
		for _, c := range claims {
			a := c.Address
			must(a, question(a), use(a), probeFrame(lb.MAC{2, 1}, a), announcement(a))
		}
		for _, r := range watched {
			for _, a := range []netip.Addr{r.First, r.Last} {
				must(a, use(a), probeFrame(lb.MAC{2, 1}, a), announcement(a))
			}
		}
	}
}

func TestMergedRangesAreSortedDisjointAndTheSame(t *testing.T) {
	r := func(first, last string) lb.AddressRange {
		return lb.AddressRange{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}
	}
	in := []lb.AddressRange{
		r("2001:db8::5", "2001:db8::9"), r("192.0.2.5", "192.0.2.9"), r("192.0.2.1", "192.0.2.4"),
		r("192.0.2.2", "192.0.2.3"), r("192.0.2.11", "192.0.2.11"), r("2001:db8::", "2001:db8::5"),
		r("255.255.255.255", "255.255.255.255"), r("::", "::"),
	}
	before := slices.Clone(in)
	want := []lb.AddressRange{
		r("192.0.2.1", "192.0.2.9"), r("192.0.2.11", "192.0.2.11"), r("255.255.255.255", "255.255.255.255"),
		r("::", "::"), r("2001:db8::", "2001:db8::9"),
	}
	if got := merge(in); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if !slices.Equal(in, before) {
		t.Error("the argument was changed")
	}
}
