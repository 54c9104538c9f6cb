package fsm

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/strict"
	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
)

// Whatever two OPENs say, and whatever gobgp says then, every octet that is written is
// accepted by a router that knows the two OPENs alone and refuses whatever it may; and
// what that router then has is what gobgp said, as far as it was agreed on.
func TestEveryOctetIsWhatTheOPENsAgreedOn(t *testing.T) {
	up := 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		if agrees(t, seed, r) {
			up++
		}
	}
	if up < 1500 {
		t.Errorf("%d sessions of 3000 come up", up)
	}
}

func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }

// randomPeer is a router as an operator might configure it, and randomOpen an OPEN that
// it might send.
func randomPeer(r *rand.Rand) lb.BGPPeer {
	p := lb.BGPPeer{
		MyASN: []uint32{65000, 4200000000}[r.IntN(2)], Kind: lb.PeerKind(1 + r.IntN(2)), Address: netip.MustParseAddr("192.0.2.1"),
		HoldTime: []time.Duration{0, 3 * time.Second, 90 * time.Second}[r.IntN(3)],
	}
	if chance(r, 50) {
		p.Address = netip.MustParseAddr("2001:db8::1")
	}
	if chance(r, 70) {
		p.Families = [][]lb.Family{{lb.IPv4}, {lb.IPv6}, {lb.IPv4, lb.IPv6}}[r.IntN(3)]
	}
	if p.Kind == lb.PeerExternal && chance(r, 40) {
		p.Role = lb.Role(1 + r.IntN(5))
	}
	if chance(r, 30) {
		p.GracefulRestart = &lb.GracefulRestart{LongLived: time.Duration(r.IntN(2)) * time.Hour}
	}
	return p
}

func randomOpen(r *rand.Rand, p lb.BGPPeer) wire.Open {
	o := wire.Open{AS: 65001, HoldTime: []uint16{0, 3, 180}[r.IntN(3)], ID: netip.MustParseAddr("192.0.2.1")}
	if p.Kind == lb.PeerInternal {
		o.AS = p.LocalAS()
	}
	if chance(r, 15) && o.AS <= 0xffff {
		return o // of the first RFC
	}
	o.FourOctetAS = o.AS > 0xffff || chance(r, 60)
	for _, f := range []wire.Family{wire.IPv4Unicast, wire.IPv6Unicast, {AFI: 25, SAFI: 70}} {
		if chance(r, 60) {
			o.Families = append(o.Families, f)
		}
	}
	switch {
	case p.Role != lb.NoRole && chance(r, 50):
		o.Role = []lb.Role{0, lb.RoleCustomer, lb.RoleRSClient, lb.RoleRS, lb.RoleProvider, lb.RolePeer}[p.Role]
	case chance(r, 10):
		o.Role = lb.Role(1 + r.IntN(5))
	}
	o.RouteRefresh, o.ExtendedNextHop = chance(r, 50), chance(r, 50)
	if chance(r, 40) {
		o.GracefulRestart = &wire.GracefulRestart{Time: 120}
	}
	return o
}

// agrees plays one session and reports whether it came up.
func agrees(t *testing.T, seed uint64, r *rand.Rand) bool {
	p := randomPeer(r)
	theirs := randomOpen(r, p)
	router := wire.AppendOpen(nil, theirs)
	receiver, err := strict.New(router)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	fail := func(format string, args ...any) {
		t.Fatalf("seed %d, %+v, %+v: %s", seed, p, theirs, fmt.Sprintf(format, args...))
	}
	var now time.Duration
	writing := false
	var s *Session
	do := func(e Effects) bool {
		if err := receiver.Read(e.Write); err != nil {
			fail("%v", err)
		}
		if e.End != nil {
			if n := e.End.Notification; n != nil {
				if err := receiver.Read(wire.AppendNotification(nil, *n)); err != nil {
					fail("%v", err)
				}
			}
			return false
		}
		writing = writing || len(e.Write) > 0
		return true
	}
	took := func() {
		if writing {
			writing = false
			do(s.Wrote(now))
		}
	}
	ours := bgp.LocalOpen(p, netip.MustParseAddr("192.0.2.10"), chance(r, 50))
	s, e := New(Config{
		Open: ours, MaximumPrefixes: 10, Jitter: r.Float64,
		Judge:   func(o wire.Open) (bgp.Negotiated, error) { return bgp.Negotiate(p, ours, o) },
		Silence: func(state bgp.State, t bgp.Trace) *bgp.Fault { return bgp.Silence(p, state, t) },
	}, 0)
	do(e)
	took()
	if !do(s.Receive(wire.TypeOpen, router[wire.HeaderLen:], now)) || !do(s.Receive(wire.TypeKeepalive, nil, now)) {
		return false
	}
	for writing {
		took()
	}
	agreed := s.Negotiated()
	// Said in the test's own words.
	carries := func(a netip.Addr) bool {
		f := wire.IPv6Unicast
		if a.Is4() {
			f = wire.IPv4Unicast
		}
		named := slices.Contains(theirs.Families, f) || len(theirs.Families) == 0 && a.Is4()
		return named && slices.Contains(bgp.Families(p), lb.FamilyOf(a))
	}
	nextHop6 := p.Address.Is6() && theirs.ExtendedNextHop && len(theirs.Families) > 0
	path := []uint32{p.LocalAS()}
	if agreed.Internal {
		path = nil
	}
	for range r.IntN(3) {
		path = append(path, []uint32{64999, 4200000009}[r.IntN(2)])
	}
	want, unsaid := map[netip.Prefix]netip.Addr{}, map[netip.Prefix]bool{}
	ends := 0
	for range 30 {
		now += time.Duration(r.IntN(2000)) * time.Millisecond
		if !do(s.Tick(now, false, func() bgp.Trace { return bgp.Trace{} })) {
			fail("over after %v", now)
		}
		if writing && chance(r, 50) {
			do(s.Receive(wire.TypeKeepalive, nil, now))
			continue
		}
		took()
		do(s.Receive(wire.TypeKeepalive, nil, now))
		if writing || !s.Ready() {
			continue
		}
		if chance(r, 15) {
			f := []wire.Family{wire.IPv4Unicast, wire.IPv6Unicast}[r.IntN(2)]
			if theirs.GracefulRestart != nil && (f == wire.IPv4Unicast && carries(netip.IPv4Unspecified()) || f == wire.IPv6Unicast && carries(netip.IPv6Unspecified())) {
				ends++
			}
			do(s.Say([][]byte{wire.AppendEndOfRIB(nil, f)}, now))
			continue
		}
		hops := map[bool]netip.Addr{true: netip.MustParseAddr("192.0.2.10"), false: netip.MustParseAddr("2001:db8::10")}
		if chance(r, 50) {
			hops[true] = hops[false]
		}
		changes := map[netip.Prefix]change{}
		for range 1 + r.IntN(8) {
			a := netip.AddrFrom4([4]byte{198, 51, 100, byte(r.IntN(6))})
			if chance(r, 50) && hops[true].Is4() { // MP_REACH_NLRI has one family
				a = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 1, 15: byte(r.IntN(6))})
			}
			ch := change{prefix: netip.PrefixFrom(a, a.BitLen()-r.IntN(3)).Masked()}
			if chance(r, 65) {
				ch.hop = hops[a.Is4()]
			}
			changes[ch.prefix] = ch
		}
		for _, ch := range changes {
			a := ch.prefix.Addr()
			if carries(a) && ch.hop.IsValid() && (ch.hop.Is4() || a.Is6() || nextHop6) {
				want[ch.prefix] = ch.hop
				delete(unsaid, ch.prefix)
			} else {
				delete(want, ch.prefix)
				if delete(unsaid, ch.prefix); carries(a) && ch.hop.IsValid() {
					unsaid[ch.prefix] = true
				}
			}
		}
		do(s.Say([][]byte{gobgpUpdate(path, slices.Collect(maps.Values(changes)))}, now))
	}
	for writing {
		took()
	}
	got := map[netip.Prefix]netip.Addr{}
	for p, route := range receiver.Routes {
		got[p] = route.NextHop
		if !slices.Equal(route.Path, path) {
			fail("%v has the path %v, not %v", p, route.Path, path)
		}
	}
	if !maps.Equal(got, want) || s.Sent() != len(want) {
		fail("the router has %v, not %v; sent %d", got, want, s.Sent())
	}
	if n := s.Unsaid(lb.IPv4) + s.Unsaid(lb.IPv6); n != len(unsaid) {
		fail("%d unsaid, not %v", n, unsaid)
	}
	if len(receiver.Ends) != ends {
		fail("%d ends of RIB, not %d", len(receiver.Ends), ends)
	}
	return true
}
