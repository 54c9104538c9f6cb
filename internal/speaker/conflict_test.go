package speaker

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

var foreign = lb.MAC{0xde, 0xad, 0, 0, 0, 1}

// use lets a stranger use addresses on everybody's segment; none ends that.
func (w *fakeWorld) use(mac lb.MAC, addresses ...netip.Addr) {
	for _, n := range w.nodes {
		n.link.mu.Lock()
		n.link.strangers = map[netip.Addr]lb.MAC{}
		for _, a := range addresses {
			n.link.strangers[a] = mac
		}
		n.link.mu.Unlock()
	}
}

// deliberate lets asking take as long as it does on a real segment.
func (w *fakeWorld) deliberate() {
	for _, n := range w.nodes {
		n.link.mu.Lock()
		n.link.detection = 500 * time.Millisecond
		n.link.mu.Unlock()
	}
}

// policy sets what to do about conflicts.
func policy(p lb.ConflictPolicy) func(*lb.Snapshot) {
	return func(s *lb.Snapshot) {
		s.L2Advertisements = slices.Clone(s.L2Advertisements)
		s.L2Advertisements[0].ConflictPolicy = p
	}
}

// claimedBy returns what a node claims by gossip.
func (w *fakeWorld) claimedBy(node string) []netip.Addr {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	return w.node(node).part.local.Owned
}

// asked returns about which addresses it was asked.
func (l *fakeLink) asked() []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.detected)
}

func TestAnAddressIsNotAnsweredForUntilItsSegmentWasAsked(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.deliberate()
		w.cluster.edit(only("a"))
		w.start()
		w.owned("")
		if owned := w.claimedBy("a"); len(owned) > 0 {
			t.Errorf("claims %v", owned)
		}
		time.Sleep(500 * time.Millisecond)
		w.rest()
		w.owned("a")
		if got := w.node("a").link.asked(); !slices.Equal(got, []netip.Addr{v4, v6}) || len(w.node("b").link.asked()) > 0 {
			t.Errorf("a asked about %v, b about %v", got, w.node("b").link.asked())
		}
	})
}

func TestAnAddressThatAStrangerUsesIsWithheldUntilTheStrangerLeaves(t *testing.T) {
	for _, c := range []struct {
		used, free netip.Addr
	}{{v4, v6}, {v6, v4}} {
		inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
			w.deliberate()
			w.use(foreign, c.used)
			w.cluster.edit(only("a"))
			w.cluster.edit(on("a"))
			w.start()
			time.Sleep(4 * time.Second)
			if w.who(c.used) != "" || w.who(c.free) != "a" {
				t.Errorf("%q answers for the stranger's address, %q for the other", w.who(c.used), w.who(c.free))
			}
			withheld := func() float64 { return testutil.ToFloat64(w.node("a").speaker.metrics.withheld) }
			if n := withheld(); n != 1 {
				t.Errorf("%v addresses withheld, by the metric", n)
			}
			state := w.node("a").speaker.State()
			if by := state.Withheld[c.used]; by.MAC != foreign || len(state.Withheld) != 1 {
				t.Errorf("withheld, it tells: %v", state.Withheld)
			}
			asked := len(w.node("a").link.asked())
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if n := len(w.node("a").link.asked()) - asked; n < 15 || n > 21 {
				t.Errorf("asked %d times in 10 minutes", n)
			}
			w.use(foreign)
			time.Sleep(31 * time.Second)
			w.rest()
			w.owned("a")
			if n := withheld(); n != 0 {
				t.Errorf("%v addresses withheld, by the metric, though the stranger has left", n)
			}
		})
	}
}

func TestNoFailoverWaitsForTheSegmentToBeAsked(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.start()
		w.owned("a")
		w.cluster.edit(anybody)
		w.rest()
		w.deliberate()
		w.use(foreign, v4, v6) // were it asked, it would withhold them
		w.node("a").link.Set(nil)
		w.hub.become("a", election.Gone)
		time.Sleep(core.Pause)
		synctest.Wait()
		if w.who(v4) != "b" || w.who(v6) != "b" || len(w.node("b").link.asked()) > 0 {
			t.Errorf("%q and %q answer; b asked about %v", w.who(v4), w.who(v6), w.node("b").link.asked())
		}
	})
}

func TestWhatWasAnnouncedBeforeTheSpeakerStartedIsInService(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		w.deliberate()
		w.use(foreign, v4, v6)
		w.cluster.edit(func(s *lb.Snapshot) { s.Services[0].Announced = true })
		close(w.cluster.synced)
		synctest.Wait()
		w.owned("a")
		if got := w.node("a").link.asked(); len(got) > 0 {
			t.Errorf("asked about %v", got)
		}
	})
}

func TestAnAddressThatComesLaterIsAskedAboutWhateverItsServiceSays(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		w.start()
		w.deliberate()
		other := netip.MustParseAddr("192.0.2.9")
		w.use(foreign, other)
		w.cluster.edit(func(s *lb.Snapshot) { s.Services[0].Assigned = []netip.Addr{other, v6} })
		time.Sleep(time.Second)
		w.rest()
		if w.who(other) != "" || w.who(v6) != "a" {
			t.Errorf("%q answers for %v, %q for %v", w.who(other), other, w.who(v6), v6)
		}
	})
}

func TestDefendAndIgnoreAskNobody(t *testing.T) {
	for _, p := range []lb.ConflictPolicy{lb.ConflictDefend, lb.ConflictIgnore} {
		inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
			w.deliberate()
			w.use(foreign, v4, v6)
			w.cluster.edit(policy(p))
			close(w.cluster.synced)
			synctest.Wait()
			w.owned("a")
		})
	}
}

func TestAStrangerIsDefendedAgainstAtMostOnceInTenSeconds(t *testing.T) {
	for _, c := range []struct {
		policy lb.ConflictPolicy
		want   int
	}{{lb.ConflictDefend, 3}, {lb.ConflictWithhold, 0}, {lb.ConflictIgnore, 0}} {
		inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
			w.cluster.edit(policy(c.policy))
			w.start()
			time.Sleep(time.Minute)
			for range 250 { // 25 seconds
				for _, a := range []netip.Addr{v4, v6} {
					w.heard("a", a, foreign, layer2.HeardAnnouncement)
				}
				time.Sleep(100 * time.Millisecond)
			}
			var want []netip.Addr
			for range c.want {
				want = append(want, v4, v6)
			}
			w.node("a").link.mu.Lock()
			got := slices.Clone(w.node("a").link.defended)
			w.node("a").link.mu.Unlock()
			slices.SortStableFunc(got, netip.Addr.Compare)
			slices.SortStableFunc(want, netip.Addr.Compare)
			if !slices.Equal(got, want) {
				t.Errorf("policy %v: defended %v, want %v", c.policy, got, want)
			}
			if n := testutil.ToFloat64(w.node("a").speaker.metrics.defenses); n != float64(len(want)) {
				t.Errorf("policy %v: %v defenses counted, want %d", c.policy, n, len(want))
			}
			w.owned("a")
		})
	}
}

func TestAStrangerThatWasSlowToAnswerWasThereFirst(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.start()
		w.owned("a")
		w.use(foreign, v6)
		w.heard("a", v6, foreign, layer2.HeardAnnouncement)
		time.Sleep(core.Acquaintance)
		w.rest()
		if w.who(v6) != "" || w.who(v4) != "a" {
			t.Errorf("%q answers for %v, %q for %v", w.who(v6), v6, w.who(v4), v4)
		}
		if owned := w.claimedBy("a"); !slices.Equal(owned, []netip.Addr{v4}) {
			t.Errorf("claims %v", owned)
		}
		w.use(foreign)
		time.Sleep(31 * time.Second)
		w.rest()
		w.owned("a")
	})
}

func TestASpeakerThatGossipHasNotToldOfIsNoStranger(t *testing.T) {
	// Its hardware address is new; gossip tells of it a moment later.
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.start()
		w.cluster.edit(anybody)
		w.rest()
		mac := lb.MAC{2, 4: 7, 5: 7}
		w.heard("a", v4, mac, layer2.HeardAnnouncement)
		w.node("b").link.set(func(i *lb.Interface) { i.MAC = mac })
		time.Sleep(core.Acquaintance)
		w.rest()
		w.owned("a")
	})
	// It was never heard, but the API server knows its Node.
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		mac, address := lb.MAC{2, 4: 7, 5: 7}, netip.MustParseAddr("192.0.2.77")
		w.node("a").link.mine = map[lb.MAC]netip.Addr{mac: address}
		w.cluster.edit(func(s *lb.Snapshot) {
			s.Nodes = append(s.Nodes, lb.Node{Name: "c", Addresses: []netip.Addr{address}})
		})
		w.use(mac, v4) // it answers for the address, or asks about it as well
		w.start()
		time.Sleep(5 * time.Second)
		w.owned("a")
		w.heard("a", v6, mac, layer2.HeardReply)
		w.heard("a", v6, foreign, layer2.HeardReply)
		time.Sleep(core.Acquaintance)
		w.rest()
		if w.who(v6) != "" || w.who(v4) != "a" {
			t.Errorf("%q answers for %v, %q for %v", w.who(v6), v6, w.who(v4), v4)
		}
	})
}

func TestASegmentThatCannotBeAskedIsNotWaitedForForEver(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		w.node("a").link.broken = true
		w.start()
		w.owned("")
		time.Sleep(5 * time.Second)
		w.owned("a")
	})
}

func TestASpeakerThatLeavesAsksAboutNothing(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		w.deliberate()
		w.start()
		start := time.Now()
		w.node("a").stop()
		<-w.node("a").done
		if took := time.Since(start); took > 0 {
			t.Errorf("left only after %v", took)
		}
		w.owned("")
	})
}
