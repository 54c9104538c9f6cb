package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// withdraw leaves only one node eligible.
func only(node string) func(*lb.Snapshot) {
	return func(s *lb.Snapshot) {
		for i := range s.Nodes {
			s.Nodes[i].Drain = s.Nodes[i].Name != node
		}
	}
}

func anybody(s *lb.Snapshot) {
	for i := range s.Nodes {
		s.Nodes[i].Drain = false
	}
}

func TestNothingIsAnsweredBeforeTheClusterIsKnown(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		w.node("a").link.set(func(*lb.Interface) {})
		w.rest()
		w.owned("")
		if n := w.node("a").part; n.said != 0 || n.peers != nil {
			t.Errorf("published %d times and set peers %v", n.said, n.peers)
		}
		w.start()
		w.owned("a")
		if got := w.node("a").part.peers; !slices.Equal(got, []netip.Addr{nodeAddress(0)}) {
			t.Errorf("peers %v", got)
		}
	})
}

func TestNothingIsAnsweredWhileJoining(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		w.hub.become("a", election.Joining)
		w.start()
		w.owned("")
		w.hub.become("a", election.Alive)
		w.rest()
		w.owned("a")
	})
}

func TestAConvergedWorldIsLeftAlone(t *testing.T) {
	inWorld(t, []string{"a", "b", "c"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("b"))
		w.cluster.edit(on("b"))
		w.start()
		w.owned("b")
		said := w.node("b").part.said
		w.cluster.edit(anybody)
		w.hub.spread()
		for _, n := range w.nodes {
			n.link.set(func(*lb.Interface) {})
		}
		w.rest()
		time.Sleep(time.Hour)
		w.owned("b")
		if now := w.node("b").part.said; now != said {
			t.Errorf("published %d times; before %d", now, said)
		}
	})
}

func TestOnlyInterfacesThatCanAnnounceArePublished(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		w.start()
		got := w.node("a").part.local
		if len(got.Interfaces) != 1 || got.Interfaces[0].Name != "eth0" {
			t.Errorf("published %v", got.Interfaces)
		}
		if !slices.Equal(got.Owned, []netip.Addr{v4, v6}) {
			t.Errorf("owned %v", got.Owned)
		}
	})
}

func TestAnInterfaceThatFailsStopsAnsweringAtOnce(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.start()
		w.cluster.edit(anybody)
		w.rest()

		w.node("a").link.set(func(i *lb.Interface) { i.Carrier = false })
		synctest.Wait()
		w.owned("")
		time.Sleep(w.hub.delay + core.Pause)
		synctest.Wait()
		w.owned("b")
		w.rest()

		w.node("b").link.set(func(i *lb.Interface) { i.Carrier = false })
		w.rest()
		w.owned("")
	})
}

func TestACrashIsRepairedAtOnce(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.start()
		w.cluster.edit(anybody)
		w.rest()

		w.node("a").link.Set(nil) // as far as the wire is concerned
		w.hub.become("a", election.Gone)
		synctest.Wait()
		if got := w.who(v4); got != "b" {
			t.Errorf("after the crash %q answers", got)
		}
		answer := w.node("b").speaker.State().Answers[0]
		if answer.From != "a" || answer.Cause != core.OwnerLost || !answer.Since.Equal(time.Now()) {
			t.Errorf("it says that it came by the address so: %+v", answer)
		}
	})
}

func TestADrainedNodeAnswersUntilAnotherDoes(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
			w.lan.deaf = deaf
			w.cluster.edit(only("a"))
			w.start()
			w.owned("a")
			w.cluster.edit(only("b"))
			synctest.Wait()
			w.owned("a b")
			time.Sleep(w.hub.delay + core.Pause + wire)
			synctest.Wait()
			if deaf {
				w.owned("a b") // its successor was not heard: it lingers
				time.Sleep(core.Linger)
				synctest.Wait()
			}
			w.owned("b")
			if len(w.lan.gaps) > 0 {
				t.Errorf("nobody answered for %v", w.lan.gaps)
			}
		})
	}
}

func TestTheSpeakerOfADeletedNodeAnswersUntilAnotherDoes(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.start()
		w.owned("a")
		w.cluster.edit(func(s *lb.Snapshot) {
			s.Nodes = slices.DeleteFunc(s.Nodes, func(n lb.Node) bool { return n.Name == "a" })
			s.Nodes[0].Drain = false
		})
		synctest.Wait()
		w.owned("a b")
		time.Sleep(w.hub.delay + core.Pause + wire)
		synctest.Wait()
		w.owned("b")
		if len(w.lan.gaps) > 0 {
			t.Errorf("nobody answered for %v", w.lan.gaps)
		}
	})
}

// The successor's news may be faster than the owner's; its socket is still
// younger than its claim.
func TestADrainedNodeThatHearsOfItLastAnswersAMomentLonger(t *testing.T) {
	for _, c := range []struct {
		name  string
		drain func(*lb.Snapshot)
	}{
		{"drained", only("b")},
		{"deleted", func(s *lb.Snapshot) {
			s.Nodes = slices.DeleteFunc(s.Nodes, func(n lb.Node) bool { return n.Name == "a" })
			s.Nodes[0].Drain = false
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
				w.lan.deaf = true
				w.cluster.edit(only("a"))
				w.start()
				w.owned("a")
				w.cluster.delay("a", true)
				w.cluster.edit(c.drain)
				time.Sleep(w.hub.delay + core.Pause + wire)
				synctest.Wait()
				w.cluster.delay("a", false)
				time.Sleep(calm + core.Pause)
				synctest.Wait()
				w.owned("a b")
				time.Sleep(core.Linger + calm)
				synctest.Wait()
				w.owned("b")
				if len(w.lan.gaps) > 0 {
					t.Errorf("nobody answered for %v", w.lan.gaps)
				}
			})
		})
	}
}

// It cannot know that it may not announce any more, but hears that another does.
func TestANodeCutOffFromTheAPIServerAloneGivesUpWhatAnotherClaims(t *testing.T) {
	inWorld(t, []string{"a", "b", "c"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.start()
		w.cluster.edit(anybody)
		w.rest()
		w.owned("a")
		w.cluster.delay("a", true)
		time.Sleep(time.Hour)
		synctest.Wait()
		w.owned("a")
		w.cluster.edit(only("b"))
		w.rest()
		time.Sleep(core.Linger + calm)
		synctest.Wait()
		w.owned("b")
		if len(w.lan.gaps) > 0 {
			t.Errorf("nobody answered for %v", w.lan.gaps)
		}
	})
}

func TestASpeakerThatLeavesHandsOverFirst(t *testing.T) {
	inWorld(t, []string{"a", "b", "c"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.start()
		w.cluster.edit(anybody)
		w.rest()
		start := time.Now()
		w.node("a").stop()
		<-w.node("a").done
		if took := time.Since(start); took > 50*time.Millisecond {
			t.Errorf("left only after %v", took)
		}
		if len(w.lan.gaps) > 0 {
			t.Errorf("nobody answered for %v", w.lan.gaps)
		}
		for _, a := range []netip.Addr{v4, v6} {
			if got := w.who(a); got != "b" && got != "c" {
				t.Errorf("%v is answered for by %q", a, got)
			}
		}
		if local := w.node("a").part.local; !local.Leaving || len(local.Owned) > 0 {
			t.Errorf("last words: %+v", local)
		}
		w.rest()
		if len(w.lan.gaps) > 0 {
			t.Errorf("nobody answered for %v", w.lan.gaps)
		}
	})
}

func TestASpeakerThatIsAloneLeavesAtOnce(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		w.start()
		w.owned("a")
		start := time.Now()
		w.node("a").stop()
		<-w.node("a").done
		if took := time.Since(start); took > 0 {
			t.Errorf("left only after %v", took)
		}
		w.owned("")
	})
}

func TestASpeakerThatNobodyRelievesLeavesInTheEnd(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.start()
		w.cluster.edit(anybody)
		w.rest()
		w.hub.delay = time.Hour // nobody hears of it
		start := time.Now()
		w.node("a").stop()
		time.Sleep(core.Farewell - time.Millisecond)
		synctest.Wait()
		w.owned("a")
		<-w.node("a").done
		if took := time.Since(start); took != core.Farewell {
			t.Errorf("left after %v", took)
		}
		if w.node("a").link.answers(v4) {
			t.Error("answers after it has left")
		}
	})
}

func TestStoppedBeforeTheClusterIsKnown(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		w.node("a").stop()
		<-w.node("a").done
		if w.node("a").part.said > 0 {
			t.Error("published something")
		}
	})
}

// heard lets the node's link hear a claim and returns after it was acted on.
func (w *fakeWorld) heard(node string, a netip.Addr, mac lb.MAC, kind layer2.HeardKind) {
	w.node(node).link.heard <- layer2.Heard{At: time.Now(), Address: a, MAC: mac, Interface: 2, Kind: kind}
	synctest.Wait()
}

func TestARivalIsAnsweredByAnAnnouncementAtMostOnceASecond(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.start()
		rival := w.node("b").link.interfaces[0].MAC
		for _, kind := range layer2.HeardKinds {
			w.heard("a", v4, rival, kind)
			w.heard("a", v6, rival, kind)
		}
		if got := w.node("a").link.announcements(); !slices.Equal(got, []netip.Addr{v4, v6}) {
			t.Errorf("announced %v", got)
		}
		time.Sleep(core.RivalPause)
		w.heard("a", v6, rival, layer2.HeardReply)
		if got := w.node("a").link.announcements(); !slices.Equal(got, []netip.Addr{v4, v6, v6}) {
			t.Errorf("announced %v", got)
		}
		w.owned("a")
		if conflicts := w.node("a").speaker.State().Conflicts; len(conflicts) > 0 {
			t.Errorf("a speaker is told as a conflict: %v", conflicts)
		}
	})
}

// A partition heals: both claim, the one with the better claim stays, the other
// stops without lingering, and then the first announces again.
func TestOneOfTwoClaimantsStopsAtOnceAndTheOtherAnnounces(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.lan.deaf = true
		w.hub.delay = time.Hour
		a, b := w.node("a").part, w.node("b").part
		a.members, b.members = nil, nil
		a.refresh()
		b.refresh()
		w.start()
		w.owned("a b")
		w.cluster.edit(on("a"))
		w.rest()
		w.cluster.edit(on("b"))
		w.rest()
		w.hub.delay = 2 * time.Millisecond
		b.own.Set(nil, election.Majority)
		b.own.Witness(9)
		b.own.Set([]netip.Addr{v4, v6}, election.Majority) // the later claim
		start := time.Now()
		w.hub.spread()
		synctest.Wait()
		w.owned("b")
		if took := time.Since(start); took > core.Pause {
			t.Errorf("healed only after %v", took)
		}
		time.Sleep(w.hub.delay + core.Pause)
		synctest.Wait()
		if got := w.node("b").link.announcements(); !slices.Equal(got, []netip.Addr{v4, v6}) {
			t.Errorf("the winner announced %v", got)
		}
		time.Sleep(core.YieldPause)
		synctest.Wait()
		if got := w.node("b").link.announcements(); !slices.Equal(got, []netip.Addr{v4, v6, v4, v6}) {
			t.Errorf("once the loser has let go, the winner has announced %v", got)
		}
		if got := w.node("a").link.announcements(); len(got) > 0 {
			t.Errorf("the loser announced %v", got)
		}
		for node, want := range map[string]float64{"a": 0, "b": 2} {
			if n := testutil.ToFloat64(w.node(node).speaker.metrics.wins); n != want {
				t.Errorf("%s has won %v contests, by the metric", node, n)
			}
		}
	})
}

// By question and answer the two kernels learn of each other again.
func TestASpeakerThatGossipHasLostIsAskedWhenItIsHeard(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.start()
		b := w.node("b").link.interfaces[0].MAC
		w.heard("a", v4, b, layer2.HeardAnnouncement)
		if got := w.node("a").link.probed; len(got) > 0 {
			t.Errorf("a member is asked: %q", got)
		}
		w.hub.become("b", election.Gone)
		w.rest()
		for range 5 { // over 160 ms
			w.heard("a", v6, b, layer2.HeardAnnouncement)
			time.Sleep(40 * time.Millisecond)
		}
		time.Sleep(core.KnockPause)
		w.heard("a", v4, b, layer2.HeardReply)
		knock, ask := "2 192.0.2.12 02:00:00:00:00:0c", "2 2001:db8::1 02:00:00:00:00:0c"
		got := map[string]int{}
		for _, q := range w.node("a").link.probed {
			got[q]++
		}
		// What it claims it is asked for, too.
		if got[knock] != 2 || got[ask] == 0 || len(got) != 2 {
			t.Errorf("asked %v", got)
		}
	})
}

func TestAStrangerIsReportedOnce(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		w.start()
		time.Sleep(time.Minute) // it has been in service for long
		mac := lb.MAC{0xde, 0xad, 0, 0, 0, 1}
		w.heard("a", v4, mac, layer2.HeardProbe) // only means to
		for range 3 {
			w.heard("a", v4, mac, layer2.HeardReply)
			w.heard("a", v6, mac, layer2.HeardAnnouncement)
		} // it may be a speaker that gossip has not told of yet
		time.Sleep(core.Acquaintance)
		w.rest()
		conflicts := func() (out []string) {
			for _, c := range w.node("a").speaker.State().Conflicts {
				out = append(out, fmt.Sprint(c.MAC, " ", c.Address, " ", c.Heard))
			}
			return out
		}
		want := []string{"de:ad:00:00:00:01 192.0.2.1 reply", "de:ad:00:00:00:01 2001:db8::1 announcement"}
		if got := conflicts(); !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		time.Sleep(core.ConflictPause)
		w.heard("a", v4, mac, layer2.HeardRequest)
		w.rest()
		if got := conflicts(); !slices.Equal(got, append(want, "de:ad:00:00:00:01 192.0.2.1 request")) {
			t.Errorf("told %q", got)
		}
		w.owned("a")
	})
}

func TestStrangersAreCountedByHardwareAddress(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		w.start()
		time.Sleep(time.Minute)
		for i := range namedMost + 3 {
			for range 2 {
				w.heard("a", v6, lb.MAC{0xde, 5: byte(i)}, layer2.HeardReply)
				time.Sleep(core.Acquaintance)
			}
		}
		w.rest()
		m := w.node("a").speaker.metrics.conflicts
		reg := prometheus.NewRegistry()
		reg.MustRegister(m)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, m := range families[0].GetMetric() {
			got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
		if len(got) != namedMost+1 || got["de:00:00:00:00:00"] != 2 || got[others] != 6 {
			t.Errorf("counted %v", got)
		}
	})
}

func TestTheFirstEventsActAtOnceAndABurstIsAFewPasses(t *testing.T) {
	inWorld(t, []string{"a"}, func(t *testing.T, w *fakeWorld) {
		w.start()
		time.Sleep(time.Minute)
		synctest.Wait()
		before := w.cluster.reads
		// Whatever came before: each is acted on before time passes.
		for i := range prompt {
			wanted := []string{"", "a"}[i%2]
			w.cluster.edit([]func(*lb.Snapshot){only("nobody"), anybody}[i%2])
			synctest.Wait()
			w.owned(wanted)
		}
		for range 100 {
			w.cluster.edit(anybody)
			time.Sleep(10 * time.Microsecond)
		}
		synctest.Wait()
		w.owned("")
		time.Sleep(leisurely)
		synctest.Wait()
		w.owned("a")
		if n := w.cluster.reads - before; n != prompt+1 {
			t.Errorf("the cluster was read %d times", n)
		}
	})
}

// However events come, looks take no more than their share of the time.
func TestLooksTakeTheirShareOfTheTimeAndNoMore(t *testing.T) {
	for _, cost := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 100 * time.Millisecond} {
		var p pace
		begun := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		now := begun
		const looks = 1000
		for i := range looks {
			if at := p.next(); at.After(now) {
				if i < prompt {
					t.Errorf("looks of %v: the %dth waits for %v", cost, i+1, at.Sub(now))
				}
				now = at
			}
			p.spend(now, now.Add(cost))
			now = now.Add(cost)
		}
		each := min(max(leisurely, idle*cost), latest)
		if took := now.Sub(begun); took < (looks-prompt)*each || took > looks*(each+cost) {
			t.Errorf("%d looks of %v take %v", looks, cost, took)
		}
	}
	// What costs little is not kept waiting for long by what has cost much.
	var p pace
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, cost := range []time.Duration{time.Second, time.Second, time.Second, time.Second, time.Second, 0} {
		p.spend(now, now.Add(cost))
		now = now.Add(cost)
	}
	if wait := p.next().Sub(now); wait > latest {
		t.Errorf("the next look waits for %v", wait)
	}
}

func TestAMemberDoesNotWaitForTheAPIServersNews(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.start()
		w.cluster.edit(anybody)
		w.rest()
		time.Sleep(time.Minute)
		for range prompt { // after which the next look waits
			w.cluster.edit(func(*lb.Snapshot) {})
			synctest.Wait()
		}
		w.cluster.edit(func(*lb.Snapshot) {})
		before := w.cluster.reads
		w.node("a").link.Set(nil)
		w.hub.become("a", election.Gone)
		time.Sleep(core.Pause)
		synctest.Wait()
		if got := w.who(v6); got != "b" {
			t.Errorf("%q answers", got)
		}
		if w.cluster.reads != before {
			t.Error("it read the cluster")
		}
	})
}

type fakeProber struct {
	interfaces []lb.Interface
	answers    map[netip.Addr]election.Reply
	asked      chan netip.Addr
}

func (p fakeProber) Interfaces() []lb.Interface { return p.interfaces }
func (p fakeProber) Probe(ctx context.Context, ifindex int, target netip.Addr, mac lb.MAC) (bool, error) {
	p.asked <- target
	switch p.answers[target] {
	case election.Answers:
		return true, nil
	case election.Silent:
		time.Sleep(60 * time.Millisecond)
		return false, nil
	default:
		return false, errors.New("cannot ask")
	}
}

func TestASuspectIsAskedOnTheSegmentsItShares(t *testing.T) {
	prefixes := func(texts ...string) (out []netip.Prefix) {
		for _, s := range texts {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	mac := lb.MAC{2}
	ours := []lb.Interface{
		{Index: 2, MAC: mac, Up: true, Carrier: true, Addresses: prefixes("192.0.2.1/24", "2001:db8::1/64", "fe80::1/64")},
		{Index: 3, MAC: mac, Up: true, Carrier: true, Addresses: prefixes("198.51.100.1/24", "fe80::1/64")},
		{Index: 4, MAC: mac, Up: true, Addresses: prefixes("203.0.113.1/24")},
	}
	addr := netip.MustParseAddr
	for _, c := range []struct {
		name    string
		theirs  [][]netip.Prefix
		claims  []netip.Addr
		answers map[netip.Addr]election.Reply
		want    election.Reply
		asked   []netip.Addr
	}{
		{"answers", [][]netip.Prefix{prefixes("192.0.2.2/24")}, nil, map[netip.Addr]election.Reply{addr("192.0.2.2"): election.Answers}, election.Answers, []netip.Addr{addr("192.0.2.2")}},
		{"silent, IPv6", [][]netip.Prefix{prefixes("fe80::2/64", "2001:db8::2/64")}, nil, map[netip.Addr]election.Reply{addr("2001:db8::2"): election.Silent}, election.Silent, []netip.Addr{addr("2001:db8::2")}},
		{"no question leaves", [][]netip.Prefix{prefixes("192.0.2.2/24")}, nil, nil, election.Unknown, []netip.Addr{addr("192.0.2.2")}},
		{"link-local addresses name no segment", [][]netip.Prefix{prefixes("fe80::2/64")}, nil, nil, election.Unknown, nil},
		{"our interface is down", [][]netip.Prefix{prefixes("203.0.113.2/24")}, nil, nil, election.Unknown, nil},
		{"no shared subnet", [][]netip.Prefix{prefixes("10.0.0.2/24", "2001:db8:1::2/64")}, nil, nil, election.Unknown, nil},
		{
			"one silent, one not askable",
			[][]netip.Prefix{prefixes("192.0.2.2/24"), prefixes("198.51.100.2/24")},
			nil,
			map[netip.Addr]election.Reply{addr("198.51.100.2"): election.Silent},
			election.Silent,
			[]netip.Addr{addr("192.0.2.2"), addr("198.51.100.2")},
		},
		{
			"one silent, one answers",
			[][]netip.Prefix{prefixes("192.0.2.2/24"), prefixes("198.51.100.2/24")},
			nil,
			map[netip.Addr]election.Reply{addr("192.0.2.2"): election.Answers, addr("198.51.100.2"): election.Silent},
			election.Answers,
			[]netip.Addr{addr("192.0.2.2"), addr("198.51.100.2")},
		},
		{
			"its speaker answers, its kernel has another address by now",
			[][]netip.Prefix{prefixes("192.0.2.2/24")},
			[]netip.Addr{addr("192.0.2.200")},
			map[netip.Addr]election.Reply{addr("192.0.2.2"): election.Silent, addr("192.0.2.200"): election.Answers},
			election.Speaks,
			[]netip.Addr{addr("192.0.2.2"), addr("192.0.2.200")},
		},
		{
			"its speaker is silent, IPv6",
			[][]netip.Prefix{prefixes("2001:db8::2/64")},
			[]netip.Addr{addr("2001:db8::200")},
			map[netip.Addr]election.Reply{addr("2001:db8::2"): election.Answers, addr("2001:db8::200"): election.Silent},
			election.Answers,
			[]netip.Addr{addr("2001:db8::2"), addr("2001:db8::200")},
		},
		{
			"its speaker is asked for what belongs to the segment",
			[][]netip.Prefix{prefixes("192.0.2.2/24", "2001:db8::2/64")},
			[]netip.Addr{addr("203.0.113.200"), addr("2001:db8::200")},
			map[netip.Addr]election.Reply{addr("192.0.2.2"): election.Silent, addr("2001:db8::200"): election.Silent},
			election.Silent,
			[]netip.Addr{addr("192.0.2.2"), addr("2001:db8::200")},
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := fakeProber{ours, c.answers, make(chan netip.Addr, 16)}
			suspect := election.Member{Node: "b", Claims: election.Claims{}}
			for _, a := range c.claims {
				suspect.Claims[a] = election.Claim{Quorum: election.Majority}
			}
			for _, addresses := range c.theirs {
				suspect.Interfaces = append(suspect.Interfaces, lb.Interface{Index: 9, MAC: lb.MAC{2, 2}, Addresses: addresses})
			}
			if got := NewConfirmer(p).Confirm(t.Context(), election.Question{Suspect: suspect}); got != c.want {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
			}
			synctest.Wait()
			close(p.asked)
			var asked []netip.Addr
			for a := range p.asked {
				asked = append(asked, a)
			}
			slices.SortFunc(asked, netip.Addr.Compare)
			if !slices.Equal(asked, c.asked) {
				t.Errorf("%s: asked %v, want %v", c.name, asked, c.asked)
			}
			time.Sleep(time.Second)
		})
	}
}
