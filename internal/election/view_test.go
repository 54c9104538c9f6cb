package election

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A fixture is a View of node "a" among "b" and "c", and what it was told to do.
type fixture struct {
	*testing.T
	v    *View
	now  time.Duration
	last Effects
	all  Effects // Tells, questions and exchanges since they were looked at.
	list []Member
}

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("2001:db8::b")
	addrC = netip.MustParseAddr("192.0.2.3")
)

func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, v: NewView("a", addrA, 100, DefaultPace(3, 1500*time.Millisecond, 300*time.Millisecond))}
	f.settle()
	return f
}

func (f *fixture) settle() {
	f.last = f.v.Settle(f.now)
	f.all.Tells = append(f.all.Tells, f.last.Tells...)
	f.all.Questions = append(f.all.Questions, f.last.Questions...)
	f.all.Exchanges = append(f.all.Exchanges, f.last.Exchanges...)
	f.all.Urgent = append(f.all.Urgent, f.last.Urgent...)
	f.all.Refute = f.all.Refute || f.last.Refute
	if f.last.Members != nil {
		f.list = f.last.Members
	}
}

// pass lets time pass, and the View act whenever it wants to.
func (f *fixture) pass(d time.Duration) {
	for end := f.now + d; ; f.settle() {
		if f.last.Next > end {
			f.now = end
			f.settle()
			return
		}
		f.now = max(f.last.Next, f.now+time.Millisecond)
	}
}

func (f *fixture) did() Effects {
	e := f.all
	f.all = Effects{}
	return e
}

func (f *fixture) state(node string) State {
	for _, m := range f.list {
		if m.Node == node {
			return m.State
		}
	}
	return Gone
}

func (f *fixture) own() Record { return *f.v.latest }

func rec(node string, addr netip.Addr, seq uint64, joining bool, c Claims) *Record {
	return &Record{Node: node, Address: addr, Boot: 1, Seq: seq, Epoch: 5, Joining: joining, Whole: true, Claims: c}
}

// together brings the three together, b claiming v4.
func (f *fixture) together() {
	f.v.SetPeers(f.now, []netip.Addr{addrA, addrB, addrC})
	f.v.Heard(f.now, "b", addrB)
	f.v.Heard(f.now, "c", addrC)
	f.v.ReceiveState(f.now, []*Record{rec("b", addrB, 1, false, Claims{v4: claim(Majority, 5)}), rec("c", addrC, 1, false, Claims{})})
	f.v.Receive(f.now, rec("c", addrC, 1, false, Claims{}), Direct)
	f.settle()
	f.pass(2 * time.Second) // So that it is sure of that.
	if f.state("a") != Alive || f.state("b") != Alive || f.state("c") != Alive {
		f.Fatalf("they do not come together: %+v", f.list)
	}
	f.did()
}

func TestANodeLearnsBeforeItMayClaim(t *testing.T) {
	f := newFixture(t)
	f.pass(time.Hour)
	if f.state("a") != Joining {
		t.Error("it may claim although nobody has said where the others are")
	}
	f.v.SetPeers(f.now, []netip.Addr{addrA, addrB, addrC})
	f.v.Heard(f.now, "b", addrB)
	f.v.Heard(f.now, "c", addrC)
	f.settle()
	f.v.ReceiveState(f.now, []*Record{rec("b", addrB, 1, false, Claims{v4: claim(Majority, 5)}), rec("c", addrC, 1, false, Claims{v6: claim(Majority, 5)})})
	f.settle()
	if f.state("a") != Joining || f.state("b") != Alive || f.state("c") != Joining {
		t.Errorf("it goes by hearsay: a %v, b %v, c %v", f.state("a"), f.state("b"), f.state("c"))
	}
	if !slices.Contains(f.did().Tells, Tell{To: addrC, Kind: Knock}) {
		t.Error("it does not ask c itself")
	}
	f.v.Receive(f.now, rec("c", addrC, 1, false, Claims{v6: claim(Majority, 5)}), Direct)
	f.settle()
	if f.state("a") != Alive || f.state("c") != Alive || f.own().Joining {
		t.Errorf("it still does not know: a %v, c %v", f.state("a"), f.state("c"))
	}
}

func TestNodesThatStartTogetherNeedNotWait(t *testing.T) {
	f := newFixture(t)
	f.v.SetPeers(f.now, []netip.Addr{addrB, addrA})
	f.settle()
	f.v.Heard(f.now, "b", addrB)
	f.v.ReceiveState(f.now, []*Record{rec("b", addrB, 1, true, Claims{})})
	f.settle()
	if f.state("a") != Alive {
		t.Errorf("a is %v", f.state("a"))
	}
}

func TestANodeThatFindsNobodyClaimsBlindly(t *testing.T) {
	f := newFixture(t)
	f.v.SetPeers(f.now, []netip.Addr{addrA, addrB})
	f.settle()
	f.pass(999 * time.Millisecond)
	if f.state("a") != Joining {
		t.Error("it does not wait")
	}
	f.pass(time.Millisecond)
	f.v.SetLocal(Local{Owned: []netip.Addr{v4}})
	f.settle()
	if f.state("a") != Alive || f.own().Claims[v4].Quorum != Blind {
		t.Errorf("a is %v and claims %v", f.state("a"), f.own().Claims)
	}
	// Another one appears, and owns something else.
	f.v.Heard(f.now, "b", addrB)
	f.v.ReceiveState(f.now, []*Record{rec("b", addrB, 1, false, Claims{v6: claim(Majority, 40)})})
	f.settle()
	f.pass(1500 * time.Millisecond)
	if got := f.own().Claims[v4]; got.Quorum != Majority {
		t.Errorf("uncontested, but %v", got)
	}
}

func TestMissingPeersAreCalledForEver(t *testing.T) {
	f := newFixture(t)
	f.together()
	f.v.Lost(f.now, "b")
	f.settle()
	f.v.Answered(f.now, "b", Answer{f.last.Questions[0].Round, Silent, PortSilent})
	f.settle()
	if e := f.did(); !slices.Contains(e.Tells, Tell{To: addrB, Kind: Knock}) || !slices.Contains(e.Exchanges, addrB) {
		t.Errorf("not at once: %+v", e)
	}
	f.pass(24 * time.Hour)
	f.did()
	f.pass(10 * time.Second)
	knocks, exchanges := 0, 0
	e := f.did()
	for _, tell := range e.Tells {
		if tell == (Tell{To: addrB, Kind: Knock}) {
			knocks++
		}
	}
	for _, a := range e.Exchanges {
		if a == addrB {
			exchanges++
		}
	}
	if knocks < 75 || knocks > 140 || exchanges < 4 || exchanges > 7 {
		t.Errorf("a day later: %d knocks and %d exchanges in 10 s", knocks, exchanges)
	}
}

// following returns so many addresses, a and those that follow it.
func following(a netip.Addr, n int) (all []netip.Addr) {
	for range n {
		all, a = append(all, a), a.Next()
	}
	return all
}

func TestManyMissingPeersCostNoMoreThanAFew(t *testing.T) {
	f := newFixture(t)
	f.v.SetPeers(f.now, following(addrB, 300))
	f.settle()
	f.pass(30 * time.Second)
	f.did()
	f.pass(10 * time.Second)
	e := f.did()
	if n := len(e.Tells); n < 350 || n > 650 {
		t.Errorf("%d knocks in 10 s, about 500 were right", n)
	}
	if n := len(e.Exchanges); n < 70 || n > 150 {
		t.Errorf("%d exchanges in 10 s, about 100 were right", n)
	}
}

// Those who are missing all at once are called one after the other.
func TestManyMissingPeersAreNotCalledInOneMoment(t *testing.T) {
	f := newFixture(t)
	f.v.SetPeers(f.now, following(addrB, 100))
	f.settle()
	if e := f.did(); len(e.Tells) != 1 || len(e.Exchanges) != 1 {
		t.Errorf("at once: %d knocks, %d exchanges", len(e.Tells), len(e.Exchanges))
	}
	f.pass(990 * time.Millisecond)
	if e := f.did(); len(e.Tells) != 49 || len(e.Exchanges) != 9 {
		t.Errorf("in the first second: %d knocks and %d exchanges more, want 49 and 9", len(e.Tells), len(e.Exchanges))
	}
}

func TestAMemberThatIsLostBeforeItSaidAnythingIsAskedForLikeAnyOther(t *testing.T) {
	f := newFixture(t)
	f.v.SetPeers(f.now, []netip.Addr{addrA, addrB})
	f.v.Heard(f.now, "b", addrB)
	f.v.Lost(f.now, "b")
	f.settle()
	if e := f.did(); len(e.Questions) != 1 || e.Questions[0].Suspect.Node != "b" {
		t.Errorf("%+v", e)
	}
}

// What it owns may be in the part that is not there yet.
func TestAMemberIsNoneBeforeAllIsKnownThatItClaims(t *testing.T) {
	f := newFixture(t)
	f.v.SetPeers(f.now, []netip.Addr{addrA, addrB})
	f.v.Heard(f.now, "b", addrB)
	part := rec("b", addrB, 1, false, nil)
	part.Whole = false
	f.v.Receive(f.now, part, Direct)
	f.settle()
	if f.state("b") != Joining || f.state("a") != Joining {
		t.Errorf("b is %v, a %v", f.state("b"), f.state("a"))
	}
	f.v.ReceiveState(f.now, []*Record{rec("b", addrB, 1, false, Claims{v4: claim(Majority, 5)})})
	f.settle()
	if f.state("b") != Alive || f.state("a") != Alive {
		t.Errorf("b is %v, a %v", f.state("b"), f.state("a"))
	}
}

func TestTheOnlyNodeThereIsIsSureAtOnce(t *testing.T) {
	f := newFixture(t)
	f.v.SetPeers(f.now, []netip.Addr{addrA})
	f.v.SetLocal(Local{Owned: []netip.Addr{v4, v6}})
	f.settle()
	if got := f.own().Claims; got[v4].Quorum != Majority || got[v6].Quorum != Majority {
		t.Errorf("it claims %v", got)
	}
}

func TestAKnockIsAnsweredAndLeadsToAnExchange(t *testing.T) {
	f := newFixture(t)
	f.v.SetPeers(f.now, []netip.Addr{addrA})
	f.settle()
	f.did()
	f.v.Receive(f.now, rec("b", addrB, 1, false, Claims{}), Knock)
	f.settle()
	if e := f.did(); !slices.Equal(e.Tells, []Tell{{To: addrB, Kind: Direct}}) || !slices.Equal(e.Urgent, []netip.Addr{addrB}) {
		t.Errorf("%+v", e)
	}
	if f.state("b") != Gone {
		t.Error("a knock alone makes a member: gossip would not watch it")
	}
}

// A member that missed a refutation does not hear it again by itself.
func TestASuspectIsAskedToSayThatItLivesAsOftenAsItsKernelIsAsked(t *testing.T) {
	f := newFixture(t)
	f.together()
	f.v.Lost(f.now, "b")
	f.settle()
	for round := range 3 {
		e := f.did()
		if len(e.Questions) != 1 || !slices.Contains(e.Tells, Tell{To: addrB, Kind: Doubt}) {
			t.Fatalf("round %d: %+v", round, e)
		}
		f.v.Answered(f.now, "b", Answer{Round: e.Questions[0].Round, Segment: Answers, Port: PortOpen})
		f.pass(f.v.pace.Again)
	}
	f.v.Heard(f.now, "b", addrB)
	f.settle()
	f.did()
	f.pass(time.Second)
	if e := f.did(); slices.Contains(e.Tells, Tell{To: addrB, Kind: Doubt}) || f.state("b") != Alive {
		t.Errorf("%v: %+v", f.state("b"), e)
	}
}

func TestDoubtsAreRefutedForAllAtOnceAndNotOnceForEach(t *testing.T) {
	f := newFixture(t)
	f.together()
	f.v.Receive(f.now, rec("b", addrB, 1, false, Claims{}), Doubt)
	f.v.Receive(f.now, rec("c", addrC, 1, false, Claims{}), Doubt)
	f.settle()
	if e := f.did(); !e.Refute || !slices.Contains(e.Tells, Tell{To: addrB, Kind: Direct}) || !slices.Contains(e.Tells, Tell{To: addrC, Kind: Direct}) {
		t.Errorf("%+v", e)
	}
	f.v.Receive(f.now, rec("b", addrB, 1, false, Claims{}), Doubt)
	f.settle()
	if f.did().Refute {
		t.Error("it is refuted again although the news can hardly be out")
	}
	f.now += f.v.pace.Knock
	f.v.Receive(f.now, rec("b", addrB, 1, false, Claims{}), Doubt)
	f.settle()
	if !f.did().Refute {
		t.Error("a doubt that lasts is not refuted again")
	}
}

// If all of a few hundred nodes exchanged state with each that joins, each would
// be told a few hundred times of a few hundred.
func TestANewNodeIsLeftToMeetOneOfTheOthersByItself(t *testing.T) {
	f := newFixture(t)
	f.together()
	addrD := netip.MustParseAddr("2001:db8::d")
	urgent := func() []netip.Addr {
		f.v.Receive(f.now, rec("d", addrD, 1, true, Claims{}), Knock)
		f.settle()
		return f.did().Urgent
	}
	if u := urgent(); u != nil {
		t.Errorf("all hurry to meet a new node: %v", u)
	}
	f.now += 3 * f.v.pace.Knock
	if u := urgent(); !slices.Equal(u, []netip.Addr{addrD}) {
		t.Errorf("a new node that finds nobody is not helped: %v", u)
	}
	// One that was lost is another matter.
	f.v.Heard(f.now, "d", addrD)
	f.v.Lost(f.now, "d")
	f.pass(time.Minute)
	f.did()
	if u := urgent(); !slices.Equal(u, []netip.Addr{addrD}) {
		t.Errorf("a node that was cut off is not met at once: %v", u)
	}
}

func TestANodeThatJoinsMeetsOneAtATime(t *testing.T) {
	f := newFixture(t)
	f.v.SetPeers(f.now, []netip.Addr{addrA})
	f.settle()
	f.did()
	f.v.Receive(f.now, rec("b", addrB, 1, false, Claims{}), Knock)
	f.v.Receive(f.now, rec("c", addrC, 1, false, Claims{}), Knock)
	f.settle()
	if u := f.did().Urgent; len(u) != 1 {
		t.Errorf("exchanges at once with %v", u)
	}
}

func TestAfterADoubtBothSidesSayWhatTheOtherMayHaveMissed(t *testing.T) {
	f := newFixture(t)
	f.together()
	f.v.Lost(f.now, "b")
	f.settle()
	f.did()
	f.v.Heard(f.now, "b", addrB)
	f.settle()
	if e := f.did(); !slices.Contains(e.Tells, Tell{To: addrB, Kind: Knock}) {
		t.Errorf("%+v", e)
	}
}

func TestWhoeverClaimsWhatIsOursIsTold(t *testing.T) {
	f := newFixture(t)
	f.together()
	f.v.SetLocal(Local{Owned: []netip.Addr{v6}})
	f.settle()
	f.did()
	lesser := rec("b", addrB, 2, false, Claims{v6: claim(Minority, 1)})
	for range 2 { // As often as it says so, for the answer may be lost.
		f.v.Receive(f.now, lesser, Direct)
		f.settle()
		if e := f.did(); !slices.Contains(e.Tells, Tell{To: addrB, Kind: Direct}) {
			t.Errorf("not told: %+v", e)
		}
	}
	f.v.Receive(f.now, rec("b", addrB, 3, false, Claims{v6: claim(Majority, 99)}), Direct)
	f.settle()
	if e := f.did(); len(e.Tells) != 0 {
		t.Errorf("told although the claim is the better one: %+v", e)
	}
}

func TestNobodyIsSureOfAMajorityRightAfterALoss(t *testing.T) {
	f := newFixture(t)
	f.together()
	f.pass(time.Minute)
	f.v.Lost(f.now, "b")
	f.settle()
	f.v.Answered(f.now, "b", Answer{f.last.Questions[0].Round, Silent, PortSilent})
	f.v.SetLocal(Local{Owned: []netip.Addr{v4}})
	f.settle()
	if got := f.own().Claims[v4]; got.Quorum != Minority {
		t.Errorf("at once: %v", got)
	}
	f.pass(1499 * time.Millisecond)
	if got := f.own().Claims[v4]; got.Quorum != Minority {
		t.Errorf("soon: %v", got)
	}
	f.pass(time.Millisecond)
	got := f.own().Claims[v4]
	if got.Quorum != Majority || !got.Beats(claim(Majority, 5), v4, "a", "b") {
		t.Errorf("later: %v", got)
	}
	// Without c there is none.
	f.v.Lost(f.now, "c")
	f.settle()
	f.v.Answered(f.now, "c", Answer{f.last.Questions[0].Round, Silent, PortSilent})
	f.v.SetLocal(Local{Owned: []netip.Addr{v4, v6}})
	f.settle()
	f.pass(time.Minute)
	if f.own().Claims[v4] != got || f.own().Claims[v6].Quorum != Minority {
		t.Errorf("alone: %v", f.own().Claims)
	}
}

func TestALeaverThatGoesIsNotAskedFor(t *testing.T) {
	f := newFixture(t)
	f.together()
	r := rec("b", addrB, 2, false, Claims{v4: claim(Majority, 5)})
	r.Leaving = true
	f.v.Receive(f.now, r, Direct)
	f.settle()
	if f.state("b") != Leaving {
		t.Errorf("b is %v", f.state("b"))
	}
	f.v.Lost(f.now, "b")
	f.settle()
	if e := f.did(); f.state("b") != Gone || len(e.Questions) != 0 {
		t.Errorf("b is %v, asked %v", f.state("b"), e.Questions)
	}
	// It does not count as one that should be there.
	f.v.SetLocal(Local{Owned: []netip.Addr{v4}})
	f.settle()
	if got := f.own().Claims[v4]; got.Quorum != Majority {
		t.Errorf("claim after it left: %v", got)
	}
}

func TestAnEarlierLifesRecordIsVoid(t *testing.T) {
	f := newFixture(t)
	f.together()
	again := rec("b", addrB, 1, true, nil)
	again.Boot, again.Whole = 2, false
	f.v.Receive(f.now, again, Direct)
	f.settle()
	for _, m := range f.list {
		if m.Node == "b" && (len(m.Claims) != 0 || m.State != Joining) {
			t.Errorf("after a restart: %+v", m)
		}
	}
	f.v.Receive(f.now, rec("b", addrB, 9, false, Claims{v4: claim(Majority, 5)}), Relayed)
	f.settle()
	for _, m := range f.list {
		if m.Node == "b" && len(m.Claims) != 0 {
			t.Errorf("a late record of the earlier life: %+v", m)
		}
	}
}

func TestAMemoryFromTheFutureIsOutdone(t *testing.T) {
	f := newFixture(t)
	f.together()
	before := f.own()
	old := rec("a", addrA, 70, false, Claims{v4: claim(Majority, 3)})
	old.Boot = before.Boot + 50
	f.v.Receive(f.now, old, Relayed)
	f.settle()
	now := f.own()
	if !now.Newer(old) || !slices.Contains(f.did().Tells, Tell{To: addrB, Kind: Direct}) {
		t.Errorf("%d.%d does not outdo %d.%d", now.Boot, now.Seq, old.Boot, old.Seq)
	}
}

func TestAProcessThatWasStoppedDoubtsItsClaims(t *testing.T) {
	f := newFixture(t)
	f.together()
	f.v.SetLocal(Local{Owned: []netip.Addr{v6}})
	f.settle()
	f.v.Receive(f.now, rec("c", addrC, 2, false, Claims{v6: claim(Minority, 9)}), Direct)
	f.v.Stopped(f.now)
	f.settle()
	f.pass(time.Minute)
	if got := f.own().Claims[v6]; got.Quorum != Blind {
		t.Errorf("contested: %v", got)
	}
	f.v.Receive(f.now, rec("c", addrC, 3, false, Claims{}), Direct)
	f.settle()
	if got := f.own().Claims[v6]; got.Quorum != Majority {
		t.Errorf("not contested any more: %v", got)
	}
}

func TestADoubtIsToldAtOnceWhateverElseIsSo(t *testing.T) {
	// It hears too few anyway.
	f := newFixture(t)
	f.together()
	f.v.SetLocal(Local{Owned: []netip.Addr{v6}})
	f.settle()
	for _, node := range []string{"b", "c"} {
		f.v.Lost(f.now, node)
		f.settle()
		f.v.Answered(f.now, node, Answer{f.last.Questions[0].Round, Silent, PortSilent})
		f.settle()
	}
	f.pass(time.Minute)
	f.v.Stopped(f.now)
	f.settle()
	if got := f.own().Claims[v6]; got.Quorum != Blind {
		t.Errorf("after a stop: %v", got)
	}
	// It claims for the first time, and in doubt already.
	f = newFixture(t)
	f.v.SetPeers(f.now, []netip.Addr{addrA, addrB})
	f.settle()
	f.pass(time.Minute)
	f.v.SetLocal(Local{Owned: []netip.Addr{v4}})
	f.v.Stopped(f.now)
	f.settle()
	if got := f.own().Claims[v4]; got.Quorum != Blind {
		t.Errorf("claimed after a stop: %v", got)
	}
}

// Claims are remembered until there are too many for the addresses that exist: those of
// who goes on as before stay, and a node that claims less is heard again.
func TestOnlySoManyClaimsAreRemembered(t *testing.T) {
	claims := func(from, n int) Claims {
		c := Claims{}
		for i := range n {
			c[netip.AddrFrom4([4]byte{10, byte((from + i) >> 16), byte((from + i) >> 8), byte(from + i)})] = Claim{Majority, 1}
		}
		return c
	}
	const third = 22_000
	for addresses, want := range map[int]int{0: 2, 16_384: 2, 22_001: 4, 44_000: 5} {
		f := newFixture(t)
		f.v.SetLocal(Local{Addresses: addresses})
		f.v.SetPeers(f.now, []netip.Addr{addrA, addrB, addrC})
		names := []string{"n1", "n2", "n3", "n4", "n5"}
		for seq := range uint64(2) {
			for i, node := range names {
				f.v.Receive(f.now, rec(node, addrB, seq+1, false, claims(i*third, third)), Direct)
			}
		}
		f.settle()
		sum := 0
		for _, p := range f.v.order {
			if p.claims != nil {
				sum += len(p.claims.Claims)
				if p.claims.Seq != 2 {
					t.Errorf("%d addresses: the newest record of %s, which is one of the first, was not taken", addresses, p.node)
				}
			}
		}
		if sum != want*third || sum > ClaimRoom(addresses) || f.last.Refused != 2*(len(names)-want) {
			t.Errorf("%d addresses: %d claims are remembered, want %d; %d records refused", addresses, sum, want*third, f.last.Refused)
		}
		if want < len(names) {
			f.v.Receive(f.now, rec("n5", addrB, 3, false, claims(0, 3)), Direct)
			if f.settle(); f.v.peers["n5"] == nil || f.v.peers["n5"].claims == nil {
				t.Errorf("%d addresses: who claims few is not heard", addresses)
			}
		}
	}
}

// Names are taken until there are too many, and those that are known stay.
func TestOnlySoManyNamesAreTaken(t *testing.T) {
	for places, room := range map[int]int{0: 64, 16: 64, 17: 68, 100: 400} {
		f := newFixture(t)
		f.v.SetPeers(f.now, following(netip.MustParseAddr("2001:db8:5::1"), places))
		for i := range room + 3 {
			if node := fmt.Sprint("n", i); i%2 == 0 {
				f.v.Heard(f.now, node, addrB)
			} else {
				f.v.Receive(f.now, rec(node, addrB, 1, false, Claims{}), Direct)
			}
		}
		f.v.Receive(f.now, rec("n0", addrB, 1, false, Claims{}), Direct)
		f.settle()
		if f.last.Refused != 3 || len(f.v.peers) != room {
			t.Errorf("%d places: %d names refused, %d known; want 3 and %d", places, f.last.Refused, len(f.v.peers), room)
		}
		if f.state("n0") != Alive {
			t.Errorf("%d places: one that is known is not heard", places)
		}
	}
}

// A member that is gone is remembered for as long from then on.
func TestAMemberIsRememberedFromWhenItWasThereLast(t *testing.T) {
	f := newFixture(t)
	f.together()
	f.pass(20 * time.Minute)
	f.v.Lost(f.now, "b")
	f.settle()
	f.v.Answered(f.now, "b", Answer{f.last.Questions[0].Round, Silent, PortSilent})
	f.settle()
	f.pass(9 * time.Minute)
	if f.v.peers["b"] == nil || len(f.v.order) != 2 {
		t.Error("it is forgotten too soon")
	}
	f.pass(2 * time.Minute)
	if f.v.peers["b"] != nil || len(f.v.order) != 1 {
		t.Error("it is not forgotten")
	}
}

// Who is told of as blocked is not forgotten before that is over.
func TestWhatIsToldOfWhoIsForgottenIsTakenBack(t *testing.T) {
	f := newFixture(t)
	f.v.SetPeers(f.now, []netip.Addr{addrA, addrB, addrC})
	var told []Blocked
	second := func() {
		f.now += time.Second
		if f.settle(); f.last.Blocked != nil {
			told = f.last.Blocked
		}
	}
	for range int(f.v.pace.Remember/time.Second) - 1 {
		f.v.Receive(f.now, rec("c", addrC, 1, false, Claims{}), Direct)
		second()
	}
	if len(told) != 1 || told[0] != (Blocked{"c", TCP}) {
		t.Fatalf("gossip is blocked to %v, want c by TCP", told)
	}
	for range 10 {
		second()
	}
	if len(told) > 0 || f.v.peers["c"] != nil {
		t.Errorf("gossip is blocked to %v; c is known: %v", told, f.v.peers["c"] != nil)
	}
}

// A majority is of those known, without those who left, and none is sure while one is
// doubted or has not said what it claims.
func TestAMajorityIsCountedOfThoseWhoShouldBeThere(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 4))
		v := NewView("a", addrA, 1, DefaultPace(3, time.Second, 0))
		v.SetPeers(0, []netip.Addr{addrB})
		v.learned = r.IntN(4) > 0
		hears, knows, told := 1, 1, v.learned
		for range r.IntN(6) {
			p := &peer{fresh: r.IntN(8) > 0, claims: &Record{}}
			switch r.IntN(6) {
			case 0, 1, 2:
				p.life.State = Alive
				hears, knows, told = hears+1, knows+1, told && p.fresh
			case 3:
				p.life.State = []State{Suspected, Stalled, Cut}[r.IntN(3)]
				knows, told = knows+1, false
			case 4:
				p.life.State, p.life.Cause = Gone, GoneSilent
				knows++
			case 5:
				p.life.State, p.life.Cause = Gone, GoneLeft
			}
			v.order = append(v.order, p)
		}
		want := Minority
		switch {
		case knows == 1:
			want = Blind
		case 2*hears > knows && told:
			want = Majority
		}
		if got, _, wait := v.quorum(0); got != want || wait {
			t.Fatalf("seed %d: hears %d of %d, told %v: %v, wait %v", seed, hears, knows, told, got, wait)
		}
	}
}

// In a large cluster all together ask a suspect no more often than so.
func TestASuspectIsNotAskedMoreOftenTheMoreThereAre(t *testing.T) {
	for _, size := range []int{1, 3, 30, 50, 100, 1000} {
		p := DefaultPace(size, 1500*time.Millisecond, 300*time.Millisecond)
		again, watch := time.Duration(size)*time.Second/p.Again, time.Duration(size)*time.Second/p.Watch
		if size >= 50 && (again != 500 || watch != 100) || size < 50 && p.Again != 100*time.Millisecond || size <= 30 && p.Watch != 300*time.Millisecond {
			t.Errorf("%d nodes: %d questions a second to one that is stalled (%v), %d to one that is cut off (%v)", size, again, p.Again, watch, p.Watch)
		}
		if p.Slow != 1200*time.Millisecond {
			t.Errorf("%d nodes: given up %v after it was lost", size, p.Slow)
		}
	}
}

func TestNothingChangesWhileNothingHappens(t *testing.T) {
	f := newFixture(t)
	f.together()
	f.v.SetLocal(Local{Owned: []netip.Addr{v6}})
	f.settle()
	f.did()
	for range 100 {
		f.v.SetLocal(Local{Owned: []netip.Addr{v6}})
		f.v.SetPeers(f.now, []netip.Addr{addrB, addrA, addrC})
		f.v.Receive(f.now, rec("c", addrC, 1, false, Claims{}), Direct)
		f.pass(time.Second)
		if f.last.Members != nil || f.last.Records != nil {
			t.Fatalf("something changed: %+v", f.last)
		}
	}
	if e := f.did(); len(e.Tells)+len(e.Questions)+len(e.Exchanges)+len(e.Urgent) != 0 {
		t.Errorf("something was sent: %+v", e)
	}
}
