package layer2

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
)

func TestVerdicts(t *testing.T) {
	stranger, own := lb.MAC{2, 0, 0, 0, 0, 0xee}, eth1.MAC
	here := eth0
	here.Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24"), netip.MustParsePrefix("2001:db8::7/64")}
	station := NewStation([]lb.Interface{here, eth1})
	for _, f := range []struct{ ours, other, held, elsewhere, sender, unspecified string }{
		{"192.0.2.1", "192.0.2.2", "192.0.2.7", "192.0.2.3", "192.0.2.200", "0.0.0.0"},
		{"2001:db8::1", "2001:db8::2", "2001:db8::7", "2001:db8::3", "fe80::1", "::"},
	} {
		table := NewTable(slices.Concat(claims([]int{2, 3}, f.ours, f.held), claims([]int{3}, f.elsewhere)))
		for _, c := range []struct {
			name            string
			sender, target  string
			mac             lb.MAC
			interfaceNumber int
			want            Verdict
		}{
			{"ours", f.sender, f.ours, stranger, 2, Answered},
			{"ours, the other interface", f.sender, f.ours, stranger, 3, Answered},
			{"ours, an interface that is not claimed", f.sender, f.ours, stranger, 4, OtherInterface},
			{"ours, a probe", f.unspecified, f.ours, stranger, 2, Answered},
			{"not ours", f.sender, f.other, stranger, 2, NotOurs},
			{"ours elsewhere", f.sender, f.elsewhere, stranger, 2, OtherInterface},
			{"the kernel has it here", f.sender, f.held, stranger, 2, KernelHolds},
			{"the kernel has it on another interface", f.sender, f.held, stranger, 3, Answered},
			{"our own question", f.sender, f.ours, own, 2, OwnFrame},
			{"our own probe", f.unspecified, f.ours, own, 2, OwnFrame},
			{"an announcement", f.ours, f.ours, stranger, 2, Announcement},
		} {
			got := table.Decide(station, Question{c.interfaceNumber, netip.MustParseAddr(c.target), netip.MustParseAddr(c.sender), c.mac})
			if got != c.want {
				t.Errorf("%s (%s): %v, want %v", c.name, c.target, got, c.want)
			}
		}
		if NewTable(nil).Decide(station, Question{2, netip.MustParseAddr(f.ours), netip.MustParseAddr(f.sender), stranger}) != NotOurs {
			t.Error("an empty table owns something")
		}
		if a := netip.MustParseAddr(f.ours); !table.Claims(a, 3) || table.Claims(a, 4) || !table.ClaimsAnywhere(a) {
			t.Errorf("claims of %v are not what was said", a)
		}
		if a := netip.MustParseAddr(f.ours); NewTable([]Claim{{Address: a}}).ClaimsAnywhere(a) {
			t.Error("a claim on no interface claims something")
		}
	}
}

func TestEveryNameIsItsOwn(t *testing.T) {
	names := map[string]bool{}
	for _, v := range Verdicts {
		names[v.String()] = true
	}
	for _, k := range HeardKinds {
		names[k.String()] = true
	}
	for _, f := range Forms {
		names[f.String()] = true
	}
	// "announcement" is a verdict as well as something heard.
	if want := len(Verdicts) + len(HeardKinds) + len(Forms) - 1; len(names) != want || names[""] {
		t.Errorf("%d names, want %d: %v", len(names), want, names)
	}
}

func TestTheStationIsWhatItsInterfacesAre(t *testing.T) {
	s := NewStation([]lb.Interface{eth0, eth1, {Index: 1, Name: "lo"}})
	if i, ok := s.Interface(3); !ok || i.Name != "eth1" || s.MAC(3) != eth1.MAC {
		t.Errorf("interface 3 is %+v", i)
	}
	if i, ok := s.Interface(9); ok || s.MAC(9) != (lb.MAC{}) {
		t.Errorf("interface 9 is %+v", i)
	}
	if !s.Ours(eth0.MAC) || s.Ours(lb.MAC{}) || s.Ours(lb.MAC{2, 9}) {
		t.Error("hardware addresses of the node are not those of its interfaces")
	}
}

func TestAddressesShareTheGroupOfTheirLowBits(t *testing.T) {
	for a, want := range map[string]string{
		"2001:db8::1":            "ff02::1:ff00:1",
		"2001:db8:1::1":          "ff02::1:ff00:1",
		"2001:db8::aabb:ccdd":    "ff02::1:ffbb:ccdd",
		"2001:db8::1234:56ff:ff": "ff02::1:ffff:ff",
	} {
		if got := GroupOf(netip.MustParseAddr(a)).Address(); got != netip.MustParseAddr(want) {
			t.Errorf("%s: %v, want %s", a, got, want)
		}
	}
	c := slices.Concat(claims([]int{2}, "2001:db8::1", "2001:db8:1::1", "2001:db8::2", "192.0.2.1"), claims([]int{3}, "2001:db8::3"))
	if got := Groups(c, 2); len(got) != 2 {
		t.Errorf("groups of interface 2: %v, want two", got)
	}
	if got := Groups(c, 4); len(got) != 0 {
		t.Errorf("groups of interface 4: %v, want none", got)
	}
}

func TestWatchedIsWhatTheRangesContain(t *testing.T) {
	parse := func(first, last string) lb.AddressRange {
		return lb.AddressRange{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}
	}
	ranges := []lb.AddressRange{
		parse("192.0.2.10", "192.0.2.20"), parse("192.0.2.30", "192.0.2.30"),
		parse("2001:db8::10", "2001:db8::20"), parse("2001:db8::1:0", "2001:db8::2:0"),
	}
	for a, want := range map[string]bool{
		"192.0.2.9": false, "192.0.2.10": true, "192.0.2.15": true, "192.0.2.20": true, "192.0.2.21": false,
		"192.0.2.30": true, "192.0.2.31": false, "255.255.255.255": false, "::": false,
		"2001:db8::f": false, "2001:db8::10": true, "2001:db8::20": true, "2001:db8::21": false,
		"2001:db8::1:5": true, "2001:db8::2:1": false,
	} {
		if got := Watched(ranges, netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
	if Watched(nil, netip.MustParseAddr("192.0.2.1")) {
		t.Error("no ranges watch something")
	}
}

func BenchmarkLookup(b *testing.B) {
	table := NewTable(many(10_000, []int{2, 3}))
	station := NewStation([]lb.Interface{eth0, eth1})
	for name, a := range map[string]string{"hit": "10.0.9.9", "hit6": "2001:db8::909", "miss": "10.1.9.9", "miss6": "2001:db8::1:909"} {
		q := Question{2, netip.MustParseAddr(a), netip.MustParseAddr("10.9.9.9"), lb.MAC{2, 9}}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				table.Decide(station, q)
			}
		})
	}
}

func TestALookupAllocatesNothing(t *testing.T) {
	table := NewTable(many(1000, []int{2}))
	station := NewStation([]lb.Interface{eth0})
	for _, a := range []string{"10.0.0.9", "10.1.0.9", "2001:db8::9", "2001:db8:9::"} {
		q := Question{2, netip.MustParseAddr(a), netip.MustParseAddr("10.9.9.9"), lb.MAC{2, 9}}
		if n := testing.AllocsPerRun(100, func() { table.Decide(station, q) }); n != 0 {
			t.Errorf("%s: %v allocations", a, n)
		}
	}
}

func TestClaimsAreEqualThatSayTheSame(t *testing.T) {
	for _, c := range []struct {
		address    string
		interfaces []int
		want       bool
	}{
		{"2001:db8::1", []int{2, 3}, true},
		{"2001:db8::1", []int{2}, false},
		{"2001:db8::1", []int{2, 4}, false},
		{"192.0.2.1", []int{2, 3}, false},
	} {
		one := Claim{netip.MustParseAddr("2001:db8::1"), []int{2, 3}}
		if other := (Claim{netip.MustParseAddr(c.address), c.interfaces}); one.Equal(other) != c.want {
			t.Errorf("%v and %v are equal: %v", one, other, !c.want)
		}
	}
}
