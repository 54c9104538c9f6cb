package layer2

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// vetted are an address of each family.
var vettedAddresses = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}

func strangerOf(a netip.Addr, ifindex int) Heard {
	return Heard{Address: a, MAC: lb.MAC{0xde, 0xad}, Interface: ifindex, Kind: HeardReply}
}

// asks checks what is to be asked now.
func asks(t *testing.T, v *ACD, now time.Time, want ...Inquiry) {
	t.Helper()
	got, _ := v.Next(now)
	slices.SortFunc(got, func(a, b Inquiry) int { return a.Interface - b.Interface })
	if !reflect.DeepEqual(got, want) && len(got)+len(want) > 0 {
		t.Errorf("asks %v, want %v", got, want)
	}
}

func TestAnAddressIsPermittedOnceEverySegmentIsFree(t *testing.T) {
	for _, a := range vettedAddresses {
		var v ACD
		v.Want(epoch, []Claim{{a, []int{2, 3}}})
		asks(t, &v, epoch, Inquiry{2, []netip.Addr{a}}, Inquiry{3, []netip.Addr{a}})
		asks(t, &v, epoch) // it is being asked
		v.Answer(epoch, Inquiry{2, []netip.Addr{a}}, nil, nil)
		if v.Cleared(a) {
			t.Errorf("%v: permitted though one segment has not answered", a)
		}
		asks(t, &v, epoch)
		v.Answer(epoch, Inquiry{3, []netip.Addr{a}}, nil, nil)
		if !v.Cleared(a) || !v.Served(a) || v.Withheld() != nil {
			t.Errorf("%v: not permitted; held %v", a, v.Withheld())
		}
		v.Want(epoch, []Claim{{a, []int{2, 3, 4}}})
		asks(t, &v, epoch) // never again
	}
}

func TestAStrangerOnOneSegmentWithholdsTheAddressUntilItIsGone(t *testing.T) {
	for _, a := range vettedAddresses {
		var v ACD
		v.Want(epoch, []Claim{{a, []int{2, 3}}})
		v.Next(epoch)
		by := strangerOf(a, 3)
		v.Answer(epoch, Inquiry{2, []netip.Addr{a}}, nil, nil)
		v.Answer(epoch, Inquiry{3, []netip.Addr{a}}, []Heard{by}, nil)
		if v.Cleared(a) || v.Withheld()[a] != by {
			t.Errorf("%v: held %v", a, v.Withheld())
		}
		ask, wake := v.Next(epoch)
		if len(ask) > 0 || wake != epoch.Add(reprobe) {
			t.Errorf("%v: asks %v, and again at %v", a, ask, wake)
		}
		now := wake
		asks(t, &v, now, Inquiry{2, []netip.Addr{a}}, Inquiry{3, []netip.Addr{a}})
		v.Answer(now, Inquiry{3, []netip.Addr{a}}, nil, []netip.Addr{a}) // could not be asked
		if v.Withheld()[a] != by {
			t.Errorf("%v: a stranger is forgotten because nobody could be asked", a)
		}
		v.Answer(now, Inquiry{2, []netip.Addr{a}}, nil, nil)
		now = now.Add(reprobe)
		asks(t, &v, now, Inquiry{3, []netip.Addr{a}})
		v.Answer(now, Inquiry{3, []netip.Addr{a}}, nil, nil)
		if !v.Cleared(a) {
			t.Errorf("%v: still withheld", a)
		}
	}
}

// Who uses an address is told until that is found free where it was, whatever is found
// elsewhere.
func TestAStrangerThatIsGoneIsNotTold(t *testing.T) {
	for _, a := range vettedAddresses {
		var v ACD
		v.Want(epoch, []Claim{{a, []int{2, 3}}})
		v.Next(epoch)
		by := strangerOf(a, 3)
		v.Answer(epoch, Inquiry{3, []netip.Addr{a}}, []Heard{by}, nil)
		v.Answer(epoch, Inquiry{2, []netip.Addr{a}}, nil, nil)
		if got := v.Withheld()[a]; got != by {
			t.Errorf("%v: free on another segment, and used by %v", a, got)
		}
		v.Answer(epoch, Inquiry{3, []netip.Addr{a}}, []Heard{by}, nil) // which forgets what was free
		v.Answer(epoch, Inquiry{3, []netip.Addr{a}}, nil, nil)
		if got, held := v.Withheld()[a]; !held || got != (Heard{}) {
			t.Errorf("%v: free where it was used, and used by %v (withheld: %v)", a, got, held)
		}
	}
}

func TestASegmentOfASrangerThatIsNotWantedAnyMoreHoldsNothing(t *testing.T) {
	for _, a := range vettedAddresses {
		var v ACD
		v.Want(epoch, []Claim{{a, []int{2, 3}}})
		v.Next(epoch)
		v.Answer(epoch, Inquiry{3, []netip.Addr{a}}, []Heard{strangerOf(a, 3)}, nil)
		v.Answer(epoch, Inquiry{2, []netip.Addr{a}}, nil, nil)
		v.Want(epoch, []Claim{{a, []int{2}}})
		if !v.Cleared(a) {
			t.Errorf("%v: held by %v", a, v.Withheld())
		}
	}
}

func TestWhatIsServedIsNotAskedAbout(t *testing.T) {
	for _, a := range vettedAddresses {
		var v ACD
		v.Want(epoch, []Claim{{a, []int{2}}})
		v.Next(epoch)
		v.Serve(a, epoch) // another node has claimed it meanwhile
		if !v.Cleared(a) {
			t.Errorf("%v: not permitted though it is in service", a)
		}
		v.Answer(epoch, Inquiry{2, []netip.Addr{a}}, []Heard{strangerOf(a, 2)}, nil)
		if !v.Cleared(a) {
			t.Errorf("%v: an answer that came late withholds it", a)
		}
		v.Forget(func(netip.Addr) bool { return false })
		v.Want(epoch, []Claim{{a, []int{2}}})
		asks(t, &v, epoch, Inquiry{2, []netip.Addr{a}}) // it was out of use
	}
}

func TestOnlyAYoungClaimGivesWay(t *testing.T) {
	for _, a := range vettedAddresses {
		by := strangerOf(a, 2)
		for _, c := range []struct {
			since time.Time
			at    time.Time
			yield bool
		}{
			{epoch, epoch.Add(probation - 1), true},
			{epoch, epoch.Add(probation), false},
			{time.Time{}, epoch, false},
		} {
			var v ACD
			v.Serve(a, c.since)
			v.Serve(a, epoch.Add(time.Hour)) // known already
			by.At = c.at
			if got := v.Yields(c.at, by, []int{2}); got != c.yield || v.Cleared(a) == c.yield {
				t.Errorf("%v in service since %v, claimed by a stranger at %v: gives way %v", a, c.since, c.at, got)
			}
			v.Want(c.at, []Claim{{a, []int{2}}})
			if _, held := v.Withheld()[a]; held != c.yield {
				t.Errorf("%v: held %v", a, v.Withheld())
			}
		}
	}
}

func TestOneInquiryAtATimeOfBoundedSize(t *testing.T) {
	var v ACD
	all := many(3*batch, []int{2})
	v.Want(epoch, all)
	asked := map[netip.Addr]bool{}
	for rounds := 0; len(asked) < len(all); rounds++ {
		ask, _ := v.Next(epoch)
		if len(ask) != 1 || len(ask[0].Addresses) > batch || rounds > len(all) {
			t.Fatalf("round %d: asks %d times, about %d of %d", rounds, len(ask), len(asked), len(all))
		}
		for _, a := range ask[0].Addresses {
			asked[a] = true
		}
		v.Answer(epoch, ask[0], nil, nil)
	}
	if v.Withheld() != nil {
		t.Errorf("held %v", v.Withheld())
	}
}

func TestWhatCannotBeAskedIsTriedThreeTimes(t *testing.T) {
	for _, a := range vettedAddresses {
		var v ACD
		v.Want(epoch, []Claim{{a, []int{2}}})
		now := epoch
		for n := range retries {
			if v.Cleared(a) {
				t.Fatalf("%v: permitted after %d attempts", a, n)
			}
			asks(t, &v, now, Inquiry{2, []netip.Addr{a}})
			v.Answer(now, Inquiry{2, []netip.Addr{a}}, nil, []netip.Addr{a})
			now = now.Add(retry)
		}
		if !v.Cleared(a) {
			t.Errorf("%v: not permitted after %d attempts", a, retries)
		}
	}
}

// To want it again is no reason to ask at once.
func TestWhatCouldNotBeAskedIsTriedAgainInItsTime(t *testing.T) {
	for _, a := range vettedAddresses {
		var v ACD
		claim := []Claim{{a, []int{2}}}
		v.Want(epoch, claim)
		asks(t, &v, epoch, Inquiry{2, []netip.Addr{a}})
		v.Answer(epoch, Inquiry{2, []netip.Addr{a}}, nil, []netip.Addr{a})
		v.Want(epoch, claim)
		asks(t, &v, epoch)
		asks(t, &v, epoch.Add(retry), Inquiry{2, []netip.Addr{a}})
	}
}

// Whatever happens: an address that is wanted and not permitted is being asked
// about or will be, and one that is permitted was served or found free.
func TestNoAddressIsForgottenWhateverHappens(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var v ACD
		now := epoch
		var running []Inquiry
		claims := map[netip.Addr][]int{}
		var log []string
		for range 100 {
			now = now.Add(time.Duration(rng.IntN(5000)) * time.Millisecond)
			a := vettedAddresses[rng.IntN(2)]
			switch op := rng.IntN(5); {
			case op == 0:
				claims[a] = [][]int{nil, {2}, {3}, {2, 3}}[rng.IntN(4)]
				log = append(log, fmt.Sprint("want ", a, claims[a]))
			case op == 1 && rng.IntN(10) == 0:
				v.Serve(a, now)
				log = append(log, fmt.Sprint("serve ", a))
			case op == 2:
				log = append(log, fmt.Sprint("stranger ", a, v.Yields(now, strangerOf(a, 2), claims[a])))
			case len(running) > 0:
				q := running[0]
				running = running[1:]
				var found []Heard
				var unclear []netip.Addr
				for _, a := range q.Addresses {
					switch rng.IntN(3) {
					case 0:
						found = append(found, strangerOf(a, q.Interface))
					case 1:
						unclear = append(unclear, a)
					}
				}
				v.Answer(now, q, found, unclear)
				log = append(log, fmt.Sprint("answer ", q, found, unclear))
			}
			var want []Claim
			for a, on := range claims {
				want = append(want, Claim{a, on})
			}
			v.Want(now, want)
			ask, wake := v.Next(now)
			running = append(running, ask...)
			for a, on := range claims {
				if len(on) == 0 || v.Cleared(a) {
					if len(on) > 0 && !v.Served(a) {
						t.Fatalf("seed %d: %v is permitted, and nobody knows why\n%v", seed, a, log)
					}
					continue
				}
				asked := slices.ContainsFunc(running, func(q Inquiry) bool { return slices.Contains(on, q.Interface) })
				if !asked && wake.IsZero() {
					t.Fatalf("seed %d: %v is held for ever\n%v", seed, a, log)
				}
			}
		}
	}
}

func TestTheClockOfEachCaseIsItsOwn(t *testing.T) {
	for _, a := range vettedAddresses {
		other := a.Next()
		var v ACD
		v.Want(epoch, []Claim{{a, []int{2}}, {other, []int{2}}, {other.Next(), nil}})
		if v.Withheld()[other.Next()] != (Heard{}) || len(v.Withheld()) != 2 {
			t.Errorf("%v: an address with nowhere to claim it waits: %v", a, v.Withheld())
		}
		q := Inquiry{2, []netip.Addr{a, other}}
		asks(t, &v, epoch, q)
		// One is used, the other could not be asked about.
		v.Answer(epoch, q, []Heard{strangerOf(a, 2)}, []netip.Addr{other})
		for range 20 { // in whichever order the cases come
			if _, wake := v.Next(epoch); wake != epoch.Add(min(reprobe, retry)) {
				t.Fatalf("%v: the next inquiry is due at %v", a, wake.Sub(epoch))
			}
		}
		now := epoch.Add(max(reprobe, retry))
		asks(t, &v, now, Inquiry{2, []netip.Addr{other, a}}) // what has been due for longer first
		// The station is still not to be asked about, and will be asked again no
		// sooner than that.
		v.Answer(now, q, nil, []netip.Addr{a})
		if ask, wake := v.Next(now); len(ask) > 0 || wake != now.Add(reprobe) {
			t.Errorf("%v: asks %v, and again at %v", a, ask, wake.Sub(now))
		}
		if v.Cleared(a) || !v.Cleared(other) {
			t.Errorf("%v: held %v", a, v.Withheld())
		}
		// What is not wanted any more is not asked about any more.
		v.Want(now, nil)
		if v.Withheld() != nil {
			t.Errorf("%v: held though nobody wants it: %v", a, v.Withheld())
		}
	}
}

func TestAClaimThatGaveWayIsAskedForLikeAnyOther(t *testing.T) {
	for _, a := range vettedAddresses {
		var v ACD
		by := strangerOf(a, 2)
		if v.Yields(epoch, by, []int{2}) {
			t.Errorf("%v: it yields what it does not claim", a)
		}
		v.Serve(a, epoch)
		v.Serve(a, epoch.Add(time.Hour)) // the first time counts
		if v.Yields(epoch.Add(probation), by, []int{2}) {
			t.Errorf("%v: it yields after its probation", a)
		}
		now := epoch.Add(probation - 1)
		if !v.Yields(now, by, []int{2}) || v.Cleared(a) || v.Served(a) || v.Withheld()[a] != by {
			t.Errorf("%v: held %v", a, v.Withheld())
		}
		if ask, wake := v.Next(now); len(ask) > 0 || wake != now.Add(reprobe) {
			t.Errorf("%v: asks %v, and again at %v", a, ask, wake.Sub(now))
		}
		// While it is asked about, the same is wanted again.
		v.Want(now, []Claim{{a, []int{2}}})
		if v.Withheld()[a] != by {
			t.Errorf("%v: wanting it again makes it free: %v", a, v.Withheld())
		}
		// What is found free goes through the same probation.
		now = now.Add(reprobe)
		asks(t, &v, now, Inquiry{2, []netip.Addr{a}})
		v.Answer(now, Inquiry{2, []netip.Addr{a}}, nil, nil)
		if v.Yields(now.Add(probation), by, []int{2}) || !v.Yields(now.Add(probation-1), by, []int{2}) {
			t.Errorf("%v: its probation is another one", a)
		}
		v.Forget(func(x netip.Addr) bool { return x != a })
		if v.Withheld() != nil || v.Served(a) {
			t.Errorf("%v: an address that is out of use is remembered: %v", a, v.Withheld())
		}
		v.Want(now, []Claim{{a, []int{2}}})
		v.Forget(func(netip.Addr) bool { return true })
		if len(v.Withheld()) != 1 {
			t.Errorf("%v: an address that is in use is forgotten", a)
		}
	}
}

// A station that is found again on another segment gets as many tries as the first.
func TestEachFindingStartsTheTriesAnew(t *testing.T) {
	for _, a := range vettedAddresses {
		var v ACD
		v.Want(epoch, []Claim{{a, []int{2}}})
		q, now := Inquiry{2, []netip.Addr{a}}, epoch
		ask := func(found []Heard, unclear []netip.Addr) {
			t.Helper()
			asks(t, &v, now, q)
			v.Answer(now, q, found, unclear)
			now = now.Add(max(reprobe, retry))
		}
		for range retries - 1 {
			ask(nil, q.Addresses)
		}
		ask([]Heard{strangerOf(a, 2)}, nil)
		v.Want(now, []Claim{{a, []int{3}}}) // where it is not
		q.Interface = 3
		for range retries - 1 {
			ask(nil, q.Addresses)
			if v.Cleared(a) {
				t.Fatalf("%v: too few tries", a)
			}
		}
		ask(nil, q.Addresses)
		if !v.Cleared(a) {
			t.Errorf("%v: too many tries", a)
		}
	}
}
