package layer2

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

var (
	epoch = time.Unix(0, 0)
	eth0  = lb.Interface{Index: 2, Name: "eth0", MAC: lb.MAC{2, 0, 0, 0, 0, 1}, Up: true, Carrier: true}
	eth1  = lb.Interface{Index: 3, Name: "eth1", MAC: lb.MAC{2, 0, 0, 0, 0, 2}, Up: true, Carrier: true}
)

func claims(interfaces []int, addresses ...string) []Claim {
	var out []Claim
	for _, a := range addresses {
		out = append(out, Claim{netip.MustParseAddr(a), interfaces})
	}
	return out
}

// A sent is a packet with its virtual time.
type sent struct {
	Gratuitous
	at time.Time
}

// run drives a schedule from one virtual time to another and returns what it
// sent.
func run(t *testing.T, s *Schedule, from, to time.Time) []sent {
	t.Helper()
	var out []sent
	for now := from; ; {
		packets, wake := s.Next(now, nil)
		for _, p := range packets {
			out = append(out, sent{p, now})
		}
		if wake.IsZero() || wake.After(to) {
			return out
		}
		if !wake.After(now) {
			t.Fatalf("at %v asks to be woken at %v", now.Sub(epoch), wake.Sub(epoch))
		}
		now = wake
	}
}

func lines(sents []sent) []string {
	var out []string
	for _, s := range sents {
		out = append(out, fmt.Sprintf("%v %d %v %v", s.at.Sub(epoch), s.Interface, s.Address, s.Form))
	}
	return out
}

func expect(t *testing.T, got []sent, want ...string) {
	t.Helper()
	if l := lines(got); !slices.Equal(l, want) {
		t.Errorf("sent:\n%q\nwant:\n%q", l, want)
	}
}

func TestAnAcquisitionIsAnnouncedThreeTimesThenRefreshed(t *testing.T) {
	s := NewSchedule(Pace{Rate: 500, Refresh: time.Minute})
	s.Update(epoch, claims([]int{2}, "192.0.2.1"), []lb.Interface{eth0})
	expect(t, run(t, s, epoch, epoch.Add(2*time.Minute+10*time.Second)),
		"0s 2 192.0.2.1 arp-request", "0s 2 192.0.2.1 arp-reply",
		"1s 2 192.0.2.1 arp-request", "1s 2 192.0.2.1 arp-reply",
		"3s 2 192.0.2.1 arp-request", "3s 2 192.0.2.1 arp-reply",
		"1m3s 2 192.0.2.1 arp-request", "2m3s 2 192.0.2.1 arp-request")

	s = NewSchedule(Pace{Rate: 500, Refresh: time.Minute})
	s.Update(epoch, claims([]int{2}, "2001:db8::1"), []lb.Interface{eth0})
	expect(t, run(t, s, epoch, epoch.Add(2*time.Minute+10*time.Second)),
		"0s 2 2001:db8::1 advertisement", "1s 2 2001:db8::1 advertisement", "3s 2 2001:db8::1 advertisement",
		"1m3s 2 2001:db8::1 advertisement", "2m3s 2 2001:db8::1 advertisement")
}

func TestNoRefreshWhenItIsOff(t *testing.T) {
	s := NewSchedule(Pace{Rate: 500})
	s.Update(epoch, claims([]int{2}, "192.0.2.1", "2001:db8::1"), []lb.Interface{eth0})
	if got := run(t, s, epoch, epoch.Add(time.Hour)); len(got) != 9 || got[8].at.Sub(epoch) != 3*time.Second {
		t.Errorf("sent %q", lines(got))
	}
}

func TestSayingTheSameAgainSendsNothing(t *testing.T) {
	s := NewSchedule(Pace{Rate: 500})
	c := claims([]int{2, 3}, "192.0.2.1", "2001:db8::1")
	s.Update(epoch, c, []lb.Interface{eth0, eth1})
	run(t, s, epoch, epoch.Add(time.Minute))
	s.Update(epoch.Add(time.Minute), slices.Clone(c), []lb.Interface{eth1, eth0})
	expect(t, run(t, s, epoch.Add(time.Minute), epoch.Add(time.Hour)))
}

func TestWhatIsWithdrawnIsNotAnnouncedAnyMore(t *testing.T) {
	s := NewSchedule(Pace{Rate: 500, Refresh: time.Minute})
	s.Update(epoch, claims([]int{2}, "192.0.2.1", "2001:db8::1", "192.0.2.2"), []lb.Interface{eth0})
	run(t, s, epoch, epoch)
	s.Update(epoch, claims([]int{2}, "192.0.2.2"), []lb.Interface{eth0})
	for _, p := range run(t, s, epoch, epoch.Add(time.Hour)) {
		if p.Address != netip.MustParseAddr("192.0.2.2") {
			t.Fatalf("%v is announced although it was withdrawn", p.Address)
		}
	}
}

func TestNeighborsAreToldAgain(t *testing.T) {
	other := eth0
	other.MAC = lb.MAC{2, 0, 0, 0, 0, 9}
	down := eth0
	down.Carrier = false
	at := epoch.Add(time.Minute)
	for _, address := range []string{"192.0.2.1", "2001:db8::1"} {
		c := claims([]int{2}, address)
		for _, e := range []struct {
			name string
			do   func(*Schedule)
			want bool
		}{
			{"nothing happened", func(*Schedule) {}, false},
			{"hardware address changed", func(s *Schedule) { s.Update(at, c, []lb.Interface{other}) }, true},
			{"carrier lost and found", func(s *Schedule) {
				s.Update(at, c, []lb.Interface{down})
				s.Update(at, c, []lb.Interface{eth0})
			}, true},
			{"carrier lost", func(s *Schedule) { s.Update(at, c, []lb.Interface{down}) }, false},
			{"interface replaced by one with the same index", func(s *Schedule) {
				s.Update(at, c, nil)
				s.Update(at, c, []lb.Interface{eth0})
			}, true},
			{"renamed", func(s *Schedule) { r := eth0; r.Name = "lan0"; s.Update(at, c, []lb.Interface{r}) }, false},
			{"a flap too short to be seen as a state", func(s *Schedule) { s.Restart(at, 2) }, true},
			{"a flap of an interface that is gone", func(s *Schedule) { s.Restart(at, 9) }, false},
			{"a conflict won", func(s *Schedule) { s.Announce(at, netip.MustParseAddr(address)) }, true},
			{"a conflict over what is not ours", func(s *Schedule) { s.Announce(at, netip.MustParseAddr("192.0.2.77")) }, false},
			{"withdrawn and claimed", func(s *Schedule) {
				s.Update(at, nil, []lb.Interface{eth0})
				s.Update(at, c, []lb.Interface{eth0})
			}, true},
		} {
			s := NewSchedule(Pace{Rate: 500})
			s.Update(epoch, c, []lb.Interface{eth0})
			whole := len(run(t, s, epoch, at))
			e.do(s)
			got := run(t, s, at, at.Add(time.Hour))
			if e.want && len(got) != whole || !e.want && len(got) != 0 {
				t.Errorf("%s: %s: sent %q", address, e.name, lines(got))
			}
		}
	}
}

// many returns n claims, every third of them IPv6.
func many(n int, interfaces []int) []Claim {
	var out []Claim
	v4, v6 := netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("2001:db8::")
	for i := range n {
		if i%3 == 0 {
			v6 = v6.Next()
			out = append(out, Claim{v6, interfaces})
		} else {
			v4 = v4.Next()
			out = append(out, Claim{v4, interfaces})
		}
	}
	return out
}

// inBudget checks that no second, wherever it begins, sees more packets on an
// interface than the rate.
func inBudget(t *testing.T, sents []sent, rate int) {
	t.Helper()
	on := map[int][]time.Time{}
	for _, s := range sents {
		on[s.Interface] = append(on[s.Interface], s.at)
	}
	for index, times := range on {
		for i := rate; i < len(times); i++ {
			if times[i].Sub(times[i-rate]) < time.Second {
				t.Fatalf("interface %d: more than %d packets in the second after %v", index, rate, times[i-rate].Sub(epoch))
			}
		}
	}
}

func TestFiveThousandAddressesAtOnceStayInBudgetAndAllAreAnnounced(t *testing.T) {
	const n, rate = 5000, 500
	s := NewSchedule(Pace{Rate: rate, Refresh: time.Minute})
	s.Update(epoch, many(n, []int{2, 3}), []lb.Interface{eth0, eth1})
	got := run(t, s, epoch, epoch.Add(2*time.Minute))
	inBudget(t, got, rate)
	first := map[Gratuitous]time.Time{}
	repeated := map[int]bool{}
	for _, p := range got {
		if _, ok := first[p.Gratuitous]; ok {
			repeated[p.Interface] = true
		} else if first[p.Gratuitous] = p.at; repeated[p.Interface] && p.Form != GratuitousReply {
			t.Fatalf("%v is announced first at %v, after others were announced twice", p.Address, p.at.Sub(epoch))
		}
	}
	for _, c := range many(n, []int{2, 3}) {
		for _, i := range c.Interfaces {
			forms := []Form{GratuitousRequest, GratuitousReply}
			if c.Address.Is6() {
				forms = []Form{UnsolicitedAdvertisement}
			}
			for k, f := range forms {
				at, ok := first[Gratuitous{i, c.Address, f}]
				if bound := epoch.Add(time.Duration(k+1) * n * time.Second / (rate - rate/10)); !ok || at.After(bound) {
					t.Fatalf("%v %v on %d: announced at %v (%v), later than %v", c.Address, f, i, at.Sub(epoch), ok, bound.Sub(epoch))
				}
			}
		}
	}
}

func TestAcquiringGoesBeforeRefreshing(t *testing.T) {
	const rate = 100
	s := NewSchedule(Pace{Rate: rate, Refresh: 10 * time.Second})
	interfaces := []lb.Interface{eth0}
	old := many(1000, []int{2}) // refreshing takes all of the budget
	s.Update(epoch, old, interfaces)
	now := epoch.Add(5 * time.Minute)
	run(t, s, epoch, now)
	address := netip.MustParseAddr("192.0.2.1")
	s.Update(now, append(old, Claim{address, []int{2}}), interfaces)
	for _, p := range run(t, s, now, now.Add(time.Second)) {
		if p.Address == address {
			if wait := p.at.Sub(now); wait > 20*time.Millisecond {
				t.Errorf("announced only after %v", wait)
			}
			return
		}
	}
	t.Error("not announced within a second")
}

func TestTheBudgetHoldsWhateverHappens(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		rate := []int{1, 2, 9, 10, 11, 100, 500}[rng.IntN(7)]
		s := NewSchedule(Pace{Rate: rate, Refresh: time.Duration(rng.IntN(3)) * time.Second})
		interfaces := []lb.Interface{eth0, eth1}
		all := many(200, []int{2, 3})
		s.Update(epoch, all, interfaces)
		now, got := epoch, []sent(nil)
		for range 100 {
			then := now.Add(time.Duration(rng.IntN(200)) * time.Millisecond)
			got = append(got, run(t, s, now, then)...)
			switch now = then; rng.IntN(4) {
			case 0:
				interfaces[rng.IntN(2)].Carrier = rng.IntN(2) == 0
				s.Update(now, all, interfaces)
			case 1:
				s.Restart(now, 2+rng.IntN(2))
			case 2:
				s.Announce(now, all[rng.IntN(len(all))].Address)
			case 3:
				s.Update(now, all[:rng.IntN(len(all))], interfaces)
			}
		}
		inBudget(t, got, rate)
	}
}

func TestADefenseIsOnePacketPerInterfaceWithinTheBudget(t *testing.T) {
	for a, form := range map[string]Form{"192.0.2.1": GratuitousRequest, "2001:db8::1": UnsolicitedAdvertisement} {
		const rate = 20
		s := NewSchedule(Pace{Rate: rate, Refresh: time.Minute})
		address := netip.MustParseAddr(a)
		s.Update(epoch, []Claim{{address, []int{2, 3}}}, []lb.Interface{eth0, eth1})
		now := epoch.Add(10 * time.Second)
		run(t, s, epoch, now)
		got := s.Defend(now, address)
		slices.SortFunc(got, func(a, b Gratuitous) int { return a.Interface - b.Interface })
		if want := []Gratuitous{{2, address, form}, {3, address, form}}; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", a, got, want)
		}
		sent := 1
		for range 100 {
			sent += len(s.Defend(now, address)) / 2
		}
		if sent != rate/10 {
			t.Errorf("%s: %d at once, want what the budget lets out: %d", a, sent, rate/10)
		}
		if got := s.Defend(now, netip.MustParseAddr("192.0.2.9")); len(got) > 0 {
			t.Errorf("%v for an address that is not claimed", got)
		}
	}
}

// A short refresh, a port that is not ready, and one that has nothing to say.
func TestWhatDecidesWhenAPortSpeaks(t *testing.T) {
	s := NewSchedule(Pace{Rate: 500, Refresh: 500 * time.Millisecond})
	down := eth1
	down.Up = false
	s.Update(epoch, claims([]int{2, 3}, "192.0.2.1", "2001:db8::1"), []lb.Interface{eth0, down})
	sents := run(t, s, epoch, epoch.Add(10*time.Second))
	last := sents[len(sents)-1]
	if len(sents) < 20 || last.at.Sub(epoch) < 9*time.Second {
		t.Errorf("a refresh each half second makes %d packets, the last at %v", len(sents), last.at.Sub(epoch))
	}
	for _, p := range sents {
		if p.Interface != 2 {
			t.Fatalf("a port that is down speaks: %v", p)
		}
		// A refresh is one packet, in the form of a request.
		if p.at.Sub(epoch) > 4*time.Second && p.Form == GratuitousReply {
			t.Errorf("a refresh as a reply: %v", p)
		}
	}
	if got := s.Defend(epoch.Add(11*time.Second), netip.MustParseAddr("192.0.2.99")); len(got) > 0 {
		t.Errorf("defends what is not claimed: %v", got)
	}
	// Once up it begins, and no earlier time is due on it.
	s.Update(epoch.Add(20*time.Second), claims([]int{2, 3}, "192.0.2.1", "2001:db8::1"), []lb.Interface{eth0, eth1})
	heard := false
	for _, p := range run(t, s, epoch.Add(20*time.Second), epoch.Add(21*time.Second)) {
		heard = heard || p.Interface == 3
	}
	if !heard {
		t.Error("a port that came up says nothing")
	}
	run(t, s, epoch.Add(21*time.Second), epoch.Add(30*time.Second-1))
	// Claims that stay are not begun anew, those that come are.
	s.Update(epoch.Add(30*time.Second), claims([]int{2, 3}, "192.0.2.1", "2001:db8::1", "192.0.2.2"), []lb.Interface{eth0, eth1})
	begun := map[netip.Addr]int{}
	for _, p := range run(t, s, epoch.Add(30*time.Second), epoch.Add(30*time.Second)) {
		if p.Form == GratuitousReply {
			begun[p.Address]++
		}
	}
	if len(begun) != 1 || begun[netip.MustParseAddr("192.0.2.2")] != 2 {
		t.Errorf("begun anew: %v", begun)
	}
}

// What an interface announces afresh comes in the order of addresses, and its old
// rounds are over.
func TestARestartBeginsInOrderAndOnce(t *testing.T) {
	s := NewSchedule(Pace{Rate: 500})
	s.Update(epoch, claims([]int{2}, "192.0.2.3", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::1"), []lb.Interface{eth0})
	run(t, s, epoch, epoch.Add(500*time.Millisecond))
	at := epoch.Add(600 * time.Millisecond)
	s.Restart(at, 2)
	s.Restart(at, 99) // none of ours
	sents := run(t, s, at, at.Add(time.Hour))
	var first []string
	for _, p := range sents[:5] {
		first = append(first, p.Address.String())
	}
	if want := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"}; !slices.Equal(first, want) {
		t.Errorf("begins with %v, want %v", first, want)
	}
	// Three rounds of two packets for each IPv4 address and one for each IPv6 one.
	if len(sents) != 3*(2*3+2) {
		t.Errorf("%d packets:\n%v", len(sents), lines(sents))
	}
}

// What is due first decides when to wake, whichever step it is.
func TestARefreshIsNotLateForAnAcquisitionThatWaits(t *testing.T) {
	s := NewSchedule(Pace{Rate: 500, Refresh: 10 * time.Second})
	old := claims([]int{2}, "2001:db8::1")
	s.Update(epoch, old, []lb.Interface{eth0})
	run(t, s, epoch, epoch.Add(12*time.Second))
	// It is refreshed at 13 s, while the new one waits from 12.5 s to 13.5 s.
	s.Update(epoch.Add(12500*time.Millisecond), append(old, claims([]int{2}, "192.0.2.1")...), []lb.Interface{eth0})
	expect(t, run(t, s, epoch.Add(12500*time.Millisecond), epoch.Add(14*time.Second)),
		"12.5s 2 192.0.2.1 arp-request", "12.5s 2 192.0.2.1 arp-reply",
		"13s 2 2001:db8::1 advertisement",
		"13.5s 2 192.0.2.1 arp-request", "13.5s 2 192.0.2.1 arp-reply")
}

// What the bucket gains is as much as the rate allows and no more.
func TestTheBudgetIsAsLargeAsItsRateAllows(t *testing.T) {
	for rate := 1; rate <= 2000; rate++ {
		depth, interval := Pace{Rate: rate}.bucket()
		// A second that begins just before a packet is gained, with a full bucket.
		gained := time.Duration(rate - depth + 1)
		if depth < 1 || gained*interval < time.Second {
			t.Errorf("rate %d: more than that leave in a second: %d, and one each %v", rate, depth, interval)
		}
		if gained*(interval-1) >= time.Second {
			t.Errorf("rate %d: fewer leave than may: %d, and one each %v", rate, depth, interval)
		}
	}
}

// A small budget is used, too.
func TestTheWholeBudgetIsUsed(t *testing.T) {
	for _, rate := range []int{1, 2, 5, 9, 10, 11, 100} {
		s := NewSchedule(Pace{Rate: rate})
		s.Update(epoch, many(20*rate, []int{2}), []lb.Interface{eth0})
		got := run(t, s, epoch, epoch.Add(10*time.Second))
		inBudget(t, got, rate)
		if len(got) < 9*rate {
			t.Errorf("rate %d: %d packets in ten seconds", rate, len(got))
		}
	}
}
