package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
)

const marker = "ffffffffffffffffffffffffffffffff"

// unhex decodes hexadecimal text in which blanks do not count.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// parts splits a message into its type and body.
func parts(t testing.TB, msg []byte) (Type, []byte) {
	t.Helper()
	typ, n, err := ParseHeader([HeaderLen]byte(msg))
	if err != nil {
		t.Fatal(err)
	}
	if n != len(msg)-HeaderLen {
		t.Fatalf("header says %d octets of body, there are %d", n, len(msg)-HeaderLen)
	}
	return typ, msg[HeaderLen:]
}

var us = Open{
	AS: 4200000001, HoldTime: 90, ID: netip.MustParseAddr("192.0.2.1"),
	Capabilities: Capabilities{
		Families: []Family{IPv4Unicast, IPv6Unicast}, FourOctetAS: true, RouteRefresh: true, ExtendedNextHop: true,
		GracefulRestart: &GracefulRestart{Restarting: true, Time: 120, Families: []RestartFamily{{IPv4Unicast, true}, {IPv6Unicast, false}}},
		LongLived:       []LongLived{{IPv6Unicast, true, 3600}},
	},
}

func TestMessagesAreWrittenAsTheRFCsDrawThem(t *testing.T) {
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"keepalive", AppendKeepalive(nil), marker + "0013 04"},
		{"route refresh", AppendRouteRefresh(nil, IPv6Unicast), marker + "0017 05 0002 00 01"},
		{"end of RIB, IPv4", AppendEndOfRIB(nil, IPv4Unicast), marker + "0017 02 0000 0000"},
		{"end of RIB, IPv6", AppendEndOfRIB(nil, IPv6Unicast), marker + "001d 02 0000 0006 80 0f 03 0002 01"},
		{"shutdown with a reason", AppendNotification(nil, Cease(CeaseShutdown, "moving")), marker + "001c 03 06 02 06 6d6f76696e67"},
		{"open", AppendOpen(nil, us), marker + `0050 01 04 5ba0 005a c0000201 33 02 31
			01 04 0001 00 01  01 04 0002 00 01  02 00  05 06 0001 0001 0002
			40 0a 8078 0001 01 80 0002 01 00  41 04 fa56ea01  47 07 0002 01 80 000e10`},
		{"open without capabilities", AppendOpen(nil, Open{AS: 65000, HoldTime: 3, ID: netip.MustParseAddr("192.0.2.1")}), marker + "001d 01 04 fde8 0003 c0000201 00"},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n got %x\nwant %x", c.name, c.got, want)
		}
	}
}

func TestOpenRoundTrips(t *testing.T) {
	_, body := parts(t, AppendOpen(nil, us))
	got, err := ParseOpen(body)
	if err != nil || !reflect.DeepEqual(got, us) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, us)
	}
}

func TestOpenIsReadTolerantly(t *testing.T) {
	const head = "04 fde9 00b4 c0000202 "
	for _, c := range []struct {
		name, body string
		want       func(*Open)
	}{
		{"no capability means IPv4 unicast", head + "00", func(o *Open) { o.Families = []Family{IPv4Unicast} }},
		{"one parameter per capability, as some send it", head + "0c 02 02 0200 02 06 4104 0000fde9", func(o *Open) {
			o.Families, o.RouteRefresh, o.FourOctetAS = []Family{IPv4Unicast}, true, true
		}},
		{"four octet AS wins over the two octets", "04 5ba0 00b4 c0000202 08 02 06 4104 fa56ea01", func(o *Open) {
			o.AS, o.Families, o.FourOctetAS = 4200000001, []Family{IPv4Unicast}, true
		}},
		{"what is not understood is cut", head + "0e 02 0c 4503 000101 4500 8001 00 0600", func(o *Open) {
			o.Families, o.Cut = []Family{IPv4Unicast}, []uint8{69, 128, 6}
		}},
		{"a repeated family counts once", head + "14 02 12 0104 00020001 0104 00020001 0104 00020001", func(o *Open) {
			o.Families = []Family{IPv6Unicast}
		}},
		{"a name with control characters", head + "0a 02 08 4906 03 61 1b 62 00 00", func(o *Open) {
			o.Families, o.Hostname = []Family{IPv4Unicast}, "a\uFFFDb"
		}},
		{"a malformed name is ignored", head + "06 02 04 4902 ff61", func(o *Open) { o.Families = []Family{IPv4Unicast} }},
		{"extended length of RFC 9072", head + "ff ff 0009 02 0006 4104 0000fde9", func(o *Open) {
			o.Families, o.FourOctetAS = []Family{IPv4Unicast}, true
		}},
		{"extended length with another short length", head + "0c ff 0009 02 0006 4104 0000fde9", func(o *Open) {
			o.Families, o.FourOctetAS = []Family{IPv4Unicast}, true
		}},
		{"a role", head + "05 02 03 0901 03", func(o *Open) { o.Families, o.Role = []Family{IPv4Unicast}, lb.RoleCustomer }},
		{"the same role twice", head + "08 02 06 0901 04 0901 04", func(o *Open) { o.Families, o.Role = []Family{IPv4Unicast}, lb.RolePeer }},
		{"two roles", head + "08 02 06 0901 04 0901 03", func(o *Open) { o.Families, o.Role = []Family{IPv4Unicast}, lb.RoleUnknown }},
		{"a role of no RFC", head + "05 02 03 0901 ff", func(o *Open) { o.Families, o.Role = []Family{IPv4Unicast}, lb.RoleUnknown }},
		{"an IPv6 next hop without a family to spell it in", head + "0a 02 08 0506 000100010002", func(o *Open) { o.Families = []Family{IPv4Unicast} }},
		{"next hops of other families do not count", head + "10 02 0e 050c 0001 0080 0002 0002 0001 0001", func(o *Open) {
			o.Families = []Family{IPv4Unicast}
		}},
	} {
		want := Open{AS: 65001, HoldTime: 180, ID: netip.MustParseAddr("192.0.2.2")}
		c.want(&want)
		got, err := ParseOpen(unhex(t, c.body))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v\nwant %+v", c.name, got, err, want)
		}
	}
}

func TestBadOpenIsAnsweredAsTheRFCsSay(t *testing.T) {
	for _, c := range []struct {
		name, body    string
		code, subcode uint8
	}{
		{"empty", "", CodeHeader, 2},
		{"cut in the identifier", "04 fde9 00b4 c00002", CodeHeader, 2},
		{"version 3", "03 fde9 00b4 c0000202 00", CodeOpen, OpenVersion},
		{"AS 0", "04 0000 00b4 c0000202 00", CodeOpen, OpenPeerAS},
		{"AS 0 in the capability", "04 fde9 00b4 c0000202 08 02 06 4104 00000000", CodeOpen, OpenPeerAS},
		{"AS_TRANS of an old router", "04 5ba0 00b4 c0000202 00", CodeOpen, OpenPeerAS},
		{"AS_TRANS in the capability", "04 5ba0 00b4 c0000202 08 02 06 4104 00005ba0", CodeOpen, OpenPeerAS},
		{"hold time 1", "04 fde9 0001 c0000202 00", CodeOpen, OpenHoldTime},
		{"hold time 2", "04 fde9 0002 c0000202 00", CodeOpen, OpenHoldTime},
		{"identifier 0.0.0.0", "04 fde9 00b4 00000000 00", CodeOpen, OpenIdentifier},
		{"authentication parameter", "04 fde9 00b4 c0000202 03 01 01 00", CodeOpen, OpenParameter},
		{"parameters longer than the message", "04 fde9 00b4 c0000202 08 02 00", CodeOpen, 0},
		{"octets after the parameters", "04 fde9 00b4 c0000202 00 00", CodeOpen, 0},
		{"a parameter longer than the parameters", "04 fde9 00b4 c0000202 02 02 04", CodeOpen, 0},
		{"half a parameter", "04 fde9 00b4 c0000202 01 02", CodeOpen, 0},
		{"a capability longer than its parameter", "04 fde9 00b4 c0000202 04 02 02 41 04", CodeOpen, 0},
		{"half a capability", "04 fde9 00b4 c0000202 03 02 01 41", CodeOpen, 0},
		{"multiprotocol of 3 octets", "04 fde9 00b4 c0000202 07 02 05 0103 000100", CodeOpen, 0},
		{"route refresh with a value", "04 fde9 00b4 c0000202 05 02 03 0201 00", CodeOpen, 0},
		{"next hop of 5 octets", "04 fde9 00b4 c0000202 09 02 07 0505 0001000100", CodeOpen, 0},
		{"graceful restart of 1 octet", "04 fde9 00b4 c0000202 05 02 03 4001 00", CodeOpen, 0},
		{"graceful restart with half a family", "04 fde9 00b4 c0000202 08 02 06 4004 0078 0001", CodeOpen, 0},
		{"four octet AS of 2", "04 fde9 00b4 c0000202 06 02 04 4102 fde9", CodeOpen, 0},
		{"a role of 2", "04 fde9 00b4 c0000202 06 02 04 0902 0304", CodeOpen, 0},
		{"extended length with a short length of 0", "04 fde9 00b4 c0000202 00 ff 0009 02 0006 4104 0000fde9", CodeOpen, 0},
		{"long-lived of 6", "04 fde9 00b4 c0000202 0a 02 08 4706 000101800000", CodeOpen, 0},
		{"extended length, cut", "04 fde9 00b4 c0000202 ff ff 0004 02 0006 41", CodeOpen, 0},
		{"extended length, half a parameter", "04 fde9 00b4 c0000202 ff ff 0002 02 00", CodeOpen, 0},
	} {
		_, err := ParseOpen(unhex(t, c.body))
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%s: accepted", c.name)
		} else if e.Code != c.code || e.Subcode != c.subcode || e.Text == "" {
			t.Errorf("%s: %d/%d %q, want %d/%d", c.name, e.Code, e.Subcode, e.Text, c.code, c.subcode)
		}
	}
}

func TestBadHeaderIsAnsweredAsTheRFCSays(t *testing.T) {
	for _, c := range []struct {
		name, header string
		subcode      uint8
	}{
		{"marker", "fffffffffffffffffffffffffffffffe 0013 04", 1},
		{"shorter than a header", marker + "0012 04", 2},
		{"zero", marker + "0000 04", 2},
		{"longer than a message", marker + "1001 02", 2},
		{"an extended message that was not agreed on", marker + "ffff 02", 2},
		{"keepalive with a body", marker + "0014 04", 2},
		{"short open", marker + "001c 01", 2},
		{"short update", marker + "0016 02", 2},
		{"short notification", marker + "0014 03", 2},
		{"route refresh with filters", marker + "0018 05", 2},
		{"type 0", marker + "0013 00", 3},
		{"type 6", marker + "0013 06", 3},
		{"type 255", marker + "0013 ff", 3},
	} {
		_, _, err := ParseHeader([HeaderLen]byte(unhex(t, c.header)))
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeHeader || e.Subcode != c.subcode {
			t.Errorf("%s: %v, want subcode %d", c.name, err, c.subcode)
		}
	}
	if typ, n, err := ParseHeader([HeaderLen]byte(unhex(t, marker+"1000 02"))); typ != TypeUpdate || n != 4077 || err != nil {
		t.Errorf("the longest UPDATE: %v %d %v", typ, n, err)
	}
}

func TestUpdateGivesItsPrefixes(t *testing.T) {
	for _, c := range []struct {
		name, body, want, eor string
	}{
		{"end of RIB, IPv4", "0000 0000", "", "ipv4-unicast"},
		{"end of RIB, IPv6", "0000 0006 80 0f 03 0002 01", "", "ipv6-unicast"},
		{"end of RIB, extended length", "0000 0007 90 0f 0003 0002 01", "", "ipv6-unicast"},
		{"end of RIB of a family we do not know", "0000 0006 80 0f 03 0019 46", "", "afi-25/safi-70"},
		{"announced and withdrawn", "0004 18 c63364 0000 20 c0000201 00", "-198.51.100.0/24 +192.0.2.1/32 +0.0.0.0/0", ""},
		{
			"both families",
			"0000 0038" + "40 01 01 00" + "80 0e 1e 0002 01 10 20010db8000000000000000000000001 00 40 20010db800000001" +
				"80 0f 10 0002 01 60 20010db80000000200000000" + "18 c63364",
			"+2001:db8:0:1::/64 -2001:db8:0:2::/96 +198.51.100.0/24", "",
		},
		{"bits beyond the length do not count", "0000 0000 09 0aff", "+10.128.0.0/9", ""},
		{"a withdrawal with nothing in it and other attributes is no end", "0000 000a 40 01 01 00 80 0f 03 0002 01", "", ""},
		{"other families are not looked into", "0000 000c 80 0e 09 0019 46 00 00 ffffffff", "", ""},
	} {
		var got []string
		eor, err := ParseUpdate(unhex(t, c.body), func(ch Change) {
			sign := "+"
			if ch.Withdrawn {
				sign = "-"
			}
			got = append(got, sign+ch.Prefix.String())
		})
		end := ""
		if eor != nil {
			end = eor.String()
		}
		if err != nil || strings.Join(got, " ") != c.want || end != c.eor {
			t.Errorf("%s: %v, end %q, %v; want %s, end %q", c.name, got, end, err, c.want, c.eor)
		}
	}
}

func TestMalformedUpdateIsAnError(t *testing.T) {
	for _, c := range []struct{ name, body string }{
		{"empty", ""},
		{"withdrawn routes longer than the message", "ffff 0000"},
		{"length underflow", "0003 20 c0 0000"},
		{"no attributes", "0000"},
		{"attributes longer than the message", "0000 0004 40 01"},
		{"half an attribute", "0000 0002 40 01"},
		{"half an extended attribute", "0000 0003 50 01 00"},
		{"attribute longer than the attributes", "0000 0003 40 01 01"},
		{"MP_REACH_NLRI of 3 octets", "0000 0006 80 0e 03 000101"},
		{"MP_REACH_NLRI cut in its next hop", "0000 0009 80 0e 06 0002 01 10 2001"},
		{"MP_UNREACH_NLRI of 2 octets", "0000 0005 80 0f 02 0002"},
		{"33 bits of IPv4", "0000 0000 21 c000020180"},
		{"129 bits of IPv6", "0000 001a 80 0e 17 0002 01 00 00 81" + strings.Repeat("ff", 17)},
		{"129 bits withdrawn", "0000 0018 80 0f 15 0002 01 81" + strings.Repeat("ff", 17)},
		{"a prefix that is cut", "0000 0000 20 c00002"},
		{"a withdrawn prefix that is cut", "0003 20 c000 0000"},
	} {
		var e *Error
		if _, err := ParseUpdate(unhex(t, c.body), func(Change) {}); !errors.As(err, &e) {
			t.Errorf("%s: accepted", c.name)
		} else if e.Code != CodeUpdate {
			t.Errorf("%s: code %d", c.name, e.Code)
		}
	}
}

func TestNotificationSpeaksInWords(t *testing.T) {
	for _, c := range []struct {
		n    Notification
		want string
	}{
		{Notification{Code: CodeHoldTimer}, "hold timer expired"},
		{Notification{Code: CodeOpen, Subcode: OpenPeerAS}, "OPEN error: bad peer AS"},
		{Notification{Code: CodeOpen, Subcode: 99}, "OPEN error: subcode 99"},
		{Notification{Code: 77, Subcode: 1}, "code 77: subcode 1"},
		{Notification{Code: CodeRouteRefresh, Subcode: 1}, "ROUTE-REFRESH error: invalid message length"},
		{Notification{Code: CodeSendHold}, "send hold timer expired"},
		{Notification{Code: CodeOpen, Subcode: OpenRole}, "OPEN error: role mismatch"},
		{Notification{CodeOpen, OpenCapability, MissingFamilies([]Family{IPv4Unicast, IPv6Unicast})}, "OPEN error: unsupported capability: ipv4-unicast, ipv6-unicast"},
		{Notification{CodeOpen, OpenCapability, []byte{65, 4, 0, 0, 0xfd, 0xe9, 254, 0, 9, 1, 3, 5, 9}}, "OPEN error: unsupported capability: 4-octet-as, capability 254, role-customer"},
		{Notification{}, "code 0"},
		{Cease(CeaseShutdown, "disk change until 4 pm"), "cease: administrative shutdown: disk change until 4 pm"},
		{Cease(CeaseShutdown, ""), "cease: administrative shutdown"},
		{Cease(CeaseBFDDown, "not sent"), "cease: BFD down"},
		{Notification{CodeCease, CeasePrefixes, unhex(t, "0001 01 00000002")}, "cease: maximum number of prefixes reached: 2 of ipv4-unicast"},
		{Notification{CodeCease, CeasePrefixes, unhex(t, "0002 01 00000064")}, "cease: maximum number of prefixes reached: 100 of ipv6-unicast"},
		{Notification{CodeCease, CeasePrefixes, unhex(t, "0002 01 000000")}, "cease: maximum number of prefixes reached"},
		{Notification{CodeCease, CeaseHardReset, unhex(t, "06 02 06 6d6f76696e67")}, "cease: hard reset: cease: administrative shutdown: moving"},
		{Notification{CodeCease, CeaseHardReset, unhex(t, "04 00")}, "cease: hard reset: hold timer expired"},
		{Notification{CodeCease, CeaseHardReset, unhex(t, "06")}, "cease: hard reset"},
		{Notification{CodeCease, CeaseHardReset, unhex(t, "06 09 06 09 06 09")}, "cease: hard reset"},
		{Notification{CodeCease, CeaseShutdown, []byte{0, 'x'}}, "cease: administrative shutdown"},
		{Notification{CodeCease, CeaseShutdown, []byte{1, 'x', 'y'}}, "cease: administrative shutdown: x"},
		{Notification{CodeCease, CeaseShutdown, append([]byte{129}, strings.Repeat("x", 129)...)}, "cease: administrative shutdown: " + strings.Repeat("x", 129)},
		{Notification{CodeCease, CeaseReset, append([]byte{255}, strings.Repeat("x", 255)...)}, "cease: administrative reset: " + strings.Repeat("x", 255)},
		{Notification{CodeCease, CeaseReset, []byte{7}}, "cease: administrative reset"},
		{Notification{CodeCease, CeaseRejected, unhex(t, "03 616263")}, "cease: connection rejected"},
		{Notification{CodeCease, CeaseShutdown, []byte{200, 'x'}}, "cease: administrative shutdown"},
		{Notification{CodeCease, CeaseReset, []byte{3, 'a', 0x1b, 0xff}}, "cease: administrative reset: a\uFFFD\uFFFD"},
	} {
		if got := c.n.String(); got != c.want {
			t.Errorf("%d/%d: %q, want %q", c.n.Code, c.n.Subcode, got, c.want)
		}
	}
	if n := Cease(CeaseShutdown, strings.Repeat("ä", 200)); len(n.Data) != 255 || n.Data[0] != 254 {
		t.Errorf("a long reason is not cut at a character: %d octets, length %d", len(n.Data), n.Data[0])
	}
}

func TestRouteRefreshNamesItsFamily(t *testing.T) {
	_, body := parts(t, AppendRouteRefresh(nil, IPv6Unicast))
	if f, ordinary, err := ParseRouteRefresh(body); f != IPv6Unicast || !ordinary || err != nil {
		t.Errorf("%v %v %v", f, ordinary, err)
	}
	if _, ordinary, err := ParseRouteRefresh([]byte{0, 1, 1, 1}); ordinary || err != nil {
		t.Errorf("the start of an enhanced refresh asks for routes (%v)", err)
	}
	if _, _, err := ParseRouteRefresh([]byte{0, 1, 1}); err == nil {
		t.Error("three octets are accepted")
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(AppendKeepalive(nil))
	f.Add(AppendEndOfRIB(nil, IPv4Unicast)[:HeaderLen])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderLen {
			return
		}
		typ, n, err := ParseHeader([HeaderLen]byte(b))
		if err == nil && (n < 0 || n > MaxLen-HeaderLen || n+HeaderLen < minLen[typ]) {
			t.Errorf("%v with a body of %d", typ, n)
		}
	})
}

func FuzzOpen(f *testing.F) {
	f.Add(AppendOpen(nil, us)[HeaderLen:])
	f.Add(unhex(f, "04 fde9 00b4 c0000202 ff ff 0009 02 0006 4104 0000fde9"))
	f.Add(unhex(f, "04 fde9 00b4 c0000202 0a 02 08 4906 03 61 1b 62 00 00"))
	f.Add(unhex(f, "04 fde9 00b4 c0000202 04 02 02 41 04"))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseOpen(b)
		if err != nil {
			return
		}
		// What we make of it can be written and read again, as long as it is of
		// the size that we ourselves send.
		o.Hostname, o.Software, o.Cut = "", "", nil
		if len(o.appendCapabilities(nil)) > 250 || o.GracefulRestart != nil && len(o.GracefulRestart.Families) > 60 || len(o.LongLived) > 30 {
			return
		}
		if o.AS > 0xffff {
			o.FourOctetAS = true
		}
		again, err := ParseOpen(AppendOpen(nil, o)[HeaderLen:])
		if err != nil || !reflect.DeepEqual(again, o) {
			t.Errorf("%+v\nbecomes %+v, %v", o, again, err)
		}
	})
}

func FuzzUpdate(f *testing.F) {
	for _, s := range []string{
		"0000 0000", "0000 0006 80 0f 03 0002 01", "0004 18 c63364 0000 20 c0000201 00", "0000 0006 80 0e 03 000101",
		"0000 0021 80 0e 1e 0002 01 10 20010db8000000000000000000000001 00 40 20010db800000001",
	} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_, _ = ParseUpdate(b, func(c Change) {
			n++
			if !c.Prefix.IsValid() || c.Prefix != c.Prefix.Masked() {
				t.Errorf("%v", c.Prefix)
			}
		})
		if n > len(b) {
			t.Errorf("%d prefixes in %d octets", n, len(b))
		}
	})
}

func FuzzNotification(f *testing.F) {
	f.Add(AppendNotification(nil, Cease(CeaseShutdown, "moving"))[HeaderLen:])
	f.Add([]byte{6, 2, 200, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ParseNotification(b)
		if err != nil {
			return
		}
		for _, r := range n.String() {
			if r < ' ' {
				t.Errorf("%q", n.String())
			}
		}
		if len(b) > MaxLen-HeaderLen {
			return
		}
		if out := AppendNotification(nil, n); !bytes.Equal(out[HeaderLen:], b) || int(binary.BigEndian.Uint16(out[16:])) != len(out) {
			t.Errorf("%x becomes %x", b, out)
		}
	})
}

func TestCapabilityNamesAreForPeople(t *testing.T) {
	want := []string{"ipv4-unicast", "ipv6-unicast", "route-refresh", "4-octet-as", "extended-next-hop", "graceful-restart", "long-lived-graceful-restart"}
	if got := us.Names(); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
