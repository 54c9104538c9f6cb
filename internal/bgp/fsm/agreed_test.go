package fsm

import (
	"encoding/binary"
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

// odd writes an OPEN of one parameter in another form that says the same: capabilities
// in another order, some twice, among others that nobody here knows, in several
// parameters, in the form of RFC 9072.
func odd(r *rand.Rand, open []byte) []byte {
	const fixed = wire.HeaderLen + 9
	var capabilities [][]byte
	if len(open) > fixed+1 {
		for rest := open[fixed+3:]; len(rest) > 0; {
			n := 2 + int(rest[1])
			capabilities, rest = append(capabilities, rest[:n]), rest[n:]
		}
	}
	for _, c := range slices.Clone(capabilities) {
		if chance(r, 20) {
			capabilities = append(capabilities, c)
		}
	}
	for range r.IntN(6) {
		code := []byte{4, 6, 7, 67, 68, 69, 70, 73, 75, 128, 130, 131, 184, 254}[r.IntN(14)]
		unknown := append([]byte{code, 0}, make([]byte, []int{0, 1, 4, 200}[r.IntN(4)])...)
		for i := 2; i < len(unknown); i++ {
			unknown[i] = byte(r.IntN(256))
		}
		unknown[1] = byte(len(unknown) - 2)
		capabilities = append(capabilities, unknown)
	}
	r.Shuffle(len(capabilities), func(i, j int) { capabilities[i], capabilities[j] = capabilities[j], capabilities[i] })
	parameters := [][]byte{nil}
	for _, c := range capabilities {
		last := len(parameters) - 1
		if chance(r, 30) || len(parameters[last])+len(c) > 255 {
			parameters, last = append(parameters, nil), last+1
		}
		parameters[last] = append(parameters[last], c...)
	}
	var short, long []byte
	for _, p := range parameters {
		short = append(append(short, 2, byte(len(p))), p...)
		long = append(binary.BigEndian.AppendUint16(append(long, 2), uint16(len(p))), p...)
	}
	b := slices.Clone(open[:fixed])
	if len(short) > 255 || chance(r, 30) {
		b = append(b, byte(1+r.IntN(255)), 255) // the first of these says nothing
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(long))), long...)
	} else {
		b = append(append(b, byte(len(short))), short...)
	}
	binary.BigEndian.PutUint16(b[16:], uint16(len(b)))
	return b
}

// oddUpdate is the body of an UPDATE that is legal and rare: attributes in any order,
// of any length, known to nobody here; and what it says.
func oddUpdate(r *rand.Rand) (body []byte, withdrawn, announced []netip.Prefix) {
	prefix := func(six bool) netip.Prefix {
		a := netip.AddrFrom4([4]byte{203, 0, 113, byte(r.IntN(8))})
		if six {
			a = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 2, 15: byte(r.IntN(8))})
		}
		return netip.PrefixFrom(a, a.BitLen())
	}
	some := func(six bool, into *[]netip.Prefix) (b []byte) {
		for range r.IntN(4) {
			p := prefix(six)
			*into = append(*into, p)
			b = append(append(b, byte(p.Bits())), p.Addr().AsSlice()...)
		}
		return b
	}
	attribute := func(flags, code byte, value []byte) []byte {
		if len(value) > 255 || chance(r, 30) {
			return append(binary.BigEndian.AppendUint16([]byte{flags | 0x10, code}, uint16(len(value))), value...)
		}
		return append([]byte{flags, code, byte(len(value))}, value...)
	}
	out := some(false, &withdrawn)
	var attributes [][]byte
	if chance(r, 60) {
		attributes = append(attributes, attribute(0x80, 15, append([]byte{0, 2, 1}, some(true, &withdrawn)...)))
	}
	if chance(r, 60) {
		hop := make([]byte, []int{16, 32}[r.IntN(2)])
		attributes = append(attributes, attribute(0x80, 14, append(append(append([]byte{0, 2, 1, byte(len(hop))}, hop...), 0), some(true, &announced)...)))
	}
	// An end of RIB says nothing of prefixes, and is told apart by having nothing else.
	attributes = append(attributes, attribute(0x40, 1, []byte{byte(r.IntN(3))}))
	path := []byte{}
	for range r.IntN(3) { // sets, sequences and confederations, some as long as can be
		n := []int{1, 3, 255}[r.IntN(3)]
		path = append(path, byte(1+r.IntN(4)), byte(n))
		path = append(path, make([]byte, 4*n)...)
	}
	attributes = append(attributes, attribute(0x40, 2, path))
	for range r.IntN(4) {
		attributes = append(attributes, attribute(0xe0, byte(99+r.IntN(100)), make([]byte, r.IntN(300))))
	}
	r.Shuffle(len(attributes), func(i, j int) { attributes[i], attributes[j] = attributes[j], attributes[i] })
	all := slices.Concat(attributes...)
	reachable := some(false, &announced)
	body = append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)
	body = append(binary.BigEndian.AppendUint16(body, uint16(len(all))), all...)
	return append(body, reachable...), withdrawn, announced
}

// Of what a router announces the prefixes are counted, in whatever form it says them.
func TestOddUpdatesAreCounted(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		s := &Session{config: Config{MaximumPrefixes: 100}, state: bgp.Established, received: map[netip.Prefix]struct{}{}}
		want := map[netip.Prefix]bool{}
		for range 10 {
			body, withdrawn, announced := oddUpdate(r)
			if e := s.Receive(wire.TypeUpdate, body, 0); len(e.Write) > 0 || e.End != nil {
				t.Fatalf("seed %d: %+v for %x", seed, e, body)
			}
			for _, p := range withdrawn {
				delete(want, p)
			}
			// What one message withdraws and announces, too, may count either way
			// (RFC 4271 section 4.3).
			for _, p := range announced {
				if slices.Contains(withdrawn, p) {
					_, want[p] = s.received[p]
				} else {
					want[p] = true
				}
			}
		}
		n := 0
		for p, there := range want {
			if _, has := s.received[p]; has != there {
				t.Errorf("seed %d: %v: %v, want %v", seed, p, has, there)
			}
			if there {
				n++
			}
		}
		if got, more := s.Received(); got != n || more || s.counts.MalformedIn != 0 || s.counts.UpdatesIn != 10 {
			t.Errorf("seed %d: %d prefixes, want %d; %+v", seed, got, n, s.counts)
		}
	}
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
	if chance(r, 50) {
		router = odd(r, router)
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
		if chance(r, 20) {
			body, _, _ := oddUpdate(r)
			do(s.Receive(wire.TypeUpdate, body, now))
		}
		if chance(r, 20) { // among others the demarcations of RFC 7313, and what no RFC knows
			do(s.Receive(wire.TypeRouteRefresh, []byte{0, byte(r.IntN(3)), byte(r.IntN(4)), byte(1 + r.IntN(2))}, now))
		}
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
