package gobgp

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
)

// golden compares with a file of testdata, which -rewrite writes.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	js, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got := string(js) + "\n"
	file := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run with -rewrite and review. Got:\n%s", file, got)
	}
}

func TestRoutersHoldOurRoutesAndLetGoOfThem(t *testing.T) {
	ask(t, askedRoutes)
	t.Parallel()
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		one, two := "198.51.100.1/32", "198.51.100.0/24"
		if family == "ipv6" {
			one, two = "2001:db8:100::1/128", "2001:db8:100::/64"
		}
		p := j.neighbor(t, family, 65000)
		s := speak(t)
		s.say(p, route(one))
		v := s.established(p.Name)
		if v.Negotiated.PeerAS != j.as() || v.Local.Addr() != p.Source || v.Negotiated.HoldTime != 9*time.Second {
			t.Errorf("%+v", v)
		}
		holds(t, j, p, family, one)
		s.say(p, route(one), route(two))
		holds(t, j, p, family, one, two)
		s.say(p, route(two))
		holds(t, j, p, family, two)
		s.say(p)
		holds(t, j, p, family)
		if v := s.established(p.Name); v.Sent != 0 || v.Counters.Established != 1 {
			t.Errorf("%s %+v", show(v), v.Counters)
		}
	})
}

func TestRoutersSeeOurAttributes(t *testing.T) {
	ask(t, askedAttributes)
	t.Parallel()
	full := bgp.Attributes{
		LocalPref: bgp.Some(200), MED: bgp.Some(50), Prepend: 2, Endpoints: 3,
		Communities: []lb.Community{{A: 65000, B: 100}, lb.NoExport, {Large: true, A: 4200000000, B: 1, C: 2}},
	}
	const internal = 0
	for _, c := range []struct {
		name, session, prefix string
		as, local             uint32
		attributes            bgp.Attributes
		traits                []trait
	}{
		{"external", "ipv4", "198.51.108.1/32", 65000, 0, full, nil},
		{"external6", "ipv6", "2001:db8:108::1/128", 65000, 0, full, nil},
		{"external-4over6", "ipv6", "198.51.108.6/32", 65000, 0, full, []trait{bothFamilies, withIPv6NextHop}},
		{"internal", "ipv4", "198.51.108.2/32", internal, 0, full, nil},
		{"internal6", "ipv6", "2001:db8:108::2/128", internal, 0, full, nil},
		{"plain", "ipv4", "198.51.108.3/32", 4200000000, 0, bgp.Attributes{}, nil},
		{"localas", "ipv4", "198.51.108.4/32", 65009, 65009, bgp.Attributes{Prepend: 1}, nil},
		{"oldrouter", "ipv4", "198.51.108.5/32", 65000, 0, full, []trait{oldRouter}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			byJudges(t, func(t *testing.T, j judge) {
				as, a := c.as, c.attributes
				if as == internal {
					as, a.Prepend = j.as(), 0
				} else {
					a.LocalPref = bgp.Metric{}
				}
				p := j.neighbor(t, c.session, as, c.traits...)
				if c.local != 0 {
					p.MyASN, p.LocalASN = 65000, c.local
				}
				if slices.Contains(c.traits, bothFamilies) {
					p.Families = []lb.Family{lb.IPv4, lb.IPv6}
				}
				s := speak(t)
				s.say(p, route(c.prefix, a))
				s.established(p.Name)
				holds(t, j, p, familyName(c.prefix), c.prefix)
				golden(t, j.name()+"-"+c.name+".json", j.print(t, p, c.prefix))
			})
		})
	}
}

// ours reports whether an address is one of the node's.
func ours(t *testing.T, address netip.Addr) bool {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool { return strings.HasPrefix(a.String(), address.String()+"/") })
}

func TestBothFamiliesRunOverOneSession(t *testing.T) {
	ask(t, askedFamilies)
	t.Parallel()
	byJudges(t, func(t *testing.T, j judge) {
		for _, c := range []struct {
			name, session string
			traits        []trait
		}{
			{"over ipv6", "ipv6", []trait{bothFamilies, withIPv6NextHop}},
			{"over ipv4", "ipv4", []trait{bothFamilies}},
			{"over ipv6 without RFC 8950", "ipv6", []trait{bothFamilies}},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				extended := slices.Contains(c.traits, withIPv6NextHop)
				p := j.neighbor(t, c.session, 65000, c.traits...)
				p.Families = []lb.Family{lb.IPv4, lb.IPv6}
				s := speak(t)
				one, two := "198.51.100.17/32", "2001:db8:100::17/128"
				s.say(p, route(one), route(two))
				if v := s.sends(p.Name, 2); v.Negotiated.ExtendedNextHop != extended {
					t.Errorf("%+v", v)
				}
				holds(t, j, p, "ipv4", one)
				holds(t, j, p, "ipv6", two)
				// The next hop is the session's own where it can be, and always ours.
				for prefix, own := range map[string]bool{one: extended || c.session == "ipv4", two: c.session == "ipv6"} {
					h, _ := j.heard(t, p, prefix)
					if (h.nextHop == p.Source) != own || !ours(t, h.nextHop) {
						t.Errorf("%s: next hop %s on a session from %s", prefix, h.nextHop, p.Source)
					}
				}
				s.say(p)
				holds(t, j, p, "ipv4")
				holds(t, j, p, "ipv6")
			})
		}
	})
}

// What a session does not carry is not said in it. Routers reset sessions for that, some
// at each change of the table.
func TestOnlyAgreedFamiliesAreSaid(t *testing.T) {
	ask(t, askedFewer)
	t.Parallel()
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		own, other := "198.51.115.%d/32", "2001:db8:115::%d/128"
		without := lb.IPv6
		if family == "ipv6" {
			own, other, without = other, own, lb.IPv4
		}
		one := func(n int) bgp.Route { return route(fmt.Sprintf(own, n)) }
		two := func(n int) bgp.Route { return route(fmt.Sprintf(other, n)) }
		p := j.neighbor(t, family, 65000, bothFamilies)
		p.Families = []lb.Family{lb.IPv4, lb.IPv6}
		s := speak(t)
		agree := func(families int) (sessions uint64) {
			t.Helper()
			eventually(t, within, func() (bool, any) {
				v := s.view(p.Name)
				sessions = v.Counters.Established
				return v.State == bgp.Established && len(v.Negotiated.Families) == families && v.Sent == families, show(v)
			})
			return sessions
		}
		s.say(p, one(1), two(1))
		agree(2)
		for _, f := range []string{own, other} {
			holds(t, j, p, familyName(f), fmt.Sprintf(f, 1))
		}
		j.carry(t, p, family)
		sessions := agree(1)
		if v := s.view(p.Name); v.Unsendable[without] != 1 {
			t.Errorf("%s, unsendable %v", show(v), v.Unsendable)
		}
		// The other family's routes come, change and go.
		s.say(p, one(2), two(1), two(2))
		holds(t, j, p, family, fmt.Sprintf(own, 2))
		s.say(p, one(3), route(fmt.Sprintf(other, 2), bgp.Attributes{MED: bgp.Some(7)}))
		holds(t, j, p, family, fmt.Sprintf(own, 3))
		s.say(p, one(4))
		holds(t, j, p, family, fmt.Sprintf(own, 4))
		s.say(p, one(5), two(5))
		holds(t, j, p, family, fmt.Sprintf(own, 5))
		if again := agree(1); again != sessions {
			t.Errorf("%d sessions, want the same %d: %s", again, sessions, j.lastWord(t, p))
		}
		j.carry(t, p, "ipv4", "ipv6")
		agree(2)
		for _, f := range []string{own, other} {
			holds(t, j, p, familyName(f), fmt.Sprintf(f, 5))
		}
	})
}

func TestRouterIsFoundOnItsInterface(t *testing.T) {
	ask(t, askedUnnumbered)
	t.Parallel()
	byJudges(t, func(t *testing.T, j judge) {
		for _, c := range []struct {
			name, password string
			traits         []trait
			hops           int
		}{
			{"plain", "", nil, 0},
			{"signed", "on-the-wire", nil, 0},
			{"guarded", "", []trait{onlyNear}, 1},
		} {
			t.Run(c.name, func(t *testing.T) {
				p := j.unnumbered(t, c.password, c.traits...)
				p.TTLSecurity = c.hops
				s := speak(t)
				s.say(p, route("198.51.107.1/32"), route("2001:db8:107::1/128"))
				v := s.established(p.Name)
				if !v.Local.Addr().IsLinkLocalUnicast() || v.Remote.Addr().Zone() != p.Interface || v.Sent != 2 {
					t.Errorf("%s from %v to %v", show(v), v.Local, v.Remote)
				}
				us := v.Local.Addr().WithZone("")
				for family, prefix := range map[string]string{"ipv4": "198.51.107.1/32", "ipv6": "2001:db8:107::1/128"} {
					holds(t, j, p, family, prefix)
					told(t, j, p, prefix, func(h heard) bool { return h.nextHop == us })
					leads(t, j, prefix, us)
				}
			})
		}
	})
}

// leads waits until a router's kernel sends the traffic of a prefix to just these.
func leads(t *testing.T, j judge, prefix string, to ...netip.Addr) {
	t.Helper()
	var want []string
	for _, a := range to {
		want = append(want, a.String())
	}
	slices.Sort(want)
	eventually(t, within, func() (bool, any) {
		got := j.leads(t, prefix)
		return slices.Equal(got, want), fmt.Sprintf("%s goes to %v, not %v", prefix, got, want)
	})
}

// A VRF is a device that the session's socket is bound to; any device will do for that.
func TestASessionIsBoundToItsDevice(t *testing.T) {
	t.Parallel()
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		prefix := map[string]string{"ipv4": "198.51.120.1/32", "ipv6": "2001:db8:120::1/128"}[family]
		p := j.neighbor(t, family, 65000, onlyNear)
		p.TTLSecurity = 1
		j.sign(t, p, "on-the-device")
		p.Password = lb.NewSecret("on-the-device")
		for _, i := range lab.interfaces(t) {
			if slices.ContainsFunc(i.Addresses, func(a netip.Prefix) bool { return a.Addr() == p.Source }) {
				p.VRF = i.Name
			}
		}
		s := speak(t)
		s.say(p, route(prefix))
		s.established(p.Name)
		holds(t, j, p, family, prefix)
		told(t, j, p, prefix, func(h heard) bool { return h.nextHop == p.Source })
		if p.VRF == "" {
			t.Error("no device has the session's address")
		}
	})
}

func TestPasswordsAreWrongRightRotatedAndLost(t *testing.T) {
	ask(t, askedPasswords)
	t.Parallel()
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		prefix := map[string]string{"ipv4": "198.51.100.33/32", "ipv6": "2001:db8:100::33/128"}[family]
		p := j.neighbor(t, family, 65000)
		s := speak(t)
		unanswered := func(cause bgp.Cause, words string) {
			t.Helper()
			v := s.faults(p.Name, cause)
			// A router that was told of another password may say so before.
			text, _, _ := strings.Cut(v.Fault.Text, "; before that the router says: ")
			if want := fmt.Sprintf(words, netip.AddrPortFrom(p.Address, 179)); text != want {
				t.Errorf("%q, want %q", v.Fault.Text, want)
			}
			if j.up(t, p) {
				t.Errorf("%s, and the session is up", show(v))
			}
		}
		mismatch := func() {
			t.Helper()
			unanswered(bgp.MD5Suspected, "MD5 mismatch suspected: SYN unanswered by %v")
		}
		say := func(password string) {
			t.Helper()
			p.Password = lb.NewSecret(password)
			s.say(p, route(prefix))
		}
		// At one end only.
		say("first-secret")
		mismatch()
		j.sign(t, p, "first-secret")
		say("")
		unanswered(bgp.Unanswered, "SYN unanswered by %v (away, filtered, or it wants a password, or GTSM: ttlSecurity)")
		say("wrong-secret")
		mismatch()
		if v := s.view(p.Name); v.Counters.Established != 0 {
			t.Errorf("with the wrong password: %s", show(v))
		}
		say("first-secret")
		s.established(p.Name)
		holds(t, j, p, family, prefix)
		// Rotated on the router first: the session falls there, and our SYN is
		// not answered.
		j.sign(t, p, "second-secret")
		mismatch()
		say("second-secret")
		s.established(p.Name)
		holds(t, j, p, family, prefix)
		// The Secret is lost: what works goes on, and is not tried again once it
		// falls.
		p.PasswordFault = "Secret tor-password does not exist"
		say("")
		if v := s.view(p.Name); v.State != bgp.Established {
			t.Error(show(v))
		}
		j.reset(t, p)
		if v := s.faults(p.Name, bgp.PasswordMissing); v.Fault.Text != p.PasswordFault {
			t.Error(show(v))
		}
		down(t, j, p)
	})
}

func TestTroubleHasWords(t *testing.T) {
	ask(t, askedTrouble)
	t.Parallel()
	for _, c := range []struct {
		name  string
		spoil func(*lb.BGPPeer)
		cause bgp.Cause
		text  string
	}{
		{"nobody listens", func(p *lb.BGPPeer) { p.Port = 1790 }, bgp.ConnectionRefused, "connection refused by ROUTER:1790"},
		{"another AS than expected", func(p *lb.BGPPeer) { p.PeerASN = 65099 }, bgp.OpenRejected, "bad peer AS ASN, expected 65099"},
		{"not internal", func(p *lb.BGPPeer) { p.Kind, p.PeerASN = lb.PeerInternal, 0 }, bgp.OpenRejected, "bad peer AS ASN, expected our own 65000"},
		{"we are not who is expected", func(p *lb.BGPPeer) { p.MyASN = 64999 }, bgp.Notified, "the router says: OPEN error: bad peer AS"},
		{"no way there", func(p *lb.BGPPeer) { p.Address, p.Source = netip.MustParseAddr("203.0.113.1"), netip.Addr{} }, bgp.Unreachable, "no way to 203.0.113.1:179: network is unreachable"},
		{"a source that is not ours", func(p *lb.BGPPeer) { p.Source = netip.MustParseAddr("203.0.113.7") }, bgp.SourceUnusable, "source address for ROUTER:179: cannot assign requested address"},
		{"a device that is not there", func(p *lb.BGPPeer) { p.VRF = "blue" }, bgp.SourceUnusable, "prepare the connection to ROUTER:179: bind to device blue: no such device"},
		{"shut down", func(p *lb.BGPPeer) { p.Shutdown = true }, bgp.AdminShutdown, "administratively shut down"},
		{"no password", func(p *lb.BGPPeer) { p.PasswordFault = "Secret x has no key password" }, bgp.PasswordMissing, "Secret x has no key password"},
		{"too long a password", func(p *lb.BGPPeer) { p.Password = lb.NewSecret(strings.Repeat("x", 81)) }, bgp.PasswordMissing, "the password has 81 octets, TCP MD5 takes 80"},
		{"a router that is not there", func(p *lb.BGPPeer) { p.Interface, p.Address, p.Source = "lo", netip.Addr{}, netip.Addr{} }, bgp.NoNeighbor, "no router has shown itself on lo"},
		{"no family in common", func(p *lb.BGPPeer) { p.Families = []lb.Family{lb.IPv6} }, bgp.OpenRejected, "no address family in common: ours [ipv6-unicast], the peer's [ipv4-unicast]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			byJudges(t, func(t *testing.T, j judge) {
				p := j.neighbor(t, "ipv4", 65000)
				text := strings.NewReplacer("ROUTER", p.Address.String(), "ASN", fmt.Sprint(j.as())).Replace(c.text)
				c.spoil(&p)
				s := speak(t)
				s.say(p, route("198.51.100.49/32"))
				// The router may say its own trouble first, when both see one.
				// What comes after it is told with it.
				if v := s.faults(p.Name, c.cause); !strings.HasPrefix(v.Fault.Text, text) || v.State == bgp.Established {
					t.Errorf("%s, want %q", show(v), text)
				}
			})
		})
	}
}

// An identifier belongs to one router of an autonomous system; between two it may be
// the same (RFC 6286).
func TestRoutersDoNotShareAnIdentifierWithin(t *testing.T) {
	ask(t, askedIdentifier)
	t.Parallel()
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		prefix := map[string]string{"ipv4": "198.51.118.1/32", "ipv6": "2001:db8:118::1/128"}[family]
		id := j.neighbor(t, "ipv4", j.as()).Address // each has that of its wire
		for _, as := range []uint32{65000, j.as()} {
			t.Run(fmt.Sprint(as), func(t *testing.T) {
				t.Parallel()
				p := j.neighbor(t, family, as)
				s := speak(t)
				s.Set([]bgp.Session{{Peer: p, RouterID: id, Routes: []bgp.Route{route(prefix)}, Interfaces: bgp.HostInterfaces(s.world, "a", lab.interfaces(t))}})
				if as != j.as() {
					s.established(p.Name)
					holds(t, j, p, family, prefix)
					return
				}
				ours, theirs := fmt.Sprintf("the peer has our own router ID %v", id), "the router says: OPEN error: bad BGP identifier"
				eventually(t, within, func() (bool, any) {
					v := s.view(p.Name)
					return v.Fault != nil && (strings.HasPrefix(v.Fault.Text, ours) || strings.HasPrefix(v.Fault.Text, theirs)), show(v)
				})
				if v := s.view(p.Name); v.Counters.Established > 0 {
					t.Errorf("%s %+v", show(v), v.Counters)
				}
			})
		}
	})
}

// A router that is reached by both families has two sessions, each with families of its
// own. What happens to one is nothing to the other.
func TestOneRouterHasTwoSessions(t *testing.T) {
	ask(t, askedTwice)
	t.Parallel()
	byJudges(t, func(t *testing.T, j judge) {
		const one, two = "198.51.119.1/32", "2001:db8:119::1/128"
		four, six := j.neighbor(t, "ipv4", 65000), j.neighbor(t, "ipv6", 65000, bothFamilies)
		six.Families = []lb.Family{lb.IPv4, lb.IPv6}
		s := speak(t)
		s.sayToo(four, route(one))
		s.sayToo(six, route(one), route(two))
		for _, p := range []lb.BGPPeer{four, six} {
			s.established(p.Name)
			holds(t, j, p, "ipv4", one)
			told(t, j, p, one, func(h heard) bool { return ours(t, h.nextHop) })
		}
		holds(t, j, four, "ipv6")
		holds(t, j, six, "ipv6", two)
		j.reset(t, six)
		s.establishedTimes(six.Name, 2)
		holds(t, j, six, "ipv6", two)
		s.sayToo(six, route(two))
		holds(t, j, six, "ipv4")
		holds(t, j, four, "ipv4", one)
		if v := s.view(four.Name); v.Counters.Established != 1 || v.Sent != 1 {
			t.Errorf("%s %+v", show(v), v.Counters)
		}
	})
}

func TestRouterThatHasEnoughRoutesSaysSo(t *testing.T) {
	ask(t, askedFull)
	t.Parallel()
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		host := map[string]string{"ipv4": "198.51.117.%d/32", "ipv6": "2001:db8:117::%d/128"}[family]
		p := j.neighbor(t, family, 65000, twoRoutes)
		s := speak(t)
		s.say(p, route(fmt.Sprintf(host, 1)), route(fmt.Sprintf(host, 2)))
		s.established(p.Name)
		holds(t, j, p, family, fmt.Sprintf(host, 1), fmt.Sprintf(host, 2))
		var more []bgp.Route // FRR counts a route after it has looked whether it is one too many
		for i := range 6 {
			more = append(more, route(fmt.Sprintf(host, i+1)))
		}
		s.say(p, more...)
		want := "the router says: cease: maximum number of prefixes reached"
		if j.name() == "frr" { // the others say no number
			want += ": 2 of " + family + "-unicast"
		}
		if v := s.faults(p.Name, bgp.Notified); v.Fault.Text != want {
			t.Errorf("%s, want %q", show(v), want)
		}
		// It takes no connection until somebody tells it to.
		eventually(t, within, func() (bool, any) {
			v := s.view(p.Name)
			return !v.Retry.IsZero(), show(v)
		})
		if v := s.view(p.Name); !strings.Contains(v.Fault.Text, want) {
			t.Errorf("%s, want %q", show(v), want)
		}
	})
}

func TestPeersAreFoundByRelation(t *testing.T) {
	ask(t, askedRelation)
	t.Parallel()
	byJudges(t, func(t *testing.T, j judge) {
		for kind, as := range map[lb.PeerKind]uint32{lb.PeerExternal: 65000, lb.PeerInternal: j.as()} {
			t.Run(fmt.Sprint(as), func(t *testing.T) {
				t.Parallel()
				p := j.neighbor(t, "ipv6", as)
				p.Kind, p.PeerASN = kind, 0
				s := speak(t)
				s.say(p, route("2001:db8:100::65/128"))
				if v := s.established(p.Name); v.Negotiated.PeerAS != j.as() || v.Negotiated.Internal != (kind == lb.PeerInternal) {
					t.Errorf("%+v", v.Negotiated)
				}
				holds(t, j, p, "ipv6", "2001:db8:100::65/128")
			})
		}
	})
}

func TestRolesFitOrAreRefused(t *testing.T) {
	ask(t, askedRoles)
	t.Parallel()
	const refused = "the router says: OPEN error: role mismatch"
	for _, c := range []struct {
		// name begins with "strict-" where we refuse a router that tells no role.
		name    string
		ours    lb.Role
		theirs  []trait
		session string
		prefix  string
		// marked is whether the route is for the router's customers only.
		marked bool
		// trouble is why there is no session, in the router's words and in ours: who
		// speaks first is not decided.
		trouble []string
	}{
		{"customer-of-provider", lb.RoleCustomer, []trait{provider}, "ipv4", "198.51.116.1/32", false, nil},
		{"provider-of-customer", lb.RoleProvider, []trait{customer}, "ipv4", "198.51.116.2/32", true, nil},
		{"peer-of-peer", lb.RolePeer, []trait{peer}, "ipv6", "2001:db8:116::3/128", true, nil},
		{"client-of-route-server", lb.RoleRSClient, []trait{routeServer}, "ipv6", "2001:db8:116::4/128", false, nil},
		{"provider-of-unknown", lb.RoleProvider, nil, "ipv6", "2001:db8:116::5/128", true, nil},
		{"unknown-of-provider", lb.NoRole, []trait{provider}, "ipv4", "198.51.116.6/32", false, nil},
		{"customer-of-strict-provider", lb.RoleCustomer, []trait{rolesRequired}, "ipv4", "198.51.116.7/32", false, nil},
		{"unknown-of-strict-provider", lb.NoRole, []trait{rolesRequired}, "ipv4", "198.51.116.8/32", false, []string{refused}},
		{"customer-of-peer", lb.RoleCustomer, []trait{peer}, "ipv6", "2001:db8:116::9/128", false, []string{
			refused, "role mismatch: role is customer here, the router says that it is peer; a provider faces a customer, an rs an rs-client, a peer a peer",
		}},
		{"strict-customer-of-provider", lb.RoleCustomer, []trait{provider}, "ipv6", "2001:db8:116::a/128", false, nil},
		{"strict-customer-of-unknown", lb.RoleCustomer, nil, "ipv6", "2001:db8:116::b/128", false, []string{
			"role mismatch: the router tells no role, and requireRole is set; role is customer here",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			byJudges(t, func(t *testing.T, j judge) {
				p := j.neighbor(t, c.session, 65000, c.theirs...)
				p.Role, p.RequireRole = c.ours, strings.HasPrefix(c.name, "strict-")
				s := speak(t)
				s.say(p, route(c.prefix))
				if len(c.trouble) > 0 {
					eventually(t, within, func() (bool, any) {
						v := s.view(p.Name)
						return v.Fault != nil && slices.Contains(c.trouble, v.Fault.Text), show(v)
					})
					if v := s.view(p.Name); v.Counters.Established > 0 {
						t.Errorf("%s %+v", show(v), v.Counters)
					}
					return
				}
				s.established(p.Name)
				holds(t, j, p, familyName(c.prefix), c.prefix)
				seen := strings.ToLower(fmt.Sprint(j.print(t, p, c.prefix)))
				if strings.Contains(seen, "otc") != c.marked {
					t.Errorf("%s, want it marked: %v", seen, c.marked)
				}
			})
		})
	}
}

func TestDistanceIsGuarded(t *testing.T) {
	ask(t, askedDistance)
	t.Parallel()
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		prefix := map[string]string{"ipv4": "198.51.100.81/32", "ipv6": "2001:db8:100::81/128"}[family]
		for _, c := range []struct {
			name   string
			traits []trait
			ours   func(*lb.BGPPeer)
			// words are why the session does not come, or does not stay.
			words string
		}{
			{"security on both", []trait{onlyNear}, func(p *lb.BGPPeer) { p.TTLSecurity = 1 }, ""},
			{"multihop on both", []trait{farAway}, func(p *lb.BGPPeer) { p.EBGPMultiHop = true }, ""},
			{
				// The router's packets come with a TTL of 1, and the kernel drops them.
				"security on our side only", nil, func(p *lb.BGPPeer) { p.TTLSecurity = 1 },
				"the router's packets arrive with TTL 1; ttlSecurity 1 expects 255: turn on GTSM (ttl-security) on the router, or leave ttlSecurity out",
			},
			{
				// It is the router's kernel that drops what we say; a router that is slow
				// to tell its kernel so has the session first.
				"security on the router only",
				[]trait{onlyNear},
				func(*lb.BGPPeer) {},
				"the router acknowledges nothing that it is sent; if it demands GTSM (ttl-security), set ttlSecurity",
			},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				p := j.neighbor(t, family, 65000, c.traits...)
				c.ours(&p)
				s := speak(t)
				s.say(p, route(prefix))
				if c.words == "" {
					s.established(p.Name)
					holds(t, j, p, family, prefix)
					return
				}
				eventually(t, within, func() (bool, any) {
					v := s.view(p.Name)
					return v.Fault != nil && strings.Contains(v.Fault.Text, c.words), show(v)
				})
			})
		}
	})
}

func TestTheNodeWithTheHigherLocalPreferenceGetsTheTraffic(t *testing.T) {
	ask(t, askedPreference)
	t.Parallel()
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		prefix := map[string]string{"ipv4": "198.51.111.1/32", "ipv6": "2001:db8:111::1/128"}[family]
		a, b := j.neighbor(t, family, j.as()), j.neighbor(t, family, j.as())
		one, two := speak(t), speak(t)
		prefer := func(preference uint32) bgp.Route {
			return route(prefix, bgp.Attributes{LocalPref: bgp.Some(preference)})
		}
		one.say(a, prefer(100))
		two.say(b, prefer(200))
		holds(t, j, a, family, prefix)
		holds(t, j, b, family, prefix)
		leads(t, j, prefix, b.Source)
		one.say(a, prefer(300))
		leads(t, j, prefix, a.Source)
		// Without the better one there is still the other.
		one.say(a)
		leads(t, j, prefix, b.Source)
		one.say(a, prefer(300))
		leads(t, j, prefix, a.Source)
		for p, want := range map[*lb.BGPPeer]uint32{&a: 300, &b: 200} {
			told(t, j, *p, prefix, func(h heard) bool { return h.localPref == bgp.Some(want) && h.nextHop == p.Source })
		}
	})
}

func TestAnAggregateStaysAsLongAsAnythingUnderIt(t *testing.T) {
	ask(t, askedAggregates)
	t.Parallel()
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		p := j.neighbor(t, family, 65000)
		addresses := []string{"198.51.112.9", "198.51.112.10", "198.51.112.77"}
		near, far, single := "198.51.112.8/29", "198.51.112.72/29", "198.51.112.10/32"
		if family == "ipv6" {
			addresses = []string{"2001:db8:112::9", "2001:db8:112::a", "2001:db8:112:1::77"}
			near, far, single = "2001:db8:112::/64", "2001:db8:112:1::/64", "2001:db8:112::a/128"
		}
		snapshot := lb.Snapshot{
			Pools:             []lb.Pool{lbtest.Everything()},
			Nodes:             []lb.Node{{Name: "a"}},
			BGPPeers:          []lb.BGPPeer{p},
			BGPAdvertisements: []lb.BGPAdvertisement{{Name: "all", AggregationLength: 29, AggregationLengthV6: 64}},
		}
		for i, a := range addresses {
			snapshot.Services = append(snapshot.Services, lb.Service{
				Key: lb.ServiceKey{Namespace: "web", Name: fmt.Sprint(i)}, Assigned: []netip.Addr{netip.MustParseAddr(a)},
				Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{"a": {Ready: 1}}, IPv6: lb.NodeEndpoints{"a": {Ready: 1}}},
			})
		}
		s := speak(t)
		say := func(services []lb.Service, ads ...lb.BGPAdvertisement) {
			world := snapshot
			world.Services, world.BGPAdvertisements = services, append(world.BGPAdvertisements, ads...)
			s.Set(bgp.Decide(world, "a", bgp.Options{}).Sessions)
		}
		all := snapshot.Services
		say(all)
		s.established(p.Name)
		holds(t, j, p, family, near, far)
		// An address may be told of beside its aggregate.
		say(all, lb.BGPAdvertisement{Name: "single", Scope: lb.Scope{ServiceSelectors: []lb.Selector{{}}}, AggregationLength: 32, AggregationLengthV6: 128})
		holds(t, j, p, family, slices.Concat([]string{near, far}, each(addresses))...)
		say(all)
		holds(t, j, p, family, near, far)
		before := s.view(p.Name).Counters.UpdatesOut
		say(slices.Concat(all[:1], all[2:])) // one of the two of near goes
		say(all[:1])                         // and the one of far
		holds(t, j, p, family, near)
		if now := s.view(p.Name).Counters.UpdatesOut; now != before+1 {
			t.Errorf("%d updates for the end of one aggregate", now-before)
		}
		if slices.Contains(j.prefixes(t, p, family), single) {
			t.Errorf("it has %s", single)
		}
		say(nil)
		holds(t, j, p, family)
	})
}

// each returns the prefix of each address.
func each(addresses []string) (all []string) {
	for _, a := range addresses {
		address := netip.MustParseAddr(a)
		all = append(all, netip.PrefixFrom(address, address.BitLen()).String())
	}
	return all
}

func TestResetByTheRouterIsMended(t *testing.T) {
	ask(t, askedResets)
	t.Parallel()
	byJudgesAndFamilies(t, func(t *testing.T, j judge, family string) {
		host, net := "198.51.113.%d/32", "198.51.114.0/24"
		if family == "ipv6" {
			host, net = "2001:db8:100::%x/128", "2001:db8:101::/64"
		}
		p := j.neighbor(t, family, 65000)
		s := speak(t)
		s.say(p, route(fmt.Sprintf(host, 97)), route(net))
		s.established(p.Name)
		holds(t, j, p, family, fmt.Sprintf(host, 97), net)
		// The world goes on while the session is down.
		for i := range 3 {
			j.reset(t, p)
			want := fmt.Sprintf(host, i+1)
			s.say(p, route(want))
			s.establishedTimes(p.Name, uint64(i+2))
			holds(t, j, p, family, want)
		}
		v := s.view(p.Name)
		if v.Counters.Flaps != 3 || v.Fault == nil || !strings.HasPrefix(v.Fault.Text, "the router says: cease: administrative reset") {
			t.Errorf("%s %+v", show(v), v.Counters)
		}
		// A table on request, without a reset.
		before := v.Counters.UpdatesOut
		j.refresh(t, p, family)
		eventually(t, within, func() (bool, any) {
			v := s.view(p.Name)
			return v.Counters.UpdatesOut > before, v.Counters
		})
		holds(t, j, p, family, fmt.Sprintf(host, 3))
		if got := s.view(p.Name).Counters.Established; got != 4 {
			t.Errorf("established %d times", got)
		}
	})
}

func TestRouterThatFallsSilentIsGivenUp(t *testing.T) {
	ask(t, askedSilence)
	byJudges(t, func(t *testing.T, j judge) {
		p := j.neighbor(t, "ipv4", 65000)
		p.HoldTime = 3 * time.Second
		s := speak(t)
		s.say(p, route("198.51.100.113/32"))
		s.established(p.Name)
		silenced(t, j, func() { s.faults(p.Name, bgp.HoldTimerExpired) })
		s.established(p.Name)
		holds(t, j, p, "ipv4", "198.51.100.113/32")
	})
}

func TestTenThousandPrefixesArriveComplete(t *testing.T) {
	ask(t, askedTables)
	var routes []bgp.Route
	var prefixes []string
	for i := range 10000 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32)
		routes, prefixes = append(routes, bgp.Route{Prefix: prefix}), append(prefixes, prefix.String())
	}
	slices.Sort(prefixes)
	byJudges(t, func(t *testing.T, j judge) {
		p := j.neighbor(t, "ipv4", 65000)
		s := speak(t)
		has := func(n int) time.Duration {
			t.Helper()
			start := time.Now()
			eventually(t, 2*within, func() (bool, any) { got := j.count(t, p, "ipv4"); return got == n, got })
			return time.Since(start)
		}
		s.say(p, routes...)
		cold := has(len(routes))
		j.reset(t, p)
		s.establishedTimes(p.Name, 2)
		again := has(len(routes))
		if v := s.view(p.Name); v.Sent != len(routes) {
			t.Error(show(v))
		}
		got := j.prefixes(t, p, "ipv4")
		slices.Sort(got)
		if !slices.Equal(got, prefixes) {
			t.Errorf("it has %d other prefixes", len(got))
		}
		s.say(p)
		t.Logf("10,000 prefixes: cold %v, after a reset %v, withdrawn %v", cold, again, has(0))
	})
}

// It counts what the process has, so that nothing may run beside it.
func TestAStormOfFlapsEndsWithFullTablesAndNothingLeftBehind(t *testing.T) {
	type end struct {
		judge
		family string
		lb.BGPPeer
	}
	var ends []end
	for _, router := range judges {
		t.Run(router.name, func(inner *testing.T) {
			j := router.need(inner)
			for _, family := range []string{"ipv4", "ipv6"} {
				p := j.neighbor(t, family, 65000)
				p.ConnectTime = 100 * time.Millisecond
				ends = append(ends, end{j, family, p})
			}
		})
	}
	if len(ends) == 0 {
		t.Skip("SKIPPED, there is no router")
	}
	s := speak(t)
	storm := func(from, to int) {
		t.Helper()
		for n := from; n <= to; n++ {
			for _, e := range ends {
				if n > 1 {
					e.reset(t, e.BGPPeer)
				}
				s.sayToo(e.BGPPeer, stormRoutes(e.family, n)...)
			}
			for _, e := range ends {
				s.establishedTimes(e.Name, uint64(n))
			}
		}
	}
	measure := func() (goroutines int, heap uint64) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc
	}
	storm(1, 4)
	goroutines, heap := measure()
	storm(5, 12)
	for _, e := range ends {
		var want []string
		for _, r := range stormRoutes(e.family, 12) {
			want = append(want, r.Prefix.String())
		}
		holds(t, e.judge, e.BGPPeer, e.family, want...)
	}
	// A thread for each session that was lost, or its table of a thousand routes,
	// would be far more.
	eventually(t, within, func() (bool, any) {
		g, h := measure()
		return g <= goroutines+10 && h <= heap+4<<20, fmt.Sprintf("%d goroutines and %d kB, before %d and %d kB", g, h>>10, goroutines, heap>>10)
	})
}

// stormRoutes are a thousand, among them some that are said in this round only.
func stormRoutes(family string, round int) (routes []bgp.Route) {
	for i := range 1000 {
		n := i
		if i%100 == 0 {
			n += 1000 * round
		}
		address := netip.AddrFrom4([4]byte{198, 19, byte(n >> 8), byte(n)})
		if family == "ipv6" {
			address = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 1, 0x19, 14: byte(n >> 8), 15: byte(n)})
		}
		routes = append(routes, bgp.Route{Prefix: netip.PrefixFrom(address, address.BitLen())})
	}
	slices.SortFunc(routes, func(a, b bgp.Route) int { return bgp.ComparePrefix(a.Prefix, b.Prefix) })
	return routes
}
