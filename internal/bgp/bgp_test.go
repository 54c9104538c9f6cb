package bgp

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// randomRoutes returns a sorted table over few prefixes and attributes, so that
// two of them meet often.
func randomRoutes(r *rand.Rand) []Route {
	var out []Route
	for i := range 12 {
		if r.IntN(2) == 0 {
			continue
		}
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 32)
		if i%3 == 0 {
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i)}), 64)
		}
		a := Attributes{MED: Metric{uint32(r.IntN(2)), true}}
		if r.IntN(3) == 0 {
			a.Communities = []lb.Community{lb.NoExport}
		}
		out = append(out, Route{p, a})
	}
	slices.SortFunc(out, func(a, b Route) int { return ComparePrefix(a.Prefix, b.Prefix) })
	return out
}

func TestDiffLeadsFromOneTableToTheOther(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		from, to := randomRoutes(r), randomRoutes(r)
		c := Diff(from, to)
		table := map[netip.Prefix]string{}
		for _, route := range from {
			table[route.Prefix] = route.Attributes.String()
		}
		for _, route := range c.Announce {
			if was, there := table[route.Prefix]; there && was == route.Attributes.String() {
				t.Fatalf("%v is announced again", route)
			}
			table[route.Prefix] = route.Attributes.String()
		}
		for _, p := range c.Withdraw {
			if _, there := table[p]; !there {
				t.Fatalf("%v is withdrawn but was not there", p)
			}
			delete(table, p)
		}
		want := map[netip.Prefix]string{}
		for _, route := range to {
			want[route.Prefix] = route.Attributes.String()
		}
		if !maps.Equal(table, want) {
			t.Fatalf("from %v\nto %v\ngives %v", from, to, table)
		}
		if !Diff(to, to).Empty() {
			t.Fatalf("a table differs from itself: %v", to)
		}
	}
}

// randomWorld returns a snapshot with a bit of everything.
func randomWorld(r *rand.Rand) lb.Snapshot {
	s := lb.Snapshot{Pools: []lb.Pool{lbtest.Everything()}}
	for i := range 3 {
		s.Nodes = append(s.Nodes, lb.Node{Name: string(rune('a' + i)), Labels: map[string]string{"rack": fmt.Sprint(i % 2)}})
		s.BGPPeers = append(s.BGPPeers, lb.BGPPeer{
			Name: fmt.Sprintf("tor%d", i), Port: uint16(179 + i), MyASN: 65000, PeerASN: 65000 + uint32(i),
			Address: addr([]string{"192.0.2.1", "2001:db8::1"}[r.IntN(2)]), Families: [][]lb.Family{nil, {lb.IPv4, lb.IPv6}}[r.IntN(2)],
		})
	}
	for i := range 2 + r.IntN(3) {
		ad := lb.BGPAdvertisement{Name: fmt.Sprintf("ad%d", i), Created: time.Unix(int64(r.IntN(3)), 0), AggregationLength: []int{24, 32}[r.IntN(2)]}
		if r.IntN(2) == 0 {
			ad.MED = new(uint32(r.IntN(3)))
		}
		if r.IntN(2) == 0 {
			ad.Communities = []lb.Community{{A: 65000, B: uint32(i)}}
		}
		if r.IntN(3) == 0 {
			ad.LocalPref = new(uint32(r.IntN(2)))
		}
		ad.WeightByEndpoints = r.IntN(2) == 0
		s.BGPAdvertisements = append(s.BGPAdvertisements, ad)
	}
	for i := range 8 {
		s.Services = append(s.Services, lb.Service{
			Key: lb.ServiceKey{Namespace: "web", Name: fmt.Sprint(i)}, TrafficPolicy: lb.TrafficPolicy(r.IntN(2)),
			Assigned: []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, byte(r.IntN(6))}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(r.IntN(6))})},
			Endpoints: lb.Endpoints{
				IPv4: lb.NodeEndpoints{"a": {Ready: r.IntN(3)}, "b": {Terminating: r.IntN(2)}},
				IPv6: lb.NodeEndpoints{"a": {Ready: r.IntN(3)}, "b": {Terminating: r.IntN(2)}},
			},
		})
	}
	return s
}

func shuffled[T any](r *rand.Rand, in []T) []T {
	out := slices.Clone(in)
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func TestDecideDoesNotDependOnOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		s := randomWorld(r)
		again := lb.Snapshot{
			Pools: s.Pools, Nodes: shuffled(r, s.Nodes), Services: shuffled(r, s.Services),
			BGPPeers: shuffled(r, s.BGPPeers), BGPAdvertisements: shuffled(r, s.BGPAdvertisements),
		}
		for _, node := range []string{"a", "b", "c"} {
			one, two := Decide(s, node, Options{}), Decide(again, node, Options{})
			if !reflect.DeepEqual(one, two) {
				t.Fatalf("depends on input order:\n%+v\n%+v", one, two)
			}
			for _, session := range one.Sessions {
				if !slices.IsSortedFunc(session.Routes, func(a, b Route) int { return ComparePrefix(a.Prefix, b.Prefix) }) {
					t.Fatalf("not sorted: %v", session.Routes)
				}
				for _, v := range one.Decisions {
					has := slices.ContainsFunc(session.Routes, func(r Route) bool { return r.Prefix.Contains(v.Address) })
					if slices.Contains(v.Peers, session.Peer.Name) && !has {
						t.Fatalf("%v is said to go to %s, whose table is %v", v.Address, session.Peer.Name, session.Routes)
					}
				}
			}
			if len(one.Sessions) != 3 || len(one.Decisions) == 0 {
				t.Fatalf("the world is too poor to test with: %+v", one)
			}
		}
	}
}

// A message has room for so many communities, and gobgp none for more. The advertisement
// that would be too much does not apply to the prefix; the address stays advertised.
func TestCommunitiesOfARouteFitAMessage(t *testing.T) {
	s := lb.Snapshot{
		Pools:    []lb.Pool{lbtest.Everything()},
		Nodes:    []lb.Node{{Name: "a"}},
		BGPPeers: []lb.BGPPeer{{Name: "tor", MyASN: 65000, PeerASN: 65001, Address: addr("192.0.2.1"), Families: []lb.Family{lb.IPv4, lb.IPv6}}},
		Services: []lb.Service{{
			Key: lb.ServiceKey{Namespace: "web", Name: "x"}, Assigned: []netip.Addr{addr("198.51.100.1"), addr("2001:db8:e::1")},
			Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{"a": {Ready: 1}}, IPv6: lb.NodeEndpoints{"a": {Ready: 1}}},
		}},
	}
	for n := range 10 {
		ad := lb.BGPAdvertisement{Name: string(rune('a' + n)), Created: time.Unix(int64(n), 0)}
		for i := range 32 {
			ad.Communities = append(ad.Communities, lb.Community{Large: true, A: 65000, B: uint32(n % 9), C: uint32(i)})
		}
		s.BGPAdvertisements = append(s.BGPAdvertisements, ad)
	}
	intent := Decide(s, "a", Options{})
	if len(intent.Sessions) != 1 || len(intent.Sessions[0].Routes) != 2 {
		t.Fatalf("%+v", intent)
	}
	for _, r := range intent.Sessions[0].Routes {
		if len(r.Attributes.Communities) != MaxCommunities {
			t.Errorf("%v has %d communities", r.Prefix, len(r.Attributes.Communities))
		}
	}
	// The ninth has those of its own, the tenth those of the first.
	const want = "198.51.100.1/32 to tor would have more than 256 communities with those of the older BGPAdvertisement h"
	if len(intent.Conflicts) != 1 || intent.Conflicts[0].Advertisement != "i" || intent.Conflicts[0].String() != want {
		t.Errorf("%v", intent.Conflicts)
	}
	if !Contestable(s.BGPAdvertisements) || Contestable(s.BGPAdvertisements[:8]) {
		t.Error("the ninth is what can be too much")
	}
}

func TestCausesHaveNames(t *testing.T) {
	if len(causes) != int(InternalFault)+1 {
		t.Errorf("%d causes, %d names", InternalFault+1, len(causes))
	}
}

var peer = lb.BGPPeer{Name: "tor", MyASN: 65000, PeerASN: 65001, Address: addr("192.0.2.1"), HoldTime: 90 * time.Second}

func theirs(as uint32, hold uint16) wire.Open {
	return wire.Open{AS: as, HoldTime: hold, ID: addr("192.0.2.1"), Capabilities: wire.Capabilities{
		Families: []wire.Family{wire.IPv4Unicast, wire.IPv6Unicast}, FourOctetAS: true, ExtendedNextHop: true,
	}}
}

func TestPeerIsWhoItShouldBe(t *testing.T) {
	id := addr("192.0.2.10")
	for _, c := range []struct {
		name   string
		spoil  func(*lb.BGPPeer, *wire.Open)
		want   string
		subErr uint8
	}{
		{"expected", func(*lb.BGPPeer, *wire.Open) {}, "", 0},
		{"another", func(p *lb.BGPPeer, o *wire.Open) { p.PeerASN, o.AS = 65000, 65001 }, "bad peer AS 65001, expected 65000", wire.OpenPeerAS},
		{"internal", func(p *lb.BGPPeer, o *wire.Open) { p.Kind, o.AS = lb.PeerInternal, 65000 }, "", 0},
		{"not internal", func(p *lb.BGPPeer, _ *wire.Open) { p.Kind = lb.PeerInternal }, "bad peer AS 65001, expected our own 65000", wire.OpenPeerAS},
		{"external", func(p *lb.BGPPeer, o *wire.Open) { p.Kind, o.AS = lb.PeerExternal, 4200000000 }, "", 0},
		{"not external", func(p *lb.BGPPeer, o *wire.Open) { p.Kind, o.AS = lb.PeerExternal, 65000 }, "bad peer AS 65000, expected another than our own", wire.OpenPeerAS},
		{"internal as another of ours", func(p *lb.BGPPeer, o *wire.Open) { p.Kind, p.LocalASN, o.AS = lb.PeerInternal, 65009, 65009 }, "", 0},
		{"our own identifier", func(p *lb.BGPPeer, o *wire.Open) { p.PeerASN, o.AS, o.ID = 65000, 65000, id }, "the peer has our own router ID 192.0.2.10", wire.OpenIdentifier},
		{"our own identifier, elsewhere", func(_ *lb.BGPPeer, o *wire.Open) { o.ID = id }, "", 0},
		{
			"no family in common", func(p *lb.BGPPeer, o *wire.Open) {
				p.Families, o.Families = []lb.Family{lb.IPv6}, []wire.Family{wire.IPv4Unicast}
			},
			"no address family in common: ours [ipv6-unicast], the peer's [ipv4-unicast]", wire.OpenCapability,
		},
	} {
		p, o := peer, theirs(65001, 90)
		c.spoil(&p, &o)
		_, err := Negotiate(p, LocalOpen(p, id, false), o)
		var e *wire.Error
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (!errors.As(err, &e) || e.Text != c.want || e.Code != wire.CodeOpen || e.Subcode != c.subErr):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestTimersSuitBothSides(t *testing.T) {
	for _, c := range []struct {
		ours, keepalive time.Duration
		theirs          uint16
		hold, want      time.Duration
	}{
		{90 * time.Second, 0, 180, 90 * time.Second, 30 * time.Second},
		{90 * time.Second, 0, 9, 9 * time.Second, 3 * time.Second},
		{90 * time.Second, 0, 0, 0, 0},
		{0, 0, 90, 0, 0},
		{3 * time.Second, 0, 90, 3 * time.Second, time.Second},
		{90 * time.Second, 10 * time.Second, 90, 90 * time.Second, 10 * time.Second},
		{90 * time.Second, 60 * time.Second, 90, 90 * time.Second, 30 * time.Second},
		{90 * time.Second, 60 * time.Second, 30, 30 * time.Second, 10 * time.Second},
		{90 * time.Second, 5 * time.Second, 30, 30 * time.Second, 5 * time.Second},
		{90 * time.Second, 5 * time.Second, 0, 0, 0},
	} {
		p := peer
		p.HoldTime, p.KeepaliveTime = c.ours, c.keepalive
		n, err := Negotiate(p, LocalOpen(p, addr("192.0.2.10"), false), theirs(65001, c.theirs))
		if err != nil || n.HoldTime != c.hold || n.KeepaliveTime != c.want {
			t.Errorf("ours %v/%v, theirs %d: %v/%v, %v; want %v/%v", c.ours, c.keepalive, c.theirs, n.HoldTime, n.KeepaliveTime, err, c.hold, c.want)
		}
	}
}

func TestOpenOffersWhatThePeerIsConfiguredFor(t *testing.T) {
	id := addr("192.0.2.10")
	p := peer
	o := LocalOpen(p, id, true)
	if o.ExtendedNextHop || o.GracefulRestart != nil || !slices.Equal(o.Families, []wire.Family{wire.IPv4Unicast}) {
		t.Errorf("a plain IPv4 peer: %+v", o)
	}
	p.Interface, p.Address, p.LocalASN = "eth0", netip.Addr{}, 65009
	p.GracefulRestart = &lb.GracefulRestart{LongLived: time.Hour}
	o = LocalOpen(p, id, true)
	if !o.ExtendedNextHop || len(o.Families) != 2 || o.AS != 65009 {
		t.Errorf("an unnumbered peer: %+v", o)
	}
	g := o.GracefulRestart
	if g == nil || !g.Restarting || g.Time != 120 || len(g.Families) != 2 || !g.Families[0].Forwarding || len(o.LongLived) != 2 || o.LongLived[1].Time != 3600 {
		t.Errorf("graceful restart: %+v %+v", g, o.LongLived)
	}
	if LocalOpen(p, id, false).GracefulRestart.Restarting {
		t.Error("a second session says that we have restarted")
	}
	p.GracefulRestart.RestartTime = 2 * time.Hour
	if got := LocalOpen(p, id, false).GracefulRestart.Time; got != 4095 {
		t.Errorf("restart time %d does not fit twelve bits", got)
	}
	p.Interface, p.Address, p.Families = "", addr("2001:db8::1"), []lb.Family{lb.IPv6}
	if LocalOpen(p, id, false).ExtendedNextHop {
		t.Error("IPv4 next hops are offered on a session without IPv4")
	}
}

func TestRouterIDIsThereOnEveryNode(t *testing.T) {
	node := lb.Node{Name: "a", Addresses: []netip.Addr{addr("2001:db8::10"), addr("192.0.2.10"), addr("192.0.2.11")}}
	p := peer
	if got := RouterID(p, node); got != addr("192.0.2.10") {
		t.Errorf("%v", got)
	}
	p.RouterID = addr("10.0.0.1")
	if got := RouterID(p, node); got != p.RouterID {
		t.Errorf("%v", got)
	}
	p.RouterID = netip.Addr{}
	seen := map[netip.Addr]bool{}
	for i := range 1000 {
		id := RouterID(p, lb.Node{Name: fmt.Sprintf("node-%d.example", i), Addresses: []netip.Addr{addr("2001:db8::10")}})
		if !id.Is4() || id.As4()[0] < 0xf0 || seen[id] {
			t.Fatalf("node-%d has %v", i, id)
		}
		seen[id] = true
	}
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	var got []string
	for n := range 7 {
		got = append(got, Backoff(n, 10*time.Second, 0).String())
	}
	if want := "250ms 1s 2s 4s 8s 10s 10s"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	for n := range 1000 {
		for _, r := range []float64{0, 0.5, 0.999} {
			if d := Backoff(n, time.Minute, r); d <= 0 || d > time.Minute {
				t.Fatalf("attempt %d: %v", n, d)
			}
		}
	}
	if Backoff(3, time.Second, 0.5) != 875*time.Millisecond || Backoff(99, 0, 0) != DefaultConnectTime {
		t.Error("limit or jitter is not honored")
	}
}

func TestDrainHasAnEnd(t *testing.T) {
	since := time.Unix(1000, 0)
	for _, c := range []struct {
		drain bool
		now   int64
		want  Phase
		until time.Time
	}{
		{false, 1001, Serving, time.Time{}},
		{true, 1000, Leaving, time.Unix(1010, 0)},
		{true, 1009, Leaving, time.Unix(1010, 0)},
		{true, 1010, Left, time.Time{}},
	} {
		if p, until := PhaseAt(c.drain, since, time.Unix(c.now, 0), 10*time.Second); p != c.want || !until.Equal(c.until) {
			t.Errorf("drain %v at %d: %v until %v", c.drain, c.now, p, until)
		}
	}
}

// A guess never takes the place of a fact, least of all of what the router said.
func TestFactsStay(t *testing.T) {
	words := &Fault{Cause: Notified, Text: "the router says: cease: administrative shutdown: see you at noon"}
	guess := &Fault{Cause: ClosedBeforeOpen, Text: "the router closed the connection before OPEN; does it know this node as a neighbor?"}
	refused := &Fault{Cause: ConnectionRefused, Text: "connection refused by 192.0.2.1:179"}
	unanswered := &Fault{Cause: Unanswered, Text: "SYN unanswered by [2001:db8::1]:179"}
	suspected := &Fault{Cause: MD5Suspected, Text: "MD5 mismatch suspected: SYN unanswered by [2001:db8::1]:179"}
	expired := &Fault{Cause: HoldTimerExpired, Text: "hold timer expired"}
	for _, c := range []struct {
		name   string
		faults []*Fault
		cause  Cause
		want   string
	}{
		{"a guess alone", []*Fault{guess}, ClosedBeforeOpen, guess.Text},
		{"a guess after words", []*Fault{words, guess, guess}, Notified, words.Text},
		{"lost after words", []*Fault{words, {Cause: ConnectionLost, Text: "the router reset the connection"}}, Notified, words.Text},
		{"other words", []*Fault{words, {Cause: Notified, Text: "the router says: cease: connection rejected"}}, Notified, "the router says: cease: connection rejected"},
		{"refused after words", []*Fault{words, guess, refused}, ConnectionRefused, refused.Text + "; before that " + words.Text},
		{"words are repeated once", []*Fault{words, refused, refused, unanswered}, Unanswered, unanswered.Text + "; before that " + words.Text},
		{"a guess after that", []*Fault{words, refused, guess}, Notified, words.Text},
		{"a better reason", []*Fault{words, {Cause: OpenRejected, Text: "bad peer AS 65001, expected 65000"}}, OpenRejected, "bad peer AS 65001, expected 65000"},
		{"a guess after a fact", []*Fault{expired, guess, guess}, HoldTimerExpired, expired.Text + "; since then " + guess.Text},
		{"another fact after both", []*Fault{expired, guess, unanswered}, Unanswered, unanswered.Text},
		{"a fact again after both", []*Fault{expired, guess, expired}, HoldTimerExpired, expired.Text},
		{"a guess after a refusal of ours", []*Fault{{Cause: OpenRejected, Text: "bad peer AS 65001, expected 65000"}, guess}, OpenRejected, "bad peer AS 65001, expected 65000; since then " + guess.Text},
		{"silence after words", []*Fault{words, {Cause: Silent, Text: "the router does not confirm our OPEN"}}, Silent, "the router does not confirm our OPEN; before that " + words.Text},
		{"a suspicion after words", []*Fault{words, suspected}, MD5Suspected, suspected.Text + "; before that " + words.Text},
		{"a guess after both", []*Fault{words, suspected, guess}, Notified, words.Text},
		{"a fact after a guess", []*Fault{guess, refused}, ConnectionRefused, refused.Text},
	} {
		var shown *Fault
		for _, f := range c.faults {
			shown = f.Succeed(shown)
		}
		if shown.Cause != c.cause || shown.Text != c.want {
			t.Errorf("%s: %v %q, want %v %q", c.name, shown.Cause, shown.Text, c.cause, c.want)
		}
	}
}
