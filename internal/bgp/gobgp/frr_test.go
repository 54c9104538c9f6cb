package gobgp

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
)

// holds waits until FRR has these prefixes of a neighbor and no others.
func (f *frr) holds(t *testing.T, family string, source netip.Addr, prefixes ...string) {
	t.Helper()
	eventually(t, 10*time.Second, func() (bool, any) {
		r := f.routes(t, family, source)
		ok := len(r) == len(prefixes)
		for _, p := range prefixes {
			ok = ok && r[p] != nil
		}
		return ok, r
	})
}

// stable drops from what FRR prints what is different each time.
func stable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range []string{"lastUpdate", "version", "tableVersion", "advertisedTo", "peer", "bestpath", "valid", "sourced", "processScheduled"} {
			delete(v, k)
		}
		for k, e := range v {
			v[k] = stable(e)
		}
	case []any:
		for i, e := range v {
			v[i] = stable(e)
		}
	}
	return v
}

// golden compares with a file of testdata, which -rewrite writes.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	js, err := json.MarshalIndent(stable(v), "", "  ")
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

func TestFRRHoldsOurRoutesAndLetsGoOfThem(t *testing.T) {
	t.Parallel()
	f := needFRR(t)
	for _, c := range []struct{ name, family, one, two string }{
		{"ipv4", "ipv4", "198.51.100.1/32", "198.51.100.0/24"},
		{"ipv6", "ipv6", "2001:db8:100::1/128", "2001:db8:100::/64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			source := f.source(c.name)
			p := f.neighbor(t, source, 65000)
			s := speak(t)
			s.say(p, route(c.one))
			v := s.established(p.Name)
			if v.Negotiated.PeerAS != frrAS || v.Local.Addr() != source || v.Negotiated.HoldTime != 9*time.Second {
				t.Errorf("%+v", v)
			}
			f.holds(t, c.family, source, c.one)
			s.say(p, route(c.one), route(c.two))
			f.holds(t, c.family, source, c.one, c.two)
			s.say(p, route(c.two))
			f.holds(t, c.family, source, c.two)
			s.say(p)
			f.holds(t, c.family, source)
			if v := s.view(p.Name); v.Sent != 0 || v.State != bgp.Established {
				t.Error(show(v))
			}
		})
	}
}

// ours reports whether an address is one of the node's.
func ours(t *testing.T, address string) bool {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if strings.HasPrefix(a.String(), address+"/") {
			return true
		}
	}
	return false
}

func TestFRRSeesOurAttributes(t *testing.T) {
	t.Parallel()
	f := needFRR(t)
	full := bgp.Attributes{
		LocalPref: bgp.Some(200), MED: bgp.Some(50), Prepend: 2, Endpoints: 3,
		Communities: []lb.Community{{A: 65000, B: 100}, lb.NoExport, {Large: true, A: 4200000000, B: 1, C: 2}},
	}
	for _, c := range []struct {
		name, family, prefix string
		as, local            uint32
		attributes           bgp.Attributes
		frr                  []string
	}{
		{"external", "ipv4", "198.51.108.1/32", 65000, 0, full, nil},
		{"external6", "ipv6", "2001:db8:108::1/128", 65000, 0, full, nil},
		{"internal", "ipv4", "198.51.108.2/32", frrAS, 0, full, nil},
		{"internal6", "ipv6", "2001:db8:108::2/128", frrAS, 0, full, nil},
		{"plain", "ipv4", "198.51.108.3/32", 4200000000, 0, bgp.Attributes{}, nil},
		{"localas", "ipv4", "198.51.108.4/32", 65009, 65009, bgp.Attributes{Prepend: 1}, nil},
		{"oldrouter", "ipv4", "198.51.108.5/32", 65000, 0, full, []string{"NEIGHBOR capability-never"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.frr != nil {
				c.frr = []string{"NEIGHBOR dont-capability-negotiate"}
			}
			source := f.source(c.family)
			p := f.neighbor(t, source, c.as, c.frr...)
			if c.local != 0 {
				p.MyASN, p.LocalASN = 65000, c.local
			}
			if c.as == frrAS {
				c.attributes.Prepend = 0
			} else {
				c.attributes.LocalPref = bgp.Metric{}
			}
			s := speak(t)
			s.say(p, route(c.prefix, c.attributes))
			s.established(p.Name)
			f.holds(t, c.family, source, c.prefix)
			out := f.show(t, "show bgp "+c.family+" unicast "+c.prefix)
			js, _ := json.Marshal(out)
			js = []byte(strings.NewReplacer(source.String(), "OURS").Replace(string(js)))
			_ = json.Unmarshal(js, &out)
			golden(t, "frr-"+c.name+".json", out)
		})
	}
}

func TestIPv4RunsOverIPv6AndTheOtherWayRound(t *testing.T) {
	t.Parallel()
	f := needFRR(t)
	for _, c := range []struct {
		name, session string
		activate      []string
	}{
		{"both over ipv6", "ipv6", []string{"address-family ipv4 unicast", "NEIGHBOR activate", "NEIGHBOR soft-reconfiguration inbound", "exit-address-family"}},
		{"both over ipv4", "ipv4", []string{"address-family ipv6 unicast", "NEIGHBOR activate", "NEIGHBOR soft-reconfiguration inbound", "exit-address-family"}},
		{"ipv4 over ipv6 without RFC 8950", "ipv6", []string{"NEIGHBOR disable-connected-check", "address-family ipv4 unicast", "NEIGHBOR activate", "NEIGHBOR soft-reconfiguration inbound", "exit-address-family"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			source := f.source(c.session)
			lines := c.activate
			extended := c.session == "ipv6" && !strings.Contains(c.name, "without")
			if extended {
				lines = append([]string{"NEIGHBOR capability extended-nexthop"}, lines...)
			} else if c.session == "ipv6" {
				lines = append([]string{"no NEIGHBOR capability extended-nexthop"}, lines...)
			}
			p := f.neighbor(t, source, 65000, lines...)
			p.Families = []lb.Family{lb.IPv4, lb.IPv6}
			s := speak(t)
			one, two := "198.51.100.17/32", "2001:db8:100::17/128"
			s.say(p, route(one), route(two))
			v := s.established(p.Name)
			if v.Routes != 2 || len(v.Unsendable) != 0 || v.Negotiated.ExtendedNextHop != extended {
				t.Errorf("%+v", v)
			}
			f.holds(t, "ipv4", source, one)
			f.holds(t, "ipv6", source, two)
			// The next hop is the session's own where it can be, and always ours.
			for family, own := range map[string]bool{"ipv4": extended || c.session == "ipv4", "ipv6": c.session == "ipv6"} {
				js, _ := json.Marshal(f.routes(t, family, source))
				hop := regexp.MustCompile(`"ip":"([^"]+)"`).FindStringSubmatch(string(js))
				if hop == nil {
					t.Fatalf("%s: %s", family, js)
				}
				if (hop[1] == source.String()) != own || !ours(t, hop[1]) {
					t.Errorf("%s: next hop %s on a session from %s", family, hop[1], source)
				}
			}
			s.say(p)
			f.holds(t, "ipv4", source)
			f.holds(t, "ipv6", source)
		})
	}
}

func TestRouterIsFoundOnItsInterface(t *testing.T) {
	t.Parallel()
	f := needFRR(t)
	for _, c := range []struct {
		name     string
		password string
	}{{"plain", ""}, {"signed", "on-the-wire"}} {
		t.Run(c.name, func(t *testing.T) {
			conf := []string{"neighbor rtr4 interface remote-as 65000", "neighbor rtr4 timers 3 9", "neighbor rtr4 timers connect 1"}
			if c.password != "" {
				conf = append(conf, "neighbor rtr4 password "+c.password)
			}
			f.configure(t, append(conf,
				"address-family ipv4 unicast", "neighbor rtr4 activate", "neighbor rtr4 soft-reconfiguration inbound", "exit-address-family",
				"address-family ipv6 unicast", "neighbor rtr4 activate", "neighbor rtr4 soft-reconfiguration inbound")...)
			t.Cleanup(func() { f.configure(t, "no neighbor rtr4 interface remote-as 65000") })
			s := speak(t)
			p := lb.BGPPeer{
				Name: "unnumbered", MyASN: 65000, PeerASN: frrAS, Interface: "node4", HoldTime: 9 * time.Second,
				ConnectTime: time.Second, Password: lb.NewSecret(c.password),
			}
			s.say(p, route("198.51.107.1/32"), route("2001:db8:107::1/128"))
			v := s.established(p.Name)
			if !v.Local.Addr().IsLinkLocalUnicast() || v.Remote.Addr().Zone() != "node4" || v.Sent != 2 {
				t.Errorf("%s from %v to %v", show(v), v.Local, v.Remote)
			}
			for family, prefix := range map[string]string{"ipv4": "198.51.107.1/32", "ipv6": "2001:db8:107::1/128"} {
				eventually(t, 5*time.Second, func() (bool, any) {
					out := f.show(t, "show bgp "+family+" unicast "+prefix)
					js, _ := json.Marshal(out)
					return strings.Contains(string(js), `"ip":"`+v.Local.Addr().WithZone("").String()+`"`) && strings.Contains(string(js), `"accessible":true`), out
				})
				eventually(t, 5*time.Second, func() (bool, any) { return installed(f.ns, prefix), "not in the router's kernel" })
			}
		})
	}
}

func TestPasswordsAreRightWrongAndRotated(t *testing.T) {
	t.Parallel()
	f := needFRR(t)
	for _, family := range []string{"ipv4", "ipv6"} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			source := f.source(family)
			prefix := map[string]string{"ipv4": "198.51.100.33/32", "ipv6": "2001:db8:100::33/128"}[family]
			p := f.neighbor(t, source, 65000, "NEIGHBOR password first-secret")
			p.Password = lb.NewSecret("first-secret")
			s := speak(t)
			s.say(p, route(prefix))
			s.established(p.Name)
			f.holds(t, family, source, prefix)
			// Rotated on the router first: the session falls there, and our SYN
			// is not answered.
			f.configure(t, "neighbor "+source.String()+" password second-secret")
			v := s.faults(p.Name, bgp.MD5Suspected)
			if want := "MD5 mismatch suspected: SYN unanswered by"; !strings.HasPrefix(v.Fault.Text, want) {
				t.Errorf("%q", v.Fault.Text)
			}
			p.Password = lb.NewSecret("second-secret")
			s.say(p, route(prefix))
			s.established(p.Name)
			f.holds(t, family, source, prefix)
			// The Secret is lost: what works goes on, and is not tried again
			// once it falls.
			p.PasswordFault, p.Password = "Secret tor-password does not exist", lb.Secret{}
			s.say(p, route(prefix))
			up := f.state(t, source)["connectionsEstablished"]
			if v := s.view(p.Name); v.State != bgp.Established {
				t.Error(show(v))
			}
			f.configure(t, "neighbor "+source.String()+" shutdown")
			if v := s.faults(p.Name, bgp.PasswordMissing); v.Fault.Text != p.PasswordFault {
				t.Error(show(v))
			}
			if now := f.state(t, source)["connectionsEstablished"]; now != up {
				t.Errorf("established %v times, was %v", now, up)
			}
		})
	}
}

func TestTroubleHasWords(t *testing.T) {
	t.Parallel()
	f := needFRR(t)
	for _, c := range []struct {
		name  string
		spoil func(*lb.BGPPeer)
		cause bgp.Cause
		text  string
	}{
		{"nobody listens", func(p *lb.BGPPeer) { p.Port = 1790 }, bgp.ConnectionRefused, "connection refused by 192.0.2.1:1790"},
		{"another AS than expected", func(p *lb.BGPPeer) { p.PeerASN = 65002 }, bgp.OpenRejected, "bad peer AS 65001, expected 65002"},
		{"not internal", func(p *lb.BGPPeer) { p.Kind, p.PeerASN = lb.PeerInternal, 0 }, bgp.OpenRejected, "bad peer AS 65001, expected our own 65000"},
		{"we are not who is expected", func(p *lb.BGPPeer) { p.MyASN = 64999 }, bgp.Notified, "the router says: OPEN error: bad peer AS"},
		{"no way there", func(p *lb.BGPPeer) { p.Address, p.Source = netip.MustParseAddr("203.0.113.1"), netip.Addr{} }, bgp.Unreachable, "no way to 203.0.113.1:179: network is unreachable"},
		{"a source that is not ours", func(p *lb.BGPPeer) { p.Source = netip.MustParseAddr("203.0.113.7") }, bgp.SourceUnusable, "source address for 192.0.2.1:179: cannot assign requested address"},
		{"a device that is not there", func(p *lb.BGPPeer) { p.VRF = "blue" }, bgp.SourceUnusable, "prepare the connection to 192.0.2.1:179: bind to device blue: no such device"},
		{"shut down", func(p *lb.BGPPeer) { p.Shutdown = true }, bgp.AdminShutdown, "administratively shut down"},
		{"no password", func(p *lb.BGPPeer) { p.PasswordFault = "Secret x has no key password" }, bgp.PasswordMissing, "Secret x has no key password"},
		{"too long a password", func(p *lb.BGPPeer) { p.Password = lb.NewSecret(strings.Repeat("x", 81)) }, bgp.PasswordMissing, "the password has 81 octets, TCP MD5 takes 80"},
		{"a router that is not there", func(p *lb.BGPPeer) { p.Interface, p.Address, p.Source = "lo", netip.Addr{}, netip.Addr{} }, bgp.NoNeighbor, "no router has shown itself on lo"},
		{"no family in common", func(p *lb.BGPPeer) { p.Families = []lb.Family{lb.IPv6} }, bgp.OpenRejected, "no address family in common: ours [ipv6-unicast], the peer's [ipv4-unicast]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := f.neighbor(t, f.source("ipv4"), 65000)
			c.spoil(&p)
			s := speak(t)
			s.say(p, route("198.51.100.49/32"))
			// FRR may say its own trouble first, when both see one.
			if v := s.faults(p.Name, c.cause); v.Fault.Text != c.text || v.State == bgp.Established {
				t.Errorf("%s, want %q", show(v), c.text)
			}
		})
	}
}

func TestPeersAreFoundByRelation(t *testing.T) {
	t.Parallel()
	f := needFRR(t)
	for _, c := range []struct {
		name string
		as   uint32
		kind lb.PeerKind
	}{
		{"external", 65000, lb.PeerExternal},
		{"internal", frrAS, lb.PeerInternal},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			source := f.source("ipv6")
			p := f.neighbor(t, source, c.as)
			p.Kind, p.PeerASN = c.kind, 0
			s := speak(t)
			s.say(p, route("2001:db8:100::65/128"))
			if v := s.established(p.Name); v.Negotiated.PeerAS != frrAS || v.Negotiated.Internal != (c.kind == lb.PeerInternal) {
				t.Errorf("%+v", v.Negotiated)
			}
			f.holds(t, "ipv6", source, "2001:db8:100::65/128")
		})
	}
}

func TestDistanceIsGuarded(t *testing.T) {
	f := needFRR(t)
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, c := range []struct {
			name  string
			frr   string
			ours  func(*lb.BGPPeer)
			comes bool
		}{
			{"security on both", "NEIGHBOR ttl-security hops 1", func(p *lb.BGPPeer) { p.TTLSecurity = 1 }, true},
			{"security on our side only", "NEIGHBOR description x", func(p *lb.BGPPeer) { p.TTLSecurity = 1 }, false},
			{"multihop on both", "NEIGHBOR ebgp-multihop 5", func(p *lb.BGPPeer) { p.EBGPMultiHop = true }, true},
		} {
			t.Run(family+" "+c.name, func(t *testing.T) {
				t.Parallel()
				source := f.source(family)
				p := f.neighbor(t, source, 65000, c.frr)
				c.ours(&p)
				prefix := map[string]string{"ipv4": "198.51.100.81/32", "ipv6": "2001:db8:100::81/128"}[family]
				s := speak(t)
				s.say(p, route(prefix))
				if c.comes {
					s.established(p.Name)
					f.holds(t, family, source, prefix)
					return
				}
				// FRR's packets come with a TTL of 1, and the kernel drops them.
				before := minTTLDrops(t)
				eventually(t, 10*time.Second, func() (bool, any) {
					now, v := minTTLDrops(t), s.view(p.Name)
					return now > before && v.State == bgp.OpenSent, fmt.Sprintf("%d drops, %s", now, show(v))
				})
				if v := s.view(p.Name); v.Counters.MessagesIn != 0 || v.Counters.Established != 0 {
					t.Errorf("%s %+v", show(v), v.Counters)
				}
			})
		}
	}
}

// minTTLDrops returns how many segments the kernel has dropped because their
// TTL was less than a socket wants.
func minTTLDrops(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/net/netstat")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i, field := range strings.Fields(lines[0]) {
		if field == "TCPMinTTLDrop" {
			n, err := strconv.Atoi(strings.Fields(lines[1])[i])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Skip("SKIPPED, this kernel does not count what it drops for its TTL")
	return 0
}

func TestResetByTheRouterIsMended(t *testing.T) {
	t.Parallel()
	f := needFRR(t)
	source := f.source("ipv6")
	p := f.neighbor(t, source, 65000)
	s := speak(t)
	s.say(p, route("2001:db8:100::97/128"), route("2001:db8:101::/64"))
	s.established(p.Name)
	f.holds(t, "ipv6", source, "2001:db8:100::97/128", "2001:db8:101::/64")
	// The world goes on while the session is down.
	for i := range 3 {
		if _, err := f.vtysh("clear bgp " + source.String()); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("2001:db8:100::%d/128", i+1)
		s.say(p, route(want))
		eventually(t, 15*time.Second, func() (bool, any) {
			v := s.view(p.Name)
			return v.State == bgp.Established && v.Counters.Established == uint64(i+2), v
		})
		f.holds(t, "ipv6", source, want)
	}
	v := s.view(p.Name)
	if v.Counters.Flaps != 3 || v.Fault == nil || !strings.HasPrefix(v.Fault.Text, "the router says: cease: administrative reset") {
		t.Errorf("%s %+v", show(v), v.Counters)
	}
	// A table on request, without a reset.
	if _, err := f.vtysh("clear bgp ipv6 unicast " + source.String() + " soft in"); err != nil {
		t.Fatal(err)
	}
	f.holds(t, "ipv6", source, "2001:db8:100::3/128")
	if got := s.view(p.Name).Counters.Established; got != 4 {
		t.Errorf("established %d times", got)
	}
}

func TestRouterThatFallsSilentIsGivenUp(t *testing.T) {
	f := needFRR(t)
	source := f.source("ipv4")
	p := f.neighbor(t, source, 65000)
	p.HoldTime = 3 * time.Second
	s := speak(t)
	s.say(p, route("198.51.100.113/32"))
	s.established(p.Name)
	f.stopped(t, func() {
		s.faults(p.Name, bgp.HoldTimerExpired)
	})
	s.established(p.Name)
	f.holds(t, "ipv4", source, "198.51.100.113/32")
}

func TestTenThousandPrefixes(t *testing.T) {
	f := needFRR(t)
	source := f.source("ipv4")
	p := f.neighbor(t, source, 65000)
	var routes []bgp.Route
	for i := range 10000 {
		routes = append(routes, bgp.Route{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32)})
	}
	count := func() int {
		v, _ := f.state(t, source)["addressFamilyInfo"].(map[string]any)["ipv4Unicast"].(map[string]any)
		n, _ := v["acceptedPrefixCounter"].(float64)
		return int(n)
	}
	s := speak(t)
	start := time.Now()
	s.say(p, routes...)
	eventually(t, 20*time.Second, func() (bool, any) { n := count(); return n == len(routes), n })
	cold := time.Since(start)
	start = time.Now()
	s.say(p)
	eventually(t, 20*time.Second, func() (bool, any) { n := count(); return n == 0, n })
	withdrawn := time.Since(start)
	start = time.Now()
	s.say(p, routes...)
	eventually(t, 20*time.Second, func() (bool, any) { n := count(); return n == len(routes), n })
	again := time.Since(start)
	if _, err := f.vtysh("clear bgp " + source.String()); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	eventually(t, 20*time.Second, func() (bool, any) { n := count(); return n == len(routes), n })
	t.Logf("10,000 prefixes: cold %v, withdrawn %v, announced %v, after a reset %v", cold, withdrawn, again, time.Since(start))
	if v := s.view(p.Name); v.Sent != len(routes) {
		t.Error(show(v))
	}
}
