package announce

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
)

// claimed returns members where each address that has an owner is claimed by it, most of
// them: a cluster that comes to rest.
func claimed(rng *rand.Rand, ix *Index, members []election.Member) []election.Member {
	out := slices.Clone(members)
	for i := range out {
		out[i].State, out[i].Interfaces = election.Alive, slices.Clone(out[i].Interfaces)
		out[i].Interfaces[0] = lb.Interface{Index: 9, Name: "eth0", Up: true, Carrier: true, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24"), netip.MustParsePrefix("2001:db8::9/32")}}
	}
	owners := map[string][]netip.Addr{}
	for _, v := range Decide(ix, members, nil, "").Decisions {
		owners[v.Owner] = append(owners[v.Owner], v.Address)
	}
	for i := range out {
		out[i].Claims = election.Claims{}
		for _, a := range owners[out[i].Node] {
			if rng.IntN(10) > 0 {
				out[i].Claims[a] = election.Claim{Quorum: election.Majority, Epoch: 1}
			}
		}
	}
	return out
}

// edited returns members of whom something has changed.
func edited(rng *rand.Rand, addresses []netip.Addr, members, all []election.Member) []election.Member {
	out := slices.Clone(members)
	for range rng.IntN(3) {
		if len(out) == 0 {
			break
		}
		m := &out[rng.IntN(len(out))]
		switch rng.IntN(6) {
		case 0:
			m.State = election.State(rng.IntN(int(election.Gone)))
		case 1:
			m.State = election.Alive
		case 2:
			m.Interfaces = slices.Clone(m.Interfaces)
			k := rng.IntN(len(m.Interfaces))
			m.Interfaces[k].Carrier = !m.Interfaces[k].Carrier
		default:
			if len(addresses) == 0 {
				continue
			}
			a := addresses[rng.IntN(len(addresses))]
			m.Claims = maps.Clone(m.Claims)
			if rng.IntN(2) == 0 {
				delete(m.Claims, a)
			} else {
				m.Claims[a] = election.Claim{Quorum: election.Quorum(1 + rng.IntN(4)), Epoch: uint64(rng.IntN(4))}
			}
			m.Version = election.Version{Boot: 1, Seq: rng.Uint64()}
			if rng.IntN(9) == 0 {
				m.Version = election.Version{} // not known
			}
		}
	}
	switch rng.IntN(8) {
	case 0:
		if len(out) > 0 {
			out = slices.Delete(out, 0, 1)
		}
	case 1:
		for _, m := range all {
			if !slices.ContainsFunc(out, func(o election.Member) bool { return o.Node == m.Node }) {
				m.Version = election.Version{Boot: 2, Seq: rng.Uint64()}
				out = append(out, m)
				break
			}
		}
	}
	return out
}

func TestWhatIsDecidedAgainIsWhatIsDecidedFromScratch(t *testing.T) {
	settled, owned := 0, 0
	for seed := range uint64(1500) {
		rng := rand.New(rand.NewPCG(seed, 11))
		s, members := randomWorld(rng)
		for i := range members {
			members[i].Version = election.Version{Boot: 1, Seq: 1}
		}
		ix := NewIndex(s, eligibility.Options{})
		if rng.IntN(4) > 0 {
			members = claimed(rng, ix, members)
		}
		all := members
		self := fmt.Sprint("n", rng.IntN(6))
		var x Decider
		var turns election.Holdoff
		now := time.Unix(0, 0)
		for step := range 12 {
			addresses := ix.Addresses()
			if len(addresses) > 0 {
				a := addresses[rng.IntN(len(addresses))]
				switch rng.IntN(8) {
				case 0:
					turns.Leave(now, a, fmt.Sprint("n", rng.IntN(4)))
				case 1:
					turns.Await(now, a, fmt.Sprint("n", rng.IntN(4)))
				case 2:
					now = now.Add(3 * time.Second)
					turns.Expire(now)
				}
			}
			want := Decide(ix, members, &turns, self)
			got := x.Decide(ix, members, &turns, self)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, step %d, %s, %v:\n%v\n%v", seed, step, self, members, got, want)
			}
			before := slices.Clone(got.Decisions)
			for _, v := range want.Decisions {
				if v.Owner != "" {
					owned++
				}
			}
			settled += len(want.Decisions) - len(x.open)
			members = edited(rng, addresses, members, all)
			if rng.IntN(20) == 0 {
				other, _ := randomWorld(rng)
				other.Nodes = s.Nodes
				ix = NewIndex(other, eligibility.Options{})
			}
			x.Decide(ix, members, &turns, self)
			if !reflect.DeepEqual(got.Decisions, before) {
				t.Fatalf("seed %d, step %d: a decision that was handed out has changed", seed, step)
			}
		}
	}
	if settled < owned/10 || settled > owned*4/5 {
		t.Errorf("%d of %d addresses with an owner were settled: the test has lost its point", settled, owned)
	}
}

// A decision that panics must not be gone on from.
func TestAfterAPanicADeciderBeginsAnew(t *testing.T) {
	s, members := twoNodes(netip.MustParseAddr("2001:db8::5"))
	ix := NewIndex(s, eligibility.Options{})
	var x Decider
	x.Decide(ix, members, nil, "n1")
	func() {
		defer func() { _ = recover() }()
		x.d.claims = nil
		lost := slices.Clone(members)
		for i := range lost {
			lost[i].Claims, lost[i].Version = nil, election.Version{}
			lost[i].State = election.Stalled
		}
		x.Decide(ix, lost, nil, "n1")
		t.Fatal("it was to panic")
	}()
	if got, want := x.Decide(ix, members, nil, "n1"), Decide(ix, members, nil, "n1"); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
