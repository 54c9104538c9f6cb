package wire

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// Attributes of a route of AS 4200000001 (fa56ea01) behind AS 65000 (fde8).
const (
	origin   = "40 01 01 00 "
	asPath   = "40 02 0a 0202 fa56ea01 0000fde8 "
	asPath2  = "40 02 06 0202 5ba0 fde8 "
	as4Path  = "c0 11 0a 0202 fa56ea01 0000fde8 "
	hop4     = "40 03 04 c0000201 "
	med      = "80 04 04 00000032 "
	pref     = "40 05 04 00000064 "
	comm     = "c0 08 04 ffffff01 "
	large    = "c0 20 0c 000000010000000200000003 "
	reach6   = "80 0e 26 0002 01 10 20010db8000000000000000000000001 00 80 20010db8010000000000000000000001 "
	reach4   = "80 0e 1a 0001 01 10 20010db8000000000000000000000001 00 20 c6336404 "
	unreach6 = "80 0f 14 0002 01 80 20010db8020000000000000000000002 "
	unreach4 = "80 0f 08 0001 01 20 c6336405 "
)

// body makes an UPDATE's body of withdrawn routes, attributes and routes.
func body(t testing.TB, withdrawn, attributes, routes string) []byte {
	t.Helper()
	w, a := unhex(t, withdrawn), unhex(t, attributes)
	b := append(binary.BigEndian.AppendUint16(nil, uint16(len(w))), w...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(a))), a...)
	return append(b, unhex(t, routes)...)
}

// bodies splits messages.
func bodies(t testing.TB, b []byte) []string {
	t.Helper()
	var out []string
	for len(b) > 0 {
		typ, n, err := ParseHeader([HeaderLen]byte(b))
		if err != nil || typ != TypeUpdate {
			t.Fatalf("%v, %v: %x", typ, err, b)
		}
		out = append(out, hex.EncodeToString(b[HeaderLen:HeaderLen+n]))
		b = b[HeaderLen+n:]
	}
	return out
}

func TestUpdateSaysWhatTheTermsLetItSay(t *testing.T) {
	both := Terms{IPv4: true, IPv6: true, FourOctetAS: true}
	mixed := body(t, "20 c6336401", reach6+origin+asPath+hop4+unreach6+med+pref+comm+large, "20 c6336402 18 c63365")
	alone4, alone6 := body(t, "20 c6336401", "", ""), body(t, "", unreach6, "")
	routes4 := body(t, "", origin+asPath+hop4+med+comm+large, "20 c6336402 18 c63365")
	routes6 := body(t, "", reach6+origin+asPath+med+comm+large, "")
	for _, c := range []struct {
		name   string
		terms  Terms
		update []byte
		want   [][]byte
		told   string
	}{
		{
			"a mixed one is split, each kind of prefixes by itself", both, mixed,
			[][]byte{alone4, alone6, routes6, routes4},
			"-198.51.100.1/32 -2001:db8:200::2/128 +2001:db8:100::1/128 +198.51.100.2/32 +198.51.101.0/24",
		},
		{"what is of IPv6 is left out of it", Terms{IPv4: true, FourOctetAS: true}, mixed, [][]byte{alone4, routes4}, "-198.51.100.1/32 +198.51.100.2/32 +198.51.101.0/24"},
		{"what is of IPv4 is left out of it", Terms{IPv6: true, FourOctetAS: true}, mixed, [][]byte{alone6, routes6}, "-2001:db8:200::2/128 +2001:db8:100::1/128"},
		{"nothing of a family that is not carried", Terms{IPv4: true, FourOctetAS: true}, body(t, "", reach6+origin+asPath, ""), nil, ""},
		{"local preference is for internal routers", Terms{IPv4: true, FourOctetAS: true, Internal: true}, body(t, "", origin+asPath+hop4+pref, "20 c6336402"), [][]byte{body(t, "", origin+asPath+hop4+pref, "20 c6336402")}, "+198.51.100.2/32"},
		{
			"IPv4 with an IPv6 next hop that is understood",
			Terms{IPv4: true, IPv6: true, FourOctetAS: true, ExtendedNextHop: true},
			body(t, "", origin+asPath+reach4, ""),
			[][]byte{body(t, "", reach4+origin+asPath, "")},
			"+198.51.100.4/32",
		},
		{"IPv4 with an IPv6 next hop that is not understood", both, body(t, "", reach4+origin+asPath, ""), nil, "?198.51.100.4/32"},
		{"IPv4 in MP_REACH_NLRI for no need", both, body(t, "", "80 0e 0e 0001 01 04 c0000201 00 20 c6336404"+origin+asPath, ""), [][]byte{body(t, "", origin+asPath+hop4, "20 c6336404")}, "+198.51.100.4/32"},
		{"IPv4 in MP_UNREACH_NLRI", both, body(t, "", unreach4, ""), [][]byte{body(t, "20 c6336405", "", "")}, "-198.51.100.5/32"},
		{"IPv6 with an IPv4 next hop", both, body(t, "", origin+asPath+"80 0e 1a 0002 01 04 c0000201 00 80 20010db8010000000000000000000001", ""), nil, "?2001:db8:100::1/128"},
		{"a router of two octets", Terms{IPv4: true}, body(t, "", origin+asPath+hop4+comm+large, "20 c6336402"), [][]byte{body(t, "", origin+asPath2+hop4+comm+as4Path+large, "20 c6336402")}, "+198.51.100.2/32"},
		{"a router of two octets and IPv6", Terms{IPv6: true}, body(t, "", reach6+origin+asPath, ""), [][]byte{body(t, "", reach6+origin+asPath2+as4Path, "")}, "+2001:db8:100::1/128"},
		{"AS numbers that fit two octets", Terms{IPv4: true}, body(t, "", origin+"40 02 06 0201 0000fde8"+hop4, "20 c6336402"), [][]byte{body(t, "", origin+"40 02 04 0201 fde8"+hop4, "20 c6336402")}, "+198.51.100.2/32"},
		{"AS4_PATH is for routers of two octets", both, body(t, "", origin+asPath+hop4+as4Path, "20 c6336402"), [][]byte{body(t, "", origin+asPath+hop4, "20 c6336402")}, "+198.51.100.2/32"},
		{"a route for the router's customers only", Terms{IPv4: true, OnlyToCustomers: 4200000001}, body(t, "", origin+asPath+hop4+large, "20 c6336402"), [][]byte{body(t, "", origin+asPath2+hop4+as4Path+large+"c0 23 04 fa56ea01", "20 c6336402")}, "+198.51.100.2/32"},
		{"what no route of ours has", both, body(t, "", origin+asPath+hop4+"c0 07 08 0000fde8c0000201"+"e0 63 01 00", "20 c6336402"), [][]byte{body(t, "", origin+asPath+hop4, "20 c6336402")}, "+198.51.100.2/32"},
		{"other families", both, body(t, "", origin+asPath+"80 0e 09 0019 46 00 00 ffffffff", ""), nil, ""},
		{"the end of a table is for others to tell", both, body(t, "", "80 0f 03 0002 01", ""), nil, ""},
	} {
		var told []string
		got, err := c.terms.AppendUpdate(nil, c.update, func(p netip.Prefix, as Told) { told = append(told, [...]string{"+", "-", "?"}[as]+p.String()) })
		var want []string
		for _, b := range c.want {
			want = append(want, hex.EncodeToString(b))
		}
		if got := bodies(t, got); err != nil || fmt.Sprint(got) != fmt.Sprint(want) || strings.Join(told, " ") != c.told {
			t.Errorf("%s: %v\n got %v %v\nwant %v %v", c.name, err, got, told, want, c.told)
		}
	}
}

// A route whose message grows beyond what a message holds is said in two.
func TestUpdateThatGrowsIsSplit(t *testing.T) {
	var routes strings.Builder
	for i := range 800 {
		fmt.Fprintf(&routes, "20 c633%04x", i)
	}
	// 14 AS numbers: AS4_PATH adds 31 octets, and the message was nearly full.
	path := "40 02 3a 020e" + strings.Repeat("fa56ea01", 14)
	update := body(t, "", origin+path+hop4, routes.String())
	if len(update)+HeaderLen > MaxLen {
		t.Fatal(len(update))
	}
	seen := map[netip.Prefix]bool{}
	out, err := Terms{IPv4: true}.AppendUpdate(nil, update, func(p netip.Prefix, as Told) {
		if as != Announced || seen[p] {
			t.Errorf("%v: %v", p, as)
		}
		seen[p] = true
	})
	if n := len(bodies(t, out)); err != nil || n != 2 || len(seen) != 800 || Count(out) != 2 {
		t.Errorf("%d messages, %d prefixes, %v", n, len(seen), err)
	}
	// Attributes that leave no room for a prefix.
	long := "d0 20 0fa8" + strings.Repeat("000000010000000200000003", 334)
	out, err = Terms{IPv4: true}.AppendUpdate(nil, body(t, "", origin+path+hop4+long, "20 c6336402"), func(p netip.Prefix, as Told) {
		if as != Unsayable {
			t.Errorf("%v: %v", p, as)
		}
	})
	if err != nil || len(out) != 0 {
		t.Errorf("%d octets, %v", len(out), err)
	}
}

func TestWithdrawalsAreOfBothFamilies(t *testing.T) {
	got := Terms{IPv4: true, IPv6: true}.AppendWithdrawals(nil, []netip.Prefix{
		netip.MustParsePrefix("198.51.100.1/32"), netip.MustParsePrefix("2001:db8:200::2/128"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("2001:db8::/33"),
	})
	want := []string{
		hex.EncodeToString(body(t, "20 c6336401 00", "", "")),
		hex.EncodeToString(body(t, "", "80 0f 1a 0002 01 80 20010db8020000000000000000000002 21 20010db800", "")),
	}
	if got := bodies(t, got); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("\n got %v\nwant %v", got, want)
	}
}

func TestMalformedUpdateIsNotPassedOn(t *testing.T) {
	for _, c := range []struct {
		name string
		b    []byte
	}{
		{"empty", nil},
		{"attributes beyond the end", unhex(t, "0000 0004 40 01")},
		{"no ORIGIN", body(t, "", asPath+hop4, "20 c6336402")},
		{"no AS_PATH", body(t, "", reach6+origin, "")},
		{"AS_PATH of two octets", body(t, "", origin+asPath2+hop4, "20 c6336402")},
		{"33 bits", body(t, "", origin+asPath+hop4, "21 c633640280")},
		{"a prefix that is cut", body(t, "20 c633", "", "")},
		{"MP_REACH_NLRI that is cut", body(t, "", "80 0e 03 000201"+origin+asPath, "")},
		{"MP_UNREACH_NLRI that is cut", body(t, "", "80 0f 02 0002", "")},
		{"129 bits", body(t, "", "80 0f 15 0002 01 81"+strings.Repeat("ff", 17), "")},
	} {
		var e *Error
		out, err := Terms{IPv4: true, IPv6: true}.AppendUpdate(nil, c.b, func(netip.Prefix, Told) {})
		if !errors.As(err, &e) || len(out) > 0 {
			t.Errorf("%s: %v, %x", c.name, err, out)
		}
	}
}

func FuzzTerms(f *testing.F) {
	for i := range byte(32) {
		f.Add(i, body(f, "20 c6336401", reach6+origin+asPath+hop4+unreach6+med+pref+comm+large, "20 c6336402 18 c63365"))
		f.Add(i, body(f, "", reach4+origin+asPath, ""))
	}
	f.Fuzz(func(t *testing.T, bits byte, b []byte) {
		terms := Terms{IPv4: bits&1 != 0, IPv6: bits&2 != 0, ExtendedNextHop: bits&4 != 0, FourOctetAS: bits&8 != 0, Internal: bits&16 != 0}
		told := map[netip.Prefix]Told{}
		out, _ := terms.AppendUpdate(nil, b, func(p netip.Prefix, as Told) { told[p] = as })
		for _, m := range bodies(t, out) {
			raw, _ := hex.DecodeString(m)
			end, err := ParseUpdate(raw, func(c Change) {
				if _, ok := told[c.Prefix]; !ok || !terms.Carries(familyOf(c.Prefix)) {
					t.Errorf("%v is said", c.Prefix)
				}
			})
			if err != nil || end != nil {
				t.Errorf("%x: %v, end of %v", raw, err, end)
			}
		}
	})
}

func familyOf(p netip.Prefix) Family {
	if p.Addr().Is4() {
		return IPv4Unicast
	}
	return IPv6Unicast
}
