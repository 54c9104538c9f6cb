package ranges

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestAddressesAreWrittenByBlock(t *testing.T) {
	for _, c := range []struct{ addresses, want string }{
		{"", ""},
		{"198.51.100.1", "198.51.100.1"},
		{"198.51.100.1 198.51.100.3 198.51.100.10 198.51.100.11 198.51.100.12", "198.51.100.1,3,10-12"},
		{"198.51.100.254 198.51.100.255 198.51.101.0 198.51.101.1", "198.51.100.254-255 198.51.101.0-1"},
		{"255.255.255.255", "255.255.255.255"},
		{"2001:db8::a 2001:db8::c 2001:db8::d", "2001:db8::a,c-d"},
		{"2001:db8::ffff 2001:db8::1:0", "2001:db8::ffff 2001:db8::1:0"},
		{"198.51.100.1 2001:db8::1 2001:db8::2", "198.51.100.1 2001:db8::1-2"},
		{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	} {
		var list []netip.Addr
		for a := range strings.FieldsSeq(c.addresses) {
			list = append(list, netip.MustParseAddr(a))
		}
		if got := strings.Join(Format(list), " "); got != c.want {
			t.Errorf("%s is written %q, want %q", c.addresses, got, c.want)
		}
	}
}

func TestWhatIsWrittenOfAddressesIsRead(t *testing.T) {
	for seed := range uint64(1000) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var list []netip.Addr
		for range rng.IntN(3000) {
			if rng.IntN(2) == 0 {
				list = append(list, netip.AddrFrom4([4]byte{198, 18, byte(rng.IntN(4)), byte(rng.IntN(256))}))
			} else {
				list = append(list, netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 13: byte(rng.IntN(2)), 14: byte(rng.IntN(3)), 15: byte(rng.IntN(256))}))
			}
		}
		slices.SortFunc(list, netip.Addr.Compare)
		list = slices.Compact(list)
		written := Format(list)
		for _, element := range written {
			if len(element) > maxElement {
				t.Fatalf("seed %d: an element of %d bytes: %s", seed, len(element), element)
			}
		}
		got, err := Parse(written)
		if err != nil || !slices.Equal(got, list) {
			t.Fatalf("seed %d: %v\nwritten %q\nread %v", seed, err, written, got)
		}
	}
}

// A node that answers for 10,000 addresses says all of them in a few kilobytes, if
// they are next to each other, and within what etcd takes if no two are.
func TestManyAddressesAreShort(t *testing.T) {
	var dense, sparse []netip.Addr
	for n := range 10_000 {
		dense = append(dense, netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}))
		sparse = append(sparse, netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 12: byte(n >> 8), 13: byte(n), 15: 1}))
	}
	for what, c := range map[string]struct {
		list []netip.Addr
		most int
	}{"dense": {dense, 2000}, "sparse": {sparse, 300_000}} {
		if n := len(strings.Join(Format(c.list), " ")); n > c.most {
			t.Errorf("%s: %d bytes, want %d at most", what, n, c.most)
		}
	}
}

func TestWhatNobodyWroteIsRefused(t *testing.T) {
	for _, list := range [][]string{
		{""},
		{"nonsense"},
		{"192.0.2.1,"},
		{"192.0.2.1,256"},
		{"192.0.2.1,5-3"},
		{"192.0.2.9-3"},
		{"192.0.2.1-"},
		{"192.0.2.1,x"},
		{"2001:db8::1,10000"},
		{"2001:db8::1-g"},
		{"fe80::1%eth0"},
		{"::ffff:192.0.2.1"},
		slices.Repeat([]string{"2001:db8::-ffff"}, 3),
	} {
		if got, err := Parse(list); err == nil {
			t.Errorf("%.40q is read as %d addresses", list, len(got))
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("198.51.100.1,3,10-12")
	f.Add("2001:db8::a,c-d")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := Parse(strings.Fields(text))
		if err != nil {
			return
		}
		again, err := Parse(Format(list))
		if err != nil || !slices.Equal(again, list) {
			t.Errorf("%q is read as %v, and that as %v (%v)", text, list, again, err)
		}
		if got := fmt.Sprint(list); len(list) > 0 && strings.Contains(got, "%") {
			t.Errorf("a zone: %s", got)
		}
	})
}
