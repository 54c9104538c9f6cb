package gobgp

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
)

// The next hop of IPv6 routes over an IPv4 session, while all happens to the addresses of
// the session's interface that happens to them in life. The router never lacks a route
// for which there is a next hop. It is not parallel: it changes the addresses of wires.
func TestNextHopsFollowTheAddressesOfTheInterface(t *testing.T) {
	ask(t, askedNextHops)
	byJudges(t, func(t *testing.T, j judge) {
		p := j.neighbor(t, "ipv4", 65000, bothFamilies)
		p.Families = []lb.Family{lb.IPv4, lb.IPv6}
		wire := int(p.Source.As4()[2])
		device := fmt.Sprintf("node%d", wire)
		ip := func(args string) {
			t.Helper()
			if err := run(append([]string{"ip"}, strings.Fields(args)...)...); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() {
			ip("-6 addr flush dev " + device + " scope global")
			if err := address(wire, "2001:db8:%d::%d/64"); err != nil {
				t.Fatal(err)
			}
		})
		ours := func(n int) string { return fmt.Sprintf("2001:db8:%d::%d", wire, n) }
		// has waits until the interface has an address like that.
		has := func(what string, like func(netip.Prefix, lb.AddressFlags) bool) {
			t.Helper()
			eventually(t, within, func() (bool, any) {
				for _, i := range lab.interfaces(t) {
					for _, a := range i.Addresses {
						if i.Name == device && like(a, i.Flags[a]) {
							return true, nil
						}
					}
				}
				return false, what + " is missing"
			})
		}
		is := func(text string) func(netip.Prefix, lb.AddressFlags) bool {
			return func(a netip.Prefix, f lb.AddressFlags) bool {
				return a.Addr() == netip.MustParseAddr(text) && f&^lb.AddressDynamic == 0
			}
		}
		// What is on the interface and is not the node's own for long. All are less than
		// the node's own, and came after them.
		learned, service := ours(5), "2001:db8:0:3::1"
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+device+"/use_tempaddr", []byte("2"), 0o644); err != nil {
			t.Fatal(err)
		}
		ip("addr add " + learned + "/64 dev " + device + " nodad mngtmpaddr valid_lft 9000 preferred_lft 8000")
		ip("addr add 2001:db8:0:2::1/128 dev " + device + " nodad")
		ip("addr add 2001:db8:0:2::2/128 dev " + device + " nodad preferred_lft 0")
		ip("addr add " + service + "/64 dev " + device + " nodad")
		has("the Service's address", is(service))
		has("a temporary address", func(_ netip.Prefix, f lb.AddressFlags) bool {
			return f&lb.AddressTemporary != 0 && f&lb.AddressTentative == 0
		})

		s := speak(t)
		s.world.Services = []lb.Service{{Assigned: []netip.Addr{netip.MustParseAddr(service)}}}
		one, two := "2001:db8:100::47/128", "2001:db8:100::48/128"
		routes := []bgp.Route{route("198.51.100.47/32"), route(one)}
		s.say(p, routes...)
		s.established(p.Name)
		// leads waits until the router has the route by a next hop, and never without.
		leads := func(prefix, next string, held bool) {
			t.Helper()
			eventually(t, within, func() (bool, any) {
				s.say(p, routes...)
				h, ok := j.heard(t, p, prefix)
				if held && !ok {
					t.Fatalf("the router has lost %s on its way to %s", prefix, next)
				}
				return ok && h.nextHop == netip.MustParseAddr(next), fmt.Sprintf("%s: %v %v, want %s", prefix, ok, h, next)
			})
		}
		leads(one, ours(10), false) // a configured one before one with a lifetime
		ip("addr change " + ours(10) + "/64 dev " + device + " preferred_lft 0")
		leads(one, ours(11), true)
		// What was deprecated is so no more: that is no reason to change again.
		ip("addr change " + ours(10) + "/64 dev " + device + " preferred_lft forever valid_lft forever")
		has("the address that was deprecated", is(ours(10)))
		routes = append(routes, route(two))
		leads(two, ours(11), false)
		leads(one, ours(11), true)
		// The one in use is removed.
		ip("addr del " + ours(11) + "/64 dev " + device)
		leads(one, ours(10), true)
		leads(two, ours(10), true)
		// None of the node's is left but a learned one, then not even that.
		ip("-6 addr flush dev " + device + " scope global permanent")
		leads(one, learned, true)
		leads(two, learned, true)
		ip("-6 addr flush dev " + device + " scope global")
		eventually(t, within, func() (bool, any) {
			s.say(p, routes...)
			left := j.prefixes(t, p, "ipv6")
			return len(left) == 0, left
		})
		v := s.view(p.Name)
		if v.Unsendable[lb.IPv6] != 2 || v.NextHops[lb.IPv6].Lack != bgp.AddressAbsent || v.NextHops[lb.IPv6].Interface != device {
			t.Errorf("%+v, %+v", v.Unsendable, v.NextHops)
		}
		holds(t, j, p, "ipv4", "198.51.100.47/32")
		// IPv6 comes, while the session is up.
		ip("addr add " + ours(12) + "/64 dev " + device + " nodad")
		leads(one, ours(12), false)
		leads(two, ours(12), false)
		if v := s.established(p.Name); v.Counters.Established != 1 || v.Counters.Flaps != 0 {
			t.Errorf("the session did not stay: %+v", v.Counters)
		}
	})
}

// What an operator does to the addresses of an interface while sessions run over it, as
// the strictest router hears it: one UPDATE that replaces, and no withdrawal while there
// is any address to go to.
func TestNextHopsAreReplacedAndNotWithdrawn(t *testing.T) {
	t.Parallel()
	// Lo has the session's own address, be it of IPv4 or IPv6.
	host := func(addresses ...string) []bgp.HostInterface {
		i := bgp.HostInterface{Name: "lo"}
		for _, text := range append([]string{"127.0.0.1/8", "::1/128"}, addresses...) {
			prefix, word, _ := strings.Cut(text, " ")
			a := bgp.HostAddress{Prefix: netip.MustParsePrefix(prefix), Lent: word == "lent"}
			a.Flags = map[string]lb.AddressFlags{"deprecated": lb.AddressDeprecated, "temporary": lb.AddressTemporary, "tentative": lb.AddressTentative}[word]
			i.Addresses = append(i.Addresses, a)
		}
		return []bgp.HostInterface{i}
	}
	for _, c := range []struct {
		name        string
		listen      func(*testing.T) *router
		one, two    string
		a, b, third string // addresses with their subnets, ascending
	}{
		{"IPv6 over IPv4", newRouter, "2001:db8:100::1/128", "2001:db8:100::2/128", "2001:db8::a/64", "2001:db8::b/64", "2001:db8:1::c/64"},
		{"IPv4 over IPv6", newRouter6, "198.51.100.1/32", "198.51.100.2/32", "192.0.2.10/24", "192.0.2.11/24", "203.0.113.12/24"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := speak(t)
			r := c.listen(t)
			a, _, _ := strings.Cut(c.a, "/")
			b, _, _ := strings.Cut(c.b, "/")
			third, _, _ := strings.Cut(c.third, "/")
			family := lb.FamilyOf(netip.MustParsePrefix(c.one).Addr())
			routes := []bgp.Route{route(c.one)}
			s.sayOn(host(c.a+" temporary", c.b), r.peer, routes...)
			conn := r.strictly(polite)
			conn.settles(c.one + " by " + b)
			say := func(want string, addresses ...string) {
				t.Helper()
				s.sayOn(host(addresses...), r.peer, routes...)
				var all []string
				for _, r := range routes {
					all = append(all, fmt.Sprintf("%v by %s", r.Prefix, want))
				}
				conn.settles(all...)
			}
			say(third, c.a+" temporary", c.b+" deprecated", c.third)
			// The old one is as good again: no change of mind.
			routes = append(routes, route(c.two))
			say(third, c.a, c.b, c.third)
			say(b, c.a+" lent", c.b)          // the one in use is removed, the next is a Service's
			say(a, c.a, c.b+" tentative")     // it is being checked again
			say(a, c.a+" deprecated")         // the last resort
			say(third, c.a+" lent", c.third)  // another renumbering
			say(third, c.third+" deprecated") // it stays as long as it is there
			conn.mu.Lock()
			if n := conn.receiver.Withdrawals; n != 0 {
				t.Errorf("%d prefixes were withdrawn on the way", n)
			}
			conn.mu.Unlock()
			lacks := func(want bgp.Lack, addresses ...string) {
				t.Helper()
				s.sayOn(host(addresses...), r.peer, routes...)
				conn.settles()
				if v := s.view(r.peer.Name); v.NextHops[family].Lack != want || v.Unsendable[family] != len(routes) || v.Routes != 0 {
					t.Errorf("%+v %+v %d", v.NextHops, v.Unsendable, v.Routes)
				}
			}
			lacks(bgp.AddressAbsent)
			say(a, c.a)
			lacks(bgp.AddressTentative, c.a+" tentative")
			say(b, c.b)
			lacks(bgp.AddressLent, c.a+" lent")
			say(third, c.third)
			if v := s.established(r.peer.Name); v.Counters.Established != 1 || v.Counters.Flaps != 0 || len(v.Unsendable) != 0 {
				t.Errorf("%s %+v %v", show(v), v.Counters, v.Unsendable)
			}
		})
	}
}
