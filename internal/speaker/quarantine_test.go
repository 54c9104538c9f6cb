package speaker

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// fatal is an address over which faulty speakers panic.
var fatal = netip.MustParseAddr("192.0.2.66")

// faulty has the speaker of a node panic over Services that hold an address.
func (n *fakeNode) faulty() {
	n.speaker.core = core.New(core.Config{
		Node: n.name, Gossip: n.speaker.cfg.Gossip,
		Decide: func(ix *announce.Index, members []election.Member, turns *election.Holdoff, self string) announce.Intent {
			if ix.Uses(fatal) {
				panic("a fault over layer 2")
			}
			return announce.Decide(ix, members, turns, self)
		},
	})
	n.speaker.advertiser.decide = func(s lb.Snapshot, node string, o bgp.Options) bgp.Intent {
		if slices.ContainsFunc(s.Services, func(s lb.Service) bool { return slices.Contains(s.Assigned, fatal) }) {
			panic("a fault over BGP")
		}
		return bgp.Decide(s, node, o)
	}
}

// holds has a Service hold addresses.
func holds(key lb.ServiceKey, addresses ...netip.Addr) func(*lb.Snapshot) {
	return func(s *lb.Snapshot) {
		s.Services = slices.Clone(s.Services)
		for i := range s.Services {
			if s.Services[i].Key == key {
				s.Services[i].Assigned = addresses
				return
			}
		}
		added := s.Services[0]
		added.Key, added.Assigned = key, addresses
		s.Services = append(s.Services, added)
	}
}

// All speakers fail over the same Service: its addresses go on being answered for, and
// all others are served, by both protocols.
func TestAServiceOverWhichSpeakersPanicIsSetAside(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		for _, n := range w.nodes {
			n.faulty()
		}
		w.cluster.edit(func(s *lb.Snapshot) {
			s.BGPAdvertisements, s.BGPPeers = []lb.BGPAdvertisement{{Name: "all"}}, []lb.BGPPeer{peer("tor", false)}
		})
		w.start()
		owner := w.who(v4)
		if owner == "" || w.who(v6) == "" {
			t.Fatal("nobody answers")
		}
		six := w.who(v6)
		w.cluster.edit(holds(webA, v4, v6, fatal))
		w.rest()
		other := lb.ServiceKey{Namespace: "web", Name: "b"}
		four2, six2 := v4.Next(), v6.Next()
		w.cluster.edit(holds(other, four2, six2))
		w.rest()
		if now := w.who(v4) + w.who(v6); now != owner+six {
			t.Errorf("%s answer for what was set aside, before %s", now, owner+six)
		}
		if w.who(four2) == "" || w.who(six2) == "" {
			t.Error("nobody answers for another Service")
		}
		for _, n := range w.nodes {
			if got := n.speaker.State().Aside; len(got) != 1 || got[0] != webA {
				t.Errorf("%s says that %v are set aside", n.name, got)
			}
		}
		const both = "tor: 192.0.2.1/32; tor: 192.0.2.2/32; tor: 2001:db8::1/128; tor: 2001:db8::2/128"
		w.node("a").peering.heard(t, plain, both)

		// One that was never well is left out; what changes is looked at again.
		never := lb.ServiceKey{Namespace: "web", Name: "c"}
		w.cluster.edit(holds(never, fatal))
		w.rest()
		if got := w.node("b").speaker.State().Aside; len(got) != 2 || got[1] != never {
			t.Errorf("%v are set aside", got)
		}
		w.cluster.edit(holds(webA, v4, v6))
		w.cluster.edit(holds(never, four2))
		w.rest()
		for _, n := range w.nodes {
			if got := n.speaker.State().Aside; len(got) != 0 {
				t.Errorf("%s says that %v are set aside still", n.name, got)
			}
		}
		if now := w.who(v4) + w.who(v6); now != owner+six {
			t.Errorf("%s answer in the end, before %s", now, owner+six)
		}
		w.node("a").peering.heard(t, both)
	})
}
