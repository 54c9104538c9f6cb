package strict

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// message makes a message of hexadecimal text.
func message(t *testing.T, typ byte, body string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(body), ""))
	if err != nil {
		t.Fatal(err)
	}
	n := headerLen + len(b)
	return append(append([]byte(strings.Repeat("\xff", 16)), byte(n>>8), byte(n), typ), b...)
}

// opens are OPENs by what they offer.
var opens = map[string]string{
	"all":     opening("04 fde9 005a c0000202", "0104 00010001 0104 00020001 0200 0506 000100010002 4104 0000fde9 4006 0078 00010100"),
	"nothing": opening("04 fde9 005a c0000202", ""),
	"ipv6":    opening("04 fde9 005a c0000202", "0104 00020001 4104 0000fde9"),
	"plain":   opening("04 fde9 005a c0000202", "0104 00010001 0104 00020001 4104 0000fde9"),
	"ours":    opening("04 fde8 005a c0000201", "0104 00010001 0104 00020001 0200 0506 000100010002 4104 0000fde8"),
	"inside":  opening("04 fde9 005a c0000201", "0104 00010001 0104 00020001 4104 0000fde9"),
	"peer":    opening("04 fde8 005a c0000201", "0104 00010001 0901 04 4104 0000fde8"),
}

// size is how many octets hexadecimal text stands for.
func size(s string) int { return len(strings.Join(strings.Fields(s), "")) / 2 }

// opening makes an OPEN's body.
func opening(head, capabilities string) string {
	if capabilities == "" {
		return head + "00"
	}
	return fmt.Sprintf("%s %02x 02 %02x %s", head, size(capabilities)+2, size(capabilities), capabilities)
}

// update makes an UPDATE's body of withdrawn routes, attributes and routes.
func update(withdrawn, attributes, routes string) string {
	return fmt.Sprintf("%04x %s %04x %s %s", size(withdrawn), withdrawn, size(attributes), attributes, routes)
}

const (
	origin  = "40 01 01 00 "
	asPath  = "40 02 06 0201 0000fde8 "
	asPath2 = "40 02 04 0201 fde8 "
	hop     = "40 03 04 c0000201 "
	route   = "20 c6336401 "
	reach   = "80 0e 26 0002 01 10 20010db8000000000000000000000001 00 80 20010db8010000000000000000000001 "
	reach4  = "80 0e 1a 0001 01 10 20010db8000000000000000000000001 00 20 c6336404 "
)

func TestRefusesWhatARouterMayRefuse(t *testing.T) {
	for _, c := range []struct{ name, own, theirs, update, want string }{
		{"a route", "all", "ours", update("", origin+asPath+hop, route), ""},
		{"a route of IPv6", "all", "ours", update("", reach+origin+asPath, ""), ""},
		{"a route of IPv4 with a next hop of IPv6", "all", "ours", update("", reach4+origin+asPath, ""), ""},
		{"a withdrawal", "all", "ours", update(route, "", ""), ""},
		{"an end of RIB", "all", "ours", update("", "80 0f 03 0002 01", ""), ""},
		{"a route to a router of two octets", "nothing", "ours", update("", origin+asPath2+hop, route), ""},
		{"a route inside", "all", "inside", update("", origin+"40 02 00"+hop+"40 05 04 00000064", route), ""},
		{"a route of a peer", "all", "peer", update("", origin+asPath+hop+"c0 23 04 0000fde8", route), ""},

		{"IPv6 to a router without", "nothing", "ours", update("", reach+origin+asPath2, ""), "3/9: MP_REACH_NLRI of family {2 1}"},
		{"IPv4 to a router without", "ipv6", "ours", update("", origin+asPath+hop, route), "3/10: routes without IPv4"},
		{"withdrawn IPv4 to a router without", "ipv6", "ours", update(route, "", ""), "3/10: withdrawn routes without IPv4"},
		{"withdrawn IPv6 to a router without", "nothing", "ours", update("", "80 0f 14 0002 01 80 20010db8020000000000000000000002", ""), "3/9: MP_UNREACH_NLRI of family {2 1}"},
		{"RFC 8950 to a router without", "plain", "ours", update("", reach4+origin+asPath, ""), "3/9: a next hop of RFC 8950"},
		{"an end of RIB that nobody asked for", "nothing", "ours", update("", "", ""), "an End-of-RIB that was not asked for"},
		{"four octets to a router of two", "nothing", "ours", update("", origin+asPath+hop, route), "3/11: AS_PATH is malformed"},
		{"two octets to a router of four", "all", "ours", update("", origin+asPath2+hop, route), "3/11: AS_PATH is malformed"},
		{"local preference to another AS", "all", "ours", update("", origin+asPath+hop+"40 05 04 00000064", route), "3/1: LOCAL_PREF: true"},
		{"no local preference inside", "all", "inside", update("", origin+"40 02 00"+hop, route), "3/1: LOCAL_PREF: false"},
		{"a path that does not begin with the sender", "all", "ours", update("", origin+"40 02 00"+hop, route), "3/11: AS_PATH [] does not begin with 65000"},
		{"AS 0", "all", "ours", update("", origin+"40 02 0a 0202 0000fde8 00000000"+hop, route), "3/11: AS 0 in AS_PATH"},
		{"an empty segment", "all", "ours", update("", origin+"40 02 02 0200"+hop, route), "3/11: AS_PATH is malformed"},
		{"no ORIGIN", "all", "ours", update("", asPath+hop, route), "3/6: ORIGIN"},
		{"no NEXT_HOP", "all", "ours", update("", origin+asPath, route), "3/3: NEXT_HOP: false"},
		{"NEXT_HOP of nothing", "all", "ours", update("", reach+origin+asPath+hop, ""), "3/3: NEXT_HOP: true"},
		{"next hop 0.0.0.0", "all", "ours", update("", origin+asPath+"40 03 04 00000000", route), "3/8: next hop 0.0.0.0"},
		{"next hop on loopback", "all", "ours", update("", origin+asPath+"40 03 04 7f000001", route), "3/8: next hop 127.0.0.1"},
		{"a mapped next hop", "all", "ours", update("", "80 0e 26 0002 01 10 00000000000000000000ffffc0000201 00 80 20010db8010000000000000000000001"+origin+asPath, ""), "3/8: next hop ::ffff:192.0.2.1"},
		{"an attribute twice", "all", "ours", update("", origin+origin+asPath+hop, route), "3/1: ORIGIN twice"},
		{"wrong flags", "all", "ours", update("", "c0 01 01 00"+asPath+hop, route), "3/4: ORIGIN with flags 0xc0"},
		{"the extended length for no need", "all", "ours", update("", "50 01 0001 00"+asPath+hop, route), "3/4: the extended length of a short attribute"},
		{"communities of three octets", "all", "ours", update("", origin+asPath+hop+"c0 08 03 ffffff", route), "3/5: COMMUNITIES of 3 octets"},
		{"an attribute of no RFC", "all", "ours", update("", origin+asPath+hop+"c0 63 00", route), "3/2: attribute 99"},
		{"MP_REACH_NLRI that is not the first", "all", "ours", update("", origin+asPath+reach, ""), "3/1: MP_REACH_NLRI is not the first attribute"},
		{"two kinds of prefixes", "all", "ours", update(route, origin+asPath+hop, route), "3/1: 2 kinds of prefixes in one UPDATE"},
		{"attributes of nothing", "all", "ours", update("", origin+asPath, ""), "3/1: 0 kinds of prefixes in one UPDATE"},
		{"a withdrawal with attributes", "all", "ours", update(route, origin, ""), "3/1: a withdrawal with attributes"},
		{"a prefix twice", "all", "ours", update(route+route, "", ""), "3/10: 198.51.100.1/32 twice"},
		{"bits beyond the length", "all", "ours", update("18c63364 09 0aff", "", ""), "3/10: 10.255.0.0/9 has bits"},
		{"33 bits", "all", "ours", update("21 c633640180", "", ""), "3/10: a prefix is malformed"},
		{"a peer's route without OTC", "all", "peer", update("", origin+asPath+hop, route), "OTC is 0, want 65000"},
		{"OTC without a role", "all", "ours", update("", origin+asPath+hop+"c0 23 04 0000fde8", route), "OTC is 65000, want 0"},
	} {
		r, err := New(message(t, 1, opens[c.own]))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		err = r.Read(append(message(t, 1, opens[c.theirs]), message(t, 4, "")...))
		if err != nil || !r.Established() {
			t.Fatalf("%s: %v", c.name, err)
		}
		got := ""
		// Octet by octet: where it is cut is of no account.
		for _, b := range message(t, 2, c.update) {
			if err := r.Read([]byte{b}); err != nil {
				got = err.Error()
			}
		}
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestRefusesMessagesOutOfPlace(t *testing.T) {
	open, alive := message(t, 1, opens["ours"]), message(t, 4, "")
	join := func(parts ...[]byte) []byte {
		var all []byte
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	for _, c := range []struct {
		name, own, want string
		b               []byte
	}{
		{"KEEPALIVE first", "all", "5/1", alive},
		{"UPDATE before KEEPALIVE", "all", "5/2", join(open, message(t, 2, "0000 0000"))},
		{"OPEN twice", "all", "5/2", join(open, open)},
		{"a marker", "all", "1/1", make([]byte, 19)},
		{"a long message", "all", "1/2", message(t, 2, strings.Repeat("00", 4078))},
		{"a KEEPALIVE with a body", "all", "1/2", join(open, message(t, 4, "00"))},
		{"a ROUTE-REFRESH that was not agreed on", "nothing", "a ROUTE-REFRESH", join(open, alive, message(t, 5, "0001 00 01"))},
		{"a message after the last", "all", "a message after", join(open, message(t, 3, "0602"), alive)},
		{"a NOTIFICATION of half a code", "all", "1/2", message(t, 3, "06")},
		{"a NOTIFICATION of no code", "all", "a NOTIFICATION of 9/0", message(t, 3, "0900")},
		{"a NOTIFICATION of no subcode", "all", "a NOTIFICATION of 2/5", message(t, 3, "0205")},
		{"a bad length, unsaid", "all", "a NOTIFICATION of 1/2 with ", message(t, 3, "0102")},
		{"a version of one octet", "all", "a NOTIFICATION of 2/1 with 04", message(t, 3, "0201 04")},
		{"an unexpected message, unsaid", "all", "a NOTIFICATION of 5/3 with ", message(t, 3, "0503")},
		{"capabilities that are cut", "all", "a NOTIFICATION of 2/7 with 010400", message(t, 3, "0207 010400")},
		{"no capability that is lacking", "all", "a NOTIFICATION of 2/7 with ", message(t, 3, "0207")},
		{"a text that is cut", "all", "a NOTIFICATION of 6/2 with 0361", message(t, 3, "0602 0361")},
		{"a text and more", "all", "a NOTIFICATION of 6/4 with 016162", message(t, 3, "0604 016162")},
		{"a text of no characters", "all", "a NOTIFICATION of 6/2 with 01ff", message(t, 3, "0602 01ff")},
		{"a text where none is", "all", "a NOTIFICATION of 6/3 with 0161", message(t, 3, "0603 0161")},
		{"a hold timer with data", "all", "a NOTIFICATION of 4/0 with 00", message(t, 3, "0400 00")},
		{"a hard reset of nothing", "all", "a NOTIFICATION of 6/9 with ", message(t, 3, "0609")},
		{"hold time 1", "all", "2/6", message(t, 1, "04 fde8 0001 c0000201 00")},
		{"a capability twice", "all", "2/0", message(t, 1, "04 fde8 005a c0000201 06 02 04 0200 0200")},
		{"AS of two octets beside another of four", "all", "2/2", message(t, 1, "04 fde8 005a c0000201 08 02 06 4104 0000fde7")},
		{"a capability of no RFC", "all", "2/7", message(t, 1, "04 fde8 005a c0000201 04 02 02 fe00")},
	} {
		r, err := New(message(t, 1, opens[c.own]))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Read(c.b); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

func TestAcceptsWhatTheRFCsSay(t *testing.T) {
	for _, body := range []string{
		"0101", "0102 1001", "0103 09", "0200", "0201 0004", "0202", "0203", "0204", "0206", "0207 0104 00010001 0104 00020001", "020b",
		"0301 400101", "0400", "0500", "0501 04", "0502 02", "0503 01", "0601", "0601 0001 01 00000064", "0602", "0602 03 616263", "0602 02 c3a4",
		"0604 00", "0605", "0609 0602 01 61", "060a", "0701", "0800",
	} {
		r, err := New(message(t, 1, opens["all"]))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Read(message(t, 3, body)); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}
