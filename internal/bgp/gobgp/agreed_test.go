package gobgp

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/strict"
	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
)

// A strictCall is a connection with a router that refuses whatever was not agreed on.
type strictCall struct {
	*call
	mu       sync.Mutex
	receiver *strict.Receiver
	err      error
	done     chan struct{}
}

// strictly accepts a call, says this OPEN, and judges all that comes.
func (r *router) strictly(open wire.Open) *strictCall {
	r.t.Helper()
	c := &strictCall{call: r.accept(), done: make(chan struct{})}
	own := wire.AppendOpen(nil, open)
	var err error
	if c.receiver, err = strict.New(own); err != nil {
		r.t.Fatalf("%x: %v", own, err)
	}
	c.receiver.Loopback = true
	c.send(wire.AppendKeepalive(own))
	go func() {
		defer close(c.done)
		buf := make([]byte, 1<<16)
		for {
			_ = c.SetReadDeadline(time.Time{})
			n, err := c.Conn.Read(buf)
			c.mu.Lock()
			if c.err == nil {
				c.err = c.receiver.Read(buf[:n])
			}
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return c
}

// settles waits until the router has just these routes.
func (c *strictCall) settles(want ...string) {
	c.t.Helper()
	slices.Sort(want)
	eventually(c.t, within, func() (bool, any) {
		c.mu.Lock()
		defer c.mu.Unlock()
		got := []string{}
		for p, r := range c.receiver.Routes {
			got = append(got, fmt.Sprintf("%v by %v", p, r.NextHop))
		}
		slices.Sort(got)
		return c.err != nil || slices.Equal(got, want), fmt.Sprintf("%v, want %v", got, want)
	})
	c.accepts()
}

// accepts fails the test when the router refused something.
func (c *strictCall) accepts() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		c.t.Fatalf("the router refuses it: %v", c.err)
	}
}

// hangUp ends the connection.
func (c *strictCall) hangUp() { c.Close(); <-c.done }

// A router that comes back with fewer families, or never had them, hears nothing of
// the others: not a route, not a withdrawal, not an end of RIB.
func TestRouterHearsOnlyWhatWasAgreedOn(t *testing.T) {
	t.Parallel()
	v4, both := []wire.Family{wire.IPv4Unicast}, []wire.Family{wire.IPv4Unicast, wire.IPv6Unicast}
	graceful := func(c wire.Capabilities) wire.Capabilities {
		c.GracefulRestart = &wire.GracefulRestart{Time: 120}
		for _, f := range c.Families {
			c.GracefulRestart.Families = append(c.GracefulRestart.Families, wire.RestartFamily{Family: f})
		}
		return c
	}
	s := speak(t)
	r := newRouter(t)
	r.peer.GracefulRestart = &lb.GracefulRestart{}
	r.peer.MyASN = 4200000000
	one, two := route("198.51.100.1/32"), route("2001:db8:100::1/128")
	s.say(r.peer, one, two)
	for i, c := range []wire.Capabilities{
		{Families: both, FourOctetAS: true},
		graceful(wire.Capabilities{Families: v4, FourOctetAS: true}),
		{Families: both},
		{},
		graceful(wire.Capabilities{Families: v4}),
		{Families: v4, FourOctetAS: true, ExtendedNextHop: true},
		graceful(wire.Capabilities{Families: both, FourOctetAS: true, RouteRefresh: true}),
		{Families: append(slices.Clone(v4), wire.Family{AFI: 25, SAFI: 70}), FourOctetAS: true},
	} {
		o := polite
		o.Capabilities = c
		conn := r.strictly(o)
		conn.settles("198.51.100.1/32 by 127.0.0.1")
		// What changes while the session is up, of either family.
		s.say(r.peer, one, route("198.51.100.2/32", bgp.Attributes{MED: bgp.Some(7)}))
		conn.settles("198.51.100.1/32 by 127.0.0.1", "198.51.100.2/32 by 127.0.0.1")
		s.say(r.peer, one, two)
		conn.settles("198.51.100.1/32 by 127.0.0.1")
		if c.GracefulRestart != nil {
			eventually(t, within, func() (bool, any) {
				conn.mu.Lock()
				defer conn.mu.Unlock()
				return slices.Contains(conn.receiver.Ends, strict.IPv4), fmt.Sprintf("case %d: ends of %v", i, conn.receiver.Ends)
			})
		}
		conn.hangUp()
		conn.accepts()
	}
	// One that has nothing in common with us is told so, and hears no more.
	o := polite
	o.Capabilities = wire.Capabilities{Families: []wire.Family{{AFI: 25, SAFI: 70}}, FourOctetAS: true}
	conn := r.strictly(o)
	<-conn.done
	conn.accepts()
	if n := conn.receiver.Notified; hex.EncodeToString(n[:min(2, len(n))]) != "0207" || conn.receiver.Updates != 0 {
		t.Errorf("NOTIFICATION %x after %d UPDATEs", n, conn.receiver.Updates)
	}
}

// newRouter6 is newRouter with a session over IPv6.
func newRouter6(t *testing.T) *router {
	t.Helper()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("SKIPPED, this machine has no IPv6: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	r := newRouter(t)
	r.l.Close()
	r.l = l.(*net.TCPListener)
	r.peer.Address, r.peer.Port = netip.IPv6Loopback(), l.Addr().(*net.TCPAddr).AddrPort().Port()
	return r
}

// The longest attributes that a route can have fit a message, of either family.
func TestLongestRouteIsSaid(t *testing.T) {
	t.Parallel()
	longest := bgp.Attributes{MED: bgp.Some(1), Prepend: 10, Endpoints: 5, Communities: []lb.Community{lb.GracefulShutdown}}
	for i := range bgp.MaxCommunities {
		longest.Communities = append(longest.Communities, lb.Community{Large: true, A: 4200000000, B: 1, C: uint32(i)})
	}
	for name, listen := range map[string]func(*testing.T) *router{"127.0.0.1": newRouter, "::1": newRouter6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := speak(t)
			r := listen(t)
			r.peer.MyASN, r.peer.LocalASN = 4200000000, 4200000001
			prefixes := []string{"198.51.100.1/32", "198.51.100.2/32"}
			if r.peer.Address.Is6() {
				prefixes = append(prefixes, "2001:db8:100::1/128", "2001:db8:100::2/128")
			}
			var routes []bgp.Route
			var want []string
			for _, p := range prefixes {
				routes, want = append(routes, route(p, longest)), append(want, p+" by "+name)
			}
			s.say(r.peer, routes...)
			for _, four := range []bool{true, false} {
				o := polite
				o.FourOctetAS, o.ExtendedNextHop = four, true
				conn := r.strictly(o)
				conn.settles(want...)
				if v := s.established(r.peer.Name); v.Sent != len(want) || len(v.Unsendable) != 0 {
					t.Errorf("%s, unsendable %v", show(v), v.Unsendable)
				}
				conn.hangUp()
			}
		})
	}
}

// IPv4 over an IPv6 session has an IPv6 next hop only for a router that knows RFC 8950;
// one that does not has the routes for which there is another.
func TestIPv6NextHopsAreForRoutersThatKnowThem(t *testing.T) {
	t.Parallel()
	s := speak(t)
	r := newRouter6(t)
	s.say(r.peer, route("198.51.100.1/32"), route("2001:db8:100::1/128"))
	for _, extended := range []bool{false, true, false, false, true} {
		o := polite
		o.ExtendedNextHop = extended
		conn := r.strictly(o)
		want := []string{"2001:db8:100::1/128 by ::1"}
		if extended {
			want = append(want, "198.51.100.1/32 by ::1")
		}
		conn.settles(want...)
		conn.accepts()
		conn.hangUp()
	}
}

// The routes of a provider, a route server and a peer are marked for the other end's
// customers only; those of a customer and of a route server's client are not.
func TestRolesMarkRoutes(t *testing.T) {
	t.Parallel()
	for ours, theirs := range map[lb.Role]lb.Role{
		lb.RoleProvider: lb.RoleCustomer, lb.RoleCustomer: lb.RoleProvider, lb.RolePeer: lb.RolePeer,
		lb.RoleRS: lb.RoleRSClient, lb.RoleRSClient: lb.NoRole,
	} {
		t.Run(ours.String(), func(t *testing.T) {
			t.Parallel()
			s := speak(t)
			r := newRouter(t)
			r.peer.Role = ours
			s.say(r.peer, route("198.51.100.1/32"))
			o := polite
			o.Role = theirs
			conn := r.strictly(o) // knows which are to be marked
			conn.settles("198.51.100.1/32 by 127.0.0.1")
			conn.hangUp()
		})
	}
	s := speak(t)
	r := newRouter(t)
	r.peer.Role = lb.RoleCustomer
	s.say(r.peer, route("198.51.100.1/32"))
	o := polite
	o.Role = lb.RolePeer
	conn := r.accept()
	conn.send(wire.AppendOpen(nil, o))
	if n := conn.notified(); n.Code != wire.CodeOpen || n.Subcode != wire.OpenRole {
		t.Errorf("%v", n)
	}
	if v := s.faults(r.peer.Name, bgp.OpenRejected); v.Fault.Text != "role mismatch: role is customer here, the router says that it is peer; a provider faces a customer, an rs an rs-client, a peer a peer" {
		t.Error(show(v))
	}
}

// A community is for the routers to act on, and for gobgp to hand over, whatever it means.
// The one that gobgp acts on, LLGR_STALE, is refused where it is written.
func TestEveryCommunityIsSaid(t *testing.T) {
	t.Parallel()
	communities := []lb.Community{
		lb.GracefulShutdown, lb.Blackhole, lb.NoExport, lb.NoAdvertise, lb.NoPeer,
		{A: 0xffff, B: 7}, // NO_LLGR (RFC 9494)
		{A: 0xffff, B: 1},
		{A: 0xffff, B: 0xff03},
		{A: 0xffff, B: 0xffff},
		{},
		{Large: true, A: 65000, B: 0xffffffff},
	}
	for name, listen := range map[string]func(*testing.T) *router{"127.0.0.1": newRouter, "::1": newRouter6} {
		for _, as := range []uint32{65000, 65001} {
			t.Run(fmt.Sprint(name, as), func(t *testing.T) {
				t.Parallel()
				s := speak(t)
				r := listen(t)
				r.peer.MyASN = as
				form := "198.51.100.%d/32"
				if r.peer.Address.Is6() {
					form = "2001:db8:100::%d/128"
				}
				var routes []bgp.Route
				var want []string
				for i, c := range communities {
					prefix := fmt.Sprintf(form, i+1)
					routes, want = append(routes, route(prefix, bgp.Attributes{Communities: []lb.Community{c}})), append(want, prefix+" by "+name)
				}
				s.say(r.peer, routes...)
				conn := r.strictly(polite)
				conn.settles(want...)
				conn.mu.Lock()
				defer conn.mu.Unlock()
				for i, c := range communities {
					got := conn.receiver.Routes[netip.MustParsePrefix(fmt.Sprintf(form, i+1))]
					standard, large := fmt.Sprintf("%04x%04x", c.A, c.B), ""
					if c.Large {
						standard, large = "", fmt.Sprintf("%08x%08x%08x", c.A, c.B, c.C)
					}
					if fmt.Sprintf("%x", got.Communities) != standard || fmt.Sprintf("%x", got.Large) != large {
						t.Errorf("%v is said as %x %x", c, got.Communities, got.Large)
					}
				}
				conn.Close()
			})
		}
	}
}

// A router that we show another AS than ours finds both in the path; but not its own, for
// which it would take the route for one that has gone round.
func TestARouterDoesNotFindItsOwnASInAPath(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		my, local uint32
		kind      lb.PeerKind
		want      []uint32
	}{
		{65000, 65009, lb.PeerFixed, []uint32{65009, 65000}},
		{65001, 65009, lb.PeerFixed, []uint32{65009}},
		{65001, 65009, lb.PeerExternal, []uint32{65009}},
		{65000, 65001, lb.PeerInternal, nil},
	} {
		t.Run(fmt.Sprint(c.my, c.local, c.kind), func(t *testing.T) {
			t.Parallel()
			s := speak(t)
			r := newRouter6(t)
			r.peer.MyASN, r.peer.LocalASN = c.my, c.local
			if r.peer.Kind = c.kind; c.kind != lb.PeerFixed {
				r.peer.PeerASN = 0
			}
			const prefix = "2001:db8:100::1/128"
			s.say(r.peer, route(prefix))
			conn := r.strictly(polite)
			conn.settles(prefix + " by ::1")
			conn.mu.Lock()
			defer conn.mu.Unlock()
			if got := conn.receiver.Routes[netip.MustParsePrefix(prefix)].Path; !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
			conn.Close()
		})
	}
}
