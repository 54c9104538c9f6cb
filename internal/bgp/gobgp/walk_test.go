package gobgp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
)

// TestUnrelatedEditsResetNothing walks through random configurations, in which
// everything changes but the transport of three peers, and peers beside them
// come and go. The router must see each of the three established once, and hold in the
// end what the last configuration says.
func TestUnrelatedEditsResetNothing(t *testing.T) {
	ask(t, askedEdits)
	t.Parallel()
	byJudges(t, walk)
}

func walk(t *testing.T, j judge) {
	r := rand.New(rand.NewPCG(5, 6))
	var peers []lb.BGPPeer
	for _, family := range []string{"ipv4", "ipv6", "ipv4"} {
		p := j.neighbor(t, family, 65000)
		peers = append(peers, p)
	}
	passer := newRouter(t)
	snapshot := lb.Snapshot{Pools: []lb.Pool{lbtest.Everything()}, Nodes: []lb.Node{{Name: "a", Labels: map[string]string{"rack": "1"}}}}
	edit := func() {
		switch r.IntN(6) {
		case 0: // Services come, go and change their endpoints
			i := r.IntN(12)
			s := lb.Service{
				Key:       lb.ServiceKey{Namespace: "web", Name: fmt.Sprint(i)},
				Assigned:  []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 105, byte(i)}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 1, 5, 15: byte(i)})},
				Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{"a": {Ready: r.IntN(3)}}, IPv6: lb.NodeEndpoints{"a": {Ready: r.IntN(3)}}},
			}
			for j, old := range snapshot.Services {
				if old.Key == s.Key {
					snapshot.Services = append(snapshot.Services[:j:j], snapshot.Services[j+1:]...)
					break
				}
			}
			if r.IntN(4) > 0 {
				snapshot.Services = append(snapshot.Services, s)
			}
		case 1: // so do advertisements
			snapshot.BGPAdvertisements = nil
			for i := range 1 + r.IntN(3) {
				ad := lb.BGPAdvertisement{Name: fmt.Sprint(i), Communities: []lb.Community{{A: 65000, B: uint32(r.IntN(100))}}, WeightByEndpoints: r.IntN(2) == 0}
				if r.IntN(2) == 0 {
					ad.MED = new(uint32(r.IntN(100)))
				}
				if r.IntN(3) == 0 {
					ad.AggregationLength, ad.AggregationLengthV6 = 29, 64
				}
				if r.IntN(3) == 0 {
					ad.Peers = []string{peers[r.IntN(3)].Name}
				}
				snapshot.BGPAdvertisements = append(snapshot.BGPAdvertisements, ad)
			}
		case 2: // what of a peer is not transport
			p := &peers[r.IntN(3)]
			p.ConnectTime = time.Duration(1+r.IntN(5)) * time.Second
			p.MaximumPrefixes = r.IntN(1000)
			p.Created = time.Unix(int64(r.IntN(1000)), 0)
		case 3:
			p := &peers[r.IntN(3)]
			p.NodeSelectors = [][]lb.Selector{nil, {{{Key: "rack", Operator: lb.In, Values: []string{"1"}}}}, {{}}}[r.IntN(3)]
		case 4: // defaults written down
			p := &peers[r.IntN(3)]
			p.Port = []uint16{0, 179}[r.IntN(2)]
			p.Families = [][]lb.Family{nil, {lb.FamilyOf(p.Address)}}[r.IntN(2)]
		case 5: // another peer
			passer.peer.Shutdown = r.IntN(2) == 0
			passer.peer.HoldTime = time.Duration(3+r.IntN(80)) * time.Second
		}
		snapshot.BGPPeers = append([]lb.BGPPeer{}, peers...)
		if r.IntN(2) == 0 {
			snapshot.BGPPeers = append(snapshot.BGPPeers, passer.peer)
		}
	}
	edit()
	s := speak(t)
	var last bgp.Intent
	say := func() {
		last = bgp.Decide(snapshot, "a", bgp.Options{})
		s.Set(last.Sessions)
	}
	say()
	for _, p := range peers {
		s.established(p.Name)
	}
	for step := range 240 {
		edit()
		say()
		if step%80 != 79 {
			continue
		}
		for _, session := range last.Sessions {
			var want []string
			for _, route := range session.Routes {
				want = append(want, route.Prefix.String())
			}
			for _, p := range peers {
				if p.Name != session.Peer.Name {
					continue
				}
				family := map[bool]string{true: "ipv4", false: "ipv6"}[p.Source.Is4()]
				holds(t, j, p, family, want...)
				if v := s.view(p.Name); v.Counters.Established != 1 || v.Counters.Flaps != 0 {
					t.Fatalf("step %d: %s %+v: %s", step, show(v), v.Counters, j.lastWord(t, p))
				}
				if f, is := j.(*frr); is {
					if n := f.state(t, p)["connectionsEstablished"]; n != 1.0 {
						t.Fatalf("step %d: %s was established %v times: %s", step, p.Name, n, show(s.view(p.Name)))
					}
				}
			}
		}
	}
	// The attributes are the last ones too.
	for _, session := range last.Sessions {
		for _, route := range session.Routes {
			for _, p := range peers {
				if p.Name != session.Peer.Name {
					continue
				}
				told(t, j, p, route.Prefix.String(), func(h heard) bool {
					got := strings.Fields(h.communities)
					want := make([]string, 0, len(route.Communities))
					for _, c := range route.Communities {
						want = append(want, c.String())
					}
					slices.Sort(got)
					slices.Sort(want)
					return slices.Equal(got, want) && h.med.Value == route.MED.Value // OpenBGPD shows 0 for none
				})
				if f, is := j.(*frr); is {
					f.says(t, p.Source, route)
				}
			}
		}
	}
}

// says waits until FRR has a route of a source's with these attributes.
func (f *frr) says(t *testing.T, source netip.Addr, r bgp.Route) {
	t.Helper()
	family := map[bool]string{true: "ipv4", false: "ipv6"}[source.Is4()]
	var communities []string
	for _, c := range r.Communities {
		communities = append(communities, c.String())
	}
	eventually(t, 5*time.Second, func() (bool, any) {
		out := f.show(t, "show bgp "+family+" unicast "+r.Prefix.String())
		paths, _ := out["paths"].([]any)
		for _, p := range paths {
			p := p.(map[string]any)
			js, _ := json.Marshal(p["peer"])
			if !strings.Contains(string(js), `"`+source.String()+`"`) {
				continue
			}
			c, _ := p["community"].(map[string]any)
			got, _ := c["string"].(string)
			med, set := p["metric"].(float64)
			_, weighed := p["extendedCommunity"]
			return got == strings.Join(communities, " ") && set == r.MED.Set && uint32(med) == r.MED.Value && weighed == (r.Endpoints > 0),
				fmt.Sprintf("%v, want %v", p, r)
		}
		return false, out
	})
}

func TestFlapsDoNotConfuseTheTable(t *testing.T) {
	ask(t, askedFlaps)
	t.Parallel()
	byJudges(t, func(t *testing.T, j judge) {
		p := j.neighbor(t, "ipv4", 65000)
		s := speak(t)
		for i := range 60 {
			var routes []bgp.Route
			for n := range 1 + i%5 {
				routes = append(routes, route(fmt.Sprintf("198.51.106.%d/32", i+n)))
			}
			s.say(p, routes...)
			if i%20 == 10 {
				s.established(p.Name)
				j.reset(t, p)
			}
		}
		// The last had five routes, from 59 on.
		s.established(p.Name)
		holds(t, j, p, "ipv4", "198.51.106.59/32", "198.51.106.60/32", "198.51.106.61/32", "198.51.106.62/32", "198.51.106.63/32")
	})
}

func TestPasswordsAreNotShown(t *testing.T) {
	t.Parallel()
	const password = "s3cret-of-the-tor"
	var mu sync.Mutex
	var logged bytes.Buffer
	p := New(slog.New(slog.NewJSONHandler(writer(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return logged.Write(b)
	}), &slog.HandlerOptions{Level: slog.LevelDebug - 8})))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Run(ctx) }()
	r := newRouter(t)
	r.peer.Password = lb.NewSecret(password)
	r.peer.Address = netip.MustParseAddr("127.0.0.1")
	r.peer.Port = 1 // nobody listens
	long := r.peer
	long.Name, long.Password = "long", lb.NewSecret(strings.Repeat(password, 9))
	p.Set([]bgp.Session{{Peer: r.peer, RouterID: routerID}, {Peer: long, RouterID: routerID}})
	eventually(t, 10*time.Second, func() (bool, any) {
		views := p.Sessions()
		return len(views) == 2 && views[0].Fault != nil && views[1].Fault != nil, views
	})
	views := p.Sessions()
	js, _ := json.Marshal(views)
	cancel()
	<-done
	for _, shown := range []string{logged.String(), string(js), fmt.Sprintf("%+v %#v", views, views), fmt.Sprintf("%+v", p)} {
		if strings.Contains(shown, password) {
			t.Errorf("the password is shown: %s", shown)
		}
	}
	if logged.Len() == 0 {
		t.Error("nothing is logged")
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func TestEndOfRunLeavesNoGoroutine(t *testing.T) {
	r := newRouter(t)
	for range 2 {
		s := speak(t)
		s.say(r.peer, route("198.51.100.1/32"))
		r.establish().drain()
		s.established(r.peer.Name)
		s.stop()
		if n := len(s.Sessions()); n != 0 {
			t.Errorf("%d sessions after the end", n)
		}
		// gobgp's Serve stays in the pool of each Peering, with the channel of
		// its management; all the rest must go.
		eventually(t, 10*time.Second, func() (bool, any) {
			buf := make([]byte, 1<<20)
			stacks := string(buf[:runtime.Stack(buf, true)])
			n := strings.Count(stacks, "gobgp.(*session)") + strings.Count(stacks, "guard.") + strings.Count(stacks, "server.(*fsmHandler)")
			return n == 0, stacks
		})
	}
}
