package gobgp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
)

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
