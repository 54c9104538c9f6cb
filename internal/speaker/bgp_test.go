package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/lb"
)

const grace = 5 * time.Second

// A fakePeering has routers that are quick and never contradict.
type fakePeering struct {
	mu       sync.Mutex
	sessions []bgp.Session
	down     map[string]bool
	changed  chan struct{}
	// history are the routes that the routers were told, one line for each change.
	history []string
	fails   bool
	sets    int
}

func (p *fakePeering) Set(sessions []bgp.Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails {
		panic("boom")
	}
	p.sessions = sessions
	p.sets++
	line := ""
	for _, s := range sessions {
		for _, r := range s.Routes {
			line += fmt.Sprintf("%s: %v; ", s.Peer.Name, r)
		}
	}
	line = strings.TrimSuffix(line, "; ")
	if n := len(p.history); line != "" && n == 0 || n > 0 && p.history[n-1] != line {
		p.history = append(p.history, line)
	}
	poke(p.changed)
}

func (p *fakePeering) Sessions() []bgp.SessionView {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []bgp.SessionView
	for _, s := range p.sessions {
		v := bgp.SessionView{Peer: s.Peer.Name}
		if p.down[s.Peer.Name] {
			v.Fault = &bgp.Fault{Cause: bgp.ConnectionRefused, Text: "connection refused"}
		} else {
			v.State, v.Routes, v.Sent = bgp.Established, len(s.Routes), len(s.Routes)
			v.Negotiated = &bgp.Negotiated{Families: bgp.Families(s.Peer)}
		}
		out = append(out, v)
	}
	return out
}

func (p *fakePeering) Changed() <-chan struct{} { return p.changed }

// fall lets the sessions with a peer fall, or come back.
func (p *fakePeering) fall(peer string, down bool) {
	p.mu.Lock()
	p.down[peer] = down
	p.mu.Unlock()
	poke(p.changed)
}

// heard checks what routers were told, and forgets it but for the last.
func (p *fakePeering) heard(t *testing.T, want ...string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(p.history, want) {
		t.Errorf("routers were told\n%s\nwant\n%s", strings.Join(p.history, "\n"), strings.Join(want, "\n"))
	}
	p.history = slices.Clone(p.history[max(0, len(p.history)-1):])
}

func (p *fakePeering) fail(fails bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fails = fails
}

// routed has the Service advertised by BGP alone.
func routed(peers ...lb.BGPPeer) func(*lb.Snapshot) {
	return func(s *lb.Snapshot) {
		s.L2Advertisements = nil
		s.BGPAdvertisements = []lb.BGPAdvertisement{{Name: "all"}}
		s.BGPPeers = peers
	}
}

func peer(name string, restarts bool) lb.BGPPeer {
	p := lb.BGPPeer{
		Name: name, MyASN: 65000, PeerASN: 65001, Address: netip.MustParseAddr("192.0.2.254"), Port: uint16(len(name)),
		Families: []lb.Family{lb.IPv4, lb.IPv6},
	}
	if restarts {
		p.GracefulRestart = &lb.GracefulRestart{}
	}
	return p
}

const (
	plain = "tor: 192.0.2.1/32; tor: 2001:db8::1/128"
	going = "tor: 192.0.2.1/32 communities graceful-shutdown; tor: 2001:db8::1/128 communities graceful-shutdown"
)

func TestRoutersHearThatTheSpeakerGoes(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		n := w.node("a")
		w.cluster.edit(routed(peer("tor", false)))
		w.start()
		n.peering.heard(t, plain)
		begun := time.Now()
		n.stop()
		time.Sleep(grace - time.Millisecond)
		n.peering.heard(t, plain, going)
		<-n.done
		n.peering.heard(t, going, "")
		if took := time.Since(begun); took > grace+parting {
			t.Errorf("it took %v", took)
		}
	})
}

func TestRoutersWithGracefulRestartHearNothing(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		n := w.node("a")
		w.cluster.edit(routed(peer("restarts", true), peer("tor", false)))
		w.start()
		const stays = "restarts: 192.0.2.1/32; restarts: 2001:db8::1/128"
		n.peering.heard(t, stays+"; "+plain)
		n.stop()
		<-n.done
		n.peering.heard(t, stays+"; "+plain, stays+"; "+going, stays)
	})
}

func TestASpeakerThatNobodyHearsGoesAtOnce(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		n := w.node("a")
		n.peering.fall("tor", true)
		w.cluster.edit(routed(peer("tor", false), peer("restarts", true)))
		w.start()
		begun := time.Now()
		n.stop()
		<-n.done
		if took := time.Since(begun); took > core.Farewell {
			t.Errorf("it took %v", took)
		}
	})
}

func TestADrainedNodeLeavesItsRouters(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		n := w.node("a")
		w.cluster.edit(only("b"))
		w.cluster.edit(routed(peer("tor", true)))
		w.start()
		n.peering.heard(t) // it was drained before it came
		w.cluster.edit(anybody)
		w.rest()
		n.peering.heard(t, plain)
		w.cluster.edit(only("b"))
		w.rest()
		n.peering.heard(t, plain, going)
		time.Sleep(grace)
		n.peering.heard(t, going, "")
		if got := n.peering.Sessions(); len(got) != 1 || got[0].State != bgp.Established {
			t.Errorf("its sessions are %v", got)
		}
		w.cluster.edit(anybody)
		w.rest()
		n.peering.heard(t, "", plain)
	})
}

func TestTrafficMovesToEndpointsThatKubeProxyKnows(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		endpoints := func(e lb.NodeEndpoints) {
			w.cluster.edit(func(s *lb.Snapshot) {
				s.Services[0].TrafficPolicy, s.Services[0].Endpoints = lb.TrafficLocal, lb.Endpoints{IPv4: e, IPv6: e}
			})
			w.rest()
		}
		endpoints(lb.NodeEndpoints{"a": {Ready: 1}})
		w.cluster.edit(routed(peer("tor", false)))
		w.start()
		a, b := w.node("a").peering, w.node("b").peering
		a.heard(t, plain)
		endpoints(lb.NodeEndpoints{"a": {Terminating: 1}, "b": {Ready: 1}})
		a.heard(t, plain)
		b.heard(t, going)
		time.Sleep(catchUp)
		a.heard(t, plain, going)
		b.heard(t, going, plain)
		endpoints(lb.NodeEndpoints{"b": {Ready: 1}})
		a.heard(t, going, "")
		b.heard(t, plain)
	})
}

func TestAPanicOverBGPHarmsNothingElse(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		n := w.node("a")
		n.peering.fail(true)
		w.cluster.edit(func(s *lb.Snapshot) {
			s.BGPAdvertisements = []lb.BGPAdvertisement{{Name: "all"}}
			s.BGPPeers = []lb.BGPPeer{peer("tor", false)}
		})
		w.start()
		w.owned("a")
		n.peering.fail(false)
		w.cluster.edit(func(s *lb.Snapshot) { s.Nodes[0].Labels = map[string]string{"x": "y"} })
		w.rest()
		n.peering.heard(t, plain)
	})
}

// The object of a node that is deleted takes its labels along, but not the
// sessions of the peers that they selected.
// What next hops are chosen from reaches the sessions at once, and nothing else does: a
// Pod's interface comes and goes without an address that a router could reach.
func TestSessionsHearOfTheNodesAddresses(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		n := w.node("a")
		w.cluster.edit(routed(peer("tor", false)))
		w.cluster.edit(func(s *lb.Snapshot) {
			s.Services[0].Assigned = append(s.Services[0].Assigned, netip.MustParseAddr("2001:db8::9"))
		})
		w.start()
		w.rest()
		last := func() (eth bgp.HostInterface, sets int) {
			n.peering.mu.Lock()
			defer n.peering.mu.Unlock()
			for _, i := range n.peering.sessions[0].Interfaces {
				if i.Name == n.link.interfaces[0].Name {
					eth = i
				}
			}
			return eth, n.peering.sets
		}
		p, service := netip.MustParsePrefix("2001:db8::5/64"), netip.MustParsePrefix("2001:db8::9/64")
		before, sets := last()
		n.link.set(func(i *lb.Interface) {
			i.Addresses = append(slices.Clone(i.Addresses), p, service)
			i.Flags = map[netip.Prefix]lb.AddressFlags{p: lb.AddressDeprecated}
		})
		w.rest()
		eth, now := last()
		want := append(slices.Clone(before.Addresses), bgp.HostAddress{Prefix: p, Flags: lb.AddressDeprecated}, bgp.HostAddress{Prefix: service, Lent: true})
		for i := range eth.Addresses {
			eth.Addresses[i].Pooled = false
		}
		for i := range want {
			want[i].Pooled = false
		}
		if !slices.Equal(eth.Addresses, want) || now != sets+1 {
			t.Errorf("%d more, %+v, want %+v", now-sets, eth, want)
		}
		n.link.set(func(i *lb.Interface) { i.Carrier = !i.Carrier })
		w.rest()
		if _, again := last(); again != now {
			t.Errorf("decided again %d times", again-now)
		}
	})
}

func TestANodeThatIsDeletedLeavesEveryRouter(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		n := w.node("a")
		w.cluster.edit(func(s *lb.Snapshot) {
			p := peer("tor", false)
			p.NodeSelectors = []lb.Selector{{{Key: "rack", Operator: lb.In, Values: []string{"1"}}}}
			routed(p)(s)
			s.Nodes[0].Labels = map[string]string{"rack": "1"}
		})
		w.start()
		n.peering.heard(t, plain)
		w.cluster.edit(func(s *lb.Snapshot) { s.Nodes = s.Nodes[1:] })
		w.rest()
		n.peering.heard(t, plain, going)
		time.Sleep(grace)
		n.peering.heard(t, going, "")
	})
}

func TestMetricsFollowTheSessions(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	p := &fakePeering{changed: make(chan struct{}, 1), down: map[string]bool{"other": true}}
	newAdvertiser(Config{Node: "a", BGP: p}, nil, reg)
	p.Set([]bgp.Session{{Peer: peer("tor", false), Routes: []bgp.Route{{Prefix: netip.MustParsePrefix("2001:db8::1/128")}}}, {Peer: peer("other", false)}})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			key := f.GetName()
			for _, l := range m.Label {
				key += " " + l.GetValue()
			}
			got[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for key, want := range map[string]float64{
		"belfry_bgp_session_up tor": 1, "belfry_bgp_session_up other": 0, "belfry_bgp_session_state tor Established": 1,
		"belfry_bgp_prefixes sent tor": 1, "belfry_bgp_prefixes wanted other": 0,
		"belfry_bgp_session_last_error ConnectionRefused other": 1, "belfry_bgp_session_flaps_total tor": 0,
	} {
		if value, ok := got[key]; !ok || value != want {
			t.Errorf("%s is %v, want %v", key, value, want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}
