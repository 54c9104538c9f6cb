package layer2

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// detect drives a detection to its end and returns when it sent which probe.
func detect(t *testing.T, d *Detection, hear func(time.Time)) (probes []sent, end time.Time) {
	t.Helper()
	for now := epoch; ; {
		hear(now)
		addresses, wake := d.Next(now)
		for _, a := range addresses {
			probes = append(probes, sent{Gratuitous{Address: a}, now})
		}
		if wake.IsZero() {
			return probes, now
		}
		if !wake.After(now) {
			t.Fatalf("at %v asks to be woken at %v", now.Sub(epoch), wake.Sub(epoch))
		}
		now = wake
	}
}

func TestAFreeAddressIsProbedThreeTimes(t *testing.T) {
	for _, timing := range []DetectionTiming{RFC5227Timing, ServiceTiming} {
		for _, random := range []float64{0, 0.5, 0.999} {
			for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
				d := NewDetection(epoch, []netip.Addr{netip.MustParseAddr(a)}, timing, Pace{Rate: 500}, func() float64 { return random })
				probes, end := detect(t, d, func(time.Time) {})
				part := func(x time.Duration) time.Duration { return time.Duration(random * float64(x)) }
				want := []time.Duration{part(timing.Wait)}
				for range timing.Probes - 1 {
					want = append(want, want[len(want)-1]+timing.Min+part(timing.Max-timing.Min))
				}
				var got []time.Duration
				for _, p := range probes {
					got = append(got, p.at.Sub(epoch))
				}
				if !slices.Equal(got, want) || end.Sub(epoch) != want[len(want)-1]+timing.Settle || len(d.Found()) != 0 {
					t.Errorf("%s: probes at %v, end at %v, found %v; want probes at %v", a, got, end.Sub(epoch), d.Found(), want)
				}
			}
		}
	}
}

func TestAnySignOfUseEndsTheDetectionOfThatAddressAlone(t *testing.T) {
	for _, f := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8::2"}} {
		used, free := netip.MustParseAddr(f[0]), netip.MustParseAddr(f[1])
		for _, kind := range HeardKinds {
			d := NewDetection(epoch, []netip.Addr{used, free}, ServiceTiming, Pace{Rate: 500}, func() float64 { return 0 })
			h := Heard{At: epoch.Add(50 * time.Millisecond), Address: used, MAC: lb.MAC{2, 9}, Interface: 2, Kind: kind}
			heard := false
			probes, _ := detect(t, d, func(now time.Time) {
				if !heard && now.After(epoch) { // after the first probe
					heard = true
					d.Hear(h)
					d.Hear(h)
					d.Hear(Heard{Address: netip.MustParseAddr("203.0.113.1"), Kind: kind})
				}
			})
			count := map[netip.Addr]int{}
			for _, p := range probes {
				count[p.Address]++
			}
			if count[used] != 1 || count[free] != 3 || !slices.Equal(d.Found(), []Heard{h}) {
				t.Errorf("%v of %v: probed %v, found %v", kind, used, count, d.Found())
			}
		}
	}
}

func TestManyDetectionsKeepToTheBudget(t *testing.T) {
	var addresses []netip.Addr
	for _, c := range many(1000, nil) {
		addresses = append(addresses, c.Address)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	d := NewDetection(epoch, addresses, ServiceTiming, Pace{Rate: 500}, rng.Float64)
	probes, _ := detect(t, d, func(time.Time) {})
	if len(probes) != 3000 {
		t.Errorf("%d probes, want 3000", len(probes))
	}
	inBudget(t, probes, 500)
}

// PROBE_WAIT, PROBE_NUM, PROBE_MIN, PROBE_MAX and ANNOUNCE_WAIT.
func TestTheTimingIsThatOfRFC5227(t *testing.T) {
	if want := (DetectionTiming{time.Second, 3, time.Second, 2 * time.Second, 2 * time.Second}); RFC5227Timing != want {
		t.Errorf("%+v, want %+v", RFC5227Timing, want)
	}
	s := ServiceTiming
	if most := s.Wait + time.Duration(s.Probes-1)*s.Max + s.Settle; s.Probes != RFC5227Timing.Probes || most != 550*time.Millisecond || s.Min >= s.Max {
		t.Errorf("%+v lasts up to %v", s, most)
	}
}

// Without a budget there is one packet a second, which is slow and no standstill.
func TestABudgetOfNothingIsOnePacketASecond(t *testing.T) {
	addresses := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	d := NewDetection(epoch, addresses, ServiceTiming, Pace{}, func() float64 { return 0 })
	probes, _ := detect(t, d, func(time.Time) {})
	s := NewSchedule(Pace{})
	s.Update(epoch, claims([]int{2}, "192.0.2.1", "2001:db8::1"), []lb.Interface{eth0})
	for what, sents := range map[string][]sent{"probes": probes, "announcements": run(t, s, epoch, epoch.Add(time.Minute))} {
		if len(sents) < 6 {
			t.Errorf("%d %s", len(sents), what)
		}
		for i := 1; i < len(sents); i++ {
			if gap := sents[i].at.Sub(sents[i-1].at); gap < time.Second || gap > 2*time.Second {
				t.Errorf("%s %v after the last", what, gap)
			}
		}
	}
}

// The earliest is what counts, in whichever order the addresses come.
func TestTheNextProbeIsTheEarliest(t *testing.T) {
	for _, waits := range [][]float64{{0.9, 0.1, 0.5}, {0.1, 0.5, 0.9}} {
		n := 0
		d := NewDetection(epoch, append(slices.Clone(vettedAddresses), netip.MustParseAddr("192.0.2.2")), ServiceTiming, Pace{Rate: 500}, func() float64 { n++; return waits[(n-1)%3] })
		probes, wake := d.Next(epoch)
		if want := epoch.Add(time.Duration(0.1 * float64(ServiceTiming.Wait))); len(probes) > 0 || !wake.Equal(want) {
			t.Errorf("%v: probes %v, wakes at %v", waits, probes, wake.Sub(epoch))
		}
	}
}

// Each address is listened for to its own end, however often others are asked about
// meanwhile.
func TestAnAddressIsListenedForUntilItsOwnEnd(t *testing.T) {
	for i, a := range vettedAddresses {
		n := 0.0 // the second one begins later
		d := NewDetection(epoch, []netip.Addr{a, vettedAddresses[(i+1)%len(vettedAddresses)]}, ServiceTiming, Pace{Rate: 500}, func() float64 { n += 0.4; return min(n, 0.9) })
		last, heard := time.Time{}, false
		probed := 0
		for now := epoch; ; {
			// An answer in the last moment.
			if probed == ServiceTiming.Probes && !heard && now.Add(60*time.Millisecond).After(last.Add(ServiceTiming.Settle)) {
				d.Hear(Heard{At: now, Address: a})
				heard = true
			}
			probes, wake := d.Next(now)
			if slices.Contains(probes, a) {
				probed, last = probed+1, now
			}
			if wake.IsZero() {
				break
			}
			now = wake
		}
		if found := d.Found(); !heard || len(found) != 1 || found[0].Address != a {
			t.Errorf("%v: found %v", a, found)
		}
	}
}

// A budget that is spent makes nothing due earlier than it is.
func TestProbesOfAnAddressAreApartThoughTheBudgetIsSpent(t *testing.T) {
	var addresses []netip.Addr
	for i := range byte(30) {
		addresses = append(addresses, netip.AddrFrom4([4]byte{192, 0, 2, i}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: i}))
	}
	d := NewDetection(epoch, addresses, ServiceTiming, Pace{Rate: 200}, func() float64 { return 0.5 })
	probes, _ := detect(t, d, func(time.Time) {})
	last := map[netip.Addr]time.Time{}
	for _, p := range probes {
		if was, is := last[p.Address]; is && p.at.Sub(was) < ServiceTiming.Min {
			t.Errorf("%v is probed %v after the last time", p.Address, p.at.Sub(was))
		}
		last[p.Address] = p.at
	}
	if len(probes) != 3*len(addresses) {
		t.Errorf("%d probes of %d addresses", len(probes), len(addresses))
	}
}
